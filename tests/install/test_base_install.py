"""What a small board gets: `pip install` without any extra, in an environment of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import ondevice
from ondevice.measure.memory import run_command

ROOT = Path(__file__).parents[2]
FORBIDDEN = ("torch", "transformers", "scipy", "sentence_transformers", "onnx", "onnxruntime")


def pip(environment: Path, *arguments: str, **variables: str) -> None:
    command = [
        str(environment / "bin" / "python"),
        "-m",
        "pip",
        "--disable-pip-version-check",
        "-q",
        *arguments,
    ]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | variables)
    if done.returncode:
        message = f"pip could not install what the base install needs: {done.stderr[-800:]}"
        if os.environ.get("ONDEVICE_REQUIRE_ALL") == "1":
            pytest.fail(message)
        pytest.skip(message)


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base") / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    pip(folder, "install", str(ROOT))
    return folder


@pytest.fixture
def artifact(tiny_checkpoint, tmp_path):
    data = tmp_path / "texts.jsonl"
    data.write_text("\n".join(json.dumps({"text": f"open file number {n} and read it"}) for n in range(40)))
    folder = tmp_path / "artifact"
    ondevice.fit(tiny_checkpoint("bert"), out=folder, device="raspberry-pi-4", data=data)
    return folder


def test_a_finished_artifact_runs_without_torch(environment, artifact):
    python = environment / "bin" / "python"
    listed = subprocess.run([python, "-m", "pip", "list", "--format=json"], capture_output=True, check=True)
    installed = {package["name"].lower().replace("-", "_") for package in json.loads(listed.stdout)}
    assert installed.isdisjoint(FORBIDDEN)
    command = [environment / "bin" / "ondevice", "run", artifact, "read the file", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    with ondevice.open(artifact) as session:
        expected = session.embed(["read the file"])
    np.testing.assert_array_equal(np.float32(json.loads(done.stdout)["embeddings"]), expected)
    assert "much slower" not in done.stderr


def test_fitting_there_names_the_install_command(environment, tmp_path):
    command = [environment / "bin" / "ondevice", "fit", "minilm", "--out", tmp_path / "x"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 3
    assert "pip install 'ondevice-ml[fit]'" in done.stderr


def test_importing_is_light(environment):
    python = str(environment / "bin" / "python")
    bare = run_command([python, "-c", "pass"]).peak_bytes
    with_ondevice = run_command([python, "-c", "import ondevice"]).peak_bytes
    assert with_ondevice < 60_000_000
    assert with_ondevice - bare < 5_000_000  # the verbs are imported when they are first used


def test_without_a_compiler_it_installs_and_says_once_that_it_is_slow(artifact, tmp_path):
    environment = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
    pip(environment, "install", str(ROOT), CXX="/nonexistent/c++", CC="/nonexistent/cc")
    command = [environment / "bin" / "ondevice", "run", artifact, "read the file", "write it", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stderr.count("much slower") == 1
    with ondevice.open(artifact) as session:
        expected = session.embed(["read the file", "write it"])
    np.testing.assert_allclose(np.float32(json.loads(done.stdout)["embeddings"]), expected, atol=2e-2)
