from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from ondevice.data.speech import espeak, espeak_process
from ondevice.data.speech.espeak import Voice, speak
from ondevice.errors import BadInput, MissingTool

LOW = Voice(settings="pitch 80 110\n", range=0)
HIGH = Voice(settings="pitch 200 270\n", range=0)


def period(samples: np.ndarray) -> float:
    """Samples a pitch period, by the autocorrelation of the loudest 100 ms."""
    loud = int(np.argmax(np.convolve(np.abs(samples.astype(float)), np.ones(1600), "valid")))
    piece = samples[loud : loud + 1600].astype(float)
    correlation = np.correlate(piece, piece, "full")[1600:]
    return 46 + float(np.argmax(correlation[45:250]))


def test_the_same_request_gives_the_same_samples_whatever_was_said_before():
    alone = speak("open the garden gate", LOW)
    for other in ("hello", "what is the time of day", "stop"):
        speak(other, HIGH)
        assert np.array_equal(speak("open the garden gate", LOW).samples, alone.samples)


def test_a_fresh_process_says_the_same():
    code = (
        "from ondevice.data.speech.espeak import *; import hashlib;"
        "print(hashlib.sha256(speak('one two three').samples.tobytes()).hexdigest())"
    )
    runs = {
        subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout for _ in "ab"
    }
    assert len(runs) == 1


def test_phonemes_cover_the_sound_in_order():
    spoken = speak("turn on the kitchen light")
    assert len(spoken.phoneme_starts) == len(spoken.phonemes) + 1
    assert (np.diff(spoken.phoneme_starts) >= 0).all()
    assert spoken.phoneme_starts[-1] == len(spoken.samples)
    assert [name for name in spoken.phonemes if not name.startswith("_")][:3] == ["t", "3:", "n"]
    assert spoken.words == ("turn", "on", "the", "kitchen", "light")
    assert (np.diff(spoken.word_starts) >= 0).all()


def test_a_vowel_is_louder_than_the_closure_before_it():
    spoken = speak("a pot")
    starts = spoken.phoneme_starts
    vowel = next(i for i, name in enumerate(spoken.phonemes) if name.startswith("0") or name == "A:")
    closure = next(i for i, name in enumerate(spoken.phonemes) if name == "p")

    def power(start: int, end: int) -> float:
        return float(np.mean(spoken.samples[start:end].astype(float) ** 2))

    assert power(starts[vowel], starts[vowel + 1]) > 10 * power(starts[closure] - 400, starts[closure])


def test_a_voice_is_as_high_as_asked():
    low, high = (period(speak("ah oh ah oh", voice).samples) for voice in (LOW, HIGH))
    assert 16000 / 115 < low < 16000 / 70
    assert 16000 / 290 < high < 16000 / 180


def test_more_words_a_minute_take_less_time():
    lengths = [
        len(speak("one two three four five", Voice(words_a_minute=rate)).samples) for rate in (100, 160, 250)
    ]
    assert lengths == sorted(lengths, reverse=True)


@pytest.mark.parametrize(
    ("text", "voice", "said"),
    [
        ("", Voice(), "nothing to say"),
        (" ?! ", Voice(), "nothing to say"),
        ("hello", Voice(language="xx-none"), "no voice 'xx-none'"),
        ("hello", Voice(words_a_minute=5), "80 to 350"),
        ("hello", Voice(pitch=100), "0..99"),
    ],
)
def test_bad_input_is_named(text, voice, said):
    with pytest.raises(BadInput, match=said):
        speak(text, voice)


def test_without_the_library_the_packages_are_named(monkeypatch, tmp_path):
    bare = tmp_path / "bare.py"
    bare.write_text(f"import sys; sys.exit({espeak_process.NO_LIBRARY})")
    monkeypatch.setattr(espeak_process, "__file__", str(bare))
    espeak._process.cache_clear()
    try:
        with pytest.raises(MissingTool, match="apt install libespeak-ng1 espeak-ng-data"):
            speak("hello")
    finally:
        espeak._process.cache_clear()
