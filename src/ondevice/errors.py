"""The errors of ondevice: each says what was wrong and what to do.

Knows nothing of models, files or devices. The command line turns `exit_status` into its exit status.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class OndeviceError(Exception):
    """Base of all errors that ondevice raises on purpose."""

    exit_status = 2


class BadInput(OndeviceError, ValueError):
    """What the caller gave cannot be used: a wrong value, an empty text, an unknown name."""


class UnsupportedModel(BadInput):
    """The architecture, task or file format of the model is not one that ondevice reads."""


class UnsafeModel(BadInput):
    """The model asks for what ondevice refuses: remote code or a pickle with code in it."""


class BadArtifact(BadInput):
    """An artifact is truncated, altered, of an unknown version, or not an artifact at all."""


class NeedsCalibration(BadInput):
    """A technique needs calibration data and got none."""


class DeviceUnknown(BadInput):
    """No profile of that name, or a profile file that cannot be read."""


class BudgetNotMet(OndeviceError):
    """No plan meets the budget. limit: the name of what is in the way. nearest: the choices of the closest plan
    (see `ondevice.compress.planner.Choice`), where planning got so far."""

    exit_status = 1

    def __init__(self, message: str, *, limit: str = "", nearest: Sequence[Any] = ()) -> None:
        super().__init__(message)
        self.limit = limit
        self.nearest = nearest


class MissingExtra(OndeviceError, ImportError):
    """An optional dependency is not installed."""

    exit_status = 3

    def __init__(self, package: str, extra: str, why: str = "") -> None:
        reason = f" ({why})" if why else ""
        super().__init__(
            f"{package} is needed{reason} and not installed; run: pip install 'ondevice-ml[{extra}]'"
        )
        self.package, self.extra = package, extra


class MissingTool(OndeviceError):
    """A program that is not a Python package is missing; the message gives the install command."""

    exit_status = 3


class NotBuilt(OndeviceError):
    """A model of the zoo, a data set or a system that is known but not built here."""


class Busy(OndeviceError):
    """Another process is writing the same folder."""


class ProtocolViolation(OndeviceError):
    """Another party did what was not agreed: it repeated a message, sent it out of turn, or made it up."""
