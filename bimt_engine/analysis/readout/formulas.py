"""Readout: the pruned network as one exact expression, its symmetries, and formulas that the network itself confirms.

A formula is accepted only if it meets the network on held-out examples AND the network with that output replaced by
the formula loses no more than the tolerance. Everything else is reported as a formula that was not accepted, or as
none: a formula that is not the model helps no reader. (arXiv 2305.08746, section 3.1, reads formulas off by hand.)

All of it is in the units of the data (`data_units`): put a row of the table into a formula as it was measured.
"""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import sympy
from jaxtyping import Float

from bimt_engine.analysis.context import AnalysisContext, DataUnits
from bimt_engine.analysis.evaluator import Masks, Values
from bimt_engine.analysis.numpy_mlp import NumpyMlp, split
from bimt_engine.analysis.output_scores import scores
from bimt_engine.analysis.readout.formula_library import Form, Through, summed
from bimt_engine.analysis.readout.formula_search import Examples, best_form, evaluated, r_squared, with_plain_constants
from bimt_engine.analysis.readout.symmetry import (
    additive_blocks,
    combined_inputs,
    function_of,
    gradients,
    interactions,
    perceptron_of,
    read_inputs,
    symmetry_report,
)
from bimt_engine.analysis.report import FormulaDocument, OutputReadout, ReadoutDocument, SymmetryDocument
from bimt_engine.analysis.statements import listed, readout_statement, sentence, skipped_statement, too_large
from bimt_engine.errors import BimtError

MEETS = 0.999  # held-out R² against the network that a formula needs
MAX_CONNECTIONS = 120  # beyond, the exact expression is longer than a reader can use
MAX_NUMBERS = 3  # that one part of a formula may depend on
MAX_PARTS = 5  # that a formula may add up; a longer sum is a table, not an insight
MAX_INPUTS = 32  # beyond, tests of all pairs take longer than they tell
MAX_OUTPUTS = 16
CONSTANT = 1e-9  # answers that differ by less, beside 1 in the network's own units, are one answer
NOISE = (5e-4, 5e-5)  # shares of an output's variance by which a formula may miss it, the simplest first
LITTLE = 1e-3  # share of an output's variance below which a part of a formula must be worth its constants
# Symbols and operations in all exact expressions together: about ten seconds. Every layer multiplies them. sympy takes
# longer over `Max`, whose arguments it compares.
MAX_EXPRESSION, MAX_RELU_EXPRESSION = 30_000, 10_000
COPIES = {"silu": 2, "relu": 1, "tanh": 1, "gelu": 2, "gelu_tanh": 3}  # of its argument in `_activation`
Known = dict[tuple[int, ...], list[Form]]
NO_SYMMETRY: SymmetryDocument = {"reads": [], "additive_parts": [], "through": [], "interactions": []}


class ReadoutError(BimtError):
    """This network cannot be written down."""


def symbols_for(names: tuple[str, ...]) -> tuple[sympy.Symbol, ...]:
    """One real symbol for each feature."""
    return tuple(sympy.Symbol(str(name), real=True) for name in names)


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


