"""Vibration of an electric motor at two places of its housing: sound or with one of five faults.

Knows shafts, bearings and resonances. Knows nothing of sets. A quarter of a second at 4,096 a second, in g.

Imbalance shakes once a turn, misalignment twice, looseness at halves and many multiples; a fault of a bearing's outer
ring strikes at its ball-pass frequency and rings the housing, one of the inner ring does so in and out of the load
(Randall and Antoni 2011, eq. 1 to 3); a worn gear hums at its teeth with side bands. Speed, load, resonance, bearing
and noise vary in all.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

CLASSES = ("sound", "imbalance", "misalignment", "looseness", "outer ring", "inner ring")
CHANNELS = ("drive end", "fan end")
UNITS = "g"
RATE = 4096
STEPS = 1024
Series = npt.NDArray[np.float64]


def record(random: np.random.Generator, subject: int, label: int) -> dict[str, Series]:
    """{"series": (1024, 2)}."""
    own = np.random.default_rng([subject, *b"sensors motor"])
    balls, ratio = int(own.integers(7, 12)), own.uniform(0.18, 0.32)  # ball over pitch diameter
    rings, damping = own.uniform(700, 1700, 2), own.uniform(250, 600, 2)
    path = own.uniform(0.5, 1.3, (2, 12))
    mains, poles = own.choice([50.0, 60.0]), own.uniform(0.02, 0.08)
    turns = own.uniform(23, 32) * random.uniform(0.93, 1.05)  # a second
    t = np.arange(STEPS) / RATE
    phase = 2 * np.pi * (turns * t + random.random())
    strength = 0.7 * np.exp(random.normal(0, 0.35))
    series = np.zeros((STEPS, 2))
    # every motor turns not quite round, misaligned a little, and hums at twice its mains
    run_out = random.uniform(0.5, 1.5)
    orders = {0.5: 0.0, 1.0: 0.10 * run_out, 1.5: 0.0, 2.0: 0.05 * run_out, 3.0: 0.03, 4.0: 0.015, 5.0: 0.01}
    if label == 1:
        orders[1.0] += 0.32 * strength
    elif label == 2:
        orders[2.0] += 0.26 * strength
        orders[1.0] += 0.08 * strength
        orders[4.0] += 0.05 * strength
    elif label == 3:
        orders |= {
            0.5: 0.10 * strength,
            1.5: 0.08 * strength,
            3.0: 0.12 * strength,
            4.0: 0.09 * strength,
            5.0: 0.07 * strength,
        }
    for k, (order, size) in enumerate(orders.items()):
        angles = (
            random.uniform(0, 2 * np.pi, 2)
            if label != 2
            else random.uniform(0, 2 * np.pi) + np.array([0, np.pi])
        )
        series += size * path[:, k] * np.cos(order * phase[:, None] + angles)
    series += poles * np.cos(2 * np.pi * 2 * mains * t + random.uniform(0, 6))[:, None]
    if label >= 4:
        pace = balls / 2 * turns * (1 - ratio if label == 4 else 1 + ratio)
        at = random.uniform(0, 1 / pace)
        while at < STEPS / RATE:
            loaded = 1.0 if label == 4 else max(0.0, 0.5 + 0.5 * np.cos(2 * np.pi * turns * at))
            since = np.clip(t - at, 0, None)[:, None]
            ring = np.exp(-since * damping) * np.sin(2 * np.pi * rings * since)
            series += 0.75 * strength * loaded * ring * [1.0, 0.45]
            at += (1 + random.normal(0, 0.012)) / pace  # balls slip a little
    noise = random.normal(0, 1, (STEPS + 8, 2))
    coloured = sum((0.75**k * noise[k : k + STEPS] for k in range(8)), np.zeros((STEPS, 2)))
    series += random.uniform(0.03, 0.12) * coloured
    return {"series": series * random.uniform(0.8, 1.25, 2)}
