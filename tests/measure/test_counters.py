from __future__ import annotations

import importlib
from pathlib import Path

import pytest
import torch
from torch import nn

from ondevice.measure.counters import count, peak_activations
from ondevice.measure.training import saved_for_backward, step_memory


def test_products_are_counted_as_by_hand() -> None:
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 5)
    )
    counts = count(net, torch.randn(2, 3, 6, 6))
    assert counts.macs == 2 * 36 * 8 * 3 * 9 + 2 * 8 * 36 * 5
    assert counts.parameters == 8 * 27 + 8 * 36 * 5 + 5
    assert counts.parameter_bytes == 4 * counts.parameters
    assert sum(counts.by_operator.values()) == counts.macs


def test_attention_is_counted_as_by_hand() -> None:
    class Attention(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return nn.functional.scaled_dot_product_attention(x, x, x)

    assert count(Attention(), torch.randn(1, 4, 10, 16)).macs == 2 * 4 * 10 * 10 * 16


def test_shared_parameters_count_once() -> None:
    net = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    net[1].weight = net[0].weight
    assert count(net, torch.randn(1, 4)).parameters == 16


def test_the_peak_of_a_chain_is_two_neighbours() -> None:
    class Chain(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for width in (100, 300, 200, 50):
                x = x[:, :1].repeat(1, width)  # a view and then a fresh tensor
            return x

    assert count(Chain(), torch.zeros(1, 1)).peak_activation_bytes == 4 * (300 + 200)


def test_views_and_changes_in_place_take_nothing() -> None:
    x = torch.zeros(1000)
    assert peak_activations(lambda: x.view(10, 100).T.add_(1)) == 0
    assert peak_activations(lambda: [x + 1, x + 2]) == 8000
    assert peak_activations(lambda: (x + 1).add_(1)) == 4000


def test_what_autograd_saves_is_counted_as_by_hand() -> None:
    linear, x = nn.Linear(30, 20, bias=False), torch.randn(7, 30)
    # the input for the weight's gradient, and ReLU's result; weights are parameters
    saved = saved_for_backward(lambda: linear(x).relu().sum(), linear.parameters())
    assert saved.bytes == 4 * (7 * 30 + 7 * 20)
    assert saved.by_shape == {(7, 30): 840, (7, 20): 560}
    linear.requires_grad_(False)
    frozen = saved_for_backward(
        lambda: (linear(x) + nn.Parameter(torch.zeros(20))).sum(), linear.parameters()
    )
    assert frozen.bytes == 0  # a bias alone needs no activations


def test_a_storage_saved_twice_counts_once() -> None:
    x = torch.randn(50, requires_grad=True)
    assert saved_for_backward(lambda: (x * x.view(5, 10).view(50)).sum(), []).bytes == 200


DEEP = """
import torch
from torch import nn


def step(rows):
    net = nn.Sequential(*(layer for _ in range(40) for layer in (nn.Linear(16, 16), nn.Sigmoid())))
    x = torch.randn(rows, 16)
    return lambda: net(x).sum().backward()
"""


def test_a_step_takes_the_memory_that_is_counted_and_what_the_allocator_wastes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "deep_network.py").write_text(DEEP)
    monkeypatch.syspath_prepend(str(tmp_path))
    memory = step_memory(importlib.import_module("deep_network").step, 40_000)
    assert memory.live > 40 * 40_000 * 16 * 4  # a sigmoid's result each is needed for the way back
    assert 0.9 < memory.resident / memory.live < 3  # glibc's aligned allocations leave holes
    assert memory.process > memory.resident
