"""The contract of every technique: settings as a value, and one verb, `apply`.

Knows how a technique is spelt on the command line. Knows nothing of what any technique does.
"""

from __future__ import annotations

import math
import types
from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin, get_type_hints

from ondevice.errors import BadInput

if TYPE_CHECKING:
    from ondevice.compress.calibration import Calibration
    from ondevice.models.model import Model

# What the command line calls each technique, and where it lives.
TECHNIQUES = {
    "expert-bits": ("ondevice.compress.quantize.mixed", "ExpertBits"),
    "lowrank": ("ondevice.compress.factorize.lowrank", "LowRank"),
    "matryoshka": ("ondevice.compress.quantize.matryoshka", "Matryoshka"),
    "prune": ("ondevice.compress.prune.structured", "Prune"),
    "quantize": ("ondevice.compress.quantize.quantize", "Quantize"),
    "sparsify": ("ondevice.compress.prune.unstructured", "Sparsify"),
    "vocabulary": ("ondevice.compress.vocabulary", "Vocabulary"),
}


@dataclass(frozen=True)
class Technique(ABC):
    """A way to make a model smaller. Subclasses are frozen dataclasses whose fields are the settings."""

    @abstractmethod
    def apply(self, model: Model, calibration: Calibration | None = None) -> Model:
        """The smaller model. It shares every tensor that was not touched; `model` is not edited.

        Raises NeedsCalibration where the settings need data and there is none.
        """


def parse(text: str) -> Technique:
    """The technique that a text such as "lowrank:rank=0.5,layers=*query*" spells.

    A pattern of layers holds no comma. Raises BadInput that lists the techniques, or the settings of the
    technique, where a name is not known, and for a value that does not fit.
    """
    name, _, rest = text.strip().partition(":")
    kind = technique(name)
    hints = get_type_hints(kind)
    settings = {field.name: hints[field.name] for field in fields(kind)}
    given: dict[str, Any] = {}
    for part in filter(None, rest.split(",")):
        key, equals, value = part.partition("=")
        key = key.strip()
        if key not in settings:
            raise BadInput(f"{name} has no setting {key!r}; its settings are: {', '.join(settings)}")
        if not equals:
            raise BadInput(f"{name}: the setting {key} has no value; write {key}=VALUE")
        if key in given:
            raise BadInput(f"{name}: the setting {key} is given twice")
        given[key] = _convert(name, key, value.strip(), settings[key])
    try:
        return kind(**given)
    except TypeError as error:  # a setting without a default is missing
        raise BadInput(f"{name}: {error}; its settings are: {', '.join(settings)}") from error


def technique(name: str) -> type[Technique]:
    """The class of a technique by its name on the command line."""
    if name not in TECHNIQUES:
        raise BadInput(f"no technique {name!r}; there are: {', '.join(sorted(TECHNIQUES))}")
    module, attribute = TECHNIQUES[name]
    found: type[Technique] = getattr(import_module(module), attribute)
    return found


def _convert(name: str, key: str, value: str, hint: Any) -> Any:
    """The value as the first of the setting's types that it fits."""
    options = get_args(hint) if get_origin(hint) in (types.UnionType, Union) else (hint,)
    accepted: list[str] = []
    for option in options:
        if get_origin(option) is Literal:
            if value in get_args(option):
                return value
            accepted.extend(map(str, get_args(option)))
        elif option is bool:
            if value.lower() in ("true", "false"):
                return value.lower() == "true"
            accepted.append("true or false")
        elif option is type(None):
            if value.lower() == "none":
                return None
            accepted.append("none")
        elif option is str:
            return value
        else:
            try:
                number = option(value)
                if math.isfinite(number):
                    return number
            except ValueError:
                pass
            accepted.append("a whole number" if option is int else "a number")
    raise BadInput(f"{name}: {key}={value!r} is not accepted; give {' or '.join(accepted)}")
