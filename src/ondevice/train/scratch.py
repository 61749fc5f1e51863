"""Whether a smaller architecture learns as well as the one it was made from, from random weights.

Knows a small encoder and scikit-learn's handwritten digits. Knows nothing of how a model is made smaller.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ondevice.errors import MissingExtra
from ondevice.models.model import Model
from ondevice.models.vision.rows import row_reader
from ondevice.train.classify import accuracy, learn_classes


@dataclass(frozen=True)
class Learned:
    """parameters: of one model. accuracies: on held-out digits, one a seed."""

    parameters: int
    accuracies: list[float]


def learn_digits(make: Callable[[Model, int], Model], seeds: Sequence[int], *, epochs: int = 20) -> Learned:
    """Train what `make(untrained encoder, seed)` gives, to read digits row by row; a quarter is held out.

    The same seed gives the same weights, split and order to every `make`.
    """
    try:
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split
    except ImportError as error:
        raise MissingExtra("scikit-learn", "demo", "for its handwritten digits") from error
    images, labels = load_digits(return_X_y=True)
    images = (images / 8 - 1).reshape(-1, 8, 8).astype(np.float32)
    parameters, accuracies = 0, []
    for seed in seeds:
        parts = train_test_split(images, labels, test_size=0.25, stratify=labels, random_state=seed)
        train_x, test_x, train_y, test_y = (torch.from_numpy(part) for part in parts)
        module = make(row_reader(rows=8, columns=8, classes=10, seed=seed), seed).module
        learn_classes(module, train_x, train_y, epochs=epochs, seed=seed)
        accuracies.append(accuracy(module, test_x, test_y))
        parameters = sum(parameter.numel() for parameter in module.parameters())
    return Learned(parameters, accuracies)
