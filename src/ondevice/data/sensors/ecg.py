"""Electrocardiograms of two leads: a normal heart and four that are not.

Knows the waves of a beat and the rhythm. Knows nothing of sets. Each beat is a sum of Gaussian waves P, Q, R, S,
T as in the model of McSharry et al. (2003); four seconds at 250 a second, in millivolts.

Atrial fibrillation has no P, a quivering baseline and beats at odd times; a premature ventricular beat comes early,
wide and tall, with a pause after it; bundle branch block widens every beat and notches its R; an infarct raises the
line between S and T. Rate, size, axis, wander, muscle and mains vary in all.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

CLASSES = ("normal", "atrial fibrillation", "premature beats", "bundle branch block", "raised ST")
CHANNELS = ("lead II", "lead V2")
UNITS = "mV"
RATE = 250
STEPS = 1000
Series = npt.NDArray[np.float64]
# Of P, Q, R, S, T: seconds after R, millivolts in each lead, seconds of width.
_AT = np.array([-0.17, -0.028, 0.0, 0.028, 0.26])
_HIGH = np.array([[0.14, -0.10, 1.1, -0.20, 0.28], [0.08, -0.02, 0.45, -0.75, 0.38]])
_WIDE = np.array([0.024, 0.009, 0.011, 0.010, 0.045])


def record(random: np.random.Generator, subject: int, label: int) -> dict[str, Series]:
    """{"series": (1000, 2)}."""
    own = np.random.default_rng([subject, *b"sensors ecg"])
    high = _HIGH * own.uniform(0.65, 1.4, (1, 5)) * own.uniform(0.7, 1.3, (2, 1))
    at = _AT * own.uniform(0.9, 1.12)
    wide = _WIDE * own.uniform(0.8, 1.35, 5)
    if own.random() < 0.2:  # a flat or turned T is nothing by itself
        high[:, 4] *= own.uniform(-0.7, 0.2)
    resting = own.uniform(0.62, 1.05)  # seconds between beats
    t = np.arange(STEPS) / RATE
    series = np.zeros((STEPS, 2))
    gap = resting * random.uniform(0.85, 1.15)
    beat = -random.uniform(0, gap)
    breathing = random.uniform(0.0, 0.06)  # a young heart follows the breath
    every = int(random.integers(2, 5))
    count = int(random.integers(0, every))
    while beat < STEPS / RATE + 0.5:
        premature = label == 2 and count % every == 0
        series += _beat(t - beat, high, at * np.sqrt(gap / 0.85), wide, label, premature)
        if label == 1:
            following = gap * np.exp(random.normal(-0.05, 0.24))
        else:
            following = gap * (1 + random.normal(0, 0.02) + breathing * np.sin(2 * np.pi * 0.25 * beat))
        if label == 2 and (count + 1) % every == 0:
            following *= random.uniform(0.55, 0.72)  # the next one comes early
        elif premature:
            following *= random.uniform(1.25, 1.4)  # the pause that makes up for it
        beat += max(0.25, float(following))
        count += 1
    if label == 1:
        quiver = random.uniform(5, 8)
        phase = 2 * np.pi * (quiver * t + 0.1 * np.cumsum(random.normal(0, 0.15, STEPS)))
        series += (
            random.uniform(0.015, 0.06) * (np.sin(phase) + 0.4 * np.sin(2 * phase))[:, None] * [1.0, 1.4]
        )
    wander = np.sin(2 * np.pi * (random.uniform(0.15, 0.4) * t + random.random()))
    series += random.uniform(0.0, 0.35) * wander[:, None] * random.uniform(0.5, 1.2, 2)
    series += (
        random.uniform(0, 0.03) * np.sin(2 * np.pi * (random.choice([50, 60]) * t + random.random()))[:, None]
    )
    series += random.normal(0, random.uniform(0.015, 0.08), series.shape)
    return {"series": series * random.uniform(0.85, 1.15)}


def _beat(t: Series, high: Series, at: Series, wide: Series, label: int, premature: bool) -> Series:
    """One beat in both leads, (steps, 2), t in seconds from its R."""
    place, height, width = at.copy(), high.copy(), wide.copy()
    if label == 1:
        height[:, 0] = 0
    if label == 3:
        width[1:4] *= 1.7
        place[3] *= 1.7
    if premature:
        height[:, 0] = 0
        width[1:4] *= 2.4
        height[:, 2] *= 1.1
        place[3] *= 3.0
        height[:, 4] *= -1.1
    waves = np.exp(-0.5 * ((t[:, None] - place) / width) ** 2)
    beat = waves @ height.T
    if label == 3 and not premature:  # the second peak of a split R
        beat += np.exp(-0.5 * ((t - 0.045) / 0.016) ** 2)[:, None] * (0.4 * np.abs(high[:, 2]))
    if label == 4:
        raised = 1 / (1 + np.exp(-(t - 0.05) / 0.012)) - 1 / (1 + np.exp(-(t - 0.26) / 0.04))
        beat += raised[:, None] * np.array([0.09, 0.15]) * np.abs(high[:, 2:3].T).mean()
    return np.asarray(beat)
