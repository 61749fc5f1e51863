"""Selection against transformers' classifiers layer by layer, and against its own replay."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from ondevice.artifact import Artifact, Contents, StoredTensor, write
from ondevice.errors import BadInput, UnsupportedModel
from ondevice.kernels import Kernels
from ondevice.runtime.ranking.layered import DecoderLayers, EncoderLayers
from ondevice.runtime.ranking.ranker import Layered, calibrate, replay, select, trace
from ondevice.runtime.weights.safetensors import Checkpoint

TEXTS = [[5, 9, 2, 70 + n, 31, 8 * n + 1, *range(3, 3 + 5 * n)] for n in range(9)]


@pytest.fixture(scope="module")
def classifier() -> Any:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=97, hidden_size=64, intermediate_size=96, num_hidden_layers=5, num_attention_heads=4,
        num_key_value_heads=2, num_labels=1, pad_token_id=0, max_position_embeddings=128,
    )  # fmt: skip
    module = transformers.LlamaForSequenceClassification(config).eval()
    for name, parameter in module.named_parameters():
        parameter.data += (0.3 if "norm" in name else 0.15) * torch.randn(parameter.shape)
    return module


def stored(module: Any, dtype: str = "float32") -> dict[str, StoredTensor]:
    return {
        name: StoredTensor.dense(each.detach().numpy().astype(dtype if each.ndim > 1 else "float32"))
        for name, each in module.state_dict().items()
    }


@torch.inference_mode()
def by_layer(module: Any, ids: list[int]) -> list[float]:
    states = module.model(torch.tensor([ids]), output_hidden_states=True).hidden_states[1:]
    normal = [module.model.norm(each[0, -1]) for each in states[:-1]] + [states[-1][0, -1]]
    return [float(torch.sigmoid(module.score(each))[0]) for each in normal]


def test_scores_of_a_decoder_after_every_layer_are_those_of_transformers(classifier: Any) -> None:
    model = DecoderLayers(stored(classifier), classifier.config.to_dict(), Kernels(2))
    wanted = np.array([by_layer(classifier, ids) for ids in TEXTS]).T
    np.testing.assert_allclose(trace(model, TEXTS, chunk=40), wanted, atol=2e-3)


def test_neither_chunks_nor_company_change_a_score(classifier: Any) -> None:
    model = DecoderLayers(stored(classifier), classifier.config.to_dict(), Kernels(2))
    whole = trace(model, TEXTS)
    assert np.array_equal(whole, trace(model, TEXTS, chunk=1))
    assert np.array_equal(whole[:, 3:5], trace(model, TEXTS[3:5]))


def test_layers_that_come_from_a_file_give_the_same_scores(classifier: Any, tmp_path: Path) -> None:
    config, tensors = classifier.config.to_dict(), stored(classifier, "float16")
    write(tmp_path / "model", Contents(config, "{}", {"kind": "ranking"}, tensors))
    there = Artifact(tmp_path / "model").tensors
    streamed, held = DecoderLayers(there, config, Kernels(1)), DecoderLayers(tensors, config, Kernels(1))
    for _ in range(2):  # the second pass begins where the first left the ring
        assert np.array_equal(trace(streamed, TEXTS, chunk=30), trace(held, TEXTS))


def test_an_encoder_with_segments(tiny_checkpoint: Callable[..., Path]) -> None:
    folder = tiny_checkpoint("bert", "ForSequenceClassification", num_labels=1)
    module = transformers.BertForSequenceClassification.from_pretrained(folder).eval()
    texts = [[2, 9, 11, 3, 20, 21, 3], [2, 7, 3, 30, 3], [2, 8, 8, 8, 3, 12, 3]]
    model = EncoderLayers(Checkpoint(folder), module.config.to_dict(), Kernels(1), separator=3)
    with torch.inference_mode():
        wanted = [
            float(
                torch.sigmoid(
                    module(torch.tensor([ids]), token_type_ids=torch.tensor([segments(ids)])).logits
                )[0, 0]
            )
            for ids in texts
        ]
    np.testing.assert_allclose(trace(model, texts)[-1], wanted, atol=1e-4)


def segments(ids: list[int]) -> list[int]:
    return [int(3 in ids[:at]) for at in range(len(ids))]


class Told:
    """A model whose scores are told beforehand: (layers, texts). A text's first token is its number."""

    def __init__(self, scores: np.ndarray) -> None:
        self.told, self.layers, self.seen = scores, len(scores), list[tuple[int, list[int]]]()

    def embed(self, texts: Any) -> Any:
        return np.array([[text[0], -1.0] for text in texts for _ in text], np.float32)

    def hold(self, number: int) -> Any:
        return torch.no_grad()  # any context

    def run(self, number: int, states: Any, lengths: Any) -> None:
        states[:, 1] = number
        self.seen.append((number, list(lengths)))

    def scores(self, states: Any, lengths: Any) -> Any:
        first = states[np.cumsum(lengths) - 1].astype(int)
        return self.told[first[:, 1], first[:, 0]]


