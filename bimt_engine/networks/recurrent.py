"""A recurrent network: one sheet of hidden neurons that read the sequence and one another.

The paper has none. It is here to show that a new architecture is one file that lists its ports: the recurrent matrix
simply runs along the same neuron layer on both of its axes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from bimt_engine.datasets.dataset import Dataset
from bimt_engine.errors import SpecError
from bimt_engine.networks.geometry import place_layers
from bimt_engine.networks.network import ACTIVATIONS, Edit, Network, new_bias, new_weight, note
from bimt_engine.networks.wiring import NeuronLayer, Port, WeightLayer, Wiring
from bimt_engine.spec import RecurrentNetwork


class Recurrent(Network):
    """h_t = σ(read_in x_t + recur h_{t-1} + bias), y_t = read_out h_t + bias, with h_0 = 0."""

    def __init__(
        self,
        positions: Sequence[Float[Tensor, "_ axes"]],
        *,
        activation: str,
        dtype: torch.dtype,
        generator: torch.Generator,
    ) -> None:
        super().__init__(recurrent_wiring(positions))
        inputs, hidden, outputs = (place.shape[0] for place in positions)
        self.activation = activation
        self.read_in = new_weight(hidden, inputs, dtype=dtype, generator=generator)
        self.recur = new_weight(hidden, hidden, dtype=dtype, generator=generator)
        self.hidden_bias = new_bias(hidden, hidden, dtype=dtype, generator=generator)
        self.read_out = new_weight(outputs, hidden, dtype=dtype, generator=generator)
        self.output_bias = new_bias(outputs, hidden, dtype=dtype, generator=generator)

    def _compute(self, x: Tensor, edit: Edit | None, seen: dict[str, Tensor] | None) -> Tensor:
        act = ACTIVATIONS[self.activation]
        here = note("input", self._enter(x), edit, seen)
        driven = functional.linear(here, self.read_in, self.hidden_bias)
        hidden = x.new_zeros(x.shape[0], self.recur.shape[0])
        states = []
        for time in range(x.shape[1]):
            hidden = act(driven[:, time] + functional.linear(hidden, self.recur))
            if edit is not None:  # an edit sees one time step at a time, so that what it changes flows on
                hidden = edit("hidden1", hidden[:, None])[:, 0]
            states.append(hidden)
        sheet = note("hidden1", torch.stack(states, dim=1), None, seen)
        return self._leave(note("output", functional.linear(sheet, self.read_out, self.output_bias), edit, seen))


def recurrent_wiring(positions: Sequence[Float[Tensor, "_ axes"]]) -> Wiring:
    """input → hidden1 ⟲ → output."""
    inputs, hidden, outputs = positions
    ports = (
        Port("read_in", 0),
        Port("hidden_bias", 0),
        Port("recur", 0),
        Port("recur", 1),
        Port("read_out", 1),
    )
    return Wiring(
        (
            NeuronLayer("input", inputs, (Port("read_in", 1),)),
            NeuronLayer("hidden1", hidden, ports),
            NeuronLayer("output", outputs, (Port("read_out", 0), Port("output_bias", 0))),
        ),
        (
            WeightLayer("read_in", "input", "hidden1", bias="hidden_bias"),
            WeightLayer("recur", "hidden1", "hidden1"),
            WeightLayer("read_out", "hidden1", "output", bias="output_bias"),
        ),
    )


def build_recurrent(
    spec: RecurrentNetwork, dataset: Dataset, *, dtype: torch.dtype, generator: torch.Generator
) -> Recurrent:
    """The recurrent network of this spec. Raises SpecError unless the data are sequences."""
    if not dataset.is_sequence:
        raise SpecError("A `recurrent` network reads sequences, but these data are single examples: ask for an mlp.")
    sizes = [dataset.inputs, spec.hidden, dataset.targets]
    return Recurrent(
        place_layers(sizes, [spec.geometry] * 3), activation=spec.activation, dtype=dtype, generator=generator
    )
