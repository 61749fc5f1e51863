"""Language models on the native runtime: a prompt or a chat goes in, text comes out piece by piece.

Knows tokenizers, chat templates, Hugging Face folders, artifacts and GGUF files. Knows nothing of how tokens are
computed or chosen: that is `runtime.engine`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ondevice.artifact import Artifact
from ondevice.backends.session import Closing
from ondevice.devices.storage import Storage
from ondevice.errors import BadInput
from ondevice.kernels import PAGE, CacheDtype, Kernels
from ondevice.models.checkpoint import end_tokens, read_json
from ondevice.models.tasks import Task
from ondevice.runtime import encdec
from ondevice.runtime.chat import ChatTemplate, Message
from ondevice.runtime.decode.sampling import Sampling
from ondevice.runtime.decode.spelling import Piece, Spelling
from ondevice.runtime.decoder import FAMILIES, Decoder, Shape
from ondevice.runtime.engine import Engine
from ondevice.runtime.expert_memory import ExpertPlan, foresee
from ondevice.runtime.moe.experts import Experts
from ondevice.runtime.moe.predictor import PathPredictor
from ondevice.runtime.projection import Tensors
from ondevice.runtime.residency import CHUNK, Rates, ResidencyPlan, measure_rates
from ondevice.runtime.weights.encrypted import unlocked
from ondevice.runtime.weights.experts import ExpertCache
from ondevice.runtime.weights.gguf import tokenizer as gguf_tokenizer
from ondevice.runtime.weights.gguf.container import is_gguf, read_container
from ondevice.runtime.weights.gguf.model import GgufModel
from ondevice.runtime.weights.planes import PlaneCache
from ondevice.runtime.weights.restored import Restored
from ondevice.runtime.weights.safetensors import Checkpoint
from ondevice.runtime.weights.source import Resident


def is_language_model(folder: Path) -> bool:
    """Whether this is a GGUF file, an artifact or a Hugging Face folder of a model that the runtime lets write."""
    if folder.is_file():
        return is_gguf(folder)
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(config, dict) and config.get("model_type") in (*FAMILIES, encdec.FAMILY)


@dataclass(frozen=True)
class Files:
    """What a language model is made of, whatever file holds it. config: as Hugging Face writes it. tokenizer: a
    `tokenizers.Tokenizer`. template: called when a chat needs it. ends: tokens that end an answer. storage: that
    decrypts the tensors of a sealed artifact."""

    config: Mapping[str, Any]
    tensors: Tensors
    tokenizer: Any
    template: Callable[[], ChatTemplate | None]
    ends: frozenset[int]
    storage: Storage | None = None


def read_files(path: str | Path, key_file: str | Path | None = None) -> Files:
    """An artifact, a GGUF file, or a folder with config.json, tokenizer.json and safetensors.

    Tensors are mapped. key_file: of a sealed artifact. Raises BadInput where a file is missing or damaged,
    UnsupportedModel for another architecture.
    """
    path = Path(path)
    if (path / "ondevice.json").exists():
        return _of_artifact(path, key_file)
    if key_file is not None:
        raise BadInput(f"{path} is no artifact, so it is not sealed and needs no key")
    return _of_gguf(path) if path.is_file() else _of_folder(path)


class LanguageSession(Closing):
    """A decoder, or an encoder-decoder, that is ready to write. Close it, or use it in a `with` block.

    residency, rates: where its weights are streamed, what stays in memory, and how fast the rest comes.
    expert_plan, experts, paths: where its experts are read when they are called, how much memory they have, the cache,
    whose `stats` count what was found, waited for and wasted, and what tells which come next.
    """

    backend = "native"
    residency: ResidencyPlan | None = None
    rates: Rates | None = None
    expert_plan: ExpertPlan | None = None
    experts: ExpertCache | None = None
    paths: PathPredictor | None = None
    _restored: tuple[Restored, float] | None = None

    def __init__(
        self,
        engine: Engine,
        tokenizer: Any,
        template: Callable[[], ChatTemplate | None],
        ends: frozenset[int],
    ) -> None:
        self.tokenizer, self.ends, self._template = tokenizer, ends, template
        self._engine: Engine | None = engine

    @classmethod
    def open(
        cls,
        model: str | Path,
        *,
        threads: int,
        context: int | None = None,
        texts: int = 1,
        cache: CacheDtype = "float16",
        key_file: str | Path | None = None,
    ) -> LanguageSession:
        """A model of the Llama family or T5's, as `read_files` reads it.

        context: longest text in tokens, prompt and answer together; the cache is made for `texts` of them, and kept
        as `cache` says. Raises BadInput where a file is missing or damaged, UnsupportedModel for another architecture.
        """
        files = read_files(model, key_file)
        return cls.of(files, threads=threads, context=context, texts=texts, cache=cache)

    @classmethod
    def of(
        cls,
        files: Files,
        *,
        threads: int,
        context: int | None = None,
        texts: int = 1,
        keep: int = 0,
        cache: CacheDtype = "float16",
        residency: ResidencyPlan | None = None,
        experts: ExpertPlan | None = None,
        keep_decrypted: float | None = None,
    ) -> LanguageSession:
        """The same of files that are read already. keep: how many texts that have ended a new one may go on from.
        residency: what of the weights stays in memory; all where there is no such plan, else its context holds.
        experts: the memory of experts that are read when they are called; its context holds too. keep_decrypted: of a
        sealed decoder: its weights come back while a text is read, and afterwards are wiped but for this share. Raises
        BadInput where that does not go with the model or the other settings."""
        tensors, kernels, rates = files.tensors, Kernels(threads), None
        called: ExpertCache | None = None
        restored: Restored | None = None
        if keep_decrypted is not None:
            if (
                files.storage is None
                or files.config.get("model_type") == encdec.FAMILY
                or residency
                or experts
            ):
                raise BadInput(
                    "weights are restored for each text of a sealed decoder whose weights all fit; leave out "
                    "keep_decrypted, or the limits on memory"
                )
            tensors = restored = Restored(tensors, Shape.of(files.config).layers)
        elif residency is not None:
            tensors = residency.open(tensors, storage=files.storage)
            rates = measure_rates(residency, tensors, kernels)
            context, texts = residency.context, 1
        elif experts is not None:
            tensors = called = experts.open(tensors, storage=files.storage)
            context, texts = experts.context, 1
        elif files.storage is not None:
            tensors = Resident(tensors, storage=files.storage)
        decoder = _network(tensors, files.config, kernels, context, texts, cache)
        if (tokens := files.tokenizer.get_vocab_size()) > decoder.vocabulary:
            raise BadInput(
                f"the tokenizer does not match the model: it has {tokens} tokens, the model {decoder.vocabulary}"
            )
        engine = Engine(decoder, keep=keep) if residency is None else Engine(decoder, chunk=CHUNK, keep=keep)
        session = cls(engine, files.tokenizer, files.template, files.ends)
        session.residency, session.rates = residency, rates
        session._restored = (restored, keep_decrypted or 0.0) if restored is not None else None
        if called is not None and isinstance(decoder, Decoder):
            session.expert_plan, session.experts = experts, called
            if not isinstance(called, PlaneCache):
                session.paths = foresee(decoder, called)
        return session

    @cached_property
    def template(self) -> ChatTemplate | None:
        """The model's chat template, if it has one. Raises MissingExtra where it has and jinja2 is not there."""
        return self._template()

    @property
    def engine(self) -> Engine:
        if self._engine is None:
            raise BadInput("this session is closed; open a new one")
        return self._engine

    def chat(self, messages: Sequence[Message], **settings: Any) -> Iterator[Piece]:
        """The answer to messages [{"role", "content"}, …], piece by piece; settings as for `generate`.

        Raises BadInput where the model has no chat template.
        """
        if self.template is None:
            raise BadInput("this model has no chat template; give it a prompt instead")
        return self._write(
            self.tokenizer.encode(self.template.render(messages), add_special_tokens=False).ids, **settings
        )

    def aside(self, messages: Sequence[Message], instruction: str, **settings: Any) -> Iterator[Piece]:
        """What the model writes to an instruction behind messages, which are not changed; settings as for `generate`.

        In an engine that keeps texts, only the instruction is read where the messages were read before, and they can be
        gone on with afterwards. Raises BadInput where the model has no chat template.
        """
        if self.template is None:
            raise BadInput("this model has no chat template; give it a prompt instead")
        encode = self.tokenizer.encode
        told = encode(self.template.render(messages, answer=False), add_special_tokens=False).ids
        return self._write([*told, *encode(instruction, add_special_tokens=False).ids], **settings)

    def generate(self, prompt: str, **settings: Any) -> Iterator[Piece]:
        """What the model writes after a prompt, piece by piece; an encoder-decoder reads the prompt and begins anew.

        sampling: a `Sampling`, greedy unless given. limit: most tokens, 256 unless given. stop: strings that end the
        text; they are not part of it. Ending the iteration early frees what it holds.
        """
        if not prompt:
            raise BadInput("the prompt is empty")
        return self._write(self.tokenizer.encode(prompt).ids, **settings)

    def lean(self, quality: float) -> None:
        """From now on have bit routers choose more bits (above 0) or fewer (below), see `runtime.moe.bits`.

        Raises BadInput for a model without bit routers.
        """
        decoder = self.engine.decoder
        feeds = [block.feed for block in decoder.blocks] if isinstance(decoder, Decoder) else []
        routers = [
            feed.nested.bits
            for feed in feeds
            if isinstance(feed, Experts) and feed.nested and feed.nested.bits
        ]
        if not routers:
            raise BadInput(
                "this model has no bit routers that quality could move; make one with "
                "`ondevice fit MODEL --with matryoshka:widths=2..4,teach=100`"
            )
        for router in routers:
            router.quality = quality

    def close(self) -> None:
        """Give back what the session holds."""
        self._engine = None

    def _write(
        self, ids: list[int], *, sampling: Sampling | None = None, limit: int = 256, stop: Sequence[str] = ()
    ) -> Iterator[Piece]:
        spelling = Spelling(self.tokenizer, ids if self.engine.continues else (), stop)
        try:
            for choice in self.engine.stream(ids, sampling=sampling, limit=limit, stops=tuple(self.ends)):
                yield from spelling.add(choice)
                if spelling.stopped:
                    return
            yield from spelling.rest()
        finally:
            if self._restored is not None:
                weights, share = self._restored
                weights.give_back(share)


