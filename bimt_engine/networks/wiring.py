"""The wiring: what a network declares once, and what cost, relocation, pruning, graph and pictures all read.

A neuron layer is a set of slots at fixed positions. A port is one axis of one parameter that runs along the slots.
To exchange two neurons is to apply one index list to every port of their layer; positions stay where they are.
A layer also says on which axis of its activation its neurons are found, and how copies of it lie there, so that every
analysis reads activations through the wiring and asks nothing about the architecture. (arXiv 2305.08746, section 2)

This module loads no torch: architectures declare wirings in files that the API reads.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from torch import Tensor
else:  # looked up only where tests check shapes, and jaxtyping is installed there
    Bool = Float = Int = Tensor = Any
    with suppress(ModuleNotFoundError):
        from jaxtyping import Bool, Float, Int


@dataclass(frozen=True)
class Port:
    """One axis of one parameter that runs along a neuron layer.

    copies how many copies of the layer lie side by side on that axis; entry `copy * neurons + slot`
           belongs to `slot`. Query, key and value rows of one matrix are 3 copies.
    buffer True: a running statistic (of a batch norm), which follows the neurons but takes no gradient.
    """

    parameter: str
    axis: int
    copies: int = 1
    buffer: bool = False


@dataclass(frozen=True)
class NeuronLayer:
    """Neurons that may exchange slots with one another.

    positions   where the slots are; unit: one layer width.
    ports       every parameter axis that follows the neurons, those of running statistics included.
    runs        lengths of consecutive runs of slots that stand for one thing, as the levels of a category do: the slots
                of a run are at one position, and whole runs exchange positions with runs of the same length. (): none.
    movable     False: the neurons stay in their initial slots.
    blocks      attention heads: the slots are divided into this many equal runs; whole runs may exchange positions, and
                neurons within a run, but no neuron leaves its run alone.
    moves       what of a layer with blocks may move: whole runs, neurons within a run, or both (`all`).
    tied        layers with as many blocks, whose runs take the order of this layer's runs.
    axis        of the layer's activation, along which its slots lie; axis 0 is the batch.
    samples     axes along which the same neuron is seen again: time steps, pixels of a channel. Statistics pool them,
                and what is done to a neuron is done at all of them.
    copies      how many places each neuron has: an input layer of tokens has one for each token. They lie on the one
                axis that is left, and place `copy * neurons + slot` stands for itself in graphs and groups.
    activation  the function applied to Σ w·x + b, `identity` for none; None: the layer computes something else.
    mixes       True: the neurons of one block act on one another inside the layer, as through attention scores.
    """

    name: str
    positions: Float[Tensor, "neurons axes"]
    ports: tuple[Port, ...]
    movable: bool = True
    blocks: int = 1
    axis: int = 1
    samples: tuple[int, ...] = ()
    copies: int = 1
    activation: str | None = None
    mixes: bool = False
    moves: Literal["all", "blocks", "within"] = "all"
    tied: tuple[str, ...] = ()
    runs: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.runs and (sum(self.runs) != self.neurons or self.blocks > 1):
            raise ValueError(f"neuron layer {self.name!r}: runs of {self.runs} do not make up {self.neurons} neurons")
        if self.neurons % self.blocks:
            raise ValueError(f"neuron layer {self.name!r}: {self.blocks} blocks do not divide {self.neurons} neurons")
        if self.axis in (0, *self.samples):
            raise ValueError(f"neuron layer {self.name!r}: axis {self.axis} cannot hold its neurons and something else")

    @property
    def neurons(self) -> int:
        """How many slots the layer has."""
        return self.positions.shape[0]

    @cached_property
    def first_of_run(self) -> Int[np.ndarray, " places"]:
        """The first slot of the run that each place belongs to, which stands for it; without runs, the place itself."""
        if not self.runs:
            return np.arange(self.places)
        return np.repeat(np.cumsum([0, *self.runs[:-1]]), self.runs)

    def whole_runs(self, places: Bool[np.ndarray, " places"]) -> Bool[np.ndarray, " places"]:
        """The same places, and with each all of its run."""
        if not self.runs:
            return places
        touched = np.zeros(self.places, bool)
        touched[self.first_of_run[places]] = True
        return touched[self.first_of_run]

    @property
    def freely(self) -> bool:
        """Whether its neurons, and blocks if it has any, move however they like: nothing is tied or fixed in part."""
        return self.moves == "all" and not self.tied and not self.runs

    @property
    def places(self) -> int:
        """How many places its neurons have, copies counted."""
        return self.neurons * self.copies

    def to_places(self, activation: Float[Tensor, "*_"]) -> Float[Tensor, "batch *samples places"]:
        """The layer's activation with its places on the last axis and everything that is pooled before it."""
        return activation.permute(self._axes(activation.dim())).flatten(1 + len(self.samples))

    def from_places(self, values: Float[Tensor, "batch *samples places"]) -> Float[Tensor, "*_"]:
        """The inverse of `to_places`."""
        has_copies = any(axis not in (self.axis, *self.samples) for axis in range(1, self.axis + 1))
        apart = values.unflatten(-1, (self.copies, self.neurons)) if has_copies else values
        axes = self._axes(apart.dim())
        return apart.permute([axes.index(axis) for axis in range(len(axes))])

    def _axes(self, dimensions: int) -> list[int]:
        copies = [axis for axis in range(1, dimensions) if axis != self.axis and axis not in self.samples]
        return [0, *self.samples, *copies, self.axis]


