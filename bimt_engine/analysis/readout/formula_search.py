"""The choice among many formulas: the one with the fewest constants that the noise allows.

Between formulas, and between a fitted number and a plain one, an information criterion decides: a constant more must
lower the error by more than chance would. So a curve that only follows the errors of a network loses to the plain one,
and π/4 to 0.8 when 0.8 does as well.

A formula is a hypothesis; what it is worth is found by comparing it with the network and the data (`verdicts.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property

import numpy as np
import sympy
from jaxtyping import Float

from bimt_engine.analysis.readout.form import Column, Columns, Form
from bimt_engine.analysis.readout.symmetry import NICE

ENOUGH = 1e-4  # share of the variance that is taken for noise where its size is unknown
EXACT = 1e-9  # share of the variance below which errors are taken for none
FEW = 100  # examples that count where values are those of a network: its errors are no independent draws
MAX_EXAMPLES = 1000  # that constants are fitted to; more of them change only the last digits
TRIED = 6  # formulas whose constants are made plain: the best few
WITHIN = 2.0  # standard errors that a plain number may be away
INDEPENDENT = 10  # errors of a network that are as good as independent: they are smooth
PRECISE = 1e-3  # relative standard error of a number that can be distinguished from a decimal near it
DIGITS = 6
LARGEST = 1e30  # beyond, and below one over it, no formula is sought


@dataclass(frozen=True)
class Examples:
    """What a formula is fitted to, and judged by.

    columns   what the formula reads; values: what it should give.
    noise     mean squared error that says nothing against a formula.
    count     examples that are as good as independent.
    """

    columns: Columns
    values: Column
    noise: float
    count: int

    @classmethod
    def of_function(cls, columns: Columns, values: Column, *, share: float = ENOUGH) -> Examples:
        """Values of a function that is itself a little off: by this share of its variance."""
        columns, values = columns[:MAX_EXAMPLES], values[:MAX_EXAMPLES]
        return cls(columns, values, share * float(values.var()), min(len(values), FEW))

    @classmethod
    def of_data(cls, columns: Columns, values: Column) -> Examples:
        """Measured values: how large their noise is, is seen from what a formula leaves."""
        return cls(columns[:MAX_EXAMPLES], values[:MAX_EXAMPLES], 0.0, min(len(values), MAX_EXAMPLES))

    @cached_property
    def negligible(self) -> float:
        """Mean squared error that is taken for none."""
        return EXACT * float(self.values.var()) + self.noise + 1e-300

    def error(self, form: Form) -> float:
        """Mean squared error of a formula."""
        with np.errstate(all="ignore"):
            return float(((form.at(self.columns) - self.values) ** 2).mean())

    def score(self, error: float, cost: float) -> float:
        """The information criterion of a formula with this error and this many constants; the less, the better."""
        if not np.isfinite(error):
            return np.inf
        return float(self.count * np.log(error + self.negligible) + cost * np.log(self.count))

    def curvatures(self, form: Form, free: Sequence[int]) -> Float[np.ndarray, " free"]:
        """How the mean squared error rises with the square of each constant's distance from its best value.

        The other free constants follow.
        """
        slopes = form.slopes(self.columns, free)
        scale = np.maximum(np.linalg.norm(slopes, axis=0), 1e-150)
        inverse = np.linalg.norm(np.linalg.pinv(slopes / scale, rcond=1e-10), axis=1) / scale
        return 1.0 / np.clip(inverse, 1e-150, 1e150) ** 2 / len(slopes)

    def standard_error(self, curvature: float, error: float) -> float:
        """Of a constant: by how much it may be off.

        The errors of a network are smooth, so that many examples say no more than a few.
        """
        smooth = max(1.0, len(self.values) / INDEPENDENT)
        return float(np.sqrt(smooth * (error + self.negligible) / len(self.values) / curvature))

    def expected(
        self, choices: Sequence[Plain], error: float, cost: float, value: float, curvature: float
    ) -> list[tuple[float, Plain]]:
        """The numbers that a constant may be made, with the scores to be expected, the best first."""
        errors = [plain.value - value for plain in choices]  # e * e: infinite where e ** 2 would raise
        scores = [self.score(error + curvature * (e * e), cost + p.cost) for e, p in zip(errors, choices, strict=True)]
        return sorted(zip(scores, choices, strict=True), key=lambda entry: entry[0])


def best_form(examples: Examples, forms: Iterable[Form]) -> Form | None:
    """The formula that is best by the criterion once its constants are plain; None where none has a value.

    forms   with constants fitted to the values. The one that is given back has them so.
    """
    scored = []
    for form in forms:
        error = examples.error(form)
        score = examples.score(error, form.cost)
        if np.isfinite(score):
            scored.append((score, error, form))
    scored.sort(key=lambda entry: entry[0])
    best: tuple[float, Form] | None = None
    for _, error, form in scored[:TRIED]:
        if best is not None and examples.score(error, form.shape) >= best[0]:
            continue  # not even if its constants cost nothing
        score = _made_plain(form, examples).score
        if best is None or score < best[0]:
            best = score, form
    return None if best is None else best[1]


def with_plain_constants(form: Form, examples: Examples, symbols: tuple[sympy.Symbol, ...]) -> sympy.Expr:
    """The formula with its constants fitted to the values, and every one as plain as it may be."""
    return form.written(symbols, _made_plain(form.refitted(examples.columns, examples.values), examples).written)


@dataclass(frozen=True)
class _MadePlain:
    """The constants of a formula as they are written, and its score with them."""

    written: list[sympy.Expr]
    score: float


def _made_plain(form: Form, examples: Examples) -> _MadePlain:
    """One constant after another made as plain as it may be, the rest refitted each time."""
    free = list(range(len(form.constants)))
    written: list[sympy.Expr] = []
    cost, error = form.cost, examples.error(form)
    while free:
        here, curvatures = free[0], examples.curvatures(form, free)
        value, curvature, free = form.constants[here], float(curvatures[0]), free[1:]
        standard_error = examples.standard_error(curvature, error)
        # As it is written, so that what is rounded off is made good by the others.
        choices = [Plain(fitted_number(value, standard_error), 1.0)]
        choices += plain_numbers(value, standard_error, angle=here in form.angles)
        kept: tuple[float, Form, float, Plain] | None = None
        for expected, plain in examples.expected(choices, error, cost - 1, value, curvature):
            if kept is not None and expected >= kept[0]:
                break
            constants = (*form.constants[:here], plain.value, *form.constants[here + 1 :])
            trial = replace(form, constants=constants).refitted(examples.columns, examples.values, free)
            reached = examples.error(trial)
            score = examples.score(reached, cost - 1 + plain.cost)
            if kept is None or score < kept[0]:
                kept = score, trial, reached, plain
        assert kept is not None
        _, form, error, chosen = kept
        cost += chosen.cost - 1
        written.append(chosen.written)
    return _MadePlain(written, examples.score(error, cost))


# --- plain numbers ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Plain:
    """A number as people write it, and what it costs beside the 1 of a number that was fitted."""

    written: sympy.Expr
    cost: float

    @cached_property
    def value(self) -> float:
        """The number itself."""
        return float(self.written)


@cache
def rational(number: float) -> sympy.Expr:
    """A number as a fraction, exact where that is a short one."""
    return sympy.nsimplify(number, rational=True)


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
