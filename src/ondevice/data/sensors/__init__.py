"""Series of sensors: motion of people, electrocardiograms, vibration of motors, strain of soft robots.

Knows which kinds there are and who is in which split. Knows nothing of models. Train and test differ in subjects
(facts["subjects"]: people, motors, fingers), each with a body of its own; the classes lie in how a signal is built,
not in its size. Sensors are mounted, gained and disturbed differently at every recording.

Measured (1,500 train, 500 test): a linear head on the frozen random features of a small CNN (4 strided convolutions,
24 to 72 channels), and the same CNN after 15 epochs: motion 63 and 83 %, ecg 65 and 97 %, motor 66 and 90 %, soft
81 and 95 %.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ondevice.data.rendered.canvas import coverage, over, stroke
from ondevice.data.sensors import ecg, motion, motor, soft
from ondevice.data.sets import Array, DataSet, Ragged, generator
from ondevice.errors import BadInput

VERSION = "1"
KINDS: dict[str, Any] = {"motion": motion, "ecg": ecg, "motor": motor, "soft": soft}
SUBJECTS = {"train": range(30), "test": range(30, 45)}
_COLOURS = (
    np.array([(200, 40, 40), (40, 120, 200), (40, 150, 70), (210, 140, 20), (140, 70, 180), (90, 90, 90)])
    / 255
)


def make(split: str, count: int, *, seed: int = 0, kind: str = "motion") -> DataSet:
    """Recordings, classes in turn, subjects dealt evenly.

    series float32 (n, steps, channels), in facts["units"] at facts["rate"] a second, channels named in
    facts["channels"]; labels int64 (n,); subjects int64 (n,); for soft robots also targets float32 (n, steps, 1),
    the angle of bending in radians. kind: motion, ecg, motor or soft. Raises BadInput for another or an empty set.
    """
    if kind not in KINDS:
        raise BadInput(f"no sensors of kind {kind!r}; there are: {', '.join(KINDS)}")
    if count < 1:
        raise BadInput(f"a set of {count} recordings is empty; give 1 or more")
    maker = KINDS[kind]
    random = generator(f"sensors {kind}", split, seed)
    labels = np.arange(count) % len(maker.CLASSES)
    subjects = np.array(SUBJECTS[split])[np.arange(count) // len(maker.CLASSES) % len(SUBJECTS[split])]
    rows = [maker.record(random, int(subject), int(label)) for subject, label in zip(subjects, labels)]
    arrays: dict[str, Array | Ragged] = {
        name: np.stack([row[name] for row in rows]).astype(np.float32) for name in rows[0]
    }
    arrays |= {"labels": labels.astype(np.int64), "subjects": subjects.astype(np.int64)}
    facts = {
        "kind": kind,
        "rate": maker.RATE,
        "channels": list(maker.CHANNELS),
        "units": maker.UNITS,
        "subjects": [SUBJECTS[split].start, SUBJECTS[split].stop],
    }
    return DataSet(f"sensors-{kind}", split, arrays, maker.CLASSES, facts, VERSION)


def draw(samples: DataSet, row: int) -> npt.NDArray[np.uint8]:
    """The channels of one recording, one curve under the other as on a strip of paper."""
    return plotted(samples["series"][row])


def plotted(series: npt.NDArray[np.floating], height: int = 144, width: int = 192) -> npt.NDArray[np.uint8]:
    """Curves of (steps, channels), each in its own row and scaled to it."""
    picture = np.ones((height, width, 3))
    picture[:: height // 8], picture[:, :: width // 8] = (0.92, 0.88, 0.88), (0.92, 0.88, 0.88)
    steps, channels = series.shape
    x = np.linspace(2, width - 3, min(steps, 3 * width))
    for k in range(channels):
        low, high = series[:, k].min(), series[:, k].max()
        curve = np.interp(np.linspace(0, steps - 1, len(x)), np.arange(steps), series[:, k])
        share = (curve - low) / max(high - low, 1e-9)
        y = (k + 0.92 - 0.84 * share) * height / channels
        cover = coverage(stroke(np.stack([x, y], 1), 1.2), height, width)
        over(picture, cover, _COLOURS[k % len(_COLOURS)])
    return np.asarray(np.round(255 * np.clip(picture, 0, 1)), np.uint8)
