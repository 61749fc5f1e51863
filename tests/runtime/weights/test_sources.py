"""Wherever weights come from, logits are the same to the bit; what cannot be read is an error and writes nothing."""

from __future__ import annotations

import gc
import os
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ondevice.artifact import Artifact, Contents, StoredTensor, write
from ondevice.devices.storage import Read, Storage, Ticket
from ondevice.errors import BadArtifact, BadInput
from ondevice.kernels import Kernels
from ondevice.measure.timeline import Timeline
from ondevice.runtime.decoder import Decoder
from ondevice.runtime.io import FileStorage
from ondevice.runtime.weights.parts import Stage, stages_of
from ondevice.runtime.weights.rounded import rounded
from ondevice.runtime.weights.safetensors import Checkpoint
from ondevice.runtime.weights.source import Mapped, Resident
from ondevice.runtime.weights.streamed import Streamed, ring_least

SIZES: dict[str, Any] = {
    "vocab_size": 197, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 128,
}  # fmt: skip
FAMILIES: dict[str, dict[str, Any]] = {
    "llama, tied": {"model_type": "llama", "tie_word_embeddings": True},
    "qwen2": {"model_type": "qwen2"},
    "qwen3, tied": {"model_type": "qwen3", "tie_word_embeddings": True},
    "gemma": {"model_type": "gemma", "num_key_value_heads": 1},
    "mixtral": {"model_type": "mixtral", "num_local_experts": 3, "num_experts_per_tok": 2},
    "qwen2_moe": {"model_type": "qwen2_moe", "num_experts": 3, "moe_intermediate_size": 32,
                  "num_experts_per_tok": 2, "shared_expert_intermediate_size": 40, "mlp_only_layers": [1]},
}  # fmt: skip
PROMPT = [3, 150, 7, 7, 42, 196, 0, 11]


