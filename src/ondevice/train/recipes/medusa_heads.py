"""medusa-heads: four heads on lm-8m that guess the tokens after the next one.

Knows how texts are made for them and how they learn. The decoder stays as it is; heads learn from what it writes itself
after prompts of documentation, as that is what they will have to guess. Their rates of being right are measured on
texts that it wrote after other prompts.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from ondevice.backends.language import LanguageSession
from ondevice.data import corpora
from ondevice.models import zoo
from ondevice.models.text.medusa import MedusaHeads
from ondevice.models.zoo import ZooScale
from ondevice.train.loop import descend
from ondevice.train.recipes import Progress, Trained
from ondevice.train.recipes.language import half_precision

_BASE, _HEADS, _RANKS = "lm-8m", 4, 10
_PROMPT, _WRITTEN, _TOGETHER = 48, 160, 32  # tokens of a prompt, tokens after it, texts in a batch
_ROWS = 2048  # states in a step
_JUDGED = 0.15  # share of the texts that rates are measured on

Ids = npt.NDArray[np.int64]


def train(scale: ZooScale, seed: int, progress: Progress) -> Trained:
    """Full: 320 texts, a minute or two of two cores. Quick: 64, within half a minute."""
    texts, epochs = (320, 6) if scale == "full" else (64, 3)
    progress("reading documentation", 0.0)
    learned = corpora.make("train", texts, seed=seed, domains=("python", "man", "debian"))
    base = zoo.open_zoo(_BASE)
    ids = _write(corpora.texts(learned), progress)
    states, answers = _states(base.module, ids), torch.from_numpy(ids)
    cut = max(1, int((1 - _JUDGED) * len(ids)))
    module = MedusaHeads(base.config["hidden_size"], _HEADS, _RANKS)
    progress("training", 0.5)
    matrix = base.module.get_parameter("model.embed_tokens.weight").detach()
    loss = _learn(module, states[:cut], answers[:cut], matrix, epochs, seed)
    rates = _rates(module, states[cut:], answers[cut:], matrix)
    module.rates.copy_(rates)
    config = {
        "model_type": "medusa", "base": _BASE, "hidden_size": base.config["hidden_size"], "heads": _HEADS,
        "ranks": _RANKS,
    }  # fmt: skip
    metrics = {f"head {n + 1} right at once": float(rates[n, 0]) for n in range(_HEADS)}
    metrics |= {f"head {n + 1} right within {_RANKS}": float(rates[n].sum()) for n in range(_HEADS)}
    return Trained(
        module, config, metrics | {"training loss, nats per token": loss}, [learned.fingerprint()],
        notes=[f"heads of {_BASE}, recipe {base.record.get('recipe')}; rates are those of texts that it wrote"],
    )  # fmt: skip


def _write(texts: list[str], progress: Progress) -> Ids:
    """What the decoder goes on with after the beginning of each text, (texts, tokens), with that beginning."""
    found = []
    with LanguageSession.open(
        zoo.locate(_BASE), threads=torch.get_num_threads(), context=_PROMPT + _WRITTEN + 1, texts=_TOGETHER
    ) as session:
        prompts = [each.ids[:_PROMPT] for each in session.tokenizer.encode_batch(texts)]
        prompts = [ids for ids in prompts if len(ids) == _PROMPT]
        for first in range(0, len(prompts), _TOGETHER):
            batch = prompts[first : first + _TOGETHER]
            numbers = {session.engine.add(ids, limit=_WRITTEN): list(ids) for ids in batch}
            while session.engine.running:
                for written in session.engine.step():
                    numbers[written.text].append(written.choice.token)
            found += list(numbers.values())
            progress("writing texts", 0.5 * first / len(prompts))
    return np.array(found, np.int64)


@torch.inference_mode()
def _states(module: nn.Module, ids: Ids) -> torch.Tensor:
    """The decoder's last states, (texts, tokens, hidden)."""
    inner: Any = module.get_submodule("model")
    parts = [torch.from_numpy(ids[first : first + 16]) for first in range(0, len(ids), 16)]
    return torch.cat([inner(input_ids=part, use_cache=False).last_hidden_state for part in parts]).clone()


def _learn(
    module: MedusaHeads, states: torch.Tensor, ids: torch.Tensor, matrix: torch.Tensor, epochs: int, seed: int
) -> float:
    """Head n learns the token n + 2 places after a state. The mean loss of the last epoch."""
    length = ids.shape[1] - _HEADS - 1
    inputs = states[:, _PROMPT - 1 : length].flatten(0, 1).clone()
    answers = torch.stack([ids[:, _PROMPT + 1 + n : length + 2 + n].flatten() for n in range(_HEADS)])
    order = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(seed))

    def loss_of(rows: torch.Tensor) -> torch.Tensor:
        with half_precision():
            logits = module(inputs[rows]) @ matrix.T
        return nn.functional.cross_entropy(logits.float().flatten(0, 1), answers[:, rows].flatten())

    batches = [order[first : first + _ROWS] for first in range(0, len(order), _ROWS)]
    return descend(module.parameters(), loss_of, batches, epochs=epochs, learning_rate=2e-3, seed=seed)[-1]


@torch.inference_mode()
def _rates(
    module: MedusaHeads, states: torch.Tensor, ids: torch.Tensor, matrix: torch.Tensor
) -> torch.Tensor:
    """(heads, ranks): how often a head's candidate of a rank is the token, where those of the heads before it had the
    tokens before among theirs."""
    length = ids.shape[1] - _HEADS - 1
    inputs = states[:, _PROMPT - 1 : length].flatten(0, 1)
    alive = torch.ones(len(inputs), dtype=torch.bool)
    rates = torch.zeros(_HEADS, _RANKS)
    for number, ahead in enumerate(module(inputs)):
        best = (ahead @ matrix.T).topk(_RANKS).indices
        hits = best == ids[:, _PROMPT + 1 + number : length + 2 + number].reshape(-1, 1)
        rates[number] = hits[alive].float().mean(0) if alive.any() else 0.0
        alive &= hits.any(1)
    return rates
