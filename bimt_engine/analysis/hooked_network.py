"""Any network as the analyses compute with it: torch passes whose activations are read and replaced by hooks.

Where a neuron layer lies in its activation, and what is pooled, is what the wiring declares.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor

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
from bimt_engine.analysis.numpy_mlp import NumpyMlp
from bimt_engine.analysis.reachability import drop_dead_ends, full_masks
from bimt_engine.networks.network import ActivationHook, Network

MAX_EXAMPLES_AT_ONCE = 65_536  # in one forward pass
NUMBERS_AT_ONCE = 2**24  # of the largest activation in one forward pass


@dataclass(frozen=True)
class HookedNetwork:
    """A float64 network in evaluation mode.

    side_by_side the same in numpy where the wiring is a chain, for interventions; torch is faster at all the rest.
    time_steps   the output's steps that count, their outputs side by side in one row; None: it has no time axis.
    at_once      examples in one forward pass.
    work         multiplications for one example.
    """

    network: Network
    side_by_side: NumpyMlp | None
    time_steps: tuple[int, ...] | None
    at_once: int
    work: int

    @classmethod
    def of(cls, network: Network, example: Inputs, *, time_steps: tuple[int, ...] | None) -> HookedNetwork:
        """A network and one example, from which the size of its activations is seen."""
        with torch.no_grad():
            _, seen = network.forward_with_hooks(as_tensor(example))
        wiring, parameters = network.wiring, dict(network.named_parameters())
        largest = max(activation.numel() for activation in seen.values())
        work = sum(
            parameters[w.parameter].numel() * seen[w.target].numel() // wiring.layer(w.target).places
            for w in wiring.weight_layers
        )
        at_once = max(1, min(MAX_EXAMPLES_AT_ONCE, NUMBERS_AT_ONCE // largest))
        return cls(network, NumpyMlp.of(network), time_steps, at_once, work)

    def with_values(self, values: Mapping[str, Array]) -> Network:
        """A copy of the network with these parameters."""
        network = copy.deepcopy(self.network)
        with torch.no_grad():
            for name, parameter in network.named_parameters():
                parameter.copy_(torch.from_numpy(values[name]))
        return network

    def rows(self, outputs: Float[Tensor, "N ..."]) -> Outputs:
        """Outputs of the network as one row for each example; of sequences, the steps that count."""
        if self.time_steps is not None:
            outputs = outputs[:, list(self.time_steps)].flatten(1)
        return outputs.numpy()

    def network_outputs(self, network: Network, inputs: Inputs) -> Outputs:
        """Outputs of a network of this shape."""
        answers = []
        with torch.no_grad():
            for start in range(0, len(inputs), self.at_once):
                answers.append(self.rows(network(as_tensor(inputs[start : start + self.at_once]))))
        return np.concatenate(answers)

    # --- Evaluator --------------------------------------------------------------------------------

    @property
    def replaces_signals(self) -> bool:
        """Whether a WeightChange can replace what a single connection carries: in a chain."""
        return self.side_by_side is not None

    def outputs(self, values: Mapping[str, Array], inputs: Inputs) -> Outputs:
        """The outputs of the network with these parameters."""
        return self.network_outputs(self.with_values(values), inputs)

    def activation_statistics(
        self, values: Mapping[str, Array], inputs: Inputs
    ) -> dict[str, tuple[Float[np.ndarray, " places"], Float[np.ndarray, " places"]]]:
        """Mean and standard deviation of each place's activation, by neuron layer; time steps and pixels pooled."""
        network, wiring = self.with_values(values), self.network.wiring
        parts: dict[str, list[tuple[int, Array, Array]]] = {layer.name: [] for layer in wiring.neuron_layers}
        for start in range(0, len(inputs), self.at_once):
            with torch.no_grad():
                _, seen = network.forward_with_hooks(as_tensor(inputs[start : start + self.at_once]))
            for name, activation in seen.items():
                flat = wiring.layer(name).to_places(activation).flatten(0, -2).numpy()
                parts[name].append((len(flat), flat.mean(axis=0), flat.std(axis=0)))
        return {name: _pooled(of) for name, of in parts.items()}

    def without_each(
        self, values: Mapping[str, Array], connections: Sequence[Connection], inputs: Inputs
    ) -> Iterator[tuple[Sequence[Connection], Float[np.ndarray, "connections N outputs"]]]:
        """Outputs with one connection at zero, one after another."""
        network = self.with_values(values)
        parameters = dict(network.named_parameters())
        for name, row, column in connections:
            with torch.no_grad():
                parameters[name][row, column] = 0.0
                outputs = self.network_outputs(network, inputs)
                parameters[name][row, column] = float(values[name][row, column])
            yield [(name, row, column)], outputs[None]

    def intervened(
        self, values: Mapping[str, Array], trials: Sequence[Trial], inputs: Inputs, partner: Shaped[np.ndarray, " N"]
    ) -> list[Outputs]:
        """Outputs under each trial: of a chain side by side, else one after another."""
        if self.side_by_side is not None:
            return self.side_by_side.intervened(values, trials, inputs, partner)
        return [self._under(values, trial, inputs, partner) for trial in trials]

    def full_masks(self, values: Mapping[str, Array]) -> Masks:
        """Everything kept: one mask for each weight layer, without what joins no neurons (groups of a convolution)."""
        masks = full_masks(self.network.wiring, values)
        return masks | {
            name: masks[name] & there.numpy() for name, there in self.network.joins.items() if name in masks
        }

    def without_dead_ends(self, values: Mapping[str, Array], masks: Masks) -> tuple[Values, Masks]:
        """The same network without connections that lie on no path; what they carried is left to a refit."""
        masks = drop_dead_ends(self.network.wiring, masks)
        return {n: np.where(masks[n], v, 0.0) if n in masks else v for n, v in values.items()}, masks

    # --- inside -----------------------------------------------------------------------------------

    def _under(self, values: Mapping[str, Array], trial: Trial, inputs: Inputs, partner: Array) -> Outputs:
        changed = dict(values)
        for change in trial:
            if isinstance(change, WeightChange):
                matrix = changed[change.parameter].copy()
                matrix[change.row, change.column] = change.new_weight(matrix[change.row, change.column])
                changed[change.parameter] = matrix
        neurons = [change for change in trial if isinstance(change, NeuronChange)]
        network, answers = self.with_values(changed), []
        chunks = [slice(start, start + self.at_once) for start in range(0, len(inputs), self.at_once)]
        before: dict[str, list[Tensor]] = {}
        with torch.no_grad():
            if any(change.do in ("mean", "resample") for change in neurons):
                untouched, layers = self.with_values(values), {change.layer for change in neurons}
                parts = [every_activation(untouched, as_tensor(inputs[chunk]))[2] for chunk in chunks]
                before = {
                    layer: [torch.cat(calls) for calls in zip(*(part[layer] for part in parts), strict=True)]
                    for layer in layers
                }
            for chunk in chunks:
                hook = self._hook(neurons, before, torch.from_numpy(partner[chunk]))
                answers.append(self.rows(network.forward_with_hooks(as_tensor(inputs[chunk]), hook)[0]))
        return np.concatenate(answers)

    def _hook(
        self, changes: Sequence[NeuronChange], before: Mapping[str, list[Tensor]], partner: Tensor
    ) -> ActivationHook:
        """Makes the changes in one forward pass.

        before    every activation of the changed layers without any change, in turn, for all examples.
        partner   of each example in this pass.
        """
        earlier = {layer: iter(of) for layer, of in before.items()}

        def hook(layer: str, activation: Tensor) -> Tensor:
            mine = [change for change in changes if change.layer == layer]
            if not mine:
                return activation
            of = self.network.wiring.layer(layer)
            now = of.to_places(activation)
            was = of.to_places(next(earlier[layer])) if layer in earlier else now
            for change in mine:
                if change.do == "set":
                    other = torch.full_like(now, change.value)
                elif change.do == "scale":
                    other = now * change.value
                elif change.do == "mean":
                    other = was.mean(dim=tuple(range(was.dim() - 1))).expand_as(now)
                elif change.do == "resample":
                    other = was[partner]
                else:
                    other = torch.zeros_like(now)
                now = torch.where(torch.from_numpy(change.places), other, now)
            return of.from_places(now)

        return hook


