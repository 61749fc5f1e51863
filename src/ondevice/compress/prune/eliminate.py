"""Which inputs of a linear layer can go at the least loss, and what the others must then do.

Knows a weight and the second moment of its inputs. Knows nothing of heads, neurons or models.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

# Of the mean diagonal, against directions that calibration hardly saw.
_DAMPING = 1e-3
# Groups that go at once, at most this share of those that are left; the scores are computed anew after each.
_AT_ONCE = 0.02


def eliminate(
    weight: torch.Tensor, second: torch.Tensor, groups: Sequence[torch.Tensor], count: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """(columns that stay, in order; the weight (outputs, columns that stay), float64).

    weight: (outputs, inputs). second: E[x x.T] or covariance of the inputs. groups: columns of each group,
    all of one size. count: how many groups go, fewer than there are. The weight that stays is the
    least-squares reconstruction of the layer's output without the others.

    With H = second the loss of removing a group g is tr(W_g inverse(H^-1_gg) W_g.T), and the best update of
    the others is -W_g inverse(H^-1_gg) H^-1_g: (Optimal Brain Surgeon, Hassibi and Stork 1993, eq. 5; for
    groups as in ZipLM, Kurtic et al. 2023, section 3). The cheapest go first.
    """
    original = weight.detach().double()
    weight = original.clone()
    size = len(second)
    damping = max(_DAMPING * float(second.diagonal().mean()), 1e-30)
    damped = second.double() + damping * torch.eye(size, dtype=torch.float64)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
    left = list(range(len(groups)))
    while count > 0:
        columns = torch.stack([groups[index] for index in left])
        small = torch.linalg.inv(inverse[columns[:, :, None], columns[:, None, :]])
        part = weight[:, columns].transpose(0, 1)  # (groups, outputs, columns of a group)
        losses = ((part @ small) * part).sum(dim=(1, 2))
        going = torch.argsort(losses, stable=True)[: min(count, max(1, int(_AT_ONCE * len(left))))]
        gone = columns[going].reshape(-1)
        block = torch.linalg.solve(inverse[gone][:, gone], inverse[gone])
        weight -= weight[:, gone] @ block
        inverse -= inverse[:, gone] @ block
        chosen = set(going.tolist())
        left = [index for place, index in enumerate(left) if place not in chosen]
        count -= len(chosen)
    kept = torch.cat([groups[index] for index in left])
    # Once more from the original, free of what rounding has added up.
    return kept, torch.linalg.solve(damped[kept][:, kept], damped[kept] @ original.T).T
