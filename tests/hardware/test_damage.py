"""A model from pages: whole pages are the 8-bit model, and damage that codes repair leaves no trace."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs torch: pip install 'ondevice-ml[fit]'")
import torch
import transformers

from ondevice.errors import BadInput
from ondevice.hardware.damage import PagedModel
from ondevice.hardware.ecc import OutlierECC


def test_accuracy_is_that_of_the_rounded_model_and_falls_with_its_outliers() -> None:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=50, hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=2
    )
    module = transformers.LlamaForCausalLM(config).eval()
    with torch.inference_mode():
        text = module.generate(torch.tensor([[3]]), max_new_tokens=60, do_sample=False, eos_token_id=None)
    model = PagedModel(module, text.tolist(), 256)
    before = [each.detach().clone() for each in module.parameters() if each.ndim == 2]
    assert model.accuracy(model.pages) > 0.9  # its own greedy text, but for the rounding
    for old, new in zip(before, (each for each in module.parameters() if each.ndim == 2), strict=True):
        assert (old - new).abs().max() <= old.abs().max() / 254 * 1.001
    code = OutlierECC(256, 4)
    spare, bad = code.encode(model.pages), model.pages.copy()
    largest = np.abs(bad.astype(int)).argmax(1)
    bad[np.arange(len(bad)), largest] = 0
    assert (code.decode(bad, spare) == model.pages).all()
    assert model.accuracy(np.zeros_like(model.pages)) < 0.5
    with pytest.raises(BadInput, match="pages must be"):
        model.accuracy(model.pages[:1])
    with pytest.raises(BadInput, match="two tokens"):
        PagedModel(module, [[1]], 256)
