"""The wiring: what a network declares once, and what cost, relocation, pruning, graph and pictures all read.

A neuron layer is a set of slots at fixed positions. A port is one axis of one parameter that runs along the slots.
To exchange two neurons is to apply one index list to every port of their layer; positions stay where they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Port:
    """One axis of one parameter that runs along a neuron layer.

    fold   how many copies of the layer lie side by side on that axis; entry `copy * neurons + slot`
           belongs to `slot`. Query, key and value rows of one matrix are a fold of 3.
    """

    parameter: str
    axis: int
    fold: int = 1


@dataclass(frozen=True)
class NeuronLayer:
    """Neurons that may trade places with one another.

    positions  where the slots are; unit: one layer width.
    ports      every parameter axis that follows the neurons.
    movable    False: the neurons stay in the slots they were born in.
    blocks     attention heads: the slots fall into so many equal runs; whole runs may trade places,
               and neurons within a run, but no neuron leaves its run alone.
    """

    name: str
    positions: Float[Tensor, "neurons axes"]
    ports: tuple[Port, ...]
    movable: bool = True
    blocks: int = 1

    @property
    def neurons(self) -> int:
        return self.positions.shape[0]

    def __post_init__(self) -> None:
        if self.neurons % self.blocks:
            raise ValueError(f"neuron layer {self.name!r}: {self.blocks} blocks do not divide {self.neurons} neurons")


@dataclass(frozen=True)
class WeightLayer:
    """A matrix of connections from one neuron layer into another, rows as in `nn.Linear`: one per target.

    source, target  names of neuron layers; they may be the same one (a recurrent matrix).
    source_fold     columns: so many copies of the source layer side by side; target_fold the same for rows.
    bias            the parameter that is added to the targets, if any.
    pays_length     False: distance costs nothing in this matrix.
    """

    parameter: str
    source: str
    target: str
    source_fold: int = 1
    target_fold: int = 1
    bias: str | None = None
    pays_length: bool = True


@dataclass(frozen=True)
class Wiring:
    """All neuron layers from input to output, all weight layers in the order of the computation, and token embeddings.

    embeddings   parameters that pay the layer spacing for each entry, as biases do, but no length.
    """

    neuron_layers: tuple[NeuronLayer, ...]
    weight_layers: tuple[WeightLayer, ...]
    embeddings: tuple[str, ...] = ()

    @cached_property
    def _layers(self) -> dict[str, NeuronLayer]:
        return {layer.name: layer for layer in self.neuron_layers}

    def layer(self, name: str) -> NeuronLayer:
        """The neuron layer of that name."""
        return self._layers[name]

    @property
    def input_layer(self) -> NeuronLayer:
        return self.neuron_layers[0]

    @property
    def output_layer(self) -> NeuronLayer:
        return self.neuron_layers[-1]

    def into(self, name: str) -> tuple[WeightLayer, ...]:
        """The weight layers whose connections enter this neuron layer."""
        return tuple(weights for weights in self.weight_layers if weights.target == name)

    def out_of(self, name: str) -> tuple[WeightLayer, ...]:
        """The weight layers whose connections leave this neuron layer."""
        return tuple(weights for weights in self.weight_layers if weights.source == name)

    def distances(self, weights: WeightLayer) -> Float[Tensor, "target source"]:
        """Manhattan distance from every source slot to every target slot, folds not repeated; float64."""
        target, source = self.layer(weights.target).positions, self.layer(weights.source).positions
        axes = min(target.shape[1], source.shape[1])
        return (target[:, None, :axes].double() - source[None, :, :axes].double()).abs().sum(-1)

    def lengths(self, weights: WeightLayer) -> Float[Tensor, "target_rows source_columns"]:
        """The length of every connection of a weight layer, shaped as its parameter; float64."""
        return self.distances(weights).repeat(weights.target_fold, weights.source_fold)
