from __future__ import annotations

from pathlib import Path

import pytest

from ondevice.devices.profile import load
from ondevice.errors import BadInput
from ondevice.measure.energy import Rapl, carbon, energy_of


def zone(root: Path, name: str, energy: int) -> Path:
    folder = root / name
    folder.mkdir(parents=True)
    (folder / "energy_uj").write_text(f"{energy}\n")
    (folder / "max_energy_range_uj").write_text("10000000\n")
    return folder / "energy_uj"


def test_counters_of_all_packages_add_up_and_wrap(tmp_path: Path) -> None:
    first, second = zone(tmp_path, "intel-rapl:0", 9_500_000), zone(tmp_path, "intel-rapl:1", 100)
    zone(tmp_path, "intel-rapl:0:0", 0)  # a part of package 0

    def work() -> None:
        first.write_text("500000")  # 1 J further, past the end of the counter
        second.write_text(str(int(second.read_text()) + 2_000_000))

    figure = energy_of(work, repeats=1, rapl=Rapl(tmp_path))
    assert figure.kind == "measured"
    assert figure.median == pytest.approx(3.0)


def test_without_counters_it_is_modelled_and_says_so(tmp_path: Path) -> None:
    device = load("raspberry-pi-4")
    figure = energy_of(lambda: sum(range(10000)), device=device, rapl=Rapl(tmp_path))
    assert (figure.kind, figure.unit, figure.n) == ("modelled", "J", 5)
    assert 0 < figure.median < device.power["active"].value  # less than a second's worth


def test_without_either_it_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="cannot be read"):
        energy_of(lambda: None, rapl=Rapl(tmp_path))


def test_a_kilowatt_hour_gives_the_grids_grams() -> None:
    assert carbon(3.6e6, 400) == 400
