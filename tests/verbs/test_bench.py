"""bench on a tiny artifact: what is in the result, and that ratios and quality follow from what was measured."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="needs torch: pip install 'ondevice-ml[fit]'")
pytest.importorskip("transformers", reason="needs transformers: pip install 'ondevice-ml[fit]'")
pytest.importorskip("onnxruntime", reason="needs onnxruntime: pip install 'ondevice-ml[onnx]'")

from ondevice.artifact import Artifact, Contents, write
from ondevice.backends import peers
from ondevice.compress.quantize.quantize import Quantize
from ondevice.errors import BadArtifact, BadInput, MissingExtra
from ondevice.layers.store import to_stored
from ondevice.models.load import load
from ondevice.verbs import bench as verb
from ondevice.verbs.bench import bench

Write = Callable[..., Path]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "texts.jsonl"
    rows = [{"text": f"read the lines of file number {n} and open the next one"} for n in range(12)]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


@pytest.fixture
def artifact(tiny_checkpoint: Write, tmp_path: Path) -> Artifact:
    model = load(tiny_checkpoint("bert", pooling="mean"))
    model = Quantize(bits=8, method="rtn", smooth=0).apply(model)
    contents = Contents(
        model.config, model.tokenizer.to_str(), model.task.to_json(), to_stored(model.module),
        provenance={"name": model.source.name},
    )  # fmt: skip
    return write(tmp_path / "artifact", contents)


def test_engines_side_by_side(artifact: Artifact, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        verb, "missing", lambda *key: MissingExtra("mlx", "mlx") if key[0] == "mlx" else peers.missing(*key)
    )
    result = bench(
        artifact.folder, ["onnxruntime", "mlx"], backends=["native", "onnxruntime"], threads=[1], tokens=16,
        batch=2, repeats=5, data=data,
    )  # fmt: skip
    names = [(row.engine, row.variant) for row in result.rows]
    assert names == [
        ("native", "fitted"), ("onnxruntime", "fitted"), ("onnxruntime", "float32"), ("onnxruntime", "int8-dynamic"),
    ]  # fmt: skip
    ours, same, float32, _ = result.rows
    assert (ours.ratio, ours.compared, ours.interval) == (1, "tie", None)
    for row in result.rows[1:]:
        assert row.ratio == pytest.approx(row.median_seconds / ours.median_seconds)
        assert row.interval
        assert 0 < row.interval[0] <= row.interval[1]
        assert (row.n, row.threads) == (5, 1)
        assert row.memory_bytes > 20e6
    assert ours.storage_bytes == same.storage_bytes == artifact.storage_bytes
    assert float32.quality == pytest.approx(1, abs=1e-5)
    assert ours.quality == pytest.approx(same.quality, abs=1e-3)
    assert 0.98 < ours.quality < 1
    assert result.skipped == [
        {"engine": "mlx", "variant": "float32", "reason": str(MissingExtra("mlx", "mlx"))}
    ]
    fastest = result.fastest_peer(1)
    assert fastest in result.rows[2:]
    document = json.loads(json.dumps(result.to_json()))
    assert document["rows"][0]["latency"]["kind"] == "measured"
    assert document["rows"][0]["storage_bytes"]["kind"] == "counted"
    assert document["fastest_peer"]["1"]["variant"] == fastest.variant
    assert (document["metric"], document["settings"]["tokens"]) == ("cosine", 16)


def test_bad_input(artifact: Artifact, data: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"no engine 'tflite'.*openvino"):
        bench(artifact.folder, ["tflite"])
    with pytest.raises(BadInput, match=r"no engine 'cuda'.*native"):
        bench(artifact.folder, backends=["cuda"])
    for wrong in ({"threads": [0]}, {"tokens": 0}, {"batch": 0}, {"backends": []}):
        with pytest.raises(BadInput, match="1 or more"):
            bench(artifact.folder, **wrong)
    with pytest.raises(BadInput, match="one repeat or more"):
        bench(artifact.folder, threads=[1], repeats=0, data=data)
    with pytest.raises(BadArtifact):
        bench(tmp_path, data=data)
    with pytest.raises(BadInput, match="no-such-model"):
        bench(artifact.folder, ["torch"], original=tmp_path / "no-such-model", data=data)
