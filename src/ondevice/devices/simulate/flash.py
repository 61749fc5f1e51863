"""Flash that computes: how long a decoder's token takes when its weights never leave the NAND dies, by equations.

Knows the geometry of a flash array with a compute core on each die, how a weight matrix is cut over the cores, and how
the work is split with a processor beside it. Knows counts of bytes and operations, no models, and runs nothing.

Source: Yu et al., "Cambricon-LLM" (2024), the tiling and the split; no factor is fitted.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ondevice.devices.profile import Sourced
from ondevice.errors import BadInput, DeviceUnknown

_FLASH = (
    "channels",
    "chips",
    "dies",
    "page",
    "array_read",
    "channel_bandwidth",
    "slice",
    "partial",
    "capacity",
)


@dataclass(frozen=True)
class NandArray:
    """channels; chips of a channel; dies of a chip, one compute core each, with a second plane that reads while the
    first computes; page in bytes; array_read: seconds from cells to page register; channel_bandwidth in bytes/s; slice:
    bytes of an ordinary read that cross the channel at once; partial: bytes of a partial output; capacity in bytes."""

    channels: int
    chips: int
    dies: int
    page: int
    array_read: float
    channel_bandwidth: float
    slice: int
    partial: int
    capacity: float

    def __post_init__(self) -> None:
        for name in ("channels", "chips", "dies", "page", "slice", "partial"):
            value = getattr(self, name)
            if value != int(value) or value < 1:
                raise BadInput(f"a flash array needs a whole number of {name} above zero, not {value:g}")
            object.__setattr__(self, name, int(value))
        if not (self.array_read > 0 and self.channel_bandwidth > 0 and self.capacity > 0):
            raise BadInput("array_read, channel_bandwidth and capacity of a flash array must be above zero")

    @property
    def cores(self) -> int:
        """Of one channel."""
        return self.chips * self.dies


@dataclass(frozen=True)
class Tile:
    """What one channel's cores multiply in one request: outputs of `height` rows from `width` inputs, one page a core.
    Channels take tiles beside and below each other, as the matrix has room."""

    height: float
    width: float


@dataclass(frozen=True)
class Rates:
    """Of the whole array: in_flash and ordinary in bytes of weights a second; request: seconds of one read-compute
    request; used: share of a channel that its transfers take; alpha: share of weights that stay in the flash."""

    in_flash: float
    ordinary: float
    request: float
    used: float

    @property
    def alpha(self) -> float:
        return self.in_flash / (self.in_flash + self.ordinary)


@dataclass(frozen=True)
class TokenWork:
    """One token: bytes of weights that it multiplies, bytes of keys and values that it reads, operations of attention,
    and the narrowest matrix (rows, columns), which a tile must fit into."""

    weights: float
    cache: float
    attention: float
    narrowest: tuple[int, int]


@dataclass(frozen=True)
class Platform:
    """A flash array with a processor and its memory. peak: operations/s at 8 bits; memory in bytes, memory_bandwidth
    in bytes/s. figures: every one with its source, by its dotted name in the file."""

    name: str
    title: str
    flash: NandArray
    peak: float
    memory: float
    memory_bandwidth: float
    figures: dict[str, Sourced]

    @classmethod
    def from_toml(cls, text: str) -> Platform:
        """DeviceUnknown says which field is missing or wrong."""
        try:
            fields: dict[str, Any] = tomllib.loads(text)
            figures = {
                f"{table}.{key}": Sourced(**value)
                for table in ("flash", "processor", "memory")
                for key, value in fields[table].items()
            }
            unknown = set(figures) - {f"flash.{name}" for name in _FLASH}
            unknown -= {"processor.peak", "memory.size", "memory.bandwidth"}
            if unknown:
                raise BadInput(f"unknown {', '.join(sorted(unknown))}")
            flash = NandArray(**{name: figures[f"flash.{name}"].value for name in _FLASH})  # type: ignore[arg-type]
            return cls(
                fields["name"], fields["title"], flash, figures["processor.peak"].value,
                figures["memory.size"].value, figures["memory.bandwidth"].value, figures,
            )  # fmt: skip
        except KeyError as missing:
            raise DeviceUnknown(f"not a flash platform: field {missing} is missing") from missing
        except (tomllib.TOMLDecodeError, BadInput, TypeError, AttributeError) as problem:
            raise DeviceUnknown(f"not a flash platform: {problem}") from problem


@dataclass(frozen=True)
class TokenTime:
    """Seconds of one token: weights (flash and processor together), cache (keys and values from memory), attention
    (on the processor). All modelled."""

    weights: float
    cache: float
    attention: float
    tile: Tile
    rates: Rates

    @property
    def seconds(self) -> float:
        return self.weights + self.cache + self.attention


def names() -> list[str]:
    """The shipped platforms."""
    return sorted(path.stem for path in _folder().glob("*.toml"))


def load(name_or_path: str | Path) -> Platform:
    """A shipped platform by name, or a .toml file by path. DeviceUnknown lists what there is."""
    name = str(name_or_path)
    path = Path(name) if name.endswith(".toml") else _folder() / f"{name}.toml"
    if not name.endswith(".toml") and (path.parent != _folder() or not path.exists()):
        raise DeviceUnknown(f"no flash platform {name!r}; give a .toml file or one of: {', '.join(names())}")
    try:
        return Platform.from_toml(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise DeviceUnknown(f"cannot read the platform {path}: {error}") from error


def best_tile(flash: NandArray) -> Tile:
    """The tile whose inputs and partial outputs are the fewest bytes: height * width is one page of each core, so
    partial * height + width is least where both are equal."""
    pages = flash.cores * flash.page
    return Tile(math.sqrt(pages / flash.partial), math.sqrt(pages * flash.partial))


def row_tile(flash: NandArray, columns: int) -> Tile:
    """A page as rows of the matrix lie in it, not cut into tiles: every core takes all inputs."""
    return Tile(flash.cores * flash.page / columns, columns)


def rates(flash: NandArray, tile: Tile) -> Rates:
    """How fast weights are multiplied where they lie, and read past that. A tile whose transfers alone are longer than
    the array read is bound by the channel."""
    moved = flash.partial * tile.height + tile.width
    request = max(flash.array_read + tile.width / flash.channel_bandwidth, moved / flash.channel_bandwidth)
    used = min(1.0, moved / (flash.array_read * flash.channel_bandwidth))
    in_flash = flash.cores * flash.page / request
    return Rates(
        flash.channels * in_flash, flash.channels * (1 - used) * flash.channel_bandwidth, request, used
    )


def check(platform: Platform, work: TokenWork, tile: Tile, stored: float) -> None:
    """Raises BadInput where the model (of `stored` bytes), its cache or the tile does not fit."""
    flash = platform.flash
    if stored > flash.capacity:
        raise BadInput(
            f"{stored / 1e9:.4g} GB of weights are more than the {flash.capacity / 1e9:.4g} GB of flash of "
            f"{platform.name}; take a smaller model or more chips"
        )
    if work.cache > platform.memory:
        raise BadInput(
            f"keys and values of this context take {work.cache / 1e9:.4g} GB, {platform.name} has "
            f"{platform.memory / 1e9:.4g} GB of memory; shorten the context"
        )
    rows, columns = work.narrowest
    all_pages = flash.channels * flash.cores * flash.page
    if tile.height > rows or tile.width > columns or all_pages > rows * columns:
        raise BadInput(
            f"a tile of {flash.channels} channels x {tile.height:.0f} x {tile.width:.0f} is larger than the matrix of "
            f"{rows} x {columns}; {platform.name} has more cores than this model can use"
        )


def token_time(platform: Platform, work: TokenWork, tile: Tile | None = None) -> TokenTime:
    """One token by the equations, at the best tile unless another is given."""
    tile = tile or best_tile(platform.flash)
    at = rates(platform.flash, tile)
    return TokenTime(
        work.weights / (at.in_flash + at.ordinary),
        work.cache / platform.memory_bandwidth,
        work.attention / platform.peak,
        tile,
        at,
    )


def offloading_time(platform: Platform, work: TokenWork, storage_bandwidth: float) -> float:
    """Seconds of one token where the same processor reads all weights from ordinary storage: the reads alone."""
    if storage_bandwidth <= 0:
        raise BadInput("storage_bandwidth must be above zero")
    beside = work.cache / platform.memory_bandwidth + work.attention / platform.peak
    return work.weights / storage_bandwidth + beside


def decoder_work(
    matrices: Sequence[tuple[int, int]], layers: int, head: tuple[int, int], *, heads: int, cached_heads: int,
    head_size: int, context: int,
) -> TokenWork:  # fmt: skip
    """Counts of a decoder with 8-bit weights and an 8-bit cache. matrices: (rows, columns) of one layer; head: of the
    product with the vocabulary. Raises BadInput for sizes that are not above zero."""
    if (
        min(layers, heads, cached_heads, head_size, context, *head, *(size for m in matrices for size in m))
        < 1
    ):
        raise BadInput("the sizes of a decoder and its context must be above zero")
    weights = layers * sum(rows * columns for rows, columns in matrices) + head[0] * head[1]
    cache = 2 * layers * cached_heads * head_size * context
    attention = 2 * 2 * layers * heads * head_size * context
    return TokenWork(weights, cache, attention, min([*matrices, head], key=lambda shape: shape[0] * shape[1]))


def _folder() -> Path:
    return Path(__file__).parent / "platforms"
