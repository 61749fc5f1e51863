from __future__ import annotations

import numpy as np
import pytest

from ondevice.data.speech import grammar, voices
from ondevice.errors import BadInput


def test_no_test_voice_shares_its_cell_with_a_training_voice():
    train, test = ({speaker.cell for speaker in voices.speakers(split)} for split in ("train", "test"))
    assert not train & test
    assert len(test) >= 4
    assert len(train) > len(test)


def test_identities_are_all_different_and_always_the_same():
    everyone = [*voices.speakers("train"), *voices.speakers("test")]
    assert len({speaker.voice.settings for speaker in everyone}) == len(everyone) == 500
    voices.speakers.cache_clear()
    assert voices.speakers("train")[:3] == tuple(everyone[:3])


def test_one_identity_is_not_a_pitch_alone():
    tracts = np.array([speaker.tract for speaker in voices.speakers("train")])
    hertz = np.array([speaker.hertz for speaker in voices.speakers("train")])
    assert 0.3 < np.corrcoef(tracts, hertz)[0, 1] < 0.95
    assert tracts.max() / tracts.min() > 1.3


def test_a_voice_varies_from_utterance_to_utterance():
    speaker, rng = voices.speakers("train")[0], np.random.default_rng(0)
    said = [speaker.said(rng) for _ in range(5)]
    assert len({(voice.pitch, voice.words_a_minute) for voice in said}) > 3
    assert {voice.settings for voice in said} == {speaker.voice.settings}


@pytest.mark.parametrize("count", [0, 101])
def test_more_voices_than_there_are_are_refused(count):
    with pytest.raises(BadInput, match="1 to 100"):
        voices.pool("test", count)


def test_commands_are_two_to_eight_words_of_the_vocabulary():
    rng = np.random.default_rng(0)
    said = [grammar.command(rng, split) for split in ("train", "test") for _ in range(400)]
    words = {word for text in said for word in text.split()}
    assert words <= set(grammar.vocabulary())
    assert 80 <= len(grammar.vocabulary()) <= 120
    assert {len(text.split()) for text in said} <= set(range(2, 9))
    assert len(words) > 0.9 * len(grammar.vocabulary())


@pytest.mark.parametrize("say", [grammar.command, grammar.carrier])
def test_no_sentence_is_in_both_splits(say):
    sentences = []
    for split in ("train", "test"):
        rng = np.random.default_rng(1)
        sentences.append({say(rng, split) for _ in range(500)})
    assert not sentences[0] & sentences[1]