@dataclass(frozen=True)
class WeightLayer:
    """A matrix of connections from one neuron layer into another, rows as in `nn.Linear`: one per target.

    source, target  names of neuron layers; they may be the same one (a recurrent matrix).
    A convolution is such a matrix too: its kernel taps are source copies, so that a connection between two channels
    costs the sum of |w| over its taps.
    source_copies   columns: so many copies of the source layer side by side; target_copies the same for rows.
    roles           names of the target copies, for pictures: query, key, value; (): they have none. In pictures what
                    leaves the target layer leaves from the last of them.
    bias            the parameter that is added to the targets, if any.
    pays_length     False: distance costs nothing in this matrix.
    """

    parameter: str
    source: str
    target: str
    source_copies: int = 1
    target_copies: int = 1
    bias: str | None = None
    pays_length: bool = True
    roles: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.roles and len(self.roles) != self.target_copies:
            raise ValueError(
                f"weight layer {self.parameter!r}: {len(self.roles)} roles for {self.target_copies} target copies"
            )


@dataclass(frozen=True)
class Chain:
    """A wiring in which each layer is computed from the one before and nothing else: a perceptron.

    embedding        the table that tokens are looked up in; None: the inputs are numbers.
    copies           how many vectors one example brings, laid side by side before the first weight layer.
    weights, biases  parameter names, in order.
    activation       of all hidden layers.
    """

    embedding: str | None
    copies: int
    weights: tuple[str, ...]
    biases: tuple[str, ...]
    activation: str


