"""Readout: the pruned network as one exact expression, its symmetries, and a formula for each output.

A formula has two verdicts (`verdicts.py`): whether it meets the network, and whether it meets the data. One that does
neither is reported as a formula that was not accepted: a formula that is not the model is not useful. (arXiv
2305.08746, section 3.1, reads formulas off by hand.) What a group of neurons inside a module adds to an output gets a
formula too: `with_group_formulas`.

All of it is in the units of the data (`DataUnits`): put a row of the table into a formula as it was measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import sympy
from jaxtyping import Float

from bimt_engine.analysis.context import AnalysisContext, DataUnits, Examples
from bimt_engine.analysis.evaluator import Array, Masks, Values
from bimt_engine.analysis.numpy_mlp import NumpyMlp, forward, split
from bimt_engine.analysis.output_scores import scores
from bimt_engine.analysis.readout.function_search import MAX_SEARCHES, Budget, Sampled, find, symbols_for
from bimt_engine.analysis.readout.symmetry import function_of, gradients, perceptron_of, symmetry_report
from bimt_engine.analysis.readout.verdicts import MEETS, Judge, written
from bimt_engine.analysis.report import (
    FormulaDocument,
    GroupFormula,
    InteriorDocument,
    InteriorGroup,
    OutputReadout,
    ReadoutDocument,
    SymmetryDocument,
)
from bimt_engine.analysis.statements.formulas import readout_statement
from bimt_engine.analysis.statements.interior import interior_statement
from bimt_engine.analysis.statements.wording import sentence, skipped_statement, too_large
from bimt_engine.errors import BimtError

MAX_CONNECTIONS = 120  # beyond, the exact expression is longer than a reader can use
MAX_INPUTS = 32  # beyond, tests of all pairs take longer than they are worth
MAX_OUTPUTS = 16
MAX_GROUPS = 12  # whose contributions are searched; a fifth of a second each
MAX_GROUP_OUTPUTS = 2  # of one group, those that it moves most
CONSTANT = 1e-9  # answers that differ by less, beside 1 in the network's own units, are one answer
# Symbols and operations in all exact expressions together: about ten seconds. Every layer multiplies them. sympy takes
# longer over `Max`, whose arguments it compares.
MAX_EXPRESSION, MAX_RELU_EXPRESSION = 30_000, 10_000
COPIES = {"silu": 2, "relu": 1, "tanh": 1, "gelu": 2, "gelu_tanh": 3}  # of its argument in `_activation`
NO_SYMMETRY: SymmetryDocument = {"reads": [], "additive_parts": [], "through": [], "interactions": []}
Places = Mapping[str, Array]


class ReadoutError(BimtError):
    """This network cannot be written down."""


def compose(subject: AnalysisContext, values: Values, masks: Masks) -> list[sympy.Expr]:
    """Every output as an exact expression of the features, both in the units of the data, as the network computes it.

    Raises ReadoutError for networks other than perceptrons on plain numbers, and for large ones: the size of the
    expressions is computed before any is made.
    """
    plain = _plain(subject)
    kept = sum(int(masks[w.parameter].sum()) for w in subject.wiring.weight_layers)
    if kept > MAX_CONNECTIONS:
        raise ReadoutError(
            f"This network keeps {kept} connections; an expression of more than {MAX_CONNECTIONS} is not composed. "
            "Raise the tolerance of pruning, or the cost strength."
        )
    size, limit = expression_size(plain, masks), MAX_RELU_EXPRESSION if plain.activation == "relu" else MAX_EXPRESSION
    if size > limit:
        raise ReadoutError(sentence(too_large("the size of the exact expression", size, limit)))
    kept_values = {name: value * masks[name] if name in masks else value for name, value in values.items()}
    weights, biases = split(DataUnits.of(subject).folded(plain, kept_values))
    symbols = symbols_for(subject.dataset.feature_names)
    here: list[sympy.Expr] = [symbols[i] for i in plain.input_order]
    for number, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        mask = masks[f"weights.{number}"]
        sums = [
            sympy.Add(
                sympy.Float(float(bias[row])),
                *(sympy.Float(float(weight[row, c])) * here[c] for c in np.flatnonzero(mask[row])),
            )
            for row in range(len(bias))
        ]
        here = [_activation(plain.activation, s) for s in sums] if number + 1 < len(weights) else sums
    return [here[slot] for slot in np.argsort(plain.output_order)]


def expression_size(plain: NumpyMlp, masks: Masks) -> int:
    """How many symbols, numbers and operations the exact expressions of all outputs have together.

    Exact integer arithmetic on the masks alone: of an expression only its size is made.
    """
    copies = COPIES[plain.activation]
    sizes = [1] * len(plain.input_order)
    for number in range(len(plain.weights)):
        mask = masks[f"weights.{number}"]
        sums = [1 + sum(3 + sizes[c] for c in np.flatnonzero(row).tolist()) for row in mask]
        sizes = [5 + copies * s for s in sums] if number + 1 < len(plain.weights) else sums
    return sum(sizes)


def readout(
    subject: AnalysisContext, values: Values, masks: Masks, *, tolerance: float, seed: int, searches: int = MAX_SEARCHES
) -> ReadoutDocument:
    """Expressions, symmetries and formulas of every output, as a JSON-able document.

    tolerance   ε: by how much of Var(y) the validation loss may rise when a formula takes an output's place.
    searches    how many genetic searches may be made for all outputs together.
    units       in the document: `data`, raw columns in and raw targets out; `scores`, raw columns in and out what the
                network says for a class before the softmax.
    """
    if perceptron_of(subject) is None:
        return {
            "outputs": [],
            "reading": "No formula is sought: this network is more than a perceptron on plain numbers.",
        }
    if subject.dataset.inputs > MAX_INPUTS or subject.dataset.targets > MAX_OUTPUTS:
        large = f"this network has more than {MAX_INPUTS} inputs or {MAX_OUTPUTS} outputs"
        return {"outputs": [], "reading": f"No formula is sought: {large}."}
    names = subject.dataset.target_names
    report = symmetry_report(subject, values, seed=seed)
    reasons = unpredicted(subject, values)
    expressions: list[str | None] = [None] * len(names)
    not_composed: str | None = None
    try:
        expressions = [written(expression) for expression in compose(subject, values, masks)]
    except ReadoutError as error:
        not_composed = str(error)
    outputs: list[OutputReadout] = []
    budget = Budget(searches)
    for number, (name, symmetry, expression, unknown) in enumerate(
        zip(names, report, expressions, reasons, strict=True)
    ):
        if unknown is not None:
            outputs.append(
                {
                    "output": name,
                    "expression": None,
                    "symmetry": NO_SYMMETRY,
                    "layers_apart": 0,
                    "formula": none(unknown) | {"predicted": False},
                }
            )
            continue
        found: OutputReadout = {
            "output": name,
            "expression": expression,
            "symmetry": symmetry,
            "layers_apart": layers_apart(subject, masks, [part["inputs"] for part in symmetry["through"]]),
            "formula": find_formula(subject, values, number, tolerance=tolerance, seed=seed, budget=budget),
        }
        if not_composed is not None:
            found["expression_skipped"] = not_composed
        outputs.append(found)
    classes = subject.dataset.task == "classification"
    return {
        "outputs": outputs,
        "reading": readout_statement({"outputs": outputs}, classes),
        "units": "scores" if classes else "data",
        "needs_r2": MEETS,
        "tolerance": tolerance,
    }


def skipped_readout(reason: str) -> ReadoutDocument:
    """The document of a readout that failed."""
    return {"skipped": reason, "outputs": [], "reading": skipped_statement("Readout", reason)}


def layers_apart(subject: AnalysisContext, masks: Masks, parts: list[list[str]]) -> int:
    """Through how many hidden layers, from the inputs on, every neuron reads one of these parts only.

    A function of two differences need not be built from neurons for each: it may mix them at once. This is what the
    picture shows; what the function depends on is found by the symmetries.
    """
    plain = _plain(subject)
    names = list(subject.dataset.feature_names)
    reads = np.zeros((len(parts), len(names)), bool)
    for number, part in enumerate(parts):
        reads[number, [names.index(name) for name in part]] = True
    reads = reads[:, plain.input_order]
    hidden = len(plain.weights) - 1
    for layer in range(hidden):
        reads = np.stack([(masks[f"weights.{layer}"] & here).any(axis=1) for here in reads]) if len(reads) else reads
        if len(reads) and (reads.sum(axis=0) > 1).any():
            return layer
    return hidden


def unpredicted(subject: AnalysisContext, values: Values) -> list[str | None]:
    """For every output, why nothing can be read out: the network does not predict it; None where it does."""
    answers = subject.outputs(values, subject.validation)
    reasons: list[str | None] = []
    constant = np.ptp(answers, axis=0) <= CONSTANT * (1.0 + np.abs(answers).max(axis=0))
    of_classes = subject.dataset.task == "classification"
    for same, row in zip(constant.tolist(), scores(subject, values, subject.validation), strict=True):
        if same and of_classes and row["learnt"] is not False:
            reasons.append("its score is the same whatever the inputs are: those of the other classes decide")
        elif same:
            reasons.append("the network does not predict it: whatever the inputs are, it gives the same answer")
        elif row["learnt"] is False:
            reasons.append("the network does not predict it: held-out examples are predicted as well by a constant")
        else:
            reasons.append(None)
    return reasons


def none(reason: str) -> FormulaDocument:
    """No formula, and why."""
    return {"text": None, "accepted": False, "reason": reason}


def find_formula(
    subject: AnalysisContext, values: Values, output: int, *, tolerance: float, seed: int, budget: Budget | None = None
) -> FormulaDocument:
    """A formula for one output, in the units of the data, with its two verdicts: does it meet the network, the data.

    tolerance   share of the variance by which losses may rise.
    budget      of genetic searches; None: as for a network of this output alone.
    """
    plain, units = _plain(subject), DataUnits.of(subject)
    inputs, targets = units.raw_inputs(subject.train), units.raw_targets(subject.train)
    folded = units.folded(plain, values)
    sampled = Sampled(
        function_of(plain, folded, output),
        inputs,
        gradients(plain, folded, inputs)[:, output],
        units.inputs.std,
        None if targets is None else targets[:, output],
        subject.dataset.feature_names,
    )
    deciding, reporting = (
        judge_of(subject, values, output, examples, tolerance=tolerance)
        for examples in (subject.validation, subject.test)
    )
    found = find(sampled, deciding, seed=seed, budget=budget)
    document = none(found.reason or "")
    if found.verdict is not None:
        document = deciding.document(found.verdict, sampled.names)
        read = frozenset(document["inputs"])
        document["columns"] = subject.dataset.columns_of(i for i, name in enumerate(sampled.names) if name in read)
        tested = reporting(found.verdict.expression, symbols_for(sampled.names), found.verdict.searcher)
        document["test"] = None if tested is None else tested.scores()
    return document | {"search_skipped": found.skipped} if found.skipped else document


def judge_of(subject: AnalysisContext, values: Values, output: int, examples: Examples, *, tolerance: float) -> Judge:
    """What formulas for one output are compared with: network and data on these examples."""
    units = DataUnits.of(subject)
    outputs = subject.outputs(values, examples)
    loss = float(subject.losses(outputs, examples).mean())

    def substituted(answer: Float[np.ndarray, " N"]) -> float:
        changed = outputs.copy()
        changed[:, output] = answer
        return float(subject.losses(changed, examples).mean())

    return Judge(
        units.raw_inputs(examples),
        outputs[:, output],
        None if examples.targets.ndim == 1 else examples.targets[:, output],
        lambda raw: units.answer(raw, output),
        substituted,
        loss,
        loss + tolerance * subject.scale,
        tolerance,
    )


def _plain(subject: AnalysisContext) -> NumpyMlp:
    """Raises ReadoutError for networks other than perceptrons on plain numbers."""
    plain = perceptron_of(subject)
    if plain is None:
        raise ReadoutError("Only perceptrons on plain numbers can be written as one expression.")
    return plain


def _activation(name: str, z: sympy.Expr) -> sympy.Expr:
    if name == "silu":
        # z / (1 + exp(-z)), without the exponential: sympy would take the constant out of it, beyond all floats.
        return z * (1 + sympy.tanh(z / 2)) / 2
    if name == "relu":
        return sympy.Max(0, z)
    if name == "tanh":
        return sympy.tanh(z)
    if name == "gelu":
        return z * (1 + sympy.erf(z / sympy.sqrt(2))) / 2
    return z * (1 + sympy.tanh(sympy.sqrt(2 / sympy.pi) * (z + sympy.Float(0.044715) * z**3))) / 2


# --- contributions ---------------------------------------------------------------------------
# What a group of hidden neurons computes. Where the groups of a partition are added up, the contribution of a group to
# an output is the output as it is, less the output with the group held at its mean: a function of what the group reads,
# and of a perceptron a difference of two perceptrons. It is searched like an output, in the library alone, and judged
# in the output's place: the network with the formula instead of the group must lose no more than the tolerance allows.
# Contributions are determined up to a constant, which the groups could share out among them in any way.


def with_group_formulas(
    subject: AnalysisContext, values: Values, document: InteriorDocument, *, tolerance: float, seed: int
) -> InteriorDocument:
    """The document with `computes` in the groups of the primary partition, where its groups are added up.

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
            for moved in group["strongest"][:MAX_GROUP_OUTPUTS]
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
        document = deciding.document(replace(found.verdict, expression=moving), sampled.names)
        return document | {"test": None if tested is None else tested.scores()}

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
