"""The control of every classification set: a linear head on a network that has learned nothing.

Knows networks, inputs and labels. Knows nothing of what is in the inputs. A set on which this control comes near a
trained network says nothing of learning.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from ondevice.errors import BadInput, MissingExtra

Examples = tuple[torch.Tensor, torch.Tensor]
_BATCH = 64
_PIXELS = 20_000
_STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0, 10.0)  # inverse regularisation, from hardly any freedom to much


def frozen_random_accuracy(
    module: nn.Module, train: Examples, test: Examples, *, classes: int, seed: int
) -> float:
    """Share of `test` that a linear head gets right on frozen random features of `module`.

    module: a classifier, or a network whose output is features. A copy gets fresh weights by each layer's own
    `reset_parameters`, drawn by `seed`; the statistics of batch normalisation are those of `train`, or depth would
    drown the signal. Features are what reaches its last `nn.Linear` (a network without one: its output); those of
    more than two axes (rows, channels, ...) are pooled to their mean and maximum.
    train, test: (inputs, labels) with labels int64 in 0..classes-1. Returns a share, 0 to 1.
    Raises BadInput for labels that do not fit, MissingExtra without scikit-learn.
    """
    for inputs, labels in (train, test):
        if len(inputs) != len(labels) or not len(labels):
            raise BadInput(f"{len(inputs)} inputs need as many labels, and one at least, not {len(labels)}")
        if int(labels.min()) < 0 or int(labels.max()) >= classes:
            raise BadInput(
                f"labels must lie in 0..{classes - 1}, not {int(labels.min())}..{int(labels.max())}"
            )
    network = frozen_random(module, train[0], seed)
    learned, judged = (features_of(network, inputs) for inputs, _ in (train, test))
    return linear_accuracy(learned, train[1].numpy(), judged, test[1].numpy(), seed=seed)


def linear_accuracy(
    features: npt.NDArray[np.float32],
    labels: npt.NDArray[np.int64],
    test_features: npt.NDArray[np.float32],
    test_labels: npt.NDArray[np.int64],
    *,
    seed: int = 0,
) -> float:
    """Share of the test that multinomial logistic regression gets right on standardised features.

    features: (rows, width). The strength of its L2 penalty is chosen on the training rows alone, by
    cross-validation in three parts. Raises BadInput where a class has fewer than three training rows,
    MissingExtra without scikit-learn.
    """
    return float(_linear_head(features, labels, seed).score(test_features, test_labels))


def frozen_random_segmentation(
    module: nn.Module, train: Examples, test: torch.Tensor, *, seed: int
) -> npt.NDArray[np.int64]:
    """The class of each pixel of `test` (n, channels, h, w) by a linear head on frozen random features; (n, h, w).

    module: a network whose last `nn.Conv2d` is its head; as in `frozen_random_accuracy` a copy gets fresh weights.
    train: (inputs, masks int64 (n, h, w)); the head learns from 20,000 of its pixels, drawn by `seed`.
    """
    network = frozen_random(module, train[0], seed)
    features = features_of(network, train[0], nn.Conv2d, pooled=False)
    chosen = np.random.default_rng(seed).choice(
        train[1].numel(), min(_PIXELS, train[1].numel()), replace=False
    )
    width = features.shape[1]
    head = _linear_head(
        features.transpose(0, 2, 3, 1).reshape(-1, width)[chosen], train[1].flatten().numpy()[chosen], seed
    )
    judged = features_of(network, test, nn.Conv2d, pooled=False).transpose(0, 2, 3, 1)
    return np.asarray(head.predict(judged.reshape(-1, width)), np.int64).reshape(judged.shape[:3])


def _linear_head(features: npt.NDArray[np.float32], labels: npt.NDArray[np.int64], seed: int) -> Any:
    try:
        from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped]
        from sklearn.model_selection import GridSearchCV, StratifiedKFold  # type: ignore[import-untyped]
        from sklearn.pipeline import make_pipeline  # type: ignore[import-untyped]
        from sklearn.preprocessing import StandardScaler  # type: ignore[import-untyped]
    except ImportError as error:
        raise MissingExtra("scikit-learn", "demo", "to fit the linear head of the control") from error
    counts = np.unique(labels, return_counts=True)[1]
    if len(counts) < 2 or counts.min() < 3:
        raise BadInput("the control needs two classes or more, and three training examples of each")
    search = GridSearchCV(
        make_pipeline(StandardScaler(), LogisticRegression(max_iter=300)),
        {"logisticregression__C": _STRENGTHS},
        cv=StratifiedKFold(3, shuffle=True, random_state=seed),
    )
    return search.fit(features, labels)


def frozen_random(module: nn.Module, inputs: torch.Tensor, seed: int) -> nn.Module:
    """A copy of `module` with random weights, in eval mode; see `frozen_random_accuracy`. The state of the global
    generator is left as it was."""
    network = copy.deepcopy(module)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        for part in network.modules():
            reset = getattr(part, "reset_parameters", None)
            if callable(reset):
                reset()
    norms = [part for part in network.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]
    if norms:
        network.eval()
        for norm in norms:
            norm.train()
            norm.momentum = None  # a plain mean over the batches
        with torch.no_grad():
            for batch in torch.split(inputs[: 16 * _BATCH], _BATCH):
                network(batch)
    return network.eval()


def features_of(
    network: nn.Module, inputs: torch.Tensor, head: type[nn.Module] = nn.Linear, *, pooled: bool = True
) -> npt.NDArray[np.float32]:
    """What reaches the last part of that type (the output where there is none), a row each; pooled as
    `frozen_random_accuracy` says, or as it is."""
    heads = [part for part in network.modules() if isinstance(part, head)]
    caught: list[torch.Tensor] = []
    hook = (
        heads[-1].register_forward_pre_hook(lambda _, given: caught.append(given[0]))
        if heads
        else network.register_forward_hook(lambda _, given, result: caught.append(result))
    )
    try:
        with torch.inference_mode():
            for batch in torch.split(inputs, _BATCH):
                network(batch)
    finally:
        hook.remove()
    return torch.cat([_pooled(each) if pooled else each for each in caught]).numpy()


def _pooled(features: torch.Tensor) -> torch.Tensor:
    flat = features.float()
    if flat.ndim == 2:
        return flat
    flat = flat.flatten(2)
    return torch.cat([flat.mean(2), flat.amax(2)], dim=1)
