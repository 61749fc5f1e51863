from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ondevice.data.sets import DataSet, Ragged, generator, kept
from ondevice.errors import BadInput


def a_set(shift: float = 0.0) -> DataSet:
    random = np.random.default_rng(0)
    arrays = {
        "images": random.integers(0, 256, (5, 4, 4, 3), dtype=np.uint8),
        "audio": Ragged.of(np.arange(n, dtype=np.int16) for n in (3, 1, 4, 1, 5)),
        "depth": random.uniform(1, 2, (5, 4)) + shift,
    }
    return DataSet("toy", "train", arrays, ("a", "b"), {"rate": 16000}, "1")


def test_rows_keep_together() -> None:
    taken = a_set().take([4, 0, 4])
    assert len(taken) == 3
    np.testing.assert_array_equal(taken.ragged("audio")[0], np.arange(5))
    np.testing.assert_array_equal(taken.ragged("audio")[-1], np.arange(5))
    np.testing.assert_array_equal(taken["images"][1], a_set()["images"][0])


def test_a_fingerprint_forgives_the_last_bit_and_nothing_more() -> None:
    same = a_set().fingerprint()
    assert a_set(1e-12).fingerprint() == same
    assert a_set(1e-2).fingerprint()["sha256"] != same["sha256"]
    assert a_set().take([1, 0, 2, 3, 4]).fingerprint()["sha256"] != same["sha256"]


def test_arrays_of_other_lengths_and_names_are_refused() -> None:
    with pytest.raises(BadInput, match="differ in their number of rows"):
        DataSet("toy", "train", {"a": np.zeros(2), "b": np.zeros(3)})
    with pytest.raises(BadInput, match="it has: images, audio, depth"):
        a_set()["labels"]
    with pytest.raises(BadInput, match="neither 'train' nor 'test'"):
        generator("toy", "validation", 0)


def test_splits_and_seeds_draw_other_numbers() -> None:
    draws = {generator("toy", split, seed).random() for split in ("train", "test") for seed in (0, 1)}
    assert len(draws) == 4


def test_the_cache_gives_back_what_was_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONDEVICE_CACHE", str(tmp_path))
    made = kept("toy", {"version": 1}, a_set)
    again = kept("toy", {"version": 1}, lambda: pytest.fail("made twice"))
    assert again.fingerprint() == made.fingerprint()
    assert (again.classes, again.facts, list(again.arrays)) == (made.classes, made.facts, list(made.arrays))
    assert kept("toy", {"version": 2}, lambda: a_set(1.0)).fingerprint() != made.fingerprint()


@pytest.mark.parametrize("file", ["arrays.safetensors", "set.json"])
def test_a_damaged_entry_is_made_again_and_said_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    monkeypatch.setenv("ONDEVICE_CACHE", str(tmp_path))
    expected = kept("toy", {}, a_set).fingerprint()
    [damaged] = tmp_path.rglob(file)
    content = bytearray(damaged.read_bytes())
    content[-2] ^= 0xFF
    damaged.write_bytes(content)
    with pytest.warns(UserWarning, match="is damaged"):
        assert kept("toy", {}, a_set).fingerprint() == expected
    kept("toy", {}, lambda: pytest.fail("was not kept"))


def test_an_interrupted_maker_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONDEVICE_CACHE", str(tmp_path))

    def interrupted() -> DataSet:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        kept("toy", {}, interrupted)
    assert not list(tmp_path.rglob("*.json"))
