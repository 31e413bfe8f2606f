"""Where a neuron layer's activation is seen in the exported graph, and may be replaced there.

What a weight layer reads is traced back through norms, pooling and changes of shape to the node where the neurons'
values were made: that is what a hook is to see, and what all readers then read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod

import torch
from torch import Tensor, fx

from bimt_engine.networks.attach.axes import Axis, Key, lattices, leaves, offsets
from bimt_engine.networks.attach.walk import Walk, operator_name

PASSING = frozenset(
    {"batch_norm", "instance_norm", "layer_norm", "rms_norm", "group_norm", "dropout", "feature_dropout", "mul", "div"}
    | {"clone", "contiguous", "detach", "alias", "to", "mean", "sum", "amax", "pad", "select", "slice", "narrow", "cat"}
    | {f"{kind}{axes}d" for kind in ("max_pool", "avg_pool", "adaptive_avg_pool") for axes in (1, 2, 3)}
    | {"view", "reshape", "_unsafe_view", "flatten", "unflatten", "permute", "transpose", "t", "unsqueeze", "squeeze"}
    | {"expand", "getitem"}
)
"""Operators that hand on the same neurons, normalised, pooled, in part or in another shape."""
SHAPING = frozenset(
    {"view", "reshape", "_unsafe_view", "flatten", "unflatten", "permute", "transpose", "t", "unsqueeze", "squeeze"}
    | {"contiguous", "clone"}
)


@dataclass(frozen=True)
class TapPoint:
    """A node of the graph where a neuron layer's activation is seen and may be replaced.

    shape    sizes of the atoms of all axes, one after another, -1 for the examples; None: the tensor is as the layer
             says (examples first, neurons on one axis).
    order    of these, so that examples come first and neurons last.
    part     (axis, first entry, entries): the neurons are these entries of an axis; None: all of it.
    records  True: only recorded, because all of it has been replaced before.
    """

    node: fx.Node
    shape: tuple[int, ...] | None = None
    order: tuple[int, ...] = ()
    part: tuple[int, int, int] | None = None
    records: bool = False

    def apart(self, activation: Tensor, neurons: int) -> Tensor:
        """(batch, samples, neurons), whatever the node's own shape."""
        if self.part is not None:
            return activation.narrow(*self.part)
        if self.shape is None:
            return activation
        return (
            activation.reshape(self.shape).permute(self.order).reshape(activation_rows(activation, self), -1, neurons)
        )

    def together(self, values: Tensor, like: Tensor) -> Tensor:
        """The inverse of `apart`."""
        if self.part is not None:
            axis_, start, size = self.part
            before, _, after = like.tensor_split((start, start + size), dim=axis_)
            return torch.cat((before, values, after), dim=axis_)
        if self.shape is None:
            return values
        moved = like.reshape(self.shape).permute(self.order)
        back = [self.order.index(n) for n in range(len(self.order))]
        return values.reshape(moved.shape).permute(back).reshape(like.shape)


def activation_rows(activation: Tensor, point: TapPoint) -> int:
    """How many examples an activation holds."""
    assert point.shape is not None
    return activation.numel() // prod(size for size in point.shape if size > 0)


@dataclass(frozen=True)
class Seen:
    """On which axis of its activation a layer lies, which axes are samples, and at which nodes it is seen."""

    axis: int
    samples: tuple[int, ...]
    points: tuple[TapPoint, ...]