class _Models:
    """Folders of each family: as transformers writes it ("floats"), and as an artifact in 4 bits ("tiles")."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.open = cache(self._open)

    def _open(self, family: str, form: str) -> tuple[Any, dict[str, Any]]:
        torch.manual_seed(3)
        config = transformers.AutoConfig.for_model(**(SIZES | FAMILIES[family]))
        module = transformers.AutoModelForCausalLM.from_config(config).eval()
        for parameter in module.parameters():
            parameter.data += 0.15 * torch.randn(parameter.shape)
        folder = self.root / f"{family} floats"
        module.save_pretrained(folder)
        if form == "floats":
            return Checkpoint(folder), config.to_dict()
        tensors = {
            name: StoredTensor(each.format, each.array)
            for name, each in rounded(Checkpoint(folder), 4).items()
        }
        contents = Contents(config.to_dict(), "{}", {"kind": "language"}, tensors)
        return write(self.root / f"{family} tiles", contents, overwrite=True).tensors, config.to_dict()


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> _Models:
    return _Models(tmp_path_factory.mktemp("models"))


def logits_of(decoder: Decoder, tokens: int = 4) -> list[np.ndarray]:
    """Of a prompt read in two steps beside another text, then of tokens that are written greedily."""
    sequence, other, out = decoder.cache.sequence(), decoder.cache.sequence(), []
    for part, beside in ((PROMPT[:3], [5]), (PROMPT[3:], [9, 9])):
        out += decoder.step([(sequence, part), (other, beside)], every=True)
    token = int(out[-2][-1].argmax())
    for _ in range(tokens):
        [row] = decoder.step([(sequence, [token])])
        token = int(row[0].argmax())
        out.append(row)
    return out


def same(got: list[np.ndarray], want: list[np.ndarray]) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(got, want, strict=True))


def decoder_of(tensors: Any, config: dict[str, Any]) -> Decoder:
    return Decoder(tensors, config, Kernels(1), context=64, cache_tokens=128)


def parts_of(stages: list[Stage]) -> list[str]:
    return [part.name for stage in stages for part in stage.parts]


@pytest.mark.parametrize("form", ["floats", "tiles"])
@pytest.mark.parametrize("family", FAMILIES)
def test_no_source_changes_a_bit(models: _Models, family: str, form: str) -> None:
    tensors, config = models.open(family, form)
    want = logits_of(decoder_of(tensors, config))
    stages = stages_of(tensors, SIZES["num_hidden_layers"], band=2048)
    assert sum(stage.key[0] == "head" for stage in stages) > 2
    for source in (
        Resident(tensors),
        Mapped(tensors),
        Streamed(tensors, stages, locked=(), ring_bytes=ring_least(stages, ())),
        Streamed(tensors, stages, locked=parts_of(stages), ring_bytes=0),
    ):
        assert same(logits_of(decoder_of(source, config)), want)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_ring_lock_or_order_changes_a_bit(models: _Models, data: st.DataObject) -> None:
    family, form = data.draw(st.sampled_from(list(FAMILIES))), data.draw(st.sampled_from(["floats", "tiles"]))
    tensors, config = models.open(family, form)
    stages = stages_of(
        tensors, SIZES["num_hidden_layers"], band=data.draw(st.sampled_from([2048, 4096, 1 << 20]))
    )
    names = parts_of(stages)
    locked = data.draw(st.one_of(st.sets(st.sampled_from(names)), st.just(set(names))))
    least = ring_least(stages, locked)
    source = Streamed(
        tensors,
        stages,
        locked=locked,
        ring_bytes=least + data.draw(st.integers(0, 400_000)),
        prefetch=data.draw(st.booleans()),
        storage=FileStorage(data.draw(st.integers(1, 3)), direct=data.draw(st.booleans())),
    )
    assert same(logits_of(decoder_of(source, config)), logits_of(decoder_of(tensors, config)))


def test_what_is_read_and_kept_is_counted(models: _Models) -> None:
    tensors, config = models.open("qwen2", "tiles")
    stages = stages_of(tensors, SIZES["num_hidden_layers"], band=2048)
    locked = {part.name for stage in stages[:4] for part in stage.parts}
    sizes = {part.name: part.nbytes for stage in stages for part in stage.parts}
    timeline = Timeline()
    source = Streamed(tensors, stages, locked=locked, ring_bytes=100_000, prefetch=False, timeline=timeline)
    decoder, at_first = decoder_of(source, config), source.bytes_read
    assert source.bytes_streamed == sum(sizes.values()) - sum(sizes[name] for name in locked)
    logits_of(decoder, tokens=3)
    assert source.bytes_read == at_first + 5 * source.bytes_streamed
    read = [span for span in timeline.spans if span.lane == "disk"]
    assert sum(span.facts["bytes"] for span in read) == 5 * source.bytes_streamed
    assert timeline.busy("compute") > 0
    less = Streamed(tensors, stages, locked=(), ring_bytes=100_000)
    more = source.bytes_resident - less.bytes_resident
    assert 0 <= more - sum(sizes[name] for name in locked) <= 8192 * len(locked)  # pages around each part
    whole = Resident(tensors)
    assert whole.bytes_resident >= sum(int(tensor.array.nbytes) for tensor in tensors.values())


def test_a_ring_that_holds_no_stage_is_refused(models: _Models) -> None:
    tensors, _ = models.open("qwen2", "tiles")
    stages = stages_of(tensors, SIZES["num_hidden_layers"])
    with pytest.raises(BadInput, match="does not hold the largest stage"):
        Streamed(tensors, stages, locked=(), ring_bytes=ring_least(stages, ()) - 1)


@pytest.mark.parametrize(
    "tensor", ["model.layers.2.mlp.down_proj.weight", "model.embed_tokens.weight", "lm_head.weight"]
)
@pytest.mark.parametrize("lock", [False, True])
def test_a_flipped_bit_is_found_before_a_token(
    models: _Models, tmp_path: Path, tensor: str, lock: bool
) -> None:
    models.open("qwen2", "tiles")
    folder = tmp_path / "damaged"
    folder.mkdir()
    for file in (models.root / "qwen2 tiles").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    tensors, config = Artifact(folder).tensors, models.open("qwen2", "tiles")[1]
    place = tensors[tensor].place
    with (folder / "model.safetensors").open("r+b") as file:
        file.seek(place.offset + place.nbytes // 2)
        byte = file.read(1)[0]
        file.seek(-1, 1)
        file.write(bytes([byte ^ 4]))
    stages = stages_of(tensors, SIZES["num_hidden_layers"], band=2048)

    def first_step() -> None:
        source = Streamed(tensors, stages, locked=parts_of(stages) if lock else (), ring_bytes=100_000)
        decoder = decoder_of(source, config)
        decoder.step([(decoder.cache.sequence(), PROMPT)])

    with pytest.raises(BadArtifact, match=r"is damaged"):
        first_step()


class _Failing:
    """A storage whose reads fail now and then, as a disk's do."""

    def __init__(self) -> None:
        self.storage, self.fail = FileStorage(), False

    def read(self, path: Path, offset: int, nbytes: int, into: Any) -> Ticket:
        return _FailingTicket(self, self.storage.read(path, offset, nbytes, into))


