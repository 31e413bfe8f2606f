"""The layered network, as the paper draws it: inputs below, outputs above, width for |w|, sign by colour AND dash.

Modules, and the groups inside them, are distinguished by colour, by the band under their connections, and by a letter
in each of their neurons. Terminals that several groups share stay grey.
"""

from __future__ import annotations

import re
from collections import defaultdict
from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Polygon

from bimt_engine.analysis.graph import Graph
from bimt_engine.figures.layout import Layout, Spot, lay_out, on_sheet, place
from bimt_engine.figures.style import (
    DASH,
    FAINT,
    INK,
    NEGATIVE,
    POSITIVE,
    QUIET,
    SHEET,
    UNUSED,
    blank_figure,
    figure_style,
    letter_colour,
    module_colour,
    pale,
    pretty,
    pretty_words,
)

WIDTH, WIDE = 6.4, 8.4  # inches; the wider one where a row has more than MANY_SLOTS neurons
MANY_SLOTS = 32
ROW_HEIGHT, SHEET_ROW_HEIGHT = 1.3, 1.75  # inches
MANY = 150  # connections; beyond, light ones turn thin and pale so that the picture stays a picture
MOST = 4_000  # connections; the rest could not be seen, and would make an SVG of megabytes
MANY_LETTERS = 60  # neurons; beyond, they are too small for a letter
SMALLEST_LETTERED = 60.0  # square points of a neuron's circle; no letter can be read in a smaller one
POINTS_ACROSS = 62.0  # for each inch of the figure; the rest are the labels of the rows
SMALLEST_NAME, LARGEST_NAME = 4.5, 9.0  # points
LONGEST_NAME = 18  # characters


def draw_network(graph: Graph, *, title: str = "") -> Figure:
    """The whole graph: neurons where their slots lie, in their modules' colours; connections by weight and sign."""
    with figure_style():
        layout = lay_out(graph)
        rows = layout.rows
        wide = layout.sheets or any(layout.slots.get(row.layer, 1) * row.panels > MANY_SLOTS for row in rows)
        width, height = WIDE if wide else WIDTH, SHEET_ROW_HEIGHT if layout.sheets else ROW_HEIGHT
        figure, axes = blank_figure(width, 0.9 + height * max(len(rows) - 1, 1))
        draw_background(axes, layout)
        _draw_bands(axes, layout)
        _draw_carried(axes, layout)
        draw_strands(axes, layout)
        draw_neurons(axes, layout, width=width)
        draw_names(axes, layout, width=width)
        _draw_row_labels(axes, layout)
        _draw_legend(figure, graph)
        if title:
            figure.suptitle(title, fontsize=11, x=0.01, ha="left")
        set_limits(axes, layout)
    return figure


def set_limits(axes: Axes, layout: Layout) -> None:
    """Leave room around the outermost neurons, and hide the axes."""
    edge = 0.34 if layout.sheets else 0.12
    axes.set_axis_off()
    axes.set_xlim(-0.02, 1.02)
    axes.set_ylim(-edge, max(len(layout.rows) - 1, 1) + edge)


def draw_background(axes: Axes, layout: Layout) -> None:
    """A faint dot for every unused slot, so that the reader sees what was taken away; sheets get an edge."""
    taken = {(round(at.x, 6), round(at.y, 6)) for at in layout.spots.values()}
    for number, row in enumerate(layout.rows):
        if layout.sheets:
            corners = [on_sheet(x, y, number) for x, y in ((0.0, 0.0), (1.0, 0.0), (1.0, 1.0), (0.0, 1.0))]
            edge = [(corner.x, corner.y) for corner in corners]
            axes.add_patch(Polygon(edge, facecolor=SHEET, edgecolor=FAINT, linewidth=0.8, zorder=0.1))
            continue
        count = layout.slots.get(row.layer, 0)
        if count > 256 or not _on_a_line(layout.graph, row.layer, count):
            continue
        places = [
            place(((slot + 0.5) / count,), row, number, which, sheets=False)
            for which in range(max(row.panels, row.roles))
            for slot in range(count)
        ]
        empty = [(at.x, at.y) for at in places if (round(at.x, 6), round(at.y, 6)) not in taken]
        axes.scatter([x for x, _ in empty], [y for _, y in empty], s=7, color=FAINT, linewidth=0, zorder=0.2)


