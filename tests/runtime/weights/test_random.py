from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import transformers

from ondevice.errors import BadInput
from ondevice.kernels import Kernels
from ondevice.runtime.decoder import Decoder
from ondevice.runtime.weights import random
from ondevice.runtime.weights.random import SHAPES, random_decoder
from ondevice.runtime.weights.shapes import parameters


@pytest.mark.parametrize("shape", SHAPES)
def test_the_tensors_are_those_of_the_published_shape(shape: str, monkeypatch: pytest.MonkeyPatch) -> None:
    few = SHAPES[shape] | {"num_hidden_layers": 1, "vocab_size": 320}
    monkeypatch.setitem(random.SHAPES, shape, few)
    _, tensors = random_decoder(shape)
    with torch.device("meta"):
        module: Any = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.for_model(**few))
    tied = {"lm_head.weight"} if few["tie_word_embeddings"] else set()
    want = {name: tuple(value.shape) for name, value in module.state_dict().items() if name not in tied}
    got = {
        name: tuple(
            each.format["shape"] if "shape" in each.format else (each.format["rows"], each.format["columns"])
        )
        for name, each in tensors.items()
    }
    assert got == want
    assert parameters(few) == sum(rows * columns for rows, *rest in want.values() for columns in rest)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_a_random_decoder_decodes(bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    small = SHAPES["qwen3-0.6b"] | {
        "num_hidden_layers": 2, "vocab_size": 500, "hidden_size": 256, "intermediate_size": 512
    }  # fmt: skip
    monkeypatch.setitem(random.SHAPES, "qwen3-0.6b", small)
    config, tensors = random_decoder("qwen3-0.6b", bits=bits, seed=3)
    _, again = random_decoder("qwen3-0.6b", bits=bits, seed=3)
    assert all(np.array_equal(tensors[name].array, again[name].array) for name in tensors)
    decoder = Decoder(tensors, config, Kernels(2), context=80)
    [whole] = decoder.step([(decoder.cache.sequence(), list(range(40)))], every=True)
    assert np.isfinite(whole).all()
    assert whole.std() > 0.01
    sequence = decoder.cache.sequence()
    parts = [
        decoder.step([(sequence, [token])])[0] for token in range(40)
    ]  # the product for a few rows, each time
    np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_an_unknown_shape_is_refused() -> None:
    with pytest.raises(BadInput, match=r"there are: .*llama-3\.2-1b"):
        random_decoder("gpt-5")
