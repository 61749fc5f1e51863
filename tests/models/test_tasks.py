import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ondevice.errors import BadInput
from ondevice.models.load import load
from ondevice.models.tasks import windows


@pytest.fixture(scope="module")
def tokenizers(tiny_decoder):
    return {begin: load(tiny_decoder("llama", begin=begin)).tokenizer for begin in (True, False)}


@settings(max_examples=60)
@given(
    st.lists(st.text(min_size=1).filter(str.strip), min_size=1, max_size=4), st.integers(4, 40), st.booleans()
)
def test_windows_hold_every_token_once_after_the_token_that_begins_a_text(tokenizers, texts, length, begin):
    tokenizer = tokenizers[begin]
    found = windows(tokenizer, texts, length)
    prefix = [0] if begin else []
    expected = []
    for text in texts:
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        parts = [ids[at : at + length - len(prefix)] for at in range(0, len(ids), length - len(prefix))]
        expected += [prefix + part for part in parts if len(part) > 1]
    assert [window.ids for window in found] == expected
    assert all(window.given == len(prefix) + 1 and window.judged >= 1 for window in found)


def test_bytes_are_those_of_the_judged_text(tokenizers):
    (window,) = windows(tokenizers[True], ["abcdefgh é 字"], 60)
    first = tokenizers[True].decode([window.ids[1]])
    assert window.nbytes == len("abcdefgh é 字".encode()) - len(first.encode())


def test_bad_input(tokenizers):
    with pytest.raises(BadInput, match="no room"):
        windows(tokenizers[True], ["text"], 2)
    with pytest.raises(BadInput, match="empty"):
        windows(tokenizers[True], [" "], 20)
