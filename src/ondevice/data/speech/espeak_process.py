"""The process in which espeak-ng runs: one JSON request a line on standard input, one answer on standard output.

Runs as a script with the standard library alone. Every request is answered by a fork of the process as it was
just after the library's start, so that what is said does not depend on what was said before: espeak-ng carries
the phase of its voice and the state of its random numbers from call to call, and its own reset hangs.
Knows the library's calls. Knows nothing of resampling or of who asks.

An answer: a line of JSON {"samples", "rate", "phonemes", "words"} or {"error"}, then int16 samples.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

_SYNCHRONOUS, _PHONEME_EVENTS, _DONT_EXIT = 2, 1, 0x8000
_RATE, _PITCH, _RANGE, _UTF8 = 1, 3, 4, 1
_LAST, _WORD, _PHONEME = 0, 1, 7
NO_LIBRARY = 5  # the exit status where the library or its data are not there


class _Event(ctypes.Structure):
    _fields_ = [
        ("type", ctypes.c_int),
        ("identifier", ctypes.c_uint),
        ("position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("milliseconds", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user", ctypes.c_void_p),
        ("string", ctypes.c_char * 8),
    ]


_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.POINTER(_Event))


def _load() -> ctypes.CDLL:
    for name in ("libespeak-ng.so.1", ctypes.util.find_library("espeak-ng")):
        try:
            if name:
                return ctypes.CDLL(name)
        except OSError:
            continue
    sys.exit(NO_LIBRARY)


def _overlay(library: ctypes.CDLL, folder: Path) -> Path:
    """A data folder of links to the installed one, in which we may add a voice variant; the variant's file."""
    library.espeak_ng_InitializePath(None)
    library.espeak_Info.restype = ctypes.c_char_p
    where = ctypes.c_char_p()
    library.espeak_Info(ctypes.byref(where))
    installed, own = Path(os.fsdecode(where.value or b"")), folder / "espeak-ng-data"
    if not (installed / "voices" / "!v").is_dir():
        sys.exit(NO_LIBRARY)
    (own / "voices" / "!v").mkdir(parents=True)
    for source, target in (
        (installed, own),
        (installed / "voices", own / "voices"),
        (installed / "voices" / "!v", own / "voices" / "!v"),
    ):
        for entry in source.iterdir():
            if not (target / entry.name).exists():
                (target / entry.name).symlink_to(entry)
    return own / "voices" / "!v" / "ondevice"


def _say(library: ctypes.CDLL, rate: int, request: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
    parts: list[bytes] = []
    phonemes: list[tuple[str, int]] = []
    words: list[tuple[int, int]] = []  # character position, index of the phoneme that comes next

    def hear(samples: int | None, count: int, events: Any) -> int:
        if samples and count > 0:
            parts.append(ctypes.string_at(samples, 2 * count))
        index = 0
        while events[index].type != _LAST:
            event = events[index]
            if event.type == _PHONEME:
                phonemes.append((event.string.decode("utf-8", "replace"), event.sample))
            elif event.type == _WORD:
                words.append((event.position - 1, len(phonemes)))
            index += 1
        return 0

    callback = _Callback(hear)
    library.espeak_SetSynthCallback(callback)
    if library.espeak_SetVoiceByName(request["voice"].encode()):
        return {"error": "voice"}, b""
    for parameter, key in ((_RATE, "words_a_minute"), (_PITCH, "pitch"), (_RANGE, "range")):
        library.espeak_SetParameter(parameter, request[key], 0)
    text = request["text"].encode()
    ctypes.CDLL(None).srand(0)
    if library.espeak_Synth(text, len(text) + 1, 0, 1, 0, _UTF8, None, None):
        return {"error": "synthesis"}, b""
    sound = b"".join(parts)
    return {"samples": len(sound) // 2, "rate": rate, "phonemes": phonemes, "words": words}, sound


def main() -> None:
    library = _load()
    with tempfile.TemporaryDirectory(prefix="ondevice-voice-") as folder:
        variant = _overlay(library, Path(folder))
        rate = library.espeak_Initialize(
            _SYNCHRONOUS, 200, os.fsencode(Path(folder)), _PHONEME_EVENTS | _DONT_EXIT
        )
        if rate <= 0:
            sys.exit(NO_LIBRARY)
        for line in sys.stdin.buffer:
            request = json.loads(line)
            variant.write_text("language variant\nname ondevice\n" + request["settings"])
            child = os.fork()
            if not child:
                try:
                    answer, sound = _say(library, rate, request)
                    with os.fdopen(1, "wb", closefd=False) as out:
                        out.write(json.dumps(answer).encode() + b"\n" + sound)
                finally:
                    os._exit(0)
            os.waitpid(child, 0)


if __name__ == "__main__":
    main()
