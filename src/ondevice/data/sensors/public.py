"""UCI-HAR in the form of `motion`.

Knows its text files. Knows nothing of where to get them.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from ondevice.data.sensors import motion
from ondevice.data.sets import Array, DataSet, Ragged
from ondevice.errors import BadInput


def read_uci_har(folder: str | Path, split: str = "train") -> DataSet:
    """Human Activity Recognition Using Smartphones (Anguita et al. 2013).

    folder: "UCI HAR Dataset", with SPLIT/Inertial Signals/total_acc_x_SPLIT.txt and the other five, y_SPLIT.txt and
    subject_SPLIT.txt. Gives series float32 (n, 128, 6), labels and subjects int64 (n,), classes as `motion` has
    them. Raises BadInput naming the file that is missing or has another number of rows.
    """
    root = Path(folder) / split
    names = [f"{signal}_{axis}" for signal in ("total_acc", "body_gyro") for axis in "xyz"]
    signals = [_table(root / "Inertial Signals" / f"{name}_{split}.txt") for name in names]
    labels = _table(root / f"y_{split}.txt")[:, 0].astype(np.int64) - 1
    subjects = _table(root / f"subject_{split}.txt")[:, 0].astype(np.int64)
    for name, rows in [*zip(names, signals), ("subject", subjects[:, None])]:
        if len(rows) != len(labels):
            raise BadInput(
                f"{name}_{split}.txt has {len(rows)} rows and y_{split}.txt {len(labels)}; take both anew"
            )
    if len({rows.shape[1] for rows in signals}) != 1 or not 0 <= labels.min() <= labels.max() < 6:
        raise BadInput(f"{root} is not UCI-HAR: signals of different length, or activities outside 1..6")
    arrays: dict[str, Array | Ragged] = {
        "series": np.stack(signals, axis=2).astype(np.float32),
        "labels": labels,
        "subjects": subjects,
    }
    facts = {"kind": "motion", "rate": motion.RATE, "channels": list(motion.CHANNELS), "units": motion.UNITS}
    return DataSet("uci-har", split, arrays, motion.CLASSES, facts)


def _table(path: Path) -> npt.NDArray[np.float64]:
    if not path.is_file():
        raise BadInput(
            f"{path} is missing; give the folder 'UCI HAR Dataset' as it was unpacked, with a split it has"
        )
    try:
        rows = np.loadtxt(path, ndmin=2)
    except ValueError as error:
        raise BadInput(f"{path} is not a table of numbers: {error}") from error
    if not rows.size:
        raise BadInput(f"{path} is empty")
    return rows
