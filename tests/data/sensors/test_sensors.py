"""Sensors: repeatable, subjects apart, and each class has the sign in its signal that a book names."""

from __future__ import annotations

import numpy as np
import pytest

from ondevice.data import sensors
from ondevice.errors import BadInput

COUNTS = {"motion": 36, "ecg": 50, "motor": 60, "soft": 9}


@pytest.fixture(scope="module")
def recordings() -> dict[str, sensors.DataSet]:
    return {kind: sensors.make("train", count, kind=kind) for kind, count in COUNTS.items()}


def of(samples: sensors.DataSet, name: str) -> np.ndarray:
    """The recordings of one class."""
    return samples["series"][samples["labels"] == samples.classes.index(name)]


@pytest.mark.parametrize("kind", COUNTS)
def test_same_seed_same_set_other_seed_another(kind: str, recordings: dict[str, sensors.DataSet]) -> None:
    assert sensors.make("train", COUNTS[kind], kind=kind).fingerprint() == recordings[kind].fingerprint()
    assert (
        sensors.make("train", COUNTS[kind], kind=kind, seed=1).fingerprint() != recordings[kind].fingerprint()
    )


@pytest.mark.parametrize("kind", COUNTS)
def test_train_and_test_have_other_subjects(kind: str, recordings: dict[str, sensors.DataSet]) -> None:
    train, test = recordings[kind], sensors.make("test", 8, kind=kind)
    assert set(train["subjects"]).isdisjoint(test["subjects"])
    assert set(range(*train.facts["subjects"])).isdisjoint(range(*test.facts["subjects"]))
    steps, channels = train["series"].shape[1:]
    assert channels == len(train.facts["channels"])
    assert np.isfinite(train["series"]).all()
    assert sensors.draw(train, 1).shape[2] == 3
    assert steps >= 128


def test_bodies_at_rest_feel_one_gravity(recordings: dict[str, sensors.DataSet]) -> None:
    motion = recordings["motion"]
    size = np.linalg.norm(motion["series"][:, :, :3], axis=2)
    still = np.isin(motion["labels"], [3, 4, 5])
    np.testing.assert_allclose(size[still].mean(axis=1), 1, atol=0.05)
    assert size[~still].std(axis=1).min() > 3 * size[still].std(axis=1).max()
    lying, standing = of(motion, "lying")[..., 0].mean(axis=1), of(motion, "standing")[..., 0].mean(axis=1)
    assert np.abs(lying).max() < standing.min()


def test_stairs_up_are_slower_and_down_harder(recordings: dict[str, sensors.DataSet]) -> None:
    def pace(series: np.ndarray) -> np.ndarray:
        up = series[..., 0] - series[..., 0].mean(axis=1, keepdims=True)
        return np.abs(np.fft.rfft(up, 1024, axis=1)).argmax(axis=1) * 50 / 1024

    motion = recordings["motion"]
    assert pace(of(motion, "upstairs")).mean() < pace(of(motion, "walking")).mean()
    jerk = {name: np.diff(of(motion, name)[..., 0], axis=1).std(axis=1).mean() for name in motion.classes}
    assert jerk["downstairs"] > jerk["walking"] > jerk["upstairs"]


def beats(lead: np.ndarray) -> np.ndarray:
    """Seconds between R waves: peaks of the slope, at least 0.25 s apart."""
    slope = np.abs(np.gradient(np.convolve(lead, np.hanning(9) / 4, mode="same")))[5:-5]
    found: list[int] = []
    for k in np.argsort(-slope):
        if slope[k] < 0.4 * slope.max():
            break
        if all(abs(k - other) > 60 for other in found):
            found.append(int(k))
    return np.diff(np.sort(found)) / 250


def test_hearts_beat_as_their_rhythm_says(recordings: dict[str, sensors.DataSet]) -> None:
    ecg = recordings["ecg"]
    uneven = {name: np.median([beats(lead).std() for lead in of(ecg, name)[..., 0]]) for name in ecg.classes}
    assert uneven["normal"] < 0.06
    assert uneven["atrial fibrillation"] > 2 * uneven["normal"]
    assert uneven["premature beats"] > 2 * uneven["normal"]
    rates = np.concatenate([60 / beats(lead) for lead in of(ecg, "normal")[..., 0]])
    assert 45 < rates.min() <= rates.max() < 130


def test_motors_shake_at_the_orders_of_their_faults() -> None:
    motor = sensors.make("train", 60, kind="motor")

    def power(name: str, low: float, high: float) -> float:
        spectrum = np.abs(np.fft.rfft(of(motor, name) * np.hanning(1024)[:, None], axis=1)) ** 2
        frequencies = np.fft.rfftfreq(1024, 1 / 4096)
        return float(spectrum[:, (frequencies >= low) & (frequencies < high)].sum(axis=1).mean())

    turning, double = (20, 36), (40, 68)  # once and twice a turn, for every motor's speed
    assert power("imbalance", *turning) > 3 * power("sound", *turning)
    assert power("misalignment", *double) > 3 * power("sound", *double)
    for name in ("outer ring", "inner ring"):
        assert power(name, 600, 1900) > 2 * power("sound", 600, 1900)

    def peaked(name: str) -> float:
        ends = of(motor, name)[..., 0]
        return float(((ends / ends.std(axis=1, keepdims=True)) ** 4).mean())

    assert peaked("outer ring") > 1.2 * peaked("imbalance")


def test_a_soft_finger_has_memory(recordings: dict[str, sensors.DataSet]) -> None:
    """The same angle gives another strain when opening than when closing."""
    soft = recordings["soft"]
    angle, strain = soft["targets"][..., 0], soft["series"][..., 1]
    closing, opening = [], []
    for row in np.flatnonzero(soft["labels"] == 0):
        left = strain[row] - np.polyval(np.polyfit(angle[row], strain[row], 3), angle[row])
        inner = (angle[row] > np.quantile(angle[row], 0.3)) & (angle[row] < np.quantile(angle[row], 0.8))
        speed = np.gradient(angle[row])
        closing += left[(speed > 0.004) & inner].tolist()
        opening += left[(speed < -0.004) & inner].tolist()
    assert min(len(closing), len(opening)) > 20
    assert np.mean(closing) < np.mean(opening) - 0.5
    blocked = soft["labels"] == 1
    assert angle[blocked].max() < 1.1
    assert soft["targets"].shape == (9, 256, 1)


def test_bad_input() -> None:
    for call in (
        lambda: sensors.make("train", 3, kind="sonar"),
        lambda: sensors.make("dev", 3),
        lambda: sensors.make("train", 0),
    ):
        with pytest.raises(BadInput):
            call()
