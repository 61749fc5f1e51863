"""A tokenizer as the fields of a GGUF file.

Knows what `tokenizers` says of itself, and the two kinds of tokenizer that llama.cpp makes of such fields. A text split
that llama.cpp has no name for is refused: tokens would differ.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ondevice.backends.language import Files
from ondevice.errors import UnsupportedModel
from ondevice.runtime.weights.gguf.tokenizer import SPACE, SPLITS

_NORMAL, _UNKNOWN, _CONTROL, _USER, _UNUSED, _BYTE = 1, 2, 3, 4, 5, 6


def write_tokenizer(writer: Any, files: Files, size: int) -> None:
    """Write the fields of a model's tokenizer. size: rows of its embedding table; more than tokens are filled up.

    Raises UnsupportedModel for a tokenizer that is not BPE over bytes or SentencePiece's, and for an unknown split.
    """
    document = json.loads(files.tokenizer.to_str())
    model = document["model"]
    if model["type"] != "BPE":
        raise UnsupportedModel(f"a {model['type']} tokenizer has no GGUF form here; BPE has")
    tokens = [f"[PAD{number}]" for number in range(size)]
    kinds = [_UNUSED] * size
    for token, number in model["vocab"].items():
        tokens[number], kinds[number] = token, _NORMAL
    for added in document["added_tokens"]:
        tokens[added["id"]], kinds[added["id"]] = added["content"], _CONTROL if added["special"] else _USER
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
    if model.get("byte_fallback"):
        unknown = model["vocab"].get(model.get("unk_token"))
        _write_pieces(writer, document, merges, tokens, kinds, unknown)
    else:
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(_split(document))
        writer.add_token_list(tokens)
        writer.add_token_types(kinds)
        writer.add_token_merges(merges)
    _write_ends(writer, files, len(tokens))


def _write_pieces(
    writer: Any, document: Mapping[str, Any], merges: list[str], tokens: list[str], kinds: list[int],
    unknown: int | None,
) -> None:  # fmt: skip
    steps = _steps(document.get("normalizer"), "normalizers")
    kinds_of_steps = [step["type"] for step in steps]
    if document.get("pre_tokenizer") is not None or kinds_of_steps not in (
        ["Replace"],
        ["Prepend", "Replace"],
    ):
        raise UnsupportedModel("this tokenizer treats spaces in a way that has no GGUF form here")
    scores = [-1e6] * len(tokens)  # llama.cpp joins the pair whose result scores best
    for rank, pair in reversed(list(enumerate(merges))):
        number = document["model"]["vocab"].get(pair.replace(" ", "", 1))
        if number is not None:
            scores[number] = float(-rank)
    for number, token in enumerate(tokens):
        if len(token) == 6 and token.startswith("<0x") and kinds[number] == _NORMAL:
            kinds[number] = _BYTE
    if unknown is not None:
        kinds[unknown] = _UNKNOWN
        writer.add_unk_token_id(unknown)
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_scores(scores)
    writer.add_token_types(kinds)
    writer.add_add_space_prefix(kinds_of_steps == ["Prepend", "Replace"] and steps[0]["prepend"] == SPACE)


def _write_ends(writer: Any, files: Files, size: int) -> None:
    """First and last tokens, and whether a text gets them."""
    empty = files.tokenizer.encode("").ids
    first, last = files.config.get("bos_token_id"), files.config.get("eos_token_id")
    ends = last if isinstance(last, list) else [last]
    ends = [end for end in [*ends, *sorted(files.ends)] if isinstance(end, int) and end < size]
    if isinstance(first, int) and first < size:
        writer.add_bos_token_id(first)
    elif empty:
        raise UnsupportedModel(
            "the tokenizer puts a token before each text, and config.json does not name it"
        )
    if ends:
        writer.add_eos_token_id(ends[0])
        if others := [end for end in ends if end != ends[0]]:
            writer.add_eot_token_id(others[0])
    if empty not in ([], [first], [first, *ends[:1]]):
        raise UnsupportedModel(f"the tokenizer puts {empty} around a text, which has no GGUF form")
    writer.add_add_bos_token(bool(empty))
    writer.add_add_eos_token(len(empty) == 2)
    if (template := files.template()) is not None:
        writer.add_chat_template(template.source)


def _split(document: Mapping[str, Any]) -> str:
    """llama.cpp's name for the way in which a text is split before BPE."""
    digits, known = False, True
    patterns: tuple[str | None, ...] = ()
    for step in _steps(document.get("pre_tokenizer"), "pretokenizers"):
        if step["type"] == "Digits":
            digits = bool(step["individual_digits"])
        elif step["type"] == "Split":
            patterns += (step["pattern"].get("Regex"),)
            known = known and step["behavior"] == "Isolated" and not step["invert"]
        elif step["type"] == "ByteLevel":
            known = known and not step["add_prefix_space"] and step["use_regex"] == (not patterns)
        else:
            known = False
    normalizers = [step["type"] for step in _steps(document.get("normalizer"), "normalizers")]
    for name, form in SPLITS.items():
        if known and form == (patterns, digits, normalizers == ["NFC"]) and normalizers in ([], ["NFC"]):
            return name
    raise UnsupportedModel(
        "the way in which this tokenizer splits a text has no name in llama.cpp that is known here"
    )


def _steps(part: Mapping[str, Any] | None, several: str) -> list[Mapping[str, Any]]:
    if part is None:
        return []
    return list(part[several]) if part["type"] == "Sequence" else [part]
