"""The kernels: what a transformer computes, on NumPy arrays, compiled for the processor at hand.

Knows arrays, stored matrices and threads. Knows nothing of models, files or tokens.

The instruction set is the best that the processor has; the environment variable ONDEVICE_ISA overrides it
(avx512, avx2, neon, portable, or reference for NumPy). A row's result is bit-identical for any batch and any
number of threads, and the integer part of every result is the same on every instruction set.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from ondevice.errors import BadInput
from ondevice.kernels import reference
from ondevice.kernels.decoding import Decoding, move_tokens
from ondevice.kernels.matrix import Linear, Matrix, check, core, core_missing
from ondevice.kernels.pages import PAGE, Bias, CacheDtype, LayerCache, Places
from ondevice.kernels.stack import Layer, Stack

__all__ = [
    "PAGE",
    "Activation",
    "Bias",
    "CacheDtype",
    "Kernels",
    "Layer",
    "LayerCache",
    "Linear",
    "Matrix",
    "Places",
    "Stack",
    "available",
    "compiled",
    "instruction_set",
    "move_tokens",
]

Floats = npt.NDArray[np.float32]
Activation = Literal["none", "gelu", "gelu_tanh", "relu", "tanh", "silu"]
_ACTIVATIONS = {name: number for number, name in enumerate(get_args(Activation))}
_KNOWN = ("avx512", "avx2", "neon", "portable", "reference")


def compiled() -> bool:
    """Whether the compiled core is installed; without it everything runs on NumPy, much slower."""
    return core is not None


def available() -> list[str]:
    """Instruction sets that can run here, best first; the last is always "reference" (NumPy)."""
    return [*(core.available() if core is not None else []), "reference"]


def instruction_set() -> str:
    """The instruction set that `Kernels` uses. Raises BadInput for a bad ONDEVICE_ISA."""
    return _checked(os.environ.get("ONDEVICE_ISA") or available()[0], "ONDEVICE_ISA")


class Kernels(Decoding):
    """The kernels on a number of threads. Calls from several Python threads take turns.

    threads: how many work together, the calling one included. instruction_set: one of `available()`.
    Every method checks shapes and types and raises BadInput; arrays are C-contiguous float32 unless said
    otherwise; `out` is made where it is not given, and may be an input only where that is said.
    """

    def __init__(self, threads: int = 1, instruction_set: str | None = None) -> None:
        if not 1 <= threads <= 1024:
            raise BadInput(f"threads must be 1 to 1024, not {threads}")
        self.threads = threads
        if instruction_set is None:
            self.instruction_set = globals()["instruction_set"]()
        else:
            self.instruction_set = _checked(instruction_set, "instruction_set")
        if not compiled() and (instruction_set or os.environ.get("ONDEVICE_ISA")) != "reference":
            warnings.warn(
                f"the compiled core of ondevice is missing ({core_missing}), so kernels run on NumPy and are "
                "much slower; install a C++17 compiler and reinstall ondevice-ml",
                RuntimeWarning,
                stacklevel=1,
            )
        self._core: Any = (
            None if self.instruction_set == "reference" else core.Core(threads, self.instruction_set)
        )

    def linear(
        self, x: Floats, layer: Linear, *, activation: Activation = "none", out: Floats | None = None
    ) -> Floats:
        """activation(x * inverse @ weights.T + bias), (rows, layer.rows), for x (rows, layer.columns)."""
        rows, columns = _matrix_shape("x", x)
        if columns != layer.columns:
            raise BadInput(f"x has {columns} columns, the layer takes {layer.columns}")
        out = _output(out, (rows, layer.rows))
        kind = _activation(activation)
        if self._core is None:
            reference.linear(x, layer, activation, out)
        elif rows:
            self._core.linear(x, layer.native, kind, out)
        return out

    def stack(
        self, layers: Sequence[Layer], *, hidden: int, heads: int, epsilon: float, gate: str
    ) -> Stack | None:
        """Layers of a decoder that run in one call; None where there is no compiled core to run them."""
        if self._core is None:
            return None
        return Stack(self._core, layers, hidden=hidden, heads=heads, epsilon=epsilon, gate=gate)

    def most_bytes(self) -> int:
        """The most memory that the compiled core took for itself at once since this was last asked; 0 without it."""
        return 0 if self._core is None else int(self._core.most_bytes())

    def unpack(self, layer: Linear) -> None:
        """Keep a layer's tiles unpacked to int8 from now on: up to a tenth faster for 128 rows, and a byte a weight.

        For layers that are used for many rows; for a few rows, reading packed tiles is what counts. Layers with
        float activations stay as they are, and so do all without the compiled core.
        """
        if self._core is not None and layer.int8:
            self._core.unpack(layer.native)

    def quantize(self, x: Floats, inverse: Floats | None = None) -> tuple[npt.NDArray[np.int8], Floats]:
        """int8 values (rows, columns) and scales (rows,), as `linear` quantises its input.

        A row with a value that is not finite gets zeros and the scale NaN, so its results are NaN.
        """
        rows, columns = _matrix_shape("x", x)
        if inverse is not None:
            check("inverse", inverse, (columns,))
        if self._core is None:
            return reference.quantize(x, inverse)
        padded = -(-columns // 64) * 64
        out = np.zeros((rows, padded + 64), np.uint8)  # values, padding, then the scale: native/kernels.h
        if rows:
            self._core.quantize(x, inverse, out)
        scales = np.ascontiguousarray(out[:, padded : padded + 4]).view(np.float32).reshape(rows)
        return np.ascontiguousarray(out[:, :columns]).view(np.int8), scales

    def layer_norm(
        self,
        x: Floats,
        gamma: Floats,
        beta: Floats,
        epsilon: float,
        *,
        residual: Floats | None = None,
        out: Floats | None = None,
    ) -> Floats:
        """Layer normalisation of x + residual, (rows, columns). out may be x."""
        shape = _matrix_shape("x", x)
        check("gamma", gamma, shape[1:])
        check("beta", beta, shape[1:])
        if residual is not None:
            check("residual", residual, shape)
        out = _output(out, shape)
        if self._core is None:
            reference.layer_norm(x, residual, gamma, beta, epsilon, out)
        elif out.size:
            self._core.layer_norm(x, residual, gamma, beta, epsilon, out)
        return out

    def activate(self, x: Floats, activation: Activation) -> Floats:
        """Apply an activation to x (rows, columns) in place, and return it."""
        _matrix_shape("x", x)
        _output(x, x.shape)
        kind = _activation(activation)
        if self._core is None:
            reference.activate(x, activation)
        elif x.size:
            self._core.activate(x, kind)
        return x

    def attention(
        self,
        qkv: Floats,
        starts: npt.NDArray[np.int64],
        heads: int,
        scale: float,
        *,
        half: bool = False,
        out: Floats | None = None,
    ) -> Floats:
        """Self-attention of each sequence, (tokens, heads * head_size).

        qkv: (tokens, 3 * heads * head_size), queries, keys and values side by side, each heads first.
        starts: (sequences + 1,), where each sequence begins, from 0 to tokens, never falling.
        scale: what scores are multiplied by before the softmax, usually head_size ** -0.5.
        half: queries, keys, values and probabilities may be rounded to bfloat16 where that is faster (AVX-512
            with BF16); sums stay in float32.
        """
        tokens, width = _matrix_shape("qkv", qkv)
        if heads < 1 or width % (3 * heads):
            raise BadInput(f"qkv of {width} columns does not divide into 3 x {heads} heads")
        if (
            starts.dtype != np.int64
            or starts.ndim != 1
            or not starts.flags.c_contiguous
            or starts.size < 1
            or starts[0] != 0
            or starts[-1] != tokens
            or (starts.size > 2 and bool((starts[1:] < starts[:-1]).any()))
        ):
            raise BadInput(
                f"starts must be int64, rise from 0 to the {tokens} tokens and never fall, not {starts!r}"
            )
        out = _output(out, (tokens, width // 3))
        if self._core is None:
            reference.attention(qkv, starts, heads, scale, out)
        elif out.size:
            self._core.attention(qkv, starts, heads, scale, half, out)
        return out

    def embed(
        self,
        tables: Sequence[Matrix],
        rows: npt.NDArray[np.int32],
        *,
        gamma: Floats | None = None,
        beta: Floats | None = None,
        epsilon: float = 1e-12,
        out: Floats | None = None,
    ) -> Floats:
        """Sum of one row of each table, normalised where gamma and beta are given: (tokens, columns).

        tables: matrices of equal columns (an embedding a row). rows: int32 (tables, tokens);
            -1 leaves a table out.
        """
        if not tables or any(table.columns != tables[0].columns for table in tables):
            raise BadInput("embed takes one or more tables with the same number of columns")
        if (
            rows.dtype != np.int32
            or rows.ndim != 2
            or len(rows) != len(tables)
            or not rows.flags.c_contiguous
        ):
            raise BadInput(
                f"rows must be int32 ({len(tables)}, tokens), not {rows.dtype} of shape {rows.shape}"
            )
        for table, chosen in zip(tables, rows, strict=True):
            if chosen.size and (chosen.min() < -1 or chosen.max() >= table.rows):
                raise BadInput(
                    f"a row from {chosen.min()} to {chosen.max()} is outside a table of {table.rows} rows"
                )
        columns = tables[0].columns
        if (gamma is None) != (beta is None):
            raise BadInput("gamma and beta go together")
        for name, array in (("gamma", gamma), ("beta", beta)):
            if array is not None:
                check(name, array, (columns,))
        out = _output(out, (rows.shape[1], columns))
        if self._core is None:
            reference.embed(tables, rows, gamma, beta, epsilon, out)
        elif out.size:
            self._core.embed([table.native for table in tables], rows, gamma, beta, epsilon, out)
        return out


def _checked(name: str, where: str) -> str:
    if name not in _KNOWN:
        raise BadInput(f"{where}={name!r} is not an instruction set; choose from {', '.join(_KNOWN)}")
    if name not in available():
        raise BadInput(f"{where}={name!r} cannot run here; choose from {', '.join(available())}")
    return name


def _activation(name: str) -> int:
    if name not in _ACTIVATIONS:
        raise BadInput(f"{name!r} is not an activation; choose from {', '.join(_ACTIVATIONS)}")
    return _ACTIVATIONS[name]


def _matrix_shape(name: str, array: npt.NDArray[Any]) -> tuple[int, int]:
    if array.ndim != 2 or array.shape[1] == 0:
        raise BadInput(f"{name} must have two axes and at least one column, not shape {array.shape}")
    check(name, array, array.shape)
    return array.shape[0], array.shape[1]


def _output(out: Floats | None, shape: tuple[int, ...]) -> Floats:
    if out is None:
        return np.empty(shape, np.float32)
    check("out", out, shape)
    if not out.flags.writeable:
        raise BadInput("out is read-only")
    return out
