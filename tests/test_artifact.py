import hashlib
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

from ondevice import artifact, atomic
from ondevice.artifact import FILES, Artifact, Contents, StoredTensor
from ondevice.errors import BadArtifact, BadInput, Busy
from ondevice.numerics import sparse
from ondevice.numerics.tiles import quantize_tiled


def tiny(seed=0, large=False):
    rng = np.random.default_rng(seed)
    tiled = quantize_tiled(rng.standard_normal((20, 40)).astype(np.float32), 3)
    thin = rng.standard_normal((6, 9)).astype(np.float32) * (rng.random((6, 9)) < 0.3)
    tensors = {
        "a.weight": StoredTensor(
            {"kind": "tiles", "rows": 20, "columns": 40, "bits": 3, "group_size": 32, "activations": "int8"},
            tiled.to_bytes(),
        ),
        "a.bias": StoredTensor.dense(rng.standard_normal(3).astype(np.float32)),
        "b.weight": StoredTensor.dense(rng.standard_normal((4, 5)).astype(np.float16)),
        "c.weight": StoredTensor(
            {"kind": "sparse", "rows": 6, "columns": 9, "dtype": "float16"}, sparse.pack(thin)
        ),
    }
    if large:
        tensors |= {
            f"large.{n}": StoredTensor.dense(rng.standard_normal(size).astype(np.float32))
            for n, size in enumerate([70_000, 1 << 17, 99_001])
        }
    return Contents(
        config={"model_type": "bert", "hidden_size": 4},
        tokenizer='{"version":"1.0"}',
        task={"kind": "embedding"},
        tensors=tensors,
        plan=[{"layer": "a", "technique": "quantize"}],
        provenance={"name": "tiny é"},
        licence="apache-2.0",
        measured={"cosine": 0.5},
    )


def test_a_place_is_where_the_bytes_lie(tmp_path):
    contents = tiny(large=True)
    for name, tensor in artifact.write(tmp_path / "a", contents).tensors.items():
        place = tensor.place
        stored = place.path.read_bytes()[place.offset : place.offset + place.nbytes]
        assert stored == contents.tensors[name].array.tobytes()
        assert place.sha256 == hashlib.sha256(stored).hexdigest()
        assert place.nbytes < artifact.LARGE or place.offset % artifact.PAGE == 0


def test_what_is_written_is_read(tmp_path):
    contents = tiny(large=True)
    read = artifact.write(tmp_path / "a", contents)
    assert read.config == contents.config
    assert read.tokenizer_json == contents.tokenizer
    assert (read.task, read.plan, read.licence) == (contents.task, contents.plan, contents.licence)
    assert (read.provenance, read.measured) == (contents.provenance, contents.measured)
    assert set(read.tensors) == set(contents.tensors)
    for name, tensor in contents.tensors.items():
        assert read.tensors[name].format == tensor.format
        np.testing.assert_array_equal(read.tensors[name].array, tensor.array)
        np.testing.assert_array_equal(read.tensors[name].to_dense(), tensor.to_dense())
    assert read.storage_bytes == sum(path.stat().st_size for path in (tmp_path / "a").iterdir())
    assert read.storage_bytes == artifact.stored_size(contents)


def test_any_safetensors_reader_opens_it_and_large_tensors_start_at_pages(tmp_path):
    contents = tiny(large=True)
    artifact.write(tmp_path / "a", contents)
    path = tmp_path / "a" / "model.safetensors"
    by_the_library = load_file(path)
    for name, tensor in contents.tensors.items():
        np.testing.assert_array_equal(by_the_library[name], tensor.array)
    raw = path.read_bytes()
    start = 8 + int.from_bytes(raw[:8], "little")
    assert start % 4096 == 0
    for name, entry in json.loads(raw[8:start]).items():
        first, last = entry["data_offsets"]
        assert first % (4096 if last - first >= artifact.LARGE else 64) == 0 or name.startswith("__padding__")


def test_the_same_contents_give_the_same_bytes(tmp_path):
    first, second = (artifact.write(tmp_path / name, tiny(large=True)) for name in "ab")
    assert first.fingerprint == second.fingerprint
    for name in FILES:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "a"
    artifact.write(folder, tiny())
    return folder, {name: (folder / name).read_bytes() for name in FILES}


def read_all(folder):
    Artifact(folder).verify()


