"""What the recipes of language models share: a tokenizer, a stream of tokens, the training, the held-out figures.

Knows texts by domain and causal language models. Knows nothing of a particular architecture. Not itself a recipe.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from ondevice.errors import BadInput
from ondevice.measure.quality.text import bits_per_byte
from ondevice.measure.quality.trigram import Trigram

Progress = Callable[[str, float], None]
Ids = npt.NDArray[np.int64]

END = "<|end|>"
_WARMUP, _COOLDOWN = 0.02, 0.4  # shares of the steps
_MATRIX_RATE, _OTHER_RATE = 0.02, 0.004  # of Muon, and of AdamW for embeddings and gains
_SHORT = 0.75  # of the steps see half the context, which is cheaper
_REPORTS = 50  # how often progress is told


def learn_tokenizer(texts: Sequence[str], size: int) -> Any:
    """A byte-level BPE of `size` tokens, the end of a text among them. The same texts give the same tokenizer."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=[END], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    if tokenizer.get_vocab_size() != size:
        raise BadInput(f"the texts give {tokenizer.get_vocab_size()} tokens, not {size}; give more text")
    return tokenizer


def stream(tokenizer: Any, texts: Sequence[str]) -> Ids:
    """The tokens of all texts one after another, the end token before each and after the last."""
    end = tokenizer.token_to_id(END)
    pieces = [end]
    for encoding in tokenizer.encode_batch(list(texts)):
        pieces += encoding.ids
        pieces.append(end)
    return np.array(pieces, np.int64)


