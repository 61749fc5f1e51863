"""The kernels of 64-bit ARM, cross-compiled and run in an emulator."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

NATIVE = Path(__file__).parents[2] / "native"


@pytest.mark.parametrize(
    ("processor", "expected"), [("cortex-a53", "neon\n"), ("max", "neon with dot products\n")]
)
def test_neon_kernels_pass_the_self_test(
    require_tool: Callable[[str, str], str],
    tmp_path_factory: pytest.TempPathFactory,
    processor: str,
    expected: str,
) -> None:
    compiler = require_tool("aarch64-linux-gnu-g++", "g++-aarch64-linux-gnu")
    emulator = require_tool("qemu-aarch64", "qemu-user")
    folder = tmp_path_factory.getbasetemp() / "neon"
    program = folder / "selftest"
    if not program.exists():
        folder.mkdir()
        objects = []
        for name in (
            "selftest",
            "network",
            "ops",
            "paged",
            "planes",
            "pool",
            "isa_portable",
            "isa_avx2",
            "isa_avx512",
            "isa_neon",
            "isa_neon_dot",
        ):
            objects.append(str(folder / f"{name}.o"))
            options = ["-std=c++17", "-O2", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror"]
            if name == "isa_neon_dot":
                options.append("-march=armv8.2-a+dotprod")
            subprocess.run(
                [compiler, *options, "-c", str(NATIVE / f"{name}.cpp"), "-o", objects[-1]], check=True
            )
        subprocess.run([compiler, "-static", "-pthread", *objects, "-o", str(program)], check=True)
    done = subprocess.run(
        [emulator, "-cpu", processor, str(program)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith(expected)
