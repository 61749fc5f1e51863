"""Activation outliers put into a small decoder, which has none of its own, without changing what it computes.

Knows decoders of the Llama family. Large language models carry a few channels whose activations are many times
larger than the rest, and low bits suffer from them; a proof about that on a small model must inject them, and
say so.

Source of the phenomenon: Dettmers et al. (2022), "LLM.int8()"; of the rescaling: Xiao et al. (2023), "SmoothQuant",
eq. 3, the other way round.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch
from torch import nn

from ondevice.errors import UnsupportedModel

_CHANNELS = (4, 8)  # of every norm, the same in all layers, as in large models
_FACTORS = (20.0, 60.0)
_PAIRS = 4  # hidden units of each gated feed-forward layer


def inject_outliers(module: nn.Module, seed: int = 0) -> nn.Module:
    """A copy whose norms and gated layers give 4 to 8 channels 20 to 60 times larger, with the same outputs.

    The gain of a channel of a norm is multiplied and the columns that read it are divided; the same for a row of an
    up projection and the column of the down projection. Exact but for rounding: outputs agree to 1e-4 in float32.
    The last norm is left alone, for the head that reads it may be tied to the embeddings. Raises UnsupportedModel
    where a layer is not of Llama's form.
    """
    module = copy.deepcopy(module)
    generator = torch.Generator().manual_seed(seed)
    channels: torch.Tensor | None = None
    with torch.no_grad():
        for name, layer in _layers(module):
            attention, feed_forward = layer.get_submodule("self_attn"), layer.get_submodule("mlp")
            for norm, readers in (
                ("input_layernorm", [attention.get_submodule(f"{part}_proj") for part in "qkv"]),
                (
                    "post_attention_layernorm",
                    [feed_forward.get_submodule(f"{part}_proj") for part in ("gate", "up")],
                ),
            ):
                gain = _gain(layer.get_submodule(norm), f"{name}.{norm}")
                if channels is None:
                    count = int(torch.randint(_CHANNELS[0], _CHANNELS[1] + 1, (), generator=generator))
                    channels = torch.randperm(len(gain), generator=generator)[:count]
                factors = _factors(len(channels), generator)
                gain[channels] *= factors
                for reader in readers:
                    reader.get_parameter("weight")[:, channels] /= factors
            up, down = feed_forward.get_submodule("up_proj"), feed_forward.get_submodule("down_proj")
            units = torch.randperm(len(up.get_parameter("weight")), generator=generator)[:_PAIRS]
            factors = _factors(_PAIRS, generator)
            up.get_parameter("weight")[units] *= factors[:, None]
            if getattr(up, "bias", None) is not None:
                up.get_parameter("bias")[units] *= factors
            down.get_parameter("weight")[:, units] /= factors
    return module


def _layers(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The decoder layers, checked to hold what is rescaled."""
    parts = (
        "input_layernorm",
        "post_attention_layernorm",
        "self_attn.q_proj",
        "self_attn.k_proj",
        "self_attn.v_proj",
    )
    wanted = (*parts, "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
    found = [(name, layer) for name, layer in module.named_modules() if hasattr(layer, "input_layernorm")]
    if not found:
        raise UnsupportedModel(f"{type(module).__name__} has no layers of Llama's form to put outliers into")
    for name, layer in found:
        there = dict(layer.named_modules())
        linear = all(isinstance(there.get(part), nn.Linear) for part in wanted[2:])
        if not linear or not set(wanted) <= set(there):
            raise UnsupportedModel(
                f"{name} is not a Llama layer with dense projections: it needs {', '.join(wanted)}"
            )
        if {"pre_feedforward_layernorm", "post_feedforward_layernorm"} & set(there):
            raise UnsupportedModel(
                f"{name} has norms after its blocks too, which the rescaling does not follow"
            )
        yield name, layer


def _gain(norm: nn.Module, name: str) -> torch.Tensor:
    """The gain of a norm. Raises UnsupportedModel unless the output is the gain times something (Gemma's is 1 + it)."""
    gain = norm.get_parameter("weight")
    probe = torch.linspace(-1, 1, len(gain))[None].to(gain.dtype)
    before = norm(probe)
    gain.mul_(2)
    doubled = norm(probe)
    gain.div_(2)
    if not torch.allclose(doubled, 2 * before, rtol=1e-3):
        raise UnsupportedModel(f"the output of {name} is not in proportion to its weight")
    return gain


def _factors(count: int, generator: torch.Generator) -> torch.Tensor:
    low, high = _FACTORS
    return low + (high - low) * torch.rand(count, generator=generator)
