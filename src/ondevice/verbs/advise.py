"""advise: which model, in which format and on how many threads, for a task on a device. Modelled, never measured."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ondevice.devices import profile
from ondevice.errors import BadInput
from ondevice.runtime.forecast import own_runtime
from ondevice.runtime.survey import TASKS, Prospect, survey

READING = 5.0  # tokens/s, assumed: about four words a second, silent reading of English


@dataclass(frozen=True)
class Advice:
    """best: the largest model that is reliable and writes as fast as people read, at 8 bits where that does too; None
    where none does. table: all, the largest first. Every figure is modelled."""

    device: str
    task: str
    threads: int
    best: Prospect | None
    table: list[Prospect]

    def to_json(self) -> dict[str, Any]:
        """The document that `ondevice advise --json` prints."""
        best = None if self.best is None else asdict(self.best)
        table = [asdict(it) for it in self.table]
        return {
            "kind": "modelled", "device": self.device, "task": self.task, "threads": self.threads, "best": best,
            "table": table,
        }  # fmt: skip


def advise(device: str | Path, task: str = "chat") -> Advice:
    """What to run on a device, from its profile and the counts of published models.

    task: "chat", "code" or "summarise": which prompts are asked. Decode does not hang on the threads once memory is
    the limit, so all cores are taken. Raises BadInput for another task, DeviceUnknown for another device.
    """
    if task not in TASKS:
        raise BadInput(f"no task {task!r}; there are: {', '.join(TASKS)}")
    board = profile.load(device)
    threads = int(board.cores.value)
    table = survey(board, own_runtime(), threads=threads, prompts=TASKS[task])
    reliable = [it for it in table if it.verdict == "reliable" and (it.decode or 0) >= READING]
    best = max(reliable, key=lambda it: (it.parameters, it.format == "q8_0"), default=None)
    return Advice(board.name, task, threads, best, table)
