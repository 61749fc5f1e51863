from __future__ import annotations

import torch
from torch import nn

from ondevice.layers.factorized import LowRankLinear


def test_the_halves_are_one_matrix_of_that_rank():
    layer = LowRankLinear(nn.Linear(30, 4, bias=False), nn.Linear(4, 20))
    x = torch.randn(6, 30)
    torch.testing.assert_close(layer(x), nn.functional.linear(x, layer.weight, layer.up.bias))
    assert (layer.in_features, layer.out_features, layer.rank) == (30, 20, 4)
    assert int(torch.linalg.matrix_rank(layer.weight)) == 4
    assert layer.macs_per_row() == 4 * 30 + 20 * 4
