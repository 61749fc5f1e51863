import json
import os
import subprocess
import sys

import numpy as np
import pytest

import ondevice
from ondevice.artifact import Artifact
from ondevice.errors import BadInput, BudgetNotMet, DeviceUnknown


@pytest.fixture
def corpus(tmp_path):
    words = [
        "open",
        "read",
        "write",
        "close",
        "file",
        "line",
        "number",
        "table",
        "value",
        "return",
        "object",
        "name",
        "error",
        "list",
        "key",
    ]
    rng = np.random.default_rng(0)
    path = tmp_path / "pairs.jsonl"
    rows = [
        {"query": " ".join(rng.choice(words, 5)), "passage": " ".join(rng.choice(words, 12))}
        for _ in range(60)
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


@pytest.fixture
def fitted(tiny_checkpoint, corpus, tmp_path):
    def run(family="bert", head="Model", **settings):
        folder = tiny_checkpoint(family, head)
        settings = {"device": "raspberry-pi-4", "data": corpus} | settings
        return ondevice.fit(folder, out=tmp_path / "fitted", **settings), folder

    return run


def test_fit_writes_an_artifact_that_meets_its_budget_and_says_so(fitted, tmp_path):
    result, folder = fitted(budget=ondevice.Budget(storage="75KB"))
    document = result.to_json()
    json.dumps(document)
    files = [path for path in (tmp_path / "fitted").iterdir() if path.name != "report.html"]
    assert document["storage_bytes"] == sum(path.stat().st_size for path in files) <= 75_000
    assert document["meets_budget"] is True
    assert {"cosine", "MRR@10"} <= set(document["quality"])
    assert {entry["kind"] for entry in document["latency"]} == {"measured", "modelled"}
    assert sum(entry["chosen"] for entry in document["pareto"]) == 1
    with ondevice.open(tmp_path / "fitted") as session:
        original = ondevice_model(folder)
        texts = ["open the file", "return a value of the table"]
        ours, theirs = session.embed(texts), original.predict(texts)
    assert (ours * theirs).sum(axis=1).mean() > 0.9
    np.testing.assert_allclose(np.linalg.norm(ours, axis=1), 1, rtol=1e-5)
    page = (tmp_path / "fitted" / "report.html").read_text()
    assert "http://" not in page.replace("http://www.w3.org", "")
    for row in document["plan"]:
        assert row["layer"] in page


def ondevice_model(folder):
    from ondevice.models.load import load

    return load(folder)


def test_classification_is_judged_by_agreement(fitted, tmp_path):
    result, _ = fitted("roberta", "ForSequenceClassification", budget=ondevice.Budget(storage="120KB"))
    assert set(result.quality) == {"agreement"}
    with ondevice.open(tmp_path / "fitted") as session:
        np.testing.assert_allclose(session.classify(["open the file"]).sum(axis=1), 1, rtol=1e-5)


def test_techniques_by_name_come_first(fitted):
    result, _ = fitted(techniques=["quantize:bits=8,method=rtn,smooth=0"])
    assert {row["settings"].get("bits") for row in result.plan if row["technique"] == "quantize"} == {8}


@pytest.mark.parametrize(
    ("budget", "limit"),
    [
        ({"storage": "20KB"}, "storage"),
        ({"memory": "10MB"}, "memory"),
        ({"latency": "1ns"}, "latency"),
        ({"storage": "75KB", "quality": 1.0}, "quality"),
    ],
)
def test_an_impossible_budget_names_the_limit_and_writes_nothing(fitted, tmp_path, budget, limit):
    with pytest.raises(BudgetNotMet) as error:
        fitted(budget=ondevice.Budget(**budget))
    assert error.value.limit == limit
    assert not (tmp_path / "fitted").exists()
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".fitted")]


def test_an_existing_folder_is_refused_before_any_work(fitted, tmp_path):
    (tmp_path / "fitted").mkdir()
    (tmp_path / "fitted" / "x").write_text("mine")
    with pytest.raises(BadInput, match="overwrite"):
        fitted()
    assert (tmp_path / "fitted" / "x").read_text() == "mine"


def test_an_unknown_device_lists_the_known(fitted):
    with pytest.raises(DeviceUnknown, match="raspberry-pi-5"):
        fitted(device="raspberry")


def test_the_same_seed_gives_the_same_tensors(tiny_checkpoint, corpus, tmp_path):
    folder = tiny_checkpoint("bert")
    written = []
    for name in ("first", "second"):
        ondevice.fit(
            folder, out=tmp_path / name, device="raspberry-pi-4", data=corpus, budget=ondevice.Budget("75KB")
        )
        written.append((tmp_path / name / "model.safetensors").read_bytes())
    assert written[0] == written[1]


def test_interrupting_leaves_the_old_artifact(tiny_checkpoint, corpus, tmp_path):
    """Ctrl-C in the middle of a fit that would overwrite."""
    folder = tiny_checkpoint("bert")
    command = [
        sys.executable, "-m", "ondevice", "fit", str(folder), "--data", str(corpus), "--device", "raspberry-pi-4",
        "--out", str(tmp_path / "fitted"), "--overwrite", "--json",
    ]  # fmt: skip
    first = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    assert first["artifact"] == str(tmp_path / "fitted")
    before = Artifact(tmp_path / "fitted").fingerprint
    code = (
        "import os, signal, sys\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a job in the background ignores it
        "import ondevice.compress.planner as planner\n"
        "build = planner.Menu.build\n"
        "planner.Menu.build = lambda *a: (os.kill(os.getpid(), signal.SIGINT), build(*a))[1]\n"
        "from ondevice.cli import main\n"
        "main()"
    )
    again = subprocess.run([sys.executable, "-c", code, *command[3:]], capture_output=True, text=True)
    assert again.returncode == 130
    assert again.stdout == ""
    assert Artifact(tmp_path / "fitted").fingerprint == before
    assert sorted(os.listdir(tmp_path)) == sorted([folder.name, "pairs.jsonl", "fitted"])


def test_budget_not_met_exits_with_1_and_names_the_limit_in_json(tiny_checkpoint, corpus, tmp_path):
    command = [
        sys.executable, "-m", "ondevice", "fit", str(tiny_checkpoint("bert")), "--data", str(corpus), "--storage",
        "20KB", "--device", "raspberry-pi-4", "--out", str(tmp_path / "fitted"), "--json",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    document = json.loads(done.stdout)
    assert (document["meets_budget"], document["limit"]) == (False, "storage")
    assert document["nearest"]
    assert "storage" in done.stderr
