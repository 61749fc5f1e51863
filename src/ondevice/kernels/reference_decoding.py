"""The kernels of decoders in NumPy; see `reference`."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ondevice.kernels.pages import PAGE, Bias, LayerCache, Places
from ondevice.kernels.reference import activate

Floats = npt.NDArray[np.float32]


def rms_norm(x: Floats, update: Floats | None, gamma: Floats, epsilon: float, out: Floats) -> None:
    """x += update; out = x / rms(x) * gamma, row by row."""
    if update is not None:
        x += update
    out[:] = x / np.sqrt((x**2).mean(axis=1, keepdims=True) + np.float32(epsilon)) * gamma


def gated(x: Floats, activation: str, out: Floats) -> None:
    """out = activation(first half of x) * second half."""
    gate, value = np.split(x, 2, axis=1)
    gate = gate.copy()
    activate(gate, activation)
    out[:] = gate * value


def remember(
    joint: Floats,
    heads: int,
    cache: LayerCache,
    places: Places,
    cosine: Floats,
    sine: Floats,
    query_gamma: Floats | None,
    key_gamma: Floats | None,
    epsilon: float,
) -> None:
    """Normalise and turn queries and keys in place; write keys and values to their pages."""
    tokens, size = len(joint), cache.head_size
    parts = joint.reshape(tokens, heads + 2 * cache.heads, size)
    keys, values = parts[:, heads : heads + cache.heads], parts[:, heads + cache.heads :]
    for part, gamma in ((parts[:, :heads], query_gamma), (keys, key_gamma)):
        if gamma is not None:
            part /= np.sqrt((part**2).mean(axis=2, keepdims=True) + np.float32(epsilon))
            part *= gamma
    half = cosine.shape[1]
    turned = parts[:, : heads + cache.heads]
    first, second = turned[..., :half].copy(), turned[..., half : 2 * half].copy()
    c, s = cosine[places.positions, None], sine[places.positions, None]
    turned[..., :half] = first * c - second * s
    turned[..., half : 2 * half] = second * c + first * s
    for token, (sequence, position) in enumerate(zip(places.sequences, places.positions)):
        page, place = places.tables[sequence, position // PAGE], position % PAGE
        if places.slots is not None and places.slots[token] >= 0:
            page, place = divmod(places.slots[token], PAGE)
        cache.write(page, place, keys[token], values[token])


def attend(
    joint: Floats,
    heads: int,
    cache: LayerCache,
    places: Places,
    scale: float,
    window: int,
    bias: Bias | None,
    out: Floats,
) -> None:
    """Softmax attention of each token to the cached tokens that it may see."""
    size, group = cache.head_size, heads // cache.heads
    for token, (sequence, position) in enumerate(zip(places.sequences, places.positions)):
        table = places.tables[sequence, : position // PAGE + 1]
        if places.slots is not None and places.slots[token] >= 0:
            cache.move(places.slots[token : token + 1], table[-1:] * PAGE + position % PAGE)
        first = max(0, position - window + 1) if window else 0
        seen = slice(first, position + 1)
        keys = np.concatenate([cache.keys(page) for page in table], axis=2)[:, :, seen]
        values = np.concatenate([cache.values(page) for page in table], axis=1)[:, seen]
        queries = joint[token, : heads * size].reshape(cache.heads, group, size)
        scores = queries @ keys * np.float32(scale)
        if bias is not None:
            added = bias.values[:, bias.starts[token] + first : bias.starts[token] + position + 1]
            scores += added.reshape(cache.heads, group, -1)
        scores = np.exp(scores - scores.max(axis=2, keepdims=True))
        scores /= scores.sum(axis=2, keepdims=True)
        out[token] = (scores @ values).reshape(-1)
