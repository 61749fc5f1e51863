"""Profiles: every shipped one is whole and sourced, survives the round trip, and bad ones are refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ondevice.devices import profile
from ondevice.devices.profile import Device, Sourced, Tier, load, names
from ondevice.errors import BadInput, DeviceUnknown

SHIPPED = [name for name in names() if name != "here"]
figures = st.builds(
    Sourced,
    st.floats(min_value=1e-15, max_value=1e18),
    st.text(min_size=1).filter(lambda text: text.strip()),
)


def sources(device: Device) -> list[str]:
    tables = (device.peaks, device.power, device.links, device.thermal)
    found = [device.cores, device.memory_limit, *(figure for table in tables for figure in table.values())]
    found += [figure for tier in device.memory for figure in (tier.size, tier.bandwidth, tier.energy)]
    found += [] if device.achieved is None else list(vars(device.achieved).values())
    return [figure.source for figure in found]


def test_the_issue_s_devices_are_there() -> None:
    assert len(SHIPPED) >= 14
    wanted = "raspberry-pi-4 raspberry-pi-5 orange-pi-5 jetson-nano iphone-15-pro pixel-8 snapdragon-8-gen-3"
    wanted += " macbook-m2 coral-edge-tpu cortex-m4 cortex-m7 cortex-m55 h200-server"
    assert set(wanted.split()) <= set(SHIPPED)


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_profile_is_whole(name: str) -> None:
    device = load(name)
    assert device.name == name
    assert Device.from_toml(device.to_toml()) == device
    kinds = ("datasheet:", "published:", "derived:", "assumed:")
    assert all(source.startswith(kinds) for source in sources(device))
    assert device.memory_limit.value <= max(tier.size.value for tier in device.memory)
    bandwidths = [tier.bandwidth.value for tier in device.memory]
    assert bandwidths == sorted(bandwidths, reverse=True), "tiers go from the fastest to the slowest"


@given(figure=figures, cores=figures, tier=st.text(), title=st.text())
def test_any_profile_survives_the_round_trip(figure: Sourced, cores: Sourced, tier: str, title: str) -> None:
    memory = (Tier(tier, figure, figure, figure),)
    links = {title: figure}
    device = replace(load("cortex-m4"), title=title, cores=cores, memory=memory, links=links, thermal={})
    assert Device.from_toml(device.to_toml()) == device


def test_a_missing_format_runs_as_the_next_wider_one() -> None:
    pi = load("raspberry-pi-4")
    assert pi.peak("fp16") == pi.peak("fp32") == 4 * pi.peak("fp32", threads=1)
    assert pi.peak("int8") > pi.peak("fp32")
    assert pi.peak("fp32", threads=99) == pi.peak("fp32")
    with pytest.raises(BadInput, match="cannot compute in fp32; it has int8"):
        load("coral-edge-tpu").peak("fp32")
    with pytest.raises(BadInput, match="number format"):
        pi.peak("int3")


def test_unknown_names_list_what_there_is(tmp_path: Path) -> None:
    for name in ("rasberry", "../profiles/raspberry-pi-4", ""):
        with pytest.raises(DeviceUnknown, match="raspberry-pi-4"):
            load(name)
    with pytest.raises(DeviceUnknown, match="cannot read"):
        load(tmp_path / "none.toml")


def test_here_says_how_to_measure_and_is_read_from_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ONDEVICE_CACHE", str(tmp_path))
    with pytest.raises(DeviceUnknown, match="ondevice devices measure"):
        load("here")
    assert "here" not in names()
    profile.here_path().parent.mkdir(parents=True)
    profile.here_path().write_text(replace(load("cortex-m4"), name="here").to_toml())
    assert load("here").name == "here"
    assert "here" in names()


@pytest.mark.parametrize(
    "change, message",
    [
        (("fp32 = { value = 80e6", "fp33 = { value = 80e6"), "unknown peaks fp33"),
        (("value = 640e3", "value = -1.0"), "not negative"),
        (("value = 640e3", "value = nan"), "finite"),
        (("value = 640e3", "value = 0"), "above zero"),
        (('"datasheet: one Cortex-M4 with FPU"', '" "'), "no source"),
        (("active = { value = 0.044", "active = { value = 0.0"), "active power"),
        (("memory_limit", "memory_limits"), "memory_limit"),
        (("microcontroller", "toaster"), "toaster"),
        (("[peaks]", "[peaks"), "not TOML"),
        (("cores = {", "cores = 3 #"), "not a device profile"),
    ],
)
def test_a_wrong_profile_says_what_is_wrong(change: tuple[str, str], message: str, tmp_path: Path) -> None:
    text = (Path(profile.__file__).parent / "profiles" / "cortex-m4.toml").read_text()
    assert change[0] in text
    path = tmp_path / "mine.toml"
    path.write_text(text.replace(*change))
    with pytest.raises(DeviceUnknown, match=message):
        load(path)
