"""The four sets of speech: the same seed, the same set; other voices and texts in the test; truth that fits."""

from __future__ import annotations

import numpy as np
import pytest

from ondevice.data import catalog
from ondevice.data.speech import commands, features, keywords, languages, speakers
from ondevice.data.speech.voices import speakers as identities
from ondevice.errors import BadInput

MAKERS = {"keywords": keywords, "commands": commands, "speakers": speakers, "languages": languages}


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("ONDEVICE_CACHE", str(tmp_path))


def clean(maker, split, count, seed=0):
    return maker.make(split, count, seed=seed, snr=None, room=0.0)


@pytest.mark.parametrize("name", MAKERS)
def test_a_seed_decides_all(name, monkeypatch, tmp_path):
    maker = MAKERS[name]
    first = maker.make("train", 2, seed=1).fingerprint()
    monkeypatch.setenv("ONDEVICE_CACHE", str(tmp_path / "other"))  # made again, not read
    assert maker.make("train", 2, seed=1).fingerprint() == first
    assert maker.make("train", 2, seed=2).fingerprint() != first
    assert maker.make("test", 2, seed=1).fingerprint() != first
    assert catalog.find(name).maker() is maker


@pytest.mark.parametrize("name", MAKERS)
def test_a_picture_and_a_sound_of_each(name):
    maker = MAKERS[name]
    samples = clean(maker, "train", 2)
    picture = maker.draw(samples, 1)
    assert picture.dtype == np.uint8
    assert picture.ndim == 3
    assert picture.std() > 20
    sound, rate = maker.listen(samples, 1)
    assert (sound.dtype, rate) == (np.int16, 16000)
    assert np.abs(sound.astype(int)).max() > 500


@pytest.mark.parametrize("name", MAKERS)
def test_bad_input_is_refused(name):
    for wrong in (lambda: MAKERS[name].make("train", 0), lambda: MAKERS[name].make("dev", 2)):
        with pytest.raises(BadInput):
            wrong()


def test_a_speaker_number_is_the_voice_recorded():
    for split in ("train", "test"):
        samples = clean(commands, split, 6)
        for number, voice in zip(samples["speaker"], samples["voice"], strict=True):
            speaker = identities(split)[number]
            assert np.allclose(voice, (speaker.tract, speaker.hertz))


def test_words_and_phonemes_lie_where_the_sound_is():
    samples = clean(commands, "train", 6)
    for row in range(6):
        audio = samples.ragged("audio")[row].astype(float)
        starts = samples.ragged("word_starts")[row]
        phonemes = samples.ragged("phoneme_starts")[row]
        assert len(starts) == len(commands.transcript(samples, row).split())
        assert len(phonemes) == len(samples.ragged("phonemes")[row].tobytes().decode().split()) + 1
        assert (np.diff(phonemes) >= 0).all()
        assert phonemes[-1] <= len(audio)
        said = np.mean(audio[starts[0] : phonemes[-1]] ** 2)
        assert said > 100 * np.mean(audio[:700] ** 2)  # silence before the first word


def test_noise_is_as_loud_as_asked():
    loud, soft = (commands.make("train", 4, seed=3, snr=(snr, snr)) for snr in (0.0, 40.0))

    def contrast(samples):
        """Of loud frames to quiet ones, in ln of power."""
        levels = [features.log_mel(samples.ragged("audio")[row]).mean(axis=1) for row in range(4)]
        return np.mean([np.percentile(level, 95) - np.percentile(level, 5) for level in levels])

    assert contrast(soft) > contrast(loud) + 1


def test_keywords_have_every_class_and_other_words_differ_between_splits():
    assert not set(keywords.OTHERS["train"]) & set(keywords.OTHERS["test"])
    assert not set(keywords.CLASSES) & {word for words in keywords.OTHERS.values() for word in words}
    samples = clean(keywords, "test", 24)
    assert sorted(samples["labels"]) == sorted([*range(12), *range(12)])
    silent = samples["labels"] == keywords.CLASSES.index("silence")
    assert np.array_equal(samples["speaker"] == -1, silent)
    assert np.array_equal(samples["other"] >= 0, samples["labels"] == keywords.CLASSES.index("unknown"))


def test_each_identity_says_several_sentences():
    samples = speakers.make("train", 7, each=3, snr=None, room=0.0)
    assert samples["labels"].tolist() == [0, 0, 0, 1, 1, 1, 2]
    with pytest.raises(BadInput, match="1 to 100"):
        speakers.make("test", 101, each=1)


def test_languages_share_voices_and_not_numbers():
    assert not set(languages.TARGETS) & {*languages.OUTLIERS, *languages.UNSEEN}
    assert not set(languages.OUTLIERS) & set(languages.UNSEEN)
    train, test = (
        languages.make(split, 6, languages=languages.TARGETS[:3], seconds=1, snr=None, room=0.0)
        for split in ("train", "test")
    )
    assert sorted(train["labels"]) == [0, 0, 1, 1, 2, 2]
    assert train["audio"].shape == (6, 16000)
    said = [
        {number for row in range(6) for number in commands.transcript(samples, row).split()}
        for samples in (train, test)
    ]
    assert not said[0] & said[1]


def test_a_language_that_espeak_does_not_speak_is_named():
    with pytest.raises(BadInput, match="xx-none"):
        languages.make("train", 1, languages=["xx-none"])
