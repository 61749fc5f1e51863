"""A decoder's tensors rounded and made float again: one model, whichever form its matrices have."""

from __future__ import annotations

import numpy as np
import pytest

from ondevice.kernels import Kernels
from ondevice.models.zoo import locate, open_zoo
from ondevice.numerics.tiles import quantize_tiled
from ondevice.runtime.decoder import Decoder
from ondevice.runtime.weights.rounded import dequantized, rounded
from ondevice.runtime.weights.safetensors import Checkpoint

IDS = list(range(5, 37))


@pytest.mark.parametrize("bits", [3, 4, 8])
def test_products_with_packed_weights_are_those_with_the_floats_they_stand_for(bits: int) -> None:
    checkpoint, config = Checkpoint(locate("reference-lm")), open_zoo("reference-lm").config
    packed = rounded(checkpoint, bits)
    floats = dequantized(packed)
    name = "model.layers.0.mlp.down_proj.weight"
    want = quantize_tiled(np.asarray(checkpoint[name].to_dense(), np.float32), bits).dequantize()
    np.testing.assert_array_equal(floats[name].to_dense(), want)
    assert packed[name].array.nbytes < want.nbytes / (32 / bits) * 1.3
    logits = []
    for tensors in (packed, floats):
        decoder = Decoder(tensors, config, Kernels(1), context=64)
        [rows] = decoder.step([(decoder.cache.sequence(), IDS)], every=True)
        logits.append(rows)
    # int8 activations differ from float ones by their rounding
    assert np.linalg.norm(logits[0] - logits[1]) < 0.05 * np.linalg.norm(logits[1])
    assert not np.array_equal(dequantized(rounded(checkpoint, 2))[name].array, want)
