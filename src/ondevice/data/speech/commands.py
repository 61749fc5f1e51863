"""Spoken commands: two to eight words of a vocabulary of about a hundred, by many voices, clean or in noise.

Train and test differ in voices (see `voices`), sentences (see `grammar`) and noise. Knows nothing of recognisers.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ondevice.data.sets import DataSet, Ragged, generator, kept
from ondevice.data.speech import grammar, picture, voices
from ondevice.data.speech.espeak import speak
from ondevice.data.speech.sound import NOISES, RATE, corrupt
from ondevice.errors import BadInput

VERSION = "1"


def make(
    split: str,
    count: int,
    *,
    seed: int = 0,
    snr: tuple[float, float] | None = None,
    room: float = 0.0,
    speakers: int | None = None,
) -> DataSet:
    """Commands with their transcripts and times.

    snr: the range of signal-to-noise ratios in dB, None for no noise. room: the probability of reverberation.
    speakers: how many identities speak (all of the split's by default).
    Arrays: audio (ragged int16 at 16 kHz); transcript (ragged uint8, UTF-8; see `transcript`); speaker int64,
    the identity's number in its split; voice float32 (n, 2), its tract and pitch in Hz; word_starts (ragged
    int64, samples); phoneme_starts (ragged int64, one more than phonemes); phonemes (ragged uint8, names
    separated by spaces). Times are those of the clean voice.
    """
    rng = generator("commands", split, seed)
    if count < 1:
        raise BadInput(f"{count} commands; ask for one or more")
    cast = voices.pool(split, speakers or voices.POOLS[split])
    settings = {"version": VERSION, "split": split, "count": count, "seed": seed,
                "snr": snr and list(snr), "room": room, "speakers": len(cast)}  # fmt: skip

    def fresh() -> DataSet:
        who = rng.integers(len(cast), size=count)
        texts = [grammar.command(rng, split) for _ in range(count)]
        said = [speak(text, cast[number].said(rng)) for text, number in zip(texts, who, strict=True)]
        around = rng.integers(800, 4800, (count, 2))  # of silence before and after: 0.05 to 0.3 s
        clean = [np.pad(spoken.samples, ends) for spoken, ends in zip(said, around, strict=True)]
        heard = [corrupt(samples, rng, snr, room=room, kinds=NOISES, speech=clean) for samples in clean]
        arrays: dict[str, npt.NDArray[Any] | Ragged] = {
            "audio": Ragged.of(heard),
            "transcript": Ragged.of(encode(text) for text in texts),
            "speaker": who.astype(np.int64),
            "voice": np.asarray([(cast[number].tract, cast[number].hertz) for number in who], np.float32),
            "word_starts": Ragged.of(spoken.word_starts + lead for spoken, lead in zip(said, around[:, 0])),
            "phoneme_starts": Ragged.of(
                spoken.phoneme_starts + lead for spoken, lead in zip(said, around[:, 0])
            ),
            "phonemes": Ragged.of(encode(" ".join(spoken.phonemes)) for spoken in said),
        }
        return DataSet("commands", split, arrays, facts={"rate": RATE}, version=VERSION)

    return kept("commands", settings, fresh)


def transcript(samples: DataSet, row: int) -> str:
    """What was said."""
    return samples.ragged("transcript")[row].tobytes().decode()


def encode(text: str) -> npt.NDArray[np.uint8]:
    """A text as UTF-8 bytes, (bytes,)."""
    return np.frombuffer(text.encode(), np.uint8)


def draw(samples: DataSet, row: int) -> npt.NDArray[np.uint8]:
    """The spectrogram, with the words at their times."""
    words = transcript(samples, row).split()
    starts = samples.ragged("word_starts")[row].tolist() if "word_starts" in samples.arrays else []
    return picture.spectrogram(samples.ragged("audio")[row], list(zip(words, starts, strict=False)),
                               title=f"speaker {samples['speaker'][row]}")  # fmt: skip


def listen(samples: DataSet, row: int) -> tuple[npt.NDArray[np.int16], int]:
    """Its sound and rate."""
    return samples.ragged("audio")[row], RATE
