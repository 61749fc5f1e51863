"""What each option for each layer would cost at the model's output, from one pass over a few texts.

Knows gradients of the model's output. Knows nothing of techniques: the differences that the options make to a
weight are handed in, so that no option needs a forward pass of the whole model.

An option changes a layer's weight by D, so its output at token t by D x_t, and the model's output to first
order by J = sum_t J_t D x_t. For an embedding of unit length the loss is 1 - cosine = |J|**2 / 2; for class
logits it is the divergence from the original, J' F J / 2 with the Fisher matrix F. Both are half the mean
square of s = sum_t g_t . D x_t over random projections of the output, g_t being their gradient at the layer's
output: the empirical Fisher of a text (Martens 2020, section 5), here along D only. Tokens of one text are not
taken as independent, which matters where pooling adds their errors up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

import torch
from torch import nn

from ondevice.errors import BadInput
from ondevice.models.model import Model, batches

Option = TypeVar("Option")


def damages(
    model: Model,
    texts: Sequence[str],
    differences: Mapping[str, Mapping[Option, torch.Tensor]],
    means: Mapping[str, torch.Tensor] | None = None,
    *,
    projections: int = 4,
    seed: int = 0,
    batch_size: int = 8,
) -> dict[str, dict[Option, float]]:
    """The expected loss (1 - cosine, or divergence in nats) of each option of each layer.

    differences: by layer name (nn.Linear or nn.Embedding) and option, what the option changes the weight by,
        of the weight's shape.
    means: by layer name, the mean input (inputs,) where the layer's bias makes good for the mean error.
    projections: random projections of the output a text; texts * projections samples give a relative error of
        about sqrt(2 / samples).
    Raises BadInput where there are no texts.
    """
    if not texts:
        raise BadInput("no texts given to find the layers' sensitivity with")
    generator = torch.Generator().manual_seed(seed)
    seen: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
    totals = {name: dict.fromkeys(options, 0.0) for name, options in differences.items()}
    handles = [
        model.module.get_submodule(name).register_forward_hook(partial(_keep, seen, name))
        for name in differences
    ]
    pad = int(model.config.get("pad_token_id") or 0)
    try:
        for _, ids, mask in batches(model.tokens(texts), batch_size, pad):
            seen.clear()
            with torch.enable_grad():
                result = model.outputs(ids, mask)
            leaves = {name: output for name, (_, output) in seen.items()}
            gradients = []
            for _ in range(projections):
                loss = _projection(result, model.task.kind == "classification", generator)
                found = torch.autograd.grad(loss, list(leaves.values()), retain_graph=True, allow_unused=True)
                gradients.append(dict(zip(leaves, found, strict=True)))
            with torch.inference_mode():
                for name, (inputs, _) in seen.items():
                    here = torch.stack([g for each in gradients if (g := each[name]) is not None])
                    mean = None if means is None else means.get(name)
                    for option, difference in differences[name].items():
                        noise = _noise(inputs, difference, mean)
                        sums = (here * noise).flatten(2).sum(dim=2)  # (projections, texts)
                        totals[name][option] += float(sums.square().sum())
    finally:
        for handle in handles:
            handle.remove()
    samples = 2 * projections * len(texts)
    return {name: {o: total / samples for o, total in each.items()} for name, each in totals.items()}


def _noise(inputs: torch.Tensor, difference: torch.Tensor, mean: torch.Tensor | None) -> torch.Tensor:
    """What is added to the layer's output (texts, tokens, outputs)."""
    if not inputs.is_floating_point():
        return nn.functional.embedding(inputs, difference.float())
    centred = inputs if mean is None else inputs - mean.float()
    return nn.functional.linear(centred, difference.float())


def _projection(result: torch.Tensor, logits: bool, generator: torch.Generator) -> torch.Tensor:
    """A scalar whose squared derivative is, on average, the quadratic form of the loss."""
    if logits:
        log_likelihood = result.log_softmax(dim=-1)
        drawn = torch.multinomial(log_likelihood.detach().exp(), 1, generator=generator)
        return log_likelihood.gather(1, drawn).sum()
    return (result * torch.randn(result.shape, generator=generator)).sum()


def _keep(
    seen: dict[str, tuple[torch.Tensor, torch.Tensor]],
    name: str,
    module: nn.Module,
    inputs: tuple[Any, ...],
    output: torch.Tensor,
) -> torch.Tensor:
    """Keep input and output. The first layers' outputs become leaves: no parameter asks for gradients."""
    if not output.requires_grad:
        output = output.detach().requires_grad_(True)
    seen[name] = (inputs[0].detach(), output)
    return output
