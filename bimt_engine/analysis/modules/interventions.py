"""Interventions: change anything inside a network and measure every metric. The network itself is not modified.

A change sets, scales, zeroes, averages or resamples a connection, a neuron, a module or an embedding dimension; a
trial is any number of changes at once. `run_interventions` takes a request as a document and gives plain JSON, within
limits; what is wrong with a request is named by its place.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from threadpoolctl import threadpool_limits

from bimt_engine.analysis.context import AnalysisContext, LossName
from bimt_engine.analysis.evaluator import Array, NeuronChange, Outputs, Values, WeightChange
from bimt_engine.analysis.extraction import neuron_id
from bimt_engine.analysis.hooked_network import as_tensor, every_activation
from bimt_engine.analysis.intervention_request import (
    MAX_TRIALS,
    Do,
    EachRequest,
    InterventionError,
    InterventionRequest,
    Kind,
    read_request,
)
from bimt_engine.analysis.modules.effects import partners
from bimt_engine.analysis.reachability import touched_places
from bimt_engine.data.dataset import Dataset
from bimt_engine.networks.network import Network

MAX_WORK = 2e11  # multiplications of all trials together: half a minute of one core
MAX_PROBLEMS = 50  # named in one refusal


@dataclass(frozen=True)
class Change:
    """One thing that is changed.

    kind, id   connection: its key, weights.0[3,1] (matrix, row, column) · neuron: hidden1:7 · module: A, A2 ·
               embedding: the dimension's index before any relocation, for all tokens at once.
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
        """Metrics, their change and the effects, for JSON."""
        change = {name: value - self.before[name] for name, value in self.metrics.items()}
        return {"metrics": self.metrics, "before": self.before, "change": change, "effects": self.effects}