def as_tensor(inputs: Inputs) -> Tensor:
    """Inputs as the network takes them: numbers at float64, tokens at int64."""
    made = torch.as_tensor(inputs)
    return made.double() if made.is_floating_point() else made.long()


def every_activation(network: Network, x: Tensor) -> tuple[Tensor, dict[str, Tensor], dict[str, list[Tensor]]]:
    """Outputs, last activations, and every activation of each layer in turn.

    A residual stream is tapped after every change and a recurrent layer at every time step; a hook that replaces one of
    them needs what stood there at that very call.
    """
    calls: dict[str, list[Tensor]] = {}

    def remember(layer: str, activation: Tensor) -> Tensor:
        calls.setdefault(layer, []).append(activation)
        return activation

    with torch.no_grad():
        outputs, last = network.forward_with_hooks(x, remember)
    return outputs, last, calls


def _pooled(parts: Sequence[tuple[int, Array, Array]]) -> tuple[Array, Array]:
    """Mean and standard deviation of parts of which each has its count, mean and standard deviation."""
    if len(parts) == 1:
        return parts[0][1], parts[0][2]
    counts = np.array([[count] for count, _, _ in parts], dtype=np.float64)
    means, stds = np.stack([mean for _, mean, _ in parts]), np.stack([std for _, _, std in parts])
    mean = (counts * means).sum(axis=0) / counts.sum()
    return mean, np.sqrt((counts * (stds**2 + (means - mean) ** 2)).sum(axis=0) / counts.sum())