@settings(max_examples=11_000, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_every_flipped_bit_and_every_cut_is_an_error(whole, data):
    """Mutations of every byte region: the four files, so header, padding, tensors, JSON and checksums."""
    folder, original = whole
    name = data.draw(st.sampled_from(FILES))
    raw = bytearray(original[name])
    how = data.draw(st.sampled_from(["flip", "flip", "flip", "cut", "grow", "splice"]))
    if how == "cut":
        raw = raw[: data.draw(st.integers(0, len(raw) - 1))]
    elif how == "grow":
        raw += bytes(data.draw(st.integers(1, 70)))
    else:
        at = data.draw(st.integers(0, len(raw) - 1))
        raw[at] ^= data.draw(st.integers(1, 255))
        if how == "splice":
            del raw[at : at + data.draw(st.integers(1, 9))]
    try:
        (folder / name).write_bytes(raw)
        with pytest.raises(BadArtifact):
            read_all(folder)
    finally:
        (folder / name).write_bytes(original[name])


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_hostile_documents_with_correct_checksums_are_refused_or_read(whole, tmp_path_factory, data):
    """Whoever alters a file can also mend its checksum: the structure itself is checked too."""
    folder, original = whole
    copy = tmp_path_factory.mktemp("hostile") / "a"
    shutil.copytree(folder, copy)
    document = json.loads(original["ondevice.json"])
    document.pop("checksum")
    tensor = data.draw(st.sampled_from(sorted(document["tensors"])))
    key = data.draw(st.sampled_from(sorted(document["tensors"][tensor])))
    strange = st.sampled_from([-1, 0, 7, 1 << 62, "x", None, [], [-4, 5], {}, 1.5, "float64", True])
    document["tensors"][tensor][key] = data.draw(strange)
    unsigned = artifact._canonical(document)
    document["checksum"] = __import__("hashlib").sha256(unsigned).hexdigest()
    (copy / "ondevice.json").write_bytes(artifact._canonical(document))
    try:
        read_all(copy)
    except BadArtifact:
        return
    read = Artifact(copy).tensors[tensor]  # another shape of the very same bytes: consistent, so it is read
    shape = read.format.get("shape") or [read.format["rows"], read.format["columns"]]
    assert list(read.to_dense().shape) == shape


def test_a_folder_without_an_artifact_says_how_to_make_one(tmp_path):
    with pytest.raises(BadArtifact, match="ondevice fit"):
        Artifact(tmp_path)


def test_a_newer_schema_says_to_upgrade(tmp_path, monkeypatch):
    monkeypatch.setattr(artifact, "SCHEMA", 2)
    contents = tiny()
    with atomic.writing(tmp_path / "a") as fresh:
        artifact.write_files(fresh, contents)
    monkeypatch.undo()
    with pytest.raises(BadArtifact, match="upgrade"):
        Artifact(tmp_path / "a")


def test_an_older_schema_is_migrated(tmp_path, monkeypatch):
    artifact.write(tmp_path / "a", tiny())
    monkeypatch.setattr(artifact, "SCHEMA", 2)
    monkeypatch.setitem(artifact._MIGRATIONS, 1, lambda old: old | {"schema": 2, "licence": "migrated"})
    assert Artifact(tmp_path / "a").licence == "migrated"


def test_an_existing_folder_is_refused_without_overwrite(tmp_path):
    artifact.write(tmp_path / "a", tiny())
    with pytest.raises(BadInput, match="overwrite"):
        artifact.write(tmp_path / "a", tiny(1))
    before = Artifact(tmp_path / "a").fingerprint
    assert artifact.write(tmp_path / "a", tiny(1), overwrite=True).fingerprint != before
    assert os.listdir(tmp_path) == ["a"]


def test_a_tensor_that_cannot_be_stored_leaves_nothing(tmp_path):
    contents = tiny()
    wrong = Contents(**{**vars(contents), "tensors": {"x": StoredTensor.dense(np.zeros(2, np.complex64))}})
    with pytest.raises(BadInput, match="complex64"):
        artifact.write(tmp_path / "a", wrong)
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize("name", FILES)
def test_a_full_disk_leaves_the_old_artifact_whole(tmp_path, monkeypatch, name):
    before = artifact.write(tmp_path / "a", tiny()).fingerprint
    write_files = artifact.write_files

    def on_a_full_disk(folder, contents):
        (folder / name).symlink_to("/dev/full")  # the kernel answers ENOSPC to every write
        write_files(folder, contents)

    monkeypatch.setattr(artifact, "write_files", on_a_full_disk)
    with pytest.raises(OSError, match="No space left"):
        artifact.write(tmp_path / "a", tiny(1), overwrite=True)
    assert Artifact(tmp_path / "a").fingerprint == before
    assert os.listdir(tmp_path) == ["a"]


def test_two_writers_of_one_folder(tmp_path):
    code = (
        "import sys; from ondevice.atomic import reserve\n"
        "with reserve(sys.argv[1]): print('held', flush=True); sys.stdin.read()"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "a")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(Busy, match="another process"):
            artifact.write(tmp_path / "a", tiny())
    finally:
        other.communicate(b"")
    artifact.write(tmp_path / "a", tiny())
    assert os.listdir(tmp_path) == ["a"]


def test_interrupted_writing_leaves_nothing(tmp_path):
    def write():
        with atomic.writing(tmp_path / "a") as fresh:
            (fresh / "half").write_text("x")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write()
    assert os.listdir(tmp_path) == []


def test_without_an_exchange_in_the_system_two_renames_do(tmp_path, monkeypatch):
    monkeypatch.setattr(atomic.ctypes, "CDLL", lambda *a, **k: object())
    artifact.write(tmp_path / "a", tiny())
    after = artifact.write(tmp_path / "a", tiny(1), overwrite=True)
    after.verify()
    assert os.listdir(tmp_path) == ["a"]


def test_a_file_in_the_way_is_refused(tmp_path):
    (tmp_path / "a").write_text("x")
    with pytest.raises(BadInput, match="not a folder"):
        artifact.write(tmp_path / "a", tiny(), overwrite=True)
