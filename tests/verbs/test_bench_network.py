"""Networks beside other engines, what is said of them, and their outputs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnxruntime", reason="needs onnxruntime: pip install 'ondevice-ml[onnx]'")

import ondevice
from ondevice.errors import BadInput
from ondevice.models.vision.networks import save_network


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_network(
        "mobilenet-v2", tmp_path_factory.mktemp("network") / "small.onnx", size=32, classes=10
    )


def test_engines_agree_and_rows_say_what_ran(network: Path) -> None:
    result = ondevice.bench_network(network, ["onnxruntime"], threads=(1,), repeats=2)
    assert [row.engine for row in result.rows] == ["native", "onnxruntime"]
    assert result.rows[0].ratio == 1
    assert result.rows[1].difference < 1e-3
    assert all(
        row.seconds.kind == "measured" and row.seconds.n == 2 and row.memory > 0 for row in result.rows
    )
    assert json.loads(json.dumps(result.to_json()))["settings"]["shape"] == [1, 3, 32, 32]


def test_the_explanation_names_a_scheme_for_each_convolution(network: Path) -> None:
    command = [sys.executable, "-m", "ondevice", "bench", str(network), "--explain", "--json"]
    found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    convolutions = [it for it in found["operators"] if it["operator"].startswith(("conv", "depthwise"))]
    assert len(convolutions) == 53  # 52 and the classifier
    for it in convolutions:
        assert it["backend"] == "onnxruntime" or it["modelled_seconds"] == min(it["considered"].values())
    assert {it["scheme"] for it in convolutions if it["operator"].startswith("depthwise")} <= {
        "depthwise",
        None,
    }
    assert found["live_bytes"] <= found["arena_bytes"] < found["results_bytes"]


def test_bad_input(network: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no engine 'tflite' for networks"):
        ondevice.bench_network(network, ["tflite"])
    with pytest.raises(BadInput, match="no network 'vgg'"):
        ondevice.bench_network(None, random="vgg")
    with pytest.raises(BadInput, match="give a file or the name"):
        ondevice.bench_network(network, random="resnet-18")
    with pytest.raises(BadInput, match="not an ONNX model"):
        ondevice.explain_network(tmp_path / "absent.onnx")
    with pytest.raises(BadInput, match=r"takes \(None, 3, 32, 32\)"):
        ondevice.explain_network(network, shape=(1, 3, 40, 40))


def test_run_gives_the_outputs_of_each_file(network: Path, tmp_path: Path, rng: np.random.Generator) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    files, pictures = [], rng.standard_normal((2, 1, 3, 32, 32), dtype=np.float32)
    for number, picture in enumerate(pictures):
        files.append(str(tmp_path / f"{number}.npy"))
        np.save(files[-1], picture)
    command = [sys.executable, "-m", "ondevice", "run", str(network), *files, "--threads", "1", "--json"]
    found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    session = onnxruntime.InferenceSession(str(network))
    for picture, outputs in zip(pictures, found, strict=True):
        (want,) = session.run(None, {"pictures": picture})
        np.testing.assert_allclose(outputs["logits"], want, atol=1e-3)
    for text in ("", "hello"):
        (tmp_path / f"{text}.npy").write_text(text)
    unread = "not an .npy file of numbers"
    for bad, message in (
        ([], "name arrays"),
        ([tmp_path / ".npy"], unread),
        ([tmp_path / "hello.npy"], unread),
    ):
        with pytest.raises(BadInput, match=message):
            ondevice.run_network(network, bad)
