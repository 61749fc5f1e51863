"""ondevice doctor"""

from __future__ import annotations

from typing import Annotated

import typer

from ondevice.cli.output import AsJson, amount, console, print_json


def doctor(
    clear_cache: Annotated[bool, typer.Option("--clear-cache", help="Empty the cache folder.")] = False,
    as_json: AsJson = False,
) -> None:
    """What this machine and this install offer."""
    from ondevice.verbs.doctor import doctor as examine

    freed = 0
    if clear_cache:
        from ondevice.cache import clear_cache as empty

        freed = empty()
    found = examine()
    if as_json:
        print_json(found | ({"cleared_bytes": freed} if clear_cache else {}))
        return
    core = found["kernels"]
    how = "compiled" if core["compiled"] else "NumPy reference (slow): install a C++ compiler and reinstall"
    lines = {
        "ondevice": found["version"],
        "processor": f"{found['machine']['cpu']}, {found['cores']} cores",
        "memory limit": amount(found["memory_limit_bytes"]),
        "kernels": f"{how}, {core['instruction_set']} of {', '.join(core['available'])}",
        "disk": f"{amount(found['disk']['free_bytes'])} free",
        "cache": f"{amount(found['cache']['bytes'])} in {found['cache']['folder']}",
    }
    if clear_cache:
        lines["cleared"] = amount(freed)
    for name, value in lines.items():
        console.print(f"{name:<14}{value}", highlight=False, markup=False, soft_wrap=True)
    for part, size in found["cache"]["parts"].items():
        console.print(f"{'':<14}{part}: {amount(size)}", highlight=False, markup=False)
    for extra, state in found["extras"].items():
        versions = ", ".join(f"{name} {it or 'missing'}" for name, it in state["packages"].items())
        hint = "" if state["installed"] else f"   {state['install']}"
        console.print(
            f"{'[' + extra + ']':<14}{versions}{hint}", highlight=False, markup=False, soft_wrap=True
        )
