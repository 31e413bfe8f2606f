"""A recurrent network: one layer of hidden neurons that read the sequence and one another. Not in the paper.

    h_t = σ(read_in x_t + recur h_{t-1} + hidden_bias),  y_t = read_out h_t + output_bias,  h_0 = 0

The recurrent matrix runs along the same neuron layer on both of its axes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from bimt_engine.data.dataset import Dataset
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


class RecurrentNetwork(Architecture):
    """One layer of hidden neurons that read the sequence and one another."""

    kind: Literal["recurrent"] = "recurrent"
    hidden: Width = 32
    activation: Activation = "tanh"
    geometry: Geometry = "line"

    def build(self, data: Dataset, draw: Draw) -> Network:
        """The recurrent network of this spec. Raises SpecError unless the data are sequences."""
        from bimt_engine.networks.geometry import place_layers
        from bimt_engine.networks.network import Network

        if not data.is_sequence:
            raise SpecError(
                "A `recurrent` network reads sequences, but these data are single examples: ask for an mlp."
            )
        inputs, hidden, outputs = data.inputs, self.hidden, data.targets
        parameters = {
            "read_in": draw.uniform(hidden, inputs, fan_in=inputs),
            "recur": draw.uniform(hidden, hidden, fan_in=hidden),
            "hidden_bias": draw.uniform(hidden, fan_in=hidden),
            "read_out": draw.uniform(outputs, hidden, fan_in=hidden),
            "output_bias": draw.uniform(outputs, fan_in=hidden),
        }
        return Network(self, recurrent_wiring(place_layers([inputs, hidden, outputs], [self.geometry] * 3)), parameters)

    def compute(self, network: Network, x: Tensor, tap: Tap) -> Tensor:
        """One time step after another; a hook sees the hidden layer step by step, so that what it changes flows on."""
        import torch
        from torch.nn.functional import linear

        from bimt_engine.networks.network import ACTIVATIONS

        act = ACTIVATIONS[self.activation]
        recur = network.recur
        driven = linear(tap("input", network.permute_inputs(x)), network.read_in, network.hidden_bias)
        hidden = x.new_zeros(x.shape[0], recur.shape[0])
        states = []
        for time in range(x.shape[1]):
            hidden = act(driven[:, time] + linear(hidden, recur))
            if tap.hook is not None:
                hidden = tap.replace("hidden1", hidden[:, None])[:, 0]
            states.append(hidden)
        sheet = tap.record("hidden1", torch.stack(states, dim=1))
        return network.permute_outputs(tap("output", linear(sheet, network.read_out, network.output_bias)))


def recurrent_wiring(positions: Sequence[Float[Tensor, "_ axes"]]) -> Wiring:
    """input → hidden1 ⟲ → output; every activation is (batch, time, neurons)."""
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
            NeuronLayer("input", inputs, (Port("read_in", 1),), axis=2, samples=(1,)),
            NeuronLayer("hidden1", hidden, ports, axis=2, samples=(1,)),
            NeuronLayer("output", outputs, (Port("read_out", 0), Port("output_bias", 0)), axis=2, samples=(1,)),
        ),
        (
            WeightLayer("read_in", "input", "hidden1", bias="hidden_bias"),
            WeightLayer("recur", "hidden1", "hidden1"),
            WeightLayer("read_out", "hidden1", "output", bias="output_bias"),
        ),
    )
