"""Speech by espeak-ng, with the exact time of every phoneme.

Knows voices and texts; espeak-ng itself (GPL-3) runs in a process of its own (`espeak_process`), which answers
each request from the same state, so that the same request always gives the same samples. Knows nothing of data
sets or noise.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ondevice.data.speech import espeak_process
from ondevice.data.speech.sound import RATE, resample
from ondevice.errors import BadInput, MissingTool

Samples = npt.NDArray[np.int16]
_ATTEMPTS = 2  # a request is asked again once where the process died


@dataclass(frozen=True)
class Voice:
    """Who speaks, and how.

    language: as espeak-ng names it ("en-us", "de", …), or with a variant of its own ("en-us+f3").
    settings: lines of a voice variant that lie over it (formants in percent of the language's, base and top of
    the pitch in Hz, breath, …; see espeak-ng's docs/voices.md), "" for none.
    words_a_minute: 80 to 350. pitch, range: 0 to 99, 50 as the voice is made.
    """

    language: str = "en-us"
    settings: str = ""
    words_a_minute: int = 160
    pitch: int = 50
    range: int = 50


@dataclass(frozen=True)
class Spoken:
    """What was said. samples: int16 at 16 kHz. phonemes: espeak-ng's mnemonics, pauses ("_:") included.
    phoneme_starts: (phonemes + 1,) first sample of each, and the end. words: those of the text.
    word_starts: (words,) first sample of each; words that run together ("on the") share one."""

    samples: Samples
    phonemes: tuple[str, ...]
    phoneme_starts: npt.NDArray[np.int64]
    words: tuple[str, ...]
    word_starts: npt.NDArray[np.int64]


def speak(text: str, voice: Voice = Voice()) -> Spoken:
    """Say a text. The same text and voice give the same samples.

    Raises BadInput for a text without a word, an unknown language and figures out of range; MissingTool where
    espeak-ng is not installed.
    """
    if not re.search(r"\w", text):
        raise BadInput(f"the text {text!r} has nothing to say; give at least one word")
    if not 80 <= voice.words_a_minute <= 350:
        raise BadInput(f"{voice.words_a_minute} words a minute; espeak-ng speaks 80 to 350")
    if not (0 <= voice.pitch <= 99 and 0 <= voice.range <= 99):
        raise BadInput(f"pitch {voice.pitch} and range {voice.range} must lie in 0..99")
    answer, sound = _ask(
        {
            "text": " ".join(text.split()),
            "voice": f"{voice.language}+ondevice" if voice.settings else voice.language,
            "settings": voice.settings,
            "words_a_minute": voice.words_a_minute,
            "pitch": voice.pitch,
            "range": voice.range,
        }
    )
    if answer.get("error") == "voice":
        raise BadInput(f"espeak-ng has no voice {voice.language!r}; see: espeak-ng --voices")
    if "error" in answer or not answer["samples"]:
        raise BadInput(f"espeak-ng cannot say {text!r}")
    samples = np.frombuffer(sound, "<i2").astype(np.float32)
    resampled = resample(samples, answer["rate"], RATE)
    ratio = RATE / answer["rate"]
    starts = [round(start * ratio) for _, start in answer["phonemes"]] + [len(resampled)]
    words = list(re.finditer(r"\S+", " ".join(text.split())))
    found = [(position, starts[index]) for position, index in answer["words"]]
    word_starts = [max((at for place, at in found if place <= word.start()), default=0) for word in words]
    return Spoken(
        np.clip(np.round(resampled), -32768, 32767).astype(np.int16),
        tuple(name for name, _ in answer["phonemes"]),
        np.minimum(np.asarray(starts, np.int64), len(resampled)),
        tuple(word.group() for word in words),
        np.asarray(word_starts, np.int64),
    )


class _Process:
    """One espeak-ng process, started when first needed; requests one at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def ask(self, request: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
        with self._lock:
            for _ in range(_ATTEMPTS):
                if self._process is None or self._process.poll() is not None:
                    self._process = subprocess.Popen(
                        [sys.executable, "-I", str(Path(espeak_process.__file__))],
                        stdin=subprocess.PIPE,
                        stdout=subprocess.PIPE,
                    )
                answered = self._exchange(self._process, request)
                if answered is not None:
                    return answered
                if self._process.wait() == espeak_process.NO_LIBRARY:
                    raise MissingTool(
                        "espeak-ng is not installed; run: apt install libespeak-ng1 espeak-ng-data"
                    )
        raise BadInput(f"espeak-ng broke down over {request['text']!r}; leave it out")

    @staticmethod
    def _exchange(
        process: subprocess.Popen[bytes], request: dict[str, Any]
    ) -> tuple[dict[str, Any], bytes] | None:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(json.dumps(request).encode() + b"\n")
            process.stdin.flush()
        except BrokenPipeError:
            return None
        head = process.stdout.readline()
        if not head.endswith(b"\n"):
            return None
        answer = json.loads(head)
        return answer, process.stdout.read(2 * answer.get("samples", 0))


@lru_cache(maxsize=1)
def _process() -> _Process:
    return _Process()


def _ask(request: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
    return _process().ask(request)
