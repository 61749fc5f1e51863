"""Writes docs/proving-ground.md: a sheet of every data set that is built, sounds to listen to, the zoo's figures."""

from __future__ import annotations

import sys
from pathlib import Path

from ondevice.verbs.data import data, show
from ondevice.verbs.zoo import zoo

DOCS = Path(__file__).parents[1] / "docs"
HEAD = """# Proving ground

The data that the project makes and the small models that it trains, on which the published systems are proved.
Written by `python tools/proving_ground.py`; do not edit.

No data set can be downloaded where the tests run, so these are made: seeded, the same bytes for the same seed, with
train and test apart by what they show (other identities, voices, fonts, documents) and not only by their seed. Each
maker's docstring says how, and each has a reader of the public data set that it stands for.
`ondevice data show NAME --out sheet.png` draws such a sheet of any of them.
"""


def main() -> None:
    folder = DOCS / "proving-ground"
    folder.mkdir(exist_ok=True)
    page = [HEAD, "## Data\n"]
    for entry, built in data():
        page.append(f"### {entry.name}\n\n{entry.title[0].upper()}{entry.title[1:]}.\n")
        if not built:
            page.append("Not built yet.\n")
            continue
        print(entry.name, file=sys.stderr)  # noqa: T201
        sheet, *sounds = show(entry.name, folder / f"{entry.name}.webp", split="test", count=12).files
        page.append(f"![{entry.title}](proving-ground/{sheet.name})\n")
        page += [f'<audio controls src="../proving-ground/{sound.name}"></audio>' for sound in sounds]
        page.append("")
    page.append("## Models\n")
    page.append(
        "Figures are of held-out data. `quick` is a minute on two cores; `full` is what is shipped.\n"
    )
    page += ["| model | what | scale | held out | trained in |", "| --- | --- | --- | --- | --- |"]
    for row in zoo():
        metrics = ", ".join(f"{name} {value:.4g}" for name, value in row.record.get("metrics", {}).items())
        seconds = f"{row.record['seconds']:.0f} s" if row.record else ""
        page.append(
            f"| `{row.name}` | {row.title} | {row.record.get('scale', 'not built')} | {metrics} | {seconds} |"
        )
    (DOCS / "proving-ground.md").write_text("\n".join(page) + "\n")


if __name__ == "__main__":
    main()
