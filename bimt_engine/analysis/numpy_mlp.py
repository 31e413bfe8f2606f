"""A perceptron as plain float64 arrays: what small analyses compute on, thousands of times a second.

Outputs, activations, all ablations and all interventions side by side, for any wiring that is a chain. (A chain over
tokens has interventions only here: torch is faster at the rest of it.) Arrays inside are in slot order; inputs and
outputs are in the order of the data.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, Shaped
from scipy.special import erf, expit

from bimt_engine.analysis.evaluator import (
    Array,
    Connection,
    Inputs,
    Masks,
    NeuronChange,
    Outputs,
    Trial,
    Values,
    WeightChange,
)
from bimt_engine.networks.network import Network
from bimt_engine.networks.wiring import Chain, Wiring

SQRT_HALF = 0.7071067811865476
SQRT_2_OVER_PI = 0.7978845608028654
ABLATED_AT_ONCE = 4e6  # activations held at once while connections are ablated
NO_SLOPE = np.empty(0)
CHANGED_AT_ONCE = 2_000_000  # activations of one layer held at once while trials run side by side


def _silu(z: Array, slope: bool) -> tuple[Array, Array]:
    gate = expit(z)
    return z * gate, gate * (1 + z * (1 - gate)) if slope else NO_SLOPE


def _relu(z: Array, slope: bool) -> tuple[Array, Array]:
    return np.maximum(z, 0.0), (z > 0).astype(z.dtype) if slope else NO_SLOPE


def _tanh(z: Array, slope: bool) -> tuple[Array, Array]:
    a = np.tanh(z)
    return a, 1 - a * a if slope else NO_SLOPE


def _gelu(z: Array, slope: bool) -> tuple[Array, Array]:
    below = 0.5 * (1 + erf(z * SQRT_HALF))
    return z * below, below + z * np.exp(-0.5 * z * z) * SQRT_2_OVER_PI / 2 if slope else NO_SLOPE


def _gelu_tanh(z: Array, slope: bool) -> tuple[Array, Array]:
    t = np.tanh(SQRT_2_OVER_PI * (z + 0.044715 * z**3))
    a = 0.5 * z * (1 + t)
    if not slope:
        return a, NO_SLOPE
    inner = SQRT_2_OVER_PI * (1 + 3 * 0.044715 * z * z)
    return a, 0.5 * (1 + t) + 0.5 * z * (1 - t * t) * inner


ACTIVATIONS: dict[str, Callable[[Array, bool], tuple[Array, Array]]] = {
    "silu": _silu,
    "relu": _relu,
    "tanh": _tanh,
    "gelu": _gelu,
    "gelu_tanh": _gelu_tanh,
}
"""name -> (z, whether the slope is wanted) -> the activation, and its derivative or nothing."""


@dataclass(frozen=True)
class NumpyMlp:
    """A chain of weight layers; its parameters are passed to each call.

    input_order, output_order   which neuron sits in which slot at the two ends.
    """

    wiring: Wiring
    chain: Chain
    input_order: Int[np.ndarray, " inputs"]
    output_order: Int[np.ndarray, " outputs"]
    replaces_signals: bool = True

    @classmethod
    def of(cls, network: Network) -> NumpyMlp | None:
        """The network computed in numpy, or None where its wiring is no chain."""
        if network.wiring.chain is None:
            return None
        order_in, order_out = (o.cpu().numpy().copy() for o in (network.input_order, network.output_order))
        return cls(network.wiring, network.wiring.chain, order_in, order_out)

    @property
    def activation(self) -> str:
        """The activation function of the hidden layers."""
        return self.chain.activation

    @property
    def weights(self) -> tuple[str, ...]:
        """The names of the weight matrices, in order."""
        return self.chain.weights

    def inputs_in_slots(self, inputs: Shaped[np.ndarray, "N inputs"]) -> Shaped[np.ndarray, "N slots"]:
        """Numbers in the order of the data -> in slot order."""
        if self.chain.copies == 1:
            return inputs[:, self.input_order]
        return inputs.reshape(len(inputs), self.chain.copies, -1)[..., self.input_order].reshape(len(inputs), -1)

    def targets_in_slots(self, targets: Shaped[np.ndarray, "N ..."]) -> Shaped[np.ndarray, "N ..."]:
        """Targets in the order of the data -> in slot order; class labels -> the slot of their output."""
        if targets.ndim == 1:
            return np.argsort(self.output_order)[targets]
        return targets[:, self.output_order]

    # --- Evaluator --------------------------------------------------------------------------------

    def outputs(self, values: Mapping[str, Array], inputs: Inputs) -> Outputs:
        """The outputs of the network with these parameters."""
        to_data = np.argsort(self.output_order)
        if self.chain.copies > 1 or self.chain.embedding is not None:
            return self._activations(values, inputs)[-1][:, to_data]
        (first, *others), biases = split(values)
        read = np.flatnonzero(first.any(axis=0))  # of a pruned image few pixels are left
        here = inputs[:, self.input_order[read]]
        return forward([first[:, read], *others], biases, here, self.activation, slopes=False)[0][-1][:, to_data]

    def activation_statistics(
        self, values: Mapping[str, Array], inputs: Inputs
    ) -> dict[str, tuple[Float[np.ndarray, " places"], Float[np.ndarray, " places"]]]:
        """Mean and standard deviation of each place's activation, by neuron layer."""
        layers = zip(self.wiring.neuron_layers, self._activations(values, inputs), strict=True)
        return {layer.name: (a.mean(axis=0), a.std(axis=0)) for layer, a in layers}

    def without_each(
        self, values: Mapping[str, Array], connections: Sequence[Connection], inputs: Inputs
    ) -> Iterator[tuple[Sequence[Connection], Float[np.ndarray, "connections N outputs"]]]:
        """Outputs with one connection at zero, for each of them; only neurons that depend on it are computed again."""
        weights, biases = split(values)
        seen = self._activations(values, inputs)
        sums = [a @ w.T + b for a, w, b in zip(seen, weights, biases, strict=False)]
        to_data = np.argsort(self.output_order)
        by_target: dict[tuple[int, int], list[Connection]] = {}
        for name, row, column in connections:
            by_target.setdefault((self.weights.index(name), row), []).append((name, row, column))
        per_pass = max(1, int(ABLATED_AT_ONCE / (len(inputs) * max(w.shape[0] for w in weights))))
        for (number, row), into in by_target.items():
            for here in (into[start : start + per_pass] for start in range(0, len(into), per_pass)):
                columns = [column for _, _, column in here]
                lost = (seen[number][:, columns] * -weights[number][row, columns]).T
                yield here, self._after_change(number, row, lost, weights, seen, sums)[..., to_data]

    def _after_change(
        self, number: int, row: int, change: Array, weights: list[Array], seen: list[Array], sums: list[Array]
    ) -> Float[np.ndarray, "trials N slots"]:
        """Outputs in slot order where the sum that enters one neuron behind weight layer `number` is changed.

        change   what is added to it, (trials, N).
        seen     activations of every neuron layer without the change.
        sums     what enters the neurons of every layer but the first, without the change.
        """
        act = ACTIVATIONS[self.activation]
        rows, change = np.array([row]), change[..., None]
        for onward, after, entering in zip(weights[number + 1 :], seen[number + 1 :], sums[number:], strict=False):
            change = act(entering[:, rows] + change, False)[0] - after[:, rows]
            reached = np.flatnonzero(onward[:, rows].any(axis=1))
            rows, change = reached, change @ onward[np.ix_(reached, rows)].T
        outputs = np.repeat(sums[-1][None], len(change), axis=0)
        outputs[..., rows] += change
        return outputs

    def intervened(
        self, values: Mapping[str, Array], trials: Sequence[Trial], inputs: Inputs, partner: Shaped[np.ndarray, " N"]
    ) -> list[Outputs]:
        """Outputs under each trial: those that begin at the same layer run side by side from there."""
        weights, biases = split(values)
        base = self._activations(values, inputs)
        depth = {layer.name: i for i, layer in enumerate(self.wiring.neuron_layers)}
        depth |= {name: i for i, name in enumerate(self.chain.weights)}
        first = [
            min((depth[c.layer] if isinstance(c, NeuronChange) else depth[c.parameter] for c in trial), default=0)
            for trial in trials
        ]
        at_once = max(1, CHANGED_AT_ONCE // (len(inputs) * max(len(b) for b in biases)))
        answers: list[Array] = [np.empty(0)] * len(trials)
        to_data = np.argsort(self.output_order)
        for start in sorted(set(first)):
            mine = [i for i, f in enumerate(first) if f == start]
            for here in (mine[i : i + at_once] for i in range(0, len(mine), at_once)):
                outputs = self._from_layer(start, [trials[i] for i in here], weights, biases, base, partner)
                for i, rows in zip(here, outputs, strict=True):
                    answers[i] = rows[:, to_data]
        return answers

    def full_masks(self, values: Mapping[str, Array]) -> Masks:
        """Everything kept: weights and biases."""
        return {name: np.ones(values[name].shape, bool) for name in (*self.chain.weights, *self.chain.biases)}

    def without_dead_ends(self, values: Mapping[str, Array], masks: Masks) -> tuple[Values, Masks]:
        """The same network without neurons off every path; its outputs do not change."""
        return without_dead_neurons(values, masks, self.activation)

    # --- inside -----------------------------------------------------------------------------------

    def _activations(self, values: Mapping[str, Array], inputs: Inputs) -> list[Array]:
        """Of every neuron layer, (N, places)."""
        weights, biases = split(values)
        if self.chain.embedding is not None:  # a token enters as the vector it is learned as, in slot order already
            entering = values[self.chain.embedding][inputs].reshape(len(inputs), -1)
        else:
            entering = self.inputs_in_slots(inputs)
        return forward(weights, biases, entering, self.activation, slopes=False)[0]

    def _from_layer(
        self,
        start: int,
        trials: Sequence[Trial],
        weights: list[Array],
        biases: list[Array],
        base: list[Array],
        partner: Array,
    ) -> Float[np.ndarray, "trials N slots"]:
        """Outputs in slot order, computed again from neuron layer `start`."""
        act = ACTIVATIONS[self.activation]
        layers = self.wiring.neuron_layers
        here = np.repeat(base[start][None], len(trials), axis=0)
        for number in range(start, len(weights) + 1):
            if number > start:
                weight, shift, carried = self._changed_weights(number - 1, trials, weights, base, partner)
                here = here @ weight.swapaxes(-1, -2) + biases[number - 1] + shift[:, None, :]
                for i, row, signal in carried:
                    here[i, :, row] += signal
                if number < len(weights):
                    here = act(here, False)[0]
            for i, trial in enumerate(trials):
                for change in trial:
                    if isinstance(change, NeuronChange) and change.layer == layers[number].name:
                        here[i][:, change.places] = _replaced(
                            here[i][:, change.places], base[number][:, change.places], change, partner
                        )
        return here

    def _changed_weights(
        self, number: int, trials: Sequence[Trial], weights: list[Array], base: list[Array], partner: Array
    ) -> tuple[Array, Array, list[tuple[int, int, Array]]]:
        """Weights of a layer for each trial, what is added to its biases, and signals of other examples."""
        changed = weights[number]
        shift = np.zeros((len(trials), changed.shape[0]))
        carried: list[tuple[int, int, Array]] = []
        touched = [
            (i, c)
            for i, trial in enumerate(trials)
            for c in trial
            if isinstance(c, WeightChange) and c.parameter == self.chain.weights[number]
        ]
        if not touched:
            return changed, shift, carried
        changed = np.repeat(changed[None], len(trials), axis=0)
        for i, c in touched:
            weight = changed[i, c.row, c.column]
            signal = weight * base[number][:, c.column]
            changed[i, c.row, c.column] = c.new_weight(weight)
            if c.do == "mean":
                shift[i, c.row] += signal.mean()
            elif c.do == "resample":
                carried.append((i, c.row, signal[partner]))
        return changed, shift, carried


def _replaced(now: Array, before: Array, change: NeuronChange, partner: Array) -> Array:
    if change.do == "set":
        return np.full_like(now, change.value)
    if change.do == "scale":
        return now * change.value
    if change.do == "mean":
        return np.broadcast_to(before.mean(axis=0), now.shape)
    return before[partner] if change.do == "resample" else np.zeros_like(now)


def forward(
    weights: Sequence[Float[np.ndarray, "*_ _ _"]],
    biases: Sequence[Float[np.ndarray, "*_ _"]],
    inputs: Shaped[np.ndarray, "*_ N sources"],
    activation: str,
    *,
    slopes: bool = True,
) -> tuple[list[Array], list[Array]]:
    """Activations of every neuron layer, inputs first and outputs last, and the slopes of the hidden ones if wanted.

    A leading axis on the weights (…, target, source) and biases (…, 1, target) runs many networks at once.
    """
    act = ACTIVATIONS[activation]
    here, seen, found = inputs, [inputs], []
    last = len(weights) - 1
    for number, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        here = here @ weight.swapaxes(-1, -2) + bias
        if number < last:
            here, slope = act(here, slopes)
            found.append(slope)
        seen.append(here)
    return seen, found


def split(values: Mapping[str, Array]) -> tuple[list[Array], list[Array]]:
    """Weights and biases, in order, out of named values."""
    layers = sum(name.startswith("weights.") for name in values)
    return [values[f"weights.{i}"] for i in range(layers)], [values[f"biases.{i}"] for i in range(layers)]


def without_dead_neurons(values: Mapping[str, Array], masks: Masks, activation: str) -> tuple[Values, Masks]:
    """A perceptron without the neurons off every path from an input to an output; its outputs do not change.

    A neuron that no input reaches has one constant activation, which moves into the biases it feeds. A neuron that
    reaches no output is left out. Biases of neurons on a path, and of all outputs, are kept.
    """
    layers = sum(name.startswith("weights.") for name in values)
    act = ACTIVATIONS[activation]
    values, masks = dict(values), dict(masks)
    ahead: Array = np.ones(masks["weights.0"].shape[1], bool)
    reached = [ahead]
    for i in range(layers):
        ahead = np.asarray((masks[f"weights.{i}"] & ahead).any(axis=1))
        reached.append(ahead)
        if i + 1 < layers and not ahead.all():
            constant = act(values[f"biases.{i}"], False)[0] * ~ahead
            onward = values[f"weights.{i + 1}"] * masks[f"weights.{i + 1}"]
            values[f"biases.{i + 1}"] = values[f"biases.{i + 1}"] + onward @ constant
    behind: Array = np.ones(masks[f"weights.{layers - 1}"].shape[0], bool)
    for i in reversed(range(layers)):
        # An output that no input reaches is its bias; its row of weights is zero already.
        live_rows = behind & reached[i + 1]
        masks[f"weights.{i}"] = masks[f"weights.{i}"] & live_rows[:, None] & reached[i]
        masks[f"biases.{i}"] = live_rows if i + 1 < layers else np.ones_like(live_rows)
        behind = np.asarray(masks[f"weights.{i}"].any(axis=0))
    for name in values:
        values[name] = np.where(masks[name], values[name], 0.0)
    return values, masks
