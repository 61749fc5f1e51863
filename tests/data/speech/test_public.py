from __future__ import annotations

import sys
import wave
from pathlib import Path

import numpy as np
import pytest

from ondevice.data.speech import commands, keywords
from ondevice.data.speech.public import read_librispeech, read_sound, read_speech_commands, read_voxceleb
from ondevice.errors import BadInput, MissingExtra


def write(path: Path, samples, rate=16000, channels=1, width=2) -> np.ndarray:
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(width)
        file.setframerate(rate)
        file.writeframes(np.asarray(samples, "<i2").tobytes())
    return np.asarray(samples, np.int16)


def tone(length, hertz=500, rate=16000):
    return (8000 * np.sin(2 * np.pi * hertz * np.arange(length) / rate)).astype(np.int16)


def test_sound_is_read_as_written(tmp_path):
    written = write(tmp_path / "a.wav", tone(3000))
    assert np.array_equal(read_sound(tmp_path / "a.wav"), written)


def test_another_rate_is_resampled(tmp_path):
    write(tmp_path / "a.wav", tone(4000, rate=8000), rate=8000)
    assert np.abs(read_sound(tmp_path / "a.wav").astype(int) - tone(8000))[300:-300].max() < 30


def test_sound_that_cannot_be_used_is_named(tmp_path):
    write(tmp_path / "stereo.wav", tone(400), channels=2)
    write(tmp_path / "none.wav", [])
    (tmp_path / "text.wav").write_text("not sound")
    (tmp_path / "cut.wav").write_bytes(b"RIFF")
    for name in ("stereo", "none", "text", "cut"):
        with pytest.raises(BadInput, match=name):
            read_sound(tmp_path / f"{name}.wav")


def test_flac_without_soundfile_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "soundfile", None)
    (tmp_path / "a.flac").write_bytes(b"fLaC")
    with pytest.raises(MissingExtra, match="soundfile"):
        read_sound(tmp_path / "a.flac")


@pytest.fixture
def librispeech(tmp_path):
    for speaker, chapter, number in ((84, 121, 0), (84, 121, 1), (174, 50, 0)):
        name = f"{speaker}-{chapter}"
        write(tmp_path / f"{speaker}/{chapter}/{name}-{number:04}.wav", tone(1000 + number))
        with (tmp_path / f"{speaker}/{chapter}/{name}.trans.txt").open("a") as file:
            file.write(f"{name}-{number:04} GO ON {number}\n")
    return tmp_path


def test_librispeech_is_read_in_its_layout(librispeech):
    samples = read_librispeech(librispeech)
    assert samples["speaker"].tolist() == [174, 84, 84]
    assert [commands.transcript(samples, row) for row in range(3)] == ["go on 0", "go on 0", "go on 1"]
    assert [len(samples.ragged("audio")[row]) for row in range(3)] == [1000, 1000, 1001]
    assert commands.draw(samples, 0).dtype == np.uint8


def test_librispeech_without_transcripts_is_refused(librispeech):
    text = librispeech / "84/121/84-121.trans.txt"
    text.write_text("84-121-0000 GO ON\n")
    with pytest.raises(BadInput, match=r"84-121.trans.txt has no line for 84-121-0001.wav"):
        read_librispeech(librispeech)
    text.unlink()
    with pytest.raises(BadInput, match=r"84/121 has recordings and no \*.trans.txt"):
        read_librispeech(librispeech)


@pytest.fixture
def speech_commands(tmp_path):
    for word in ("yes", "stop", "bed"):
        for person in ("0a", "1b", "2c"):
            write(tmp_path / word / f"{person}_nohash_0.wav", tone(15000))
    write(tmp_path / "_background_noise_" / "tap.wav", tone(64000))
    (tmp_path / "testing_list.txt").write_text("yes/2c_nohash_0.wav\nbed/2c_nohash_0.wav\n")
    (tmp_path / "validation_list.txt").write_text("stop/2c_nohash_0.wav\n")
    return tmp_path


def test_speech_commands_are_keywords(speech_commands):
    train, test = (read_speech_commands(speech_commands, split) for split in ("train", "test"))
    assert train.classes == keywords.CLASSES
    names = [[samples.classes[label] for label in samples["labels"]] for samples in (train, test)]
    assert sorted(names[0]) == ["silence", "silence", "stop", "stop", "unknown", "unknown", "yes", "yes"]
    assert sorted(names[1]) == ["silence", "silence", "unknown", "yes"]
    assert test["audio"].shape == (4, 16000)
    assert (test["audio"][0, 15000:] == 0).all()
    assert keywords.draw(test, 0).dtype == np.uint8


def test_speech_commands_without_its_lists_are_refused(speech_commands):
    (speech_commands / "yes" / "2c_nohash_0.wav").unlink()
    with pytest.raises(BadInput, match=r"yes/2c_nohash_0.wav, which is not in"):
        read_speech_commands(speech_commands, "test")
    (speech_commands / "testing_list.txt").unlink()
    with pytest.raises(BadInput, match=r"testing_list.txt is missing"):
        read_speech_commands(speech_commands, "train")


def test_voxceleb_has_a_class_for_every_person(tmp_path):
    for person, count in (("id10001", 2), ("id10007", 1)):
        for number in range(count):
            write(tmp_path / person / "video" / f"{number:05}.wav", tone(2000 + number))
    samples = read_voxceleb(tmp_path)
    assert samples.classes == ("id10001", "id10007")
    assert samples["labels"].tolist() == [0, 0, 1]
    (tmp_path / "id10007/video/00000.wav").unlink()
    with pytest.raises(BadInput, match="id10007 has no recordings"):
        read_voxceleb(tmp_path)


@pytest.mark.parametrize(
    "read", [read_librispeech, read_voxceleb, lambda path: read_speech_commands(path, "train")]
)
def test_a_folder_that_is_not_there_or_holds_nothing_is_refused(read, tmp_path):
    with pytest.raises(BadInput, match="not a folder"):
        read(tmp_path / "none")
    with pytest.raises(BadInput, match=r"no .wav or .flac"):
        read(tmp_path)
