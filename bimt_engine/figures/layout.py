"""The layout of a picture of a network: rows from input to output, and a place for each neuron on them.

A feed-forward network has one row for each neuron layer. One that returns to a layer, as a transformer returns to its
residual stream and a recurrent network to its hidden layer, is unrolled: the layer gets a row each time.

All pictures of networks take their layout from here, those of the web pages too: no torch, numpy or matplotlib.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any, TypeVar

from bimt_engine.analysis.graph import Connection, Graph, Neuron

if TYPE_CHECKING:
    from bimt_engine.networks.wiring import WeightLayer, Wiring


SHEET_HEIGHT = 0.5  # of the distance between rows that a sheet takes up
LEAN = 0.22  # how much narrower the far edge of a sheet is than the near one
ROLE_STEP = 0.13  # rows between the lines of a layer whose neurons have several roles
ATTENTION_ROLES = ("query", "key", "value")  # of graphs that do not name the roles themselves
FILLED = 0.92  # of the width of a panel that its neurons take up

Point = TypeVar("Point", bound=Hashable)
Spot = tuple[str, int, int]
"""A neuron as it is drawn once: its id, the row, the copy or role."""


@dataclass(frozen=True)
class Row:
    """One line or sheet of neurons.

    panels        how many copies of the layer stand side by side: the tokens of an input.
    roles         how many lines it has, one above the other, because its neurons have several roles: the target copies
                  of the weight matrix that enters it.
    role_names    what they are called, such as query, key and value; (): they have no names.
    carried_from  the row of the same neurons that this one carries on, with something added (a residual stream).
    """

    layer: str
    panels: int = 1
    roles: int = 1
    carried_from: int | None = None
    role_names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Strand:
    """A connection between two spots."""

    connection: Connection
    source: Spot
    target: Spot


@dataclass(frozen=True)
class Place:
    """A point of the picture: x across in widths of the picture, y up in rows."""

    x: float
    y: float


@dataclass(frozen=True)
class Layout:
    """Everything that a picture needs to know of a graph.

    sheets   whether neurons lie on planes, not lines.
    slots    layer -> how many neurons it had before pruning, copies counted once.
    """

    graph: Graph
    neurons: dict[str, Neuron]
    rows: list[Row]
    strands: list[Strand]
    spots: dict[Spot, Place]
    slots: dict[str, int]
    sheets: bool

    def line(self, strand: Strand) -> list[tuple[float, float]]:
        """Both ends of a strand."""
        source, target = self.spots[strand.source], self.spots[strand.target]
        return [(source.x, source.y), (target.x, target.y)]

    def room(self) -> dict[Spot, float]:
        """Connected spot -> how far away the next one on its line is, in widths of the picture; 1 at most."""
        return nearest({spot: (self.spots[spot].x, (spot[1], self.spots[spot].y)) for spot in self.touched()}, most=1.0)

    def touched(self) -> set[Spot]:
        """The spots that a connection leaves or enters."""
        return {spot for strand in self.strands for spot in (strand.source, strand.target)}


def lay_out(graph: Graph) -> Layout:
    """Rows, strands and places of a graph."""
    neurons = {neuron.id: neuron for neuron in graph.neurons}
    copies = _copies(graph)
    slots = _slots(graph, copies)
    sheets = has_sheets(graph)
    rows, strands = _unroll(graph, neurons, copies, slots)
    spots: dict[Spot, Place] = {}
    for number, row in ((0, rows[0]), (len(rows) - 1, rows[-1])):  # inputs and outputs are drawn in any case
        for neuron in graph.neurons:
            if neuron.layer == row.layer:
                spots[neuron.id, number, neuron.copy] = place(neuron.position, row, number, neuron.copy, sheets=sheets)
    for strand in strands:
        for spot in (strand.source, strand.target):
            neuron, number, which = neurons[spot[0]], spot[1], spot[2]
            spots.setdefault(spot, place(neuron.position, rows[number], number, which, sheets=sheets))
    return Layout(graph, neurons, rows, strands, spots, slots, sheets)


def has_sheets(graph: Graph) -> bool:
    """Whether neurons lie on planes, not lines."""
    return any(len(n.position) > 1 and abs(n.position[1] - 0.5) > 1e-9 for n in graph.neurons)


def lay_out_once(graph: Graph, layers: Sequence[str]) -> dict[str, Place]:
    """The place of each neuron where each is drawn once, on one row for each layer, as web pages need it."""
    copies, sheets = _copies(graph), has_sheets(graph)
    rows = {name: (number, Row(name, copies[name])) for number, name in enumerate(layers)}
    return {n.id: place(n.position, rows[n.layer][1], rows[n.layer][0], n.copy, sheets=sheets) for n in graph.neurons}


def nearest(points: Mapping[Point, tuple[float, Hashable]], *, most: float) -> dict[Point, float]:
    """Point -> (x, the line it lies on); how far away the next one of its line is, `most` where none is nearer.

    Points that coincide count as one: no circle could be small enough for both.
    """
    lines: dict[Hashable, list[tuple[float, Point]]] = defaultdict(list)
    for point, (x, line) in points.items():
        lines[line].append((x, point))
    found = dict.fromkeys(points, most)
    for beside in lines.values():
        for (left, one), (right, other) in pairwise(sorted(beside, key=lambda each: each[0])):
            if right - left > 1e-6:
                found[one], found[other] = min(found[one], right - left), min(found[other], right - left)
    return found


def place(position: tuple[float, ...], row: Row, number: int, which: int, *, sheets: bool) -> Place:
    """The place of a neuron at this position, drawn as copy or role `which` of row `number`."""
    across = float(position[0]) if position else 0.5
    deep = float(position[1]) if len(position) > 1 else 0.5
    return Place(*coordinates(across, deep, row, number, which, sheets=sheets))


def coordinates(across: Any, deep: Any, row: Row, number: int, which: int, *, sheets: bool) -> tuple[Any, Any]:
    """The same for numbers or arrays: x and y of neurons whose positions are `across`, and on sheets `deep`."""
    if row.panels > 1:
        across = (which + 0.5 + FILLED * (across - 0.5)) / row.panels
    if sheets:
        far = 1 - deep
        return 0.5 + (across - 0.5) * (1 - LEAN * far), number + SHEET_HEIGHT * (far - 0.5)
    up = number + ROLE_STEP * (which - (row.roles - 1) / 2) * (row.roles > 1)
    return across, up + 0 * across


def on_sheet(x: float, y: float, number: int) -> Place:
    """A point of the sheet of row `number`, seen from the front and above; y = 0, an image's top, is the far edge."""
    return place((x, y), Row(""), number, 0, sheets=True)


