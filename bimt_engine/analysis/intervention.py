"""Interventions: change anything inside a network and see every metric move. Nothing is modified.

A change sets, scales, zeroes, averages or resamples a connection, a neuron, a module or an embedding dimension; a
trial is any number of changes at once. Perceptrons run all trials side by side, from the first layer that a trial
touches; other networks run them one by one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bimt_engine.analysis.asked import Do, InterventionError, Kind
from bimt_engine.analysis.extraction import neuron_id, touched_places
from bimt_engine.analysis.losses import loss_per_example
from bimt_engine.analysis.paths import copies
from bimt_engine.analysis.plain_mlp import ACTIVATIONS, Array, PlainMlp, Values, forward, split
from bimt_engine.analysis.subject import Subject
from bimt_engine.networks.mlp import Mlp
from bimt_engine.networks.network import Network

AT_ONCE = 2_000_000  # activations of one layer held at once


@dataclass(frozen=True)
class Change:
    """One thing that is changed.

    kind, id   connection: its key, weights.0[3,1] (matrix, row, column) · neuron: hidden1:7 · module: its letter ·
               embedding: the dimension's number from birth, for all tokens at once.
    do         set (to `value`) · scale (by `value`) · zero · mean (over examples) · resample (from another one).
               On a connection, mean and resample replace what it carries; set, scale and zero its weight.
    """

    kind: Kind
    id: str
    do: Do = "zero"
    value: float | None = None


@dataclass(frozen=True)
class Outcome:
    """The metrics under a trial, what they were, and the effect on each output as a share of its variance.

    Not a number where a trial leads to numbers that cannot be computed with.
    """

    metrics: dict[str, float]
    before: dict[str, float]
    effects: dict[str, float]

    def document(self) -> dict[str, Any]:
        change = {name: value - self.before[name] for name, value in self.metrics.items()}
        return {"metrics": self.metrics, "before": self.before, "change": change, "effects": self.effects}


@dataclass(frozen=True)
class _NeuronChange:
    layer: str
    places: Array  # bool
    do: Do
    value: float


@dataclass(frozen=True)
class _WeightChange:
    parameter: str
    row: int
    column: int
    do: Do
    value: float


class Intervention:
    """One network, ready to be changed.

    values    the parameters to start from: the pruned, refitted ones, or the trained ones.
    modules   letter -> ids of its neurons, for changes of whole modules; ends are left alone.
    """

    def __init__(
        self, subject: Subject, values: Values, *, modules: Mapping[str, Sequence[str]] | None = None, seed: int = 0
    ) -> None:
        self.subject, self.values = subject, values
        self.modules = modules or {}
        self.plain = subject.plain or _behind_the_embedding(subject.network)
        self.inputs = np.concatenate([subject.train.inputs, subject.held_out.inputs])
        self.targets = np.concatenate([subject.train.targets, subject.held_out.targets])
        cycle = np.random.default_rng([seed, 5]).permutation(len(self.inputs))
        self.partner = np.empty_like(cycle)
        self.partner[cycle] = np.roll(cycle, 1)
        self.outputs = np.concatenate(
            [subject.outputs(values, subject.train), subject.outputs(values, subject.held_out)]
        )
        self.before = self._metrics(self.outputs)

    def run(self, trials: Sequence[Sequence[Change]]) -> list[Outcome]:
        """What each trial does. Raises InterventionError for a change that cannot be made."""
        for change in (change for trial in trials for change in trial):
            self.check(change)
        parsed = [self._parsed(trial) for trial in trials]
        with np.errstate(over="ignore", invalid="ignore"):  # whoever sets a neuron to 1e308 is told what comes of it
            answers = self._side_by_side(self.plain, parsed) if self.plain is not None else map(self._alone, parsed)
            return [self._outcome(outputs) for outputs in answers]

    def check(self, change: Change) -> None:
        """Raises InterventionError where this change cannot be made."""
        self._parsed([change])
        if change.kind == "connection" and change.do in ("mean", "resample") and self.plain is None:
            raise InterventionError(
                "What a single connection carries can be replaced in perceptrons only: "
                f"{change.do} the neuron it comes from, or set, scale or zero its weight."
            )

    def parts(self, kind: Kind) -> list[str]:
        """The ids of what there is to change; of connections those kept, of neurons those that one touches inside."""
        wiring = self.subject.wiring
        kept = {w.parameter: self.values[w.parameter] != 0 for w in wiring.weight_layers}
        if kind == "connection":
            return [f"{name}[{row},{column}]" for name, mask in kept.items() for row, column in np.argwhere(mask)]
        if kind == "module":
            return list(self.modules)
        if kind == "embedding":
            return [str(number) for number in range(wiring.input_layer.neurons)] if wiring.embeddings else []
        ends = (wiring.input_layer.name, wiring.output_layer.name)
        touched = touched_places(self.subject, kept)
        return [
            neuron_id(layer, int(slot))
            for layer, places in touched.items()
            if layer not in ends
            for slot in np.flatnonzero(places)
        ]

    # --- what happened ------------------------------------------------------------------------------

    def _outcome(self, outputs: Array) -> Outcome:
        if not np.isfinite(outputs).all():  # an accuracy would still be counted, of nothing
            unknown = dict.fromkeys(map(str, self.subject.dataset.target_names), np.nan)
            return Outcome(dict.fromkeys(self.before, np.nan), self.before, unknown)
        variance = self.outputs.var(axis=0)
        moved = ((outputs - self.outputs) ** 2).mean(axis=0) / np.where(variance > 1e-300, variance, np.inf)
        names = self.subject.dataset.target_names
        if len(names) != moved.size:  # sequences: several time steps of each target, side by side
            moved = moved.reshape(-1, len(names)).mean(axis=0)
        effects = {str(name): float(m) for name, m in zip(names, moved, strict=True)}
        return Outcome(self._metrics(outputs), self.before, effects)

    def _metrics(self, outputs: Array) -> dict[str, float]:
        losses = loss_per_example(outputs, self.targets, self.subject.loss)
        train = len(self.subject.train.inputs)
        found = {
            "prediction_loss": float(losses[:train].mean()),
            "test_prediction_loss": float(losses[train:].mean()),
        }
        if self.subject.dataset.task == "classification":
            right = outputs.argmax(-1) == self.targets
            found |= {"accuracy": float(right[:train].mean()), "test_accuracy": float(right[train:].mean())}
        return found

    # --- what was asked for -------------------------------------------------------------------------

    def _parsed(self, trial: Sequence[Change]) -> list[_NeuronChange | _WeightChange]:
        found: list[_NeuronChange | _WeightChange] = []
        for change in trial:
            value = _value(change)
            if change.kind == "connection":
                name, row, column = self._connection(change.id)
                found.append(_WeightChange(name, row, column, change.do, value))
                continue
            places = self._neurons(change)
            found += [_NeuronChange(layer, mask, change.do, value) for layer, mask in places.items()]
        return found

    def _connection(self, key: str) -> tuple[str, int, int]:
        match = re.fullmatch(r"(.+)\[(\d+),(\d+)\]", key)
        names = {w.parameter for w in self.subject.wiring.weight_layers}
        if not match or match[1] not in names:
            raise InterventionError(
                f"There is no connection {key!r}: write matrix[row,column], with one of {', '.join(sorted(names))}."
            )
        row, column = int(match[2]), int(match[3])
        rows, columns = self.values[match[1]].shape
        if row >= rows or column >= columns:
            raise InterventionError(f"{key!r} is outside of {match[1]}, which has {rows} rows and {columns} columns.")
        return match[1], row, column

    def _neurons(self, change: Change) -> dict[str, Array]:
        wiring = self.subject.wiring
        if change.kind == "neuron":
            return self._places([change.id])
        if change.kind == "module":
            if change.id not in self.modules:
                known = ", ".join(sorted(self.modules)) or "none"
                raise InterventionError(f"There is no module {change.id!r}; this network has {known}.")
            ends = (wiring.input_layer.name, wiring.output_layer.name)
            inner = [i for i in self.modules[change.id] if i.rpartition(":")[0] not in ends]
            return self._places(inner)
        if not wiring.embeddings:
            raise InterventionError("This network has no embedding: change an input neuron instead.")
        order = self.subject.network.input_order.numpy()
        if not change.id.isdecimal() or int(change.id) >= order.size:
            raise InterventionError(
                f"There is no embedding dimension {change.id!r}; they count from 0 to {order.size - 1}."
            )
        return {wiring.input_layer.name: np.tile(order == int(change.id), copies(wiring, wiring.input_layer.name))}

    def _places(self, ids: Sequence[str]) -> dict[str, Array]:
        wiring = self.subject.wiring
        sizes = {layer.name: layer.neurons * copies(wiring, layer.name) for layer in wiring.neuron_layers}
        found: dict[str, Array] = {}
        for identifier in ids:
            layer, _, slot = identifier.rpartition(":")
            if layer not in sizes or not slot.isdecimal() or int(slot) >= sizes[layer]:
                raise InterventionError(
                    f"There is no neuron {identifier!r}: write layer:slot, with one of "
                    f"{', '.join(f'{name}:0…{size - 1}' for name, size in sizes.items())}."
                )
            found.setdefault(layer, np.zeros(sizes[layer], bool))[int(slot)] = True
        return found

    # --- perceptrons: side by side ------------------------------------------------------------------

    def _side_by_side(self, plain: PlainMlp, trials: list[list[_NeuronChange | _WeightChange]]) -> list[Array]:
        weights, biases = split(self.values)
        # Tokens enter as the vectors that they are learned as, which lie in slot order.
        entering = (
            self.inputs if self.subject.plain else self.values["embedding"][self.inputs].reshape(len(self.inputs), -1)
        )
        inputs = plain.inputs_in_slots(entering)
        base, _ = forward(weights, biases, inputs, plain.activation)
        names = [layer.name for layer in self.subject.wiring.neuron_layers]
        depth = {name: i for i, name in enumerate(names)} | {f"weights.{i}": i for i in range(len(weights))}
        first = [
            min((depth[c.layer] if isinstance(c, _NeuronChange) else depth[c.parameter] for c in trial), default=0)
            for trial in trials
        ]
        at_once = max(1, AT_ONCE // (len(inputs) * max(len(b) for b in biases)))
        answers: list[Array] = [np.empty(0)] * len(trials)
        to_data = np.argsort(plain.output_order)
        for start in sorted(set(first)):
            mine = [i for i, f in enumerate(first) if f == start]
            for here in (mine[i : i + at_once] for i in range(0, len(mine), at_once)):
                outputs = self._from_layer(start, [trials[i] for i in here], weights, biases, base, names, plain)
                for i, rows in zip(here, outputs, strict=True):
                    answers[i] = rows[:, to_data]
        return answers

    def _from_layer(
        self,
        start: int,
        trials: list[list[_NeuronChange | _WeightChange]],
        weights: list[Array],
        biases: list[Array],
        base: list[Array],
        names: list[str],
        plain: PlainMlp,
    ) -> Array:
        """Outputs (trials, N, slots), computed anew from neuron layer `start`."""
        act = ACTIVATIONS[plain.activation]
        here = np.repeat(base[start][None], len(trials), axis=0)
        for number in range(start, len(weights) + 1):
            if number > start:
                weight, shift, carried = self._changed_weights(number - 1, trials, weights, base)
                here = here @ weight.swapaxes(-1, -2) + biases[number - 1] + shift[:, None, :]
                for i, row, signal in carried:
                    here[i, :, row] += signal
                if number < len(weights):
                    here = act(here)[0]
            for i, trial in enumerate(trials):
                for change in trial:
                    if isinstance(change, _NeuronChange) and change.layer == names[number]:
                        here[i][:, change.places] = self._replaced(
                            here[i][:, change.places], base[number][:, change.places], change
                        )
        return here

    def _changed_weights(
        self, number: int, trials: list[list[_NeuronChange | _WeightChange]], weights: list[Array], base: list[Array]
    ) -> tuple[Array, Array, list[tuple[int, int, Array]]]:
        """Weights of a layer for each trial, what is added to its biases, and signals of other examples."""
        changed = weights[number]
        shift = np.zeros((len(trials), changed.shape[0]))
        carried: list[tuple[int, int, Array]] = []
        touched = [
            (i, c)
            for i, trial in enumerate(trials)
            for c in trial
            if isinstance(c, _WeightChange) and c.parameter == f"weights.{number}"
        ]
        if not touched:
            return changed, shift, carried
        changed = np.repeat(changed[None], len(trials), axis=0)
        for i, c in touched:
            weight = changed[i, c.row, c.column]
            signal = weight * base[number][:, c.column]
            changed[i, c.row, c.column] = _new_weight(weight, c)
            if c.do == "mean":
                shift[i, c.row] += signal.mean()
            elif c.do == "resample":
                carried.append((i, c.row, signal[self.partner]))
        return changed, shift, carried

    def _replaced(self, now: Array, plain: Array, change: _NeuronChange) -> Array:
        if change.do == "set":
            return np.full_like(now, change.value)
        if change.do == "scale":
            return now * change.value
        if change.do == "mean":
            return np.broadcast_to(plain.mean(axis=0), now.shape)
        return plain[self.partner] if change.do == "resample" else np.zeros_like(now)

    # --- any other network: one by one --------------------------------------------------------------

    def _alone(self, trial: list[_NeuronChange | _WeightChange]) -> Array:
        subject = self.subject
        values = dict(self.values)
        for change in trial:
            if isinstance(change, _WeightChange):
                values[change.parameter] = values[change.parameter].copy()
                weight = values[change.parameter][change.row, change.column]
                values[change.parameter][change.row, change.column] = _new_weight(weight, change)
        network = subject.with_values(values)
        inputs = subject.tensor(self.inputs)
        neurons = [change for change in trial if isinstance(change, _NeuronChange)]
        notes: dict[str, list[Tensor]] = {}

        def remember(layer: str, activation: Tensor) -> Tensor:
            notes.setdefault(layer, []).append(activation)
            return activation

        with torch.no_grad():
            if any(change.do in ("mean", "resample") for change in neurons):
                subject.with_values(self.values).run(inputs, remember)
            outputs, _ = network.run(inputs, self._edit(neurons, notes))
        return subject.rows(outputs)

    def _edit(self, changes: list[_NeuronChange], notes: dict[str, list[Tensor]]) -> Callable[[str, Tensor], Tensor]:
        remembered = {layer: iter(of) for layer, of in notes.items()}

        def edit(layer: str, activation: Tensor) -> Tensor:
            plain = next(remembered[layer]) if layer in remembered else activation
            for change in changes:
                if change.layer != layer:
                    continue
                lead = 2 if self.subject.dataset.is_sequence else 1
                mask = torch.from_numpy(change.places).reshape(activation.shape[lead:])
                if change.do == "set":
                    other = torch.full_like(activation, change.value)
                elif change.do == "scale":
                    other = activation * change.value
                elif change.do == "mean":
                    other = plain.mean(dim=tuple(range(lead)), keepdim=True).expand_as(activation)
                elif change.do == "resample":
                    other = plain[torch.from_numpy(self.partner)]
                else:
                    other = torch.zeros_like(activation)
                activation = torch.where(mask, other, activation)
            return activation

        return edit


def _behind_the_embedding(network: Network) -> PlainMlp | None:
    """What a perceptron over tokens does with their vectors, as arrays; None for any other network."""
    if not isinstance(network, Mlp):
        return None
    weights = tuple(w.detach().double().numpy().copy() for w in network.weights)
    biases = tuple(b.detach().double().numpy().copy() for b in network.biases)
    order = network.output_order.numpy().copy()
    return PlainMlp(weights, biases, network.activation, np.arange(weights[0].shape[1]), order)


def _value(change: Change) -> float:
    if change.do in ("set", "scale"):
        if change.value is None or not np.isfinite(change.value):
            raise InterventionError(f"To {change.do} {change.kind} {change.id} takes a finite `value`.")
        return float(change.value)
    if change.value is not None:
        raise InterventionError(f"`value` is for set and scale; {change.do} takes none.")
    return 0.0


def _new_weight(weight: float, change: _WeightChange) -> float:
    if change.do == "set":
        return change.value
    return float(weight) * change.value if change.do == "scale" else 0.0
