"""Readout: the pruned network as one exact expression, its symmetries, and formulas that the network itself confirms.

A formula is accepted only if it meets the network on held-out examples AND the network with that output replaced by
the formula loses no more than the tolerance. Everything else is reported as a formula that was not accepted, or as
none: a formula that is not the model helps nobody.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import sympy

from bimt_engine.analysis.formula_fit import Fitted, constant, evaluated, fit, r_squared
from bimt_engine.analysis.paths import Masks
from bimt_engine.analysis.plain_mlp import Array, PlainMlp, Values, split
from bimt_engine.analysis.subject import Subject
from bimt_engine.analysis.symmetry import (
    Combined,
    additive_blocks,
    combined_inputs,
    function_of,
    gradients,
    interactions,
    read_inputs,
    symmetry_report,
)
from bimt_engine.errors import BimtError

MEETS = 0.999  # held-out R² against the network that a formula needs
MOST_CONNECTIONS = 120  # beyond, the exact expression is longer than anybody reads
MOST_NUMBERS = 3  # that one part of a formula may depend on
MOST_PARTS = 5  # that a formula may add up; a longer sum is a table, not an insight
MOST_INPUTS = 32  # beyond, tests of all pairs take longer than they tell
MOST_OUTPUTS = 16


class ReadoutError(BimtError):
    """This network cannot be written down."""


def symbols_for(names: tuple[str, ...]) -> tuple[sympy.Symbol, ...]:
    """One real symbol for each feature."""
    return tuple(sympy.Symbol(str(name), real=True) for name in names)


def compose(subject: Subject, values: Values, masks: Masks) -> list[sympy.Expr]:
    """Every output as an exact expression of the features, as the network computes it.

    Raises ReadoutError for networks other than perceptrons on plain numbers, and for large ones.
    """
    plain = _plain(subject)
    kept = sum(int(masks[w.parameter].sum()) for w in subject.wiring.weight_layers)
    if kept > MOST_CONNECTIONS:
        raise ReadoutError(
            f"This network keeps {kept} connections; an expression of more than {MOST_CONNECTIONS} is not composed. "
            "Raise the tolerance of pruning, or the cost strength."
        )
    weights, biases = split(values)
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


def readout(subject: Subject, values: Values, masks: Masks, *, tolerance: float, seed: int) -> dict[str, Any]:
    """Expressions, symmetries and formulas of every output, as a JSON-able document.

    tolerance   ε: by how much of Var(y) the held-out loss may rise when a formula takes an output's place.
    """
    plain = subject.plain
    if plain is None or subject.dataset.inputs > MOST_INPUTS or subject.dataset.targets > MOST_OUTPUTS:
        large = f"has more than {MOST_INPUTS} inputs or {MOST_OUTPUTS} outputs"
        why = "is more than a perceptron on plain numbers" if plain is None else large
        return {"outputs": [], "reading": f"No formula is sought: this network {why}."}
    names = subject.dataset.feature_names
    report = symmetry_report(plain, values, subject.train.inputs, names=names, seed=seed)
    expressions: list[str | None]
    try:
        expressions = [str(e.evalf(6)) for e in compose(subject, values, masks)]
    except ReadoutError:
        expressions = [None] * subject.dataset.targets
    outputs: list[dict[str, Any]] = []
    for number, (name, symmetry, expression) in enumerate(
        zip(subject.dataset.target_names, report, expressions, strict=True)
    ):
        formula = find_formula(subject, values, number, tolerance=tolerance, seed=seed)
        apart = layers_apart(subject, masks, [part["inputs"] for part in symmetry["through"]])
        outputs.append(
            {"output": name, "expression": expression, "symmetry": symmetry, "layers_apart": apart, "formula": formula}
        )
    found = [f"{o['output']} = {o['formula']['text']}" for o in outputs if o["formula"]["accepted"]]
    reading = (
        f"Accepted: {'; '.join(found)}."
        if found
        else "No formula was accepted: none meets the network closely enough to stand in for it."
    )
    return {"outputs": outputs, "reading": reading, "needs_r2": MEETS, "tolerance": tolerance}


def layers_apart(subject: Subject, masks: Masks, parts: list[list[str]]) -> int:
    """Through how many hidden layers, from the inputs on, every neuron hears of one of these parts only.

    A function of two differences need not be built from neurons for each: it may mix them at once. This is what the
    picture shows; what the function depends on is told by the symmetries.
    """
    plain = _plain(subject)
    names = list(subject.dataset.feature_names)
    heard = np.zeros((len(parts), len(names)), bool)
    for number, part in enumerate(parts):
        heard[number, [names.index(name) for name in part]] = True
    heard = heard[:, plain.input_order]
    hidden = len(plain.weights) - 1
    for layer in range(hidden):
        heard = np.stack([(masks[f"weights.{layer}"] & here).any(axis=1) for here in heard]) if len(heard) else heard
        if len(heard) and (heard.sum(axis=0) > 1).any():
            return layer
    return hidden


def find_formula(subject: Subject, values: Values, output: int, *, tolerance: float, seed: int) -> dict[str, Any]:
    """A formula for one output, tried on the network: {text, accepted, r2, substitution_loss, loss_limit, reason}."""
    plain = _plain(subject)
    function = function_of(plain, values, output)
    x, held_out = subject.train.inputs, subject.held_out.inputs
    fitted, reason = _hypothesis(plain, values, output, x, subject.dataset.feature_names, seed)
    if fitted is None:
        return {"text": None, "accepted": False, "reason": reason}
    symbols = symbols_for(subject.dataset.feature_names)
    answer = evaluated(fitted, symbols, held_out)
    if not np.isfinite(answer).all():
        return {"text": str(fitted), "accepted": False, "reason": "it has no value for some held-out examples"}
    r2 = r_squared(function(held_out), answer)
    outputs = subject.outputs(values, subject.held_out)
    before = float(subject.losses(outputs, subject.held_out).mean())
    outputs = outputs.copy()
    outputs[:, output] = answer
    after = float(subject.losses(outputs, subject.held_out).mean())
    limit = before + tolerance * subject.scale
    reasons = []
    if r2 < MEETS:
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


def _against_targets(subject: Subject, output: int, answer: Array) -> float | None:
    """Held-out R² against the data themselves, for numbers: whether the formula is also the truth."""
    targets = subject.held_out.targets
    return None if targets.ndim == 1 else float(r_squared(targets[:, output], answer))


def _hypothesis(
    plain: PlainMlp, values: Values, output: int, x: Array, names: tuple[str, ...], seed: int
) -> tuple[sympy.Expr | None, str]:
    """The sum of the best formulas of the output's additive parts; None and the reason where a part has none."""
    function = function_of(plain, values, output)
    gradient = gradients(plain, values, x)[:, output]
    read = read_inputs(gradient)
    if not read:
        return sympy.Float(float(function(x[:1])[0]), 6), ""
    blocks = additive_blocks(interactions(function, x, generator=np.random.default_rng([seed, 6])), read)
    if len(blocks) > MOST_PARTS:
        return None, f"it adds up {len(blocks)} separate parts; sums of more than {MOST_PARTS} are not sought"
    symbols = symbols_for(names)
    middle = np.median(x, axis=0)
    total: sympy.Expr = sympy.Integer(0)
    for block in blocks:
        through = combined_inputs(gradient, block)
        if len(through) > MOST_NUMBERS:
            reads = ", ".join(names[i] for i in block)
            return None, f"the part that reads {reads} depends on {len(through)} numbers at once"
        alone = np.tile(middle, (len(x), 1))
        alone[:, block] = x[:, block]
        fitted = _fit_part(through, x, function(alone), symbols)
        if fitted is None:
            return None, f"nothing in the library fits the part that reads {', '.join(names[i] for i in block)}"
        total += fitted
    # Every part was taken with the others at their median: one constant sets the sum right.
    offset = float(np.mean(function(x) - evaluated(total, symbols, x)))
    own, rest = total.as_independent(*symbols, as_Add=True)
    return rest + constant(float(own) + offset, near=0.02 * float(function(x).std())), ""