def _on_a_line(graph: Graph, layer: str, count: int) -> bool:
    """Whether the slots of a layer are those of a line, so that the empty ones are known."""
    there = [n for n in graph.neurons if n.layer == layer and n.copy == 0]
    return all(n.position and abs(n.position[0] - (n.slot + 0.5) / count) < 1e-6 for n in there)


def _draw_bands(axes: Axes, layout: Layout) -> None:
    """A pale band in the module's colour under each of its connections."""
    part_of, numbers = layout.graph.part_of, layout.graph.part_numbers
    if len(layout.graph.parts) < 2:
        return
    lines, colours = [], []
    for strand in layout.strands:
        part = part_of.get(strand.source[0])
        if part and part == part_of.get(strand.target[0]):
            lines.append(layout.line(strand))
            colours.append(pale(module_colour(numbers[part])))
    if len(lines) <= 2 * MANY:  # with more they cover one another
        axes.add_collection(LineCollection(lines, colors=colours, linewidths=9, capstyle="round", zorder=1))


def _draw_carried(axes: Axes, layout: Layout) -> None:
    """A thin dotted line for what a residual stream carries on unchanged."""
    lines = []
    by_neuron: dict[str, list[Spot]] = defaultdict(list)
    for spot in sorted(layout.spots, key=lambda spot: spot[1]):
        if layout.rows[spot[1]].carried_from is not None or any(r.carried_from == spot[1] for r in layout.rows):
            by_neuron[spot[0]].append(spot)
    for spots in by_neuron.values():
        for before, after in pairwise(spots):
            start, end = layout.spots[before], layout.spots[after]
            lines.append([(start.x, start.y), (end.x, end.y)])
    axes.add_collection(LineCollection(lines, colors=UNUSED, linewidths=0.6, linestyles="dotted", zorder=1.5))


def draw_strands(axes: Axes, layout: Layout) -> None:
    """Every connection, the heavy ones on top; of more than MOST the heaviest.

    Width is |w| relative to the heaviest connection that enters the same row: what one layer is scaled up by, the next
    can be scaled down by, so widths mean nothing across rows.
    """
    strands = layout.strands
    if not strands:
        return
    greatest: dict[int, float] = {}
    for strand in strands:
        row = strand.target[1]
        greatest[row] = max(greatest.get(row, 0.0), abs(strand.connection.weight))
    shares = np.array([abs(s.connection.weight) / (greatest.get(s.target[1]) or 1.0) for s in strands]).clip(0, 1)
    crowd = min(1.0, (MANY / len(strands)) ** 0.8)  # 1 in a sparse picture, towards 0 in a dense one
    lines, colours, widths, dashes = [], [], [], []
    for i in np.argsort(shares, kind="stable")[-MOST:]:
        positive, share = strands[i].connection.weight > 0, float(shares[i])
        lines.append(layout.line(strands[i]))
        colours.append((*to_rgb(POSITIVE if positive else NEGATIVE), 0.92 * (crowd + (1 - crowd) * share**0.75)))
        widths.append(0.25 + 0.45 * crowd + (1.8 + 1.6 * crowd) * share)
        dashes.append("solid" if positive else DASH)
    look: dict[str, Any] = {"colors": colours, "linewidths": widths, "linestyles": dashes, "capstyle": "butt"}
    # A clip path for each line would make a large SVG ten times slower to convert.
    axes.add_collection(LineCollection(lines, **look, zorder=2, clip_on=False))


