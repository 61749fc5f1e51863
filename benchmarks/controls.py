"""How much there is to learn in each classification set: a small network, trained, beside what knows nothing.

Prints for every set the figure of a trained network, of a linear head on the same network with frozen random weights,
and of the pixels or samples themselves. The docstrings of the sets quote these figures. `ondevice zoo list` has those
of the sets that a model of the zoo learns (sprites, scenes, keywords, speakers).
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional

from ondevice.data import sensors
from ondevice.data.rendered import documents, faces, histology, pedestrians, sprites, xrays
from ondevice.data.speech import languages
from ondevice.data.speech.features import log_mel
from ondevice.measure.quality.vision import multilabel_auroc, reid_map_cmc, verification_accuracy
from ondevice.models.vision.pixels import pixels
from ondevice.train import pictures as augmenting
from ondevice.train.classify import accuracy, learn_classes
from ondevice.train.control import features_of, frozen_random, linear_accuracy
from ondevice.train.loop import descend

Array = npt.NDArray[Any]
Figures = dict[str, float]


def network(channels: int, outputs: int, *, series: bool = False) -> nn.Sequential:
    """Four strided convolutions, 16 to 96 channels wide (24 to 72 for series), a mean, a linear head."""
    convolution, norm = (nn.Conv1d, nn.BatchNorm1d) if series else (nn.Conv2d, nn.BatchNorm2d)
    layers: list[nn.Module] = []
    for width in (24, 36, 54, 72) if series else (16, 32, 64, 96):
        layers += [
            convolution(channels, width, 7 if series else 3, 2, 3 if series else 1),
            norm(width),
            nn.ReLU(),
        ]
        channels = width
    pool: nn.Module = nn.AdaptiveAvgPool1d(1) if series else nn.AdaptiveAvgPool2d(1)
    return nn.Sequential(*layers, pool, nn.Flatten(), nn.Linear(channels, outputs))


def classes(
    train: Any,
    test: Any,
    prepare: Callable[[Any], torch.Tensor],
    epochs: int,
    seed: int,
    mirrored: bool = False,
) -> Figures:
    """Share of the test that is told right. mirrored: the classes stay what they are mirrored and in other light."""
    x, tested = prepare(train), prepare(test)
    y, truth = train["labels"], test["labels"]
    torch.manual_seed(seed)
    module = network(x.shape[1], len(train.classes), series=x.ndim == 3)
    frozen = frozen_random(module, x, seed)
    figures = {
        "frozen random": linear_accuracy(
            features_of(frozen, x), y, features_of(frozen, tested), truth, seed=seed
        ),
        "linear on a coarse picture": linear_accuracy(_coarse(x), y, _coarse(tested), truth, seed=seed),
    }
    learn = augmenting.learn_classes if mirrored else learn_classes
    learn(module, x, torch.from_numpy(y), epochs=epochs, seed=seed)
    return {"trained": accuracy(module, tested, torch.from_numpy(truth))} | figures


def findings(seed: int) -> Figures:
    """Mean AUROC of the findings of radiographs, and of the hardest and the easiest."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    train, test = xrays.make("train", 2500, seed=seed), xrays.make("test", 600, seed=seed)
    x, y = pixels(train["images"]), torch.from_numpy(train["findings"]).float()
    tested, truth = pixels(test["images"]), test["findings"]
    torch.manual_seed(seed)
    module = network(x.shape[1], y.shape[1])
    frozen = frozen_random(module, x, seed)
    scale = StandardScaler().fit(features_of(frozen, x))
    learned, judged = (scale.transform(features_of(frozen, each)) for each in (x, tested))
    heads = [LogisticRegression(C=0.1, max_iter=300).fit(learned, column) for column in y.numpy().T]
    control = np.stack([head.decision_function(judged) for head in heads], 1)
    _learn(
        module,
        lambda rows: functional.binary_cross_entropy_with_logits(module(x[rows]), y[rows]),
        len(x),
        24,
        seed,
    )
    with torch.inference_mode():
        scores = multilabel_auroc(torch.cat([module(part) for part in tested.split(256)]).numpy(), truth)
    return {
        "trained": float(scores.mean()),
        "trained, hardest": float(scores.min()),
        "trained, easiest": float(scores.max()),
        "frozen random": float(multilabel_auroc(control, truth).mean()),
    }


def identities(
    maker: Any, judge: Callable[[Any, Array], float], test: Any, seed: int, **settings: Any
) -> Figures:
    """How well people of the test are told by the cosine of features learned on forty others."""
    train = maker.make("train", 480, seed=seed, identities=40, **settings)
    x, tested = pixels(train["images"]), pixels(test["images"])
    torch.manual_seed(seed)
    module = network(3, 40)
    frozen = frozen_random(module, x, seed)
    learn_classes(module, x, torch.from_numpy(train["identities"]), epochs=30, seed=seed)
    kinds = {"trained": features_of(module, tested), "frozen random": features_of(frozen, tested),
             "the pixels": tested.flatten(1).numpy()}  # fmt: skip
    return {name: judge(test, _unit(features)) for name, features in kinds.items()}


