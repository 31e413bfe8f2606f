"""From a torch module to its wiring: export, follow every axis, and make neuron layers of what moves together.

The module is exported once (`torch.export`, evaluation mode, float64), its graph is walked by the table of operators,
and every axis of every parameter is then a list of lattices over atoms. Atoms that always lie together are a neuron
layer: one atom, or two (blocks, and the neurons of a block) where neurons of different blocks never meet, such as
heads of attention or groups of channels. A product with a parameter is a weight layer.

All of it in one place: weights, inputs, attention and layers are determined one after another on the same atoms.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from math import prod
from typing import Any, Literal

import torch
from jaxtyping import Int64
from torch import Tensor, fx, nn

from bimt_engine.networks.attach.axes import (
    Along,
    Atom,
    Axes,
    Key,
    Lattice,
    factors,
    key_of,
    lattices,
    leaves,
    offsets,
    pin,
    size_of,
    unify,
)
from bimt_engine.networks.attach.operators import RULES
from bimt_engine.networks.attach.taps import TapPoint, Taps
from bimt_engine.networks.attach.walk import (
    AttachError,
    Walk,
    WeightUse,
    arguments,
    doubled,
    exported,
    operator_name,
    sizes,
    tensors_of,
    trained,
    walked,
)

RESHAPING = frozenset(
    {"view", "reshape", "flatten", "unflatten", "unsqueeze", "squeeze", "contiguous", "alias", "detach"}
)
"""Operators after which a parameter's entries lie as in the parameter."""


@dataclass(frozen=True)
class Matrix:
    """A weight layer as a matrix of entries of one tensor: rows are target_copies · targets, columns the same.

    name     of the matrix; that of the tensor where one matrix holds all of it.
    weight   node of the graph whose tensor it is.
    entries  index into the flattened tensor; -1 where there is no connection (groups of a convolution).
    """

    name: str
    weight: fx.Node | None
    tensor: str
    target: Key
    source: Key
    target_copies: int
    source_copies: int
    entries: Int64[Tensor, "rows columns"]
    bias: str | None = None
    roles: tuple[str, ...] = ()


Moves = Literal["all", "blocks", "within", "none"]


@dataclass
class Layer:
    """A neuron layer as it was found."""

    key: Key
    name: str
    moves: Moves
    reasons: tuple[str, ...]
    along: list[Along] = field(default_factory=list)
    points: list[TapPoint] = field(default_factory=list)
    axis: int = 1
    samples: tuple[int, ...] = ()
    copies: int = 1
    mixes: bool = False

    @property
    def neurons(self) -> int:
        """How many."""
        return prod(atom.size for atom in self.key)

    @property
    def blocks(self) -> int:
        """Runs of neurons that stay together."""
        return self.key[0].size if len(self.key) > 1 else 1


@dataclass
class Derived:
    """What was found about a module.

    layers     in the order of the wiring: `input` first, `output` last.
    matrices   in the order of the computation.
    frozen     tensors that take no gradient.
    pinned     axes of parameters that are in no movable layer: (what, reasons).
    graph      what was exported; names: placeholder -> name of the tensor it stands for.
    joined     the layer of inputs, where it is that of several rows of numbers, or of parts that are treated apart.
    """

    layers: list[Layer]
    matrices: list[Matrix]
    embeddings: tuple[str, ...]
    frozen: frozenset[str]
    pinned: list[tuple[str, tuple[str, ...]]]
    program: torch.export.ExportedProgram
    names: dict[str, str]
    walk: Walk
    output: fx.Node
    joined: Key | None = None

    @property
    def given(self) -> list[fx.Node]:
        """The module's inputs."""
        return [node for node in self.program.graph.nodes if node.op == "placeholder" and node in self.walk.inputs]


def derive(model: nn.Module, example: tuple[Any, ...]) -> Derived:
    """The wiring of a module. Raises AttachError where it cannot be exported or has no weight layer."""
    working = copy.deepcopy(model).cpu().double().eval()
    trained(working)
    program = exported(working, tuple(map(doubled, example)))
    walk, names, fixed, output = walked(program, working, RULES)
    frozen = frozenset(tensors_of(working)) - trained(working)
    return _Assembly(program, walk, names, fixed, frozen, output).derived()


# --- neuron layers --------------------------------------------------------------------------------


