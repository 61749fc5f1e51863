"""speaker-encoder: voices as vectors, learned by telling the training voices apart.

Additive angular margin softmax (Deng 2019, eq. 3; for voices: Xiang 2019) over the training identities; judged by
the equal error rate on identities and sentences that it never heard. Knows the speakers and the encoder.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from ondevice.data.sets import DataSet
from ondevice.data.speech import speakers
from ondevice.data.speech.features import log_mel
from ondevice.measure.quality.speech import equal_error_rate
from ondevice.models.audio.speaker import SpeakerEncoder
from ondevice.models.zoo import ZooScale
from ondevice.train.loop import descend
from ondevice.train.recipes import Progress, Trained

_BATCH, _BANDS, _CROP = 50, 40, 150  # rows, bands, frames
_MARGIN, _SCALE = 0.2, 30.0
_EACH = 6  # sentences of every identity


def train(scale: ZooScale, seed: int, progress: Progress) -> Trained:
    """Train it. The config holds the settings of `log_mel` too ("bands")."""
    full = scale == "full"
    spoken = speakers.make("train", _EACH * (250 if full else 80), seed=seed, each=_EACH)
    test = speakers.make("test", _EACH * (60 if full else 20), seed=seed, each=_EACH)
    config = {"bands": _BANDS, "width": 96, "dimension": 128}
    torch.manual_seed(seed)
    model = SpeakerEncoder(config)
    centres = nn.Parameter(torch.randn(len(spoken.classes), config["dimension"]) * 0.1)
    heard, labels = _features(spoken), torch.from_numpy(spoken["labels"])
    frames = torch.cat(heard)
    model.mean.copy_(frames.mean(0))
    model.deviation.copy_(frames.std(0))
    batches = torch.split(torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed)), _BATCH)
    epochs = 30 if full else 20
    crops, done = np.random.default_rng(seed), 0

    def loss_of(rows: torch.Tensor) -> torch.Tensor:
        nonlocal done
        done += 1
        progress("training", done / (epochs * len(batches)))
        cosine = (
            model(torch.stack([_crop(heard[row], crops) for row in rows.tolist()]))
            @ functional.normalize(centres).T
        )
        return margin_loss(cosine, labels[rows])

    model.train()
    descend([*model.parameters(), centres], loss_of, batches, epochs=epochs, learning_rate=3e-3, weight_decay=1e-3,
            seed=seed)  # fmt: skip
    model.eval()
    data: list[Mapping[str, Any]] = [spoken.fingerprint(), test.fingerprint()]
    return Trained(model, config, _judge(model, test), data)


def margin_loss(cosine: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of scaled cosines (rows, identities), the right one's angle widened by the margin."""
    angle = torch.acos(cosine.clamp(-1 + 1e-6, 1 - 1e-6))
    wider = torch.cos((angle + _MARGIN).clamp_max(math.pi))
    chosen = functional.one_hot(labels, cosine.shape[1]).bool()
    return functional.cross_entropy(_SCALE * torch.where(chosen, wider, cosine), labels)


def _judge(model: SpeakerEncoder, test: DataSet) -> dict[str, float]:
    """Equal error rates of all pairs of test sentences, ours and that of the mean log-mel frame as a vector."""
    heard, labels = _features(test), test["labels"]
    with torch.inference_mode():
        ours = torch.cat([model(features[None]) for features in heard])
        plain = torch.stack([((features - model.mean) / model.deviation).mean(0) for features in heard])
    pairs = np.triu_indices(len(labels), 1)
    same = labels[pairs[0]] == labels[pairs[1]]

    def rate(vectors: torch.Tensor) -> float:
        unit = functional.normalize(vectors, dim=1)
        return 100 * equal_error_rate((unit @ unit.T).numpy()[pairs], same)[0]

    return {"EER %": rate(ours), "EER % of mean log-mel": rate(plain)}


def _features(samples: DataSet) -> list[torch.Tensor]:
    audio = samples.ragged("audio")
    return [torch.from_numpy(log_mel(audio[row], _BANDS)) for row in range(len(audio))]


def _crop(features: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """A second and a half from anywhere, repeated where there is less, and up to 5 dB louder or quieter."""
    whole = features.repeat(-(-_CROP // len(features)), 1)
    start = int(rng.integers(len(whole) - _CROP + 1))
    return whole[start : start + _CROP] + float(rng.uniform(-1.15, 1.15))