def _fit_part(through: list[Combined], x: Array, values: Array, symbols: tuple[sympy.Symbol, ...]) -> sympy.Expr | None:
    numbers = np.column_stack([c.of(x) for c in through])
    stand_ins = tuple(sympy.Symbol(f"u{i}", real=True) for i in range(len(through)))
    fitted: Fitted | None = fit(numbers, values, stand_ins)
    if fitted is None:
        return None
    inside = {
        stand_in: sympy.Add(
            *(sympy.nsimplify(k, rational=True) * symbols[i] if _is_simple(k) else sympy.Float(k, 6) * symbols[i]
              for i, k in zip(c.inputs, c.coefficients, strict=True))
        )
        for stand_in, c in zip(stand_ins, through, strict=True)
    }  # fmt: skip
    return fitted.expression.subs(inside)


def _is_simple(number: float) -> bool:
    return abs(number * 12 - round(number * 12)) < 1e-12


def _plain(subject: Subject) -> PlainMlp:
    if subject.plain is None:
        raise ReadoutError("Only perceptrons on plain numbers can be written as one expression.")
    return subject.plain


def _activation(name: str, z: sympy.Expr) -> sympy.Expr:
    if name == "silu":
        return z / (1 + sympy.exp(-z))
    if name == "relu":
        return sympy.Max(0, z)
    if name == "tanh":
        return sympy.tanh(z)
    if name == "gelu":
        return z * (1 + sympy.erf(z / sympy.sqrt(2))) / 2
    return z * (1 + sympy.tanh(sympy.sqrt(2 / sympy.pi) * (z + sympy.Float(0.044715) * z**3))) / 2
