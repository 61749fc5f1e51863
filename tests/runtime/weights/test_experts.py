"""Whatever buffer, policy or guess: logits are those of the resident model, to the bit; and every byte is counted."""

from __future__ import annotations

import gc
import os
import threading
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
from ondevice.devices.storage import Read, ThrottledStorage, Ticket
from ondevice.errors import BadArtifact, BadInput
from ondevice.kernels import Kernels
from ondevice.measure.timeline import Timeline
from ondevice.runtime.decoder import Decoder
from ondevice.runtime.io import FileStorage
from ondevice.runtime.moe.experts import Experts
from ondevice.runtime.weights.eviction import (
    FrequencyOverDistance,
    LeastFrequent,
    LeastRecent,
    Oracle,
    Policy,
    Unit,
    misses,
)
from ondevice.runtime.weights.experts import ExpertCache, experts_of, least_memory
from ondevice.runtime.weights.extents import Extents
from ondevice.runtime.weights.rounded import rounded
from ondevice.runtime.weights.safetensors import Checkpoint

LAYERS, EXPERTS, USED = 3, 6, 2
SIZES: dict[str, Any] = {
    "vocab_size": 197, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": LAYERS,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 128,
    "num_experts_per_tok": USED, "eos_token_id": 1,
}  # fmt: skip
FAMILIES: dict[str, dict[str, Any]] = {
    "mixtral": {"model_type": "mixtral", "num_local_experts": EXPERTS, "tie_word_embeddings": True},
    "qwen2_moe": {"model_type": "qwen2_moe", "num_experts": EXPERTS, "moe_intermediate_size": 32,
                  "shared_expert_intermediate_size": 40, "mlp_only_layers": [1]},
    "qwen3_moe": {"model_type": "qwen3_moe", "num_experts": EXPERTS, "moe_intermediate_size": 32,
                  "norm_topk_prob": True},
    "olmoe": {"model_type": "olmoe", "num_experts": EXPERTS},
}  # fmt: skip
PROMPT = [3, 150, 7, 7, 42, 196, 0, 11]
Opened = tuple[Any, dict[str, Any]]


