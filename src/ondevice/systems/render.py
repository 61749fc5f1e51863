"""The pages of docs/systems/ from the catalogue and the committed results.

Knows Markdown. Runs nothing: the same results give the same pages, byte for byte.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

from ondevice.errors import BadInput
from ondevice.measure.amounts import amount
from ondevice.measure.compare import Evidence
from ondevice.systems import registry
from ondevice.systems.registry import System

_FAMILIES = {
    "audio-generative-3d": "Audio, generation, 3D",
    "compress": "Compression",
    "language-apps-science": "Language models, applications, science",
    "measure-and-hardware": "Measuring devices, and hardware for models",
    "runtime": "Runtimes",
    "train-and-collaborate": "Training on devices, and several machines together",
    "vision": "Vision",
}


def pages() -> dict[str, str]:
    """Every page by file name: the index, and one for each system that has a recipe."""
    found = {f"{slug}.md": _page(registry.find(slug)) for slug in registry.built()}
    return {"index.md": _index()} | found


def write_pages() -> list[Path]:
    """Write all pages beside the results, and remove those of systems that lost their recipe.

    BadInput in an install that is not of a repository.
    """
    results = registry.results_folder()
    if results is None:
        raise BadInput("the pages are kept in the repository; this install is not of one")
    folder, wanted = results.parent, pages()
    for path in folder.glob("*.md"):
        if path.stem in registry.catalogue() and path.name not in wanted:
            path.unlink()
    for name, text in wanted.items():
        (folder / name).write_text(text, encoding="utf-8")
    return [folder / name for name in wanted]


def _index() -> str:
    systems = list(registry.catalogue().values())
    counts: dict[str, int] = {"works": 0, "below": 0, "unproven": 0, "not built": 0}
    for entry in systems:
        counts[registry.status(entry.slug)] += 1
    lines = [
        "# Systems",
        "",
        f"{len(systems)} published systems. " + ", ".join(f"{n} {word}" for word, n in counts.items()) + ".",
        "",
        "*works*: its last committed result meets every bar. *below*: a bar is missed. *unproven*: there is",
        "a recipe, and no committed result of it as it stands. *not built*: no recipe yet.",
        "",
        "`ondevice systems run SLUG` runs a proof. This page is made from the results in `results/`.",
    ]
    for family, members in groupby(systems, key=lambda entry: entry.family):
        lines += ["", f"## {_FAMILIES.get(family, family)}", "", "| system | paper | kind | status |"]
        lines += ["| --- | --- | --- | --- |"]
        for entry in members:
            name = f"[{entry.slug}]({entry.slug}.md)" if entry.source.exists() else entry.slug
            lines.append(f"| {name} | {entry.title} | {entry.kind} | {registry.status(entry.slug)} |")
    return "\n".join(lines) + "\n"


def _page(entry: System) -> str:
    document = registry.result(entry.slug)
    lines = [f"# {entry.slug}", "", f"*{entry.title}* ({entry.kind})", ""]
    if entry.claim:
        lines += [f"**Claim.** {entry.claim}", ""]
    lines += [f"**The paper's figure.** {entry.paper_figure or 'None recorded.'}", ""]
    status = registry.status(entry.slug)
    changed = " (the recipe changed since the result below)" if status == "unproven" and document else ""
    lines += [f"**Status.** {status}{changed}", "", "```", f"ondevice systems run {entry.slug}", "```"]
    if document is None:
        return "\n".join([*lines, "", "No committed result."]) + "\n"
    return "\n".join([*lines, "", *_result(document)]) + "\n"


def _result(document: Mapping[str, Any]) -> Iterator[str]:
    yield "| metric | kind | baseline | ours | bar | value | |"
    yield "| --- | --- | --- | --- | --- | --- | --- |"
    for row in Evidence.from_json(dict(document)).comparisons:
        bar = f"{row.bar.relation} {row.bar.op} {row.bar.value:g}"
        sides = " | ".join(_side(side.to_json() if side else None) for side in (row.baseline, row.ours))
        word = "holds" if row.holds else "**below**"
        yield f"| {row.metric} | {row.kind} | {sides} | {bar} | {row.value:.4g} | {word} |"
    yield ""
    yield "Median (least to most, runs). Ratio: ours / baseline. Difference: ours - baseline."
    for note in document.get("notes", ()):
        yield ""
        yield note
    machine, scale = document["machine"], document["scale"]
    yield ""
    yield (
        f"Machine: {machine['cpu']}, {machine['cores']} cores, {amount(machine['memory_bytes'], 'bytes')},"
        f" {machine['system']}, Python {machine['python']}. Scale: {scale['name']}, {scale['repeats']}"
        f" repeats, seed {scale['seed']}. Commit `{document['commit']}`, recipe `{document['recipe']}`."
    )


def _side(figure: Mapping[str, Any] | None) -> str:
    if figure is None:
        return "-"
    middle = amount(figure["median"], figure["unit"])
    if figure["n"] == 1:
        return middle
    low, high = amount(figure["min"], figure["unit"]), amount(figure["max"], figure["unit"])
    return f"{middle} ({low} to {high}, {figure['n']})"
