"""Sound as a person looks at it: the waveform above, the spectrogram below, what is said at its time.

Knows samples and marks. Knows nothing of data sets.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ondevice.data.speech.features import HOP, log_mel
from ondevice.data.speech.sound import RATE
from ondevice.errors import MissingExtra

_WIDTH, _WAVE, _HEIGHT, _BAND = 440, 44, 160, 16  # pixels
# Dark blue over red to pale yellow, as spectrograms are usually shown.
_COLOURS = np.array(
    [(0, 0, 20), (60, 15, 110), (150, 40, 120), (230, 85, 80), (253, 170, 100), (252, 250, 190)]
)


def spectrogram(
    samples: npt.NDArray[np.int16], marks: Sequence[tuple[str, Any]] = (), title: str = ""
) -> npt.NDArray[np.uint8]:
    """A picture of a sound, uint8 (height, 440, 3). marks: (text, its first sample)."""
    try:
        from PIL import Image, ImageDraw
    except ImportError as error:
        raise MissingExtra("pillow", "data", "to draw a spectrogram") from error
    levels = log_mel(samples, 80).T[::-1]
    low, high = np.percentile(levels, 5), levels.max()
    shade = np.clip((levels - low) / max(float(high - low), 1e-6), 0, 1) * (len(_COLOURS) - 1)
    colours = np.stack(
        [np.interp(shade, np.arange(len(_COLOURS)), _COLOURS[:, channel]) for channel in range(3)], -1
    )
    top = _BAND + _WAVE
    canvas = Image.new("RGB", (_WIDTH, top + _HEIGHT + _BAND), "white")
    size = (_WIDTH, _HEIGHT)
    canvas.paste(Image.fromarray(colours.astype(np.uint8)).resize(size, Image.Resampling.BILINEAR), (0, top))
    pen = ImageDraw.Draw(canvas)
    peak = max(int(np.abs(samples.astype(np.int32)).max()), 1)
    for column, piece in enumerate(np.array_split(samples.astype(np.float32) / peak, _WIDTH)):
        if len(piece):
            ends = [_BAND + _WAVE / 2 * (1 - float(value) * 0.95) for value in (piece.max(), piece.min())]
            pen.line([(column, ends[0]), (column, ends[1])], fill=(40, 80, 150))
    seconds = (levels.shape[1] * HOP) / RATE
    pen.text((4, 2), f"{title}   {seconds:.1f} s", fill="black")
    for text, start in marks:
        place = int(int(start) / max(len(samples), 1) * _WIDTH)
        pen.line([(place, top), (place, top + _HEIGHT)], fill=(255, 255, 255))
        pen.text((place + 2, top + _HEIGHT + 2), text, fill="black")
    return np.asarray(canvas)
