"""A device: its peaks, memories, power and links, each figure with its source.

Knows TOML files and figures. Knows nothing of models, time or energy (see roofline, energy), and measures
nothing (see ondevice.measure.here, which writes the profile `here` into the cache).
"""

from __future__ import annotations

import json
import math
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from ondevice.cache import cache_folder
from ondevice.errors import BadInput, DeviceUnknown

NumberFormat = Literal["fp32", "fp16", "bf16", "int8"]
Kind = Literal["board", "phone", "laptop", "accelerator", "microcontroller", "server", "host"]

# A device that lacks a format can still compute it in the next wider one that it has.
_WIDER: dict[str, tuple[str, ...]] = {
    "int8": ("int8", "fp16", "bf16", "fp32"),
    "fp16": ("fp16", "fp32"),
    "bf16": ("bf16", "fp32"),
    "fp32": ("fp32",),
}
_THERMAL = (
    "throttle_celsius",
    "die_capacity",
    "case_capacity",
    "die_resistance",
    "case_resistance",
    "ambient_celsius",
)


@dataclass(frozen=True)
class Sourced:
    """A figure and where it comes from: a datasheet, a publication, a measurement, or an assumption with its
    reason."""

    value: float
    source: str

    def __post_init__(self) -> None:
        if isinstance(self.value, bool) or not isinstance(self.value, (int, float)):
            raise BadInput(f"a figure must be a number, not {self.value!r}")
        if not math.isfinite(self.value) or self.value < 0:
            raise BadInput(f"a figure must be finite and not negative, not {self.value!r}")
        if not isinstance(self.source, str) or not self.source.strip():
            raise BadInput(f"the figure {self.value!r} has no source; say where it comes from")


@dataclass(frozen=True)
class Tier:
    """One level of memory: size in bytes, bandwidth in bytes/s, energy in joules a byte."""

    name: str
    size: Sourced
    bandwidth: Sourced
    energy: Sourced


@dataclass(frozen=True)
class Achieved:
    """What software reaches of the figures: fractions of peak and of bandwidth, and seconds an operation
    costs however small it is. `roofline.calibrate` fits all three."""

    compute: Sourced
    bandwidth: Sourced
    overhead: Sourced


@dataclass(frozen=True)
class Device:
    """A profile.

    peaks: operations/s by number format (a multiply and an add are two), of one core or of the whole device
        as `peaks_per` says. memory: fastest tier first. memory_limit: bytes that an app can use.
    power: watts, `idle` and `active`. storage_bandwidth: bytes/s. links: bytes/s by name.
    thermal: `throttle_celsius`, and the network of `thermal.ThermalNetwork` (J/K, K/W, degrees Celsius).
    emulator: the QEMU machine with the same core, where there is one.
    """

    name: str
    title: str
    kind: Kind
    cores: Sourced
    peaks: Mapping[str, Sourced]
    peaks_per: Literal["core", "device"]
    memory: tuple[Tier, ...]
    memory_limit: Sourced
    power: Mapping[str, Sourced] = field(default_factory=dict)
    storage_bandwidth: Sourced | None = None
    links: Mapping[str, Sourced] = field(default_factory=dict)
    thermal: Mapping[str, Sourced] = field(default_factory=dict)
    achieved: Achieved | None = None
    emulator: str = ""

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise BadInput(f"{self.name}: kind {self.kind!r} is none of {', '.join(get_args(Kind))}")
        if self.peaks_per not in ("core", "device"):
            raise BadInput(f"{self.name}: peaks_per must be core or device, not {self.peaks_per!r}")
        _check_names(self.name, "peaks", self.peaks, get_args(NumberFormat))
        _check_names(self.name, "power", self.power, ("idle", "active"))
        _check_names(self.name, "thermal", self.thermal, _THERMAL)
        if not self.peaks or not self.memory:
            raise BadInput(f"{self.name}: a profile needs at least one peak and one memory tier")
        must_be_positive = [self.cores, self.memory_limit, *self.peaks.values()]
        must_be_positive += [figure for tier in self.memory for figure in (tier.size, tier.bandwidth)]
        if self.achieved is not None:
            must_be_positive += [self.achieved.compute, self.achieved.bandwidth]
        if any(figure.value == 0 for figure in must_be_positive):
            raise BadInput(f"{self.name}: cores, peaks, sizes, bandwidths and fractions must be above zero")
        if self.power and set(self.power) != {"idle", "active"}:
            raise BadInput(f"{self.name}: give both idle and active power, or neither")
        if self.power and self.power["active"].value <= self.power["idle"].value:
            raise BadInput(f"{self.name}: active power must be above idle power")

    def peak(self, number_format: str, threads: int | None = None) -> float:
        """Operations/s in a number format on so many threads (None: all cores).

        A format that the device lacks runs at the rate of the next wider one; where there is none
        (fp32 on an int8 accelerator), BadInput.
        """
        if number_format not in _WIDER:
            raise BadInput(f"number format {number_format!r} is none of {', '.join(_WIDER)}")
        if threads is not None and threads < 1:
            raise BadInput(f"threads must be at least 1, not {threads}")
        for wider in _WIDER[number_format]:
            if wider in self.peaks:
                used = min(threads or math.inf, self.cores.value) if self.peaks_per == "core" else 1
                return self.peaks[wider].value * used
        raise BadInput(f"{self.name} cannot compute in {number_format}; it has {', '.join(self.peaks)}")

    def tier_for(self, size: float) -> Tier:
        """The fastest tier that holds so many bytes (the last one where none does)."""
        return next((tier for tier in self.memory if tier.size.value >= size), self.memory[-1])

    def to_toml(self) -> str:
        """The profile as a TOML document; `from_toml` reads it back to an equal Device."""
        head = ["name", "title", "kind", "peaks_per", "emulator"]
        lines = [f"{key} = {_text(getattr(self, key))}" for key in head]
        lines += [f"cores = {_inline(self.cores)}", f"memory_limit = {_inline(self.memory_limit)}"]
        if self.storage_bandwidth is not None:
            lines.append(f"storage_bandwidth = {_inline(self.storage_bandwidth)}")
        achieved = {} if self.achieved is None else vars(self.achieved)
        tables = {"peaks": self.peaks, "power": self.power, "links": self.links, "thermal": self.thermal}
        for title, figures in (tables | {"achieved": achieved}).items():
            if figures:
                lines += ["", f"[{title}]", *(f"{_key(k)} = {_inline(v)}" for k, v in figures.items())]
        for tier in self.memory:
            lines += ["", "[[memory]]", f"name = {_text(tier.name)}"]
            lines += [f"{key} = {_inline(getattr(tier, key))}" for key in ("size", "bandwidth", "energy")]
        return "\n".join(lines) + "\n"

    @classmethod
    def from_toml(cls, text: str) -> Device:
        """Read a profile. DeviceUnknown says which field is missing, unknown or wrong."""
        try:
            fields = tomllib.loads(text)
            return _device(fields)
        except tomllib.TOMLDecodeError as error:
            raise DeviceUnknown(f"not a device profile: not TOML: {error}") from error
        except (BadInput, KeyError, TypeError, AttributeError) as error:
            reason = f"field {error} is missing" if isinstance(error, KeyError) else str(error)
            raise DeviceUnknown(f"not a device profile: {reason}") from error