def begin_from_pairs(embedding: nn.Module, ids: Ids) -> None:
    """Set embeddings to what a token is next to in the stream: half of a vector to its right, half to its left.

    A singular value decomposition of positive pointwise mutual information, as in Levy and Goldberg (2014). A
    small model that reads little spends half its time on finding this out by gradients.
    """
    weight = embedding.get_parameter("weight")
    vocabulary, width = weight.shape
    pairs = np.bincount(ids[:-1] * vocabulary + ids[1:], minlength=vocabulary**2)
    counts = torch.from_numpy(pairs.reshape(vocabulary, vocabulary)).float()
    expected = (counts.sum(1, keepdim=True) + 1) * (counts.sum(0, keepdim=True) + 1) / counts.sum()
    left, size, right = torch.svd_lowrank((counts / expected).clamp_min(1).log(), q=width // 2, niter=4)
    vectors = torch.cat([left, right], 1) * size.sqrt().repeat(2)
    with torch.no_grad():
        # of the size that transformers would draw; those never seen keep a little of what was drawn
        weight.mul_(0.1).add_(vectors * (0.02 / vectors.std()))


def learn(
    module: nn.Module,
    ids: Ids,
    *,
    context: int,
    batch: int,
    steps: int,
    seed: int,
    progress: Progress = lambda what, done: None,
) -> float:
    """Teach a causal model to predict the stream; the mean loss of the last tenth of the steps, nats a token.

    Windows of `context` tokens (an even number) in an order drawn by `seed`, all once before any comes again;
    each is two of half the length until the last quarter of the steps. See `descend_by_muon`. Arithmetic in bfloat16
    where the processor has it, weights in float32.
    """
    windows = (len(ids) - 1) // context
    if windows < batch:
        raise BadInput(f"{len(ids)} tokens are less than one batch of {batch} x {context}; give more text")
    tokens = torch.from_numpy(ids[: windows * context + 1])
    order = _order(windows, torch.Generator().manual_seed(seed))

    def loss_of(step: int) -> torch.Tensor:
        rows = [next(order) * context for _ in range(batch)]
        inputs = torch.stack([tokens[row : row + context] for row in rows])
        targets = torch.stack([tokens[row + 1 : row + context + 1] for row in rows])
        if step < _SHORT * steps:
            inputs, targets = inputs.view(2 * batch, -1), targets.view(2 * batch, -1)
        return _loss(module, inputs, targets)

    return descend_by_muon(module, loss_of, steps, progress)


def descend_by_muon(
    module: nn.Module,
    loss_of: Callable[[int], torch.Tensor],
    steps: int,
    progress: Progress = lambda what, done: None,
) -> float:
    """Lower a loss, given the number of a step; the mean loss of the last tenth of the steps.

    Matrices follow Muon (Jordan 2024), embeddings and gains AdamW; the rates rise over 2 % of the steps and fall to
    zero over the last 40 %. Raises BadInput where the loss is no longer finite.
    """
    tables = {id(part.weight) for part in module.modules() if isinstance(part, nn.Embedding)}
    matrices = [p for p in module.parameters() if p.ndim == 2 and id(p) not in tables]
    chosen = {id(p) for p in matrices}
    others = [p for p in module.parameters() if id(p) not in chosen]
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.Muon(matrices, lr=_MATRIX_RATE, weight_decay=0.01),
        torch.optim.AdamW(others, lr=_OTHER_RATE, betas=(0.9, 0.95), weight_decay=0.0),
    ]
    rates = [_MATRIX_RATE, _OTHER_RATE]
    last: list[float] = []
    module.train()
    for step in range(steps):
        for optimizer, rate in zip(optimizers, rates, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = rate * _share(step, steps)
        loss = loss_of(step)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(others, 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        value = float(loss.detach())
        if not math.isfinite(value):
            raise BadInput(f"the loss became {value} at step {step}; use a lower learning rate")
        if step >= int(0.9 * steps):
            last.append(value)
        if step % max(1, steps // _REPORTS) == 0:
            progress("training", step / steps)
    module.eval()
    return sum(last) / len(last)


@torch.inference_mode()
def log_probability(module: nn.Module, ids: Ids, context: int) -> float:
    """Sum over a stream's tokens from the third on of the natural logarithm of each given those before it.

    In windows of `context` tokens that overlap by half, so that each has at least half of them before it.
    Float32. From the third token on, as a trigram is judged, so that both are held to the same tokens.
    """
    half = context // 2
    total = 0.0
    start, scored = 0, 2
    while scored < len(ids):
        window = torch.from_numpy(ids[start : start + context])[None]
        logits = module(input_ids=window, use_cache=False).logits[0, :-1].float()
        found = logits.log_softmax(-1).gather(1, window[0, 1:, None])[:, 0].double()
        total += float(found[scored - start - 1 :].sum())
        scored = start + window.shape[1]
        start = max(0, scored - half)
    return total


def held_out(
    module: nn.Module, tokenizer: Any, learned: Ids, texts: Sequence[str], context: int
) -> dict[str, float]:
    """Bits a byte and perplexity of the model and of a trigram of the same tokens, on texts new to both."""
    ids = stream(tokenizer, texts)
    size = sum(len(text.encode()) for text in texts)
    trigram = Trigram(learned, tokenizer.get_vocab_size())
    model, plain = log_probability(module, ids, context), trigram.log_probability(ids)
    return {
        "held-out bits per byte": bits_per_byte(model, size),
        "held-out bits per byte of a trigram": bits_per_byte(plain, size),
        "held-out perplexity per token": math.exp(-model / (len(ids) - 2)),
        "held-out perplexity per token of a trigram": math.exp(-plain / (len(ids) - 2)),
    }


def _loss(module: nn.Module, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    with torch.enable_grad(), half_precision():
        out = module(input_ids=inputs, use_cache=False)
    loss = nn.functional.cross_entropy(out.logits.float().flatten(0, 1), targets.flatten())
    balance = getattr(out, "aux_loss", None)  # of experts
    weight = getattr(getattr(module, "config", None), "router_aux_loss_coef", 0.0)
    return loss if balance is None else loss + weight * balance


def half_precision() -> torch.autocast:
    """Arithmetic in bfloat16, where the processor has it."""
    return torch.autocast("cpu", dtype=torch.bfloat16, enabled=_has_bfloat16())


def _has_bfloat16() -> bool:
    """Elsewhere bfloat16 is emulated, and slower than float32."""
    return torch.backends.mkldnn.is_available() and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())  # type: ignore[no-untyped-call]


def _order(windows: int, generator: torch.Generator) -> Iterator[int]:
    while True:
        yield from torch.randperm(windows, generator=generator).tolist()


def _share(step: int, steps: int) -> float:
    """Of the learning rate at a step."""
    return min(1.0, (step + 1) / max(1, _WARMUP * steps), (steps - step) / max(1, _COOLDOWN * steps))
