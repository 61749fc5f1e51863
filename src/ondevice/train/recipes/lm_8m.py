"""lm-8m: the decoder of reference-lm with twice its layers.

Knows how long it learns; its shape, text and judgement are reference-lm's.
"""

from __future__ import annotations

from ondevice.models.zoo import ZooScale
from ondevice.train.recipes import Progress, Trained
from ondevice.train.recipes.reference_lm import train_decoder


def train(scale: ZooScale, seed: int, progress: Progress) -> Trained:
    """Full: 6 MB of text read one and a half times, 40 minutes of one core. Quick: 1.5 MB, within a minute."""
    full = scale == "full"
    return train_decoder(8, 1700 if full else 400, 1400 if full else 16, seed, progress)
