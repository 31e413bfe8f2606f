"""Line charts as SVG, made on the server: they need no script, follow the colour theme and can be printed."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from markupsafe import Markup, escape

from bimt_engine.analysis.statements.wording import number, typeset_plainly


@dataclass(frozen=True)
class Frame:
    """The size of a chart and its margins, in user units of the viewBox; the page scales them."""

    width: int
    height: int
    left: int
    right: int
    top: int
    bottom: int
    ticks: int  # wanted on an axis
    name: str
    letter: float = 9.0  # width of one of a tick, where it is largest


WIDE = Frame(560, 270, 62, 30, 30, 44, ticks=5, name="chart")
SMALL = Frame(320, 176, 52, 26, 24, 34, ticks=3, name="chart small", letter=7.0)
"""WIDE stands in the report, SMALL beside others below the network."""
PARALLEL = Frame(960, 360, 40, 56, 46, 14, ticks=4, name="chart parallel")
BARS = (120, 26)  # size of a histogram in a table
LETTER, LARGE_LETTER = 6.5, 9.0  # width of a letter of a label in user units, and of the larger ones on small screens


@dataclass(frozen=True)
class Series:
    """One line of a chart.

    points   (x, y) in data units.
    tone     number of the colour, 1 … 6; 7 … 12 are the same colours dashed, as dots hollow.
    address  of a page that the line leads to; empty: none. Such lines are named by their titles, not by the legend.
    """

    name: str
    points: Sequence[tuple[float, float]]
    tone: int = 1
    address: str = ""


@dataclass(frozen=True)
class Dot:
    """One point of a scatter that leads to a page.

    label   stands beside it where there is room; title is shown when it is pointed at.
    """

    x: float
    y: float
    label: str
    title: str
    address: str
    tone: int = 1


@dataclass(frozen=True)
class Axis:
    """The label of an axis, whether it is logarithmic, and a value to which it reaches in any case."""

    label: str
    log: bool = False
    to: float | None = None


def line_chart(
    title: str,
    series: Sequence[Series],
    *,
    x: Axis,
    y: Axis,
    marks: Sequence[tuple[float, str]] = (),
    dots: Sequence[Dot] = (),
    legend: Sequence[tuple[str, int]] = (),
    frame: Frame = WIDE,
) -> Markup:
    """The series and dots in one chart, with axes and a legend; a sentence where no point can be drawn.

    legend  (name, tone) of what stands for several lines or dots.

    marks   (x, label): vertical lines, such as the beginning of a phase; a label that would lie over one before it is
            left out, on small screens where it would do so there.

    From `data-x` and `data-y` a script reads where a value lies: both ends of the axis, their coordinates, `log`.

    Points that are not finite, or not positive on a logarithmic axis, are left out.
    """
    kept = [(line, _drawable(line.points, x, y)) for line in series]
    seen = [dot for dot in dots if _drawable([(dot.x, dot.y)], x, y)]
    points = [p for _, line in kept for p in line] + [(dot.x, dot.y) for dot in seen]
    if not points:
        return Markup('<p class="quiet">There is nothing to draw yet.</p>')
    left, right, top, bottom = frame.left, frame.width - frame.right, frame.top, frame.height - frame.bottom
    reach = [] if x.to is None else [x.to]
    across = _scale([*(p[0] for p in points), *reach], x.log, left, right, frame.ticks, letter=frame.letter)
    up = _scale([p[1] for p in points], y.log, bottom, top, frame.ticks)
    role = "group" if seen or any(line.address for line in series) else "img"  # an image can hold no links
    parts = [
        f'<svg class="{frame.name}" viewBox="0 0 {frame.width} {frame.height}" role="{role}" '
        f'aria-label="{escape(title)}" '
        f'data-x="{across.description}" data-y="{up.description}" preserveAspectRatio="xMidYMid meet">'
    ]
    for value in up.ticks:
        place = up(value)
        parts.append(f'<line class="grid" x1="{left}" x2="{right}" y1="{place:.1f}" y2="{place:.1f}"/>')
        parts.append(f'<text class="tick" x="{left - 8}" y="{place + 4:.1f}" text-anchor="end">{number(value)}</text>')
    for value in across.ticks:
        place = across(value)
        parts.append(
            f'<text class="tick" x="{place:.1f}" y="{bottom + 16}" text-anchor="middle">{number(value)}</text>'
        )
    parts += _marks([(across(place), label) for place, label in marks], frame)
    for line, drawn in kept:
        places = [(across(a), up(b)) for a, b in drawn]
        title_ = f"<title>{escape(line.name)}</title>"
        path = f'<path class="line tone-{line.tone}" d="{_path(places)}">{title_}</path>'
        parts.append(_link(line.address, line.name, path) if line.address else path)
    parts += _dots([(dot, across(dot.x), up(dot.y)) for dot in seen], frame)
    middle, below = (left + right) / 2, frame.height - 4
    parts.append(f'<text class="axis" x="{middle}" y="{below}" text-anchor="middle">{escape(x.label)}</text>')
    parts.append(f'<text class="axis" x="4" y="14" text-anchor="start">{escape(y.label)}</text>')
    parts.append("</svg>")
    named = [*((line.name, line.tone) for line, drawn in kept if drawn and not line.address), *legend]
    return Markup("".join(parts)) + _legend(named)


def _marks(marks: Sequence[tuple[float, str]], frame: Frame) -> list[str]:
    """Vertical lines (where, label), and of the labels those that do not lie over one before."""
    left, right, top, bottom = frame.left, frame.width - frame.right, frame.top, frame.height - frame.bottom
    parts: list[str] = []
    taken: dict[float, list[tuple[float, float]]] = {LETTER: [], LARGE_LETTER: []}  # from where to where labels lie
    for at, label in marks:
        if not left - 1 <= at <= right + 1:
            continue
        parts.append(f'<line class="mark" x1="{at:.1f}" x2="{at:.1f}" y1="{top}" y2="{bottom}"/>')
        # To the right of its line, where what it names begins, unless it would leave the picture.
        turned = at + 5 + LARGE_LETTER * len(label) > frame.width
        anchor, shift = ("end", -5) if turned else ("start", 5)
        fits = set()
        for letter, places in taken.items() if label else ():
            start, end = sorted((at + shift, at + shift + math.copysign(letter * len(label), shift)))
            if all(end <= before or start >= after for before, after in places):
                places.append((start, end))
                fits.add(letter)
        if LETTER in fits:
            kind = "tick" if LARGE_LETTER in fits else "tick tight"
            parts.append(
                f'<text class="{kind}" x="{at + shift:.1f}" y="{top + 10}" text-anchor="{anchor}">'
                f"{escape(label)}</text>"
            )
    return parts


def _legend(named: Sequence[tuple[str, int]]) -> Markup:
    """Each name once, after all colours that it has."""
    tones: dict[str, list[int]] = {}
    for name, tone in named:
        if tone not in tones.setdefault(name, []):
            tones[name].append(tone)
    swatches = {name: "".join(f'<span class="swatch tone-{tone}"></span>' for tone in of) for name, of in tones.items()}
    items = "".join(f"<li>{swatch}{escape(name)}</li>" for name, swatch in swatches.items())
    return Markup(f'<ul class="legend">{items}</ul>')


def _link(address: str, name: str, content: str) -> str:
    return f'<a href="{escape(address)}" aria-label="{escape(name)}">{content}</a>'


def _dots(places: Sequence[tuple[Dot, float, float]], frame: Frame) -> list[str]:
    """Circles with titles; a label where it lies over no circle and no other label."""
    parts, taken = [], [(x - 6, x + 6, y - 6, y + 6) for _, x, y in places]
    for dot, x, y in places:
        wide = LETTER * len(dot.label)
        left = x + 8 if x + 8 + wide < frame.width else x - 8 - wide
        box = (left, left + wide, y - 7, y + 7)
        free = all(box[1] < a or b < box[0] or box[3] < c or d < box[2] for a, b, c, d in taken)
        words = ""
        if dot.label and free:
            taken.append(box)
            words = f'<text class="tick" x="{left:.1f}" y="{y + 4:.1f}">{escape(dot.label)}</text>'
        place = f'class="dot tone-{dot.tone}" cx="{x:.1f}" cy="{y:.1f}" r="5"'
        circle = f"<circle {place}><title>{escape(dot.title)}</title></circle>"
        parts.append(_link(dot.address, dot.title, circle + words))
    return parts


def heat_map(
    title: str, rows: Sequence[tuple[str, Sequence[tuple[float | None, int]]]], columns: Sequence[str]
) -> Markup:
    """A matrix as shades, each cell with its number as a title.

    rows   (name, cells of (number, shade 0 … 4)).
    """
    left, right, top, bottom = 34, SMALL.width - 6, 8, SMALL.height - 20
    width, height = (right - left) / max(1, len(columns)), min(34.0, (bottom - top) / max(1, len(rows)))
    tall = round(top + len(rows) * height + 20)
    size = f'class="{SMALL.name} heat" viewBox="0 0 {SMALL.width} {tall}"'
    parts = [f'<svg {size} role="img" aria-label="{escape(title)}">']

    def write(kind: str, x: float, y: float, anchor: str, words: str) -> None:
        parts.append(f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>')

    for row, (name, cells) in enumerate(rows):
        y = top + row * height
        if height >= 12:
            write("tick", left - 6, y + height / 2 + 4, "end", name)
        for column, (value, shade) in enumerate(cells):
            x = left + column * width
            cell_title = escape(f"{name} on {columns[column]}: {number(value)}")
            place = f'x="{x:.1f}" y="{y:.1f}" width="{max(1.0, width - 1):.1f}" height="{max(1.0, height - 1):.1f}"'
            parts.append(f'<rect class="heat-{shade}" {place}><title>{cell_title}</title></rect>')
            if width >= 40 and height >= 14:
                write(f"tick in-{shade}", x + width / 2 - 0.5, y + height / 2 + 4, "middle", number(value))
    stride = max(1, math.ceil(len(columns) * 34 / (right - left)))
    for column in range(0, len(columns), stride):
        label = columns[column] if len(columns[column]) <= 8 else columns[column][:7] + "…"
        write("tick", left + (column + 0.5) * width, top + len(rows) * height + 14, "middle", typeset_plainly(label))
    return Markup("".join(parts) + "</svg>")


@dataclass(frozen=True)
class Trace:
    """One line over parallel axes.

    key       by which the page knows it
    values    one for each axis; None: it has none, and the line has a gap there
    is_out    whether it lies outside of what is asked for
    """

    key: str
    title: str
    address: str
    tone: int
    values: Sequence[float | None]
    is_out: bool = False


def parallel_axes(
    title: str, axes: Sequence[tuple[str, Axis]], traces: Sequence[Trace], *, legend: Sequence[tuple[str, int]] = ()
) -> Markup:
    """Lines over parallel axes, which parallel.js makes narrower; a sentence where fewer than two axes have values.

    axes   (name, label)

    Each axis tells in `data-scale` where a value lies, as `data-y` of a line chart does, and has the name of what it
    shows; each line has its values in the order of the axes in `data-values`.
    """
    drawn: list[tuple[int, str, Axis, _scale]] = []
    top, bottom = PARALLEL.top, PARALLEL.height - PARALLEL.bottom
    for at, (name, axis) in enumerate(axes):
        there = (trace.values[at] for trace in traces)
        values: list[float] = [value for value in there if value is not None and _on(value, axis.log)]
        if values:
            whole = not axis.log and all(value == int(value) for value in values)  # half a module means nothing
            drawn.append((at, name, axis, _scale(values, axis.log, bottom, top, PARALLEL.ticks, whole=whole)))
    if len(drawn) < 2:
        return Markup('<p class="quiet">There are fewer than two numbers to compare.</p>')
    step = (PARALLEL.width - PARALLEL.left - PARALLEL.right) / (len(drawn) - 1)
    parts = [
        f'<svg class="chart parallel" viewBox="0 0 {PARALLEL.width} {PARALLEL.height}" role="group" '
        f'aria-label="{escape(title)}" preserveAspectRatio="xMidYMid meet"><g class="traces">'
    ]
    for trace in traces:
        path, before = "", False
        own = [trace.values[at] for at, *_ in drawn]
        for which, ((_, _, axis, scale), value) in enumerate(zip(drawn, own, strict=True)):
            if is_on := value is not None and _on(value, axis.log):
                path += f"{'L' if before else 'M'}{PARALLEL.left + which * step:.1f} {scale(value):.1f}"
            before = is_on
        values_text = ",".join("" if value is None else f"{value:.12g}" for value in own)
        out = " out" if trace.is_out else ""
        parts.append(
            f'<a href="{escape(trace.address)}" tabindex="-1" aria-label="{escape(trace.title)}">'
            f'<path class="line tone-{trace.tone}{out}" data-trace="{escape(trace.key)}" data-values="{values_text}" '
            f'd="{path}"><title>{escape(trace.title)}</title></path></a>'
        )
    parts.append("</g>")
    for which, (_, name, axis, scale) in enumerate(drawn):
        x = PARALLEL.left + which * step
        parts.append(
            f'<g class="along" data-name="{escape(name)}" data-label="{escape(axis.label)}" data-at="{x:.1f}" '
            f'data-scale="{scale.description}"><line class="mark" x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{bottom}"/>'
        )
        for value in scale.ticks:
            # To the right of the handles, which lie on the axis.
            parts.append(f'<text class="tick" x="{x + 11:.1f}" y="{scale(value) + 4:.1f}">{number(value)}</text>')
        y = 14 if which % 2 == 0 else 30  # labels beside one another would meet
        anchor = "start" if which == 0 else "end" if which == len(drawn) - 1 else "middle"
        shift = -PARALLEL.left + 4 if which == 0 else PARALLEL.right - 4 if which == len(drawn) - 1 else 0
        parts.append(
            f'<text class="axis" x="{x + shift:.1f}" y="{y}" text-anchor="{anchor}">{escape(axis.label)}</text></g>'
        )
    return Markup("".join(parts) + "</svg>") + _legend(legend)


def histogram(column: Mapping[str, Any], rows: int | None) -> Markup:
    """The values of a column of a preview as bars: equal parts of its range, or its most frequent words and the others.

    Empty where the preview holds no counts: of arrays, of one value only, and of previews of earlier versions.
    `bars` in static/js/new.js draws the same in the form.
    """
    if column.get("bins"):
        ends = [column.get("min"), column.get("max")]
        limits = [number(end) for end in ends] if None not in ends else [column.get("earliest"), column.get("latest")]
        bars = [(count, "") for count in column["bins"]]
        title = f"{column['name']}: {len(bars)} parts from {limits[0]} to {limits[1]}"
    elif column.get("counts") and column.get("most"):
        bars = [(count, word) for word, count in zip(column["most"], column["counts"], strict=False)]
        left = (rows or 0) - (column.get("missing") or 0) - sum(column["counts"])
        bars += [(left, "others")] if left > 0 else []
        title = f"{column['name']}: " + ", ".join(f"{word[:40]} {count}" for count, word in bars)
    else:
        return Markup("")
    width, most = BARS[0] / len(bars), max(1, *(count for count, _ in bars))
    parts = [f'<svg class="bars" viewBox="0 0 {BARS[0]} {BARS[1]}" role="img" aria-label="{escape(title)}">']
    for at, (count, word) in enumerate(bars):
        height = BARS[1] * count / most
        kind = ' class="others"' if word == "others" and at == len(bars) - 1 else ""
        title_of_bar = f"<title>{escape(word[:40])}: {count}</title>" if word else f"<title>{count}</title>"
        place = (
            f'x="{at * width:.2f}" y="{BARS[1] - height:.2f}" width="{max(0.5, width - 1):.2f}" height="{height:.2f}"'
        )
        parts.append(f"<rect{kind} {place}>{title_of_bar}</rect>")
    return Markup("".join(parts) + "</svg>")


# --- axes ------------------------------------------------------------------------


class _scale:
    """From values to coordinates of the viewBox, and the tick values.

    wanted  number of ticks that fit; whole  whether half a unit means nothing; letter  as `_log_axis` has it.
    """

    def __init__(
        self,
        values: Sequence[float],
        log: bool,
        start: float,
        end: float,
        wanted: int,
        *,
        whole: bool = False,
        letter: float = 0.0,
    ) -> None:
        low, high = min(values), max(values)
        self.warp: Callable[[float], float] = math.log10 if log else float
        if log:
            whole = low >= 1 and all(value == int(value) for value in values)
            low, high, self.ticks = _log_axis(low, high, abs(end - start), wanted, whole=whole, letter=letter)
        else:
            self.ticks = _round_steps(low, high, wanted, whole=whole)
            low, high = min([low, *self.ticks]), max([high, *self.ticks])
        a, b = self.warp(low), self.warp(high)
        self.zero, self.factor = a, (end - start) / ((b - a) or 1.0)
        self.start = start
        self.description = f"{low:.9g} {high:.9g} {start:g} {end:g}{' log' if log else ''}"

    def __call__(self, value: float) -> float:
        return self.start + (self.warp(value) - self.zero) * self.factor


def _round_steps(low: float, high: float, wanted: int, *, whole: bool = False) -> list[float]:
    """Multiples of 1, 2, 2.5 or 5 times a power of ten, from below the least value to above the greatest."""
    if whole and low == high:
        return [low, low + 1]
    if low == high:
        low, high = low - (abs(low) or 1) / 2, high + (abs(high) or 1) / 2
    raw = (high - low) / wanted
    size = 10.0 ** math.floor(math.log10(raw))
    step = next(f * size for f in (1, 2, 2.5, 5, 10) if f * size >= raw and not (whole and (f * size) % 1))
    if whole:
        step = max(1.0, step)
    first = math.floor(low / step)
    last = math.ceil(high / step)
    return [round(i * step, 12) for i in range(first, last + 1)]


LOG_STEPS = (
    (1, 1.5, 2, 3, 4, 5, 6, 8),
    (1, 2, 3, 5, 7),
    (1, 2, 5),
    (1, 3),
    (1,),
)  # ticks of one decade, the most first
LOG_STRIDES = (2, 3, 5, 10, 20, 50, 100, 200)  # decades from tick to tick, where not every decade has room
MARGIN = 0.03  # of a logarithmic axis, beyond its least and its greatest value
LINE = 20.0  # from one tick of an upright axis to the next, at least


def _log_axis(
    low: float, high: float, length: float, wanted: int, *, whole: bool = False, letter: float = 0.0
) -> tuple[float, float, list[float]]:
    """Both ends of a logarithmic axis, and as many round ticks between them as have room beside each other.

    letter   width of a letter of the ticks of an axis that lies across; 0: it is upright.

    Where fewer than three round numbers lie there (0.9 to 1.1), the ticks are those of a linear axis.
    """
    if low == high:
        low, high = low / 2, high * 2
    beyond = 10 ** (MARGIN * (math.log10(high) - math.log10(low)))
    start, end = max(low / beyond, 5e-324), min(high * beyond, sys.float_info.max)
    unit = length / (math.log10(end) - math.log10(start))  # one decade
    first, last = math.floor(math.log10(start)), math.ceil(math.log10(end))
    choices = [[float(f"{f}e{e}") for e in range(first, last + 1) for f in steps] for steps in LOG_STEPS]
    choices += [[float(f"1e{e}") for e in range(-(-first // n) * n, last + 1, n)] for n in LOG_STRIDES]
    fitting = []
    for choice in choices:
        ticks = [tick for tick in choice if start <= tick <= end and not (whole and tick % 1)]
        gaps = [
            (unit * (math.log10(b) - math.log10(a)), _room(a, b, letter) if letter else LINE)
            for a, b in pairwise(ticks)
        ]
        if 2 <= len(ticks) <= wanted + 2 and all(gap >= room for gap, room in gaps):
            fitting.append(ticks)
    fitting.sort(key=lambda ticks: len(ticks) < 3)
    if fitting and (len(fitting[0]) > 2 or high > 10 * low):
        return start, end, fitting[0]
    ticks = [tick for tick in _round_steps(low, high, wanted, whole=whole) if tick > 0]
    return min(start, ticks[0]), max(end, ticks[-1]), ticks


def _room(a: float, b: float, letter: float) -> float:
    """What the labels of two ticks beside each other take from the middle of one to that of the other."""
    return letter * (1 + len(number(a)) + len(number(b))) / 2


def _drawable(points: Sequence[tuple[float, float]], x: Axis, y: Axis) -> list[tuple[float, float]]:
    return [(a, b) for a, b in points if a is not None and b is not None and _on(a, x.log) and _on(b, y.log)]


def _on(value: float, log: bool) -> bool:
    """Whether a value has a place on an axis."""
    return math.isfinite(value) and (value > 0 or not log)


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
