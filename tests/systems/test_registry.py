"""The registry: all systems, found by slug; the life of a result in a copy of the repository."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy
import pytest

import ondevice
from ondevice.errors import BadInput, NotBuilt
from ondevice.systems import registry

SOURCES = Path(ondevice.__file__).parent
# What the index of the specifications counts, a family.
FAMILIES = {
    "audio-generative-3d": 15,
    "compress": 20,
    "language-apps-science": 14,
    "measure-and-hardware": 18,
    "runtime": 16,
    "train-and-collaborate": 20,
    "vision": 16,
}


def test_all_systems_are_listed() -> None:
    catalogue = registry.catalogue()
    assert len(catalogue) == 119
    assert Counter(entry.family for entry in catalogue.values()) == FAMILIES
    for slug, entry in catalogue.items():
        assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", slug)
        assert entry.title
        assert entry.kind


def test_every_recipe_file_belongs_to_a_system() -> None:
    known = {entry.source for entry in registry.catalogue().values()}
    recipes = {path for path in SOURCES.glob("systems/*/*.py") if path.name != "__init__.py"}
    assert recipes <= known
    assert all(registry.find(slug).claim for slug in registry.built()), "a recipe states the claim it proves"


def test_unknown_and_unbuilt() -> None:
    with pytest.raises(BadInput, match="did you mean greenformers"):
        registry.run("greenformer")
    with pytest.raises(BadInput, match="ondevice systems"):
        registry.find("zzz")
    with pytest.raises(BadInput, match="no system"):
        registry.system("zzz")
    unbuilt = next(slug for slug in registry.catalogue() if slug not in registry.built())
    assert registry.status(unbuilt) == "not built"
    with pytest.raises(NotBuilt, match="not built here"):
        registry.run(unbuilt)


RECIPE = """
from ondevice.measure.compare import Comparison, Evidence, ratio
from ondevice.systems.registry import Scale, system

@system("dqa")
def prove(scale: Scale) -> Evidence:
    return Evidence(Comparison("m", "s", 2.0, VALUE, ratio("<=", 0.7)), notes=["a note"])
"""
LIFE = """
import json, sys
from pathlib import Path
from ondevice.systems import registry, render
source, log = registry.find("dqa").source, {}
log["before"] = registry.status("dqa")
source.write_text(sys.argv[1].replace("VALUE", "1.0"))
log["written"] = registry.status("dqa"), "No committed result" in render.pages()["dqa.md"]
evidence = registry.run("dqa", registry.FAST)
path = registry.record("dqa", evidence, registry.FAST)
log["recorded"], log["result"] = registry.status("dqa"), json.loads(path.read_text())
log["page"], first = render.pages()["dqa.md"], render.pages()
render.write_pages()
log["same again"] = first == render.pages() == {p.name: p.read_text() for p in path.parents[1].glob("*.md")}
source.write_text(source.read_text() + "# changed\\n")
log["edited"] = registry.status("dqa")
source.write_text(sys.argv[1].replace("VALUE", "1.9"))
sys.modules.pop(registry.find("dqa").module)
registry.record("dqa", registry.run("dqa", registry.FULL), registry.FULL)
log["below"] = registry.status("dqa")
path.write_text(path.read_text().replace('"verdict": "below"', '"verdict": "holds"'))
try:
    registry.status("dqa")
except Exception as error:
    log["by hand"] = f"{type(error).__name__}: {error}"
source.unlink(), path.unlink()
render.write_pages()
log["removed"] = (path.parents[1] / "dqa.md").exists()
print(json.dumps(log))
"""


def test_the_life_of_a_result(tmp_path: Path) -> None:
    shutil.copytree(SOURCES, tmp_path / "src" / "ondevice", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "docs" / "systems" / "results").mkdir(parents=True)
    (tmp_path / "pyproject.toml").touch()
    for folder in ("compress", "runtime"):
        (tmp_path / "src" / "ondevice" / "systems" / folder).mkdir(exist_ok=True)
    packages = Path(numpy.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-S", "-B", "-c", LIFE, RECIPE],  # -S: not the installed package, the copy
        env={"PYTHONPATH": f"{tmp_path / 'src'}:{packages}"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    log = json.loads(done.stdout)
    assert log["before"] == "not built"
    assert log["written"] == ["unproven", True]
    assert log["recorded"] == "works"
    assert {"slug", "verdict", "comparisons", "commit", "machine", "scale", "recipe"} <= set(log["result"])
    assert log["result"]["verdict"] == "holds"
    assert "| m | measured | 2 s | 1 s | ratio <= 0.7 | 0.5 | holds |" in log["page"]
    assert "a note" in log["page"]
    assert log["same again"]
    assert log["edited"] == "unproven"
    assert log["below"] == "below"
    assert "BadInput" in log["by hand"]
    assert "verdict says" in log["by hand"]
    assert log["removed"] is False


def test_importing_the_registry_imports_no_recipe() -> None:
    code = (
        "import sys; from ondevice.systems import registry as r; [r.status(slug) for slug in r.catalogue()];"
        "print([m for m in sys.modules if m.startswith('ondevice.systems.') and m.count('.') > 2],"
        " 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[] False"