def reidentified(test: Any, features: Array) -> float:
    """Mean average precision; every fourth picture is a query."""
    rows = np.arange(len(test))
    asked, kept = rows[::4], rows[rows % 4 > 0]
    people, cameras = test["identities"], test["cameras"]
    distance = 1 - features[asked] @ features[kept].T
    found = reid_map_cmc(distance, people[asked], people[kept], cameras[asked], cameras[kept])
    return found.mean_average_precision


def verified(test: Any, features: Array) -> float:
    """Share of 600 pairs told right, half of the different ones hard."""
    left, right, same = faces.pairs(test, 600)
    return float(verification_accuracy((features[left] * features[right]).sum(1), same).mean())


def bending(seed: int) -> Figures:
    """Root mean square error of a soft finger's angle, in rad, by linear maps of its readings."""
    sets = [
        sensors.make(split, count, seed=seed, kind="soft") for split, count in (("train", 300), ("test", 90))
    ]

    def design(samples: Any, steps: int) -> tuple[Array, Array]:
        series, count = samples["series"], samples["series"].shape[1] - steps
        past = [series[:, steps - lag : steps - lag + count] for lag in range(steps + 1)]
        rows = np.concatenate([*past, np.ones((*series[:, :count].shape[:2], 1))], axis=2)
        return rows.reshape(-1, rows.shape[2]), samples["targets"][:, steps:].reshape(-1)

    figures = {"deviation of the angle": float(sets[1]["targets"].std())}
    for name, steps in (("from one moment", 0), ("with five earlier", 5)):
        (a, b), (c, d) = (design(samples, steps) for samples in sets)
        figures[name] = float(np.sqrt(np.mean((c @ np.linalg.lstsq(a, b, rcond=None)[0] - d) ** 2)))
    return figures


def _learn(
    module: nn.Module, loss_of: Callable[[Any], torch.Tensor], count: int, epochs: int, seed: int
) -> None:
    batches = torch.randperm(count, generator=torch.Generator().manual_seed(seed)).split(64)
    module.train()
    descend(
        module.parameters(), loss_of, batches, epochs=epochs, learning_rate=2e-3, weight_decay=0.01, seed=seed
    )
    module.eval()


def _coarse(x: torch.Tensor) -> Array:
    """About 300 numbers of each sample: what a linear map could see by itself."""
    small = functional.adaptive_avg_pool1d(x, 64) if x.ndim == 3 else functional.adaptive_avg_pool2d(x, 10)
    return small.flatten(1).numpy()


def _unit(features: Array) -> Array:
    return np.asarray(features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-9))


def _series(samples: Any) -> torch.Tensor:
    series = samples["series"] / samples["series"].std((0, 1), keepdims=True)
    return torch.from_numpy(series).transpose(1, 2).contiguous()


def _spectra(samples: Any) -> torch.Tensor:
    spectra = np.stack([log_mel(audio, 40) for audio in samples["audio"]])
    return torch.from_numpy(spectra - spectra.mean()).float()[:, None]


def _pictures(samples: Any) -> torch.Tensor:
    return pixels(samples["images"])


def _pair(maker: Any, train: int, test: int, seed: int, **settings: Any) -> tuple[Any, Any]:
    return tuple(  # type: ignore[return-value]
        maker.make(split, n, seed=seed, **settings) for split, n in (("train", train), ("test", test))
    )


def sets(seed: int) -> dict[str, Callable[[], Figures]]:
    """What is measured, by name."""
    return {
        "histology": lambda: classes(*_pair(histology, 1536, 480, seed), _pictures, 30, seed, mirrored=True),
        "documents": lambda: classes(*_pair(documents, 720, 240, seed, height=192), _pictures, 20, seed),
        "sprites": lambda: classes(*_pair(sprites, 4000, 1000, seed), _pictures, 20, seed, mirrored=True),
        "xrays": lambda: findings(seed),
        "languages": lambda: classes(*_pair(languages, 1200, 400, seed), _spectra, 15, seed),
        **{
            f"sensors {kind}": lambda kind=kind: classes(  # type: ignore[misc]
                *_pair(sensors, 1500, 500, seed, kind=kind), _series, 15, seed
            )
            for kind in sensors.KINDS
        },
        "sensors soft, angle": lambda: bending(seed),
        "pedestrians": lambda: identities(
            pedestrians, reidentified, pedestrians.make("test", 240, seed=seed, identities=20), seed
        ),
        "faces": lambda: identities(
            faces, verified, faces.make("test", 240, seed=seed, identities=24, size=48), seed, size=48
        ),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", help="of sets; all unless given")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    known = sets(arguments.seed)
    if unknown := set(arguments.names) - set(known):
        parser.error(f"no set {', '.join(sorted(unknown))}; there are: {', '.join(known)}")
    document = {}
    for name in arguments.names or known:
        start = time.monotonic()
        document[name] = {key: round(value, 4) for key, value in known[name]().items()}
        print(f"{name}: {document[name]}, {time.monotonic() - start:.0f} s", file=sys.stderr)
    print(json.dumps(document))


if __name__ == "__main__":
    main()
