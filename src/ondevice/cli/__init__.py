"""The command line: parses, calls a verb, prints. No logic here.

Exit status: 0 success; 1 a budget or bar is not met; 2 bad input; 3 internal error or missing environment;
130 interrupted.
"""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Entry point of `ondevice`."""
    if sys.argv[1:] == ["--version"]:  # before anything is imported
        from ondevice import __version__

        sys.stdout.write(f"ondevice {__version__}\n")
        return
    sys.exit(_run())


def _run() -> int:
    import typer

    from ondevice.cli.commands import app
    from ondevice.errors import BudgetNotMet, OndeviceError

    try:
        code = app(standalone_mode=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except typer.Exit as ended:
        return ended.exit_code
    except (typer.Abort, KeyboardInterrupt):
        sys.stderr.write("interrupted; nothing was written\n")
        return 130
    except OndeviceError as problem:
        sys.stderr.write(f"error: {problem}\n")
        if isinstance(problem, BudgetNotMet) and "--json" in sys.argv:
            from ondevice.cli.output import print_json

            plan = [choice.to_json() for choice in problem.nearest or ()]
            print_json(
                {"meets_budget": False, "limit": problem.limit, "error": str(problem), "nearest": plan}
            )
        return problem.exit_status
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as problem:
        sys.stderr.write(f"error: {problem}\n")
        return 3
    except Exception as wrong:
        # wrong usage: an exception of click's own, which Typer may bring under another name
        show = getattr(wrong, "show", None)
        if show is None or not hasattr(wrong, "format_message"):
            raise
        show()
        return 2
