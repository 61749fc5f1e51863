"""Which systems there are, which are built, and what their last committed results say.

Knows the catalogue, where a recipe stands and where results lie. Knows nothing of what a recipe does, and
imports one only to run it.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib
import json
import subprocess
import tomllib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from ondevice.errors import BadInput, MissingExtra, NotBuilt
from ondevice.measure.compare import Evidence
from ondevice.measure.here import machine

Status = Literal["works", "below", "unproven", "not built"]
_HERE = Path(__file__).parent


@dataclass(frozen=True)
class System:
    """A published system. claim: what its recipe proves. paper_figure: the figure its paper gives, if any."""

    slug: str
    title: str
    family: str
    kind: str
    claim: str = ""
    paper_figure: str = ""

    @property
    def module(self) -> str:
        """Name of the module that holds its recipe, there or not."""
        return f"ondevice.systems.{_identifier(self.family)}.{_identifier(self.slug)}"

    @property
    def source(self) -> Path:
        """File of its recipe, there or not."""
        return _HERE / _identifier(self.family) / f"{_identifier(self.slug)}.py"


@dataclass(frozen=True)
class Scale:
    """How much a proof may spend. repeats: measured runs of each arm. seed: of every random draw."""

    name: Literal["tiny", "fast", "full"]
    repeats: int
    seed: int = 0


# tiny: for tests, which judge no time by it.
TINY, FAST, FULL = Scale("tiny", repeats=3), Scale("fast", repeats=11), Scale("full", repeats=51)


@dataclass(frozen=True)
class Recipe:
    """A function that proves a system's claim, and which system it is."""

    slug: str
    prove: Callable[[Scale], Evidence]

    def __call__(self, scale: Scale) -> Evidence:
        return self.prove(scale)


def system(slug: str) -> Callable[[Callable[[Scale], Evidence]], Recipe]:
    """Decorator of a recipe's `prove(scale) -> Evidence`. BadInput for a slug that the catalogue lacks."""
    find(slug)
    return lambda prove: Recipe(slug, prove)


@cache
def catalogue() -> dict[str, System]:
    """All systems by slug, in the order of the catalogue."""
    rows = tomllib.loads((_HERE / "catalog.toml").read_text(encoding="utf-8"))["system"]
    return {row["slug"]: System(**row) for row in rows}


def find(slug: str) -> System:
    """The system of a slug. BadInput names the nearest slugs."""
    if slug in catalogue():
        return catalogue()[slug]
    near = difflib.get_close_matches(slug, catalogue(), n=3)
    hint = f"did you mean {', '.join(near)}?" if near else "`ondevice systems` lists all"
    raise BadInput(f"no system {slug!r}; {hint}")


def built() -> list[str]:
    """Slugs of the systems that have a recipe, in the order of the catalogue."""
    return [slug for slug, entry in catalogue().items() if entry.source.exists()]


def run(slug: str, scale: Scale = FAST) -> Evidence:
    """Run a system's recipe. NotBuilt where there is none, BadInput for an unknown slug."""
    entry = find(slug)
    if not entry.source.exists():
        raise NotBuilt(f"{slug} is known but not built here; built are: {', '.join(built()) or 'none'}")
    try:
        recipes = vars(importlib.import_module(entry.module)).values()
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("ondevice"):
            raise
        raise MissingExtra(error.name or "a package", "all", f"to prove {slug}") from error
    recipe = next((it for it in recipes if isinstance(it, Recipe) and it.slug == slug), None)
    if recipe is None:
        raise NotBuilt(f"{entry.module} holds no recipe for {slug}; decorate one with @system({slug!r})")
    return recipe(scale)


def results_folder() -> Path | None:
    """Where committed results lie; None in an install that is not of a repository."""
    root = _HERE.parents[2]
    folder = root / "docs" / "systems" / "results"
    return folder if folder.is_dir() and (root / "pyproject.toml").exists() else None


def result(slug: str) -> dict[str, Any] | None:
    """The last committed result of a system, its verdict checked against its figures, or None."""
    folder = results_folder()
    path = None if folder is None else folder / f"{find(slug).slug}.json"
    if path is None or not path.exists():
        return None
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        Evidence.from_json(document)
    except (ValueError, AttributeError) as error:
        raise BadInput(f"{path} is not a result: {error}; run: ondevice systems run {slug}") from error
    if document["slug"] != slug or not {"scale", "machine", "recipe", "commit"} <= set(document):
        raise BadInput(f"{path} is not a result of {slug}; run: ondevice systems run {slug}")
    return dict(document)


def status(slug: str) -> Status:
    """works: the recipe as it stands was proved and holds. below: proved, and a bar is missed. unproven: no
    committed result of the recipe as it stands. not built: no recipe."""
    entry = find(slug)
    if not entry.source.exists():
        return "not built"
    document = result(slug)
    if document is None or document.get("recipe") != recipe_hash(slug):
        return "unproven"
    return "works" if document["verdict"] == "holds" else "below"


def recipe_hash(slug: str) -> str:
    """SHA-256 of the recipe's source, first 16 hexadecimal digits."""
    return hashlib.sha256(find(slug).source.read_bytes()).hexdigest()[:16]


def record(slug: str, evidence: Evidence, scale: Scale) -> Path:
    """Write a result into the repository, to be committed. BadInput in an install without one."""
    folder = results_folder()
    if folder is None:
        raise BadInput("results are kept in the repository; this install is not of one")
    document = evidence.to_json(slug) | {
        "scale": asdict(scale),
        "machine": machine(),
        "recipe": recipe_hash(slug),
        "commit": _commit(folder),
    }
    path = folder / f"{slug}.json"
    draft = path.with_suffix(".draft")
    draft.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    draft.replace(path)
    return path


def _identifier(name: str) -> str:
    return name.replace("-", "_")


def _commit(folder: Path) -> str:
    """The commit that ran, with `+changes` where the sources differ from it; "unknown" without git."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(folder), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--", ":/src", ":/native")
        return git("rev-parse", "HEAD") + ("+changes" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
