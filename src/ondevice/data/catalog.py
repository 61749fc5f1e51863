"""The data sets that the project makes, by name.

Knows which module makes what, and what kind of thing a sample is. A maker's module has
    make(split, count, *, seed=0, **settings) -> DataSet
    draw(samples, row) -> uint8 (height, width, 3)     the sample as a person would look at it
and, where a sample is sound,
    listen(samples, row) -> (int16 samples, rate)
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal, Protocol, cast

import numpy as np
import numpy.typing as npt

from ondevice.data.sets import DataSet
from ondevice.errors import BadInput, NotBuilt


class Maker(Protocol):
    """What a maker's module offers."""

    def make(self, split: str, count: int, *, seed: int = 0, **settings: Any) -> DataSet: ...

    def draw(self, samples: DataSet, row: int) -> npt.NDArray[np.uint8]: ...


@dataclass(frozen=True)
class Entry:
    """A data set. kind: what a sample is. module: who makes it."""

    name: str
    title: str
    kind: Literal["image", "audio", "text", "series"]
    module: str

    def maker(self) -> Maker:
        """The module. Raises NotBuilt where it is not written yet."""
        try:
            return cast(Maker, import_module(self.module))
        except ModuleNotFoundError as error:
            if error.name and self.module.startswith(error.name):
                raise NotBuilt(f"the data set {self.name} is not built yet") from error
            raise


_RENDERED = "ondevice.data.rendered"
ENTRIES = {
    entry.name: entry
    for entry in (
        Entry("corpora", "documentation, man pages, arithmetic and JSON, by domain", "text", "ondevice.data.corpora"),
        Entry("templates", "templated queries with slots and intents", "text", "ondevice.data.templates"),
        Entry("skills", "small tasks that a language model learns", "text", "ondevice.data.skills"),
        Entry("commands", "spoken commands of many voices", "audio", "ondevice.data.speech.commands"),
        Entry("speakers", "carrier sentences, to tell voices apart", "audio", "ondevice.data.speech.speakers"),
        Entry("languages", "twenty spoken languages", "audio", "ondevice.data.speech.languages"),
        Entry("keywords", "single spoken words", "audio", "ondevice.data.speech.keywords"),
        Entry("scenes", "street scenes with a class for each pixel", "image", f"{_RENDERED}.scenes"),
        Entry("people", "people with their joints", "image", f"{_RENDERED}.people"),
        Entry("faces", "faces of many identities", "image", f"{_RENDERED}.faces"),
        Entry("pedestrians", "the same pedestrians from several cameras", "image", f"{_RENDERED}.pedestrians"),
        Entry("sprites", "sprites, stills and clips, with captions", "image", f"{_RENDERED}.sprites"),
        Entry("documents", "printed pages with their text and layout", "image", f"{_RENDERED}.documents"),
        Entry("histology", "stained tissue", "image", f"{_RENDERED}.histology"),
        Entry("xrays", "chest radiographs with and without findings", "image", f"{_RENDERED}.xrays"),
        Entry("fog", "clear and foggy views with depth", "image", f"{_RENDERED}.fog"),
        Entry("raw", "sensor mosaics and the pictures they become", "image", f"{_RENDERED}.raw"),
        Entry("sr-patches", "patches at two resolutions", "image", f"{_RENDERED}.sr_patches"),
        Entry("sensors", "motion and electrical sensors of devices", "series", "ondevice.data.sensors"),
        Entry("samples", "scikit-learn's and scikit-image's bundled data", "image", "ondevice.data.samples"),
    )
}  # fmt: skip


def find(name: str) -> Entry:
    """The data set of that name. Raises BadInput for an unknown one."""
    if name not in ENTRIES:
        raise BadInput(f"no data set {name!r}; there are: {', '.join(ENTRIES)}")
    return ENTRIES[name]