class Intervention:
    """One network, ready to be changed.

    values    the parameters to start from: the pruned, refitted ones, or the trained ones.
    modules   name -> ids of its neurons, for changes of whole modules (A) and of groups inside them (A2); ends are left
              alone.
    """

    def __init__(
        self,
        context: AnalysisContext,
        values: Values,
        *,
        modules: Mapping[str, Sequence[str]] | None = None,
        seed: int = 0,
    ) -> None:
        self.context, self.values = context, values
        self.modules = modules or {}
        self.inputs, self.targets = context.development.inputs, context.development.targets
        self.partner = partners(len(self.inputs), np.random.default_rng([seed, 5]))
        # By the same arithmetic as every trial, so that a trial without a change changes nothing, to the last bit.
        [self.outputs] = context.evaluator.intervened(values, [[]], self.inputs, self.partner)
        self.before = self._metrics(self.outputs)

    def run(self, trials: Sequence[Sequence[Change]]) -> list[Outcome]:
        """What each trial does. Raises InterventionError for a change that cannot be made."""
        for change in (change for trial in trials for change in trial):
            self.check(change)
        parsed = [self._parsed(trial) for trial in trials]
        with np.errstate(over="ignore", invalid="ignore"):  # a neuron set to 1e308 gives an outcome that is no number
            answers = self.context.evaluator.intervened(self.values, parsed, self.inputs, self.partner)
            return [self._outcome(outputs) for outputs in answers]

    def check(self, change: Change) -> None:
        """Raises InterventionError where this change cannot be made."""
        self._parsed([change])
        if (
            change.kind == "connection"
            and change.do in ("mean", "resample")
            and not self.context.evaluator.replaces_signals
        ):
            raise InterventionError(
                "What a single connection carries can be replaced in perceptrons only: "
                f"{change.do} the neuron it comes from, or set, scale or zero its weight."
            )

    def parts(self, kind: Kind) -> list[str]:
        """The ids of what can be changed: the kept connections; the neurons inside that one of them touches."""
        wiring = self.context.wiring
        kept = {w.parameter: self.values[w.parameter] != 0 for w in wiring.weight_layers}
        if kind == "connection":
            return [f"{name}[{row},{column}]" for name, mask in kept.items() for row, column in np.argwhere(mask)]
        if kind == "module":
            return list(self.modules)
        if kind == "embedding":
            return [str(number) for number in range(wiring.input_layer.neurons)] if wiring.embeddings else []
        ends = (wiring.input_layer.name, wiring.output_layer.name)
        touched = touched_places(wiring, kept)
        return [
            neuron_id(layer, int(slot))
            for layer, places in touched.items()
            if layer not in ends
            for slot in np.flatnonzero(places)
        ]

    # --- outcomes ------------------------------------------------------------------------------

    def _outcome(self, outputs: Outputs) -> Outcome:
        if not np.isfinite(outputs).all():  # an accuracy would still be counted, of nothing
            unknown = dict.fromkeys(map(str, self.context.dataset.target_names), np.nan)
            return Outcome(dict.fromkeys(self.before, np.nan), self.before, unknown)
        variance = self.outputs.var(axis=0)
        moved = ((outputs - self.outputs) ** 2).mean(axis=0) / np.where(variance > 1e-300, variance, np.inf)
        names = self.context.dataset.target_names
        if len(names) != moved.size:  # sequences: several time steps of each target, side by side
            moved = moved.reshape(-1, len(names)).mean(axis=0)
        effects = {str(name): float(m) for name, m in zip(names, moved, strict=True)}
        return Outcome(self._metrics(outputs), self.before, effects)

    def _metrics(self, outputs: Outputs) -> dict[str, float]:
        losses = self.context.losses(outputs, self.context.development)
        train = len(self.context.train.inputs)
        found = {
            "prediction_loss": float(losses[:train].mean()),
            "validation_prediction_loss": float(losses[train:].mean()),
        }
        for name, part in (("accuracy", slice(train)), ("validation_accuracy", slice(train, None))):
            if (accuracy := self.context.accuracy(outputs[part], self.targets[part])) is not None:
                found[name] = accuracy
        return found

    # --- parsing -------------------------------------------------------------------------

    def _parsed(self, trial: Sequence[Change]) -> list[NeuronChange | WeightChange]:
        found: list[NeuronChange | WeightChange] = []
        for change in trial:
            value = _value(change)
            if change.kind == "connection":
                name, row, column = self._connection(change.id)
                found.append(WeightChange(name, row, column, change.do, value))
                continue
            places = self._neurons(change)
            found += [NeuronChange(layer, mask, change.do, value) for layer, mask in places.items()]
        return found

    def _connection(self, key: str) -> tuple[str, int, int]:
        match = re.fullmatch(r"(.+)\[(\d+),(\d+)\]", key)
        names = {w.parameter for w in self.context.wiring.weight_layers}
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
        wiring = self.context.wiring
        if change.kind == "neuron":
            places = self._places([change.id])
            if change.do == "set" and sum(int(mask.sum()) for mask in places.values()) > 1:
                raise InterventionError(
                    f"{change.id} is a column of several inputs, which one value cannot replace: zero, mean, resample "
                    "or scale it."
                )
            return places
        if change.kind == "module":
            if change.id not in self.modules:
                known = ", ".join(sorted(self.modules)) or "none"
                raise InterventionError(f"There is no module {change.id!r}; this network has {known}.")
            ends = (wiring.input_layer.name, wiring.output_layer.name)
            inner = [i for i in self.modules[change.id] if i.rpartition(":")[0] not in ends]
            return self._places(inner)
        if not wiring.embeddings:
            raise InterventionError("This network has no embedding: change an input neuron instead.")
        order = self.context.network.input_order.numpy()
        if not change.id.isdecimal() or int(change.id) >= order.size:
            raise InterventionError(
                f"There is no embedding dimension {change.id!r}; they count from 0 to {order.size - 1}."
            )
        return {wiring.input_layer.name: np.tile(order == int(change.id), wiring.input_layer.copies)}

    def _places(self, ids: Sequence[str]) -> dict[str, Array]:
        wiring = self.context.wiring
        sizes = {layer.name: layer.places for layer in wiring.neuron_layers}
        found: dict[str, Array] = {}
        for identifier in ids:
            layer, _, slot = identifier.rpartition(":")
            if layer not in sizes or not slot.isdecimal() or int(slot) >= sizes[layer]:
                raise InterventionError(
                    f"There is no neuron {identifier!r}: write layer:slot, with one of "
                    f"{', '.join(f'{name}:0…{size - 1}' for name, size in sizes.items())}."
                )
            found.setdefault(layer, np.zeros(sizes[layer], bool))[int(slot)] = True
        return {layer: wiring.layer(layer).whole_runs(mask) for layer, mask in found.items()}


def _value(change: Change) -> float:
    if change.do in ("set", "scale"):
        if change.value is None or not np.isfinite(change.value):
            raise InterventionError(f"To {change.do} {change.kind} {change.id} takes a finite `value`.")
        return float(change.value)
    if change.value is not None:
        raise InterventionError(f"`value` is for set and scale; {change.do} takes none.")
    return 0.0


