"""Pictures against scikit-image, SciPy and by brute force."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ondevice.errors import BadInput
from ondevice.measure.quality.image import cw_ssim, frechet_distance, psnr, ssim, variance_of_laplacian


@pytest.fixture(scope="module")
def photographs() -> np.ndarray:
    """Two that scikit-image brings along: (2, 128, 128, 3) uint8."""
    data = pytest.importorskip("skimage.data")
    return np.stack([data.astronaut()[60:188, 150:278], data.coffee()[100:228, 200:328]])


def noisy(pictures: np.ndarray, sigma: float, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).standard_normal(pictures.shape) * sigma
    return np.clip(pictures + noise, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("sigma", [2.0, 15.0, 60.0])
def test_against_scikit_image(photographs: np.ndarray, sigma: float) -> None:
    metrics = pytest.importorskip("skimage.metrics")
    worse = noisy(photographs, sigma)
    as_floats = psnr(worse / 255, photographs / 255), ssim(worse / 255, photographs / 255)
    for k in range(2):
        expected = metrics.peak_signal_noise_ratio(photographs[k], worse[k])
        assert psnr(worse, photographs)[k] == pytest.approx(expected)
        assert as_floats[0][k] == pytest.approx(expected)
        expected = metrics.structural_similarity(
            photographs[k], worse[k], channel_axis=2, gaussian_weights=True, sigma=1.5,
            use_sample_covariance=False, data_range=255,
        )  # fmt: skip
        assert ssim(worse, photographs)[k] == pytest.approx(expected, abs=1e-9)
        assert as_floats[1][k] == pytest.approx(expected, abs=1e-9)


def test_sharpness_against_scipy(photographs: np.ndarray) -> None:
    ndimage = pytest.importorskip("scipy.ndimage")
    grey = photographs[0] / 255 @ [0.299, 0.587, 0.114]
    expected = ndimage.laplace(grey)[1:-1, 1:-1].var()
    assert variance_of_laplacian(photographs)[0] == pytest.approx(expected)
    soft = ndimage.gaussian_filter(photographs, (0, 2, 2, 0))
    assert (variance_of_laplacian(soft) < variance_of_laplacian(photographs)).all()


@settings(max_examples=15)
@given(st.integers(0, 10**6))
def test_ranges_and_symmetry(seed: int) -> None:
    random = np.random.default_rng(seed)
    a, b = random.random((2, 2, 64, 64, 3))
    for measure in (psnr, ssim, cw_ssim):
        np.testing.assert_allclose(measure(a, b), measure(b, a))
    assert np.isinf(psnr(a, a)).all()
    np.testing.assert_allclose(ssim(a, a), 1)
    np.testing.assert_allclose(cw_ssim(a, a), 1)
    assert (np.abs(ssim(a, b)) < 0.2).all()  # independent noise shares no structure
    assert ((cw_ssim(a, b) >= 0) & (cw_ssim(a, b) < 0.6)).all()


def test_cw_ssim_forgives_a_small_shift_and_no_more(photographs: np.ndarray) -> None:
    data = pytest.importorskip("skimage.data")
    truth = photographs[:1]
    shifted = data.astronaut()[None, 60:188, 152:280]
    other = photographs[1:]
    assert 1 - cw_ssim(shifted, truth)[0] < (1 - ssim(shifted, truth)[0]) / 3
    assert cw_ssim(other, truth)[0] < 0.6 < cw_ssim(shifted, truth)[0]
    scores = [cw_ssim(noisy(truth, sigma), truth)[0] for sigma in (5, 20, 80)]
    assert scores == sorted(scores, reverse=True)
    brighter = (truth * 0.8 + 30).astype(np.uint8)  # light and contrast hardly matter, structure does
    assert cw_ssim(brighter, truth)[0] > 0.95


@pytest.mark.parametrize("seed", range(3))
def test_frechet_distance_against_the_matrix_square_root(seed: int) -> None:
    linalg = pytest.importorskip("scipy.linalg")
    random = np.random.default_rng(seed)
    mix = random.standard_normal((8, 8))
    a, b = random.standard_normal((200, 8)), random.standard_normal((150, 8)) @ mix + 0.3
    first, second = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = linalg.sqrtm(first @ second).real
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(first + second - 2 * root)
    assert frechet_distance(a, b) == pytest.approx(expected)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(a + 2, a) == pytest.approx(4 * 8)


def test_bad_input() -> None:
    good = np.zeros((1, 64, 64, 3))
    for call in (
        lambda: psnr(good, good[:, :5]),
        lambda: psnr(good[0], good[0]),
        lambda: psnr(good, good.astype(np.uint8)),
        lambda: psnr(good, good + np.nan),
        lambda: psnr(good.astype(np.int64), good.astype(np.int64)),
        lambda: ssim(good[:, :10], good[:, :10]),
        lambda: cw_ssim(good[:, :40], good[:, :40]),
        lambda: variance_of_laplacian(np.zeros((1, 64, 64, 2))),
        lambda: frechet_distance(np.zeros((1, 3)), np.zeros((5, 3))),
        lambda: frechet_distance(np.zeros((5, 2)), np.zeros((5, 3))),
        lambda: frechet_distance(np.full((5, 3), np.inf), np.zeros((5, 3))),
    ):
        with pytest.raises(BadInput):
            call()
    with pytest.raises(BadInput, match="one colour"):
        cw_ssim(good, good)
    with pytest.raises(BadInput, match="divide by their peak"):
        psnr(good, good + 200)
