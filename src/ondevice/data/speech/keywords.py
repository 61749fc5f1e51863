"""Single spoken words in a second of noise: ten commands, other words, and no word at all.

Train and test differ in voices (see `voices`), in the other words ("unknown" of the test was never heard) and in
noise. Knows nothing of networks.

Accuracy on 600 test clips, of networks trained on 3600 (recipe keyword-dscnn): DS-CNN 93.0 %, its own random
features frozen under a trained head 26.2 %. Of the other words, none of which it ever heard, 38 % are told as such.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ondevice.data.sets import DataSet, generator, kept
from ondevice.data.speech import picture, voices
from ondevice.data.speech.espeak import speak
from ondevice.data.speech.sound import RATE, at_level, corrupt, noise
from ondevice.errors import BadInput

VERSION = "1"
CLASSES = ("yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go", "unknown", "silence")
# Some of each are near a keyword ("know" is one: left out), so that the rest is not told apart by length alone.
OTHERS = {
    "train": ("bed", "bird", "cat", "dog", "happy", "house", "marvin", "sheila", "tree", "wow", "one", "three", "note",
              "town", "gone", "light", "often", "step", "upper", "yet", "low", "write", "don't", "leg"),
    "test": ("zero", "four", "seven", "nine", "river", "apple", "music", "winter", "goat", "lift", "stock", "round",
             "gnome", "cup", "yesterday", "offer"),
}  # fmt: skip


def make(
    split: str, count: int, *, seed: int = 0, snr: tuple[float, float] | None = (5, 30), room: float = 0.3
) -> DataSet:
    """One second each, as many of every class as count allows.

    snr: the range of signal-to-noise ratios in dB, None for no noise. room: the probability of reverberation.
    Arrays: audio int16 (n, 16000); labels int64, into `CLASSES`; speaker int64, the identity in its split (-1 for
    silence); other int64, which of the split's other words was said (-1: none).
    """
    rng = generator("keywords", split, seed)
    if count < 1:
        raise BadInput(f"{count} keywords; ask for one or more")
    cast = voices.speakers(split)
    settings = {"version": VERSION, "split": split, "count": count, "seed": seed, "snr": snr and list(snr),
                "room": room}  # fmt: skip

    def fresh() -> DataSet:
        labels = rng.permutation(np.arange(count) % len(CLASSES))
        others = np.where(
            labels == CLASSES.index("unknown"), rng.integers(len(OTHERS[split]), size=count), -1
        )
        silent = labels == CLASSES.index("silence")
        who = np.where(silent, -1, rng.integers(len(cast), size=count))
        clean = []
        for label, other, number in zip(labels, others, who, strict=True):
            if number >= 0:
                word = OTHERS[split][other] if other >= 0 else CLASSES[label]
                clean.append(_placed(speak(word, cast[number].said(rng)).samples, rng))
        heard = []
        said = iter(clean)
        for quiet in silent:
            if not quiet:
                heard.append(corrupt(next(said), rng, snr, room=room, speech=clean))
                continue
            kind = ("white", "pink", "hum", "rain")[int(rng.integers(4))]
            heard.append(at_level(noise(kind, RATE, rng), rng.uniform(-60, -25)))  # type: ignore[arg-type]
        arrays: dict[str, npt.NDArray[Any]] = {
            "audio": np.stack(heard),
            "labels": labels.astype(np.int64),
            "speaker": who.astype(np.int64),
            "other": others.astype(np.int64),
        }
        return DataSet("keywords", split, arrays, CLASSES, {"rate": RATE}, VERSION)

    return kept("keywords", settings, fresh)


def _placed(word: npt.NDArray[np.int16], rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """A word somewhere in a second, over a hiss of rounding's size; what is longer is cut at its end."""
    start = int(rng.integers(0, max(1, RATE - len(word))))
    placed = rng.standard_normal(RATE).astype(np.float32)
    piece = word[: RATE - start]
    placed[start : start + len(piece)] += piece
    return placed


def draw(samples: DataSet, row: int) -> npt.NDArray[np.uint8]:
    """The spectrogram, named by its class."""
    return picture.spectrogram(samples["audio"][row], title=samples.classes[samples["labels"][row]])


def listen(samples: DataSet, row: int) -> tuple[npt.NDArray[np.int16], int]:
    """Its sound and rate."""
    return samples["audio"][row], RATE
