from __future__ import annotations

import itertools

import pytest
import torch
from torch.nn import functional

from ondevice.errors import BadInput
from ondevice.models.audio import ctc
from ondevice.models.audio.conformer import Conformer, build

CONFIG = {
    "bands": 20,
    "width": 32,
    "heads": 4,
    "hidden": 48,
    "kernel": 7,
    "layers": 4,
    "exits": [1, 2, 4],
    "labels": 9,
}


@pytest.fixture
def model() -> Conformer:
    torch.manual_seed(0)
    return Conformer(CONFIG).eval()


@pytest.mark.parametrize("frames", [1, 2, 3, 4, 5, 37, 160])
def test_every_exit_gives_probabilities_at_a_quarter_of_the_rate(model, frames):
    exits, lengths = model(torch.randn(2, frames, 20), torch.tensor([frames, max(1, frames // 2)]))
    assert [tuple(each.shape) for each in exits] == [(2, -(-frames // 4), 9)] * 3
    assert lengths.tolist() == [-(-frames // 4), -(-max(1, frames // 2) // 4)]
    for each in exits:
        assert torch.allclose(each.exp().sum(-1), torch.ones(each.shape[:2]), atol=1e-5)


@torch.inference_mode()
def test_a_row_is_the_same_alone_and_padded(model):
    long, short = torch.randn(90, 20), torch.randn(41, 20)
    padded = torch.nn.utils.rnn.pad_sequence([long, short], batch_first=True)
    padded[1, 41:] = 77  # what lies beyond the end must not matter
    together, lengths = model(padded, torch.tensor([90, 41]))
    alone, _ = model(short[None], torch.tensor([41]))
    for a, b in zip(together, alone, strict=True):
        assert torch.allclose(a[1, : lengths[1]], b[0], atol=1e-4)


@torch.inference_mode()
def test_stopping_early_gives_the_early_exits_and_computes_no_more(model):
    features, lengths = torch.randn(1, 40, 20), torch.tensor([40])
    ran: list[int] = []
    for number, layer in enumerate(model.layers):
        layer.register_forward_hook(lambda *_, number=number: ran.append(number))
    whole, _ = model(features, lengths)
    ran.clear()
    early, _ = model(features, lengths, depth=2)
    assert ran == [0, 1]
    assert len(early) == 2
    assert all(torch.equal(a, b) for a, b in zip(early, whole, strict=False))


def test_it_learns_to_write_down_a_row():
    torch.manual_seed(0)
    model = Conformer(CONFIG)
    features, targets = torch.randn(2, 60, 20), torch.tensor([[1, 2, 2, 3], [4, 5, 6, 7]])
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(80):
        exits, lengths = model(features, torch.tensor([60, 60]))
        loss = sum(
            functional.ctc_loss(each.transpose(0, 1), targets, lengths, torch.tensor([4, 4]))
            for each in exits
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    exits, lengths = model(features, torch.tensor([60, 60]))
    assert ctc.greedy(exits[-1], lengths) == targets.tolist()


@pytest.mark.parametrize(
    "change",
    [{"exits": []}, {"exits": [1, 2]}, {"exits": [2, 1, 4]}, {"exits": [0, 4]}, {"heads": 5}, {"kernel": 8}],
)
def test_a_wrong_config_is_refused(change):
    with pytest.raises(BadInput):
        build(CONFIG | change)


def collapse(path: tuple[int, ...]) -> list[int]:
    return [label for label, _ in itertools.groupby(path) if label]


def test_greedy_is_the_best_path_of_all():
    torch.manual_seed(1)
    probabilities = torch.randn(1, 5, 3).log_softmax(-1)
    paths = itertools.product(range(3), repeat=5)
    best = max(
        paths, key=lambda path: sum(float(probabilities[0, frame, label]) for frame, label in enumerate(path))
    )
    assert ctc.greedy(probabilities, torch.tensor([5])) == [collapse(best)]


def test_frames_beyond_the_length_are_not_read():
    probabilities = functional.one_hot(torch.tensor([[1, 1, 0, 1, 2, 2]]), 3).float()
    assert ctc.greedy(probabilities, torch.tensor([6])) == [[1, 1, 2]]
    assert ctc.greedy(probabilities, torch.tensor([3])) == [[1]]
