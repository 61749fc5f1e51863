"""Rerankers: which of some passages answer a query, by a model that reads both together.

Knows tokenizers, files and how the kinds of rerankers want to be asked: cross-encoders with a head of one score (the
BERT family, and decoders for sequence classification), and language models that answer yes or no. Knows nothing of how
the best are found without reading all to the end: that is `runtime.ranking`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ondevice.artifact import Artifact
from ondevice.backends.language import Files, read_files
from ondevice.backends.native import processors
from ondevice.backends.session import Closing
from ondevice.errors import BadInput
from ondevice.kernels import Kernels
from ondevice.models.tasks import Task
from ondevice.runtime.encoder import FAMILIES as ENCODERS
from ondevice.runtime.ranking.layered import DecoderLayers, EncoderLayers
from ondevice.runtime.ranking.ranker import Layered, Scores, calibrate, select, trace

# What a language model is told, so that its next word is yes or no.
_TASK = "Judge whether the document answers the query. The answer is a single word, yes or no."


@dataclass(frozen=True)
class Ranked:
    """A passage that was chosen. position: in the list that was given. score: 0 to 1, of the layer where its place was
    settled. cut: whether it was too long to be read whole."""

    position: int
    score: float
    cut: bool


class Reranker(Closing):
    """A model that is ready to rank. Close it, or use it in a `with` block.

    threshold: of `calibrate`; None until then, and every passage is read to the end.
    """

    def __init__(self, model: Layered, encode: _Encoder) -> None:
        self._model: Layered | None = model
        self._encode = encode
        self.threshold: float | None = None

    @classmethod
    def open(
        cls,
        model: str | Path,
        *,
        threads: int | None = None,
        longest: int = 512,
        key_file: str | Path | None = None,
    ) -> Reranker:
        """A Hugging Face folder, an artifact or a GGUF file.

        longest: tokens of a query and a passage together; longer passages are cut. The weights of a decoder that lie in
        the file as kernels read them are streamed, two layers at a time. Raises BadInput where a file is missing or
        damaged, UnsupportedModel for a model that gives no score.
        """
        files, kernels = _read(Path(model), key_file), Kernels(threads or processors())
        config, tokenizer = files.config, files.tokenizer
        layers: Layered
        if config.get("model_type") in ENCODERS:
            separator = tokenizer.token_to_id("[SEP]") if config["model_type"] == "bert" else None
            layers = EncoderLayers(files.tensors, config, kernels, separator=separator)
            return cls(layers, _Pair(tokenizer, min(longest, layers.longest)))
        if "score.weight" in files.tensors:
            layers = DecoderLayers(files.tensors, config, kernels, storage=files.storage, longest=longest)
            return cls(layers, _Pair(tokenizer, layers.longest))
        question = _Question(files, longest)
        layers = DecoderLayers(
            files.tensors, config, kernels, answers=question.answers, storage=files.storage, longest=longest
        )
        return cls(layers, question)

    def topk(self, query: str, passages: Sequence[str], k: int = 5) -> list[Ranked]:
        """The k passages that answer a query best, the best first; all of them where there are no more than k.

        Raises BadInput for k below 1, no passages, and an empty query or passage.
        """
        texts, cut = self._texts(query, passages)
        found = select(self._open(), texts, k, threshold=self.threshold)
        return [Ranked(each, float(found.scores[each]), cut[each]) for each in found.best]

    def calibrate(self, samples: Sequence[tuple[str, Sequence[str]]], k: int, precision: float) -> float:
        """Find and keep the threshold with which passages may leave early and the k chosen for sample queries, each
        with its passages, are still the share `precision` of those that the whole model chooses."""
        traces = [self.trace(query, passages) for query, passages in samples]
        self.threshold = calibrate(traces, k, precision)
        return self.threshold

    def trace(self, query: str, passages: Sequence[str]) -> Scores:
        """The score of each passage after each layer, (layers, passages)."""
        return trace(self._open(), self._texts(query, passages)[0])

    def tokens(self, query: str, passage: str) -> list[int]:
        """What the model reads of the two."""
        return self._encode.encode(query, passage)[0]

    def close(self) -> None:
        self._model = None

    def _open(self) -> Layered:
        if self._model is None:
            raise BadInput("this reranker is closed; open a new one")
        return self._model

    def _texts(self, query: str, passages: Sequence[str]) -> tuple[list[list[int]], list[bool]]:
        if not query.strip():
            raise BadInput("the query is empty; say what to look for")
        if not passages or not all(passage.strip() for passage in passages):
            raise BadInput("there must be passages to rank, and none of them empty")
        found = [self._encode.encode(query, passage) for passage in passages]
        return [ids for ids, _ in found], [cut for _, cut in found]


class _Pair:
    """A query and a passage as the tokenizer puts pairs together."""

    def __init__(self, tokenizer: Any, longest: int) -> None:
        self._tokenizer, self._longest = tokenizer, longest
        tokenizer.no_padding()
        tokenizer.no_truncation()

    def encode(self, query: str, passage: str) -> tuple[list[int], bool]:
        whole = self._tokenizer.encode(query, passage)
        if len(whole.ids) <= self._longest:
            return list(whole.ids), False
        without = len(whole.ids) - len(self._tokenizer.encode(passage, add_special_tokens=False).ids)
        _check_room(self._longest - without, self._longest)
        self._tokenizer.enable_truncation(self._longest, strategy="only_second")
        try:
            return list(self._tokenizer.encode(query, passage).ids), True
        finally:
            self._tokenizer.no_truncation()


class _Question:
    """A chat that asks whether a passage answers a query. answers: the tokens of yes and no."""

    def __init__(self, files: Files, longest: int) -> None:
        template, self._tokenizer, self._longest = files.template(), files.tokenizer, longest
        if template is None:
            raise BadInput("this model has neither a head for scores nor a chat template to ask it with")
        self._template = template
        ids = [self._tokenizer.encode(word, add_special_tokens=False).ids for word in ("yes", "no")]
        if ids[0][0] == ids[1][0]:
            raise BadInput(
                "in this model's tokenizer yes and no begin alike, so that its answer tells nothing"
            )
        self.answers = ids[0][0], ids[1][0]

    def encode(self, query: str, passage: str) -> tuple[list[int], bool]:
        ids, cut = self._ids(query, passage), False
        if len(ids) > self._longest:
            ends = [end for _, end in self._tokenizer.encode(passage, add_special_tokens=False).offsets]
            kept, cut = len(ends), True
            while len(ids) > self._longest:  # what is left may take more tokens than it had
                kept -= len(ids) - self._longest
                _check_room(kept, self._longest)
                ids = self._ids(query, passage[: ends[kept - 1]])
        return ids, cut

    def _ids(self, query: str, passage: str) -> list[int]:
        messages = [
            {"role": "system", "content": _TASK},
            {"role": "user", "content": f"<Query>: {query}\n<Document>: {passage}"},
        ]
        return list(self._tokenizer.encode(self._template.render(messages), add_special_tokens=False).ids)


_Encoder = _Pair | _Question


def _check_room(left: int, longest: int) -> None:
    if left < 1:
        raise BadInput(f"the query leaves no room for a passage in {longest} tokens; shorten it")


def _read(path: Path, key_file: str | Path | None) -> Files:
    """As `read_files`, and artifacts for classification too."""
    if not (path / "ondevice.json").exists():
        return read_files(path, key_file)
    artifact = Artifact(path)
    if Task.from_json(artifact.task).kind == "language":
        return read_files(path, key_file)
    from tokenizers import Tokenizer

    return Files(
        artifact.config,
        artifact.tensors,
        Tokenizer.from_str(artifact.tokenizer_json),
        lambda: None,
        frozenset(),
    )
