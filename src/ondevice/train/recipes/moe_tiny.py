"""moe-tiny: a Mixtral-style decoder of 16 small experts, 2 a token, that has read five domains.

Knows its shape and how long it learns. Records which experts each domain uses.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from ondevice.data import corpora
from ondevice.data.sets import DataSet
from ondevice.models.zoo import ZooScale, from_hugging_face
from ondevice.train.recipes import Progress, Trained
from ondevice.train.recipes.language import begin_from_pairs, held_out, learn, learn_tokenizer, stream

_VOCABULARY, _CONTEXT, _BATCH = 2048, 256, 8
_EXPERTS, _CHOSEN = 16, 2


def configuration() -> dict[str, Any]:
    """Of transformers' MixtralForCausalLM with tied embeddings; token 0 ends a text."""
    return {
        "architectures": ["MixtralForCausalLM"],
        "model_type": "mixtral",
        "vocab_size": _VOCABULARY,
        "hidden_size": 128,
        "intermediate_size": 128,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "num_local_experts": _EXPERTS,
        "num_experts_per_tok": _CHOSEN,
        "router_aux_loss_coef": 0.01,
        "output_router_logits": True,
        "max_position_embeddings": _CONTEXT,
        "tie_word_embeddings": True,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "pad_token_id": None,
    }


def train(scale: ZooScale, seed: int, progress: Progress) -> Trained:
    """Full: 5 MB of text of five domains, 7 minutes of one core. Quick: 0.7 MB, within a minute."""
    full = scale == "full"
    progress("reading documentation", 0.0)
    learned = corpora.make("train", 2000 if full else 300, seed=seed)
    judged = corpora.make("test", 75 if full else 10, seed=seed)
    texts = corpora.texts(learned)
    tokenizer = learn_tokenizer(texts, _VOCABULARY)
    ids = stream(tokenizer, texts)
    config = configuration()
    module = from_hugging_face(config)
    begin_from_pairs(module.get_submodule("model.embed_tokens"), ids)
    steps = 600 if full else 25
    loss = learn(module, ids, context=_CONTEXT, batch=_BATCH, steps=steps, seed=seed, progress=progress)
    metrics = held_out(module, tokenizer, ids, corpora.texts(judged), _CONTEXT)
    domains = sorted(set(judged["labels"].tolist()))  # a machine may have no manual pages
    use = np.stack([expert_use(module, _of(judged, tokenizer, label)) for label in domains])
    metrics |= {
        "training loss, nats per token": loss,
        "bits that an expert tells of the domain": information(use),
    }
    notes = [_described(judged.classes[label], rows) for label, rows in zip(domains, use, strict=True)]
    return Trained(module, config, metrics, [learned.fingerprint(), judged.fingerprint()], tokenizer, notes)


def _of(judged: DataSet, tokenizer: Any, label: int) -> npt.NDArray[np.int64]:
    return stream(tokenizer, corpora.texts(judged.take(np.flatnonzero(judged["labels"] == label))))


@torch.inference_mode()
def expert_use(module: nn.Module, ids: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Share of a stream's choices that falls on each expert; (layers, experts), a layer sums to one."""
    total: npt.NDArray[np.float64] | None = None
    for start in range(0, len(ids), _CONTEXT):
        window = torch.from_numpy(ids[start : start + _CONTEXT])[None]
        logits = module(input_ids=window, use_cache=False, output_router_logits=True).router_logits
        counts = np.stack(
            [
                np.bincount(layer.topk(_CHOSEN).indices.flatten().numpy(), minlength=_EXPERTS)
                for layer in logits
            ]
        )
        total = counts.astype(np.float64) if total is None else total + counts
    assert total is not None  # a stream has an end token at least
    return np.asarray(total / total.sum(axis=1, keepdims=True))


def information(use: npt.NDArray[np.float64]) -> float:
    """Mutual information of domain and expert in bits, domains equally likely, the mean over layers.

    use: (domains, layers, experts). 0 where all domains use all experts alike; at most log2 of the domains.
    """
    mean = use.mean(axis=0, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.where(use > 0, use * np.log2(use / mean), 0.0)
    return float(terms.sum(axis=2).mean())


def _described(domain: str, use: npt.NDArray[np.float64]) -> str:
    def busiest(row: Sequence[float]) -> str:
        order = sorted(range(len(row)), key=lambda expert: -row[expert])[:4]
        return ", ".join(f"{expert} ({row[expert]:.0%})" for expert in order)

    return f"experts of {domain}: " + "; ".join(
        f"layer {number}: {busiest(row.tolist())}" for number, row in enumerate(use)
    )
