"""Public sets of speech, read from their folders as samples of the same form as our own.

Knows the layouts of LibriSpeech (`SPEAKER/CHAPTER/SPEAKER-CHAPTER.trans.txt`), Speech Commands (`word/*.wav`, with
`testing_list.txt`) and VoxCeleb (`idNNNNN/video/*.wav`). Reads WAV by the standard library, FLAC by soundfile.
Knows nothing of networks. Downloads nothing.
"""

from __future__ import annotations

import wave
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ondevice.data.sets import DataSet, Ragged
from ondevice.data.speech.commands import encode
from ondevice.data.speech.keywords import CLASSES
from ondevice.data.speech.sound import RATE, resample
from ondevice.errors import BadInput, MissingExtra

Samples = npt.NDArray[np.int16]
_SUFFIXES = (".flac", ".wav")


def read_sound(path: Path) -> Samples:
    """A mono recording at 16 kHz, int16; other rates are resampled.

    Raises BadInput for a file that is damaged, empty, stereo or not of 16 bits; MissingExtra for FLAC without
    soundfile.
    """
    samples, rate = _flac(path) if path.suffix.lower() == ".flac" else _wave(path)
    if not len(samples):
        raise BadInput(f"{path} holds no sound; leave it out")
    if rate == RATE:
        return samples
    return np.clip(np.round(resample(samples, rate, RATE)), -32768, 32767).astype(np.int16)


def read_librispeech(folder: str | Path) -> DataSet:
    """Utterances of a LibriSpeech subset ("test-clean", …): arrays audio, transcript (lower case) and speaker, as
    `commands` has them; speaker is the set's own number.

    Raises BadInput where a folder of recordings has no transcript file, or one without a line for a recording.
    """
    folder = _folder(folder)
    rows: list[tuple[Samples, str, int]] = []
    for chapter in sorted({path.parent for path in _recordings(folder)}):
        lists = sorted(chapter.glob("*.trans.txt"))
        if not lists:
            raise BadInput(
                f"{chapter} has recordings and no *.trans.txt; copy its transcript file from the archive"
            )
        lines = [
            line.split(" ", 1) for line in lists[0].read_text(encoding="utf-8").splitlines() if line.strip()
        ]
        texts = {line[0]: line[1] for line in lines if len(line) == 2}
        for path in _recordings(chapter):
            if path.stem not in texts:
                raise BadInput(f"{lists[0]} has no line for {path.name}; add it or remove the recording")
            speaker = path.stem.split("-")[0]
            if not speaker.isdigit():
                raise BadInput(f"{path} is not named SPEAKER-CHAPTER-NUMBER as LibriSpeech's recordings are")
            rows.append((read_sound(path), texts[path.stem].lower(), int(speaker)))
    return _set("librispeech", folder.name, rows)


