"""seq2seq-6m: a T5-style encoder-decoder that does small tasks, byte by byte.

Knows its shape and how long it learns: the skills, and the intent of a command. Judged by exact matches on
arguments, templates and values that it never saw.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from ondevice.data import skills, templates
from ondevice.measure.quality.text import exact_match
from ondevice.models.zoo import ZooScale, from_hugging_face
from ondevice.train.recipes import Progress, Trained
from ondevice.train.recipes.language import descend_by_muon, half_precision, learn_tokenizer

_BYTES = 257  # the end, which also pads and begins an answer, and every byte
_LONGEST = 40  # bytes of an answer
_BATCH = 32

Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def configuration() -> dict[str, Any]:
    """Of transformers' T5ForConditionalGeneration, version 1.1 (gated GELU), with tied embeddings."""
    return {
        "architectures": ["T5ForConditionalGeneration"],
        "model_type": "t5",
        "vocab_size": _BYTES,
        "d_model": 256,
        "d_kv": 64,
        "d_ff": 512,
        "num_layers": 4,
        "num_decoder_layers": 4,
        "num_heads": 4,
        "feed_forward_proj": "gated-gelu",
        "dropout_rate": 0.0,
        "tie_word_embeddings": True,
        "pad_token_id": 0,
        "eos_token_id": 0,
        "decoder_start_token_id": 0,
    }


def train(scale: ZooScale, seed: int, progress: Progress) -> Trained:
    """Full: 24000 tasks and 6000 commands, 20 minutes of one core. Quick: 800 in all, within a minute."""
    full = scale == "full"
    work, said = (skills.make("train", 24_000 if full else 640, seed=seed),
                  templates.make("train", 6000 if full else 160, seed=seed))  # fmt: skip
    new, heard = (skills.make("test", 350 if full else 70, seed=seed),
                  templates.make("test", 100 if full else 30, seed=seed))  # fmt: skip
    tokenizer = learn_tokenizer(["a"], _BYTES)
    prompts, answers = _tasks(work, said)
    config = configuration()
    module = from_hugging_face(config).train()
    progress("training", 0.1)
    batches = _batches(tokenizer, prompts, answers)
    random = np.random.default_rng(seed)
    order = random.permutation(len(batches)).tolist()

    def loss_of(step: int) -> torch.Tensor:
        ids, mask, wanted = batches[order[step]]
        with torch.enable_grad(), half_precision():
            logits = module(input_ids=ids, attention_mask=mask, labels=wanted).logits
        return cross_entropy(logits.float().flatten(0, 1), wanted.flatten())

    loss = descend_by_muon(module, loss_of, len(order), progress)
    module.eval()
    progress("judging", 0.9)
    prompts, answers = _tasks(new, heard)
    found = exact_match(answer(module, tokenizer, prompts), answers)
    metrics = {"exact match": float(found.mean()), "training loss, nats per byte": loss}
    for label, skill in enumerate(new.classes):
        metrics[f"exact match, {skill}"] = float(found[: len(new)][new["labels"] == label].mean())
    metrics["exact match, intent of a command"] = float(found[len(new) :].mean())
    return Trained(
        module, config, metrics, [each.fingerprint() for each in (work, said, new, heard)], tokenizer
    )


def answer(module: nn.Module, tokenizer: Any, prompts: Sequence[str]) -> list[str]:
    """What the model writes for each prompt, the likeliest byte each time."""
    out = []
    for start in range(0, len(prompts), _BATCH):
        ids, mask = _padded([tokenizer.encode(prompt).ids for prompt in prompts[start : start + _BATCH]])
        with torch.inference_mode():
            states = module.get_encoder()(input_ids=ids, attention_mask=mask)  # type: ignore[operator]
            written = torch.zeros(len(ids), 1, dtype=torch.long)
            for _ in range(_LONGEST):
                logits = module(encoder_outputs=states, attention_mask=mask, decoder_input_ids=written).logits
                written = torch.cat([written, logits[:, -1:].argmax(-1)], 1)
        for row in written[:, 1:].tolist():
            out.append(tokenizer.decode(row[: row.index(0)] if 0 in row else row))
    return out


def _tasks(work: Any, said: Any) -> tuple[list[str], list[str]]:
    """(prompts, answers): the skills' own, and of a command its intent."""
    intents = [said.classes[label] for label in said["labels"]]
    commands = [f"intent: {text}" for text in templates.rows(said, "text")]
    return skills.rows(work, "prompt") + commands, skills.rows(work, "answer") + intents


def _batches(tokenizer: Any, prompts: Sequence[str], answers: Sequence[str]) -> list[Batch]:
    """Batches of prompts of similar length, so that little is padded."""
    order = np.argsort([len(prompt) for prompt in prompts], kind="stable")
    made = []
    for start in range(0, len(order), _BATCH):
        rows = order[start : start + _BATCH]
        ids, mask = _padded([tokenizer.encode(prompts[row]).ids for row in rows])
        wanted, there = _padded([[*tokenizer.encode(answers[row]).ids, 0] for row in rows])
        made.append((ids, mask, wanted.masked_fill(there == 0, -100)))
    return made


def _padded(rows: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.long)
    mask = torch.zeros_like(ids)
    for index, row in enumerate(rows):
        ids[index, : len(row)] = torch.tensor(row)
        mask[index, : len(row)] = 1
    return ids, mask
