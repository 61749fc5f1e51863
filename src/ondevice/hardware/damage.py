"""A language model whose matrices come from flash pages: how often it is right when bits have turned over.

Knows pages, 8-bit matrices with one scale each, and next-token accuracy. Knows nothing of codes or tokenizers.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from ondevice.errors import BadInput
from ondevice.hardware.ecc import Bytes


class PagedModel:
    """matrices: at 8 bits, in order. pages: (n, page), all of them one after another. The module's own weights are
    changed by `accuracy`.

    windows: (texts, tokens) to be judged on, each after those before it in its text. Raises BadInput for fewer than two
    tokens.
    """

    def __init__(self, module: nn.Module, windows: Sequence[Sequence[int]], page: int) -> None:
        self._module, self._text = module, torch.tensor(windows)
        if self._text.ndim != 2 or self._text.shape[1] < 2:
            raise BadInput("accuracy needs texts of one length, two tokens or more")
        self._weights = [each for each in module.parameters() if each.ndim == 2]
        self._steps = [max(each.abs().max().item(), 1e-30) / 127 for each in self._weights]
        self.matrices: list[Bytes] = [
            torch.round(each.detach() / step).to(torch.int8).numpy()
            for each, step in zip(self._weights, self._steps, strict=True)
        ]
        flat = np.concatenate([matrix.ravel() for matrix in self.matrices])
        self.pages: Bytes = np.pad(flat, (0, -flat.size % page)).reshape(-1, page)

    def accuracy(self, pages: Bytes) -> float:
        """Share of tokens that the model with these pages' matrices finds likeliest."""
        if pages.shape != self.pages.shape:
            raise BadInput(f"pages must be {self.pages.shape}, not {pages.shape}")
        flat, start = pages.reshape(-1), 0
        with torch.inference_mode():
            for each, step in zip(self._weights, self._steps, strict=True):
                own = flat[start : start + each.numel()].reshape(each.shape)
                each.copy_(torch.from_numpy(own.astype(np.float32)) * step)
                start += each.numel()
            found = self._module(self._text[:, :-1]).logits.argmax(-1)
        return float((found == self._text[:, 1:]).float().mean())
