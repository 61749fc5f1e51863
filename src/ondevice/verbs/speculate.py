"""speculate: a session checks several guessed tokens in one pass; what it writes stays the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ondevice.errors import BadInput, NotBuilt
from ondevice.verbs.open import language_folder

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ondevice.backends.language import LanguageSession
    from ondevice.runtime.decode.heads import Heads
    from ondevice.runtime.decode.memory_model import TreePlan
    from ondevice.runtime.decode.speculative import Speculation
    from ondevice.runtime.decoder import Decoder

_HEADS = "medusa-heads"  # of the zoo
_STREAMED = 15  # nodes where weights are streamed, as logits of all are made at once then


def speculate(
    session: LanguageSession,
    draft: str = "auto",
    *,
    model: str | Path | None = None,
    threads: int | None = None,
    budget: int | None = None,
) -> Speculation:
    """Let texts that begin from now on be written with guesses; its `tokens_per_pass` says how often they were right.

    draft: "lookup": what followed the same tokens earlier in the text; a folder of heads that were trained on the
    model; a smaller language model with the same tokenizer, as `ondevice.open_language` takes it, which is loaded
    beside the first; "auto": heads where there are some for `model`, else lookup. How many tokens are guessed follows
    from how often guesses were right and how long steps took; tokens and their probabilities do not depend on it.
    budget: of heads, bytes beside the weights. Raises BadInput for another vocabulary, heads of another model, a model
    that is none, and an encoder-decoder; BudgetNotMet where the budget holds no tree that is worth its time.
    """
    from ondevice.backends.language import LanguageSession, read_files
    from ondevice.backends.native import processors
    from ondevice.runtime.decode.heads import HeadsDraft
    from ondevice.runtime.decode.memory_model import choose_tree
    from ondevice.runtime.decode.speculative import Lookup, SmallModel, Speculation, TreePace
    from ondevice.runtime.decode.tree import LARGEST

    engine, decoder = session.engine, _decoder(session)
    if heads := find_heads(decoder.shape.hidden, draft, model):
        nodes = _STREAMED if decoder.streams else LARGEST
        if budget is not None:
            plan = choose_tree(plan_trees(session, heads), budget, least=1.0 + 1e-9)
            nodes, heads = len(plan.paths), heads.first(plan.heads)
        pace = TreePace(nodes, rates=heads.rates)
        engine.speculation = Speculation(HeadsDraft(heads, decoder, pace), pace)
        return engine.speculation
    if draft in ("auto", "lookup"):
        engine.speculation = Speculation(Lookup())
        return engine.speculation
    folder = language_folder(draft)
    if folder is None:
        raise BadInput(f"{draft!r} is no draft; give auto, lookup, heads, or a smaller language model")
    files = read_files(folder)
    if files.tokenizer.get_vocab() != session.tokenizer.get_vocab():
        raise BadInput(
            f"the tokens of {draft} are not those of the model; take a draft with the same tokenizer"
        )
    small = LanguageSession.of(files, threads=threads or processors(), context=decoder.context).engine.decoder
    engine.speculation = Speculation(SmallModel(_checked(small, draft), decoder.vocabulary))
    return engine.speculation


def find_heads(hidden: int, draft: str, model: str | Path | None) -> Heads | None:
    """The heads that a draft names, or "auto" finds for a model; None where it is something else.

    Raises BadInput for heads of states of another width, BadArtifact where they are damaged.
    """
    from ondevice.models import zoo
    from ondevice.runtime.decode.heads import FAMILY, Heads
    from ondevice.runtime.weights.safetensors import Checkpoint

    folder = Path(draft)
    if draft in ("auto", _HEADS):
        try:
            folder = zoo.locate(_HEADS)
        except NotBuilt:
            if draft == "auto":
                return None
            raise
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(config, dict) or config.get("model_type") != FAMILY:
        return None
    if draft == "auto" and (model is None or language_folder(model) != language_folder(config["base"])):
        return None
    return Heads.read(Checkpoint(folder), config, hidden)


def plan_trees(session: LanguageSession, heads: Heads) -> Sequence[TreePlan]:
    """What trees of every size take of memory beside the weights, and what they should gain: passes are measured
    here, rates of acceptance are the heads' own, the gain is worked out from both."""
    from ondevice.runtime.decode.memory_model import Generation, tree_plans
    from ondevice.runtime.decode.passes import measure_passes

    decoder = _decoder(session)
    settings: dict[str, Any] = {"context": decoder.context, "cache": decoder.cache.dtype}
    how = Generation.of(
        decoder.config, **settings, threads=decoder.kernels.threads, chunk=session.engine.chunk
    )
    passes = measure_passes(decoder, heads)
    return tree_plans(how, heads.rates, passes.of, passes.guessing)


def reserved(draft: str | None, model: str | Path, config: Mapping[str, Any]) -> int:
    """Bytes that heads, their candidates and their logits take at most, to be kept free where memory is planned; none
    for lookup. Raises BadInput for a draft that is a model."""
    from ondevice.runtime.decode.memory_model import Generation, generation_memory
    from ondevice.runtime.decode.tree import LARGEST
    from ondevice.runtime.encdec import FAMILY

    if draft is None:
        return 0
    if config.get("model_type") == FAMILY:
        raise BadInput("an encoder-decoder is not speculated with; leave --speculate out")
    how = Generation.of(config, context=0, chunk=LARGEST + 1)
    heads = find_heads(how.shape.hidden, draft, model)
    if heads is None and draft not in ("auto", "lookup"):
        raise BadInput("a draft model is not planned for under --memory; take --speculate auto")
    if heads is None:
        return 0
    memory = generation_memory(how, LARGEST, len(heads.layers))
    logits = 4 * how.vocabulary * (len(heads.layers) + 2 * (_STREAMED + 1))
    return memory.candidates + memory.heads + logits


def _decoder(session: LanguageSession) -> Decoder:
    return _checked(session.engine.decoder, "the model")


def _checked(decoder: object, name: str) -> Decoder:
    from ondevice.runtime.decoder import Decoder

    if not isinstance(decoder, Decoder):
        raise BadInput(f"{name} is an encoder-decoder, which is not speculated with; leave --speculate out")
    return decoder
