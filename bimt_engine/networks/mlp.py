"""The multilayer perceptron, plain or over learned token embeddings."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from bimt_engine.datasets.dataset import Dataset
from bimt_engine.errors import SpecError
from bimt_engine.networks.geometry import place_layers
from bimt_engine.networks.network import ACTIVATIONS, Edit, Network, new_bias, new_weight, note
from bimt_engine.networks.wiring import NeuronLayer, Port, WeightLayer, Wiring
from bimt_engine.spec import MlpNetwork


class Mlp(Network):
    """y = W_L(… σ(W_0 x + b_0) …) + b_L.

    weights, biases   one per weight layer, rows as in `nn.Linear`.
    embedding         (tokens, width), with token inputs only.
    fold              how many vectors one example brings; they lie side by side and share the positions of the
                      input layer. With tokens: one vector for each token.
    """

    def __init__(
        self,
        positions: Sequence[Float[Tensor, "_ axes"]],
        *,
        activation: str,
        dtype: torch.dtype,
        generator: torch.Generator,
        tokens: int | None = None,
        fold: int = 1,
        move_inputs: bool = True,
        move_outputs: bool = True,
    ) -> None:
        sizes = [place.shape[0] for place in positions]
        super().__init__(
            mlp_wiring(
                positions, fold=fold, embedded=tokens is not None, move_inputs=move_inputs, move_outputs=move_outputs
            )
        )
        self.activation = activation
        self.fold = fold
        self.hidden_names = tuple(layer.name for layer in self.wiring.neuron_layers[1:-1])
        if tokens is not None:
            drawn = torch.randn(tokens, sizes[0], dtype=torch.float64, generator=generator)
            self.embedding = nn.Parameter(drawn.to(dtype))
        columns = [sizes[0] * fold, *sizes[1:-1]]
        weights, biases = [], []
        for rows, fan_in in zip(sizes[1:], columns, strict=True):
            weights.append(new_weight(rows, fan_in, dtype=dtype, generator=generator))
            biases.append(new_bias(rows, fan_in, dtype=dtype, generator=generator))
        self.weights = nn.ParameterList(weights)
        self.biases = nn.ParameterList(biases)

    @property
    def embedded(self) -> bool:
        """Whether the inputs are tokens."""
        return "embedding" in self._parameters

    def _compute(self, x: Tensor, edit: Edit | None, seen: dict[str, Tensor] | None) -> Tensor:
        # Embeddings lie in slot order already; features of the data are brought into it here.
        if self.embedded:
            here = self.embedding[x]
        else:
            here = self._enter(x if self.fold == 1 else x.unflatten(-1, (self.fold, -1)))
        here = note("input", here, edit, seen)
        if self.fold > 1:
            here = here.flatten(-2)
        act = ACTIVATIONS[self.activation]
        last = len(self.weights) - 1
        for number, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            here = nn.functional.linear(here, weight, bias)
            if number < last:
                here = note(self.hidden_names[number], act(here), edit, seen)
        return self._leave(note("output", here, edit, seen))


def mlp_wiring(
    positions: Sequence[Float[Tensor, "_ axes"]],
    *,
    fold: int = 1,
    embedded: bool = False,
    move_inputs: bool = True,
    move_outputs: bool = True,
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
            ports.append(Port(f"weights.{number}", 1, fold if number == 0 else 1))
        movable = (number > 0 or move_inputs) and (number < last or move_outputs)
        neuron_layers.append(NeuronLayer(name, place, tuple(ports), movable=movable))
    weight_layers = tuple(
        WeightLayer(
            f"weights.{number}",
            names[number],
            names[number + 1],
            source_fold=fold if number == 0 else 1,
            bias=f"biases.{number}",
        )
        for number in range(last)
    )
    return Wiring(tuple(neuron_layers), weight_layers, ("embedding",) if embedded else ())


def build_mlp(spec: MlpNetwork, dataset: Dataset, *, dtype: torch.dtype, generator: torch.Generator) -> Mlp:
    """The perceptron of this spec, as wide at both ends as the data. Raises SpecError when they do not fit."""
    if dataset.is_sequence:
        raise SpecError("An `mlp` reads single examples, but these data are sequences: ask for a transformer.")
    if dataset.tokens is None and spec.embedding_width is not None:
        raise SpecError("`embedding_width` is for token data, but these inputs are numbers: leave it out.")
    if dataset.tokens is not None and spec.embedding_width is None:
        raise SpecError("These inputs are tokens: set `embedding_width`, the length of the vector each token becomes.")
    width = spec.embedding_width if dataset.tokens is not None else None
    sizes = [width or dataset.inputs, *spec.hidden, dataset.targets]
    shapes = [spec.geometry] * (len(sizes) - 1) + [spec.output_geometry or spec.geometry]
    return Mlp(
        place_layers(sizes, shapes, coordinates=spec.coordinates),
        activation=spec.activation,
        dtype=dtype,
        generator=generator,
        tokens=dataset.tokens,
        fold=dataset.inputs if dataset.tokens is not None else 1,
        move_inputs=spec.move_inputs,
        move_outputs=spec.move_outputs,
    )
