"""What a formula is compared with: the network that it was read from, and the data; and which of many is reported.

Two verdicts, never one. A formula that meets the network says what the network computes. One that fits the data better
than the network does says what the network was trained towards, which is worth reporting too, but is not the network.
All of it on examples that no constant was fitted to. (docs/decisions/0030-a-second-formula-search.md)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import sympy
from sympy.printing.str import StrPrinter

from bimt_engine.analysis.readout.form import Column, Columns
from bimt_engine.analysis.report import FormulaDocument, FormulaScores
from bimt_engine.analysis.statements.formulas import RESERVED, in_formula

MEETS = 0.999  # R² against the network that a formula needs
RELATED = 0.9  # R² against the network below which a formula, however good, is not a formula of this network
SURELY = 2.0  # standard errors of the mean difference between two formulas, example by example
NEGLIGIBLE = 1e-9  # of the variance: smaller differences count for nothing
EXACT = 1e-12  # of the variance: what rounded constants leave of a formula that is right


@dataclass(frozen=True)
class Verdict:
    """A formula and how it compares. Errors are squared, one for each example, in the units of the network.

    searcher             "library" or "genetic".
    data_errors          None for classes, whose scores no data give.
    r2, r2_of_targets    against the network, against the data.
    meets_network        R² of MEETS, and the network with it in the output's place loses no more than the limit.
    meets_data           it is off the data by no more than the network is, and the tolerance.
    better_than_network  it is off the data by less than the network, beyond chance, and R² is RELATED at least.
    """

    expression: sympy.Expr
    searcher: str
    network_errors: Column
    data_errors: Column | None
    r2: float
    r2_of_targets: float | None
    network_r2_of_targets: float | None
    substitution_loss: float
    meets_network: bool
    meets_data: bool | None
    better_than_network: bool
    reason: str | None

    def scores(self) -> FormulaScores:
        """How well the formula agrees, as it is stored."""
        return {
            "r2": self.r2,
            "r2_of_targets": self.r2_of_targets,
            "network_r2_of_targets": self.network_r2_of_targets,
        }

    @property
    def accepted(self) -> bool:
        """Whether it is reported as a result: it meets the network, or fits the data better than the network does."""
        return self.meets_network or self.better_than_network

    @property
    def errors(self) -> Column:
        """Those that formulas are compared by: off the data, where there are any."""
        return self.network_errors if self.data_errors is None else self.data_errors

    @cached_property
    def complexity(self) -> float:
        """Its size, see `complexity`."""
        return complexity(self.expression)


@dataclass(frozen=True)
class Judge:
    """One output of a network on examples that decide about formulas.

    inputs       in the units of the data; answer: from those units to the network's own.
    network      what it answers; targets: what it should, None for classes; both in its own units.
    substituted  its loss with this column in the output's place; loss: without; limit: what is allowed.
    tolerance    share of the variance that a loss may rise by.
    """

    inputs: Columns
    network: Column
    targets: Column | None
    answer: Callable[[Column], Column]
    substituted: Callable[[Column], float]
    loss: float
    limit: float
    tolerance: float

    @cached_property
    def network_data_errors(self) -> Column | None:
        """How far the network is off the data."""
        return None if self.targets is None else (self.network - self.targets) ** 2

    @cached_property
    def negligible(self) -> float:
        """A mean squared error that is none."""
        return NEGLIGIBLE * float((self.network if self.targets is None else self.targets).var())

    def __call__(self, expression: sympy.Expr, symbols: tuple[sympy.Symbol, ...], searcher: str) -> Verdict | None:
        """The formula compared; None where it has no value for some examples."""
        raw = evaluated(expression, symbols, self.inputs)
        if not np.isfinite(raw).all():
            return None
        answer = self.answer(raw)
        r2 = r_squared(self.network, answer)
        substituted = self.substituted(answer)
        meets_network = bool(r2 >= MEETS and substituted <= self.limit)
        data_errors = meets_data = of_targets = of_network = None
        better = False
        if self.targets is not None and self.network_data_errors is not None:
            data_errors = (answer - self.targets) ** 2
            allowed = float(self.network_data_errors.mean()) + self.tolerance * float(self.targets.var())
            meets_data = float(data_errors.mean()) <= allowed
            better = bool(r2 >= RELATED) and surely_more(
                self.network_data_errors, data_errors, negligible=self.negligible
            )
            of_targets = float(r_squared(self.targets, answer))
            of_network = float(r_squared(self.targets, self.network))
        return Verdict(
            expression, searcher, (answer - self.network) ** 2, data_errors, float(r2), of_targets, of_network,
            substituted, meets_network, meets_data, better, self._reason(r2, substituted),
        )  # fmt: skip

    def is_missed_by(self, verdict: Verdict) -> bool:
        """Whether a better formula is worth a longer search: not accepted, or off the data by more than the network."""
        if not verdict.accepted:
            return True
        if verdict.data_errors is None or self.network_data_errors is None:
            return False
        return surely_more(verdict.data_errors, self.network_data_errors, negligible=self.negligible)

    def settles(self, verdict: Verdict) -> bool:
        """Whether no other formula can be more than simpler: exact on the data; for classes, accepted."""
        if verdict.data_errors is None:
            return verdict.accepted
        return verdict.accepted and float(verdict.data_errors.mean()) <= EXACT / NEGLIGIBLE * self.negligible

    def document(self, verdict: Verdict, names: Sequence[str]) -> FormulaDocument:
        """The verdict as it is stored."""
        read = {str(symbol) for symbol in verdict.expression.free_symbols}
        return {
            "text": written(verdict.expression),
            "latex": sympy.latex(verdict.expression, symbol_names=_latex_names(verdict.expression)),
            "inputs": [name for name in names if name in read],
            "searcher": verdict.searcher,
            "complexity": verdict.complexity,
            "accepted": verdict.accepted,
            "meets_network": verdict.meets_network,
            "meets_data": verdict.meets_data,
            "better_than_network": verdict.better_than_network,
            **verdict.scores(),
            "substitution_loss": verdict.substitution_loss,
            "loss": self.loss,
            "loss_limit": self.limit,
            "reason": None if verdict.meets_network else verdict.reason,
        }

    def _reason(self, r2: float, substituted: float) -> str | None:
        """Why the formula does not meet the network; None where it does."""
        reasons = []
        if r2 < 0:
            reasons.append("it meets the network no better than a constant on validation rows")
        elif r2 < MEETS:
            reasons.append(f"it meets the network only to R² = {r2:.4f} on validation rows")
        if substituted > self.limit:
            reasons.append(f"the network with it loses {substituted:.3g}, more than {self.limit:.3g}")
        return " and ".join(reasons) or None


def simplest(tried: Sequence[Verdict], negligible: float) -> Verdict | None:
    """The one that is reported: of the accepted ones (if any) that no other surely beats, the simplest."""
    accepted = [verdict for verdict in tried if verdict.accepted] or list(tried)
    if not accepted:
        return None
    best = min(accepted, key=lambda verdict: float(verdict.errors.mean()))
    as_good = [verdict for verdict in accepted if not surely_more(verdict.errors, best.errors, negligible=negligible)]
    return min(as_good, key=lambda verdict: (verdict.complexity, float(verdict.errors.mean())))


def surely_more(errors: Column, others: Column, *, negligible: float) -> bool:
    """Whether the first errors are larger, by more than SURELY standard errors of the difference.

    Both are of the same examples. A mean difference up to `negligible` is none.
    """
    difference = errors - others
    mean = float(difference.mean())
    return mean > max(negligible, SURELY * float(difference.std()) / len(difference) ** 0.5)


def complexity(expression: sympy.Expr) -> float:
    """How many inputs, numbers and operations a formula has; a fitted number counts twice.

    A sign, a root and a reciprocal are one operation each.
    """
    if expression.is_Symbol or expression.is_NumberSymbol:
        return 1.0
    if expression.is_Number:
        return 2.0 if expression.is_Float else 1.0 if expression.is_Integer else 1.5
    inner = [complexity(argument) for argument in expression.args]
    if expression.is_Add or expression.is_Mul:
        is_negative = expression.is_Mul and expression.args[0] == -1
        return sum(inner) + len(inner) - 1 - (1.0 if is_negative else 0.0)
    if expression.is_Pow and expression.args[1] in (-1, sympy.Rational(1, 2), sympy.Rational(-1, 2)):
        return inner[0] + (1.0 if expression.args[1] != sympy.Rational(-1, 2) else 2.0)
    return sum(inner) + 1.0


def r_squared(truth: Column, answer: Column) -> float:
    """1 - error / variance; 1 for a constant that is met exactly, -inf for one that is not."""
    error, variance = float(((truth - answer) ** 2).mean()), float(truth.var())
    rounding = 1e-24 * float((truth**2).mean())  # what is left of a constant by rounding is no variance
    if variance > rounding:
        return 1.0 - error / variance
    return 1.0 if error <= rounding else -np.inf


def evaluated(expression: sympy.Expr, symbols: tuple[sympy.Symbol, ...], numbers: Columns) -> Column:
    """The expression at each row of numbers, one for each symbol; NaN where it has no real value."""
    with np.errstate(all="ignore"):
        function = sympy.lambdify(symbols, expression, modules="numpy")
        values = np.asarray(function(*numbers.T))
        return np.broadcast_to(np.real_if_close(values).astype(float), (len(numbers),))


_LATEX_SIGNS = {
    **{sign: f"\\{sign}" for sign in "#$%&_{}"},
    **{"\\": r"\textbackslash{}", "^": r"\textasciicircum{}", "~": r"\textasciitilde{}"},
}


class _Names(StrPrinter):
    """Python's notation, with names of columns as `in_formula` has them."""

    def _print_Symbol(self, expr: sympy.Symbol) -> str:
        return in_formula(expr.name)


def written(expression: sympy.Expr) -> str:
    """An expression as text in which every name of a column can be distinguished from the operations around it."""
    return str(_Names({"order": None}).doprint(expression))


def _latex_names(expression: sympy.Expr) -> dict[sympy.Symbol, str]:
    """Names of columns that are no plain identifiers as text, in which nothing is a command of LaTeX."""
    names = {symbol: str(symbol) for symbol in expression.free_symbols}
    return {
        symbol: f"\\text{{{''.join(_LATEX_SIGNS.get(letter, letter) for letter in name)}}}"
        for symbol, name in names.items()
        if name in RESERVED or not (name.isascii() and name.replace("_", "").isalnum())
    }