class _Models:
    """Folders of each family: as transformers writes it ("floats"), and as an artifact in 4 bits ("tiles")."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.open = cache(self._open)

    def _open(self, family: str, form: str) -> Opened:
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


def decoder_of(tensors: Any, config: dict[str, Any]) -> Decoder:
    return Decoder(tensors, config, Kernels(1), context=64, cache_tokens=128)


def logits_of(decoder: Decoder, tokens: int = 6) -> list[np.ndarray]:
    """Of a prompt read in two steps beside another text, then of tokens that are written greedily."""
    sequence, other, out = decoder.cache.sequence(), decoder.cache.sequence(), []
    for part, beside in ((PROMPT[:3], [5]), (PROMPT[3:], [9, 9])):
        out += decoder.step([(sequence, part), (other, beside)], every=True)
    token = int(out[-2][-1].argmax())
    for _ in range(tokens):
        [row] = decoder.step([(sequence, [token])])
        token = int(row[0].argmax())
        out.append(row)
    sequence.free()
    other.free()
    return out


def same(got: list[np.ndarray], want: list[np.ndarray]) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(got, want, strict=True))


def mixtures(decoder: Decoder) -> list[Experts]:
    return [block.feed for block in decoder.blocks if isinstance(block.feed, Experts)]


def choices(decoder: Decoder) -> list[list[Unit]]:
    """What each use of a layer chooses from now on."""
    seen: list[list[Unit]] = []
    for each in mixtures(decoder):
        each.listeners.append(
            lambda layer, chosen: seen.append([(layer, int(number)) for number in np.unique(chosen)])
        )
    return seen


@pytest.mark.parametrize("form", ["floats", "tiles"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_smallest_buffer_changes_no_bit(models: _Models, family: str, form: str) -> None:
    tensors, config = models.open(family, form)
    least = least_memory(experts_of(tensors), USED)
    for memory in (least, 3 * least):
        source = ExpertCache(tensors, memory, used=USED)
        assert source.memory == memory
        assert same(logits_of(decoder_of(source, config)), logits_of(decoder_of(tensors, config)))
        assert source.stats.misses > 0


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_policy_guess_or_size_changes_a_bit(models: _Models, data: st.DataObject) -> None:
    tensors, config = models.open(data.draw(st.sampled_from(list(FAMILIES))), "tiles")
    resident = decoder_of(tensors, config)
    trace = choices(resident)
    want = logits_of(resident)
    policies: list[Policy] = [LeastRecent(), LeastFrequent(), FrequencyOverDistance(LAYERS), Oracle(trace)]
    units = experts_of(tensors)
    source = ExpertCache(
        tensors,
        least_memory(units, USED) + data.draw(st.integers(0, 200_000)),
        used=USED,
        policy=data.draw(st.sampled_from(policies)),
        storage=FileStorage(data.draw(st.integers(1, 3))),
    )
    decoder = decoder_of(source, config)
    random = np.random.default_rng(data.draw(st.integers(0, 9)))
    for each in mixtures(decoder):  # guesses of the next layer, right or wrong

        def guess(layer: int, chosen: Any) -> None:
            after = min((unit[0] for unit in units if unit[0] > layer), default=0)
            source.guess({(after, number): random.random() for number in range(EXPERTS)})

        each.listeners.append(guess)
    assert same(logits_of(decoder), want)


def test_what_is_read_found_and_wasted_is_counted(models: _Models) -> None:
    tensors, _ = models.open("mixtral", "tiles")
    units, timeline = experts_of(tensors), Timeline()
    sizes = {unit: Extents(parts).nbytes for unit, parts in units.items()}
    most = max(sizes.values())
    padded = {unit: parts for unit, parts in units.items() if sizes[unit] == most}
    source = ExpertCache(tensors, 4 * most, used=USED, units=padded, timeline=timeline)
    at_first, random = source.bytes_read, np.random.default_rng(0)
    of_layer = {layer: [unit for unit in padded if unit[0] == layer] for layer in range(LAYERS)}
    seen = [
        [tuple(unit) for unit in random.choice(of_layer[number % LAYERS], USED, replace=False).tolist()]
        for number in range(40)
    ]
    for asked in seen:
        list(source.ask(asked, lambda unit, tensors: None))
    recent: list[Unit] = []  # the oracle: four units, the least recently used goes
    missed = 0
    for asked in seen:
        missed += sum(unit not in recent for unit in asked)
        recent = ([unit for unit in recent if unit not in asked] + asked)[-4:]
    stats = source.stats
    assert (stats.misses, stats.hits) == (missed, sum(map(len, seen)) - missed)
    read = sum(span.facts["bytes"] for span in timeline.spans if span.lane == "disk")
    assert read == stats.bytes_read == source.bytes_read - at_first
    assert (stats.late, stats.bytes_wasted) == (0, 0)
    assert 0 < stats.stall_seconds <= timeline.busy("wait") + 1e-3


def test_a_guess_that_comes_true_is_no_miss_and_one_that_does_not_is_waste(models: _Models) -> None:
    tensors, _ = models.open("mixtral", "tiles")
    units = experts_of(tensors)
    source = ExpertCache(tensors, least_memory(units, 2), used=USED)

    def take(*asked: Unit) -> None:
        assert [unit for unit, _ in source.ask(asked, lambda unit, tensors: unit)] == list(asked)

    source.guess({(0, 1): 0.9, (0, 2): 0.8})
    take((0, 1))
    assert source.stats.misses == 0
    assert source.stats.hits + source.stats.late == 1
    assert source.stats.bytes_wasted == 0
    take((1, 0), (1, 1))  # the guess of (0, 2) makes room
    one = sum(part.nbytes for part in units[0, 2])
    assert source.stats.misses == 2
    assert source.stats.bytes_wasted in (0, pytest.approx(one, rel=0.2))  # if it had begun


def test_the_likelier_is_not_driven_out_by_a_guess(models: _Models) -> None:
    tensors, _ = models.open("mixtral", "tiles")
    units = experts_of(tensors)
    sizes = {unit: Extents(parts).nbytes for unit, parts in units.items()}
    alike = [unit for unit, size in sizes.items() if size == max(sizes.values())]
    first, second, third, *_ = (unit for unit in alike if unit[0] == 1)
    other = next(unit for unit in alike if unit[0] == 0)
    source = ExpertCache(tensors, 2 * sizes[other], used=USED, policy=FrequencyOverDistance(LAYERS))
    for _ in range(60):
        list(source.ask([first, second], lambda unit, tensors: None))
    list(source.ask([other], lambda unit, tensors: None))  # one of them had to go for what was needed
    before = source.stats
    source.guess({third: 1e-3})
    list(source.ask([first, second], lambda unit, tensors: None))
    assert source.stats.misses - before.misses == 1
    assert source.stats.bytes_wasted == 0


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.sets(st.integers(0, 5), min_size=1, max_size=2), min_size=1, max_size=30), st.integers(2, 5)
)
def test_no_policy_beats_the_oracle(uses: list[set[int]], room: int) -> None:
    trace: list[list[Unit]] = [
        [(number % LAYERS, expert) for expert in sorted(use)] for number, use in enumerate(uses)
    ]

    best = misses(Oracle(trace), trace, room)
    for policy in (LeastRecent(), LeastFrequent(), FrequencyOverDistance(LAYERS)):
        assert misses(policy, trace, room) >= best


def test_a_dense_model_is_told_what_does_for_it(tmp_path: Path) -> None:
    config = transformers.AutoConfig.for_model(**(SIZES | {"model_type": "llama"}))
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    with pytest.raises(BadInput, match=r"dense.*--memory streams"):
        ExpertCache(Checkpoint(tmp_path), 1 << 30, used=2)


def test_a_buffer_below_the_experts_of_a_token_names_the_least(models: _Models) -> None:
    tensors, _ = models.open("olmoe", "tiles")
    least = least_memory(experts_of(tensors), USED)
    with pytest.raises(BadInput, match=rf"{least} bytes"):
        ExpertCache(tensors, least - 1, used=USED)


def test_a_missing_expert_is_found_on_opening(models: _Models) -> None:
    tensors, config = models.open("mixtral", "tiles")
    missing = (
        "experts.4.down_proj.weight" if any("mlp" in name for name in tensors) else "experts.4.w2.weight"
    )
    fewer = {name: tensor for name, tensor in tensors.items() if not name.endswith(missing)}
    assert len(fewer) == len(tensors) - LAYERS
    with pytest.raises(BadArtifact, match=r"experts\.4.* is missing"):
        decoder_of(ExpertCache(fewer, 1 << 20, used=USED), config)


def test_a_damaged_expert_is_found_when_it_is_called(models: _Models, tmp_path: Path) -> None:
    _, config = models.open("mixtral", "tiles")
    folder = tmp_path / "damaged"
    folder.mkdir()
    for file in (models.root / "mixtral tiles").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    tensors = Artifact(folder).tensors
    with (folder / "model.safetensors").open("r+b") as file:
        for name, tensor in tensors.items():
            if "experts.2." in name:
                file.seek(tensor.place.offset + tensor.place.nbytes // 2)
                byte = file.read(1)[0]
                file.seek(-1, 1)
                file.write(bytes([byte ^ 4]))
    decoder = decoder_of(ExpertCache(tensors, 1 << 20, used=USED), config)
    sequence = decoder.cache.sequence()
    with pytest.raises(BadArtifact, match=r"experts\.2.* is damaged"):
        decoder.step([(sequence, list(range(60)))])
    assert sequence.length == 0


class _Failing:
    """A storage whose reads fail as long as it is told so."""

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
    tensors, config = models.open("qwen3_moe", "tiles")
    want = logits_of(decoder_of(tensors, config))
    storage = _Failing()
    source = ExpertCache(tensors, least_memory(experts_of(tensors), USED), used=USED, storage=storage)
    decoder = decoder_of(source, config)
    sequence, free = decoder.cache.sequence(), decoder.cache.free_tokens
    for _ in range(2):
        storage.fail = True
        source.guess({(0, number): 0.5 for number in range(EXPERTS)})
        with pytest.raises(BadInput, match="Input/output error"):
            decoder.step([(sequence, PROMPT)])
        assert (sequence.length, decoder.cache.free_tokens) == (0, free)
        storage.fail = False
        assert same(logits_of(decoder), want)


def test_what_is_needed_jumps_the_queue_of_guesses(models: _Models) -> None:
    tensors, _ = models.open("mixtral", "tiles")
    timeline = Timeline()
    storage = ThrottledStorage(FileStorage(), 5e6)
    source = ExpertCache(
        tensors, 1 << 20, used=USED, policy=FrequencyOverDistance(LAYERS), storage=storage, timeline=timeline
    )
    source.guess({(1, number): 0.9 - number / 10 for number in range(EXPERTS)})
    list(source.ask([(0, 3)], lambda unit, tensors: None))
    order = [span.name for span in timeline.spans if span.lane == "disk"]
    assert order.index("expert (0, 3)") <= 2  # two guesses were on their way, the other four were not
    list(source.ask([(1, 0)], lambda unit, tensors: None))  # those that are left are given up
    assert source.stats.hits + source.stats.late == 1


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs /proc to count threads")
def test_a_cache_that_goes_away_leaves_no_thread_and_no_file(models: _Models) -> None:
    tensors, config = models.open("mixtral", "tiles")

    def held() -> tuple[int, int]:
        gc.collect()
        return len(os.listdir("/proc/self/task")), len(os.listdir("/proc/self/fd"))

    before = None
    for _ in range(5):
        source = ExpertCache(tensors, 1 << 20, used=USED)
        decoder = Decoder(source, config, Kernels(1), context=64)
        decoder.step([(decoder.cache.sequence(), PROMPT)])
        threads = [each for each in threading.enumerate() if each.name == "experts"]
        del source, decoder
        gc.collect()
        for thread in threads:
            thread.join(5)
        before = before or held()
        assert held() == before
