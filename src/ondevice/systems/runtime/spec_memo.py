"""SpecMemo: speculation with memory as the controlled quantity: a budget chooses the tree, and the heads that guess it.

lm-8m writes in conversations about documents that neither it nor its heads have seen. It fits in the processor's cache,
so speed is shown on the shape of Qwen3-0.6B too, of random weights, where the record of lm-8m's guesses is replayed.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from ondevice.artifact import Artifact
from ondevice.backends.peers.speculating import Speaker, Talk, Way, memory_error, open_and_talk, unpacked
from ondevice.data import corpora
from ondevice.errors import BudgetNotMet
from ondevice.kernels import Kernels
from ondevice.measure.compare import Comparison, Evidence, absolute, ratio
from ondevice.measure.memory import call_fresh
from ondevice.measure.sidebyside import side_by_side
from ondevice.measure.timing import Figure
from ondevice.models import zoo
from ondevice.runtime.decode.memory_model import Generation, TreePlan, choose_tree, lower_bound, tree_plans
from ondevice.runtime.decode.passes import measure_passes
from ondevice.runtime.decode.replay import random_heads, replay
from ondevice.runtime.decode.tree import LARGEST
from ondevice.runtime.decoder import Decoder
from ondevice.runtime.weights.random import write_random
from ondevice.runtime.weights.shapes import SHAPES
from ondevice.systems.registry import Scale, system

FIRST, NEXT = 48, 16  # tokens of a talk's first turn, and of its second
CHUNK, ROWS = 8, 2  # of ours: tokens of a prompt in a step, rows of logits at once
USUAL = Way(LARGEST, 4, whole=True, at_once=LARGEST + 1)
SHARE, TOGETHER, DRAWN = 0.35, 8, 20
SMALL = {"num_hidden_layers": 2, "vocab_size": 2048, "hidden_size": 256, "intermediate_size": 512}
Speak = Callable[[Way], Speaker]


@system("spec-memo")
def prove(scale: Scale) -> Evidence:
    """Usual speculation against what a third of its memory holds; the memory model; the large shape; a batch."""
    tiny, answer = scale.name == "tiny", 8 if scale.name == "tiny" else 64
    repeats = {"tiny": 1, "fast": 5, "full": 15}[scale.name]
    model, heads = zoo.locate("lm-8m"), zoo.locate("medusa-heads")
    talks = held_out(model, TOGETHER if tiny else 12, scale.seed)
    few = talks[: 1 if tiny else 4]
    speak = partial(Speaker, model, heads, answer=answer, threads=1)

    usual = speak(USUAL)
    most = usual.counted(few)
    context = FIRST + NEXT + 2 * answer
    how = Generation.of(
        usual.decoder.config, context=context, chunk=CHUNK, at_once=ROWS, tile=unpacked(usual.decoder)
    )
    passes = measure_passes(usual.decoder, usual.heads)
    plans = tree_plans(how, usual.heads.rates, passes.of, passes.guessing)
    chosen = choose_tree(plans, int(SHARE * most))
    way = Way(len(chosen.paths), chosen.heads, chunk=CHUNK, at_once=ROWS)
    ours, plain, batch = speak(way), speak(Way()), speak(Way(way.nodes, way.heads, texts=TOGETHER))
    counted, texts = ours.counted(few), plain.talk(talks)
    per_pass = ours.speculation.tokens_per_pass if ours.speculation else 1.0
    wrong = sum(one != other for each in (usual, ours, batch) for one, other in zip(each.talk(talks), texts))
    resident = [call_fresh(open_and_talk, model, heads, each, few, answer)[0] for each in (USUAL, way)]
    arms = side_by_side(
        {"usual": lambda: usual.talk(few), "ours": lambda: ours.talk(few), "plain": lambda: plain.talk(few),
         "one by one": lambda: ours.talk(talks[:TOGETHER]), "batch": lambda: batch.talk(talks[:TOGETHER])},
        repeats, warmup=1, seed=scale.seed,
    )  # fmt: skip
    speed = {
        name: per_second(seconds, 2 * answer * (TOGETHER if name in ("one by one", "batch") else len(few)))
        for name, seconds in arms.items()
    }
    bound = lower_bound(plans, 1.0 + 1e-9) or 0
    error = memory_error(speak, how, 2 if tiny else DRAWN, scale.seed)
    large, more = on_large_shape(speak, talks, SMALL if tiny else {}, repeats)
    notes = [f"{name}: {figure}" for name, figure in speed.items()] + more
    notes.append(f"usual: {LARGEST} nodes, room for the whole context, all logits; ours: {way.nodes} nodes of "
                 f"{way.heads} heads; heads: {zoo.open_zoo('medusa-heads').record['metrics']}")  # fmt: skip
    notes.append(f"least bytes at which speculation should be faster than plain decoding: {bound} (modelled)")
    (before, after), none = resident, absolute("<=", 0)
    tally = partial(Comparison, kind="counted")
    return Evidence(
        tally("memory of generation", "bytes", most, counted, ratio("<=", SHARE)),
        Comparison("resident memory that generation adds", "bytes", before, after, ratio("<=", SHARE)),
        Comparison("speed within that memory", "tokens/s", speed["usual"], speed["ours"], ratio(">=", 0.96)),
        tally(f"memory model off, most of {DRAWN}", "", None, error, absolute("<=", 0.05)),
        tally("answers unlike plain decoding's", "", None, float(wrong), none),
        tally("tokens a pass", "", None, per_pass, absolute(">=", 1.8)),
        large,
        Comparison(f"{TOGETHER} ragged texts", "tokens/s", speed["one by one"], speed["batch"], ratio(">=", 3.0)),
        tally("budget under the bound not refused", "", None, float(held(plans, bound)), none),
        notes=notes,
    )  # fmt: skip


def on_large_shape(
    speak: Speak, talks: Sequence[Talk], change: dict[str, int], repeats: int
) -> tuple[Comparison, list[str]]:
    """Plain decoding against trees whose guesses come true as lm-8m's do."""
    with tempfile.TemporaryDirectory() as scratch:
        write_random(Path(scratch) / "pack", SHAPES["qwen3-0.6b"] | change, bits=4)
        artifact = Artifact(Path(scratch) / "pack")
        decoder = Decoder(artifact.tensors, artifact.config, Kernels(2), context=512)
        rates = speak(Way()).heads.rates
        passes = measure_passes(decoder, random_heads(decoder.shape.hidden, len(rates)))
        how = Generation.of(artifact.config, context=512, tiled=True, threads=2)
        chosen = max(tree_plans(how, rates, passes.of, passes.guessing)[1:], key=lambda plan: plan.speedup)
        nodes, heads = len(chosen.paths), chosen.heads
        recorded = speak(Way(nodes, heads))
        recorded.talk(talks)
        again = partial(replay, decoder, list(range(64)), recorded.recorder.trace, rates[:heads])
        found: dict[int, list[float]] = {0: [], nodes: []}
        for _ in range(repeats):
            for each, speeds in found.items():
                seconds, written = again(each, 64)
                speeds.append(written / seconds)
    name = "Qwen3-0.6B shape, random weights, lm-8m's acceptance replayed"
    plain, ours = (Figure.of(speeds, "tokens/s") for speeds in found.values())
    note = f"{name}: {nodes} nodes of {heads} heads, {recorded.recorder.tokens_per_pass:.2f} tokens a pass"
    return Comparison(name, "tokens/s", plain, ours, ratio(">=", 1.3)), [note]


def held_out(model: Path, count: int, seed: int) -> list[Talk]:
    """Two turns each: the beginning of a document, and a piece of its end."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    pages = corpora.texts(corpora.make("test", 3 * count, seed=seed, domains=("python", "man", "debian")))
    ids = [each.ids for each in tokenizer.encode_batch(pages) if len(each.ids) >= FIRST + NEXT]
    return [(tuple(each[:FIRST]), tuple(each[-NEXT:])) for each in ids[:count]]


def per_second(seconds: Figure, tokens: int) -> Figure:
    return Figure.of([tokens / each for each in seconds.samples], "tokens/s")


def held(plans: Sequence[TreePlan], bound: int) -> bool:
    """Whether a byte less than the bound is taken for enough, or refused without naming it."""
    try:
        choose_tree(plans, bound - 1, 1.0 + 1e-9)
    except BudgetNotMet as problem:
        return "the least that does" not in str(problem)
    return True
