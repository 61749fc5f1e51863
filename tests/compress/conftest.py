"""A tiny random encoder and texts to calibrate it with."""

from __future__ import annotations

import pytest

from ondevice.compress.calibration import Calibration
from ondevice.models.load import load

TEXTS = [
    f"{verb} {article} {adjective} {noun} {tail}".strip()
    for verb in ("open", "return", "jumps over", "read")
    for article in ("the", "a", "two")
    for adjective in ("lazy", "quick", "absolute")
    for noun in ("fox", "café", "value of numbers")
    for tail in ("", "and its lines?")
]


@pytest.fixture
def model(tiny_checkpoint):
    return load(tiny_checkpoint("bert"))


@pytest.fixture
def texts():
    return list(TEXTS)


@pytest.fixture
def calibration(texts):
    return Calibration(texts)