def read_speech_commands(folder: str | Path, split: str) -> DataSet:
    """Words of Speech Commands (v0.01 or v0.02) in the form of `keywords`: its ten commands, all others as
    "unknown", pieces of `_background_noise_` as "silence".

    split: "train" (what is in neither list file), or "test" (what `testing_list.txt` names). Arrays audio int16
    (n, 16000), shorter ones padded at the end; labels int64; speaker int64, the set's hash of it, numbered.
    Raises BadInput where a list file is missing or names a recording that is not there.
    """
    folder = _folder(folder)
    lists = {}
    for name in ("testing_list.txt", "validation_list.txt"):
        if not (folder / name).is_file():
            raise BadInput(
                f"{folder / name} is missing; it comes with the archive and says which recordings to hold out"
            )
        lists[name] = (folder / name).read_text(encoding="utf-8").split()
    if split not in ("train", "test"):
        raise BadInput(f"split {split!r} is neither 'train' nor 'test'")
    held = {name for names in lists.values() for name in names}
    everything = [path.relative_to(folder).as_posix() for path in _recordings(folder)]
    words = [name for name in everything if not name.startswith("_")]
    chosen = [name for name in words if name not in held] if split == "train" else lists["testing_list.txt"]
    for name in chosen:
        if not (folder / name).is_file():
            raise BadInput(
                f"testing_list.txt names {name}, which is not in {folder}; unpack the archive whole"
            )
    silence = CLASSES.index("silence")
    rows = [
        (_second(read_sound(folder / name)), _class(name), name.split("/")[1].split("_")[0])
        for name in chosen
    ]
    for name in everything:
        if name.startswith("_background_noise_/"):
            sound = read_sound(folder / name)
            half = sound[: len(sound) // 2] if split == "train" else sound[len(sound) // 2 :]
            pieces = range(0, len(half) - RATE + 1, RATE)
            rows += [(half[start : start + RATE], silence, "") for start in pieces]
    if not rows:
        raise BadInput(f"{folder} has no recordings of split {split!r}")
    who = {name: number for number, name in enumerate(sorted({row[2] for row in rows} - {""}))}
    arrays: dict[str, npt.NDArray[Any]] = {
        "audio": np.stack([row[0] for row in rows]),
        "labels": np.asarray([row[1] for row in rows], np.int64),
        "speaker": np.asarray([who.get(row[2], -1) for row in rows], np.int64),
    }
    return DataSet("speech-commands", split, arrays, CLASSES, {"rate": RATE})


def read_voxceleb(folder: str | Path) -> DataSet:
    """Recordings of VoxCeleb in the form of `speakers`: arrays audio and labels, one class an identity.

    Raises BadInput for a folder without `id…` folders, or one of those without recordings.
    """
    folder = _folder(folder)
    people = sorted(path for path in folder.iterdir() if path.is_dir() and path.name.startswith("id"))
    if not people:
        raise BadInput(f"{folder} has no folders id10001, id10002, …; give the one that holds them (wav/)")
    audio, labels = [], []
    for number, person in enumerate(people):
        files = _recordings(person)
        if not files:
            raise BadInput(f"{person} has no recordings; unpack its archive or remove the folder")
        audio += [read_sound(path) for path in files]
        labels += [number] * len(files)
    arrays: dict[str, npt.NDArray[Any] | Ragged] = {
        "audio": Ragged.of(audio),
        "labels": np.asarray(labels, np.int64),
    }
    return DataSet("voxceleb", folder.name, arrays, tuple(path.name for path in people), {"rate": RATE})


def _set(name: str, split: str, rows: Iterable[tuple[Samples, str, int]]) -> DataSet:
    rows = list(rows)
    arrays: dict[str, npt.NDArray[Any] | Ragged] = {
        "audio": Ragged.of(row[0] for row in rows),
        "transcript": Ragged.of(encode(row[1]) for row in rows),
        "speaker": np.asarray([row[2] for row in rows], np.int64),
    }
    return DataSet(name, split, arrays, facts={"rate": RATE})


def _folder(folder: str | Path) -> Path:
    folder = Path(folder)
    if not folder.is_dir():
        raise BadInput(f"{folder} is not a folder; give the one that the archive unpacks to")
    if not _recordings(folder):
        raise BadInput(f"{folder} has no .wav or .flac files; give the one that the archive unpacks to")
    return folder


def _recordings(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in _SUFFIXES)


def _class(name: str) -> int:
    word = name.split("/")[0]
    return CLASSES.index(word if word in CLASSES[:10] else "unknown")


def _second(samples: Samples) -> Samples:
    return np.pad(samples[:RATE], (0, max(0, RATE - len(samples))))


def _wave(path: Path) -> tuple[Samples, int]:
    try:
        with wave.open(str(path), "rb") as file:
            if file.getnchannels() != 1 or file.getsampwidth() != 2:
                raise BadInput(
                    f"{path} has {file.getnchannels()} channels of {8 * file.getsampwidth()} bits; "
                    "convert it to one of 16, e.g. with sox IN -c 1 -b 16 OUT"
                )
            return np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(
                np.int16
            ), file.getframerate()
    except (wave.Error, EOFError) as error:
        raise BadInput(f"{path} is not a WAV file that can be read: {error or 'it is cut short'}") from error


def _flac(path: Path) -> tuple[Samples, int]:
    try:
        import soundfile
    except ImportError as error:
        raise MissingExtra("soundfile", "data", f"to read {path.name}") from error
    try:
        samples, rate = soundfile.read(str(path), dtype="int16", always_2d=True)
    except RuntimeError as error:
        raise BadInput(f"{path} cannot be read: {error}") from error
    if samples.shape[1] != 1:
        raise BadInput(f"{path} has {samples.shape[1]} channels; convert it to one")
    return samples[:, 0], int(rate)
