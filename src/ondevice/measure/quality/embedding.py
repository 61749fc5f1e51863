"""How far embeddings moved from the original's.

Knows vectors. Knows nothing of models.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ondevice.errors import BadInput


def cosine(original: npt.ArrayLike, fitted: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Cosine of each row with the same row of the original, (texts,). Its mean is the usual quality figure.

    original, fitted: (texts, dimension). Raises BadInput for other shapes, NaN, and a vector of zeros.
    """
    a, b = np.asarray(original, dtype=np.float64), np.asarray(fitted, dtype=np.float64)
    if a.shape != b.shape or a.ndim != 2 or not a.size:
        raise BadInput(f"embeddings must be of one shape (texts, dimension), not {a.shape} and {b.shape}")
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    if not np.isfinite(lengths).all() or (lengths == 0).any():
        raise BadInput("embeddings must be finite and not zero")
    return np.asarray(np.clip((a * b).sum(axis=1) / lengths, -1.0, 1.0))
