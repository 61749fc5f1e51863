"""Models of a published shape with random weights, for work on speed and memory: neither depends on values.

Knows configurations. Knows nothing of checkpoints.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ondevice.models.load import skeleton
from ondevice.models.model import Model
from ondevice.models.tasks import Task

BERT_BASE = {"model_type": "bert", "vocab_size": 30522}  # all else is BERT-base's by default


def random_weights(config: dict[str, Any], task: Task | None = None, *, seed: int = 0) -> Model:
    """The network that a Hugging Face configuration describes, without a tokenizer.

    Weights are normal with deviation 0.02, as BERT starts (Devlin et al. 2019); scales of layer normalisation
    are 1. Raises UnsupportedModel where the configuration describes none that is supported.
    """
    task = task or Task("embedding")
    module = skeleton(config, task)
    generator = torch.Generator().manual_seed(seed)
    for part in module.modules():
        for name, parameter in list(part.named_parameters(recurse=False)):
            if isinstance(part, nn.LayerNorm):
                values = torch.full(parameter.shape, 1.0 if name == "weight" else 0.0)
            else:
                values = torch.empty(parameter.shape).normal_(0.0, 0.02, generator=generator)
            setattr(part, name, nn.Parameter(values, requires_grad=False))
    return Model(module, None, task, dict(config))
