"""Recurrent networks: one layer of hidden neurons that read the sequence and one another. Not in the paper.

    recurrent   h_t = σ(read_in x_t + recur h_{t-1} + hidden_bias)
    gru         r, z, n rows of both matrices:   h_t = (1 - z) ⊙ n + z ⊙ h_{t-1}
                r, z = sigmoid(read_in x_t + hidden_bias + recur h_{t-1} + recur_bias)
                n = tanh(read_in x_t + hidden_bias + r ⊙ (recur h_{t-1} + recur_bias))
    both        y_t = read_out h_t + output_bias,  h_0 = 0

The recurrent matrix runs along the same neuron layer on both of its axes; a gated neuron has three rows, which move
with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

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

GATES = ("reset", "update", "candidate")  # rows of one neuron in `read_in` and `recur`, in the order of `nn.GRU`


class RecurrentNetwork(Architecture):
    """One layer of hidden neurons that read the sequence and one another."""

    kind: Literal["recurrent"] = "recurrent"
    hidden: Width = 32
    activation: Activation = "tanh"
    geometry: Geometry = "line"

    def misfit(self, examples: Examples) -> str:
        """Sequences of numbers alone."""
        if examples != "sequences":
            return (
                "A `recurrent` network reads sequences of numbers, which these data are not: ask for another network."
            )
        return ""

    def build(self, data: Dataset, draw: Draw) -> Network:
        """The recurrent network of this spec. Raises SpecError unless the data are sequences."""
        from bimt_engine.networks.geometry import place_layers
        from bimt_engine.networks.network import Network

        if sentence := self.misfit(data.examples):
            raise SpecError(sentence)
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


class GruNetwork(Architecture):
    """One layer of gated recurrent units (GRU), each of which decides what it keeps and what it takes in."""

    kind: Literal["gru"] = "gru"
    hidden: Width = 32
    geometry: Geometry = "line"

    def misfit(self, examples: Examples) -> str:
        """Sequences of numbers alone."""
        if examples != "sequences":
            return "A `gru` reads sequences of numbers, which these data are not: ask for another network."
        return ""

    def build(self, data: Dataset, draw: Draw) -> Network:
        """The gated network of this spec. Raises SpecError unless the data are sequences of numbers."""
        from bimt_engine.networks.geometry import place_layers
        from bimt_engine.networks.network import Network

        if sentence := self.misfit(data.examples):
            raise SpecError(sentence)
        inputs, hidden, outputs = data.inputs, self.hidden, data.targets
        rows = len(GATES) * hidden
        parameters = {
            "read_in": draw.uniform(rows, inputs, fan_in=hidden),
            "recur": draw.uniform(rows, hidden, fan_in=hidden),
            "hidden_bias": draw.uniform(rows, fan_in=hidden),
            "recur_bias": draw.uniform(rows, fan_in=hidden),
            "read_out": draw.uniform(outputs, hidden, fan_in=hidden),
            "output_bias": draw.uniform(outputs, fan_in=hidden),
        }
        positions = place_layers([inputs, hidden, outputs], [self.geometry] * 3)
        return Network(self, recurrent_wiring(positions, gates=GATES), parameters)

    def compute(self, network: Network, x: Tensor, tap: Tap) -> Tensor:
        """One time step after another, as `nn.GRU` computes it; a hook sees the hidden layer step by step."""
        import torch
        from torch.nn.functional import linear

        driven = linear(tap("input", network.permute_inputs(x)), network.read_in, network.hidden_bias)
        hidden = x.new_zeros(x.shape[0], network.recur.shape[1])
        states = []
        for time in range(x.shape[1]):
            recalled = linear(hidden, network.recur, network.recur_bias)
            of_input, of_state = driven[:, time].chunk(len(GATES), -1), recalled.chunk(len(GATES), -1)
            reset, update = (torch.sigmoid(of_input[gate] + of_state[gate]) for gate in range(2))
            candidate = torch.tanh(of_input[2] + reset * of_state[2])
            hidden = (1 - update) * candidate + update * hidden
            if tap.hook is not None:
                hidden = tap.replace("hidden1", hidden[:, None])[:, 0]
            states.append(hidden)
        sheet = tap.record("hidden1", torch.stack(states, dim=1))
        return network.permute_outputs(tap("output", linear(sheet, network.read_out, network.output_bias)))


def recurrent_wiring(positions: Sequence[Float[Tensor, "_ axes"]], *, gates: tuple[str, ...] = ()) -> Wiring:
    """input → hidden1 ⟲ → output; every activation is (batch, time, neurons).

    gates   names of the rows that each hidden neuron has in both of its matrices; (): it has one, and one bias.
    """
    inputs, hidden, outputs = positions
    copies = len(gates) or 1
    recur_bias = "recur_bias" if gates else None
    ports = (
        Port("read_in", 0, copies),
        Port("hidden_bias", 0, copies),
        Port("recur", 0, copies),
        Port("recur", 1),
        *([Port(recur_bias, 0, copies)] if recur_bias else []),
        Port("read_out", 1),
    )
    return Wiring(
        (
            NeuronLayer("input", inputs, (Port("read_in", 1),), axis=2, samples=(1,)),
            NeuronLayer("hidden1", hidden, ports, axis=2, samples=(1,)),
            NeuronLayer("output", outputs, (Port("read_out", 0), Port("output_bias", 0)), axis=2, samples=(1,)),
        ),
        (
            WeightLayer("read_in", "input", "hidden1", target_copies=copies, bias="hidden_bias", roles=gates),
            WeightLayer("recur", "hidden1", "hidden1", target_copies=copies, bias=recur_bias, roles=gates),
            WeightLayer("read_out", "hidden1", "output", bias="output_bias"),
        ),
    )
