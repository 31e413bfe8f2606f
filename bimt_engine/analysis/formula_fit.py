"""Formulas for functions of one to three numbers: a small library, fitted by least squares, the simplest that is good.

A formula is a hypothesis about the network; whether it is accepted is decided in `readout`, by the network.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import sympy
from scipy.optimize import least_squares

from bimt_engine.analysis.symmetry import NICE, snapped

Array = np.ndarray
ENOUGH = 1e-4  # R² that a simpler formula may be worse than the best of all
DEGREES = 5  # of polynomials in one number
JOINT_DEGREES = 3  # of polynomials in two or three
MOST_TERMS = 6
SIMPLE = 3.0  # the complexity of u + u²: a good polynomial no more complicated than that is taken at once
STARTS = (0.5, 1.5, 3.0, 5.0)  # inner scales to start from, in units of one over the number's spread


@dataclass(frozen=True)
class Fitted:
    """A formula in the symbols it was fitted for, its R² on the examples, and how complicated it is."""

    expression: sympy.Expr
    r2: float
    complexity: float


def r_squared(truth: Array, answer: Array) -> float:
    """1 - error / variance; 1 for a constant that is met exactly, -inf for one that is not."""
    error, variance = float(((truth - answer) ** 2).mean()), float(truth.var())
    if variance > 0:
        return 1.0 - error / variance
    return 1.0 if error == 0 else -np.inf


def evaluated(expression: sympy.Expr, symbols: tuple[sympy.Symbol, ...], numbers: Array) -> Array:
    """The expression at (N, symbols); NaN where it has no real value."""
    with np.errstate(all="ignore"):
        function = sympy.lambdify(symbols, expression, modules="numpy")
        values = np.asarray(function(*numbers.T))
        return np.broadcast_to(np.real_if_close(values).astype(float), (len(numbers),))


def fit(numbers: Array, values: Array, symbols: tuple[sympy.Symbol, ...]) -> Fitted | None:
    """The simplest formula among those within ENOUGH of the best; None where nothing fits at all.

    numbers   (N, 1 to 3), values (N,).
    """
    found = (
        list(_one(numbers[:, 0], values, symbols[0])) if len(symbols) == 1 else list(_joint(numbers, values, symbols))
    )
    found = [f for f in found if np.isfinite(f.r2)]
    if not found:
        return None
    best = max(f.r2 for f in found)
    return min((f for f in found if f.r2 >= best - ENOUGH), key=lambda f: (f.complexity, -f.r2))


# --- one number -------------------------------------------------------------------------------------

# name -> (f(u, inner constants), sympy's, how many inner constants, starts for them)
Inner = tuple[Callable[..., Array], Callable[..., sympy.Expr], list[tuple[float, ...]]]
SHAPES: dict[str, Inner] = {
    "sin": (
        lambda u, a, b: np.sin(a * u + b),
        lambda u, a, b: sympy.sin(a * u + b),
        [(s, p) for s in STARTS for p in (0.0, 1.5)],
    ),
    "exp": (lambda u, a: np.exp(np.clip(a * u, -50, 50)), lambda u, a: sympy.exp(a * u), [(0.7,), (-0.7,), (2.0,)]),
    "tanh": (lambda u, a, b: np.tanh(a * u + b), lambda u, a, b: sympy.tanh(a * u + b), [(1.0, 0.0), (3.0, 0.0)]),
    "bell": (
        lambda u, a, b: np.exp(-np.clip((a * (u - b)) ** 2, 0, 50)),
        lambda u, a, b: sympy.exp(-((a * (u - b)) ** 2)),
        [(1.0, 0.0), (3.0, 0.0)],
    ),
    "abs": (lambda u, b: np.abs(u - b), lambda u, b: sympy.Abs(u - b), [(0.0,), (0.5,), (-0.5,)]),
    "sqrt": (lambda u, b: np.sqrt(np.maximum(u + b, 0)), lambda u, b: sympy.sqrt(u + b), [(1.5,), (3.0,)]),
    "log": (lambda u, b: np.log(np.maximum(u + b, 1e-9)), lambda u, b: sympy.log(u + b), [(1.5,), (3.0,)]),
    "one over": (
        lambda u, b: 1 / np.where(np.abs(u + b) < 1e-6, 1e-6, u + b),
        lambda u, b: 1 / (u + b),
        [(1.5,), (-1.5,)],
    ),
}


def _one(u: Array, values: Array, symbol: sympy.Symbol) -> Iterator[Fitted]:
    for polynomial in _polynomials(u[:, None], values, (symbol,), DEGREES):
        yield polynomial
        if polynomial.r2 >= 1 - ENOUGH and polynomial.complexity <= SIMPLE:
            return
    spread = float(u.std()) or 1.0
    for shape, written, starts in SHAPES.values():
        best: tuple[float, Array] | None = None
        for start in starts:
            inner = np.array(start, float)
            inner[0] = inner[0] / spread if len(inner) == 2 else inner[0]
            solved = _solve(shape, u, values, inner)
            if solved is not None and (best is None or solved[0] < best[0]):
                best = solved
        if best is not None:
            yield _written(shape, written, u, values, best[1], symbol)


def _solve(shape: Callable[..., Array], u: Array, values: Array, inner: Array) -> tuple[float, Array] | None:
    """Inner constants by least squares; the outer two (scale and offset) are exact for each of them."""

    def residual(constants: Array) -> Array:
        curve = shape(u, *constants)
        scale, offset = _outer(curve, values)
        return scale * curve + offset - values

    try:
        solved = least_squares(residual, inner, method="lm" if len(u) > len(inner) else "trf", max_nfev=200)
    except (ValueError, np.linalg.LinAlgError):
        return None
    return float((solved.fun**2).mean()), solved.x


def _outer(shape: Array, values: Array) -> tuple[float, float]:
    """The best scale and offset of a shape, by the line of regression."""
    centred = shape - shape.mean()
    spread = float(centred @ centred)
    scale = float(centred @ values) / spread if spread > 0 else 0.0
    return scale, float(values.mean() - scale * shape.mean())


def _written(
    shape: Callable[..., Array],
    written: Callable[..., sympy.Expr],
    u: Array,
    values: Array,
    inner: Array,
    symbol: sympy.Symbol,
) -> Fitted:
    """The formula with every constant made simple that may be, one after another."""
    constants = inner.tolist()
    exact = [sympy.Float(c, 6) for c in constants]

    def score(trial: list[float]) -> float:
        scale, offset = _outer(shape(u, *trial), values)
        return r_squared(values, scale * shape(u, *trial) + offset)

    best = score(constants)
    for i, inner_constant in enumerate(constants):
        for simple in _simple(inner_constant):
            trial = [*constants[:i], float(simple), *constants[i + 1 :]]
            if score(trial) >= best - ENOUGH / 10:
                constants, exact[i] = trial, simple
                break
    scale, offset = _outer(shape(u, *constants), values)
    outer = [constant(number, near=0.01 * values.std()) for number in (scale, offset)]
    expression = outer[0] * written(symbol, *exact) + outer[1]
    answer = evaluated(expression, (symbol,), u[:, None])
    plain = sum(1 for c in [*exact, *outer] if c not in (0, 1, -1))
    return Fitted(expression, r_squared(values, answer), 2.0 + plain)


def _simple(number: float) -> list[sympy.Expr]:
    """Simple numbers near this one, the nearest first: 0, small fractions, small fractions of π."""
    found: list[sympy.Expr] = []
    if abs(number) < 0.02:
        found.append(sympy.Integer(0))
    for unit, value in ((sympy.Integer(1), 1.0), (sympy.pi, np.pi)):
        nice = snapped(number / value, 0.02)
        if nice in NICE and nice != 0:
            found.append(sympy.nsimplify(nice, rational=True) * unit)
    return sorted(found, key=lambda s: abs(float(s) - number))


def constant(number: float, *, near: float) -> sympy.Expr:
    """The nearest simple number, if it is nearer than this; else six digits."""
    return next((s for s in _simple(number) if abs(float(s) - number) < near), sympy.Float(number, 6))


# --- polynomials, in one number or several ----------------------------------------------------------


def _polynomials(numbers: Array, values: Array, symbols: tuple[sympy.Symbol, ...], degrees: int) -> Iterator[Fitted]:
    """Sparse polynomials: terms are added one by one, each time the one that helps most, and every stage is offered."""
    powers = [p for p in itertools.product(range(degrees + 1), repeat=numbers.shape[1]) if 0 < sum(p) <= degrees]
    columns = np.column_stack([np.prod(numbers ** np.array(p), axis=1) for p in powers])
    chosen: list[int] = []
    for _ in range(min(MOST_TERMS, len(powers))):
        errors = [
            np.inf if i in chosen else _least_squares(columns[:, [*chosen, i]], values)[1] for i in range(len(powers))
        ]
        chosen.append(int(np.argmin(errors)))
        # A term taken early may be idle once better ones are in.
        for idle in list(chosen[:-1]):
            without = [c for c in chosen if c != idle]
            if _least_squares(columns[:, without], values)[1] <= 1.02 * errors[chosen[-1]]:
                chosen = without
        yield _polynomial(columns[:, chosen], [powers[c] for c in chosen], values, symbols, numbers)


def _least_squares(columns: Array, values: Array) -> tuple[Array, float]:
    design = np.column_stack((columns, np.ones(len(values))))
    solved = np.linalg.lstsq(design, values, rcond=None)[0]
    return solved, float(((design @ solved - values) ** 2).mean())


def _polynomial(
    columns: Array, powers: list[tuple[int, ...]], values: Array, symbols: tuple[sympy.Symbol, ...], numbers: Array
) -> Fitted:
    solved, _ = _least_squares(columns, values)
    size = values.std()
    expression = sympy.Integer(0)
    complexity = 0.0
    for coefficient, power, column in zip(solved, [*powers, None], [*columns.T, np.ones(len(values))], strict=True):
        reach = float(np.abs(column).mean()) or 1.0
        near = next((s for s in _simple(float(coefficient)) if abs(float(s) - coefficient) * reach < 0.02 * size), None)
        written = near if near is not None else sympy.Float(float(coefficient), 6)
        if written == 0:
            continue
        if power is None:
            expression += written
            complexity += 0.5 if near is not None else 1.0
            continue
        expression += written * sympy.prod(s**k for s, k in zip(symbols, power, strict=True))
        complexity += 1.0 + sum(power) / 2 - (0.25 if near is not None else 0.0)
    return Fitted(expression, r_squared(values, evaluated(expression, symbols, numbers)), max(complexity, 0.5))


# --- two or three numbers ---------------------------------------------------------------------------


def _joint(numbers: Array, values: Array, symbols: tuple[sympy.Symbol, ...]) -> Iterator[Fitted]:
    """Sparse polynomials, and roots, logarithms and exponentials of them."""
    yield from _polynomials(numbers, values, symbols, JOINT_DEGREES)
    outer: list[tuple[Array, Callable[[sympy.Expr], sympy.Expr]]] = []
    if (values > -0.05 * values.std()).all():  # a norm is never negative, but for what the network misses
        outer.append((values**2, sympy.sqrt))
    if (values > 0).all():
        outer.append((np.log(values), sympy.exp))
        outer.append((1 / values, lambda inside: 1 / inside))
    for inside_values, wrap in outer:
        for inside in _polynomials(numbers, inside_values, symbols, 2):
            expression = wrap(inside.expression)
            answer = evaluated(expression, symbols, numbers)
            if np.isfinite(answer).all():
                yield Fitted(expression, r_squared(values, answer), inside.complexity + 1.0)