class Taps:
    """The nodes of a walked graph, to find tap points among them."""

    def __init__(self, nodes: Sequence[fx.Node], walk: Walk) -> None:
        self.nodes, self.walk = nodes, walk
        self.batch = next(
            walk.axes(node)[0] for node in nodes if node.op == "placeholder" and node in walk.inputs and walk.axes(node)
        )

    def find(
        self, key: Key, *, read: Sequence[fx.Node | None], made: Sequence[fx.Node | None], output: fx.Node | None
    ) -> Seen:
        """The tap points of the layer with this key.

        read, made   what its weight layers read, and what those that enter it make; None: inside an operator.
        output       the network's output, for the layer that it is.
        """
        wanted = [] if output is None else [self._carrying(output, key)]
        wanted += [self._made_at(node, key) for node in read if node is not None]
        if not wanted:
            wanted = [node for node in made if node is not None and self.walk.is_tensor(node)]
        nodes = sorted(set(wanted), key=self.nodes.index)
        plain = [found for node in nodes if (found := self._plain(node, key)) is not None]
        if nodes and len(plain) == len(nodes) and len({found[:2] for found in plain}) == 1:
            points = [TapPoint(node, part=part) for node, (_, _, part) in zip(nodes, plain, strict=True)]
            axis, samples, _ = plain[0]
        else:
            points = [point for node in nodes if (point := self._regrouped(node, key)) is not None]
            axis, samples = 2, (1,)
        tapped = {point.node for point in points}

        def whole(point: TapPoint) -> bool:
            return operator_name(point.node) in ("stack", "cat") and set(point.node.all_input_nodes) <= tapped

        return Seen(axis, samples, tuple(replace(point, records=whole(point)) for point in points))

    def _carries(self, node: fx.Node, key: Key) -> bool:
        if node not in self.walk.inputs or not self.walk.is_tensor(node):
            return False
        found = {id(leaf) for one in self.walk.axes(node) for leaf in leaves(one)}
        return all(id(atom) in found for atom in key)

    def _carrying(self, node: fx.Node, key: Key) -> fx.Node:
        """The last node that has these neurons, from here backwards."""
        while not self._carries(node, key):
            before = [n for n in node.all_input_nodes if n in self.walk.inputs]
            if not before:
                return node
            node = before[0]
        return node

    def _made_at(self, node: fx.Node, key: Key) -> fx.Node:
        """Back through norms, pooling and shapes to where the neurons' values were made."""
        passed = [node]
        while node.op == "call_function" and operator_name(node) in PASSING:
            before = [n for n in node.all_input_nodes if self._carries(n, key) or self._several(n)]
            if len(before) != 1:
                break
            node = before[0]
            passed.append(node)
            if self._several(node):
                passed.pop()
                node = passed[-1]
                break
        # Forward again as long as only the shape changes, to where the neurons lie on one axis.
        for later in reversed(passed[:-1]):
            if self._plain(node, key) is not None or operator_name(later) not in SHAPING or len(node.users) != 1:
                break
            node = later
        return node

    def _several(self, node: fx.Node) -> bool:
        return isinstance(self.walk.values.get(node), list) and not self.walk.is_tensor(node)

    def _plain(self, node: fx.Node, key: Key) -> tuple[int, tuple[int, ...], tuple[int, int, int] | None] | None:
        """(axis, samples, part) where examples come first and the neurons lie side by side on one axis."""
        axes = self.walk.axes(node)
        if not axes or not self.walk.is_tensor(node) or not self._of_examples(axes[0]):
            return None
        neurons = prod(atom.size for atom in key)
        for number, one in enumerate(axes[1:], start=1):
            for lattice in lattices(one):
                if [id(atom) for atom in lattice.atoms if atom.size > 1 or atom in key] != [id(atom) for atom in key]:
                    continue
                at = offsets(lattice, key)
                if at.shape[0] == 1 and torch.equal(at[0], lattice.offset + torch.arange(neurons)):
                    whole = neurons == prod(atom.size for atom in one)
                    part = None if whole else (number, lattice.offset, neurons)
                    return number, tuple(n for n in range(1, len(axes)) if n != number), part
        return None

    def _of_examples(self, one: Axis) -> bool:
        ours, theirs = list(leaves(one)), list(leaves(self.batch))
        return len(ours) == len(theirs) and all(a is b for a, b in zip(ours, theirs, strict=True))

    def _regrouped(self, node: fx.Node, key: Key) -> TapPoint | None:
        """How a tensor whose neurons lie over several axes is brought to (examples, samples, neurons)."""
        shape: list[int] = []
        roles: list[tuple[int, int]] = []  # examples, samples or neurons, and where
        for one in self.walk.axes(node):
            if self._of_examples(one):
                shape.append(-1)
                roles.append((0, len(roles)))
                continue
            runs = lattices(one)
            if len(runs) > 1:
                return None
            for atom in runs[0].atoms:
                batch = self._of_examples((atom,))
                shape.append(-1 if batch else atom.size)
                mine = next((n for n, each in enumerate(key) if each is atom), None)
                roles.append((0, len(roles)) if batch else (1, len(roles)) if mine is None else (2 + mine, len(roles)))
        if shape.count(-1) != 1 or sum(role[0] >= 2 for role in roles) != len(key):
            return None
        return TapPoint(node, tuple(shape), tuple(n for _, n in sorted(roles)))
