"""What each option for each layer would cost at the model's output, from one pass over a few texts.

Knows gradients of the model's output. Knows nothing of techniques: the differences that the options make to a
weight are handed in, so that no option needs a forward pass of the whole model.

An option changes a layer's weight by D, so its output at token t by D x_t, and the model's output to first
order by J = sum_t J_t D x_t. For an embedding of unit length the loss is 1 - cosine = |J|**2 / 2; for class
logits it is the divergence from the original, J' F J / 2 with the Fisher matrix F. Both are half the mean
square of s = sum_t g_t . D x_t over random projections of the output, g_t being their gradient at the layer's
output: the empirical Fisher of a text (Martens 2020, section 5), here along D only. Tokens of one text are not
taken as independent, which matters where pooling adds their errors up.

A language model has logits at every token, and the loss is their mean divergence. Drawing each token's class by
itself keeps the tokens' divergences apart, so one gradient of their sum serves for all tokens of a text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

import torch
from torch import nn

from ondevice.errors import BadInput
from ondevice.layers.tied import tied_heads
from ondevice.models.model import Model, batches

Option = TypeVar("Option")
_BATCH = 8
_WINDOWS, _WINDOW = 64, 256  # of a language model: how many stretches of text, and their tokens


def damages(
    model: Model,
    texts: Sequence[str],
    differences: Mapping[str, Mapping[Option, torch.Tensor]],
    means: Mapping[str, torch.Tensor],
    *,
    projections: int = 4,
    seed: int = 0,
    progress: Callable[[float], None] = lambda done: None,
) -> dict[str, dict[Option, float]]:
    """The expected loss (1 - cosine, or divergence in nats) of each option of each layer.

    differences: by layer name (nn.Linear or nn.Embedding) and option, what the option changes the weight by,
        of the weight's shape. A change of a table that is also the head counts in both places.
    means: by layer name, the mean input (inputs,) where the layer's bias makes good for the mean error.
    projections: random projections of the output a text; texts * projections samples give a relative error of
        about sqrt(2 / samples). progress: told the share that is done.
    Raises BadInput where there are no texts.
    """
    totals = {name: dict.fromkeys(options, 0.0) for name, options in differences.items()}
    tied = {table: head for table, head in tied_heads(model.module).items() if table in differences}
    answers = 0
    for done, answered, layers in _gradients(model, texts, [*differences, *tied.values()], projections, seed):
        for name, options in differences.items():
            places = [layers[name], layers[tied[name]]] if name in tied else [layers[name]]
            for option, difference in options.items():
                sums = torch.zeros(())
                for inputs, gradients in places:
                    noise = _noise(inputs, difference, means.get(name))
                    sums = sums + (gradients * noise).flatten(2).sum(dim=2)  # (projections, texts)
                totals[name][option] += float(sums.square().sum())
        answers += answered
        progress(done)
    samples = 2 * projections * answers
    return {name: {o: total / samples for o, total in each.items()} for name, each in totals.items()}


def gradient_moments(
    model: Model, texts: Sequence[str], names: Sequence[str], *, projections: int = 2, seed: int = 0
) -> dict[str, torch.Tensor]:
    """E[g g'] of the named layers' outputs, (outputs, outputs): which errors there the model's output feels."""
    totals: dict[str, torch.Tensor] = {}
    for _, _, layers in _gradients(model, texts, names, projections, seed):
        for name, (_, gradients) in layers.items():
            rows = gradients.reshape(-1, gradients.shape[-1])
            totals[name] = totals.get(name, torch.zeros(())) + rows.T @ rows
    return totals


Layers = dict[str, tuple[torch.Tensor, torch.Tensor]]


def _gradients(
    model: Model, texts: Sequence[str], names: Sequence[str], projections: int, seed: int
) -> Iterator[tuple[float, int, Layers]]:
    """For each batch: the share done, how many answers the model gave, and by layer its inputs and the gradients at
    its output, (projections, texts, tokens, outputs)."""
    if not texts:
        raise BadInput("no texts given to find the layers' sensitivity with")
    generator = torch.Generator().manual_seed(seed)
    seen: Layers = {}
    handles = [
        model.module.get_submodule(name).register_forward_hook(partial(_keep, seen, name)) for name in names
    ]
    done = 0
    language = model.task.kind == "language"
    token_ids = model.tokens(texts)
    if language:
        step = max(1, len(token_ids) // _WINDOWS)
        token_ids = [ids[:_WINDOW] for ids in token_ids[::step]]
    try:
        pad = int(model.config.get("pad_token_id") or 0)
        for indices, ids, mask in batches(token_ids, 1 if language else _BATCH, pad):
            seen.clear()
            with torch.enable_grad():
                result = model.outputs(ids, mask)
            leaves = [output for _, output in seen.values()]
            each = []
            for _ in range(projections):
                loss = _projection(result, model.task.kind != "embedding", generator)
                each.append(torch.autograd.grad(loss, leaves, retain_graph=True))
            done += len(indices)
            with torch.inference_mode():
                stacked = (torch.stack(gradients) for gradients in zip(*each, strict=True))
                yield (
                    done / len(token_ids),
                    int(mask.sum()) if language else len(indices),
                    {
                        name: (inputs, gradients)
                        for (name, (inputs, _)), gradients in zip(seen.items(), stacked, strict=True)
                    },
                )
    finally:
        for handle in handles:
            handle.remove()


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
        chances = log_likelihood.detach().exp().flatten(0, -2)
        drawn = torch.multinomial(chances, 1, generator=generator)
        return log_likelihood.flatten(0, -2).gather(1, drawn).sum()
    return (result * torch.randn(result.shape, generator=generator)).sum()


def _keep(
    seen: Layers,
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
