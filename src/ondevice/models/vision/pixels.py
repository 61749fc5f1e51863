"""How the networks of this room read pictures.

Knows pixels. Knows no network.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from ondevice.errors import BadInput


def pixels(images: npt.NDArray[np.uint8]) -> torch.Tensor:
    """uint8 (n, height, width, channels) -> float32 (n, channels, height, width), -2 to 2: (x / 255 - 1/2) * 4.

    Raises BadInput for another type or shape.
    """
    if images.dtype != np.uint8 or images.ndim != 4:
        raise BadInput(f"pictures are uint8 (n, height, width, channels), not {images.dtype} {images.shape}")
    return torch.from_numpy(images).permute(0, 3, 1, 2).float().mul_(4 / 255).sub_(2).contiguous()