def names() -> list[str]:
    """Names of the shipped profiles, and `here` once this machine was measured."""
    shipped = sorted(path.stem for path in _profiles().glob("*.toml"))
    return shipped + (["here"] if here_path().exists() else [])


def here_path() -> Path:
    """Where the measured profile of this machine is kept."""
    return cache_folder() / "devices" / "here.toml"


def load(name_or_path: str | Path) -> Device:
    """A shipped profile by name, `here`, or a profile file by path. DeviceUnknown lists what there is."""
    name = str(name_or_path)
    if name == "here":
        path = here_path()
        if not path.exists():
            raise DeviceUnknown("this machine is not measured yet; run: ondevice devices measure")
    elif name.endswith(".toml"):
        path = Path(name)
    else:
        path = _profiles() / f"{name}.toml"
        if path.parent != _profiles() or not path.exists():
            raise DeviceUnknown(f"no device {name!r}; give a .toml file or one of: {', '.join(names())}")
    try:
        return Device.from_toml(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise DeviceUnknown(f"cannot read the profile {path}: {error}") from error
    except DeviceUnknown as error:
        raise DeviceUnknown(f"{path}: {error}") from error


def _profiles() -> Path:
    return Path(__file__).parent / "profiles"


def _check_names(device: str, table: str, given: Mapping[str, Sourced], known: tuple[str, ...]) -> None:
    if unknown := sorted(set(given) - set(known)):
        raise BadInput(f"{device}: unknown {table} {', '.join(unknown)}; known: {', '.join(known)}")


def _device(fields: dict[str, Any]) -> Device:
    def table(name: str) -> dict[str, Sourced]:
        return {key: Sourced(**value) for key, value in fields.pop(name, {}).items()}

    def tier(given: dict[str, Any]) -> Tier:
        return Tier(given.pop("name"), **{key: Sourced(**value) for key, value in given.items()})

    storage, achieved = fields.pop("storage_bandwidth", None), table("achieved")
    return Device(
        cores=Sourced(**fields.pop("cores")),
        memory_limit=Sourced(**fields.pop("memory_limit")),
        storage_bandwidth=None if storage is None else Sourced(**storage),
        achieved=Achieved(**achieved) if achieved else None,
        memory=tuple(tier(given) for given in fields.pop("memory")),
        peaks=table("peaks"),
        power=table("power"),
        links=table("links"),
        thermal=table("thermal"),
        **fields,
    )


def _inline(figure: Sourced) -> str:
    return f"{{ value = {figure.value!r}, source = {_text(figure.source)} }}"


def _text(value: str) -> str:
    # A JSON string is a TOML string, but for the one control character that only TOML wants escaped.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _key(name: str) -> str:
    return name if re.fullmatch("[A-Za-z0-9_-]+", name) else _text(name)
