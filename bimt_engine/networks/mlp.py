"""The multilayer perceptron, on lines or other shapes, plain or over learned token embeddings; and on grids.

    y = W_L(… σ(W_0 x + b_0) …) + b_L

Parameters: `embedding` (tokens, width) with token inputs only; `weights.i` (target, source) and `biases.i` for each
weight layer. (arXiv 2305.08746, sections 2 and 3)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from bimt_engine.data.dataset import Dataset, Examples
from bimt_engine.errors import SpecError
from bimt_engine.networks.architecture import (
    Activation,
    Architecture,
    Draw,
    Float,
    Geometry,
    Network,
    Tap,
    Tensor,
    Width,
)
from bimt_engine.networks.wiring import NeuronLayer, Port, WeightLayer, Wiring


class MlpNetwork(Architecture):
    """A multilayer perceptron; inputs and outputs are as wide as the data. Neuron layers are lines by default.

    embedding_width   with token data: each token becomes a learned vector of this width; the vectors of one
                      example lie side by side and share one set of positions.
    """

    kind: Literal["mlp"] = "mlp"
    hidden: list[Width] = Field(default=[20, 20], max_length=16)
    activation: Activation = "silu"
    embedding_width: int | None = Field(default=None, ge=1, le=1024)
    geometry: Geometry = Field(default="line", description="Where the hidden and input neurons lie.")
    output_geometry: Geometry | None = Field(default=None, description="Null: as `geometry`.")
    coordinates: list[list[list[float]]] | None = Field(
        default=None, description="Custom positions: neuron layer × neuron × axis; replaces both geometries."
    )
    move_inputs: bool = True
    move_outputs: bool = True

    def misfit(self, examples: Examples) -> str:
        """Sequences are for other networks, and tokens need vectors."""
        if examples in ("sequences", "text"):
            return "An `mlp` reads single examples, but these data are sequences: ask for a transformer."
        if examples == "numbers" and self.embedding_width is not None:
            return "`embedding_width` is for token data, but these inputs are numbers: leave it out."
        if examples == "tokens" and self.embedding_width is None:
            return "These inputs are tokens: set `embedding_width`, the length of the vector each token becomes."
        return ""

    def build(self, data: Dataset, draw: Draw) -> Network:
        """The perceptron of this spec. Raises SpecError for sequences, and where `embedding_width` does not fit."""
        from bimt_engine.networks.geometry import place_layers

        if sentence := self.misfit(data.examples):
            raise SpecError(sentence)
        width = self.embedding_width if data.tokens is not None else None
        sizes = [width or data.inputs, *self.hidden, data.targets]
        shapes = [self.geometry] * (len(sizes) - 1) + [self.output_geometry or self.geometry]
        runs = input_runs(data)
        return perceptron(
            self,
            place_layers(sizes, shapes, coordinates=self.coordinates, runs=runs),
            draw,
            runs=runs,
            tokens=data.tokens,
            copies=data.inputs if data.tokens is not None else 1,
        )

    def compute(self, network: Network, x: Tensor, tap: Tap) -> Tensor:
        """Tokens are looked up, all vectors of one example are laid side by side, and so through the layers."""
        return _compute(network, x, tap)


class GridMlpNetwork(Architecture):
    """Sheets of neurons on 2-D grids, inputs fixed on theirs, outputs on a ring of radius 0.25."""

    kind: Literal["grid_mlp"] = "grid_mlp"
    hidden: list[Width] = Field(default=[100, 100], max_length=16)
    activation: Activation = "silu"
    move_inputs: bool = False
    move_outputs: bool = True

    def misfit(self, examples: Examples) -> str:
        """Numbers alone."""
        grid = "A `grid_mlp` reads images or tables of numbers: ask for another network."
        return "" if examples == "numbers" else grid

    def build(self, data: Dataset, draw: Draw) -> Network:
        """The perceptron whose inputs and hidden layers are grids. Raises SpecError for sequences and tokens."""
        from bimt_engine.networks.geometry import place_layers

        if sentence := self.misfit(data.examples):
            raise SpecError(sentence)
        sizes = [data.inputs, *self.hidden, data.targets]
        runs = input_runs(data)
        positions = place_layers(sizes, ["grid"] * (len(sizes) - 1) + ["ring"], runs=runs)
        return perceptron(self, positions, draw, runs=runs)

    def compute(self, network: Network, x: Tensor, tap: Tap) -> Tensor:
        """As any perceptron."""
        return _compute(network, x, tap)


def input_runs(data: Dataset) -> tuple[int, ...]:
    """How many inputs each column of a table became; () where each is one."""
    return data.column_widths if data.encoding is not None and max(data.column_widths) > 1 else ()


def perceptron(
    spec: MlpNetwork | GridMlpNetwork,
    positions: Sequence[Float[Tensor, "_ axes"]],
    draw: Draw,
    *,
    tokens: int | None = None,
    copies: int = 1,
    runs: tuple[int, ...] = (),
) -> Network:
    """A perceptron with its neurons at these positions.

    tokens   size of the vocabulary; None: the inputs are numbers.
    copies   how many vectors one example brings; they lie side by side and share the positions of the input layer.
             With tokens: one vector for each token.
    runs     how many inputs each column of a table became, which stay together; (): each input is for itself.
    """
    from bimt_engine.networks.network import Network

    sizes = [place.shape[0] for place in positions]
    wiring = mlp_wiring(
        positions,
        activation=spec.activation,
        copies=copies,
        embedded=tokens is not None,
        move_inputs=spec.move_inputs,
        move_outputs=spec.move_outputs,
        runs=runs,
    )
    parameters: dict[str, Tensor] = {}
    if tokens is not None:
        parameters["embedding"] = draw.normal(tokens, sizes[0])
    for number, (rows, columns) in enumerate(zip(sizes[1:], [sizes[0] * copies, *sizes[1:-1]], strict=True)):
        parameters[f"weights.{number}"] = draw.uniform(rows, columns, fan_in=columns)
        parameters[f"biases.{number}"] = draw.uniform(rows, fan_in=columns)
    return Network(spec, wiring, parameters)


def mlp_wiring(
    positions: Sequence[Float[Tensor, "_ axes"]],
    *,
    activation: Activation,
    copies: int = 1,
    embedded: bool = False,
    move_inputs: bool = True,
    move_outputs: bool = True,
    runs: tuple[int, ...] = (),
) -> Wiring:
    """Neuron layers input, hidden1 …, output, and the weight layers between neighbours."""
    last = len(positions) - 1
    names = ["input", *(f"hidden{number}" for number in range(1, last)), "output"]
    neuron_layers = []
    for number, (name, place) in enumerate(zip(names, positions, strict=True)):
        ports: list[Port] = []
        if number == 0 and embedded:
            ports.append(Port("embedding", 1))
        if number > 0:
            ports += [Port(f"weights.{number - 1}", 0), Port(f"biases.{number - 1}", 0)]
        if number < last:
            ports.append(Port(f"weights.{number}", 1, copies if number == 0 else 1))
        neuron_layers.append(
            NeuronLayer(
                name,
                place,
                tuple(ports),
                movable=(number > 0 or move_inputs) and (number < last or move_outputs),
                axis=2 if number == 0 and (embedded or copies > 1) else 1,
                copies=copies if number == 0 else 1,
                activation=activation if 0 < number < last else "identity",
                runs=runs if number == 0 else (),
            )
        )
    weight_layers = tuple(
        WeightLayer(
            f"weights.{number}",
            names[number],
            names[number + 1],
            source_copies=copies if number == 0 else 1,
            bias=f"biases.{number}",
        )
        for number in range(last)
    )
    return Wiring(tuple(neuron_layers), weight_layers, ("embedding",) if embedded else ())


def _compute(network: Network, x: Tensor, tap: Tap) -> Tensor:
    from torch.nn.functional import linear

    from bimt_engine.networks.network import ACTIVATIONS

    chain = network.wiring.chain
    assert chain is not None
    # Embeddings lie in slot order already; features of the data are brought into it here.
    if chain.embedding is not None:
        here = network.embedding[x]
    else:
        here = network.permute_inputs(x if chain.copies == 1 else x.unflatten(-1, (chain.copies, -1)))
    here = tap("input", here)
    if here.dim() > 2:
        here = here.flatten(-2)
    act = ACTIVATIONS[chain.activation]
    last = len(network.weights) - 1
    for number, (weight, bias) in enumerate(zip(network.weights, network.biases, strict=True)):
        here = linear(here, weight, bias)
        if number < last:
            here = tap(f"hidden{number + 1}", act(here))
    return network.permute_outputs(tap("output", here))
