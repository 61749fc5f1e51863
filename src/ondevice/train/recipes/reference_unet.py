"""reference-unet: a small U-Net that names every pixel of a street scene.

Knows the scenes and the network. Held out are scenes with other facades, trees, cars, signs and skies (see `scenes`).
"""

from __future__ import annotations

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from ondevice.data.rendered import scenes
from ondevice.measure.quality.segmentation import mean_iou
from ondevice.models.vision.pixels import pixels
from ondevice.models.vision.unet import build
from ondevice.models.zoo import ZooScale
from ondevice.train.control import frozen_random_segmentation
from ondevice.train.loop import descend
from ondevice.train.pictures import outputs
from ondevice.train.recipes import Progress, Trained

_CONFIG = {
    "classes": len(scenes.CLASSES),
    "labels": list(scenes.CLASSES),
    "width": 12,
    "depth": 3,
    "size": [64, 96],
}
_AMOUNT = {"quick": (200, 60, 6), "full": (2000, 300, 8)}  # train, test, epochs
_BATCH = 16


def train(scale: ZooScale, seed: int, progress: Progress) -> Trained:
    """Metrics: mean intersection over union and pixel accuracy on held-out scenes; the same for a linear head on the
    network's features with random weights."""
    count, judged, epochs = _AMOUNT[scale]
    progress("scenes", 0.0)
    learned, held_out = scenes.make("train", count, seed=seed), scenes.make("test", judged, seed=seed)
    inputs, masks = pixels(learned["images"]), torch.from_numpy(learned["masks"]).long()
    module = build(_CONFIG).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    share = torch.bincount(masks.flatten(), minlength=len(scenes.CLASSES)) / masks.numel()
    weight = (
        share.clamp(min=1e-4) ** -0.4
    )  # rare classes count more, or signs and people would not be learned
    chance = torch.Generator().manual_seed(seed)
    batches = list(torch.split(torch.randperm(count, generator=chance), _BATCH))
    steps = 0

    def loss_of(rows: torch.Tensor) -> torch.Tensor:
        nonlocal steps
        steps += 1
        progress("training", steps / (epochs * len(batches)))
        pictures, truth = inputs[rows], masks[rows]
        if float(torch.rand(1, generator=chance)) < 0.5:
            pictures, truth = pictures.flip(3), truth.flip(2)
        gain = torch.exp(0.2 * torch.randn(len(rows), 3, 1, 1, generator=chance))
        shift = 0.2 * torch.randn(len(rows), 3, 1, 1, generator=chance)
        return cross_entropy(module(pictures * gain + shift), truth, weight=weight)

    module.train()
    descend(
        module.parameters(), loss_of, batches, epochs=epochs, learning_rate=6e-3, weight_decay=0.02, seed=seed
    )
    test, truth = pixels(held_out["images"]), held_out["masks"].astype(np.int64)
    found = outputs(module, test).argmax(1).numpy()
    progress("control", 0.0)
    control = frozen_random_segmentation(module, (inputs[:100], masks[:100]), test, seed=seed)
    classes = len(scenes.CLASSES)
    metrics = {
        "mean_iou": mean_iou(found, truth, classes),
        "pixel_accuracy": float((found == truth).mean()),
        "frozen_random_mean_iou": mean_iou(control, truth, classes),
        "frozen_random_pixel_accuracy": float((control == truth).mean()),
    }
    return Trained(module, dict(_CONFIG), metrics, [learned.fingerprint(), held_out.fingerprint()])
