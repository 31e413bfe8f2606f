"""Line charts as SVG, made on the server: they need no script, follow the colour theme and can be printed."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from bimt_engine.analysis.statements import number

WIDTH, HEIGHT = 560, 270  # user units of the viewBox; the page scales them
LEFT, RIGHT, TOP, BOTTOM = 62, 30, 30, 44


@dataclass(frozen=True)
class Series:
    """One line of a chart.

    points   (x, y) in data units.
    tone     number of the colour, 1 … 6.
    """

    name: str
    points: Sequence[tuple[float, float]]
    tone: int = 1


@dataclass(frozen=True)
class Axis:
    """The label of an axis, and whether it is logarithmic."""

    label: str
    log: bool = False


def line_chart(
    title: str,
    series: Sequence[Series],
    *,
    x: Axis,
    y: Axis,
    marks: Sequence[tuple[float, str]] = (),
) -> Markup:
    """The series in one chart, with axes and a legend; a sentence where no point can be drawn.

    marks   (x, label): vertical lines, such as the beginning of a phase.

    Points that are not finite, or not positive on a logarithmic axis, are left out.
    """
    kept = [(line, _drawable(line.points, x, y)) for line in series]
    points = [p for _, line in kept for p in line]
    if not points:
        return Markup('<p class="quiet">There is nothing to draw yet.</p>')
    across = _scale([p[0] for p in points], x.log, LEFT, WIDTH - RIGHT)
    up = _scale([p[1] for p in points], y.log, HEIGHT - BOTTOM, TOP)
    parts = [
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}" '
        f'preserveAspectRatio="xMidYMid meet">'
    ]
    for value in up.ticks:
        place = up(value)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{place:.1f}" y2="{place:.1f}"/>')
        parts.append(f'<text class="tick" x="{LEFT - 8}" y="{place + 4:.1f}" text-anchor="end">{number(value)}</text>')
    for value in across.ticks:
        place = across(value)
        parts.append(
            f'<text class="tick" x="{place:.1f}" y="{HEIGHT - BOTTOM + 19}" text-anchor="middle">{number(value)}</text>'
        )
    for place, label in marks:
        at = across(place)
        if LEFT - 1 <= at <= WIDTH - RIGHT + 1:
            parts.append(f'<line class="mark" x1="{at:.1f}" x2="{at:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>')
            if label:
                right = at > WIDTH * 0.7
                anchor, shift = ("end", -5) if right else ("start", 5)
                parts.append(
                    f'<text class="tick" x="{at + shift:.1f}" y="{TOP + 10}" text-anchor="{anchor}">'
                    f"{escape(label)}</text>"
                )
    for line, drawn in kept:
        places = [(across(a), up(b)) for a, b in drawn]
        title_ = f"<title>{escape(line.name)}</title>"
        parts.append(f'<path class="line tone-{line.tone}" d="{_path(places)}">{title_}</path>')
    parts.append(
        f'<text class="axis" x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 4}" text-anchor="middle">'
        f"{escape(x.label)}</text>"
    )
    parts.append(f'<text class="axis" x="4" y="14" text-anchor="start">{escape(y.label)}</text>')
    parts.append("</svg>")
    legend = "".join(
        f'<li><span class="swatch tone-{line.tone}"></span>{escape(line.name)}</li>' for line, drawn in kept if drawn
    )
    return Markup("".join(parts) + f'<ul class="legend">{legend}</ul>')


# --- axes ------------------------------------------------------------------------


class _scale:
    """From values to coordinates of the viewBox, and the tick values."""

    def __init__(self, values: Sequence[float], log: bool, start: float, end: float) -> None:
        low, high = min(values), max(values)
        self.warp: Callable[[float], float] = math.log10 if log else float
        if log:
            self.ticks = _decades(low, high)
        else:
            self.ticks = _round_steps(low, high)
        low, high = min([low, *self.ticks]), max([high, *self.ticks])
        a, b = self.warp(low), self.warp(high)
        self.zero, self.factor = a, (end - start) / ((b - a) or 1.0)
        self.start = start

    def __call__(self, value: float) -> float:
        return self.start + (self.warp(value) - self.zero) * self.factor


def _round_steps(low: float, high: float, wanted: int = 5) -> list[float]:
    if low == high:
        low, high = low - (abs(low) or 1) / 2, high + (abs(high) or 1) / 2
    raw = (high - low) / wanted
    size = 10.0 ** math.floor(math.log10(raw))
    step = next(f * size for f in (1, 2, 2.5, 5, 10) if f * size >= raw)
    first = math.floor(low / step)
    last = math.ceil(high / step)
    return [round(i * step, 12) for i in range(first, last + 1)]


def _decades(low: float, high: float) -> list[float]:
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    if first == last:
        last += 1
    stride = max(1, math.ceil((last - first) / 6))
    return [10.0**e for e in range(first, last + stride, stride)]


def _drawable(points: Sequence[tuple[float, float]], x: Axis, y: Axis) -> list[tuple[float, float]]:
    return [
        (a, b)
        for a, b in points
        if a is not None
        and b is not None
        and math.isfinite(a)
        and math.isfinite(b)
        and (a > 0 or not x.log)
        and (b > 0 or not y.log)
    ]


def _path(points: list[tuple[float, float]]) -> str:
    if not points:
        return ""
    start, rest = points[0], points[1:]
    out = [f"M{start[0]:.1f} {start[1]:.1f}"]
    if not rest:
        out.append("h0.1")
    for a, b in rest:
        out.append(f"L{a:.1f} {b:.1f}")
    return "".join(out)