def _network(
    tensors: Tensors,
    config: Mapping[str, Any],
    kernels: Kernels,
    context: int | None,
    texts: int,
    cache: CacheDtype,
) -> Decoder | encdec.EncoderDecoder:
    """The network, with room for `texts` of the whole context, and for their sources where it reads some."""
    if config.get("model_type") == encdec.FAMILY:
        pages = -(-(context or encdec.Shape.of(config).positions) // PAGE)
        return encdec.EncoderDecoder(
            tensors,
            config,
            kernels,
            context=context,
            cache_tokens=2 * texts * pages * PAGE,
            cache_dtype=cache,
        )
    positions = Shape.of(config).positions
    room = texts * min(context or positions, positions)
    return Decoder(tensors, config, kernels, context=context, cache_tokens=room, cache_dtype=cache)


def _of_folder(folder: Path) -> Files:
    path = folder / "tokenizer.json"
    config = read_json(folder / "config.json")
    try:
        tokenizer = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as problem:
        raise BadInput(f"{path} cannot be read: {problem}") from problem
    ends = frozenset(end_tokens(folder, config))
    return Files(
        config, Checkpoint(folder), _tokenizer(path, tokenizer), lambda: ChatTemplate.of(folder), ends
    )


def _of_artifact(folder: Path, key_file: str | Path | None) -> Files:
    artifact = Artifact(folder)
    task = Task.from_json(artifact.task)
    if task.kind != "language":
        raise BadInput(f"{folder} is a model for {task.kind}; open it with ondevice.open()")

    def template() -> ChatTemplate | None:
        return ChatTemplate(task.template, task.special_tokens) if task.template else None

    tokenizer = _tokenizer(folder / "tokenizer.json", artifact.tokenizer_json)
    tensors, storage = unlocked(artifact, key_file)
    return Files(artifact.config, tensors, tokenizer, template, frozenset(task.ends), storage)


def _of_gguf(path: Path) -> Files:
    model = GgufModel(read_container(path))
    fields = model.container.fields
    return Files(
        model.config,
        model.tensors,
        gguf_tokenizer.read_tokenizer(fields),
        lambda: gguf_tokenizer.read_template(fields),
        gguf_tokenizer.end_tokens(fields),
    )


def _tokenizer(path: Path, text: str) -> Any:
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_str(text)
    except Exception as problem:  # `tokenizers` raises bare Exceptions
        raise BadInput(f"{path} cannot be read as a tokenizer: {problem}") from problem
