"""command-asr: a Conformer that writes down spoken commands, with an exit after every layer.

Learns by the mean of all exits' CTC losses (Wright et al. 2024), from noisy reverberant speech of the training
voices; judged on voices and sentences it never heard. Because espeak-ng tells when each word is said, the first two
fifths of the steps also say frame by frame what is heard, with a weight that falls from 1 to 0: CTC alone takes
many more steps to find where words are. Knows the commands and the Conformer.
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
from ondevice.data.speech.features import HOP, log_mel
from ondevice.measure.quality.speech import character_error_rate, word_error_rate
from ondevice.models.audio import ctc
from ondevice.models.audio.conformer import SUBSAMPLING, Conformer
from ondevice.models.zoo import ZooScale
from ondevice.train.loop import descend
from ondevice.train.recipes import Progress, Trained

_BATCH, _BANDS, _PIECES = 16, 40, 192
_GUIDED = 0.4  # of the steps


@dataclass(frozen=True)
class _Batch:
    features: torch.Tensor  # (rows, frames, bands)
    lengths: torch.Tensor
    targets: torch.Tensor  # of all rows, one after another
    target_lengths: torch.Tensor
    heard: torch.Tensor  # (rows, frames / 4) piece at each frame of the encoder, -100 beyond the end


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
    config = {"bands": _BANDS, "width": 96, "heads": 4, "hidden": 256, "kernel": 15, "layers": 6,
              "exits": [1, 2, 3, 4, 5, 6], "labels": tokenizer.get_vocab_size()}  # fmt: skip
    torch.manual_seed(seed)
    model = Conformer(config)
    heard = _features(spoken)
    frames = torch.cat(heard)
    model.mean.copy_(frames.mean(0))
    model.deviation.copy_(frames.std(0))
    encoded = [tokenizer.encode(text) for text in texts]
    paths = [_path(spoken, row, encoded[row], len(heard[row])) for row in range(len(heard))]
    order = np.random.default_rng(seed).permutation(len(heard))
    batches = [
        _batch(heard, paths, [each.ids for each in encoded], order[start : start + _BATCH].tolist())
        for start in range(0, len(order), _BATCH)
    ]
    epochs = 12 if full else 8
    steps, done = epochs * len(batches), 0
    masks = torch.Generator().manual_seed(seed)

    def loss_of(batch: _Batch) -> torch.Tensor:
        nonlocal done
        exits, lengths = model(_hide(batch.features, model.mean, masks), batch.lengths)
        losses = [
            functional.ctc_loss(each.transpose(0, 1), batch.targets, lengths, batch.target_lengths,
                                zero_infinity=True) for each in exits
        ]  # fmt: skip
        framewise = [functional.nll_loss(each.flatten(0, 1), batch.heard.flatten()) for each in exits]
        share = max(0.0, 1 - done / (_GUIDED * steps))
        done += 1
        progress("training", done / steps)
        return (1 - share) * torch.stack(losses).mean() + share * torch.stack(framewise).mean()

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


def _batch(
    heard: list[torch.Tensor], paths: list[torch.Tensor], labels: list[list[int]], rows: list[int]
) -> _Batch:
    return _Batch(
        torch.nn.utils.rnn.pad_sequence([heard[row] for row in rows], batch_first=True),
        torch.tensor([len(heard[row]) for row in rows]),
        torch.tensor([label for row in rows for label in labels[row]]),
        torch.tensor([len(labels[row]) for row in rows]),
        torch.nn.utils.rnn.pad_sequence([paths[row] for row in rows], batch_first=True, padding_value=-100),
    )


def _path(spoken: DataSet, row: int, encoded: Any, frames: int) -> torch.Tensor:
    """The piece at each frame of the encoder: a word's pieces share its time evenly, silence is blank."""
    path = torch.full((-(-frames // SUBSAMPLING),), ctc.BLANK)
    starts = [*spoken.ragged("word_starts")[row].tolist(), int(spoken.ragged("phoneme_starts")[row][-1])]
    pieces: dict[int, list[int]] = {}  # words that run together share a start, and so their time
    for piece, word in zip(encoded.ids, encoded.word_ids, strict=True):
        pieces.setdefault(starts[word], []).append(piece)
    for start, group in pieces.items():
        end = min(later for later in starts if later > start)
        edges = np.linspace(start, end, len(group) + 1) / (HOP * SUBSAMPLING)
        for piece, first, last in zip(group, edges.round().astype(int), edges[1:].round().astype(int)):
            path[first : max(last, first + 1)] = piece
    return path


def _hide(features: torch.Tensor, mean: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """In each row a stripe of bands becomes the mean (SpecAugment, Park 2019), and the whole row is made up to 5 dB
    louder or quieter."""
    rows, _, bands = features.shape
    width = torch.randint(0, 9, (rows, 1), generator=generator)
    start = (torch.rand(rows, 1, generator=generator) * (bands - width)).long()
    place = torch.arange(bands)
    hidden = ((place >= start) & (place < start + width))[:, None, :]
    louder = (2 * torch.rand(rows, 1, 1, generator=generator) - 1) * 1.15  # in ln of power: 5 dB
    return torch.where(hidden, mean, features + louder)
