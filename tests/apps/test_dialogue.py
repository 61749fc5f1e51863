"""Side paths: answers are those of reading everything anew, and the conversation does not know of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from ondevice.apps.dialogue import BinaryTree, MultiChoice, Subtask, SubtaskFlow, YesNo, read_tasks
from ondevice.artifact import StoredTensor
from ondevice.errors import BadInput
from ondevice.kernels import PAGE, Kernels
from ondevice.runtime.decoder import Decoder

CONTEXT = 300


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    """A token a byte."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE(vocab={letter: number for number, letter in enumerate(alphabet)}, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    return made


@pytest.fixture(scope="module", params=[0, 24], ids=["all", "window"])
def network(request: pytest.FixtureRequest) -> Any:
    torch.manual_seed(0)
    config = transformers.MistralConfig(
        vocab_size=256, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, head_dim=32, max_position_embeddings=CONTEXT, sliding_window=request.param or None,
    )  # fmt: skip
    module = transformers.MistralForCausalLM(config).eval()
    for parameter in module.parameters():
        parameter.data += 0.2 * torch.randn(parameter.shape)
    return module


def flow_of(network: Any, tokenizer: Any, *tasks: Subtask) -> SubtaskFlow:
    tensors = {name: StoredTensor.dense(value.numpy()) for name, value in network.state_dict().items()}
    config = network.config.to_dict()
    decoder = Decoder(tensors, config, Kernels(1), cache_dtype="float32", cache_tokens=3 * CONTEXT)
    return SubtaskFlow(decoder, tokenizer, tasks)


TASKS = (
    Subtask("sum", "\nsum up:", limit=9, stop=""),
    Subtask("more", "\nand?", limit=5, stop="", inject=" [{answer}]"),
)


def test_an_answer_is_that_of_transformers_on_everything_read_anew(network: Any, tokenizer: Any) -> None:
    flow = flow_of(network, tokenizer, *TASKS)
    flow.say("the cat sat on the mat and looked at the dog that sat beside it.")
    for name in ("sum", "sum"):
        side = flow.subtask(name)
        start = flow.tokens + tokenizer.encode(TASKS[0].instruction).ids
        want = network.generate(
            torch.tensor([start]), max_new_tokens=9, do_sample=False, eos_token_id=None, pad_token_id=0
        )
        assert [*start, *side.tokens] == want[0].tolist()
    assert flow.read == 2 * len(TASKS[0].instruction)


@given(st.lists(st.sampled_from(["say", "sum", "ask"]), max_size=8))
@settings(max_examples=12, deadline=None)
def test_the_conversation_is_the_one_without_side_paths(
    network: Any, tokenizer: Any, moves: list[str]
) -> None:
    """Logits bit by bit, and the cache holds what it would hold."""
    with_, without = flow_of(network, tokenizer, *TASKS), flow_of(network, tokenizer)
    for flow in (with_, without):
        flow.say("begin. ")
    for move in moves:
        if move == "say":
            for flow in (with_, without):
                flow.say("a few words more. ")
        elif move == "sum":
            with_.subtask("sum")
        else:
            with_.logits(["\nreally? ", "\nwhy? "])
        assert with_.decoder.cache.bytes_used == without.decoder.cache.bytes_used
    assert np.array_equal(with_.logits([" end"]), without.logits([" end"]))
    assert with_.write(7, stop="") == without.write(7, stop="")
    assert with_.tokens == without.tokens


