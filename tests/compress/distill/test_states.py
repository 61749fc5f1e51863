from __future__ import annotations

import numpy as np
import pytest
import torch

from ondevice.compress.distill.states import distill
from ondevice.compress.factorize.lowrank import LowRank
from ondevice.compress.vocabulary import Vocabulary
from ondevice.errors import BadInput
from ondevice.models.load import load


@pytest.mark.parametrize("head", ["Model", "ForSequenceClassification"])
def test_the_student_comes_closer_on_texts_it_did_not_see(tiny_checkpoint, texts, head):
    teacher = load(tiny_checkpoint("bert", head))
    student = LowRank(4, whiten=False, layers="*encoder*").apply(teacher)
    seen, unseen = texts[::2], texts[1::2]
    weights = {name: value.clone() for name, value in student.module.state_dict().items()}
    taught = distill(student, teacher, seen, epochs=3, learning_rate=5e-3)
    target = teacher.predict(unseen)
    before, after = (float(np.square(each.predict(unseen) - target).mean()) for each in (student, taught))
    assert after < 0.7 * before
    for name, value in student.module.state_dict().items():
        assert torch.equal(value, weights[name])
    assert not any(parameter.requires_grad for parameter in taught.module.parameters())
    tables = (each.module.get_input_embeddings().weight for each in (student, taught))
    assert next(tables) is next(tables)


def test_other_tasks_are_refused(tiny_checkpoint, texts):
    embedding, classes = (
        load(tiny_checkpoint("bert")),
        load(tiny_checkpoint("bert", "ForSequenceClassification")),
    )
    with pytest.raises(BadInput, match="embedding model cannot follow a classification"):
        distill(embedding, classes, texts)


def test_other_tokens_are_refused(model, texts):
    smaller = Vocabulary(tuple(texts[:1])).apply(model)
    with pytest.raises(BadInput, match="before the vocabulary shrinks"):
        distill(smaller, model, texts)
