"""Distillation: a compressed model learns to give what the one that it came from gives, layer by layer.

Knows two models of one task and texts. Knows nothing of how the student was made smaller.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import nn

from ondevice.errors import BadInput
from ondevice.models.model import Model, batches, share
from ondevice.train.loop import descend


def distill(
    student: Model,
    teacher: Model,
    texts: Sequence[str],
    *,
    epochs: int = 2,
    learning_rate: float = 5e-4,
    batch_size: int = 16,
    seed: int = 0,
) -> Model:
    """The student after it has followed the teacher on texts; neither model is edited.

    The loss is the relative squared error of the hidden states of every token, a mean over the layers (after
    TinyBERT, Jiao et al. 2020, eq. 8; the last layer's alone where the student has fewer layers), and for a
    classifier also the divergence of its classes from the teacher's (Hinton et al. 2015, temperature 1).
    All parameters but tables of embeddings learn; what is quantised stays as it is, and layers with int8
    activations pass no gradient.
    """
    if student.task.kind != teacher.task.kind:
        raise BadInput(f"a {student.task.kind} model cannot follow a {teacher.task.kind} model")
    token_ids = student.tokens(texts)
    if token_ids != teacher.tokens(texts):
        raise BadInput(
            "student and teacher make other tokens of the texts; distil before the vocabulary shrinks"
        )
    learned, learner = _own(student)
    rounds = batches(token_ids, batch_size, int(student.config.get("pad_token_id") or 0))
    classes = student.task.kind == "classification"

    def loss_of(batch: tuple[list[int], torch.Tensor, torch.Tensor]) -> torch.Tensor:
        _, ids, mask = batch
        inputs = {"input_ids": ids, "attention_mask": mask, "output_hidden_states": True}
        with torch.no_grad():
            wanted = teacher.module(**inputs)
        given = learner.module(**inputs)
        loss = _difference(given.hidden_states[1:], wanted.hidden_states[1:], mask.bool())
        if classes:
            guess, target = (result.logits.log_softmax(dim=-1) for result in (given, wanted))
            loss = loss + nn.functional.kl_div(guess, target, log_target=True, reduction="batchmean")
        return loss

    descend(learned, loss_of, rounds, epochs=epochs, learning_rate=learning_rate, seed=seed)
    learner.module.requires_grad_(False)
    return learner


def _difference(
    given: Sequence[torch.Tensor], wanted: Sequence[torch.Tensor], real: torch.Tensor
) -> torch.Tensor:
    """Mean over layers of the relative squared error of hidden states at the tokens that are no padding."""
    pairs = list(zip(given, wanted)) if len(given) == len(wanted) else [(given[-1], wanted[-1])]
    errors = [(a - b)[real].square().sum() / b[real].square().sum() for a, b in pairs]
    return torch.stack(errors).mean()


def _own(model: Model) -> tuple[list[nn.Parameter], Model]:
    """The parameters that learn, copied, and a model of them; all else is shared."""
    module = share(model.module)
    learned: dict[nn.Parameter, nn.Parameter] = {}
    for part in module.modules():
        if isinstance(part, nn.Embedding):
            continue
        for name, old in list(part.named_parameters(recurse=False)):
            if old not in learned:
                learned[old] = nn.Parameter(old.detach().clone(), requires_grad=True)
            setattr(part, name, learned[old])
    return list(learned.values()), replace(model, module=module)