def _copies(graph: Graph) -> dict[str, int]:
    copies: dict[str, int] = defaultdict(lambda: 1)
    for neuron in graph.neurons:
        copies[neuron.layer] = max(copies[neuron.layer], neuron.copy + 1)
    return copies


def _slots(graph: Graph, copies: dict[str, int]) -> dict[str, int]:
    slots = {layer["name"]: int(layer["neurons"]) // copies[layer["name"]] for layer in graph.meta.get("layers", [])}
    for neuron in graph.neurons:
        if neuron.copy == 0:
            slots[neuron.layer] = max(slots.get(neuron.layer, 1), neuron.slot + 1)
    return slots


def _unroll(
    graph: Graph, neurons: dict[str, Neuron], copies: dict[str, int], slots: dict[str, int]
) -> tuple[list[Row], list[Strand]]:
    """The rows from input to output, and each connection between two spots on them."""
    stated = [layer["name"] for layer in graph.meta.get("layers", [])]
    names = stated or list(dict.fromkeys(neuron.layer for neuron in graph.neurons)) or [""]
    depth = {name: i for i, name in enumerate(names)}
    ends = [(neurons[c.source], neurons[c.target]) for c in graph.connections]
    if all(depth[source.layer] < depth[target.layer] for source, target in ends):
        rows = [Row(name, copies[name]) for name in names]
        return rows, [
            Strand(c, (s.id, depth[s.layer], s.copy), (t.id, depth[t.layer], t.copy))
            for c, (s, t) in zip(graph.connections, ends, strict=True)
        ]

    groups: dict[tuple[str, str, str], list[Connection]] = defaultdict(list)
    for c, (s, t) in zip(graph.connections, ends, strict=True):
        groups[c.parameter, s.layer, t.layer].append(c)
    rows = [Row(names[0], copies[names[0]])]
    at = {names[0]: 0}  # the last row of each layer
    strands: list[Strand] = []
    for (parameter, source, target), connections in groups.items():
        if source not in at:
            rows.append(Row(source, copies[source]))
            at[source] = len(rows) - 1
        start = at[source]
        # A row of the weight matrix beyond the neurons of its layer is a further role of theirs.
        which = [c.row // max(slots[target], 1) for c in connections]
        names_of_roles = _role_names(graph, parameter, target, max(which) + 1)
        roles = len(names_of_roles)
        said = names_of_roles if any(names_of_roles) else ()
        if at.get(target, -1) <= start:
            carried_from = at.get(target) if target != source else None
            rows.append(Row(target, copies[target], roles, carried_from, said))
            at[target] = len(rows) - 1
        elif roles > rows[at[target]].roles:
            rows[at[target]] = replace(rows[at[target]], roles=roles, role_names=said)
        last = rows[start].roles - 1  # what leaves a row of several lines leaves from the last one
        for c, role in zip(connections, which, strict=True):
            leaves = last or neurons[c.source].copy
            strands.append(Strand(c, (c.source, start, leaves), (c.target, at[target], role)))
    if names[-1] not in at:
        rows.append(Row(names[-1], copies[names[-1]]))
    return rows, strands


def _role_names(graph: Graph, parameter: str, target: str, seen: int) -> tuple[str, ...]:
    """The name of each role that a weight matrix gives its targets, "" for none; at least `seen` of them.

    Graphs that say nothing of copies of a target were stored before there were any but those of attention.
    """
    names = tuple(graph.meta.get("folds", {}).get(parameter, ()))
    if not names and seen > 1 and target.startswith("attention"):
        names = ATTENTION_ROLES
    return names + ("",) * (seen - len(names))


# --- of a wiring, without a graph -------------------------------------------------------------------


@dataclass(frozen=True)
class Joint:
    """A weight layer in the picture: between which rows its connections run."""

    weights: WeightLayer
    source_row: int
    target_row: int


def lay_out_wiring(wiring: Wiring) -> tuple[Layout, list[Joint]]:
    """The layout of a network before pruning, from a graph with one connection for every role of every weight layer."""
    copies = {layer.name: 1 for layer in wiring.neuron_layers}
    for weights in wiring.weight_layers:
        copies[weights.source] = max(copies[weights.source], weights.source_copies)
    neurons = [
        Neuron(
            f"{layer.name}:{copy * layer.neurons + i}", layer.name, copy * layer.neurons + i, i,
            tuple(float(x) for x in layer.positions[i]), copy=copy,
        )
        for layer in wiring.neuron_layers
        for copy in range(copies[layer.name])
        for i in range(layer.neurons)
    ]  # fmt: skip
    connections = [
        Connection(
            f"{w.source}:0", f"{w.target}:0", 1.0, parameter=w.parameter, row=role * wiring.layer(w.target).neurons
        )
        for w in wiring.weight_layers
        for role in range(w.target_copies)
    ]
    layers = [{"name": n.name, "neurons": n.neurons * copies[n.name]} for n in wiring.neuron_layers]
    layout = lay_out(Graph(tuple(neurons), tuple(connections), {"layers": layers, "folds": wiring.copy_roles}))
    rows_of = {s.connection.parameter: (s.source[1], s.target[1]) for s in layout.strands}
    return layout, [Joint(weights, *rows_of[weights.parameter]) for weights in wiring.weight_layers]
