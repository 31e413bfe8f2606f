"""A module's tensors as the engine knows parameters: matrices and vectors whose axes run along neuron layers.

A view is an index into one flattened tensor of the module. A kernel (targets, sources, rows, columns) becomes a matrix
(targets, taps · sources), as in `networks/conv.py`; a projection whose rows are queries and values of different layers
becomes two matrices; a grouped kernel becomes the matrix from all channels to all, empty between the groups. Ports
and weight layers of the wiring name views. The other way, `Along` says for each axis of the module's own tensors which
entries are copies of which neuron: that is what relocation and the proof permute by.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Literal

import torch
from jaxtyping import Int64
from torch import Tensor, fx

from bimt_engine.networks.attach.axes import Along
from bimt_engine.networks.attach.derive import Derived, Layer
from bimt_engine.networks.attach.walk import AttachError
from bimt_engine.networks.geometry import SHAPES
from bimt_engine.networks.wiring import NeuronLayer, Port, WeightLayer, Wiring

Orders = dict[str, Int64[Tensor, " neurons"]]
"""Neuron layer -> order[slot] = the slot that its neuron was in before. Layers not named stay as they are."""

AxisOrders = dict[str, dict[int, Int64[Tensor, " entries"]]]
"""Tensor -> axis -> where each of its entries comes from."""


@dataclass(frozen=True)
class View:
    """One parameter of the wiring: entries of a tensor of the module.

    tensor    its name; of a weight that is computed (weight norm), that of its module and `weight`.
    weight    the node that computes it, where it is computed; None: it is the tensor itself.
    entries   index into the flattened tensor; -1: always 0.
    """

    name: str
    tensor: str
    entries: Int64[Tensor, "*shape"]
    weight: fx.Node | None = None

    def of(self, tensor: Tensor) -> Tensor:
        """The view of a tensor's values, differentiable."""
        flat = tensor.reshape(-1)[self.entries.clamp(min=0).reshape(-1).to(tensor.device)].view(self.entries.shape)
        return torch.where(self.entries.to(tensor.device) >= 0, flat, 0.0) if bool((self.entries < 0).any()) else flat


@dataclass(frozen=True)
class Views:
    """A wiring with what its parameters are in the module.

    along   neuron layer -> where it lies on the module's own tensors.
    """

    wiring: Wiring
    views: tuple[View, ...]
    along: Mapping[str, tuple[Along, ...]]

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of every parameter of the wiring."""
        return {view.name: tuple(view.entries.shape) for view in self.views}

    def axis_orders(self, orders: Orders, shapes: Mapping[str, Sequence[int]]) -> AxisOrders:
        """What these orders do to the axes of the module's tensors, which have these shapes."""
        found: AxisOrders = {}
        for name, order in orders.items():
            for along in self.along[name]:
                axes = found.setdefault(along.tensor, {})
                size = shapes[along.tensor][along.axis]
                index = axes.setdefault(along.axis, torch.arange(size))
                index[along.at] = along.at[:, along.order(order)]
        return found


def permuted(tensor: Tensor, axes: Mapping[int, Int64[Tensor, " _"]]) -> Tensor:
    """A tensor with the entries of some axes in another order."""
    for number, index in axes.items():
        tensor = tensor.index_select(number, index.to(tensor.device))
    return tensor


# --- of a derived wiring --------------------------------------------------------------------------


def views_of(derived: Derived, shapes: Mapping[str, Sequence[int]], *, geometry: str = "line") -> Views:
    """The wiring of what was derived, every layer on its own `geometry`.

    shapes   of the module's parameters and buffers that are numbers.
    """
    layers = derived.layers
    names = {layer.key: layer.name for layer in reversed(layers)}
    matrices = [View(m.name, m.tensor, m.entries, None if m.tensor in shapes else m.weight) for m in derived.matrices]
    taken = {matrix.tensor for matrix in derived.matrices} | set(_sources(derived))
    ports: dict[str, list[Port]] = {layer.name: [] for layer in layers}
    biases: dict[tuple[str, str], tuple[str, int]] = {}
    others: list[View] = []
    for tensor in dict.fromkeys(derived.names.values()):
        if tensor in taken or tensor not in shapes or not len(shapes[tensor]):
            continue
        for view, where in _regular(tensor, shapes[tensor], layers):
            others.append(view)
            for name, number, copies, buffer in where:
                ports[name].append(Port(view.name, number, copies, buffer=buffer))
                if view.entries.dim() == 1:
                    biases[tensor, name] = view.name, copies
    weights = []
    for m in derived.matrices:
        target, source = names[m.target], names[m.source]
        ports[target].append(Port(m.name, 0, m.target_copies, buffer=m.tensor in derived.frozen))
        ports[source].append(Port(m.name, 1, m.source_copies, buffer=m.tensor in derived.frozen))
        bias = biases.get((m.bias or "", target), ("", 0))
        weights.append(
            WeightLayer(
                m.name,
                source,
                target,
                source_copies=m.source_copies,
                target_copies=m.target_copies,
                bias=bias[0] if bias[1] == m.target_copies else None,
                roles=m.roles,
            )
        )
    ties = {layer.name: _tied(layer, layers) for layer in layers}
    neuron_layers = []
    for layer in layers:
        blocks = layer.key[0].size if ties[layer.name] else layer.blocks
        moves: Literal["all", "blocks", "within"] = layer.moves if layer.moves != "none" else "all"
        neuron_layers.append(
            NeuronLayer(
                layer.name,
                SHAPES[geometry](layer.neurons),
                tuple(ports[layer.name]),
                movable=layer.moves != "none",
                blocks=blocks,
                axis=layer.axis,
                samples=layer.samples,
                copies=layer.copies,
                mixes=layer.mixes,
                moves=moves,
                tied=ties[layer.name],
            )
        )
    wiring = Wiring(tuple(neuron_layers), tuple(weights), derived.embeddings)
    return Views(wiring, (*matrices, *others), {layer.name: tuple(layer.along) for layer in layers})