def mean_activations(context: AnalysisContext) -> dict[str, list[Float[np.ndarray, " places"]]]:
    """What `mean` holds each place at: of every neuron layer, one array for each time that its activation is tapped.

    Means over training and validation examples, and over time steps and pixels that one tap sees.
    """
    inputs, at_once = context.development.inputs, context.general.at_once
    sums: dict[str, list[Array]] = {}
    rows: dict[str, list[int]] = {}
    for start in range(0, len(inputs), at_once):
        calls = every_activation(context.network, as_tensor(inputs[start : start + at_once]))[2]
        for layer, seen in calls.items():
            flat = [context.wiring.layer(layer).to_places(one).flatten(0, -2).numpy() for one in seen]
            if layer not in sums:
                sums[layer], rows[layer] = [np.zeros(one.shape[1]) for one in flat], [0] * len(flat)
            for number, one in enumerate(flat):
                sums[layer][number] += one.sum(axis=0)
                rows[layer][number] += len(one)
    return {layer: [of / count for of, count in zip(sums[layer], rows[layer], strict=True)] for layer in sums}


# --- documents in, documents out --------------------------------------------------------------------


def run_interventions(
    network: Network,
    dataset: Dataset,
    request: Mapping[str, Any] | InterventionRequest,
    *,
    modules: Sequence[Mapping[str, Any]] = (),
    loss: LossName | None = None,
    balance_outputs: bool = False,
    seed: int = 0,
) -> dict[str, Any]:
    """What the requested interventions do to every metric and output; JSON-able. The network is not changed.

    network   the one that the request names: pruned and refitted, or as trained. Weights of exactly 0 are not kept.
    modules   the evidence's documents of modules and of groups inside them, for changes of them as a whole.
    loss, balance_outputs   as the spec says; None: as the task asks.
    Raises InterventionError, with a JSON Pointer for every change that cannot be made.
    """
    request = request if isinstance(request, InterventionRequest) else read_request(request)
    with threadpool_limits(1):
        context = AnalysisContext.of(network, dataset, loss=loss, balance_outputs=balance_outputs, seed=seed)
        members = {str(module["name"]): list(module["neurons"]) for module in modules}
        intervention = Intervention(context, context.values(), modules=members, seed=seed)
        trials = _each(intervention, request.each) if request.each else [_changes(trial) for trial in request.trials]
        _refuse_unless_affordable(intervention, len(trials))
        _check(intervention, trials, pointer="/each" if request.each else None)
        outcomes = intervention.run(trials)
    documents = [
        {
            "changes": [{"kind": c.kind, "id": c.id, "do": c.do, "value": c.value} for c in trial],
            "metrics": outcome.metrics,
            "change": outcome.document()["change"],
            "effects": outcome.effects,
        }
        for trial, outcome in zip(trials, outcomes, strict=True)
    ]
    measure = "E[(y - y')²] / Var(y) of each output over training and validation examples"
    return {"network": request.network, "before": intervention.before, "measure": measure, "trials": documents}


def _changes(trial: Sequence[Any]) -> list[Change]:
    return [Change(change.kind, change.id, change.do, change.value) for change in trial]


def _each(intervention: Intervention, request: EachRequest) -> list[list[Change]]:
    """One trial for every part of this kind that the network has."""
    ids = intervention.parts(request.kind)
    if not ids:
        raise InterventionError(
            f"This network has no {request.kind} to change.", problems=(("/each/kind", "none there"),)
        )
    if len(ids) > MAX_TRIALS:
        raise InterventionError(
            f"This network has {len(ids)} of kind {request.kind}; at most {MAX_TRIALS} trials are run at once. "
            "Name the ones that matter in `trials`.",
            problems=(("/each/kind", f"{len(ids)} are more than {MAX_TRIALS}"),),
        )
    return [[Change(request.kind, identifier, request.do, request.value)] for identifier in ids]


def _refuse_unless_affordable(intervention: Intervention, trials: int) -> None:
    one = float(intervention.context.general.work) * len(intervention.inputs)
    if trials * one > MAX_WORK:
        fit = max(1, int(MAX_WORK / one))
        raise InterventionError(
            f"{trials} trials of this network on {len(intervention.inputs)} examples would take minutes: ask for at "
            f"most {fit} at once.",
            problems=(("/trials", f"at most {fit} at once"),),
        )


def _check(intervention: Intervention, trials: Sequence[Sequence[Change]], *, pointer: str | None) -> None:
    """Every change that cannot be made, named at once."""
    problems: list[tuple[str, str]] = []
    for t, trial in enumerate(trials):
        for c, change in enumerate(trial):
            try:
                intervention.check(change)
            except InterventionError as error:
                problems.append((pointer or f"/trials/{t}/{c}", str(error)))
            if (problems and pointer) or len(problems) >= MAX_PROBLEMS:
                raise InterventionError(problems[0][1], problems=tuple(problems))
    if problems:
        raise InterventionError(" ".join(sentence for _, sentence in problems[:5]), problems=tuple(problems))
