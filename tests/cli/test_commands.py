import json
import subprocess
import sys

import pytest

from ondevice import __version__
from ondevice.systems import registry

UNBUILT = next(slug for slug in registry.catalogue() if slug not in registry.built())


def ondevice(*arguments, text=None):
    command = [sys.executable, "-m", "ondevice", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, input=text)


def test_version():
    assert ondevice("--version").stdout == f"ondevice {__version__}\n"


def test_doctor_reports_kernels_extras_and_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ONDEVICE_CACHE", str(tmp_path))
    (tmp_path / "search").mkdir()
    (tmp_path / "search" / "x").write_bytes(b"12345")
    found = json.loads(ondevice("doctor", "--json").stdout)
    assert found["version"] == __version__
    assert found["kernels"]["instruction_set"] in found["kernels"]["available"]
    assert found["cache"] == {"folder": str(tmp_path), "bytes": 5, "parts": {"search": 5}}
    assert found["extras"]["fit"]["installed"] is True
    cleared = json.loads(ondevice("doctor", "--clear-cache", "--json").stdout)
    assert (cleared["cleared_bytes"], cleared["cache"]["bytes"]) == (5, 0)


def test_devices_lists_profiles_and_shows_sources():
    names = {device["name"] for device in json.loads(ondevice("devices", "--json").stdout)}
    assert {"raspberry-pi-4", "raspberry-pi-5", "jetson-nano", "h200-server", "cortex-m4"} <= names
    shown = json.loads(ondevice("devices", "show", "raspberry-pi-4", "--json").stdout)
    assert all(tier["bandwidth"]["source"] for tier in shown["memory"])


def test_systems_lists_all_with_a_status():
    listed = json.loads(ondevice("systems", "--json").stdout)
    assert len(listed) == 119
    assert {"slug", "title", "family", "kind", "status"} <= set(listed[0])


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["fit", "no-such-model", "--out", "x"], 2, "no model"),
        (["fit", "minilm", "--storage", "lots"], 2, "16MB"),
        (["fit", "minilm", "--with", "magic", "--out", "x"], 2, "quantize"),
        (["fit", "minilm", "--device", "toaster", "--out", "x"], 2, "raspberry-pi-4"),
        (["run", "no-such-folder", "text"], 2, "ondevice fit"),
        (["run", "reference-lm", "--prompt", "a", "--cache", "int2"], 2, "int8"),
        (["systems", "run", "no-such-system"], 2, "no-such-system"),
        (["systems", "run", UNBUILT], 2, "not built"),
        (["systems", "run"], 2, "--all"),
        (["devices", "show", "toaster"], 2, "raspberry-pi-4"),
        (["no-such-verb"], 2, "no-such-verb"),
    ],
)
def test_bad_input_exits_with_2_and_says_what_to_do(arguments, status, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = ondevice(*arguments)
    assert done.returncode == status
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert list(tmp_path.iterdir()) == []


def test_run_reads_standard_input_and_refuses_empty_text(tiny_checkpoint, tmp_path):
    from ondevice.artifact import Contents, write
    from ondevice.layers.store import to_stored
    from ondevice.models.load import load

    model = load(tiny_checkpoint("bert"))
    contents = Contents(model.config, model.tokenizer.to_str(), model.task.to_json(), to_stored(model.module))
    write(tmp_path / "artifact", contents)
    done = ondevice("run", tmp_path / "artifact", "--json", text="open the file\nread a line\n")
    assert len(json.loads(done.stdout)["embeddings"]) == 2
    refused = ondevice("run", tmp_path / "artifact", " ")
    assert refused.returncode == 2
    assert "empty" in refused.stderr