def readout(subject: AnalysisContext, values: Values, masks: Masks, *, tolerance: float, seed: int) -> ReadoutDocument:
    """Expressions, symmetries and formulas of every output, as a JSON-able document.

    tolerance   ε: by how much of Var(y) the held-out loss may rise when a formula takes an output's place.
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
        expressions = [str(expression) for expression in compose(subject, values, masks)]
    except ReadoutError as error:
        not_composed = str(error)
    outputs: list[OutputReadout] = []
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
            "formula": find_formula(subject, values, number, tolerance=tolerance, seed=seed),
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
    """Of every output, why nothing can be read out: the network knows nothing of it; None where it does."""
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
    subject: AnalysisContext, values: Values, output: int, *, tolerance: float, seed: int
) -> FormulaDocument:
    """A formula for one output, tried on the network: {text, accepted, r2, substitution_loss, loss_limit, reason}.

    The formula is in the units of the data; losses are the network's own. First the data decide which formula it is.
    Where the network does not confirm that one, formulas are fitted to the network alone.
    """
    hypotheses = (None, *NOISE) if subject.train.targets.ndim > 1 else NOISE
    first: FormulaDocument | None = None
    known: Known = defaultdict(list)
    for noise in hypotheses:
        fitted, reason = _hypothesis(subject, values, output, seed, noise=noise, known=known)
        tried = none(reason) if fitted is None else _tried(subject, values, output, fitted, tolerance)
        if fitted is None or tried["accepted"]:
            return tried
        first = first or tried
    return first or none("nothing was tried")


def _tried(
    subject: AnalysisContext, values: Values, output: int, fitted: sympy.Expr, tolerance: float
) -> FormulaDocument:
    """The formula compared with the network, and put in the place of its output."""
    units = DataUnits.of(subject)
    answer = evaluated(fitted, symbols_for(subject.dataset.feature_names), units.raw_inputs(subject.validation))
    if not np.isfinite(answer).all():
        return none("it has no value for some held-out examples") | {"text": str(fitted)}
    answer = units.answer(answer, output)
    outputs = subject.outputs(values, subject.validation)
    r2 = r_squared(outputs[:, output], answer)
    before = float(subject.losses(outputs, subject.validation).mean())
    outputs = outputs.copy()
    outputs[:, output] = answer
    after = float(subject.losses(outputs, subject.validation).mean())
    limit = before + tolerance * subject.scale
    reasons = []
    if r2 < 0:
        reasons.append("it meets the network no better than a constant on held-out examples")
    elif r2 < MEETS:
        reasons.append(f"it meets the network only to R² = {r2:.4f} on held-out examples")
    if after > limit:
        reasons.append(f"the network with it loses {after:.3g}, more than {limit:.3g}")
    return {
        "text": str(fitted),
        "latex": sympy.latex(fitted),
        "accepted": not reasons,
        "r2": float(r2),
        "r2_of_targets": _against_targets(subject, output, answer),
        "substitution_loss": after,
        "loss": before,
        "loss_limit": limit,
        "reason": " and ".join(reasons) or None,
    }


def _against_targets(subject: AnalysisContext, output: int, answer: Float[np.ndarray, " N"]) -> float | None:
    """Held-out R² against the data themselves, for numbers: whether the formula is also the truth."""
    targets = subject.validation.targets
    return None if targets.ndim == 1 else float(r_squared(targets[:, output], answer))


def _hypothesis(
    subject: AnalysisContext, values: Values, output: int, seed: int, *, noise: float | None, known: Known
) -> tuple[sympy.Expr | None, str]:
    """The sum of the best formulas of the output's additive parts; None and the reason where a part has none.

    noise   share of the variance by which a formula may miss the network; None: the data decide.
    known   the fitted library of each part, for the other hypotheses of the same output.
    """
    plain, units, names = _plain(subject), DataUnits.of(subject), subject.dataset.feature_names
    x, targets = units.raw_inputs(subject.train), units.raw_targets(subject.train)
    values = units.folded(plain, values)
    function = function_of(plain, values, output)
    answers = function(x)
    error = targets[:, output] - answers if noise is None and targets is not None else None
    gradient = gradients(plain, values, x)[:, output]
    read = read_inputs(gradient * units.inputs.std)
    blocks = additive_blocks(interactions(function, x, generator=np.random.default_rng([seed, 6])), read)
    if len(blocks) > MAX_PARTS:
        return None, f"it adds up {len(blocks)} separate parts; sums of more than {MAX_PARTS} are not sought"
    missed = None if noise is None else noise * float(answers.var())

    def examples(columns: Float[np.ndarray, "N k"], answers: Float[np.ndarray, " N"], parts: int = 1) -> Examples:
        data = None if error is None else answers + error
        return Examples.of(columns, answers, data, None if missed is None else missed / parts)

    middle = np.median(x, axis=0)
    parts: list[tuple[Form, list[int]]] = []
    for block in blocks:
        combined = combined_inputs(gradient, block, units=units.inputs.std)
        reads = listed([names[i] for i in block])
        if len(combined) > MAX_NUMBERS:
            return None, f"the part that reads {reads} depends on {len(combined)} numbers at once"
        alone = np.tile(middle, (len(x), 1))
        alone[:, block] = x[:, block]
        through = [Through(tuple(block.index(i) for i in c.inputs), c.coefficients) for c in combined]
        form = best_form(examples(x[:, block], function(alone), len(blocks)), through, known[tuple(block)])
        if form is None:
            return None, f"nothing in the library fits the part that reads {reads}"
        parts.append((form, block))
    # Every part was taken with the others at their median: together they have one offset, and are judged as one. A part
    # that does next to nothing may be the network's own invention: the sum without it is judged as well.
    little = LITTLE * float(answers.var())
    moving = [(form, block) for form, block in parts if float(form.at(x[:, block]).var()) > little]
    sums = [summed(chosen, float(answers.std()) or 1.0) for chosen in ([parts] if moving == parts else [parts, moving])]
    written = [with_plain_constants(whole, examples(x, answers), symbols_for(names)) for whole in sums]
    return min(written, key=lambda fitted: fitted.score).expression, ""


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
