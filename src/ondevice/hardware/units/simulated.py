"""Runs the flash core's RTL on pages, cycle by cycle, as a compiled program.

Knows the core's ports. Knows nothing of what is right: that is `ondevice.hardware.ecc`.
"""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ondevice.errors import BadInput
from ondevice.hardware.ecc import THRESHOLD_COPIES, Bits, Bytes
from ondevice.hardware.synthesize import program
from ondevice.hardware.units.flash_core import FlashCore

# Reads 64-bit numbers of each page: copies of the threshold, pairs of values, pairs of inputs, entries. Writes the
# partial outputs of each page and the cycles that it took.
_DRIVER = """
#include "rtl.h"
#include <cstdio>
#include <cstdlib>
#include <vector>

int main(int, char** given) {
    const size_t copies = atol(given[1]), pairs = atol(given[2]), inputs = atol(given[3]), kept = atol(given[4]);
    const size_t rows = pairs / inputs, limit = 2 * (pairs + kept + copies) + 64;
    std::vector<uint64_t> page(copies + pairs + inputs + kept);
    cxxrtl_design::p_top core;
    uint64_t cycles;
    auto tick = [&] { core.p_clk.set(false); core.step(); core.p_clk.set(true); core.step(); ++cycles; };
    while (fread(page.data(), 8, page.size(), stdin) == page.size()) {
        const uint64_t *copy = page.data(), *pair = copy + copies, *x = pair + pairs, *entry = x + inputs;
        cycles = 0;
        core.p_start.set(true); tick(); core.p_start.set(false);
        core.p_copy__valid.set(true);
        for (size_t i = 0; i < copies; ++i) { core.p_copy.set(copy[i]); tick(); }
        core.p_copy__valid.set(false);
        size_t at = 0, taken = 0, done = 0;
        while (done < rows && cycles < limit) {
            core.p_raw__valid.set(at < pairs);
            if (at < pairs) { core.p_raw.set(pair[at]); core.p_x.set(x[at % inputs]); }
            core.p_entry__valid.set(taken < kept);
            if (taken < kept) core.p_entry.set(entry[taken]);
            core.p_clk.set(false);
            core.step();
            at += core.p_raw__ready.get<uint32_t>();
            taken += core.p_entry__ready.get<uint32_t>();
            tick();
            if (core.p_sum__valid.get<uint32_t>()) {
                const int64_t sum = (int32_t)core.p_sum.get<uint32_t>();
                fwrite(&sum, 8, 1, stdout);
                ++done;
            }
        }
        if (done < rows) return 1;
        fwrite(&cycles, 8, 1, stdout);
    }
}
"""


def run_core(
    core: FlashCore, pages: Bytes, spare: Bits, x: Bytes
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Partial outputs of pages (n, page) times x (n, columns), (n, page / columns), and the cycles of each page, (n,).

    Raises BadInput for inputs of another size, and as `program` does.
    """
    code = core.code
    if x.shape != (len(pages), core.columns) or x.dtype != np.int8:
        raise BadInput(f"inputs must be {(len(pages), core.columns)} of int8, not {x.shape} of {x.dtype}")

    def pairs(values: Bytes) -> npt.NDArray[np.int64]:
        two = values.view(np.uint8).astype(np.int64).reshape(len(values), -1, 2)
        return two[:, :, 0] | two[:, :, 1] << 8

    copies = np.packbits(spare[:, -8 * THRESHOLD_COPIES :], axis=1, bitorder="little").astype(np.int64)
    numbers = np.concatenate([copies, pairs(pages), pairs(x), code.entries(spare)], axis=1)
    sizes = THRESHOLD_COPIES, code.page // 2, core.columns // 2, code.kept
    with tempfile.TemporaryDirectory() as folder:
        command = [str(program(core, _DRIVER, Path(folder))), *map(str, sizes)]
        made = subprocess.run(command, input=numbers.tobytes(), capture_output=True)
    if made.returncode:
        raise BadInput("the core did not end a page")
    found = np.frombuffer(made.stdout, np.int64).reshape(len(pages), -1)
    return found[:, :-1], found[:, -1]
