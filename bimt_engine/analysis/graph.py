"""The pruned network as a graph: neurons with positions, connections with weights. Plain data, no torch."""

from __future__ import annotations

import json
import math
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any

from bimt_engine.errors import BimtError

FORMAT = "bimt-graph/1"  # written into every document, so that a later reader knows what it reads


class GraphError(BimtError):
    """A document is not a graph of ours."""


@dataclass(frozen=True)
class Neuron:
    """One node of the graph: a slot of a copy of a layer, and the neuron in it.

    id        "layer:slot"; a layer with copies (the same neurons for each token) has a node for every copy
    slot      index of the slot, counted over all copies: copy * neurons + slot of the layer
    neuron    identity: the index of the neuron before any exchange
    copy      which copy of the layer this slot belongs to
    position  coordinates of the slot, without the depth of its layer; unit: one layer width
    name      name of the feature or target, "" inside
    bias      its bias, None where it has none
    mean, std of its activation over the training inputs
    module    letter of the module it belongs to, None for none; group: its group inside that module
    """

    id: str
    layer: str
    slot: int
    neuron: int
    position: tuple[float, ...]
    name: str = ""
    bias: float | None = None
    mean: float = 0.0
    std: float = 0.0
    module: str | None = None
    copy: int = 0
    group: str | None = None


@dataclass(frozen=True)
class Connection:
    """One kept weight, from source to target.

    length     distance in the plane between the two slots; unit: one layer width
    effect     what the loss gains when this connection alone is taken away; None where it was not measured
    parameter  the weight matrix it stands in, at row and column; two neurons may be joined more than once
    """

    source: str
    target: str
    weight: float
    length: float = 0.0
    effect: float | None = None
    parameter: str = ""
    row: int = 0
    column: int = 0

    @property
    def key(self) -> str:
        """Distinguishes it from other connections between the same two neurons."""
        return f"{self.parameter}[{self.row},{self.column}]"


def part_numbers(names: Iterable[str]) -> dict[str, int]:
    """Name of a module or group → number of its colour and shape, from 0, the same in every picture, list and table.

    A module has that of its letter, whether groups are shown or not. The first group inside it takes over its number,
    the others follow after all modules, so that no two parts that are shown together have the same.
    (`partNumbers` in api/pages/static/js/instrument/circuit.js gives the same.)
    """
    letters = {name: name.rstrip("0123456789") for name in names}
    found = {module: _place_of(module) for module in letters.values()}
    further = []
    for name, module in letters.items():
        if name == module:
            continue
        if name == f"{module}1":
            found[name] = found[module]
        else:
            further.append((found[module], int(name[len(module) :]), name))
    after = max(found.values(), default=-1) + 1
    return found | {name: after + i for i, (*_, name) in enumerate(sorted(further))}


def _place_of(letters: str) -> int:
    """A is 0, Z is 25, AA is 26."""
    number = 0
    for letter in letters:
        number = 26 * number + ord(letter) - ord("A") + 1
    return number - 1


