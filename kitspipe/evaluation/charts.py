"""Distributions over cases as inline SVG, with the same in words."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

WIDTH, HEIGHT = 320, 150
_LEFT, _RIGHT, _TOP, _BOTTOM = 28, 10, 8, 20
_BINS = 12
_ROUND = (1, 2, 2.5, 5, 10)


@dataclass(frozen=True, kw_only=True, slots=True)
class Chart:
    """A drawing and what it says.

    Args:
        title: what is counted.
        text: median and range in words.
        svg: the drawing, whose texts are escaped.
    """

    title: str
    text: str
    svg: str


def histogram(
    title: str, values: Sequence[float], unit: str = "", limits: tuple[float, float] | None = None
) -> Chart | None:
    """How values are spread; None without a finite one.

    Args:
        title: what is counted.
        values: NaN is left out.
        unit: stands behind numbers.
        limits: of the axis; None: round numbers from 0 to beyond the largest.
    """
    known = np.array([value for value in values if math.isfinite(value)], float)
    if known.size == 0:
        return None
    edges = _edges(known, limits)
    counts, _ = np.histogram(np.clip(known, edges[0], edges[-1]), edges)
    digits = 2 if edges[-1] <= 1 else 0

    def told(value: float) -> str:
        return f"{value:.{digits}f}{f' {unit}' if unit else ''}"

    middle, low = told(float(np.median(known))), f"{known.min():.{digits}f}"
    text = f"median {middle}, {low} to {told(known.max())}"
    if known.size == 1:
        text = told(float(known[0]))
    text = f"{known.size} {'value' if known.size == 1 else 'values'}: {text}"
    bars = [
        f"{n} from {told(low)} to {told(high)}"
        for n, low, high in zip(counts, edges[:-1], edges[1:], strict=True)
    ]
    svg = _svg(f"{title}. {text}", edges, counts, bars, float(np.median(known)), digits)
    return Chart(title=title, text=text, svg=svg)


def _edges(known: np.ndarray, limits: tuple[float, float] | None) -> np.ndarray:
    if limits is not None:
        return np.linspace(*limits, 2 * _BINS - 3)
    rough = max(float(known.max()), 1e-6) / _BINS
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * r for r in _ROUND if power * r >= rough * (1 - 1e-9))
    steps = max(1, math.ceil(float(known.max()) / step * (1 - 1e-9)))
    return np.arange(steps + 1) * step


def _svg(
    label: str,
    edges: np.ndarray,
    counts: np.ndarray,
    bars: Sequence[str],
    median: float,
    digits: int,
) -> str:
    inner = WIDTH - _LEFT - _RIGHT
    floor = HEIGHT - _BOTTOM
    highest = int(counts.max())

    def x(value: float) -> float:
        return _LEFT + inner * float((value - edges[0]) / (edges[-1] - edges[0]))

    def y(count: float) -> float:
        return floor - (floor - _TOP) * count / highest

    parts = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label)}">',
        f'<line class="chart-axis" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{floor}" y2="{floor}"/>',
        f'<text class="chart-text" x="{_LEFT - 5}" y="{_TOP + 9}" text-anchor="end">{highest}'
        "</text>",
    ]
    for count, low, high, bar in zip(counts, edges[:-1], edges[1:], bars, strict=True):
        if count:
            parts.append(
                f'<rect class="chart-bar" x="{x(low) + 0.75:.1f}" y="{y(count):.1f}" '
                f'width="{x(high) - x(low) - 1.5:.1f}" height="{floor - y(count):.1f}">'
                f"<title>{escape(bar)}</title></rect>"
            )
    middle = x(min(max(median, edges[0]), edges[-1]))
    parts.append(
        f'<line class="chart-middle" x1="{middle:.1f}" x2="{middle:.1f}" y1="{_TOP}" y2="{floor}"/>'
    )
    for position, anchor in ((0, "start"), (len(edges) // 2, "middle"), (len(edges) - 1, "end")):
        parts.append(
            f'<text class="chart-text" x="{x(edges[position]):.1f}" y="{HEIGHT - 5}" '
            f'text-anchor="{anchor}">{_tick(float(edges[position]), digits)}</text>'
        )
    return "".join(parts) + "</svg>"


def _tick(value: float, digits: int) -> str:
    return f"{value:.{digits}f}" if digits else f"{value:g}"
