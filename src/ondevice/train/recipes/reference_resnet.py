"""reference-resnet: a thin ResNet-18 that tells the twenty sprites apart.

Knows the sprites and the network. Held out are objects, patterns and backgrounds of other make (see `sprites`).
"""

from __future__ import annotations

import torch

from ondevice.data.rendered import sprites
from ondevice.models.vision.pixels import pixels
from ondevice.models.vision.resnet import build
from ondevice.models.zoo import ZooScale
from ondevice.train.control import frozen_random_accuracy
from ondevice.train.pictures import accuracy, learn_classes
from ondevice.train.recipes import Progress, Trained

_CONFIG = {"classes": len(sprites.CLASSES), "labels": list(sprites.CLASSES), "width": 16, "blocks": [2, 2, 2, 2],
           "size": 48}  # fmt: skip
# train, test, epochs, difficulty: a thousand hard pictures teach nothing in a minute
_AMOUNT = {"quick": (1200, 400, 16, 0.0), "full": (10000, 2000, 40, 1.0)}


def train(scale: ZooScale, seed: int, progress: Progress) -> Trained:
    """Metrics: accuracy on held-out sprites, and that of a linear head on the same network with random weights."""
    count, judged, epochs, difficulty = _AMOUNT[scale]
    progress("sprites", 0.0)
    learned, held_out = (
        sprites.make(split, rows, seed=seed, difficulty=difficulty)
        for split, rows in (("train", count), ("test", judged))
    )
    inputs, labels = pixels(learned["images"]), torch.from_numpy(learned["labels"])
    test = pixels(held_out["images"]), torch.from_numpy(held_out["labels"])
    module = build(_CONFIG).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    learn_classes(module, inputs, labels, epochs=epochs, seed=seed,
                  progress=lambda done: progress("training", done))  # fmt: skip
    progress("control", 0.0)
    control = frozen_random_accuracy(
        module, (inputs[:4000], labels[:4000]), test, classes=len(sprites.CLASSES), seed=seed
    )
    metrics = {"accuracy": accuracy(module, *test), "frozen_random_accuracy": control}
    return Trained(module, dict(_CONFIG), metrics, [learned.fingerprint(), held_out.fingerprint()])
