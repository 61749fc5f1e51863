from __future__ import annotations

import torch

from ondevice.compress.factorize.seminmf import semi_nmf


def test_finds_a_factorisation_that_is_there():
    generator = torch.Generator().manual_seed(0)
    left = torch.randn(20, 3, generator=generator, dtype=torch.float64)
    right = torch.rand(3, 30, generator=generator, dtype=torch.float64)
    f, g = semi_nmf(left @ right, 3, generator)
    assert bool((g >= 0).all())
    assert float((f @ g - left @ right).norm() / (left @ right).norm()) < 0.05


def test_more_columns_lose_less():
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(20, 30, generator=generator, dtype=torch.float64)
    errors = []
    for rank in (2, 8, 16):
        f, g = semi_nmf(matrix, rank, torch.Generator().manual_seed(0))
        errors.append(float((f @ g - matrix).norm()))
    assert errors == sorted(errors, reverse=True)
