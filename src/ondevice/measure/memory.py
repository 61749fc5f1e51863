"""Peak resident memory of a command or a callable, in a fresh process.

Knows the operating system's accounting. Knows nothing of what runs.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ondevice.errors import BadInput
from ondevice.measure.timing import Figure

# ru_maxrss is in kilobytes on Linux, in bytes on macOS.
_UNIT = 1 if sys.platform == "darwin" else 1024

# A child's ru_maxrss starts at what its parent held when it forked. So a small process starts the command and
# reads the figure: what is reported is never less than that process itself (about 10 MB), and never ours.
_LAUNCHER = """
import json, os, subprocess, sys, time
out, command = int(sys.argv[1]), sys.argv[2:]
start = time.perf_counter()
try:
    child = subprocess.Popen(command)
except OSError as error:
    result = {"error": str(error)}
else:
    _, status, usage = os.wait4(child.pid, 0)
    result = {"seconds": time.perf_counter() - start, "cpu_seconds": usage.ru_utime + usage.ru_stime,
              "max_rss": usage.ru_maxrss, "status": os.waitstatus_to_exitcode(status)}
os.write(out, json.dumps(result).encode())
"""


@dataclass(frozen=True)
class CommandRun:
    """One run of a command: wall seconds, processor seconds, peak resident bytes."""

    seconds: float
    cpu_seconds: float
    peak_bytes: int


def run_command(command: Sequence[str], *, timeout: float | None = None) -> CommandRun:
    """Run a command in a fresh process group; its standard output is discarded.

    The peak is that of the process itself, not of its children. Raises BadInput where it cannot start, fails,
    or runs past `timeout` seconds (it and its children are ended then).
    """
    if isinstance(command, str) or not command:
        raise BadInput("a command is a list: [program, argument, …]")
    read, write = os.pipe()
    with os.fdopen(read, "rb") as results:
        try:
            launcher = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", _LAUNCHER, str(write), *command],
                pass_fds=[write],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
        finally:
            os.close(write)
        try:
            errors = launcher.communicate(timeout=timeout)[1]
        except BaseException as stopped:
            os.killpg(launcher.pid, signal.SIGKILL)
            launcher.communicate()
            if isinstance(stopped, subprocess.TimeoutExpired):
                raise BadInput(f"{command[0]} ran past {timeout} s") from stopped
            raise
        result = json.loads(results.read() or b"{}")
    if result.get("status") != 0:
        words = errors.decode(errors="replace").strip().splitlines()
        reason = result.get("error") or (words[-1] if words else f"exit status {result.get('status')}")
        raise BadInput(f"{command[0]} failed: {reason}")
    return CommandRun(result["seconds"], result["cpu_seconds"], result["max_rss"] * _UNIT)


def peak_memory(command: Sequence[str], *, timeout: float | None = None) -> Figure:
    """Peak resident bytes of one run of a command; see `run_command`."""
    return Figure.of([run_command(command, timeout=timeout).peak_bytes], "bytes")


def peak_memory_of(function: Callable[..., object], *arguments: Any) -> Figure:
    """Peak resident bytes of a fresh Python process that imports and calls `function(*arguments)`; see
    `call_fresh`. Python itself is included."""
    return Figure.of([call_fresh(_discard, function, arguments)[1]], "bytes")


def call_fresh(
    function: Callable[..., Any], *arguments: Any, timeout: float | None = None
) -> tuple[Any, int]:
    """What `function(*arguments)` returns in a fresh Python process, and that process's peak resident bytes.

    The function must be importable by name; arguments and result must pickle. Raises BadInput with the reason
    where the call fails or runs past `timeout` seconds.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_call, args=(sender, function, arguments))
    try:
        process.start()
    except (AttributeError, TypeError, ImportError, pickle.PicklingError) as error:
        raise BadInput(f"{function!r} cannot be sent to a fresh process: {error}") from error
    sender.close()
    try:
        if not receiver.poll(timeout):
            raise BadInput(f"{function!r} ran past {timeout} s")
        problem, result, peak = receiver.recv()
    except EOFError:
        process.join()
        raise BadInput(f"{function!r} ended its process, exit status {process.exitcode}") from None
    finally:
        process.kill()
        process.join()
    if problem:
        raise BadInput(f"{function!r} failed: {problem}")
    return result, peak


def own_peak() -> int:
    """Peak resident bytes of this process so far."""
    status = Path("/proc/self/status")
    if status.exists():  # VmHWM belongs to this program alone, ru_maxrss also to what ran before exec
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _UNIT


def _discard(function: Callable[..., object], arguments: tuple[Any, ...]) -> None:
    function(*arguments)


def _call(sender: Any, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    try:
        result = function(*arguments)
        sender.send(("", result, own_peak()))
    except Exception as error:
        sender.send((f"{type(error).__name__}: {error}", None, 0))
