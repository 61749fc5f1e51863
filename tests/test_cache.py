"""The cache folder: where the environment says, counted and emptied."""

from __future__ import annotations

from pathlib import Path

import pytest

from ondevice.cache import cache_folder, cache_size, clear_cache


def test_the_environment_decides(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("ONDEVICE_CACHE", raising=False)
    assert cache_folder() == tmp_path / "ondevice"
    monkeypatch.setenv("ONDEVICE_CACHE", str(tmp_path / "mine"))
    assert cache_folder() == tmp_path / "mine"


def test_counted_and_emptied(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ONDEVICE_CACHE", str(tmp_path / "mine"))
    assert cache_size() == clear_cache() == 0
    (tmp_path / "mine" / "a").mkdir(parents=True)
    (tmp_path / "mine" / "a" / "file").write_bytes(b"x" * 1000)
    assert cache_size() == 1000
    assert clear_cache() == 1000
    assert not cache_folder().exists()
    assert tmp_path.exists()