def test_a_side_path_takes_memory_for_itself_only(network: Any, tokenizer: Any) -> None:
    taken = []
    for words in (1, 4):
        flow = flow_of(network, tokenizer, *TASKS)
        flow.say("x" * (PAGE * words))  # whole pages, so that what is beyond is the side path's own
        side = flow.subtask("sum")
        taken.append(side.cache_bytes)
        pages = -(-(side.read + len(side.tokens)) // PAGE)
        assert side.cache_bytes <= pages * flow.decoder.cache.page_bytes
    assert taken[0] == taken[1]


def test_what_is_injected_is_part_of_the_conversation(network: Any, tokenizer: Any) -> None:
    flow = flow_of(network, tokenizer, *TASKS)
    flow.say("hello")
    side = flow.subtask("more")
    assert tokenizer.decode(flow.tokens) == f"hello [{side.answer}]"


def test_questions_in_a_batch_are_those_one_by_one(network: Any, tokenizer: Any) -> None:
    flow = flow_of(network, tokenizer)
    flow.say("some words. ")
    texts = ["\nis it? ", "\nwas it so? ", "\nno? "]
    together = flow.logits(texts)
    assert np.array_equal(together, np.concatenate([flow.logits([text]) for text in texts]))
    with torch.inference_mode():
        for row, text in zip(together, texts, strict=True):
            want = network(torch.tensor([flow.tokens + tokenizer.encode(text).ids])).logits[0, -1].numpy()
            np.testing.assert_allclose(row, want, rtol=1e-4, atol=1e-4)
    alone = flow.logits(texts[:1], alone=True)
    fresh = flow_of(network, tokenizer)
    assert np.array_equal(alone, fresh.logits(texts[:1], alone=True))


def test_the_surest_task_is_chosen_by_the_difference_of_the_logits(network: Any, tokenizer: Any) -> None:
    flow = flow_of(network, tokenizer)
    flow.say("some words. ")
    questions = {"one": "\none? ", "two": "\ntwo? ", "three": "\n3? "}
    words = YesNo.of(tokenizer)
    assert (words.before, words.yes, words.no) == (" ", *tokenizer.encode("yn").ids)

    def gap(text: str, alone: bool) -> float:
        [row] = flow.logits([text + " "], alone=alone)
        return float(row[words.yes] - row[words.no])

    for calibrate in (False, True):
        tree = BinaryTree(flow, "\nany? ", questions, calibrate=calibrate)
        scores = {name: gap(text, False) - calibrate * gap(text, True) for name, text in questions.items()}
        needed = gap("\nany? ", False) > calibrate * gap("\nany? ", True)
        assert tree.decide() == (max(scores, key=lambda name: scores[name]) if needed else None)
    choice = MultiChoice(flow, lambda order: "\n" + ",".join(order) + "? ", "abc")
    picked = choice.decide(["one", "two"])
    [row] = flow.logits(["\none,two? "])
    assert picked == (
        "one" if row[tokenizer.encode("a").ids[0]] >= row[tokenizer.encode("b").ids[0]] else "two"
    )


def test_bad_input(network: Any, tokenizer: Any, tmp_path: Path) -> None:
    long = Subtask("long", "\nlong:", limit=CONTEXT)
    flow = flow_of(network, tokenizer, *TASKS, long)
    with pytest.raises(BadInput, match="say something first"):
        flow.write()
    flow.say("words ")
    before = flow.logits(["?"])
    with pytest.raises(BadInput, match=r"no sub-task 'poem'; there are: sum, more, long"):
        flow.subtask("poem")
    with pytest.raises(BadInput, match="open the model with a longer context"):
        flow.subtask("long")
    with pytest.raises(BadInput, match="the text is empty"):
        flow.say("")
    assert np.array_equal(flow.logits(["?"]), before)
    with pytest.raises(BadInput, match="two sub-tasks"):
        flow_of(network, tokenizer, TASKS[0], TASKS[0])
    with pytest.raises(BadInput, match="needs a name, an instruction"):
        Subtask("empty", "")
    with pytest.raises(BadInput, match="cannot be told apart"):
        YesNo.of(tokenizer, "no", "nothing")
    with pytest.raises(BadInput, match="at least one task"):
        BinaryTree(flow, "?", {})
    with pytest.raises(BadInput, match="not one token each"):
        MultiChoice(flow, str, ["ab"])
    with pytest.raises(BadInput, match="2 options for 1 letters"):
        MultiChoice(flow, str, ["a"]).decide(["one", "two"])


def test_tasks_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "tasks.toml"
    path.write_text(
        '[title]\ninstruction = "\\nA title:"\nlimit = 12\n[language]\ninstruction = "\\nLanguage:"\n'
    )
    assert read_tasks(path) == [Subtask("title", "\nA title:", 12), Subtask("language", "\nLanguage:")]
    for text, says in (
        ("x = 1", "no list"),
        ("[a]\nlimit = 1", "no list"),
        ("[a]\ninstruction = ''", "needs a name"),
    ):
        path.write_text(text)
        with pytest.raises(BadInput, match=says):
            read_tasks(path)
    with pytest.raises(BadInput, match="cannot be read"):
        read_tasks(tmp_path / "missing.toml")
