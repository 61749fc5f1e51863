"""command-asr: a Conformer that writes down spoken commands, with an exit after every layer.

Learns by the sum of all exits' CTC losses (Wright et al. 2024), from noisy reverberant speech of the training
voices; judged on voices and sentences it never heard. Knows the commands and the Conformer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from ondevice.data.sets import DataSet
from ondevice.data.speech import commands
from ondevice.data.speech.features import log_mel
from ondevice.measure.quality.speech import character_error_rate, word_error_rate
from ondevice.models.audio import ctc
from ondevice.models.audio.conformer import Conformer
from ondevice.models.zoo import ZooScale
from ondevice.train.loop import descend
from ondevice.train.recipes import Progress, Trained

_BATCH, _BANDS, _PIECES = 16, 64, 192


@dataclass(frozen=True)
class _Batch:
    features: torch.Tensor  # (rows, frames, bands)
    lengths: torch.Tensor
    targets: torch.Tensor  # of all rows, one after another
    target_lengths: torch.Tensor


def train(scale: ZooScale, seed: int, progress: Progress) -> Trained:
    """Train it. The config holds the settings of `log_mel` too ("bands")."""
    full = scale == "full"
    spoken = commands.make("train", 3000 if full else 400, seed=seed, snr=(0, 30), room=0.3)
    tests = {
        "20 dB": commands.make("test", 200 if full else 40, seed=seed, snr=(20, 20)),
        "clean": commands.make("test", 200 if full else 40, seed=seed),
        "5 dB, reverberant": commands.make("test", 200 if full else 40, seed=seed, snr=(5, 5), room=1.0),
    }
    texts = [commands.transcript(spoken, row) for row in range(len(spoken))]
    tokenizer = _pieces(texts)
    config = {"bands": _BANDS, "width": 96, "heads": 4, "hidden": 384, "kernel": 15, "layers": 6,
              "exits": [1, 2, 3, 4, 5, 6], "labels": tokenizer.get_vocab_size()}  # fmt: skip
    torch.manual_seed(seed)
    model = Conformer(config)
    heard = _features(spoken)
    frames = torch.cat(heard)
    model.mean.copy_(frames.mean(0))
    model.deviation.copy_(frames.std(0))
    batches = _batches(heard, [tokenizer.encode(text).ids for text in texts])
    epochs = 17 if full else 8
    masks = torch.Generator().manual_seed(seed)
    done = 0

    def loss_of(batch: _Batch) -> torch.Tensor:
        nonlocal done
        exits, lengths = model(_hide(batch.features, model.mean, masks), batch.lengths)
        losses = [
            functional.ctc_loss(each.transpose(0, 1), batch.targets, lengths, batch.target_lengths,
                                zero_infinity=True) for each in exits
        ]  # fmt: skip
        done += 1
        progress("training", done / (epochs * len(batches)))
        return torch.stack(losses).mean()

    model.train()
    descend(
        model.parameters(), loss_of, batches, epochs=epochs, learning_rate=2e-3, weight_decay=1e-3, seed=seed
    )
    model.eval()
    metrics: dict[str, float] = {}
    for name, test in tests.items():
        metrics |= evaluate(model, tokenizer, test, name)
    data: list[Mapping[str, Any]] = [each.fingerprint() for each in (spoken, *tests.values())]
    return Trained(model, config, metrics, data, tokenizer)


def evaluate(model: Conformer, tokenizer: Any, test: DataSet, name: str) -> dict[str, float]:
    """Word error rate of greedy decoding at each exit, and the last exit's character error rate, in percent."""
    references = [commands.transcript(test, row) for row in range(len(test))]
    written: list[list[str]] = [[] for _ in model.exits]
    for features in _features(test):
        with torch.inference_mode():
            exits, lengths = model(features[None], torch.tensor([len(features)]))
        for texts, probabilities in zip(written, exits, strict=True):
            texts.append(tokenizer.decode(ctc.greedy(probabilities, lengths)[0]))
    rates = {
        f"WER % exit {depth}, {name}": 100 * word_error_rate(references, texts)
        for depth, texts in zip(model.exits, written, strict=True)
    }
    return rates | {f"CER % {name}": 100 * character_error_rate(references, written[-1])}


def _pieces(texts: list[str]) -> Any:
    """Pieces of words by byte-pair encoding; piece 0 is CTC's blank."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.train_from_iterator(
        sorted(texts),
        trainers.BpeTrainer(vocab_size=_PIECES, special_tokens=["<blank>"], show_progress=False),
    )
    return tokenizer


def _features(samples: DataSet) -> list[torch.Tensor]:
    audio = samples.ragged("audio")
    return [torch.from_numpy(log_mel(audio[row], _BANDS)) for row in range(len(audio))]


def _batches(heard: list[torch.Tensor], labels: list[list[int]]) -> list[_Batch]:
    """Batches of similar length."""
    order = np.argsort([len(features) for features in heard], kind="stable")
    batches = []
    for start in range(0, len(order), _BATCH):
        rows = order[start : start + _BATCH]
        batches.append(
            _Batch(
                torch.nn.utils.rnn.pad_sequence([heard[row] for row in rows], batch_first=True),
                torch.tensor([len(heard[row]) for row in rows]),
                torch.tensor([label for row in rows for label in labels[row]]),
                torch.tensor([len(labels[row]) for row in rows]),
            )
        )
    return batches


def _hide(features: torch.Tensor, mean: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """SpecAugment (Park 2019): in each row, two stripes of bands and one of frames become the mean; and the whole
    row is made up to 5 dB louder or quieter."""
    rows, frames, bands = features.shape
    hidden = torch.zeros(rows, frames, bands, dtype=torch.bool)
    for axis, size, longest in ((2, bands, 15), (2, bands, 15), (1, frames, 12)):
        width = torch.randint(0, longest + 1, (rows, 1), generator=generator)
        start = (torch.rand(rows, 1, generator=generator) * (size - width).clamp_min(1)).long()
        place = torch.arange(size)
        stripe = (place >= start) & (place < start + width)
        hidden |= stripe[:, None, :] if axis == 2 else stripe[:, :, None]
    louder = (2 * torch.rand(rows, 1, 1, generator=generator) - 1) * 1.15  # in ln of power: 5 dB
    return torch.where(hidden, mean, features + louder)
