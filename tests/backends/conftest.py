"""Artifacts of tiny encoders, compressed in every way that an artifact can store; llama.cpp as an oracle."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ondevice.artifact import Artifact, Contents, write

# name -> what is applied, in order
FORMS: dict[str, list[tuple[str, dict[str, Any]]]] = {
    "plain": [],
    "8 bits": [("quantize", {"bits": 8, "method": "rtn"})],
    "6 bits, float activations": [("quantize", {"bits": 6, "method": "rtn", "activations": "float"})],
    "5 bits, groups of 96": [("quantize", {"bits": 5, "group_size": 96, "method": "rtn"})],
    "4 bits": [("quantize", {"bits": 4, "method": "rtn"})],
    "4 bits, float activations": [("quantize", {"bits": 4, "method": "rtn", "activations": "float"})],
    "3 bits, groups of 64, float": [
        ("quantize", {"bits": 3, "group_size": 64, "method": "rtn", "activations": "float"})
    ],
    "1 bit, float activations": [("quantize", {"bits": 1, "method": "rtn", "activations": "float"})],
    "low rank": [("lowrank", {"rank": 8, "whiten": False})],
    "low rank, 4 bits": [
        ("lowrank", {"rank": 12, "whiten": False}),
        ("quantize", {"bits": 4, "method": "rtn", "activations": "float"}),
    ],
    "sparse": [("sparsify", {"sparsity": 0.5, "method": "magnitude"})],
    "pruned": [("prune", {"heads": 0.5, "neurons": 0.4, "drop_layers": 1})],
    "bands": [],
}

_TEXTS = ["open the file and read its lines", "the absolute value of a number", "a quick brown fox jumps"]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that takes `form` runs for every form."""
    if "form" in metafunc.fixturenames:
        metafunc.parametrize("form", FORMS)


@pytest.fixture
def compressed(tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> Callable[..., tuple[Any, Artifact]]:
    """make(form, family, head) -> (the model, the artifact that holds it)."""

    def make(form: str, family: str = "bert", head: str = "Model") -> tuple[Any, Artifact]:
        from ondevice.compress.calibration import Calibration
        from ondevice.compress.technique import technique
        from ondevice.layers.store import to_stored
        from ondevice.models.load import load

        model = load(tiny_checkpoint(family, head, name=form.replace(" ", "-").replace(",", "")))
        for name, settings in FORMS[form]:
            model = technique(name)(**settings).apply(model, Calibration(_TEXTS))
        if form == "bands":
            model = _in_bands(model)
        contents = Contents(
            model.config, model.tokenizer.to_str(), model.task.to_json(), to_stored(model.module),
            provenance={"name": "tiny"}, licence="Apache-2.0",
        )  # fmt: skip
        return model, write(tmp_path / f"artifact-{form.replace(' ', '-')}", contents, overwrite=True)

    return make


def _in_bands(model: Any) -> Any:
    """The word embeddings with every third row at 8 bits, the others at 3 and 2."""
    import torch

    from ondevice.layers.banded import BandedEmbedding
    from ondevice.layers.quantized import QuantizedEmbedding
    from ondevice.numerics.tiles import quantize_tiled

    name = "embeddings.word_embeddings"
    weight = model.module.get_submodule(name).weight.detach()
    bands = torch.arange(len(weight)).remainder(3).to(torch.uint8)
    tables = [
        QuantizedEmbedding(quantize_tiled(weight[bands == band].numpy(), bits))
        for band, bits in enumerate((8, 3, 2))
    ]
    return model.with_modules({name: BandedEmbedding(bands, tables)})


class LlamaCpp:
    """One GGUF file in llama.cpp, one thread, the cache in float32."""

    def __init__(self, path: Path) -> None:
        x = pytest.importorskip("xllamacpp", reason="needs llama.cpp: pip install xllamacpp")
        given = x.CommonParams()
        given.model.path, given.n_ctx, given.n_parallel, given.warmup = str(path), 256, 1, False
        given.n_gpu_layers, given.ctx_shift, given.fit_params, given.port, given.verbosity = (
            0,
            False,
            False,
            0,
            0,
        )
        given.cpuparams.n_threads = given.cpuparams_batch.n_threads = 1
        given.cache_type_k = given.cache_type_v = x.ggml_type.GGML_TYPE_F32
        given.flash_attn_type = x.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        self._server = x.Server(given)

    def write(self, prompt: list[int] | str, count: int, **more: Any) -> dict[str, Any]:
        asked = {"prompt": prompt, "n_predict": count, "temperature": 0, "n_probs": 1, **more}
        answer: dict[str, Any] = self._server.handle_completions(asked)["choices"][0]
        return answer

    def greedy(self, prompt: list[int], count: int) -> list[int]:
        return [each["id"] for each in self.write(prompt, count)["logprobs"]["content"]]

    def logprobs(self, prompt: list[int], tokenizer: Any) -> np.ndarray:
        """Of the next token. An "e" is taken, whatever they are: what is no whole character is not reported."""
        taken = [[tokenizer.token_to_id("e"), 1000.0]]
        answer = self.write(prompt, 1, n_probs=tokenizer.get_vocab_size(), logit_bias=taken)
        found = np.full(tokenizer.get_vocab_size(), np.nan)
        for each in answer["logprobs"]["content"][0]["top_logprobs"]:
            found[each["id"]] = each["logprob"]
        assert np.isfinite(found).all()
        return found

    def tokens(self, text: str) -> list[int]:
        body = json.dumps({"content": text, "add_special": True, "parse_special": True}).encode()
        asked = urllib.request.Request(
            f"{self._server.listening_address}/tokenize", body, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(asked, timeout=30) as answer:
            found: list[int] = json.loads(answer.read())["tokens"]
        return found


@pytest.fixture
def llama_cpp() -> Callable[[Path], LlamaCpp]:
    """open(path of a GGUF file) -> the model in llama.cpp."""
    return LlamaCpp
