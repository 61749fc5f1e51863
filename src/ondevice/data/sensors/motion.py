"""A phone at the waist while a person walks, climbs, sits, stands or lies: acceleration and rotation.

Knows gait and gravity. Knows nothing of sets. The form is that of UCI-HAR (Anguita et al. 2013): 128 steps at 50 a
second, total acceleration in g and angular velocity in rad/s.

Walking is a periodic push of two steps a stride with the harmonics of its impact; upstairs the push rises slowly and
lets go, at a slower pace and leaning forward; downstairs it lands hard and eases. Who stands sways, who sits shifts now
and then, with the pelvis tilted back; for who lies, gravity points elsewhere. Strength and pace overlap.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

CLASSES = ("walking", "upstairs", "downstairs", "sitting", "standing", "lying")
CHANNELS = ("acc x", "acc y", "acc z", "gyro x", "gyro y", "gyro z")
UNITS = "g, rad/s"
RATE = 50
STEPS = 128
Series = npt.NDArray[np.float64]


def record(random: np.random.Generator, subject: int, label: int) -> dict[str, Series]:
    """{"series": (128, 6)}: up is x for an upright body, y is to the left, z ahead."""
    own = np.random.default_rng([subject, *b"sensors motion"])
    cadence, power, limp = own.uniform(1.6, 2.1), own.uniform(0.75, 1.35), own.uniform(0, 0.18)
    phases, shape = own.uniform(0, 2 * np.pi, (6, 4)), own.uniform(0.6, 1.4, (6, 4))
    slouch, lie = own.normal(0, 0.10), own.choice([-1.0, 1.0])
    t = np.arange(STEPS) / RATE
    acceleration, rotation = np.zeros((STEPS, 3)), np.zeros((STEPS, 3))
    lean = 0.0
    if label < 3:
        slower, strong, lean, skew = ((1.0, 1.0, 0.05, 0.0), (0.9, 0.9, 0.12, 1.2), (1.04, 1.2, 0.0, -1.2))[
            label
        ]
        frequency = cadence * slower * random.uniform(0.88, 1.12)
        impact = strong * np.exp(random.normal(0, 0.25))
        turn = (
            2 * np.pi * (frequency * t + random.random() + 0.02 * np.cumsum(random.normal(0, 0.3, STEPS)) / 5)
        )
        decay = (0.6, 0.52, 0.72)[label] * random.uniform(0.85, 1.1)  # of the harmonics: how hard feet land
        for k in range(4):
            strength = power * impact * decay**k * shape[0, k]
            step = np.cos((k + 1) * turn + 0.12 * phases[0, k] + skew * k)
            acceleration[:, 0] += 0.26 * strength * step * (1 + limp * np.cos(turn / 2))
            acceleration[:, 2] += (
                0.16 * strength * shape[2, k] * np.cos((k + 1) * turn + 0.12 * phases[2, k] + skew * k + 1.3)
            )
            stride = np.cos((k + 1) * turn / 2 + 0.35 * phases[1, k])
            acceleration[:, 1] += 0.11 * strength * shape[1, k] * stride
            rotation[:, 0] += 0.55 * strength * shape[3, k] * np.cos((k + 1) * turn / 2 + phases[3, k])
            rotation[:, 1] += 0.45 * strength * shape[4, k] * np.cos((k + 1) * turn + phases[4, k])
            rotation[:, 2] += 0.35 * strength * shape[5, k] * np.cos((k + 1) * turn / 2 + phases[5, k])
    else:
        size = 0.02 * np.exp(random.normal(0, 0.35))
        motion = np.zeros((STEPS, 3))
        if label == 4:  # who stands sways like a pendulum on the ankles
            for axis, share in ((1, 0.7), (2, 1.0)):
                pace = random.uniform(0.5, 1.1)
                motion[:, axis] = size * share * np.sin(2 * np.pi * (pace * t + random.random()))
        else:  # who sits or lies shifts now and then, and breathes
            for _ in range(int(random.integers(1, 4))):
                at, wide = random.uniform(0, STEPS / RATE), random.uniform(0.08, 0.25)
                bump = np.exp(-0.5 * ((t - at) / wide) ** 2)
                motion += 1.4 * size * bump[:, None] * random.normal(0, 1, 3)
        acceleration += motion
        rotation += np.asarray(np.gradient(motion, axis=0)) * RATE * 0.8
        breath = np.sin(2 * np.pi * (random.uniform(0.2, 0.32) * t + random.random()))
        acceleration[:, 2] += (0.006, 0.004, 0.009)[label - 3] * breath
        lean = (-0.14, 0.02, 0.0)[label - 3] + random.normal(0, 0.08)
    tilt = lean + slouch + random.normal(0, 0.05)
    gravity = np.array([np.cos(tilt), 0.0, np.sin(tilt)])
    if label == 5:
        roll = random.normal(0, 0.5) + lie * random.choice([0.0, np.pi / 2], p=[0.6, 0.4])
        gravity = np.array([random.normal(0, 0.08), np.sin(roll), np.cos(roll)])
        gravity /= np.linalg.norm(gravity)
    mounting = _turned(random.normal(0, 0.2, 3))  # how the phone sits in its pouch today
    series = np.concatenate([(acceleration + gravity) @ mounting.T, rotation @ mounting.T], axis=1)
    series += np.concatenate([random.normal(0, 0.01, 3), random.normal(0, 0.02, 3)])
    series += random.normal(0, 1, series.shape) * ([0.006] * 3 + [0.012] * 3)
    return {"series": series}


def _turned(angles: Series) -> Series:
    """A small rotation about the three axes (Rodrigues)."""
    size = float(np.linalg.norm(angles))
    x, y, z = angles / max(size, 1e-12)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.asarray(np.eye(3) + np.sin(size) * cross + (1 - np.cos(size)) * cross @ cross)
