"""Rotary positions: the tables of cosines and sines that a configuration asks for.

Knows the fields of Hugging Face configurations, old and new, and the scaling rules that lengthen a context. Knows
nothing of tensors or kernels.

Sources: Su et al. 2021, "RoFormer"; position interpolation, Chen et al. 2023; YaRN, Peng et al. 2023; Llama 3.1's
rule, Grattafiori et al. 2024 (as transformers implements them: modeling_rope_utils.py).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from ondevice.errors import UnsupportedModel

Floats = npt.NDArray[np.float32]


def tables(config: Mapping[str, Any], head_size: int, positions: int) -> tuple[Floats, Floats]:
    """Cosines and sines, float32 (positions, n): the first 2 n values of a head turn.

    Raises UnsupportedModel for a scaling rule that is not known.
    """
    inverse, factor = frequencies(config, head_size)
    angles = np.arange(positions, dtype=np.float32)[:, None] * inverse.astype(np.float32)
    return (np.cos(angles) * factor).astype(np.float32), (np.sin(angles) * factor).astype(np.float32)


def frequencies(config: Mapping[str, Any], head_size: int) -> tuple[npt.NDArray[np.float64], float]:
    """Radians a position of each pair of values, float64 (n,), and what cosines and sines are multiplied by."""
    rope = dict(config.get("rope_parameters") or config.get("rope_scaling") or {})
    kind = rope.get("rope_type", rope.get("type", "default"))
    base = float(rope.get("rope_theta", config.get("rope_theta", 10000.0)))
    share = float(rope.get("partial_rotary_factor", config.get("partial_rotary_factor", 1.0)))
    turned = int(head_size * share) // 2 * 2
    inverse = base ** -(np.arange(0, turned, 2, dtype=np.float64) / turned)
    if kind == "default":
        return inverse, 1.0
    if kind == "linear":
        return inverse / float(rope["factor"]), 1.0
    if kind == "llama3":
        return _llama3(inverse, rope), 1.0
    if kind == "factors":  # one for each pair, as GGUF files of Llama 3 hold them
        return inverse / np.asarray(rope["factors"], dtype=np.float64), 1.0
    if kind == "yarn":
        return _yarn(inverse, rope, config, base, turned)
    raise UnsupportedModel(
        f"rotary scaling {kind!r} is not supported; supported: default, linear, llama3, yarn"
    )


def _llama3(inverse: npt.NDArray[np.float64], rope: Mapping[str, Any]) -> npt.NDArray[np.float64]:
    """Long waves are stretched by the factor, short ones stay, between them it is blended."""
    low, high = float(rope["low_freq_factor"]), float(rope["high_freq_factor"])
    length = float(rope["original_max_position_embeddings"])
    turns = length * inverse / (2 * math.pi)  # in the original context
    blend = np.clip((turns - low) / (high - low), 0.0, 1.0)
    return (1 - blend) * inverse / float(rope["factor"]) + blend * inverse


def _yarn(
    inverse: npt.NDArray[np.float64],
    rope: Mapping[str, Any],
    config: Mapping[str, Any],
    base: float,
    turned: int,
) -> tuple[npt.NDArray[np.float64], float]:
    length = float(rope.get("original_max_position_embeddings") or config["max_position_embeddings"])
    factor = float(rope.get("factor") or config["max_position_embeddings"] / length)
    attention = rope.get("attention_factor")
    if attention is None:
        scale, every = rope.get("mscale"), rope.get("mscale_all_dim")
        attention = (
            _temperature(factor, scale) / _temperature(factor, every)
            if scale and every
            else _temperature(factor)
        )

    def pair_of(turns: float) -> float:
        """The pair that makes so many turns in the original context; not a whole number."""
        return turned * math.log(length / (turns * 2 * math.pi)) / (2 * math.log(base))

    low, high = pair_of(float(rope.get("beta_fast") or 32)), pair_of(float(rope.get("beta_slow") or 1))
    if rope.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, turned - 1)
    ramp = np.clip((np.arange(turned // 2) - low) / max(high - low, 0.001), 0.0, 1.0)
    return inverse / factor * ramp + inverse * (1 - ramp), float(attention)


def _temperature(factor: float, scale: float = 1.0) -> float:
    return 1.0 if factor <= 1 else 0.1 * scale * math.log(factor) + 1.0
