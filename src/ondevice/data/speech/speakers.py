"""Carrier sentences by many voices, several by each, to tell voices apart.

Train and test differ in identities and in sentences. No identity is a pitch alone: tract, formants, breath and
tempo are its own too, and its pitch and tempo vary from sentence to sentence. Knows nothing of networks.

Equal error rate on all pairs of 360 test sentences of 60 voices (recipe speaker-encoder): the trained encoder 2.1 %,
the mean log-mel frame without learning 38.7 %.
"""

from __future__ import annotations

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


def make(
    split: str,
    count: int,
    *,
    seed: int = 0,
    each: int = 10,
    snr: tuple[float, float] | None = (10, 30),
    room: float = 0.3,
) -> DataSet:
    """Sentences, `each` by every identity, so that count / each identities speak.

    snr: the range of signal-to-noise ratios in dB, None for no noise. room: the probability of reverberation.
    Arrays: audio (ragged int16 at 16 kHz); labels int64, the identity in its split; voice float32 (n, 2), its
    tract and pitch in Hz; transcript (ragged uint8, UTF-8). Raises BadInput for more identities than there are.
    """
    rng = generator("speakers", split, seed)
    if count < 1 or each < 1:
        raise BadInput(f"{count} sentences, {each} by each; ask for one or more")
    cast = voices.pool(split, -(-count // each))
    settings = {"version": VERSION, "split": split, "count": count, "seed": seed, "each": each,
                "snr": snr and list(snr), "room": room}  # fmt: skip

    def fresh() -> DataSet:
        who = np.arange(count) // each
        texts = [grammar.carrier(rng, split) for _ in who]
        clean = [speak(text, cast[number].said(rng)).samples for text, number in zip(texts, who, strict=True)]
        arrays: dict[str, npt.NDArray[Any] | Ragged] = {
            "audio": Ragged.of(corrupt(samples, rng, snr, room=room, speech=clean) for samples in clean),
            "labels": who.astype(np.int64),
            "voice": np.asarray([(cast[number].tract, cast[number].hertz) for number in who], np.float32),
            "transcript": Ragged.of(encode(text) for text in texts),
        }
        names = tuple(f"{split} {number}" for number in range(len(cast)))
        return DataSet("speakers", split, arrays, names, {"rate": RATE}, VERSION)

    return kept("speakers", settings, fresh)


def draw(samples: DataSet, row: int) -> npt.NDArray[np.uint8]:
    """The spectrogram, with who speaks and what."""
    tract, hertz = samples["voice"][row]
    title = f"voice {samples['labels'][row]}: formants x{tract:.2f}, {hertz:.0f} Hz"
    return picture.spectrogram(samples.ragged("audio")[row], [(transcript(samples, row), 0)], title)


def listen(samples: DataSet, row: int) -> tuple[npt.NDArray[np.int16], int]:
    """Its sound and rate."""
    return samples.ragged("audio")[row], RATE