def _sources(derived: Derived) -> Iterator[str]:
    """Tensors that a weight is computed from."""
    for matrix in derived.matrices:
        nodes = [matrix.weight] if matrix.weight is not None else []
        while nodes:
            node = nodes.pop()
            if node.name in derived.names:
                yield derived.names[node.name]
            else:
                nodes += node.all_input_nodes


def _tied(layer: Layer, layers: Sequence[Layer]) -> tuple[str, ...]:
    """The layers whose blocks are the same as this one's."""
    if not layer.key[0].free or layer.moves not in ("all", "blocks"):
        return ()
    return tuple(other.name for other in layers if other is not layer and other.key[0] is layer.key[0])


Where = list[tuple[str, int, int, bool]]
"""(neuron layer, axis, copies, buffer)."""


def _regular(tensor: str, shape: Sequence[int], layers: Sequence[Layer]) -> Iterator[tuple[View, Where]]:
    """A tensor that is no weight, as views whose entries lie copy after copy along each layer."""
    entries = torch.arange(prod(shape)).view(tuple(shape))
    lying = [
        (layer.name, along) for layer in layers for along in layer.along if along.tensor == tensor and not along.blocks
    ]
    by_axis: dict[int, list[tuple[str, Along]]] = {}
    for name, along in lying:
        by_axis.setdefault(along.axis, []).append((name, along))
    if len(shape) == 1 and len(by_axis.get(0, [])) > 1:
        for number, (name, along) in enumerate(by_axis[0]):
            view = View(f"{tensor}_part{number}", tensor, entries[along.at.reshape(-1)])
            yield view, [(name, 0, along.at.shape[0], along.buffer)]
        return
    where: Where = []
    for number, found in by_axis.items():
        if len(found) == 1 and found[0][1].at.numel() == shape[number]:
            name, along = found[0]
            entries = entries.index_select(number, along.at.reshape(-1))
            where.append((name, number, along.at.shape[0], along.buffer))
    yield View(tensor, tensor, entries), where


# --- of a wiring given by hand --------------------------------------------------------------------


def views_by_hand(wiring: Wiring, tensors: Mapping[str, Tensor]) -> Views:
    """The views of a wiring whose ports name the module's own parameters and buffers.

    Axes may be those of kernels: a weight layer has its targets on axis 0 and its sources on axis 1; what lies on
    further axes (taps) are copies. Raises AttachError for a name or a size that the module does not have.
    """
    along: dict[str, list[Along]] = {layer.name: [] for layer in wiring.neuron_layers}
    for layer in wiring.neuron_layers:
        for port in layer.ports:
            tensor = tensors.get(port.parameter)
            if tensor is None:
                raise AttachError(
                    f"Neuron layer {layer.name!r} names {port.parameter!r}, which is no parameter of the network."
                )
            if tensor.dim() <= port.axis or tensor.shape[port.axis] != port.copies * layer.neurons:
                raise AttachError(
                    f"Neuron layer {layer.name!r}: axis {port.axis} of {port.parameter!r} must have "
                    f"{port.copies * layer.neurons} entries, but its shape is {tuple(tensor.shape)}."
                )
            at = torch.arange(port.copies * layer.neurons).view(port.copies, layer.neurons)
            along[layer.name].append(Along(port.parameter, port.axis, at, port.buffer))
    views = {}
    for weights in wiring.weight_layers:
        tensor = tensors[weights.parameter]
        entries = torch.arange(tensor.numel()).view(tensor.shape)
        if tensor.dim() > 2:
            entries = entries.flatten(2).permute(0, 2, 1).flatten(1)
        views[weights.parameter] = View(weights.parameter, weights.parameter, entries)
    for name in dict.fromkeys(port.parameter for layer in wiring.neuron_layers for port in layer.ports):
        if name not in views:
            views[name] = View(name, name, torch.arange(tensors[name].numel()).view(tensors[name].shape))
    return Views(
        _with_taps(wiring, views), tuple(views.values()), {name: tuple(found) for name, found in along.items()}
    )


def _with_taps(wiring: Wiring, views: Mapping[str, View]) -> Wiring:
    """The same wiring with the taps of kernels as source copies."""
    copies = {
        w.parameter: views[w.parameter].entries.shape[1] // wiring.layer(w.source).neurons for w in wiring.weight_layers
    }
    weights = tuple(replace(w, source_copies=copies[w.parameter]) for w in wiring.weight_layers)
    sources = {(w.source, w.parameter) for w in wiring.weight_layers}
    layers = tuple(
        replace(
            layer,
            ports=tuple(
                replace(port, copies=copies[port.parameter])
                if port.axis == 1 and (layer.name, port.parameter) in sources
                else port
                for port in layer.ports
            ),
        )
        for layer in wiring.neuron_layers
    )
    return Wiring(layers, weights, wiring.embeddings)