@dataclass(frozen=True)
class Graph:
    """Neurons and connections of one network, and what there is to say about the whole.

    meta   JSON values: `layers` [{name, neurons, depth}], `inputs`, `outputs` (names), `folds` {parameter: names of its
           target copies, "" for none} where a weight matrix has several, `columns` (the input in each slot, where
           several are one neuron), `groups` {name: label} inside modules, whatever the maker adds.
    """

    neurons: tuple[Neuron, ...]
    connections: tuple[Connection, ...]
    meta: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        ids = [neuron.id for neuron in self.neurons]
        known = set(ids)
        if len(known) < len(ids):
            twice = next(i for i in ids if ids.count(i) > 1)
            raise GraphError(f"The neuron {twice!r} stands twice in the graph; every id must be there once.")
        for connection in self.connections:
            for end in (connection.source, connection.target):
                if end not in known:
                    raise GraphError(f"A connection names the neuron {end!r}, which is not in the graph: add it.")

    def neuron(self, identifier: str) -> Neuron:
        """The neuron of this id."""
        for neuron in self.neurons:
            if neuron.id == identifier:
                return neuron
        raise GraphError(f"The graph has no neuron {identifier!r}; ids read layer:slot, such as hidden1:7.")

    def with_modules(self, module_of: Mapping[str, str]) -> Graph:
        """The same graph with the module letters of these neurons; all others belong to none."""
        return replace(self, neurons=tuple(replace(n, module=module_of.get(n.id)) for n in self.neurons))

    def with_groups(self, group_of: Mapping[str, str], labels: Mapping[str, str]) -> Graph:
        """The same graph with the groups inside its modules; neurons that are not named have none.

        labels   group -> what it reads, in a few words, for legends.
        """
        neurons = tuple(replace(n, group=group_of.get(n.id)) for n in self.neurons)
        return replace(self, neurons=neurons, meta={**self.meta, "groups": dict(labels)} if labels else self.meta)

    @cached_property
    def part_of(self) -> dict[str, str]:
        """Neuron id -> the part that it is drawn in: its group, or its module where that has no groups inside."""
        divided = {n.module for n in self.neurons if n.group}
        parts = {n.id: n.group or (None if n.module in divided else n.module) for n in self.neurons}
        return {identifier: part for identifier, part in parts.items() if part}

    @cached_property
    def parts(self) -> list[str]:
        """The names of all parts: A, B …, or A1, A2 …"""
        return sorted(set(self.part_of.values()), key=lambda name: (len(name), name))

    @cached_property
    def part_numbers(self) -> dict[str, int]:
        """`part_numbers` of its modules and of the groups inside them."""
        return part_numbers({part for n in self.neurons for part in (n.module, n.group) if part})

    # --- node-link JSON ---------------------------------------------------------------------------

    def to_json(self) -> dict[str, Any]:
        """The graph as a node-link document, which networkx reads with `edges="edges"`; `from_json` gives it back."""
        return {
            "format": FORMAT,
            "directed": True,
            "multigraph": True,
            "graph": dict(self.meta),
            "nodes": [{**asdict(n), "position": list(n.position)} for n in self.neurons],
            "edges": [{**asdict(c), "key": c.key} for c in self.connections],
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Graph:
        """The graph that a node-link document describes. Unknown fields of neurons and connections are refused.

        Raises GraphError with the entry that is wrong.
        """
        if not isinstance(document, Mapping) or "nodes" not in document or "edges" not in document:
            raise GraphError("This is no node-link document: it needs the lists `nodes` and `edges`.")
        if (stated := document.get("format", FORMAT)) != FORMAT:
            raise GraphError(f"The document says it is {stated!r}; only {FORMAT!r} can be read.")
        neurons = tuple(_read(Neuron, entry, f"nodes/{i}") for i, entry in enumerate(document["nodes"]))
        connections = tuple(_read(Connection, entry, f"edges/{i}") for i, entry in enumerate(document["edges"]))
        return cls(neurons, connections, dict(document.get("graph", {})))

    # --- other formats ------------------------------------------------------------------------------

    def to_graphml(self) -> str:
        """The graph as GraphML for Gephi, igraph or networkx. Positions become x, y, z; what is unknown is left out."""
        root = ElementTree.Element("graphml", xmlns="http://graphml.graphdrawing.org/xmlns")
        nodes = [(n.id, _flat(asdict(n), drop=("id",))) for n in self.neurons]
        edges = [(c, _flat(asdict(c), drop=("source", "target"))) for c in self.connections]
        meta = _flat(dict(self.meta), drop=())
        keys: dict[tuple[str, str], str] = {}
        for kind, rows in (("graph", [meta]), ("node", [row for _, row in nodes]), ("edge", [row for _, row in edges])):
            for name in dict.fromkeys(name for row in rows for name in row):
                keys[kind, name] = f"d{len(keys)}"
                values = [row[name] for row in rows if name in row]
                attributes = {"id": keys[kind, name], "for": kind, "attr.name": name, "attr.type": _xml_type(values)}
                ElementTree.SubElement(root, "key", attributes)
        graph = ElementTree.SubElement(root, "graph", id="network", edgedefault="directed")
        _write_data(graph, meta, "graph", keys)
        for identifier, row in nodes:
            _write_data(ElementTree.SubElement(graph, "node", id=_xml_text(identifier)), row, "node", keys)
        for connection, row in edges:
            ends = {"source": _xml_text(connection.source), "target": _xml_text(connection.target)}
            _write_data(ElementTree.SubElement(graph, "edge", ends), row, "edge", keys)
        ElementTree.indent(root)
        return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"

    def to_dot(self) -> str:
        """The graph in Graphviz's language, laid out as the network is (`neato -n`): depth upwards, position across."""
        depth = {layer["name"]: layer.get("depth", i) for i, layer in enumerate(self.meta.get("layers", ()))}
        lines = ["digraph network {", "  node [shape=circle, fixedsize=true, width=0.2, fontsize=8];"]
        for n in self.neurons:
            place = ""
            if n.position:
                # Graphviz measures in points; a layer is drawn ten inches wide and layers two and a half inches apart.
                across, up = 720 * n.position[0], 180 * depth.get(n.layer, 0)
                place = f', pos="{across:.1f},{up:.1f}!"'
            label = n.name or n.id
            lines.append(f"  {_quoted(n.id)} [label={_quoted(label)}{place}];")
        heaviest = max((abs(c.weight) for c in self.connections), default=1.0) or 1.0
        for c in self.connections:
            style = "color=blue" if c.weight > 0 else "color=red, style=dashed"
            width = 0.3 + 3 * abs(c.weight) / heaviest
            label = _quoted(f"{c.weight:.4g}")
            ends = f"{_quoted(c.source)} -> {_quoted(c.target)}"
            lines.append(f"  {ends} [weight={label}, penwidth={width:.2f}, {style}];")
        return "\n".join([*lines, "}"]) + "\n"


def _read(kind: type[Any], entry: Any, where: str) -> Any:
    """One neuron or connection out of a document, with the sentence that says which entry is wrong."""
    if not isinstance(entry, Mapping):
        raise GraphError(f"`{where}` must be an object.")
    values = {name: value for name, value in entry.items() if name != "key"}
    if kind is Neuron and isinstance(values.get("position"), list):
        values["position"] = tuple(values["position"])
    try:
        thing = kind(**values)
    except TypeError as wrong:
        raise GraphError(f"`{where}` cannot be read: {str(wrong).replace('__init__() ', '')}.") from None
    numbers = {name: value for name, value in asdict(thing).items() if name in ("weight", "length", "mean", "std")}
    for name, value in numbers.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise GraphError(f"`{where}/{name}` must be a finite number; it is {value!r}.")
    return thing


def _flat(row: dict[str, Any], *, drop: tuple[str, ...]) -> dict[str, str | int | float | bool]:
    """The row with scalars alone: no None, a position as x, y, z, anything nested as JSON text."""
    flat: dict[str, str | int | float | bool] = {}
    for name, value in row.items():
        if name in drop or value is None:
            continue
        if name == "position":
            flat.update(zip("xyz", (float(v) for v in value), strict=False))
        elif isinstance(value, str | int | float | bool):
            flat[name] = value
        else:
            flat[name] = json.dumps(value, sort_keys=True)
    return flat


def _xml_type(values: list[Any]) -> str:
    if all(isinstance(v, bool) for v in values):
        return "boolean"
    if all(isinstance(v, int) and not isinstance(v, bool) for v in values):
        return "long"
    if all(isinstance(v, int | float) and not isinstance(v, bool) for v in values):
        return "double"
    return "string"


def _xml_text(value: Any) -> str:
    """The value as XML can hold it: characters that XML forbids, which a column's name may contain, become U+FFFD."""
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return re.sub("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "\ufffd", text)


def _write_data(element: ElementTree.Element, row: dict[str, Any], kind: str, keys: dict[tuple[str, str], str]) -> None:
    for name, value in row.items():
        ElementTree.SubElement(element, "data", key=keys[kind, name]).text = _xml_text(value)


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", " ")
    return f'"{escaped}"'
