"""Nested experts: each width is what torch computes, and planes that come when they are called change no token."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from ondevice.artifact import Artifact, Contents, write_files
from ondevice.compress.calibration import Calibration
from ondevice.compress.quantize.matryoshka import Matryoshka
from ondevice.errors import BadArtifact, BadInput
from ondevice.kernels import Kernels
from ondevice.layers.nested import NestedLinear
from ondevice.layers.store import from_stored, to_stored
from ondevice.models.load import load, skeleton
from ondevice.runtime.decoder import Decoder
from ondevice.runtime.moe.experts import Experts
from ondevice.runtime.moe.nested import plane_of
from ondevice.runtime.weights.planes import CalledPlanes, PlaneCache, by_number, least_for_planes, planes_of

TEXTS = ["the quick brown fox jumps over the lazy dog " * 3, "import os; print(os.getcwd()) # 0123456789"]
PROMPTS = [[3, 60, 100, 7, 250], [9, 9, 120, 31, 44, 300, 2], [77, 5]]


@pytest.fixture(scope="module")
def model(tiny_decoder):
    folder = tiny_decoder(
        "mixtral", num_local_experts=6, num_experts_per_tok=2, hidden_size=64, intermediate_size=96
    )
    nested = Matryoshka("2..4").apply(load(folder), Calibration(TEXTS))
    torch.manual_seed(0)
    routers = {f"model.layers.{n}.mlp.bit_router": nn.Linear(64, 6 * 3, bias=False) for n in range(2)}
    for router in routers.values():
        router.weight.data.normal_(0, 2.0)  # so that all widths are chosen
    return nested.with_modules(routers)


@pytest.fixture(scope="module")
def artifact(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("nested") / "artifact"
    folder.mkdir()
    write_files(
        folder,
        Contents(model.config, model.tokenizer.to_str(), model.task.to_json(), to_stored(model.module)),
    )
    return Artifact(folder)


def _logits(tensors, config, kernels=None, quality=0.0):
    decoder = Decoder(tensors, config, kernels or Kernels(1), context=64, cache_tokens=256)
    for block in decoder.blocks:
        assert isinstance(block.feed, Experts)
        assert block.feed.nested is not None
        if block.feed.nested.bits is not None:
            block.feed.nested.bits.quality = quality
    sequences = [decoder.cache.sequence() for _ in PROMPTS]
    out = decoder.step(list(zip(sequences, PROMPTS, strict=True)), every=True)
    return out + decoder.step([(each, [5, 6]) for each in sequences], every=True)


@pytest.mark.parametrize(("lean", "width"), [(1e6, 4), (-1e6, 2)])
def test_at_one_width_logits_are_those_of_torch(model, artifact, lean, width):
    for layer in model.layers(NestedLinear).values():
        layer.width = width
    got = _logits(artifact.tensors, artifact.config, quality=lean)
    for prompt, ours in zip(PROMPTS, got, strict=False):
        ids = torch.tensor([prompt])
        with torch.inference_mode():
            expected = model.outputs(ids, torch.ones_like(ids))[0].numpy()
        np.testing.assert_allclose(ours, expected, rtol=1e-2, atol=0.02 * np.abs(expected).max())


def test_planes_that_are_called_change_no_bit(artifact):
    whole = _logits(artifact.tensors, artifact.config)
    least = least_for_planes(planes_of(artifact.tensors))
    for memory, order in ((least, None), (3 * least, by_number), (10**9, None)):
        settings = {} if order is None else {"order": order}
        cache = PlaneCache(artifact.tensors, memory, layers=2, **settings)
        for ours, expected in zip(_logits(cache, artifact.config, Kernels(2)), whole, strict=True):
            np.testing.assert_array_equal(ours, expected)
        assert cache.stats.misses > 0
        assert cache.memory <= memory


def test_planes_stay_until_their_expert_is_done(artifact):
    cache = PlaneCache(artifact.tensors, 3 * least_for_planes(planes_of(artifact.tensors)), layers=2)
    random = np.random.default_rng(0)
    for turn in range(30):
        source = CalledPlanes(cache, turn % 2, f"model.layers.{turn % 2}.mlp.experts")
        chosen = random.choice(6, 4, replace=False).tolist()
        needs = [(expert, plane, 3) for expert in chosen for plane in range(int(random.integers(1, 4)))]
        last = {expert: plane for expert, plane, _ in needs}
        there = {}
        for expert, number, plane in source.ask(needs):
            there.setdefault(expert, {})[number] = plane
            for other, planes in there.items():
                if len(planes) <= last[other] or other == expert:
                    for each, held in planes.items():
                        stored = plane_of(artifact.tensors, source.stem, other, each)
                        np.testing.assert_array_equal(held.down, stored.down)
        assert {expert: max(planes) for expert, planes in there.items()} == last


def test_widths_differ_and_quality_moves_them(artifact):
    def needed(quality):
        decoder = Decoder(artifact.tensors, artifact.config, Kernels(1), context=64)
        feed = decoder.blocks[0].feed
        feed.nested.bits.quality = quality
        needs = []
        feed.nested.worked.append(lambda layer, need, seconds: needs.append(need))
        x = np.random.default_rng(0).standard_normal((20, 64)).astype(np.float32)
        feed.apply(Kernels(1), x, "silu")
        return sum(tokens for _, plane, tokens in needs if plane)

    taught = needed(0.0)
    assert 0 < taught < 2 * 40
    assert needed(-1e6) == 0 < taught < needed(1e6) == 2 * 40


def test_a_stored_model_is_opened_again(model, artifact):
    again = from_stored(skeleton(artifact.config, model.task), artifact.tensors)
    for name, layer in model.layers(NestedLinear).items():
        other = again.get_submodule(name)
        np.testing.assert_array_equal(other.matrix.dequantize(4), layer.matrix.dequantize(4))


def test_bad_input(artifact):
    tensors, config = dict(artifact.tensors), artifact.config
    with pytest.raises(BadInput, match="lowest width of one layer"):
        PlaneCache(artifact.tensors, 5000, layers=2)
    stem = "model.layers.0.mlp"
    with pytest.raises(BadArtifact, match=r"gate_proj\.plane2 is missing"):
        _logits(
            {name: it for name, it in tensors.items() if name != f"{stem}.experts.3.gate_proj.plane2"}, config
        )
    wrong = tensors | {f"{stem}.bit_router.weight": tensors[f"{stem}.gate.weight"]}
    with pytest.raises(BadArtifact, match="taught for other widths"):
        _logits(wrong, config)
    with pytest.raises(BadInput, match="matryoshka"):
        PlaneCache({n: t for n, t in tensors.items() if "plane" not in n}, 10**9, layers=2)
    with pytest.raises(BadInput, match="finite"):
        _logits(tensors, config, quality=float("nan"))
