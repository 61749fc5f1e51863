"""Flash that computes: the equations against published figures, a sweep, and the same machine event by event."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ondevice.devices.simulate import flash
from ondevice.errors import BadInput, DeviceUnknown

OPT = flash.decoder_work(
    [(4096, 4096)] * 4 + [(16384, 4096), (4096, 16384)], 32, (50272, 4096),
    heads=32, cached_heads=32, head_size=128, context=1000,
)  # fmt: skip


@pytest.mark.parametrize(
    "name,published", [("cambricon-s", 3.6), ("cambricon-m", 11.0), ("cambricon-l", 36.3)]
)
def test_tokens_a_second_are_those_published(name: str, published: float) -> None:
    assert 1 / flash.token_time(flash.load(name), OPT).seconds == pytest.approx(published, rel=0.15)


def test_the_small_platform_has_the_published_tile() -> None:
    array = flash.load("cambricon-s").flash
    tile = flash.best_tile(array)
    assert (tile.height, array.channels * tile.width) == (256, 2048)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 64), st.integers(1, 16), st.sampled_from([1, 2, 4]),
    st.sampled_from([4096, 16384]), st.floats(0.05, 20),
)  # fmt: skip
def test_no_tile_is_faster_than_the_best(
    channels: int, cores: int, partial: int, page: int, stretch: float
) -> None:
    array = flash.NandArray(channels, cores, 1, page, 30e-6, 1e9, 2048, partial, 1e12)
    best = flash.best_tile(array)
    assert best.height * best.width == pytest.approx(cores * page)
    other = flash.Tile(best.height / stretch, best.width * stretch)

    def moved(tile: flash.Tile) -> float:
        return partial * tile.height + tile.width

    assert moved(best) <= moved(other) * (1 + 1e-9)
    assert flash.rates(array, best).used <= flash.rates(array, other).used + 1e-9


def test_both_sides_end_together() -> None:
    at = flash.token_time(flash.load("cambricon-m"), OPT).rates
    assert OPT.weights * at.alpha / at.in_flash == pytest.approx(OPT.weights * (1 - at.alpha) / at.ordinary)


def test_events_agree_with_equations_and_slices_let_the_cores_go_first() -> None:
    pytest.importorskip("simpy", reason="needs simpy: pip install 'ondevice-ml[hardware]'")
    from ondevice.devices.simulate.flash_events import run_channel

    array = flash.load("cambricon-m").flash
    tile = flash.best_tile(array)
    at = flash.rates(array, tile)
    weights = 400 * array.cores * array.page
    told = weights * array.channels / (at.in_flash + at.ordinary)
    run = run_channel(array, tile, weights)
    assert run.seconds == pytest.approx(told, rel=0.05)
    assert run.seconds >= told * 0.999
    assert run.requests * array.cores + run.reads == pytest.approx(weights / array.page, rel=0.01)
    assert run_channel(array, tile, weights, sliced=False).seconds > run.seconds * 1.02
    assert run_channel(array, tile, weights, alpha=1.0).seconds > run.seconds * 1.1
    assert run_channel(array, flash.row_tile(array, 4096), weights).seconds > run.seconds * 1.05
    assert run_channel(array, tile, weights, parts=50).seconds > run.seconds
    with pytest.raises(BadInput, match="weights"):
        run_channel(array, tile, 0)


def test_what_does_not_fit_is_refused() -> None:
    platform = flash.load("cambricon-l")
    tile = flash.best_tile(platform.flash)
    with pytest.raises(BadInput, match="GB of flash"):
        flash.check(platform, OPT, tile, 1e13)
    with pytest.raises(BadInput, match="shorten the context"):
        flash.check(platform, replace(OPT, cache=3e9), tile, OPT.weights)
    with pytest.raises(BadInput, match="larger than the matrix"):
        flash.check(platform, replace(OPT, narrowest=(256, 1024)), tile, OPT.weights)
    with pytest.raises(BadInput, match="dies above zero"):
        replace(platform.flash, dies=0)
    with pytest.raises(BadInput, match="above zero"):
        flash.offloading_time(platform, OPT, 0)


def test_a_platform_of_ones_own_is_read_and_a_wrong_one_refused(tmp_path) -> None:
    import importlib.resources

    shipped = importlib.resources.files("ondevice.devices.simulate") / "platforms" / "cambricon-s.toml"
    own = tmp_path / "own.toml"
    own.write_text(shipped.read_text().replace("chips = { value = 2", "chips = { value = 4"))
    assert flash.load(own).flash.cores == 8
    own.write_text(shipped.read_text().replace("page = { value = 16384", "pages = { value = 16384"))
    with pytest.raises(DeviceUnknown, match=r"flash\.pages"):
        flash.load(own)
    own.write_text("[flash]")
    with pytest.raises(DeviceUnknown, match="missing"):
        flash.load(own)
    own.write_text(shipped.read_text().replace("channels = { value = 8", "channels = { value = 0"))
    with pytest.raises(DeviceUnknown, match="channels above zero"):
        flash.load(own)
    with pytest.raises(DeviceUnknown, match="cambricon-s"):
        flash.load("abacus")