def draw_neurons(axes: Axes, layout: Layout, *, width: float) -> None:
    """Filled circles where something is connected, with the module's letter where it fits; else open ones.

    width   of the figure, in inches.
    """
    touched, spots = layout.touched(), layout.spots
    part_of, has_parts = layout.graph.part_of, len(layout.graph.parts) > 1
    numbers = layout.graph.part_numbers
    lettered = has_parts and sum(spot[0] in part_of for spot in touched) <= MANY_LETTERS
    size = 105.0 if lettered else float(np.clip(4_500 / max(len(spots), 1), 9, 70))
    idle = [at for spot, at in spots.items() if spot not in touched]
    few = len(idle) <= MANY_LETTERS
    axes.scatter(
        [at.x for at in idle],
        [at.y for at in idle],
        s=0.6 * size if few else min(0.7 * size, 3),
        facecolor="white" if few else UNUSED,
        edgecolor=UNUSED if few else "none",
        linewidth=0.8,
        zorder=2.5 if few else 0.3,
    )
    alive = [(spot[0], spot, at) for spot, at in spots.items() if spot in touched]
    sizes = dict.fromkeys(touched, size)
    if not layout.sheets:  # circles of neurons that lie close together touch and do not overlap
        points = POINTS_ACROSS * width
        sizes |= {spot: float(np.clip((gap * points) ** 2, 9, size)) for spot, gap in layout.room().items()}
    axes.scatter(
        [at.x for _, _, at in alive],
        [at.y for _, _, at in alive],
        s=[sizes[spot] if neuron in part_of or not has_parts else 0.4 * sizes[spot] for neuron, spot, _ in alive],
        facecolor=[
            module_colour(numbers.get(part_of.get(neuron, ""))) if has_parts else QUIET for neuron, _, _ in alive
        ],
        edgecolor="white",
        linewidth=0.8 if size > 20 else 0.3,
        zorder=3,
    )
    for neuron, spot, at in alive if lettered else []:
        if (part := part_of.get(neuron)) and sizes[spot] >= SMALLEST_LETTERED:
            colour = letter_colour(module_colour(numbers[part]))
            text: dict[str, Any] = {
                "ha": "center",
                "va": "center_baseline",
                "fontsize": 6.5 if len(part) < 2 else 5.5,
                "fontweight": "bold",
            }
            axes.text(at.x, at.y, part, color=colour, zorder=4, **text)


def draw_names(axes: Axes, layout: Layout, *, width: float) -> None:
    """Features below the first row, targets above the last, as large as they fit, upright where they must be.

    width   of the figure, in inches.
    """
    last = len(layout.rows) - 1
    for number, below in ((0, True), (last, False)):
        here = [(layout.neurons[spot[0]], at) for spot, at in layout.spots.items() if spot[1] == number]
        if below and layout.rows[0].panels > 1:
            _draw_token_names(axes, layout)
            continue
        here = [(neuron, at) for neuron, at in here if neuron.name]
        if not here or (layout.sheets and len(here) > 40):
            continue
        points = 72 * 0.88 * width * (0.12 if layout.sheets else _least_gap([at.x for _, at in here]))
        longest = max(len(_cut(neuron.name)) for neuron, _ in here)
        size = min(LARGEST_NAME, points / (0.75 * longest))
        upright = size < 6.5
        if upright:
            size = min(LARGEST_NAME - 1, 0.85 * points)
        if size < SMALLEST_NAME:
            continue
        for neuron, at in here:
            outward = (
                np.array([at.x - 0.5, 2 * (at.y - number)]) if layout.sheets else np.array([0, -1 if below else 1])
            )
            across, up = 9 * outward / max(float(np.hypot(*outward)), 1e-9)
            axes.annotate(
                pretty(_cut(neuron.name)),
                (at.x, at.y),
                xytext=(across, up),
                textcoords="offset points",
                ha="center",
                va="center" if layout.sheets else ("top" if below else "bottom"),
                rotation=90 if upright else 0,
                fontsize=size,
                color=INK,
                zorder=5,
            )