def test_who_leaves_and_when(rng: np.random.Generator) -> None:
    told = np.array([[0.5, 0.5, 0.5, 0.5, 0.5], [0.9, 0.5, 0.52, 0.1, 0.11], [0.9, 0.6, 0.4, 0.9, 0.9]])
    model: Layered = Told(told)
    found = select(model, [[n, n] for n in range(5)], 2, threshold=0.1)
    assert found.best == [0, 1]
    assert found.left.tolist() == [2, 3, 3, 2, 2]
    assert found.tokens == 2 * (5 + 5 + 2)
    assert select(Told(told[[2]]), [[n] for n in range(5)], 2).best == [0, 3]  # nobody leaves before the end


def test_replaying_a_trace_chooses_as_selecting_does(rng: np.random.Generator) -> None:
    for _ in range(50):
        told = rng.uniform(0, 1, (6, 8)) * rng.uniform(0, 1, 8)
        places, threshold = int(rng.integers(1, 9)), float(rng.uniform(0, 1))
        found = select(Told(told), [[n] * 3 for n in range(8)], places, threshold=threshold)
        best, left = replay(told, places, threshold)
        assert (found.best, found.left.tolist()) == (best, left.tolist())
        assert len(set(best)) == min(places, 8)


def test_calibration_keeps_the_precision_that_was_asked_for(rng: np.random.Generator) -> None:
    final = rng.uniform(0, 1, (30, 10))
    traces = [
        np.stack([each + rng.normal(0, 0.3 / (n + 1), 10) for n in range(7)] + [each]) for each in final
    ]
    for wanted in (1.0, 0.9):
        threshold = calibrate(traces, 3, wanted)
        whole = [set(np.argsort(-each[-1])[:3].tolist()) for each in traces]
        kept = [len(t & set(replay(each, 3, threshold)[0])) / 3 for t, each in zip(whole, traces)]
        assert np.mean(kept) >= wanted
    lax, strict = calibrate(traces, 3, 0.8), calibrate(traces, 3, 1.0)
    assert lax <= strict


@pytest.mark.parametrize(
    ("texts", "places", "said"),
    [([], 1, "0 texts"), ([[1], []], 1, "none of them empty"), ([[1]], 0, "0 places")],
)
def test_bad_input(texts: list[list[int]], places: int, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        select(Told(np.ones((2, 3))), texts, places)


def test_scores_that_are_not_numbers_are_said() -> None:
    with pytest.raises(BadInput, match="not a number"):
        select(Told(np.full((2, 3), np.nan)), [[0], [1], [2]], 1)


def test_a_head_of_several_scores_cannot_rank(classifier: Any) -> None:
    tensors = stored(classifier) | {"score.weight": StoredTensor.dense(np.ones((3, 64), np.float32))}
    with pytest.raises(UnsupportedModel, match="one score"):
        DecoderLayers(tensors, classifier.config.to_dict(), Kernels(1))
    del tensors["score.weight"]
    with pytest.raises(BadInput, match="yes and no"):
        DecoderLayers(tensors, classifier.config.to_dict(), Kernels(1))


def test_yes_and_no_of_a_decoder(classifier: Any) -> None:
    config = classifier.config.to_dict() | {"tie_word_embeddings": True}
    tensors = {name: each for name, each in stored(classifier).items() if name != "score.weight"}
    model = DecoderLayers(tensors, config, Kernels(1), answers=(11, 12))
    with torch.inference_mode():
        last = torch.stack([classifier.model(torch.tensor([ids])).last_hidden_state[0, -1] for ids in TEXTS])
        logits = last @ classifier.model.embed_tokens.weight[[11, 12]].T
    np.testing.assert_allclose(trace(model, TEXTS)[-1], logits.softmax(1)[:, 0].numpy(), atol=5e-3)
