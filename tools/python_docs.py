"""Writes the documentation of the running Python's standard library to a folder, a file a module, for the demo."""

import sys
from collections import defaultdict
from pathlib import Path

from ondevice.data.text import python_docs

folder = Path(sys.argv[1])
folder.mkdir(parents=True, exist_ok=True)
modules = defaultdict(list)
corpus = python_docs()
for texts in (corpus.calibration, corpus.test):
    for query, passage, module in zip(texts.queries, texts.passages, texts.documents, strict=True):
        modules[module].append(f"{query} {passage}")
for module, passages in modules.items():
    folder.joinpath(f"{module}.txt").write_text("\n\n".join(passages) + "\n", encoding="utf-8")
