"""Semi-nonnegative matrix factorisation: W = F G with G >= 0 and F free.

Knows matrices only.
"""

from __future__ import annotations

import torch

_ITERATIONS = 50


def semi_nmf(
    matrix: torch.Tensor, rank: int, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """F (rows, rank) and G (rank, columns), G not negative, that lower |matrix - F G|.

    Source: Ding, Li and Jordan 2010, "Convex and Semi-Nonnegative Matrix Factorizations", eqs. 10 and 11,
    50 iterations from a random start; each lowers the error.
    """
    tiny = torch.finfo(matrix.dtype).tiny
    right = torch.rand(matrix.shape[1], rank, generator=generator, dtype=matrix.dtype) + 0.2
    for _ in range(_ITERATIONS):
        left = _least_squares(matrix, right)
        correlation, gram = matrix.T @ left, left.T @ left
        above = correlation.clamp_min(0) + right @ (-gram).clamp_min(0)
        below = (-correlation).clamp_min(0) + right @ gram.clamp_min(0)
        right = right * (above / below.clamp_min(tiny)).sqrt()
    return _least_squares(matrix, right), right.T


def _least_squares(matrix: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    gram = right.T @ right
    ridge = 1e-12 * float(gram.diagonal().max()) * torch.eye(len(gram), dtype=gram.dtype)
    solved: torch.Tensor = torch.linalg.solve(gram + ridge, right.T @ matrix.T)
    return solved.T
