"""Who speaks in the data sets: identities drawn once, other ones for test than for training.

An identity is a length of vocal tract (which scales all formants), a pitch, formant strengths and widths of its
own, breath, roughness, tempo. The plane of tract and pitch is cut into cells, and every fifth is test's: no test
voice shares its cell with a training voice. Knows espeak-ng's variant settings. Knows nothing of what is said.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from ondevice.data.sets import generator
from ondevice.data.speech.espeak import Voice
from ondevice.errors import BadInput

_TRACTS = (0.88, 1.26)  # formants relative to the language's own voice: long tracts to short ones
_PITCHES = (78.0, 280.0)  # Hz
_CELLS = 6  # a side
POOLS = {"train": 400, "test": 100}


@dataclass(frozen=True)
class Speaker:
    """An identity. tract: its formants' scale. hertz: its base pitch. voice: how espeak-ng is set for it."""

    tract: float
    hertz: float
    voice: Voice

    @property
    def cell(self) -> tuple[int, int]:
        """The cell of the tract-pitch plane, each 0..5."""
        across = (self.tract - _TRACTS[0]) / (_TRACTS[1] - _TRACTS[0])
        up = math.log(self.hertz / _PITCHES[0]) / math.log(_PITCHES[1] / _PITCHES[0])
        return int(across * _CELLS), int(up * _CELLS)

    def said(self, rng: np.random.Generator, language: str | None = None) -> Voice:
        """The voice for one utterance: nobody speaks twice at quite the same pitch and tempo."""
        voice = self.voice
        return replace(
            voice,
            language=language or voice.language,
            words_a_minute=int(np.clip(voice.words_a_minute * rng.uniform(0.9, 1.1), 80, 350)),
            pitch=int(rng.integers(42, 59)),
            range=int(rng.integers(35, 66)),
        )


@lru_cache(maxsize=4)
def speakers(split: str) -> tuple[Speaker, ...]:
    """All identities of a split: 400 for "train", 100 for "test"; the same in every data set, whatever its seed."""
    rng = generator("voices", split, 0)
    found: list[Speaker] = []
    while len(found) < POOLS[split]:
        speaker = _draw(rng)
        if is_test_cell(speaker.cell) == (split == "test"):
            found.append(speaker)
    return tuple(found)


def is_test_cell(cell: tuple[int, int]) -> bool:
    """Whether the voices of a cell are test's: a knight's pattern, so that every test cell has training neighbours."""
    return (cell[0] + 2 * cell[1]) % 5 == 0


def pool(split: str, count: int) -> tuple[Speaker, ...]:
    """The first `count` identities of a split. Raises BadInput for more than there are."""
    everyone = speakers(split)
    if not 1 <= count <= len(everyone):
        raise BadInput(f"{count} voices of split {split!r}; there are 1 to {len(everyone)}")
    return everyone[:count]


def _draw(rng: np.random.Generator) -> Speaker:
    tract = rng.uniform(*_TRACTS)
    # Short tracts speak higher, with much overlap.
    middle = _PITCHES[0] * (_PITCHES[1] / _PITCHES[0]) ** (
        0.15 + 0.7 * (tract - _TRACTS[0]) / (_TRACTS[1] - _TRACTS[0])
    )
    hertz = float(np.clip(middle * 2 ** rng.normal(0, 0.3), _PITCHES[0], _PITCHES[1] * 0.999))
    lines = [f"pitch {hertz:.0f} {hertz * rng.uniform(1.3, 1.7):.0f}"]
    for formant in range(9):
        frequency = 100 * tract * (1 + 0.025 * rng.standard_normal()) if 1 <= formant <= 5 else 100
        height = 100 * 2 ** rng.normal(0, 0.3)
        lines.append(f"formant {formant} {frequency:.0f} {height:.0f} {rng.uniform(80, 170):.0f}")
    lines.append(f"flutter {rng.integers(0, 8)}")
    lines.append(f"roughness {rng.integers(0, 5)}")
    lines.append(f"voicing {rng.integers(75, 126)}")
    lines.append(f"consonants {rng.integers(70, 131)} {rng.integers(70, 131)}")
    if rng.random() < 0.4:
        breath = rng.integers(1, 7)
        lines.append("breath 0 " + " ".join(str(breath) for _ in range(7)))
    settings = "\n".join(lines) + "\n"
    return Speaker(tract, hertz, Voice("en-us", settings, int(rng.integers(130, 186))))