class _FailingTicket:
    def __init__(self, storage: _Failing, ticket: Ticket) -> None:
        self.storage, self.ticket = storage, ticket

    def wait(self) -> Read:
        done = self.ticket.wait()
        if self.storage.fail:
            raise BadInput("cannot be read at byte 0: Input/output error")
        return done


def test_an_error_of_the_disk_writes_nothing_and_may_pass(models: _Models) -> None:
    tensors, config = models.open("llama, tied", "tiles")
    want = logits_of(decoder_of(tensors, config))
    stages = stages_of(tensors, SIZES["num_hidden_layers"], band=2048)
    storage = _Failing()
    as_storage: Storage = storage
    source = Streamed(tensors, stages, locked=(), ring_bytes=100_000, storage=as_storage)
    decoder = decoder_of(source, config)
    sequence, free = decoder.cache.sequence(), decoder.cache.free_tokens
    storage.fail = True
    with pytest.raises(BadInput, match="Input/output error"):
        decoder.step([(sequence, PROMPT)])
    assert (sequence.length, decoder.cache.free_tokens) == (0, free)
    storage.fail = False
    assert same(logits_of(decoder), want)


def test_a_file_that_is_cut_off_while_it_is_read(models: _Models, tmp_path: Path) -> None:
    models.open("qwen2", "tiles")
    folder = tmp_path / "short"
    folder.mkdir()
    for file in (models.root / "qwen2 tiles").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    tensors, config = Artifact(folder).tensors, models.open("qwen2", "tiles")[1]
    stages = stages_of(tensors, SIZES["num_hidden_layers"])
    source = Streamed(tensors, stages, locked=(), ring_bytes=ring_least(stages, ()))
    decoder = decoder_of(source, config)
    sequence = decoder.cache.sequence()
    decoder.step([(sequence, PROMPT)])
    os.truncate(folder / "model.safetensors", 20_000)

    def steps() -> None:
        for _ in range(3):  # what is in the ring already may do for one
            decoder.step([(sequence, [1])])

    with pytest.raises(BadArtifact, match="ends after"):
        steps()
    assert sequence.length < len(PROMPT) + 3


def test_hooks_see_what_layers_are_given(models: _Models) -> None:
    tensors, config = models.open("qwen2", "floats")
    want = logits_of(decoder_of(tensors, config))
    torch.manual_seed(3)
    stages = stages_of(tensors, SIZES["num_hidden_layers"])
    for source in (tensors, Streamed(tensors, stages, locked=(), ring_bytes=200_000)):
        decoder, seen = decoder_of(source, config), []
        decoder.before_layer = lambda layer, states, seen=seen: seen.append(("before", layer, states.copy()))
        decoder.after_layer = lambda layer, states, seen=seen: seen.append(("after", layer, states.copy()))
        sequence = decoder.cache.sequence()
        decoder.step([(sequence, PROMPT)])
        sequence.free()
        assert [each[:2] for each in seen] == [(when, n) for n in range(3) for when in ("before", "after")]
        module = transformers.AutoModelForCausalLM.from_pretrained(models.root / "qwen2 floats").eval()
        with torch.inference_mode():
            states = module(torch.tensor([PROMPT]), output_hidden_states=True).hidden_states
        for (when, layer, got), hidden in zip(seen[::2], states):  # transformers normalises the last one
            assert when == "before"
            np.testing.assert_allclose(got, hidden[0].numpy(), atol=2e-2, err_msg=str(layer))
        decoder.before_layer = decoder.after_layer = None
        assert same(logits_of(decoder), want)


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs /proc to count threads")
def test_a_source_that_goes_away_leaves_no_thread_and_no_file(models: _Models) -> None:
    tensors, config = models.open("qwen2", "tiles")
    stages = stages_of(tensors, SIZES["num_hidden_layers"])

    def held() -> tuple[int, int]:
        gc.collect()
        return len(os.listdir("/proc/self/task")), len(os.listdir("/proc/self/fd"))

    kernels, before = Kernels(1), None
    for _ in range(6):
        source = Streamed(tensors, stages, locked=(), ring_bytes=2 * ring_least(stages, ()))
        decoder = Decoder(source, config, kernels, context=64)
        decoder.step([(decoder.cache.sequence(), PROMPT)])
        del source, decoder
        before = before or held()
        assert held() == before
