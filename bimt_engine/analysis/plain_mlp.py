"""A multilayer perceptron as plain float64 arrays: what small analyses compute on, thousands of times a second.

Everything is in slot order: inputs and targets are brought into it once, by `to_slots`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.special import erf, expit

from bimt_engine.networks.mlp import Mlp
from bimt_engine.networks.network import Network

Array = np.ndarray
Values = dict[str, Array]
"""Every parameter of a network by name, float64."""

SQRT_HALF = 0.7071067811865476
SQRT_2_OVER_PI = 0.7978845608028654


def _silu(z: Array) -> tuple[Array, Array]:
    gate = expit(z)
    return z * gate, gate * (1 + z * (1 - gate))


def _tanh(z: Array) -> tuple[Array, Array]:
    a = np.tanh(z)
    return a, 1 - a * a


def _gelu(z: Array) -> tuple[Array, Array]:
    below = 0.5 * (1 + erf(z * SQRT_HALF))
    return z * below, below + z * np.exp(-0.5 * z * z) * SQRT_2_OVER_PI / 2


def _gelu_tanh(z: Array) -> tuple[Array, Array]:
    t = np.tanh(SQRT_2_OVER_PI * (z + 0.044715 * z**3))
    slope = SQRT_2_OVER_PI * (1 + 3 * 0.044715 * z * z)
    return 0.5 * z * (1 + t), 0.5 * (1 + t) + 0.5 * z * (1 - t * t) * slope


ACTIVATIONS: dict[str, Callable[[Array], tuple[Array, Array]]] = {
    "silu": _silu,
    "relu": lambda z: (np.maximum(z, 0.0), (z > 0).astype(z.dtype)),
    "tanh": _tanh,
    "gelu": _gelu,
    "gelu_tanh": _gelu_tanh,
}
"""name -> the activation and its derivative at once."""


@dataclass(frozen=True)
class PlainMlp:
    """Weights (target, source) and biases (target) of each weight layer; who sits at the two ends."""

    weights: tuple[Array, ...]
    biases: tuple[Array, ...]
    activation: str
    input_order: Array
    output_order: Array

    @classmethod
    def of(cls, network: Network) -> PlainMlp | None:
        """The network as arrays, or None where it is more than a perceptron on plain numbers."""
        if not isinstance(network, Mlp) or network.embedded:
            return None
        return cls(
            tuple(w.detach().double().cpu().numpy().copy() for w in network.weights),
            tuple(b.detach().double().cpu().numpy().copy() for b in network.biases),
            network.activation,
            network.input_order.cpu().numpy().copy(),
            network.output_order.cpu().numpy().copy(),
        )

    def inputs_in_slots(self, inputs: Float[Array, "N inputs"]) -> Float[Array, "N slots"]:
        """Inputs in the order of the data -> in slot order."""
        return inputs[:, self.input_order]

    def targets_in_slots(self, targets: Array) -> Array:
        """Targets in the order of the data -> in slot order; class labels -> the slot of their output."""
        if targets.ndim == 1:
            return np.argsort(self.output_order)[targets]
        return targets[:, self.output_order]

    def values(self) -> Values:
        """The parameters under the names that the network gives them."""
        named = {f"weights.{i}": w for i, w in enumerate(self.weights)}
        return named | {f"biases.{i}": b for i, b in enumerate(self.biases)}


def forward(
    weights: tuple[Array, ...] | list[Array], biases: tuple[Array, ...] | list[Array], inputs: Array, activation: str
) -> tuple[list[Array], list[Array]]:
    """Activations of every neuron layer, inputs first and outputs last, and the slopes of the hidden ones.

    A leading axis on the weights (…, target, source) and biases (…, 1, target) runs many networks at once.
    """
    act = ACTIVATIONS[activation]
    here, seen, slopes = inputs, [inputs], []
    last = len(weights) - 1
    for number, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        here = here @ weight.swapaxes(-1, -2) + bias
        if number < last:
            here, slope = act(here)
            slopes.append(slope)
        seen.append(here)
    return seen, slopes


def split(values: Mapping[str, Array]) -> tuple[list[Array], list[Array]]:
    """Weights and biases, in order, out of named values."""
    layers = sum(name.startswith("weights.") for name in values)
    return [values[f"weights.{i}"] for i in range(layers)], [values[f"biases.{i}"] for i in range(layers)]
