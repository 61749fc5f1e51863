"""Mosaics: repeatable, cameras apart, the noise is what is said, and the picture is behind it."""

from __future__ import annotations

import numpy as np
import pytest

from ondevice.data.rendered import raw
from ondevice.errors import BadInput
from ondevice.measure.quality.image import psnr


@pytest.fixture(scope="module")
def shots() -> raw.DataSet:
    return raw.make("train", 12, size=64)


def expected_mosaic(samples: raw.DataSet, row: int) -> np.ndarray:
    """The signal behind the noise, in units of full scale: the picture back at the sensor, pixel by pixel."""
    picture = samples["images"][row] / 255
    linear = np.where(picture <= 0.04045, picture / 12.92, ((picture + 0.055) / 1.055) ** 2.4)
    matrix, balance = samples["matrix"][row].astype(float), samples["balance"][row].astype(float)
    signal = np.zeros(picture.shape[:2])
    for y in range(picture.shape[0]):
        for x in range(picture.shape[1]):
            sensed = np.clip(np.linalg.solve(matrix, linear[y, x]), 0, 1) / balance
            signal[y, x] = sensed[(y % 2) + (x % 2)]  # RGGB
    return signal / samples["ratio"][row]


def test_same_seed_same_set_other_seed_another() -> None:
    sets = [raw.make("train", 2, size=32, seed=seed).fingerprint() for seed in (0, 0, 1)]
    assert sets[0] == sets[1] != sets[2]


def test_train_and_test_have_other_cameras_and_places(shots: raw.DataSet) -> None:
    test = raw.make("test", 4, size=32)
    assert set(shots.facts["cameras"]).isdisjoint(test.facts["cameras"])
    assert set(shots["places"]).isdisjoint(test["places"])
    assert not (shots["matrix"][:, None] == test["matrix"][None]).all(axis=(2, 3)).any()


def test_the_noise_has_the_mean_and_variance_it_says(shots: raw.DataSet) -> None:
    scores = []
    for row in range(len(shots)):
        black = float(shots["black"][row])
        measured = (shots["mosaic"][row] - black) / (raw.WHITE - black)
        signal = expected_mosaic(shots, row)
        # rows share an offset, so it is taken out; where counts may be cut at either end, noise is not Gaussian
        left = measured - signal
        safe = signal + 4 * np.sqrt(shots["shot"][row] * signal + shots["read"][row]) < 1
        assert abs(np.median(left[safe])) < 0.02
        deviation = np.sqrt(shots["shot"][row] * signal + shots["read"][row] + (0.3 / raw.WHITE) ** 2)
        score = (left - np.median(np.where(safe, left, np.nan), axis=1, keepdims=True))[safe] / deviation[
            safe
        ]
        scores.append(score[np.isfinite(score)])
    assert np.concatenate(scores).std() == pytest.approx(1, abs=0.12)


def test_without_noise_the_plain_pipeline_finds_the_picture(shots: raw.DataSet) -> None:
    clean = np.stack([expected_mosaic(shots, row) for row in range(3)])
    black = shots["black"][:3, None, None]
    counts = np.round(black + clean * (raw.WHITE - black)).astype(np.uint16)
    quiet = raw.DataSet("raw", "train", {**shots.take(range(3)).arrays, "mosaic": counts}, (), shots.facts)
    developed = np.stack([raw.develop(quiet, row) for row in range(3)])
    noisy = np.stack([raw.develop(shots, row) for row in range(3)])
    assert (psnr(developed, quiet["images"]) > 21).all()  # demosaicing alone costs the rest
    assert (psnr(developed, quiet["images"]) > psnr(noisy, quiet["images"])).all()
    flat = np.abs(np.diff(quiet["images"].astype(int), axis=2)).max(axis=3)[:, :, 1:] < 3
    away = np.abs(developed.astype(int) - quiet["images"])[:, :, 1:-1].max(axis=3)
    assert np.median(away[flat]) <= 4  # where there is nothing to interpolate it is exact


def test_a_sample_is_drawn(shots: raw.DataSet) -> None:
    assert raw.draw(shots, 0).shape == (64, 192, 3)


def test_bad_input() -> None:
    for call in (
        lambda: raw.make("dev", 1),
        lambda: raw.make("train", 0),
        lambda: raw.make("train", 1, size=33),
    ):
        with pytest.raises(BadInput):
            call()