class _Assembly:
    """Neuron layers, weight layers and tap points out of a walked graph."""

    def __init__(
        self,
        program: torch.export.ExportedProgram,
        walk: Walk,
        names: dict[str, str],
        tensors: dict[str, Axes],
        frozen: frozenset[str],
        output: fx.Node,
    ) -> None:
        self.program, self.walk, self.names, self.tensors, self.output = program, walk, names, tensors, output
        self.nodes = list(program.graph.nodes)
        self.frozen = frozen
        self.joined: Key | None = None
        self.carried: set[Key] = set()  # blocks whose own entries move with a layer already
        self.uses = self._distinct(walk.uses)
        if not self.uses:
            raise AttachError(
                "The network has no product of an activation with a parameter that is understood, so there is nothing "
                "to wire: see `bimt_engine/networks/attach/operators.py` for the operators that are."
            )

    def derived(self) -> Derived:
        """All of it."""
        self._join_attention()
        self._settle()
        matrices = self._join_inputs([matrix for use in self.uses for matrix in self._matrices(use)])
        layers = self._layers(matrices)
        pinned = [
            (f"{name} axis {number}", tuple(reasons))
            for name, axes in self.tensors.items()
            for number, one in enumerate(axes)
            if (reasons := [why for leaf in leaves(one) for why in leaf.pins])
            and not any(leaf.free and leaf.size > 1 for leaf in leaves(one))
            and not all(leaf.copies for leaf in leaves(one))
        ]
        looked = self._looked_up()
        paid = {matrix.tensor for matrix in matrices}
        return Derived(
            layers=layers,
            matrices=matrices,
            embeddings=tuple(name for name in looked if name not in paid),
            frozen=self.frozen,
            pinned=[(what, tuple(dict.fromkeys(why))) for what, why in pinned],
            program=self.program,
            names=self.names,
            walk=self.walk,
            output=self.output,
            joined=self.joined,
        )

    def _looked_up(self) -> tuple[str, ...]:
        """Tables whose rows the inputs choose: embeddings."""
        found = [
            self.names[node.args[0].name]
            for node in self.nodes
            if node.op == "call_function"
            and operator_name(node) in ("embedding", "index")
            and node.args[0].name in self.names
            and node in self.walk.inputs
        ]
        return tuple(dict.fromkeys(found))

    # --- weights ----------------------------------------------------------------------------------

    def _distinct(self, uses: Sequence[WeightUse]) -> list[WeightUse]:
        """Each weight once, seen as its parameter is stored. What it is read by at other places is kept."""
        found: dict[str, WeightUse] = {}
        self.readers: dict[str, list[WeightUse]] = {}
        for use in uses:
            node, order = use.weight, list(range(len(self.walk.axes(use.weight))))
            while node.op != "placeholder" and operator_name(node) in ("t", "transpose", "permute", "numpy_T"):
                count = len(order)
                moved = list(range(count))
                args = arguments(node)
                if "dims" in args:
                    moved = [int(d) % count for d in args["dims"]]
                else:
                    first, second = args.get("dim0", -1), args.get("dim1", -2)
                    moved[first], moved[second] = moved[second], moved[first]
                order = [moved[axis_] for axis_ in order]
                node = node.args[0]  # type: ignore[assignment]
            seen = WeightUse(
                **{
                    **use.__dict__,
                    "weight": node,
                    "rows": tuple(order[n] for n in use.rows),
                    "columns": tuple(order[n] for n in use.columns),
                }
            )
            name = self._name(node)
            self.readers.setdefault(name, []).append(seen)
            found.setdefault(name, seen)
        return list(found.values())

    def _name(self, node: fx.Node) -> str:
        """The tensor's name; of one that is computed from others, a name of its own."""
        here = node
        while here.name not in self.names and operator_name(here) in RESHAPING:
            here = here.args[0]  # type: ignore[assignment]
        if here.name in self.names:
            return self.names[here.name]  # entries lie as in the tensor itself
        while here.name not in self.names:
            here = next(n for n in here.all_input_nodes if n in self.walk.parameters)
        name = self.names[here.name].replace(".parametrizations", "").removesuffix(".original1")
        name = name.removesuffix(".original0")
        return name if name not in self.tensors else f"{name}.{node.name}"

    def _lattices(self, node: fx.Node, numbers: Sequence[int]) -> list[Lattice]:
        """Entries of the flattened tensor along several of its axes."""
        shape = sizes(node)
        found = [Lattice(0, ())]
        for number in numbers:
            stride = prod(shape[number + 1 :])
            found = [
                Lattice(a.offset + b.offset, a.steps + b.steps)
                for a, b in product(found, lattices(self.walk.axes(node)[number], stride))
            ]
        return found

    def _matrices(self, use: WeightUse) -> list[Matrix]:
        """One matrix for each pair of layers that a weight joins."""
        shape, name = sizes(use.weight), self._name(use.weight)
        others = [n for n in range(len(shape)) if n not in (*use.rows, *use.columns)]
        taps = torch.zeros(1, dtype=torch.int64)
        for number in others:
            steps = prod(shape[number + 1 :]) * torch.arange(shape[number])
            taps = (taps[:, None] + steps[None, :]).reshape(-1)
        targets = _by_key(self._lattices(use.weight, use.rows))
        if use.groups > 1:
            sources = _by_key(lattices(use.source))
        else:
            sources = _by_key(self._lattices(use.weight, use.columns))
        made: list[Matrix] = []
        for (target, rows), (source, columns) in product(targets.items(), sources.items()):
            if use.groups > 1:
                entries = self._grouped(use, shape, rows, columns, taps)
            else:
                across = (taps[:, None, None] + columns[None]).reshape(-1)
                entries = rows.reshape(-1)[:, None] + across[None, :]
            number = len(made)
            whole = len(targets) == len(sources) == 1
            made.append(
                Matrix(
                    name=name if whole else f"{name}_part{number}",
                    weight=use.weight,
                    tensor=name,
                    target=target,
                    source=source,
                    target_copies=rows.shape[0],
                    source_copies=taps.numel() * columns.shape[0],
                    entries=entries,
                    bias=self.names.get(use.bias.name) if use.bias is not None else None,
                    roles=use.roles if len(use.roles) == rows.shape[0] else (),
                )
            )
        return made

    def _grouped(
        self, use: WeightUse, shape: list[int], rows: Tensor, columns: Tensor, taps: Tensor
    ) -> Int64[Tensor, "rows columns"]:
        """Entries of a grouped kernel as a matrix from all channels to all channels, empty between groups."""
        [row_axis], [column_axis] = use.rows, use.columns
        row_step, column_step = prod(shape[row_axis + 1 :]), prod(shape[column_axis + 1 :])
        entered, left = shape[column_axis], shape[row_axis] // use.groups
        row = rows.reshape(-1)
        channel = columns.reshape(-1)
        here = (row // row_step // left)[:, None] == (channel // entered)[None, :]
        at = row[:, None] + (channel % entered * column_step)[None, :]
        at = torch.where(here, at, -1)
        every = torch.where(at[:, None, :] >= 0, at[:, None, :] + taps[None, :, None], -1)
        return every.reshape(row.numel(), -1)

    # --- inputs -----------------------------------------------------------------------------------

    def _join_inputs(self, matrices: list[Matrix]) -> list[Matrix]:
        """One layer of all inputs, side by side, where they are rows of numbers that are read by separate weights.

        A matrix that reads some of them is empty at the others. Other inputs (images, sequences) stay as they are.
        """
        given = [self.walk.axes(node) for node in self.nodes if node.op == "placeholder" and node in self.walk.inputs]
        if any(len(axes) != 2 for axes in given):  # examples, numbers
            return matrices
        targets, size = {m.target for m in matrices}, sum(size_of(axes[1]) for axes in given)
        places: dict[Key, Tensor] = {}
        passed = 0
        for axes in given:
            for lattice in lattices(axes[1]):
                key = key_of(lattice)
                at = passed + offsets(lattice, key)
                if key in targets or key in places or len(at) > 1:
                    return matrices
                places[key] = at[0]
            passed += size_of(axes[1])
        sources = {m.source for m in matrices if m.source in places}
        if not sources or sources == {key for key in places if len(places[key]) == size}:
            return matrices
        whole: Key = (Atom(size, pins=["the network's inputs keep the order of the data"]),)
        self.joined = whole
        made: dict[tuple[str, Key], Matrix] = {}
        others: list[Matrix] = []
        for m in matrices:
            if m.source not in places:
                others.append(m)
                continue
            wide = m.entries.new_full((len(m.entries), m.source_copies, size), -1)
            wide[:, :, places[m.source]] = m.entries.view(len(m.entries), m.source_copies, -1)
            entries = wide.flatten(1)
            before = made.get((m.tensor, m.target))
            if before is not None and before.source_copies == m.source_copies:
                entries = torch.where(entries >= 0, entries, before.entries)
            elif before is not None:
                others.append(before)
            made[m.tensor, m.target] = replace(m, source=whole, entries=entries)
        alone = [m.tensor for m in (*made.values(), *others)]
        joined = [replace(m, name=m.tensor) if alone.count(m.tensor) == 1 else m for m in made.values()]
        order = {m.tensor: number for number, m in reversed(list(enumerate(matrices)))}
        return sorted((*joined, *others), key=lambda m: order[m.tensor])

    # --- what moves together ----------------------------------------------------------------------

    def _join_attention(self) -> None:
        """Queries, keys and values of one head are one neuron layer, where they are equally many.

        Queries and keys alone could take another order than the values; as one layer they share it, so that a head is
        what graphs and pictures show.
        """
        read = {id(leaf) for use in self.walk.uses for leaf in leaves(use.source)}
        for scored, valued in self.walk.attentions:
            ours, theirs = list(leaves(scored)), list(leaves(valued))
            whole, value = factors(scored)[-1], factors(valued)[-1]
            fused = whole.terms is not None and [id(leaf) for leaf in ours] == [id(leaf) for leaf in theirs]
            if fused and not any(leaf.free for leaf in ours):
                # One projection for all three: rotary positions took the values apart as well.
                reason = ours[0].pins[0]
                whole.terms = value.terms = None
                whole.same = value if whole is not value else None
                pin((value,), reason)
                continue
            if any(id(leaf) in read for leaf in ours) or not any(id(leaf) in read for leaf in theirs):
                continue
            if prod(a.size for a in ours) == prod(a.size for a in theirs):
                if whole.terms is not None and value.leaf and not any(leaf.free for leaf in ours):
                    # Rotary positions pair the two halves, but no pair may move: they are neurons like any.
                    pin((value,), ours[0].pins[0])
                    whole.terms, whole.same = None, value
                else:
                    unify(scored, valued, "queries, keys and values of one head")

    def _settle(self) -> None:
        """Pin what cannot be one or two atoms with a clear outer one, until nothing changes."""
        every = [one for axes in self.tensors.values() for one in axes]
        tensors = [self.walk.axes(node) for node in self.nodes if self.walk.is_tensor(node)]
        changed = True
        while changed:
            changed = False
            keys = {key_of(lattice) for one in every for lattice in lattices(one)}
            keys |= {key_of(lattice) for use in self.uses for lattice in lattices(use.source)}
            for key in keys:
                if len(key) > 2 and any(atom.free for atom in key):
                    pin(self._spare(key, keys), "parts of a block stay as they are", copies=True)
                    changed = True
            if changed:
                continue
            for key in keys:
                if len(key) != 2 or not key[1].free:
                    continue
                outer, inner = key
                elsewhere = [other for other in keys if other != key and inner in other]
                if elsewhere and not outer.free:
                    outer.copies = changed = True
                elif elsewhere or self._apart(inner, outer, tensors):
                    pin((inner,), "neurons of several blocks share one entry")
                    changed = True
                if changed:
                    break

    @staticmethod
    def _spare(key: Key, keys: set[Key]) -> Key:
        """What of three or more atoms is no neuron: what another layer of them has not, else all between the ends.

        Of query heads that share keys and values, the keys are (shared heads, neurons of one) without the queries.
        """
        inside = [other for other in keys if 1 < len(other) < len(key) and all(atom in key for atom in other)]
        if len(inside) == 1:
            return tuple(atom for atom in key if atom not in inside[0])
        return key[1:-1]

    @staticmethod
    def _apart(inner: Atom, outer: Atom, tensors: Sequence[Axes]) -> bool:
        """Whether some tensor has neurons of a block without saying of which."""
        for axes in tensors:
            found = {id(leaf) for one in axes for leaf in leaves(one)}
            if id(inner) in found and id(outer) not in found:
                return True
        return False

    def _layers(self, matrices: Sequence[Matrix]) -> list[Layer]:
        """Every layer that a weight layer touches, named and in the order of the wiring."""
        keys: dict[Key, str] = {}
        for matrix in matrices:
            for key in (matrix.source, matrix.target):
                keys.setdefault(key, "")
        self.carried = {key for key in keys if len(key) == 1}
        first, last = self._ends(matrices)
        targets = list(dict.fromkeys(m.target for m in matrices))
        hidden = [key for key in targets if key not in (first, last)]
        hidden += [key for key in keys if key not in (first, last, *hidden)]
        layers = [self._layer(first, "input")]
        taken = {"input", "output"}
        for key in hidden:
            written = next((m.tensor for m in matrices if m.target == key), None)
            name = base = _short(written) if written else "read"
            number = 2
            while name in taken:
                name, number = f"{base}_{number}", number + 1
            taken.add(name)
            layers.append(self._layer(key, name))
        layers.append(self._layer(last, "output") if last != first else Layer(first, "output", "none", ()))
        mixing = {id(leaf) for _, valued in self.walk.attentions for leaf in leaves(valued)}
        taps = Taps(self.nodes, self.walk)
        for layer in layers:
            layer.mixes = any(id(atom) in mixing for atom in layer.key)
            self._tap(layer, matrices, taps)
        if self._looked_up():
            self._copy_tokens(layers[0], matrices)
        return layers

    def _tap(self, layer: Layer, matrices: Sequence[Matrix], taps: Taps) -> None:
        """Where the layer's activation is seen: what its readers read, else what its writers make."""
        if layer.key == self.joined:
            return  # before the graph begins
        read = [use.reads for m in matrices if m.source == layer.key for use in self.readers[m.tensor]]
        made = [use.made for m in matrices if m.target == layer.key for use in self.readers[m.tensor]]
        output = self.output if layer.name == "output" else None
        found = taps.find(layer.key, read=read, made=made, output=output)
        layer.axis, layer.samples, layer.points = found.axis, found.samples, list(found.points)

    def _copy_tokens(self, layer: Layer, matrices: Sequence[Matrix]) -> None:
        """Vectors of several tokens that one matrix reads side by side are copies with places of their own."""
        counts = {matrix.source_copies for matrix in matrices if matrix.source == layer.key}
        seen = [sizes(point.node) for point in layer.points if point.shape is None]
        if layer.samples and all(counts == {prod(shape[n] for n in layer.samples)} for shape in seen) and seen:
            layer.copies, layer.samples = counts.pop(), ()

    def _ends(self, matrices: Sequence[Matrix]) -> tuple[Key, Key]:
        """The layers that the data enter and leave by."""
        given = {
            id(leaf)
            for node in self.nodes
            if node.op == "placeholder" and node in self.walk.inputs
            for one in self.walk.axes(node)[1:]
            for leaf in leaves(one)
        }
        left = {id(leaf) for one in self.walk.axes(self.output) for leaf in leaves(one)}
        sources, targets = [m.source for m in matrices], [m.target for m in matrices]
        first = next((key for key in sources if all(id(atom) in given for atom in key)), sources[0])
        first = self.joined or first
        # Outputs that are the inputs, changed (x + f(x)), have no layer of their own.
        inside = [key for key in (*reversed(targets), first) if all(id(atom) in left for atom in key)]
        others = [key for key in reversed(targets) if key != first]
        return first, next(iter([*(key for key in inside if key != first), *inside, *others]), first)

    def _layer(self, key: Key, name: str) -> Layer:
        free = [atom.free and atom.size > 1 for atom in key]
        moves: Moves = "none"
        if all(free):
            moves = "all"
        elif len(key) == 2 and any(free):
            moves = "blocks" if free[0] else "within"
        reasons = tuple(dict.fromkeys(why for atom in key for why in atom.pins))
        layer = Layer(key, name, moves, reasons)
        for tensor, axes in self.tensors.items():
            for number, one in enumerate(axes):
                found = [(lat.offset, offsets(lat, key)) for lat in lattices(one) if key_of(lat) == key]
                if found:
                    at = torch.cat([rows for _, rows in sorted(found, key=lambda pair: pair[0])])
                    layer.along.append(Along(tensor, number, at, buffer=tensor in self.frozen))
                runs = [lat for lat in lattices(one) if len(key) > 1 and key_of(lat) == key[:1]]
                if runs and key[:1] not in self.carried:
                    at = torch.cat([offsets(lat, key[:1]) for lat in sorted(runs, key=lambda lat: lat.offset)])
                    layer.along.append(Along(tensor, number, at, buffer=tensor in self.frozen, blocks=True))
        self.carried.add(key[:1])
        return layer


def _by_key(found: Sequence[Lattice]) -> dict[Key, Int64[Tensor, "copies neurons"]]:
    """The entries by layer, in the order in which they lie."""
    made: dict[Key, list[Tensor]] = {}
    for lattice in sorted(found, key=lambda each: each.offset):
        made.setdefault(key_of(lattice), []).append(offsets(lattice, key_of(lattice)))
    return {key: torch.cat(rows) for key, rows in made.items()}


def _short(tensor: str) -> str:
    """A layer's name from that of the weight that enters it."""
    path, _, last = tensor.rpartition(".")
    name = (path if path and "weight" in last else tensor).replace(".", "_")
    return f"layer_{name}" if name[0].isdigit() else name
