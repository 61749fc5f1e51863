from __future__ import annotations

import numpy as np
import pytest
import torch

from ondevice.compress.calibration import Calibration
from ondevice.compress.quantize.quantize import Quantize
from ondevice.compress.vocabulary import Vocabulary, loss_outside
from ondevice.errors import BadInput, NeedsCalibration, UnsupportedModel
from ondevice.layers.quantized import QuantizedEmbedding
from ondevice.layers.store import stored_bytes
from ondevice.models.load import load

CORPUS = ("return the value", "open a file", "read the lines of the file")
OUTSIDE = ["The lazy dog jumps over two tables", "Quick foxes and chairs, 1234567890!"]


@pytest.mark.parametrize("family", ["bert", "xlm-roberta"])
def test_texts_of_the_corpus_keep_their_tokens_and_output(tiny_checkpoint, family):
    model = load(tiny_checkpoint(family))
    small = Vocabulary(CORPUS).apply(model)
    size = small.tokenizer.get_vocab_size()
    assert size == small.config["vocab_size"] < model.config["vocab_size"]
    assert small.module.get_input_embeddings().weight.shape == (size, 32)
    assert stored_bytes(model.module) - stored_bytes(small.module) == 4 * 32 * (
        model.config["vocab_size"] - size
    )
    for text in CORPUS:
        old, new = model.tokenizer.encode(text), small.tokenizer.encode(text)
        assert old.tokens == new.tokens
        table, less = model.module.get_input_embeddings().weight, small.module.get_input_embeddings().weight
        assert torch.equal(table[old.ids], less[new.ids])
    np.testing.assert_array_equal(small.predict(CORPUS), model.predict(CORPUS))


@pytest.mark.parametrize("family", ["bert", "xlm-roberta"])
def test_any_text_still_becomes_tokens(tiny_checkpoint, family):
    model = load(tiny_checkpoint(family))
    small = Vocabulary(CORPUS).apply(model)
    name = "[UNK]" if family == "bert" else "<unk>"
    for text in OUTSIDE:
        before, after = (each.tokenizer.encode(text).ids for each in (model, small))
        assert after.count(small.tokenizer.token_to_id(name)) == before.count(
            model.tokenizer.token_to_id(name)
        )
    assert np.isfinite(small.predict(OUTSIDE)).all()


def test_special_tokens_keep_their_meaning(model):
    small = Vocabulary(CORPUS).apply(model)
    encoding = small.tokenizer.encode("a file", "the value")
    assert encoding.tokens[0] == "[CLS]"
    assert encoding.tokens.count("[SEP]") == 2
    assert [small.tokenizer.id_to_token(index) for index in encoding.ids] == encoding.tokens
    assert small.tokenizer.id_to_token(small.config["pad_token_id"]) == "[PAD]"
    specials = {token.content for token in small.tokenizer.get_added_tokens_decoder().values()}
    assert specials == {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"}


def test_the_loss_on_other_texts_is_measured(model):
    small = Vocabulary(CORPUS).apply(model)
    inside, outside = loss_outside(model, small, CORPUS), loss_outside(model, small, OUTSIDE)
    assert (inside.split, inside.longer) == (0, 1)
    assert inside.cosine == pytest.approx(1, abs=1e-6)
    assert outside.split == 1
    assert outside.longer > 1
    assert outside.cosine < 0.999
    assert outside.tokens_after < outside.tokens_before


def test_a_higher_count_keeps_fewer(model, texts):
    sizes = [
        Vocabulary(min_count=count).apply(model, Calibration(texts)).config["vocab_size"]
        for count in (1, 100, 10**6)
    ]
    assert sizes[0] > sizes[1] >= sizes[2]


def test_quantised_tables_shrink_bit_for_bit(model):
    quantised = Quantize(4, method="rtn", smooth=0).apply(model)
    small = Vocabulary(CORPUS).apply(quantised)
    assert isinstance(small.module.get_input_embeddings(), QuantizedEmbedding)
    np.testing.assert_array_equal(small.predict(CORPUS), quantised.predict(CORPUS))


def test_a_corpus_may_be_a_folder(model, tmp_path):
    (tmp_path / "a.txt").write_text("\n\n".join(CORPUS))
    small = Vocabulary(str(tmp_path)).apply(model)
    assert small.config["vocab_size"] == Vocabulary(CORPUS).apply(model).config["vocab_size"]


def test_bad_input(model, tiny_checkpoint):
    with pytest.raises(NeedsCalibration, match="corpus=FOLDER"):
        Vocabulary().apply(model)
    with pytest.raises(UnsupportedModel, match="BPE: tokens can be dropped from WordPiece and Unigram"):
        Vocabulary(CORPUS).apply(load(tiny_checkpoint("roberta")))
    with pytest.raises(BadInput, match="1 or more"):
        Vocabulary(min_count=0)
