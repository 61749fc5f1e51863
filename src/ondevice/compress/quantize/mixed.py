"""Experts at widths of their own: those that matter little at few bits, those that matter at many.

Knows experts, widths, and a loss. Knows nothing of how experts get into memory, nor of what quantises the other layers.

Source: Yi et al. 2023, "EdgeMoE", expert-wise bit-width: importance is the loss when one expert alone is put at the
lowest width; how many are lowered to each width is found by bisection under the loss that is allowed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from ondevice.compress.calibration import Calibration, Moments
from ondevice.compress.quantize.quantize import quantize_linear
from ondevice.compress.technique import Technique
from ondevice.errors import BadInput, NeedsCalibration
from ondevice.layers.experts import GatedExpert
from ondevice.models.model import Model, batches, share
from ondevice.numerics.tiles import check_format

WIDTHS = (8, 4, 2)  # bits, the base first
_BATCH = 16
Loss = Callable[[Mapping[str, int]], float]


def allocate(
    names: Sequence[str], loss: Loss, tolerance: float, widths: Sequence[int] = WIDTHS
) -> dict[str, int]:
    """Bits of each expert: as many as can be at the lower widths, the least important first, while the loss stays at or
    under (1 + tolerance) times that with all at the first width.

    loss: of experts at these widths. widths: the largest first.
    """
    base = dict.fromkeys(names, widths[0])
    most = loss(base) * (1 + tolerance)
    importance = {name: loss(base | {name: widths[-1]}) for name in names}
    order = sorted(names, key=lambda name: importance[name])
    chosen, lowered = base, len(order)
    for width in widths[1:]:  # only what is at the width above is lowered further
        fits, fails = 0, lowered + 1
        while fails - fits > 1:
            tried = (fits + fails) // 2
            if loss(chosen | dict.fromkeys(order[:tried], width)) <= most:
                fits = tried
            else:
                fails = tried
        chosen, lowered = chosen | dict.fromkeys(order[:fits], width), fits
    return chosen


@dataclass(frozen=True)
class ExpertBits(Technique):
    """Store each expert of a mixture at 8, 4 or 2 bits, in groups of `group_size` inputs; other layers stay.

    tolerance: by how much of itself the loss (nats a token) on the calibration texts may rise over that of all experts
        at 8 bits. Check what came of it on other texts.
    Needs calibration texts, and raises BadInput for a model without experts.
    """

    tolerance: float = 0.01
    group_size: int = 32

    def __post_init__(self) -> None:
        check_format(1, 1, WIDTHS[0], self.group_size)
        if not 0 <= self.tolerance <= 1:
            raise BadInput(f"tolerance is a share of the loss, 0 to 1, not {self.tolerance}")

    def apply(self, model: Model, calibration: Calibration | None = None) -> Model:
        if calibration is None:
            raise NeedsCalibration(
                "expert-bits weighs losses on texts; give some with --data or Calibration(texts)"
            )
        experts = model.layers(GatedExpert)
        if not experts or model.task.kind != "language":
            raise BadInput(
                "expert-bits needs a language model with experts, and this one is dense; use quantize"
            )
        moments = calibration.moments(model)
        options = {
            (name, bits): _at_width(name, expert, bits, self.group_size, moments)
            for name, expert in experts.items()
            for bits in WIDTHS
        }
        trial = share(model.module)
        windows = [window.ids for window in model.windows(calibration.texts)]

        def loss(widths: Mapping[str, int]) -> float:
            for name, bits in widths.items():
                parent, _, leaf = name.rpartition(".")
                setattr(trial.get_submodule(parent), leaf, options[name, bits])
            return _loss(trial, windows)

        widths = allocate(list(experts), loss, self.tolerance)
        return model.with_modules({name: options[name, bits] for name, bits in widths.items()})


def _at_width(
    name: str, expert: GatedExpert, bits: int, group_size: int, moments: Mapping[str, Moments]
) -> GatedExpert:
    """An expert in so many bits: by GPTQ where calibration reached it, else rounded."""
    quantized = share(expert)
    for leaf, layer in expert.named_children():
        if isinstance(layer, nn.Linear):
            seen = moments.get(f"{name}.{leaf}")
            reached = seen if seen is not None and seen.count else None
            setattr(
                quantized,
                leaf,
                quantize_linear(
                    layer, bits, group_size, moments=reached, method="rtn" if reached is None else "gptq"
                ),
            )
    assert isinstance(quantized, GatedExpert)
    return quantized


@torch.inference_mode()
def _loss(module: nn.Module, windows: Sequence[Sequence[int]]) -> float:
    """Mean surprise of a token after the first, nats."""
    total, count = 0.0, 0
    for _, ids, mask in batches(windows, _BATCH):
        logits = module(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, :-1]
        each = functional.cross_entropy(logits.transpose(1, 2).float(), ids[:, 1:], reduction="none")
        total += float((each * mask[:, 1:]).sum())
        count += int(mask[:, 1:].sum())
    return total / count
