"""Charts as SVG text: points against two axes, bars with whiskers. No script, no network, no dependency.

Knows numbers and labels. Knows nothing of what they mean.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

Format = Callable[[float], str]


@dataclass(frozen=True)
class Point:
    """A point of a scatter plot. filled: a full dot, else a ring. marked: drawn large, with its label."""

    x: float
    y: float
    label: str
    filled: bool = True
    marked: bool = False


@dataclass(frozen=True)
class Bar:
    """A bar to `value`, with a whisker from low to high. filled: a full bar, else a hatched one."""

    label: str
    value: float
    low: float
    high: float
    text: str
    filled: bool = True


def scatter(
    points: Sequence[Point],
    x_title: str,
    y_title: str,
    *,
    x_format: Format,
    y_format: Format,
    x_limit: tuple[float, str] | None = None,
    y_limit: tuple[float, str] | None = None,
) -> str:
    """A scatter plot; x_limit and y_limit are (value, label) of a line that the points should stay within."""
    left, top, width, height = 74, 18, 600, 300
    x_low, x_high, x_ticks = _axis([point.x for point in points] + ([x_limit[0]] if x_limit else []))
    y_low, y_high, y_ticks = _axis([point.y for point in points] + ([y_limit[0]] if y_limit else []))

    def at(x: float, y: float) -> tuple[float, float]:
        return (
            left + (x - x_low) / (x_high - x_low) * width,
            top + height - (y - y_low) / (y_high - y_low) * height,
        )

    parts = []
    for tick in x_ticks:
        x = at(tick, y_low)[0]
        parts.append(_line(x, top, x, top + height, "grid"))
        parts.append(_text(x, top + height + 20, x_format(tick), "tick", "middle"))
    for tick in y_ticks:
        y = at(x_low, tick)[1]
        parts.append(_line(left, y, left + width, y, "grid"))
        parts.append(_text(left - 10, y + 4, y_format(tick), "tick", "end"))
    if x_limit:
        x = at(x_limit[0], y_low)[0]
        anchor, shift = ("end", -6) if x > left + width / 2 else ("start", 6)
        parts.append(_line(x, top, x, top + height, "limit"))
        parts.append(_text(x + shift, top + height - 8, x_limit[1], "limit-label", anchor))
    if y_limit:
        y = at(x_low, y_limit[0])[1]
        parts.append(_line(left, y, left + width, y, "limit"))
        parts.append(_text(left + 6, y - 6, y_limit[1], "limit-label", "start"))
    for point in sorted(points, key=lambda point: point.marked):
        x, y = at(point.x, point.y)
        kind = "measured" if point.filled else "modelled"
        halo = f'<circle class="halo" cx="{x:.1f}" cy="{y:.1f}" r="13"/>' if point.marked else ""
        dot = f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="{7 if point.marked else 5}"/>'
        parts.append(f"<g><title>{escape(point.label)}</title>{halo}{dot}</g>")
        if point.marked:
            anchor, shift = ("end", -18) if x > left + width / 2 else ("start", 18)
            parts.append(_text(x + shift, y + (20 if y < top + 30 else 4), point.label, "mark-label", anchor))
    parts.append(_text(left + width / 2, top + height + 44, x_title, "title", "middle"))
    middle = top + height / 2
    turn = f'transform="rotate(-90 16 {middle})"'
    parts.append(
        f'<text class="title" text-anchor="middle" x="16" y="{middle}" {turn}>{escape(y_title)}</text>'
    )
    return _svg(left + width + 26, top + height + 54, f"{y_title} against {x_title}", parts)


def bars(items: Sequence[Bar], title: str, *, tick_format: Format) -> str:
    """Horizontal bars from zero, one row each, the text at the end of the whisker."""
    left, width, row, top = 210, 350, 38, 8
    high, ticks = _axis([0.0, *(item.high for item in items)])[1:]
    bottom = top + row * len(items)
    parts = []
    for tick in ticks:
        x = left + tick / high * width
        parts.append(_line(x, top, x, bottom, "grid"))
        parts.append(_text(x, bottom + 18, tick_format(tick), "tick", "middle"))
    for index, item in enumerate(items):
        y = top + index * row + row / 2
        end, low, far = (left + value / high * width for value in (item.value, item.low, item.high))
        kind = "measured" if item.filled else "modelled"
        parts.append(_text(left - 12, y + 4, item.label, "label", "end"))
        parts.append(
            f"<g><title>{escape(item.label)}: {escape(item.text)}</title>"
            f'<rect class="{kind}" x="{left}" y="{y - 10:.1f}" width="{max(end - left, 1):.1f}" height="20"'
            ' rx="3"/></g>'
        )
        if far - low > 1:
            parts.append(_line(low, y, far, y, "whisker"))
            parts += [_line(x, y - 5, x, y + 5, "whisker") for x in (low, far)]
        parts.append(_text(max(end, far) + 8, y + 4, item.text, "value", "start"))
    parts.append(_text(left + width / 2, bottom + 40, title, "title", "middle"))
    return _svg(left + width + 150, bottom + 50, title, parts)


def _axis(values: Sequence[float]) -> tuple[float, float, list[float]]:
    """Ends and ticks at round numbers that hold all values with room to spare."""
    low, high = min(values), max(values)
    if low == high:
        low, high = low - (abs(low) * 0.05 or 0.5), high + (abs(high) * 0.05 or 0.5)
    rough = (high - low) / 4
    power = 10 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough * 0.999)
    first, last = math.floor(low / step), math.ceil(high / step)
    return first * step, last * step, [index * step for index in range(first, last + 1)]


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _text(x: float, y: float, text: str, kind: str, anchor: str) -> str:
    return f'<text class="{kind}" text-anchor="{anchor}" x="{x:.1f}" y="{y:.1f}">{escape(text)}</text>'


def _svg(width: float, height: float, title: str, parts: Sequence[str]) -> str:
    hatch = (
        '<defs><pattern id="hatch" width="6" height="6" patternUnits="userSpaceOnUse"'
        ' patternTransform="rotate(45)"><rect width="6" height="6" class="hatch-ground"/>'
        '<line x1="0" y1="0" x2="0" y2="6" class="hatch-line"/></pattern></defs>'
    )
    head = f'<svg viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{escape(title)}">'
    return f'<div class="chart" style="max-width:{width:g}px">{head}{hatch}{"".join(parts)}</svg></div>'
