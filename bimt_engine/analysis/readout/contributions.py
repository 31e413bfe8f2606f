"""What a group of hidden neurons computes: a formula for what it adds to an output.

Where the groups of a partition are added up, the contribution of a group to an output is the output as it is, less the
output with the group held at its mean: a function of what the group reads, and of a perceptron a difference of two
perceptrons. It is searched like an output (`function_search.py`), in the library alone, and judged in the output's
place: the network with the formula instead of the group must lose no more than the tolerance allows. Contributions are
told up to a constant, which the groups could share out among them in any way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

from bimt_engine.analysis.context import AnalysisContext, DataUnits, Examples
from bimt_engine.analysis.evaluator import Array, Values
from bimt_engine.analysis.numpy_mlp import NumpyMlp, forward, split
from bimt_engine.analysis.readout.formulas import MAX_INPUTS, none
from bimt_engine.analysis.readout.function_search import Budget, Sampled, find, symbols_for
from bimt_engine.analysis.readout.symmetry import function_of, gradients, perceptron_of
from bimt_engine.analysis.readout.verdicts import Judge
from bimt_engine.analysis.report import FormulaDocument, GroupFormula, InteriorDocument, InteriorGroup
from bimt_engine.analysis.statements.interior import interior_statement

MAX_GROUPS = 12  # whose contributions are searched; a fifth of a second each
MAX_OUTPUTS = 2  # of one group, those that it moves most

Places = Mapping[str, Array]


def with_group_formulas(
    subject: AnalysisContext, values: Values, document: InteriorDocument, *, tolerance: float, seed: int
) -> InteriorDocument:
    """The document with `computes` in the groups of the partition that is told first, where its groups are added up.

    Unchanged where the network is more than a perceptron on plain numbers, or has more than MAX_INPUTS inputs.
    """
    plain, main = perceptron_of(subject), document["primary"]
    if plain is None or main is None or subject.dataset.inputs > MAX_INPUTS:
        return document
    partition = document["partitions"][main]
    if partition["kind"] != "sum" or partition["verdict"] == "not supported" or len(partition["groups"]) > MAX_GROUPS:
        return document
    search = _ContributionSearch(subject, plain, values, tolerance, seed)
    groups: list[InteriorGroup] = [group | {"computes": search.formulas(group)} for group in partition["groups"]]
    partitions = [
        one | {"groups": groups} if number == main else one for number, one in enumerate(document["partitions"])
    ]
    changed = document | {"partitions": partitions}
    return changed | {"reading": interior_statement(changed)}


@dataclass(frozen=True)
class _ContributionSearch:
    """Contributions of groups of one perceptron. `tolerance`: share of the variance by which the loss may rise."""

    subject: AnalysisContext
    plain: NumpyMlp
    values: Values
    tolerance: float
    seed: int

    def formulas(self, group: InteriorGroup) -> list[GroupFormula]:
        """A formula for each output that the group moves most, or why there is none."""
        names = [str(name) for name in self.subject.dataset.target_names]
        held = self._held(places_of(self.subject, group["neurons"]))
        return [
            {"output": moved["output"], "formula": self._formula(held, names.index(moved["output"]))}
            for moved in group["strongest"][:MAX_OUTPUTS]
        ]

    def _held(self, group: Places) -> Values:
        """The parameters of the perceptron in which the group stays at its mean over the training rows.

        Its outgoing weights are 0 and what they gave in the mean goes into the biases.
        """
        weights, biases = split(self.values)
        inputs = np.asarray(self.subject.train.inputs, np.float64)[:, self.plain.input_order]
        layers, _ = forward(weights, biases, inputs, self.plain.activation, slopes=False)
        held = dict(self.values)
        for number, layer in enumerate(self.subject.wiring.hidden_layers, start=1):
            if layer.name in group:
                of, mean = group[layer.name], layers[number].mean(axis=0)
                held[f"biases.{number}"] = biases[number] + weights[number][:, of] @ mean[of]
                held[f"weights.{number}"] = np.where(of, 0.0, weights[number])
        return held

    def _formula(self, held: Values, output: int) -> FormulaDocument:
        """The formula of what the group adds to one output, without its constant, with how well it agrees."""
        plain, units = self.plain, DataUnits.of(self.subject)
        with_group, without = (units.folded(plain, values) for values in (self.values, held))
        as_is, as_held = (function_of(plain, values, output) for values in (with_group, without))
        inputs = units.raw_inputs(self.subject.train)
        slopes, slopes_held = (gradients(plain, values, inputs)[:, output] for values in (with_group, without))
        sampled = Sampled(
            lambda x: as_is(x) - as_held(x),
            inputs,
            slopes - slopes_held,
            units.inputs.std,
            None,
            self.subject.dataset.feature_names,
        )
        deciding, reporting = (
            self._judge(held, output, examples) for examples in (self.subject.validation, self.subject.test)
        )
        found = find(sampled, deciding, seed=self.seed, budget=Budget(0))
        if found.verdict is None:
            return none(found.reason or "")
        tested = reporting(found.verdict.expression, symbols_for(sampled.names), found.verdict.searcher)
        _, moving = found.verdict.expression.as_coeff_Add()
        told = deciding.document(replace(found.verdict, expression=moving), sampled.names)
        return told | {"test": None if tested is None else tested.scores()}

    def _judge(self, held: Values, output: int, examples: Examples) -> Judge:
        """What formulas of the contribution are compared with: the contribution, and the network it is put into."""
        units, subject = DataUnits.of(self.subject), self.subject
        outputs = subject.outputs(self.values, examples)
        others = subject.outputs(held, examples)[:, output]
        loss = float(subject.losses(outputs, examples).mean())

        def substituted(answer: Float[np.ndarray, " N"]) -> float:
            changed = outputs.copy()
            changed[:, output] = others + answer
            return float(subject.losses(changed, examples).mean())

        return Judge(
            units.raw_inputs(examples),
            outputs[:, output] - others,
            None,
            lambda raw: raw / units.targets.std[output],
            substituted,
            loss,
            loss + self.tolerance * subject.scale,
            self.tolerance,
        )


def places_of(subject: AnalysisContext, neurons: Sequence[str]) -> dict[str, Array]:
    """Ids of neurons (`hidden1:7`) -> of each of their layers, which places they are."""
    found: dict[str, Array] = {}
    for identifier in neurons:
        layer, _, slot = identifier.rpartition(":")
        found.setdefault(layer, np.zeros(subject.wiring.layer(layer).places, bool))[int(slot)] = True
    return found
