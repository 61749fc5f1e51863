"""Connectionist temporal classification: what a sequence of label probabilities says.

Knows log-probabilities; label 0 is the blank. Knows nothing of networks or tokenizers.

Source: Graves, Fernández, Gomez, Schmidhuber (2006).
"""

from __future__ import annotations

import torch

BLANK = 0


def greedy(log_probabilities: torch.Tensor, lengths: torch.Tensor) -> list[list[int]]:
    """The labels of the most probable path of each row, repeats merged and blanks dropped.

    log_probabilities: (batch, frames, labels). lengths: (batch,) frames that count.
    """
    best = log_probabilities.argmax(dim=-1)
    found = []
    for row, length in zip(best.tolist(), lengths.tolist(), strict=True):
        path = row[:length]
        found.append([label for label, before in zip(path, [BLANK, *path]) if label not in (BLANK, before)])
    return found
