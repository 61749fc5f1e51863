"""Loading from the hub, which a server on this machine plays."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs torch: pip install 'ondevice-ml[fit]'")
pytest.importorskip("transformers", reason="needs transformers: pip install 'ondevice-ml[fit]'")

from safetensors.torch import load_file  # noqa: E402

from ondevice.errors import BadInput  # noqa: E402
from ondevice.models.load import load  # noqa: E402

Write = Callable[..., Path]
COMMIT = "c0ffee" * 6 + "c0ff"


class Hub(BaseHTTPRequestHandler):
    """As much of the hub's HTTP interface as snapshot_download uses."""

    def __init__(self, folder: Path, asked: list[str], *args: Any) -> None:
        self.folder, self.asked = folder, asked
        super().__init__(*args)

    def log_message(self, *_: Any) -> None: ...

    def answer(self, body: bytes, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        for key, value in {"content-length": str(len(body)), **headers}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if "owner/private" in path and self.headers.get("authorization") != "Bearer secret":
            return self.answer(b"{}", 401, **{"X-Error-Code": "RepoNotFound"})
        if path.startswith("/api/models/owner/"):
            if "/revision/" in path and not path.endswith(("main", "v1", COMMIT)):
                return self.answer(b"{}", 404, **{"X-Error-Code": "RevisionNotFound"})
            files = sorted(file for file in self.folder.rglob("*") if file.is_file())
            names = [str(file.relative_to(self.folder)) for file in files]
            if "/tree/" in path:
                tree = [
                    {"type": "file", "path": name, "size": file.stat().st_size, "oid": hash_of(file)}
                    for name, file in zip(names, files, strict=True)
                ]
                return self.answer(json.dumps(tree).encode(), **{"content-type": "application/json"})
            info = {"id": "owner/tiny", "sha": COMMIT, "siblings": [{"rfilename": name} for name in names]}
            return self.answer(json.dumps(info).encode(), **{"content-type": "application/json"})
        name = path.partition(f"/resolve/{COMMIT}/")[2]
        file = self.folder / name
        if not name or not file.is_file():
            return self.answer(b"{}", 404, **{"X-Error-Code": "EntryNotFound"})
        if self.command == "GET":
            self.asked.append(name)
        return self.answer(file.read_bytes(), **{"ETag": f'"{hash_of(file)}"', "X-Repo-Commit": COMMIT})


def hash_of(file: Path) -> str:
    return hashlib.sha1(file.read_bytes()).hexdigest()


@pytest.fixture
def hub(
    tiny_checkpoint: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Path, list[str]]]:
    from huggingface_hub import constants

    folder = tiny_checkpoint("bert", pooling="mean")
    asked: list[str] = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Hub, folder, asked))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.hf_api.api.endpoint", address)
    monkeypatch.chdir(tmp_path)
    yield folder, asked
    server.shutdown()
    server.server_close()


def test_a_hub_name_fetches_what_is_needed_once(hub: Any, sentences: list[str]) -> None:
    folder, asked = hub
    for unneeded in (
        "onnx/model.onnx",
        "tf_model.h5",
        "pytorch_model.bin",
        "modeling_evil.py",
        "train.jsonl",
    ):
        (folder / unneeded).parent.mkdir(exist_ok=True)
        (folder / unneeded).write_bytes(b"x" * 100)
    model = load("owner/tiny", revision="v1")
    np.testing.assert_array_equal(model.predict(sentences), load(folder).predict(sentences))
    assert (model.source.name, model.source.revision) == ("owner/tiny", COMMIT)
    assert {"model.safetensors", "config.json", "modules.json", "1_Pooling/config.json"} <= set(asked)
    assert not {name for name in asked if name.endswith((".onnx", ".h5", ".bin", ".py", ".jsonl"))}
    count = len(asked)
    load("owner/tiny", revision=COMMIT, offline=True)  # from the cache alone
    assert len(asked) == count


def test_pickles_are_fetched_only_where_there_is_no_safetensors(hub: Any) -> None:
    folder, asked = hub
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    load("owner/tiny")
    assert "pytorch_model.bin" in asked


def test_what_the_hub_refuses_is_said(hub: Any) -> None:
    with pytest.raises(BadInput, match="no revision 'v9'"):
        load("owner/tiny", revision="v9")
    with pytest.raises(BadInput, match="token"):
        load("owner/private")
    assert load("owner/private", token="secret").source.revision == COMMIT
    with pytest.raises(BadInput, match="cache"):
        load("owner/never-seen", offline=True)
    with pytest.raises(BadInput, match="hub name"):
        load("owner/not a name!")


def test_without_a_network_the_error_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(
        "huggingface_hub.hf_api.api.endpoint", "http://127.0.0.1:9"
    )  # the discard port: refused
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(BadInput, match="network"):
        load("owner/tiny")