def _draw_token_names(axes: Axes, layout: Layout) -> None:
    """The name of each token under its panel, over a bracket."""
    row = layout.rows[0]
    for panel in range(row.panels):
        here = [n for n in layout.graph.neurons if n.layer == row.layer and n.copy == panel]
        names = {neuron.name.split("[")[0] for neuron in here if neuron.name}
        label = names.pop() if len(names) == 1 else str(panel + 1)
        left, right = place((0.0,), row, 0, panel, sheets=False).x, place((1.0,), row, 0, panel, sheets=False).x
        axes.plot([left, left, right, right], [-0.07, -0.1, -0.1, -0.07], color=QUIET, linewidth=0.8, clip_on=False)
        axes.text((left + right) / 2, -0.13, f"token {pretty(label)}", ha="center", va="top", fontsize=LARGEST_NAME)


def _draw_row_labels(axes: Axes, layout: Layout) -> None:
    """At the left: which layer a row is, and how many of its neurons are left."""
    left: dict[int, set[tuple[str, int]]] = defaultdict(set)
    for neuron, number, which in layout.touched():
        left[number].add((neuron, which))
    for number, row in enumerate(layout.rows):
        total, kept = layout.slots.get(row.layer, 0) * row.panels * row.roles, len(left[number])
        label = re.sub(r"([a-z])([0-9]+)$", r"\1 \2", row.layer).replace("_", " ").replace(".", " ")
        text: dict[str, Any] = {"textcoords": "offset points", "fontsize": 7, "color": QUIET, "va": "center"}
        said = f"{kept} of {total}" if kept < total else str(total)
        axes.annotate(f"{label}\n{said}", (0, number), xytext=(-8, 0), ha="right", linespacing=1.3, **text)
        for which, role in enumerate(row.role_names):
            at = place((1.0,), row, number, which, sheets=False)
            axes.annotate(role, (at.x, at.y), xytext=(4, 0), ha="left", **text)


def _draw_legend(figure: Figure, graph: Graph) -> None:
    handles = [
        Line2D([], [], color=POSITIVE, lw=2, label="positive weight"),
        Line2D([], [], color=NEGATIVE, lw=2, ls=DASH, label="negative weight"),
    ]
    groups = graph.meta.get("groups", {})
    for part in graph.parts[:8] if len(graph.parts) > 1 else []:
        style: dict[str, Any] = {
            "color": module_colour(graph.part_numbers[part]),
            "marker": "o",
            "lw": 0,
            "markersize": 7,
        }
        label = f"{part}: {pretty_words(groups[part])}" if part in groups else _reading(graph, part)
        handles.append(Line2D([], [], label=label, **style))
    if len(graph.connections) > MOST:
        label = f"the heaviest {MOST:,} of {len(graph.connections):,} connections"
        handles.append(Line2D([], [], lw=0, label=label))
    columns = 4 if sum(len(str(handle.get_label())) for handle in handles) < 90 else 2
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=min(len(handles), columns),
        handlelength=2.4,
        columnspacing=1.4,
    )


def _reading(graph: Graph, module: str) -> str:
    """module A: x1, x3 → y1."""
    features, targets = list(graph.meta.get("inputs", [])), list(graph.meta.get("outputs", []))
    layers = list(dict.fromkeys(neuron.layer for neuron in graph.neurons))
    touched = {end for c in graph.connections for end in (c.source, c.target)}
    mine = [n for n in graph.neurons if n.module == module and n.name and n.id in touched]
    reads = [n.name if n.name in features else n.name.split("[")[0] for n in mine if n.layer == layers[0]]
    writes = [n.name for n in mine if n.layer == layers[-1]]

    def short(names: list[str], order: list[str]) -> str:
        names = sorted(set(names), key=lambda name: order.index(name) if name in order else len(order))
        return ", ".join(pretty(_cut(name)) for name in names) if len(names) <= 4 else f"{len(names)} of {len(order)}"

    if not reads or not writes:
        return f"module {module}"
    return f"{module}: {short(reads, features)} → {short(writes, targets)}"


def _least_gap(across: list[float]) -> float:
    steps = np.diff(np.sort(across))
    return float(steps.min()) if len(steps) and steps.min() > 0 else 0.5


def _cut(name: str) -> str:
    return name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 1] + "…"
