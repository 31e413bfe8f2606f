"""Which formula of the library it is: the one that needs fewest constants, as the noise lets us tell.

Constants are fitted to what the network computes. Between formulas, and between a fitted number and a plain one, the
data decide, by an information criterion: a constant more must lower the loss by more than chance would. So a curve
that only follows the errors of the network loses to the plain one, and π/4 to -0.7 when -0.7 does as well.

A formula is a hypothesis about the network; whether it is accepted is decided in `formulas`, by the network.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import sympy
from jaxtyping import Float

from bimt_engine.analysis.readout.formula_library import Column, Columns, Form, Through, forms, opened, rational
from bimt_engine.analysis.readout.symmetry import NICE

ENOUGH = 1e-4  # share of the variance that is taken for noise where no data tell how large it is
EXACT = 1e-9  # share of the variance below which errors are dust
FEW = 100  # examples that count where no data are given: the errors of a network are no independent draws
MAX_EXAMPLES = 1000  # that constants are fitted to; more of them change only the last digits
TRIED = 6  # formulas whose constants are made plain: the best few
WITHIN = 2.0  # standard errors that a plain number may be away
INDEPENDENT = 10  # errors of a network that are as good as independent: they are smooth
PRECISE = 1e-3  # relative standard error of a number that can be distinguished from a decimal near it
DIGITS = 6
LARGEST = 1e30  # beyond, and below one over it, no formula is sought


@dataclass(frozen=True)
class Fitted:
    """A formula in the symbols it was fitted for, its R² on the examples, how many constants it costs, its score."""

    expression: sympy.Expr
    r2: float
    complexity: float
    score: float


@dataclass(frozen=True)
class Examples:
    """What a formula is fitted to, and what it is judged by.

    columns   what the formula reads; values: what the network computes
    data      the same with the network's error taken off; equal to the values where no data are given
    noise     mean squared error that says nothing against a formula
    """

    columns: Columns
    values: Column
    data: Column
    noise: float
    count: int

    @classmethod
    def of(cls, columns: Columns, values: Column, data: Column | None = None, noise: float | None = None) -> Examples:
        """At most MAX_EXAMPLES; without data and noise, ENOUGH of the variance is taken for noise."""
        columns, values = columns[:MAX_EXAMPLES], values[:MAX_EXAMPLES]
        if data is None:
            noise = ENOUGH * float(values.var()) if noise is None else noise
            return cls(columns, values, values, noise, min(len(values), FEW))
        data = data[:MAX_EXAMPLES]
        return cls(columns, values, data, float(((data - values) ** 2).mean()), len(values))

    @cached_property
    def variance(self) -> float:
        """Of the values."""
        return float(self.values.var())

    def score(self, form: Form, complexity: float) -> float:
        """The information criterion; the less, the better."""
        with np.errstate(all="ignore"):
            error = float(((form.at(self.columns) - self.data) ** 2).mean())
        if not np.isfinite(error):
            return np.inf
        dust = EXACT * self.variance + (self.noise if self.data is self.values else 0.0)
        return self.count * np.log(error + dust + 1e-300) + complexity * np.log(self.count)

    def standard_errors(self, form: Form, free: Sequence[int]) -> Float[np.ndarray, " free"]:
        """Of these constants, fitted together: by how much they may be off, as far as the network determines them.

        Its errors are smooth, so that many examples say no more than a few. What the data can tell is in the score.
        """
        error = float(((form.at(self.columns) - self.values) ** 2).mean())
        variance = error + self.noise + EXACT * self.variance
        slopes = form.slopes(self.columns, free)
        scale = np.maximum(np.linalg.norm(slopes, axis=0), 1e-300)
        inverse = np.linalg.pinv(slopes / scale, rcond=1e-10)
        smooth = max(1.0, len(self.values) / INDEPENDENT)
        return np.sqrt(smooth * variance) * np.linalg.norm(inverse, axis=1) / scale * np.array(form.sizes)[list(free)]


def r_squared(truth: Column, answer: Column) -> float:
    """1 - error / variance; 1 for a constant that is met exactly, -inf for one that is not."""
    error, variance = float(((truth - answer) ** 2).mean()), float(truth.var())
    dust = 1e-24 * float((truth**2).mean())  # what is left of a constant by rounding is no variance
    if variance > dust:
        return 1.0 - error / variance
    return 1.0 if error <= dust else -np.inf


def evaluated(expression: sympy.Expr, symbols: tuple[sympy.Symbol, ...], numbers: Columns) -> Column:
    """The expression at each row of numbers, one for each symbol; NaN where it has no real value."""
    with np.errstate(all="ignore"):
        function = sympy.lambdify(symbols, expression, modules="numpy")
        values = np.asarray(function(*numbers.T))
        return np.broadcast_to(np.real_if_close(values).astype(float), (len(numbers),))


def fit(numbers: Columns, values: Column, symbols: tuple[sympy.Symbol, ...]) -> Fitted | None:
    """The best formula of one to three numbers by the criterion; None where nothing fits at all.

    numbers   (N, 1 to 3), values (N,)
    """
    examples = Examples.of(numbers, values)
    form = best_form(examples, [Through((i,), (1.0,)) for i in range(len(symbols))])
    return None if form is None else with_plain_constants(form, examples, symbols)


def best_form(examples: Examples, through: Sequence[Through], known: list[Form] | None = None) -> Form | None:
    """The formula that is best by the criterion once its constants are plain, as it is before they are.

    through   the one to three numbers that the columns are read through.
    known     the fitted library of these columns and values, filled where it is empty: it depends on nothing else.
    """
    known = [] if known is None else known
    numbers = np.column_stack([t.of(examples.columns) for t in through])
    for column in (*numbers.T, examples.values):  # five powers of it, squared, must be numbers still
        if not 1 / LARGEST < float(np.abs(column).max()) < LARGEST:
            return None
    known.extend(() if known else (opened(form, through, examples.columns) for form in forms(numbers, examples.values)))
    scored = []
    for whole in known:
        score = examples.score(whole, len(whole.constants) + whole.shape)
        if np.isfinite(score):
            scored.append((score, whole))
    scored.sort(key=lambda entry: entry[0])
    tried = []
    for _, form in scored[:TRIED]:
        if any(len(t.columns) > 1 for t in through):  # the weights of such numbers are only good guesses
            form = form.refitted(examples.columns, examples.values, range(len(form.constants)))
        plain = _plain(form, examples)
        if np.isfinite(plain.score):
            tried.append((plain.score, form))
    return min(tried, key=lambda entry: entry[0])[1] if tried else None


def with_plain_constants(form: Form, examples: Examples, symbols: tuple[sympy.Symbol, ...]) -> Fitted:
    """The formula with every constant as plain as it may be."""
    form = form.refitted(examples.columns, examples.values, range(len(form.constants)))
    plain = _plain(form, examples)
    expression = form.written(symbols, plain.written)
    r2 = r_squared(examples.values, evaluated(expression, symbols, examples.columns))
    return Fitted(expression, r2, plain.complexity, plain.score)


# --- plain constants --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Plain:
    """A number as people write it, and what it costs beside the 1 of a number that was fitted."""

    written: sympy.Expr
    cost: float

    @property
    def value(self) -> float:
        """The number itself."""
        return float(self.written)


@dataclass(frozen=True)
class MadePlain:
    """The constants of a formula as they are written, what they cost, and how good the formula is with them."""

    written: list[sympy.Expr]
    complexity: float
    score: float


def _plain(form: Form, examples: Examples) -> MadePlain:
    """Every constant made plain that may be, one after another, the rest refitted each time."""
    free = list(range(len(form.constants)))
    written: list[sympy.Expr] = []
    complexity = len(free) + form.shape
    while free:
        here = free[0]
        error = float(examples.standard_errors(form, free)[0])
        free = free[1:]
        number = form.constants[here]
        # As it is written, so that what is rounded off is made good by the others.
        rounded = fitted_number(number, error)
        constants = [*form.constants[:here], float(rounded), *form.constants[here + 1 :]]
        with_rounded = replace(form, constants=tuple(constants)).refitted(examples.columns, examples.values, free)
        best = examples.score(with_rounded, complexity), with_rounded, complexity, rounded
        for plain in plain_numbers(number, error, angle=here in form.angles):
            constants = [*form.constants[:here], plain.value, *form.constants[here + 1 :]]
            trial = replace(form, constants=tuple(constants)).refitted(examples.columns, examples.values, free)
            cost = complexity - 1 + plain.cost
            score = examples.score(trial, cost)
            if score < best[0]:
                best = score, trial, cost, plain.written
        _, form, complexity, chosen = best
        written.append(chosen)
    return MadePlain(written, complexity, examples.score(form, complexity))


def plain_numbers(number: float, error: float, *, angle: bool = False) -> Iterator[Plain]:
    """Plain numbers that this one may be, within its standard error.

    Zero is always tried: a constant that is not needed. A fraction must do better than a decimal as short. π is for
    angles; elsewhere it is tried only where the number is known too well to be a short decimal by chance.
    """
    yield Plain(sympy.Integer(0), 0.0)
    well_known = error < PRECISE * abs(number)
    for unit, value in ((sympy.Integer(1), 1.0), (sympy.pi, np.pi))[: 2 if angle or well_known else 1]:
        nice = min(NICE, key=lambda nice: abs(nice * value - number))
        if nice != 0 and abs(nice * value - number) <= WITHIN * error:
            written = rational(nice)
            cost = 0.25 if abs(nice) == 1 and unit == 1 else 0.5 if written.q <= 2 else 0.75
            yield Plain(written * unit, cost if angle or unit == 1 else 0.9)
    if number == 0:
        return
    for digits in range(1, 5):
        rounded = float(f"{number:.{digits - 1}e}")
        if abs(rounded - number) <= WITHIN * error:
            whole = rounded.is_integer() and abs(rounded) < 1e6
            written = sympy.Integer(int(rounded)) if whole else sympy.Float(repr(rounded), DIGITS)
            yield Plain(written, 0.5 + 0.1 * digits)


def fitted_number(number: float, error: float) -> sympy.Expr:
    """The number with as many digits as its standard error leaves any meaning, and at least DIGITS."""
    if number == 0 or not np.isfinite(number):
        return sympy.Float(number)
    needed = int(np.ceil(np.log10(abs(number) / max(error, 1e-15 * abs(number))))) + 2
    return sympy.Float(number, min(max(DIGITS, needed), 15))
