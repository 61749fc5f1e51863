"""The tokenizer of a GGUF file as a `tokenizers.Tokenizer`, its chat template and the tokens that end a text.

Knows the fields of llama.cpp's converter. Knows nothing of tensors.

Sources: byte-level BPE, Radford et al. 2019; SentencePiece, Kudo and Richardson 2018; the splits before BPE are those
that llama.cpp knows by name (src/llama-vocab.cpp) and the models' own tokenizer.json files state.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ondevice.errors import BadInput, UnsupportedModel
from ondevice.runtime.chat import ChatTemplate

_CONTROL, _USER = 3, 4  # kinds of tokens, as the file numbers them
_LETTERS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_SHORT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
# name -> (patterns that split a text one after the other, none for GPT-2's own; whether digits stand alone; whether
# characters are composed). "default" is what llama.cpp does with files whose converter did not name a split.
SPLITS: dict[str, tuple[tuple[str, ...], bool, bool]] = {
    "gpt-2": ((), False, False),
    "olmo": ((), False, False),
    "llama-bpe": ((f"{_SHORT}|{_LETTERS}|\\p{{N}}{{1,3}}|{_REST}",), False, False),
    "qwen2": ((f"{_SHORT}|{_LETTERS}|\\p{{N}}|{_REST}",), False, True),
    "smollm": ((), True, False),
    "default": ((r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", "[0-9][0-9][0-9]"), False, False),
}
_ALIASES = {"llama3": "llama-bpe", "llama-v3": "llama-bpe", "deepseek-r1-qwen": "qwen2"}
SPACE = "\u2581"


def read_tokenizer(fields: Mapping[str, Any]) -> Any:
    """A `tokenizers.Tokenizer`. Raises UnsupportedModel for a kind that is not known, BadInput where fields are
    missing or do not fit together."""
    from tokenizers import AddedToken, processors

    kind = fields.get("tokenizer.ggml.model")
    tokens = fields.get("tokenizer.ggml.tokens")
    if not isinstance(tokens, list) or not tokens or not all(isinstance(token, str) for token in tokens):
        raise BadInput("the file holds no vocabulary (tokenizer.ggml.tokens)")
    vocabulary = {token: number for number, token in enumerate(tokens)}
    if len(vocabulary) != len(tokens):
        raise BadInput(f"{len(tokens) - len(vocabulary)} tokens of the vocabulary are there twice")
    kinds = fields.get("tokenizer.ggml.token_type", np.ones(len(tokens), np.int32))
    if not isinstance(kinds, np.ndarray) or len(kinds) != len(tokens):
        raise BadInput("the file does not say of each token of what kind it is (tokenizer.ggml.token_type)")
    try:
        if kind == "gpt2":
            tokenizer, begins = _bytes(fields, vocabulary)
        elif kind == "llama":
            tokenizer, begins = _pieces(fields, vocabulary)
        else:
            raise UnsupportedModel(f"tokenizers of the kind {kind!r} are not read; read are gpt2 and llama")
        for number in np.flatnonzero((kinds == _CONTROL) | (kinds == _USER)):
            control = bool(kinds[number] == _CONTROL)
            added = AddedToken(tokens[number], special=control, normalized=False)
            (tokenizer.add_special_tokens if control else tokenizer.add_tokens)([added])
        before = _ends(fields, tokens, "bos") if fields.get("tokenizer.ggml.add_bos_token", begins) else []
        after = _ends(fields, tokens, "eos") if fields.get("tokenizer.ggml.add_eos_token", False) else []
        if before or after:
            single = [*(token for token, _ in before), "$A", *(token for token, _ in after)]
            tokenizer.post_processor = processors.TemplateProcessing(
                single=single, special_tokens=[*before, *after]
            )
    except BadInput:
        raise
    except Exception as problem:  # `tokenizers` raises bare Exceptions
        raise BadInput(f"the file's tokenizer cannot be used: {problem}") from problem
    return tokenizer


def read_template(fields: Mapping[str, Any]) -> ChatTemplate | None:
    """The chat template, if there is one. Raises MissingExtra where there is one and jinja2 is missing."""
    source, tokens = fields.get("tokenizer.chat_template"), fields.get("tokenizer.ggml.tokens", [])
    if not isinstance(source, str) or not source:
        return None
    named = {f"{name}_token": token for name in ("bos", "eos") for token, _ in _ends(fields, tokens, name)}
    return ChatTemplate(source, named)


def end_tokens(fields: Mapping[str, Any]) -> frozenset[int]:
    """Tokens after which a model has no more to say: of a text, of a turn, of a message."""
    found = (fields.get(f"tokenizer.ggml.{name}_token_id") for name in ("eos", "eot", "eom"))
    return frozenset(number for number in found if type(number) is int)


def _ends(fields: Mapping[str, Any], tokens: list[str], name: str) -> list[tuple[str, int]]:
    number = fields.get(f"tokenizer.ggml.{name}_token_id")
    if type(number) is not int:
        return []
    if not 0 <= number < len(tokens):
        raise BadInput(f"the {name} token {number} is outside the vocabulary of {len(tokens)}")
    return [(tokens[number], number)]


def _bytes(fields: Mapping[str, Any], vocabulary: dict[str, int]) -> tuple[Any, bool]:
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

    name = fields.get("tokenizer.ggml.pre", "default")
    name = _ALIASES.get(name, name)
    if name not in SPLITS:
        raise UnsupportedModel(f"text split as in {name!r} is not supported; supported: {', '.join(SPLITS)}")
    pairs = fields.get("tokenizer.ggml.merges")
    if not isinstance(pairs, list):
        raise BadInput("the file holds no merges of its tokens (tokenizer.ggml.merges)")
    merges = [tuple(pair.split(" ", 1)) for pair in pairs]
    if any(len(pair) != 2 for pair in merges):
        raise BadInput("a merge of the tokenizer is not of two tokens")
    patterns, digits, composed = SPLITS[name]
    # Llama 3 takes a word that is a token as it is
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, ignore_merges=name == "llama-bpe"))
    steps: list[Any] = [pre_tokenizers.Digits(individual_digits=True)] if digits else []
    steps += [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in patterns]
    steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not patterns))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
    if composed:
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer, name == "llama-bpe"


def _pieces(fields: Mapping[str, Any], vocabulary: dict[str, int]) -> tuple[Any, bool]:
    """SentencePiece's BPE: what two pieces make is joined in the order of its score."""
    from tokenizers import Tokenizer, decoders, models, normalizers

    scores = fields.get("tokenizer.ggml.scores")
    if not isinstance(scores, np.ndarray) or len(scores) != len(vocabulary):
        raise BadInput("the file does not give each token a score (tokenizer.ggml.scores)")
    ranked = []
    for piece, number in vocabulary.items():
        for cut in range(1, min(len(piece), 256)):
            left, right = vocabulary.get(piece[:cut]), vocabulary.get(piece[cut:])
            if left is not None and right is not None:
                ranked.append((-float(scores[number]), left, right, piece[:cut], piece[cut:]))
    ranked.sort()
    unknown = _ends(fields, list(vocabulary), "unknown")
    tokenizer = Tokenizer(
        models.BPE(
            vocabulary,
            [each[3:] for each in ranked],
            unk_token=unknown[0][0] if unknown else None,
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    spaces = normalizers.Replace(" ", SPACE)
    first = fields.get("tokenizer.ggml.add_space_prefix", True)
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), spaces]) if first else spaces
    back = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*back, decoders.Strip(" ", 1, 0)] if first else back)
    return tokenizer, True