@dataclass(frozen=True)
class Wiring:
    """All neuron layers from input to output, all weight layers in the order of the computation, and token embeddings.

    embeddings   parameters whose entries cost the layer spacing, as biases do, but no length.
    offsets      other parameters with the same cost: vectors that are added to a layer, such as learnt positions.
    The first neuron layer is called `input` and the last `output`. Raises ValueError for other names, and where an axis
    of a weight layer or of its bias has no port, or one of other copies: relocation would leave that axis behind.
    """

    neuron_layers: tuple[NeuronLayer, ...]
    weight_layers: tuple[WeightLayer, ...]
    embeddings: tuple[str, ...] = ()
    offsets: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        ends = self.input_layer.name, self.output_layer.name
        if ends != ("input", "output"):
            raise ValueError(f"the first neuron layer must be called 'input' and the last 'output', not {ends}")
        for weights in self.weight_layers:
            self._check_port(weights, weights.target, weights.parameter, 0, weights.target_copies)
            self._check_port(weights, weights.source, weights.parameter, 1, weights.source_copies)
            if weights.bias is not None:
                self._check_port(weights, weights.target, weights.bias, 0, weights.target_copies)

    def _check_port(self, weights: WeightLayer, layer: str, parameter: str, axis: int, copies: int) -> None:
        if layer not in self._layers:
            raise ValueError(f"weight layer {weights.parameter!r} names {layer!r}, which is no neuron layer")
        ports = self.layer(layer).ports
        if not any((port.parameter, port.axis, port.copies) == (parameter, axis, copies) for port in ports):
            raise ValueError(
                f"weight layer {weights.parameter!r}: neuron layer {layer!r} needs "
                f"Port({parameter!r}, {axis}, {copies})"
            )

    @cached_property
    def _layers(self) -> dict[str, NeuronLayer]:
        return {layer.name: layer for layer in self.neuron_layers}

    def layer(self, name: str) -> NeuronLayer:
        """The neuron layer of that name."""
        return self._layers[name]

    @property
    def input_layer(self) -> NeuronLayer:
        """The layer that the data enter."""
        return self.neuron_layers[0]

    @property
    def output_layer(self) -> NeuronLayer:
        """The layer that holds the targets."""
        return self.neuron_layers[-1]

    @cached_property
    def streams(self) -> frozenset[str]:
        """The residual streams: layers that several layers write into, among them layers that read them."""
        found = set()
        for layer in self.neuron_layers[1:-1]:
            writers = {w.source for w in self.into(layer.name)} - {layer.name}
            readers = {w.target for w in self.out_of(layer.name)} - {layer.name}
            if len(writers) > 1 and writers & readers:
                found.add(layer.name)
        return frozenset(found)

    @cached_property
    def hidden_layers(self) -> tuple[NeuronLayer, ...]:
        """The layers between the ends that compute something of their own, in their order; streams are left out."""
        return tuple(layer for layer in self.neuron_layers[1:-1] if layer.name not in self.streams)

    @cached_property
    def buffers(self) -> frozenset[str]:
        """The parameters that take no gradient: running statistics."""
        return frozenset(port.parameter for layer in self.neuron_layers for port in layer.ports if port.buffer)

    @property
    def copy_roles(self) -> dict[str, list[str]]:
        """The names of the target copies, by parameter, where there are several; "" for those without one."""
        return {w.parameter: list(w.roles) or [""] * w.target_copies for w in self.weight_layers if w.target_copies > 1}

    @cached_property
    def chain(self) -> Chain | None:
        """What fast paths need to know of a perceptron; None where the wiring is more than that."""
        layers, weights = self.neuron_layers, self.weight_layers
        if len(weights) != len(layers) - 1 or len(self.embeddings) > 1:
            return None
        activations = {layer.activation for layer in layers[1:-1]}
        steps = zip(weights, layers, layers[1:], strict=False)
        plain = (
            all((w.source, w.target) == (source.name, target.name) for w, source, target in steps)
            and all(w.target_copies == 1 and w.source_copies == layers[n].copies for n, w in enumerate(weights))
            and len(activations) <= 1
            and None not in activations
            and layers[-1].activation == "identity"
        )
        biases = tuple(w.bias for w in weights if w.bias is not None)
        if not plain or len(biases) != len(weights):
            return None
        return Chain(
            embedding=self.embeddings[0] if self.embeddings else None,
            copies=weights[0].source_copies,
            weights=tuple(w.parameter for w in weights),
            biases=biases,
            activation=next(iter(activations), None) or "silu",  # without a hidden layer it is never applied
        )

    def into(self, name: str) -> tuple[WeightLayer, ...]:
        """The weight layers whose connections enter this neuron layer."""
        return tuple(weights for weights in self.weight_layers if weights.target == name)

    def out_of(self, name: str) -> tuple[WeightLayer, ...]:
        """The weight layers whose connections leave this neuron layer."""
        return tuple(weights for weights in self.weight_layers if weights.source == name)

    def distances(self, weights: WeightLayer) -> Float[Tensor, "target source"]:
        """Manhattan distance from every source slot to every target slot, copies not repeated; float64."""
        target, source = self.layer(weights.target).positions, self.layer(weights.source).positions
        axes = min(target.shape[1], source.shape[1])
        return (target[:, None, :axes].double() - source[None, :, :axes].double()).abs().sum(-1)

    def lengths(self, weights: WeightLayer) -> Float[Tensor, "target_rows source_columns"]:
        """The length of every connection of a weight layer, shaped as its parameter; float64."""
        return self.distances(weights).repeat(weights.target_copies, weights.source_copies)
