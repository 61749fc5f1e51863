"""keyword-dscnn: ten spoken commands, other words and silence, by a network for a microcontroller.

Learns from the training voices' words; judged on unseen voices, and on other words that it never heard. A control
shows that the set is no toy: the same network with random weights and a trained head.
Knows the keywords and the network.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from ondevice.data.sets import DataSet
from ondevice.data.speech import keywords
from ondevice.data.speech.features import cepstra, log_mel
from ondevice.models.audio.dscnn import DSCNN
from ondevice.models.zoo import ZooScale
from ondevice.train.loop import descend
from ondevice.train.recipes import Progress, Trained

_BATCH, _BANDS, _COEFFICIENTS, _STRIDE = 64, 40, 10, 2


def train(scale: ZooScale, seed: int, progress: Progress) -> Trained:
    """Train it. The config says how its cepstra are made: of so many mel bands, every `stride`-th frame."""
    full = scale == "full"
    spoken = keywords.make("train", 3600 if full else 960, seed=seed)
    test = keywords.make("test", 600 if full else 240, seed=seed)
    inputs, labels = features(spoken), torch.from_numpy(spoken["labels"])
    config = {"frames": inputs.shape[1], "coefficients": _COEFFICIENTS, "channels": 64, "blocks": 4,
              "classes": len(spoken.classes), "labels": list(spoken.classes), "bands": _BANDS,
              "stride": _STRIDE}  # fmt: skip
    torch.manual_seed(seed)
    model, control = DSCNN(config), DSCNN(config)
    for network in (model, control):
        network.mean.copy_(inputs.mean((0, 1)))
        network.deviation.copy_(inputs.std((0, 1)))
    batches = torch.split(torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed)), _BATCH)
    epochs = 20 if full else 12
    shifts, done = torch.Generator().manual_seed(seed), 0

    def loss_of(rows: torch.Tensor) -> torch.Tensor:
        nonlocal done
        done += 1
        progress("training", done / (epochs * len(batches)))
        return functional.cross_entropy(
            model(_shifted(inputs[rows], shifts)), labels[rows], label_smoothing=0.05
        )

    model.train()
    descend(
        model.parameters(), loss_of, batches, epochs=epochs, learning_rate=5e-3, weight_decay=1e-3, seed=seed
    )
    model.eval()
    control.eval()
    with torch.inference_mode():
        frozen = functional.layer_norm(control.embed(inputs), (control.head.in_features,)).clone()

    def control_loss(rows: torch.Tensor) -> torch.Tensor:
        return functional.cross_entropy(control.head(frozen[rows]), labels[rows])

    descend(control.head.parameters(), control_loss, batches, epochs=60, learning_rate=2e-2, seed=seed)
    return Trained(model, config, _judge(model, control, test), _data(spoken, test))


def features(samples: DataSet) -> torch.Tensor:
    """Cepstra (n, 49, 10) of clips of a second."""
    rows = [cepstra(log_mel(audio, _BANDS)[::_STRIDE], _COEFFICIENTS) for audio in samples["audio"]]
    return torch.from_numpy(np.stack(rows))


def _judge(model: DSCNN, control: DSCNN, test: DataSet) -> dict[str, float]:
    inputs, labels = features(test), torch.from_numpy(test["labels"])
    unknown = labels == test.classes.index("unknown")
    with torch.inference_mode():
        right = model(inputs).argmax(1) == labels
        random = control.head(functional.layer_norm(control.embed(inputs), (control.head.in_features,)))
    return {
        "accuracy %": 100 * float(right.float().mean()),
        "accuracy % of unknown words": 100 * float(right[unknown].float().mean()),
        "accuracy % of frozen random features": 100 * float((random.argmax(1) == labels).float().mean()),
    }


def _data(*sets: DataSet) -> list[Mapping[str, Any]]:
    return [each.fingerprint() for each in sets]


def _shifted(cepstra: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Rows up to 0.1 s earlier or later, what leaves at one end entering at the other."""
    frames = cepstra.shape[1]
    shift = torch.randint(-5, 6, (len(cepstra), 1), generator=generator)
    place = (torch.arange(frames) + shift) % frames
    return cepstra.gather(1, place.unsqueeze(-1).expand_as(cepstra))
