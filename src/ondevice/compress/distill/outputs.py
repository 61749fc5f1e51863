"""Distillation: a compressed model learns to give the outputs of the one that it came from.

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
    """The student after it has followed the teacher's outputs on texts; neither model is edited.

    Embeddings: the loss is 1 - cosine. Logits: the Kullback-Leibler divergence of the student's classes from the
    teacher's (Hinton et al. 2015, eq. 1 at temperature 1). All parameters but tables of embeddings learn; what
    is quantised stays as it is, and layers with int8 activations pass no gradient.
    """
    if student.task.kind != teacher.task.kind:
        raise BadInput(f"a {student.task.kind} model cannot follow a {teacher.task.kind} model")
    learned, learner = _own(student)
    pad = int(student.config.get("pad_token_id") or 0)
    with torch.inference_mode():
        targets = torch.from_numpy(teacher.predict(texts)).clone()
    rounds = batches(student.tokens(texts), batch_size, pad)

    def loss_of(batch: tuple[list[int], torch.Tensor, torch.Tensor]) -> torch.Tensor:
        indices, ids, mask = batch
        outputs, wanted = learner.outputs(ids, mask), targets[indices]
        if student.task.kind == "embedding":
            return 1 - nn.functional.cosine_similarity(outputs, wanted).mean()
        return nn.functional.kl_div(
            outputs.log_softmax(dim=-1), wanted.log_softmax(dim=-1), log_target=True, reduction="batchmean"
        )

    descend(learned, loss_of, rounds, epochs=epochs, learning_rate=learning_rate, seed=seed)
    learner.module.requires_grad_(False)
    return learner


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
