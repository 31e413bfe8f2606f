"""The layered network, as the paper draws it: inputs below, outputs above, width for |w|, sign by colour AND dash."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from bimt_engine.analysis.graph import Connection, Graph, Neuron
from bimt_engine.figures.style import FAINT, INK, NEGATIVE, POSITIVE, blank_figure, module_colour, our_style

WIDTH, LAYER_HEIGHT = 6.4, 1.35  # inches
MANY = 400  # connections; beyond, lines grow thin and pale so that the picture stays a picture
FEW_NAMES = 14  # names on one layer; beyond, they would cover one another
SHEET_DEPTH = 0.16  # how far a sheet leans back, as a share of the distance between layers


@dataclass(frozen=True)
class Place:
    """Where a neuron is drawn: x across, y up; unit: the width of a layer, the distance between layers."""

    x: float
    y: float


def draw_network(graph: Graph, *, title: str = "") -> Figure:
    """The whole graph: every neuron where its slot lies, coloured by its module, every connection by weight and sign."""
    with our_style():
        depths = [layer["name"] for layer in graph.meta.get("layers", [])] or _layers_by_appearance(graph)
        figure, axes = blank_figure(WIDTH, 0.9 + LAYER_HEIGHT * max(len(depths) - 1, 1))
        places = place_neurons(graph, depths)
        _draw_rows(axes, graph, depths, places)
        _draw_connections(axes, graph, places)
        _draw_neurons(axes, graph, places)
        _draw_names(axes, graph, depths, places)
        if title:
            axes.set_title(title, fontsize=11, loc="left")
        _draw_legend(figure, graph)
        axes.set_axis_off()
        axes.set_xlim(-0.06, 1.06)
        axes.set_ylim(-0.32, max(len(depths) - 1, 1) + 0.32)
    return figure


def place_neurons(graph: Graph, depths: list[str]) -> dict[str, Place]:
    """A place for each neuron id. Copies of a folded layer lie side by side; 2-D sheets lean back in perspective."""
    copies: dict[str, int] = defaultdict(lambda: 1)
    for neuron in graph.neurons:
        copies[neuron.layer] = max(copies[neuron.layer], neuron.copy + 1)
    return {n.id: _place(n, depths.index(n.layer), copies[n.layer]) for n in graph.neurons}


def _place(neuron: Neuron, depth: int, copies: int) -> Place:
    across, *further = neuron.position or (0.5,)
    if copies > 1:  # a gap between the copies shows where one token ends and the next begins
        across = (neuron.copy + 0.04 + 0.92 * across) / copies
    if not further:
        return Place(across, depth)
    back = further[0]
    return Place(0.12 * back + across * (0.88 - 0.06 * back), depth + 2 * SHEET_DEPTH * (back - 0.5))


def _layers_by_appearance(graph: Graph) -> list[str]:
    return list(dict.fromkeys(neuron.layer for neuron in graph.neurons))


def _draw_rows(axes: Axes, graph: Graph, depths: list[str], places: dict[str, Place]) -> None:
    """A faint dot for every slot of a line that nobody needs, so that the reader sees what was taken away."""
    used = defaultdict(set)
    flat = {n.layer for n in graph.neurons if len(n.position) == 1 and n.copy == 0}
    for neuron in graph.neurons:
        used[neuron.layer].add(neuron.slot)
    for layer in graph.meta.get("layers", []):
        name, count = layer["name"], layer["neurons"]
        if name in flat and count <= 128 and max(used[name]) < count and not any(
            n.copy for n in graph.neurons if n.layer == name
        ):
            rest = [slot for slot in range(count) if slot not in used[name]]
            axes.scatter([(slot + 0.5) / count for slot in rest], [depths.index(name)] * len(rest), s=9, color=FAINT)


def _draw_connections(axes: Axes, graph: Graph, places: dict[str, Place]) -> None:
    if not graph.connections:
        return
    heaviest = max(abs(c.weight) for c in graph.connections) or 1.0
    crowded = min(1.0, math.sqrt(MANY / max(len(graph.connections), 1)))
    for positive in (True, False):
        chosen = [c for c in graph.connections if (c.weight > 0) == positive]
        # The light ones first, so that the heavy ones lie on top.
        chosen.sort(key=lambda c: abs(c.weight))
        axes.add_collection(
            LineCollection(
                [_ends(c, places) for c in chosen],
                colors=POSITIVE if positive else NEGATIVE,
                linewidths=[crowded * (0.5 + 3.2 * abs(c.weight) / heaviest) for c in chosen],
                linestyles="solid" if positive else (0, (3.0, 1.6)),
                alpha=0.35 + 0.55 * crowded,
                capstyle="butt",
                zorder=2,
            )
        )
    axes.autoscale_view()


def _ends(connection: Connection, places: dict[str, Place]) -> list[tuple[float, float]]:
    source, target = places[connection.source], places[connection.target]
    return [(source.x, source.y), (target.x, target.y)]


def _draw_neurons(axes: Axes, graph: Graph, places: dict[str, Place]) -> None:
    touched = {end for c in graph.connections for end in (c.source, c.target)}
    size = float(np.clip(3_000 / max(len(graph.neurons), 1), 6, 70))
    for neuron in graph.neurons:
        place, alive = places[neuron.id], neuron.id in touched
        axes.scatter(
            [place.x],
            [place.y],
            s=size if alive else size * 0.6,
            facecolor=module_colour(neuron.module) if alive else "white",
            edgecolor="white" if alive else "#aab1bb",
            linewidth=0.8,
            zorder=3,
        )


def _draw_names(axes: Axes, graph: Graph, depths: list[str], places: dict[str, Place]) -> None:
    """Features below the first layer, targets above the last; not where they would cover one another."""
    for layer, offset, align in ((depths[0], -11, "top"), (depths[-1], 11, "bottom")):
        named = [n for n in graph.neurons if n.layer == layer and n.name]
        if len(named) > FEW_NAMES * 2:
            continue
        slanted = len(named) > FEW_NAMES or max((len(n.name) for n in named), default=0) > 60 / max(len(named), 1)
        for neuron in named:
            place = places[neuron.id]
            axes.annotate(
                _pretty(neuron.name),
                (place.x, place.y),
                xytext=(0, offset),
                textcoords="offset points",
                ha=("right" if offset < 0 else "left") if slanted else "center",
                va=align,
                rotation=35 if slanted else 0,
                rotation_mode="anchor" if slanted else "default",
                fontsize=9,
                color=INK,
            )


def _pretty(name: str) -> str:
    """x1 as x₁ where that is all there is to the name; long names are cut."""
    if len(name) >= 2 and name[0] in "xy" and name[1:].isdigit():
        return f"${name[0]}_{{{name[1:]}}}$"
    name = name.replace("$", r"\$")
    return name if len(name) <= 18 else name[:17] + "…"


def _draw_legend(figure: Figure, graph: Graph) -> None:
    handles = [
        Line2D([], [], color=POSITIVE, lw=2, label="positive"),
        Line2D([], [], color=NEGATIVE, lw=2, ls=(0, (3.0, 1.6)), label="negative"),
    ]
    for module in sorted({n.module for n in graph.neurons if n.module})[:8]:
        label = f"module {module}"
        handles.append(Line2D([], [], color=module_colour(module), marker="o", lw=0, markersize=6, label=label))
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=min(len(handles), 6),
        frameon=False,
        fontsize=8,
        handlelength=2.2,
        columnspacing=1.4,
    )
