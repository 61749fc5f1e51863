"""Twenty spoken languages, each by the same voices, to tell languages apart; and others that are none of them.

What is said are numbers, which espeak-ng reads out in every language, so that no text has to be translated.
Train and test differ in voices and in numbers. Every language is spoken by every voice of its split: what tells
languages apart is their sounds. Knows nothing of networks.

Measured by benchmarks/controls.py (1,200 train, 400 test, 20 languages): a linear head on the frozen random features of
a small CNN over log-mel spectra 22.0 %, on coarse spectra 23.2 %; the same CNN after 15 epochs 69.5 %.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ondevice.data.sets import DataSet, Ragged, generator, kept
from ondevice.data.speech import grammar, picture, voices
from ondevice.data.speech.commands import encode, transcript
from ondevice.data.speech.espeak import speak
from ondevice.data.speech.sound import RATE, corrupt
from ondevice.errors import BadInput

VERSION = "1"
TARGETS = ("en-us", "de", "nl", "sv", "es", "pt", "it", "fr", "ro", "pl", "cs", "ru", "el", "tr", "fi", "hu", "id",
           "vi", "hi", "sw")  # fmt: skip
OUTLIERS = ("da", "ca", "sk", "uk", "et", "ms", "bn", "fa", "ta", "sq")  # none of the targets, for training
UNSEEN = (
    "nb",
    "af",
    "eo",
    "hr",
    "bg",
    "lt",
    "lv",
    "sl",
    "ka",
    "az",
    "ur",
    "mr",
    "te",
    "cy",
    "is",
)  # for testing only


def make(
    split: str,
    count: int,
    *,
    seed: int = 0,
    languages: Sequence[str] = TARGETS,
    seconds: float = 3.0,
    snr: tuple[float, float] | None = (10, 30),
    room: float = 0.2,
) -> DataSet:
    """Clips of one length, as many of every language as count allows.

    languages: names as espeak-ng has them; the classes. seconds: of a clip; longer speech is cut, shorter goes on
    with the next number. Arrays: audio int16 (n, samples at 16 kHz); labels int64; speaker int64, the identity in
    its split; transcript (ragged uint8, the numbers said).
    """
    rng = generator("languages", split, seed)
    if count < 1 or not languages or not 0.5 <= seconds <= 30:
        raise BadInput(
            f"{count} clips of {seconds} s in {len(languages)} languages; give a clip of 0.5 to 30 s"
        )
    cast = voices.speakers(split)
    settings = {"version": VERSION, "split": split, "count": count, "seed": seed, "languages": list(languages),
                "seconds": seconds, "snr": snr and list(snr), "room": room}  # fmt: skip

    def fresh() -> DataSet:
        labels = rng.permutation(np.arange(count) % len(languages))
        who = rng.integers(len(cast), size=count)
        size, clean, texts = int(seconds * RATE), [], []
        for label, number in zip(labels, who, strict=True):
            text = " ".join(_number(rng, split) for _ in range(2 + int(seconds)))
            said = speak(text.replace(" ", ", "), cast[number].said(rng, languages[label])).samples
            clean.append(np.resize(said, size))
            texts.append(text)
        heard = [corrupt(samples, rng, snr, room=room, speech=clean) for samples in clean]
        arrays: dict[str, npt.NDArray[Any] | Ragged] = {
            "audio": np.stack(heard),
            "labels": labels.astype(np.int64),
            "speaker": who.astype(np.int64),
            "transcript": Ragged.of(encode(text) for text in texts),
        }
        return DataSet("languages", split, arrays, tuple(languages), {"rate": RATE}, VERSION)

    return kept("languages", settings, fresh)


def _number(rng: np.random.Generator, split: str) -> str:
    """A number below ten thousand that is of this split."""
    while True:
        number = str(int(10 ** rng.uniform(0.5, 4)))
        if grammar.is_test(number) == (split == "test"):
            return number


def draw(samples: DataSet, row: int) -> npt.NDArray[np.uint8]:
    """The spectrogram, with the language and the numbers said."""
    title = f"{samples.classes[samples['labels'][row]]}, speaker {samples['speaker'][row]}"
    return picture.spectrogram(samples["audio"][row], [(transcript(samples, row), 0)], title)


def listen(samples: DataSet, row: int) -> tuple[npt.NDArray[np.int16], int]:
    """Its sound and rate."""
    return samples["audio"][row], RATE
