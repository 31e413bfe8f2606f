"""The formulas that are tried on functions of one to three numbers, each with its constants fitted.

They are written in the units of the data, whatever these are: where a constant is looked for follows from the mean and
the spread of the numbers. A parabola is `flow**2` in those units and only there.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from jaxtyping import Float
from scipy.optimize import leastsq

from bimt_engine.analysis.readout.form import (
    Column,
    Columns,
    Form,
    Tree,
    constant,
    number,
    plus,
    power,
    times,
    variable,
)

DEGREES = 5  # of polynomials in one number
JOINT_DEGREES = 3  # of polynomials in two or three
INNER_DEGREES = 2  # of polynomials under a root, a logarithm or a fraction
MAX_TERMS = 4  # of polynomials in several numbers
MANY_MONOMIALS = 10  # beyond, not every choice of terms is tried: they are added one by one
PASSED_ON = 4  # polynomials under a root, a logarithm or a fraction: the best few
FAR = 10.0  # a·mean in exp(a·u) beyond which the exponential is written from the mean on, not from zero
KINK = 0.05  # of the examples: as many at least lie on either side of a kink
ALIKE = 1e4  # (mean / spread)^(degree - 1) beyond which a power is left out
STRAIGHT = 0.03  # bend of a curve within one spread of the data, below which it is a straight line
REFINED = 2  # of the places where a curve may begin, those that begin best


def forms(numbers: Columns, values: Column) -> Iterator[Form]:
    """Every formula of the library, its constants fitted to these values."""
    yield Form(constant(0), (float(values.mean()),))
    yield from _polynomials(numbers, values, DEGREES if numbers.shape[1] == 1 else JOINT_DEGREES)
    if numbers.shape[1] == 1:
        yield from _curves(numbers[:, 0], values)
    else:
        yield from _wrapped(numbers, values)
    yield from _powers(numbers, values)


# --- polynomials ------------------------------------------------------------------------------------


def _polynomials(numbers: Columns, values: Column, degrees: int) -> Iterator[Form]:
    # Far from zero high powers are all alike, and sums of them have more digits than can be read.
    far = float((np.abs(numbers.mean(axis=0)) / np.maximum(numbers.std(axis=0), 1e-300)).max())
    powers = [p for p in _monomials(numbers.shape[1], degrees) if far ** (sum(p) - 1) <= ALIKE]
    columns = _columns(numbers, powers)
    for chosen in _choices(columns, values):
        solved, _ = _linear(columns[:, chosen], values)
        yield _polynomial([powers[c] for c in chosen], solved)


def _monomials(count: int, degrees: int) -> list[tuple[int, ...]]:
    return [p for p in itertools.product(range(degrees + 1), repeat=count) if 0 < sum(p) <= degrees]


def _columns(numbers: Columns, powers: list[tuple[int, ...]]) -> Float[np.ndarray, "N powers"]:
    return np.column_stack([np.prod(numbers ** np.array(p), axis=1) for p in powers])


def _polynomial(powers: list[tuple[int, ...]], solved: Float[np.ndarray, " constants"]) -> Form:
    """The sum of these monomials with these coefficients, the last of them the offset."""
    terms = [
        times(constant(i), *(power(variable(k), p) for k, p in enumerate(monomial) if p))
        for i, monomial in enumerate(powers)
    ]
    return Form(plus(*terms, constant(len(powers))), tuple(solved.tolist()))


def _linear(
    columns: Columns, values: Column, weights: Column | None = None
) -> tuple[Float[np.ndarray, " terms"], float]:
    """Coefficients and offset by least squares, and the mean squared error."""
    design = np.column_stack((columns, np.ones(len(values))))
    goal = values
    if weights is not None:
        design, goal = design * weights[:, None], values * weights
    scale = np.linalg.norm(design, axis=0)
    scale[scale == 0] = 1.0
    solved = np.linalg.lstsq(design / scale, goal, rcond=1e-14)[0]
    return solved / scale, float(((design / scale @ solved - goal) ** 2).mean())


def _choices(columns: Columns, values: Column, weights: Column | None = None) -> list[list[int]]:
    """Which monomials to add up: every choice of a few, or, of many, those that help most one by one."""
    count = columns.shape[1]
    reduced, goal = _reduced(columns, values, weights)
    if count <= MANY_MONOMIALS:
        sizes = range(1, (count if count <= DEGREES else MAX_TERMS) + 1)
        every = [list(c) for size in sizes for c in itertools.combinations(range(count), size)]
        if len(every) <= 2**DEGREES:
            return every
        errors = [_left(reduced, goal, chosen) for chosen in every]
        # Of each number of terms, the best few.
        kept = []
        for size in sizes:
            ranked = sorted((e, c) for e, c in zip(errors, every, strict=True) if len(c) == size)
            kept += [c for _, c in ranked[:PASSED_ON]]
        return kept
    chosen: list[int] = []
    stages = []
    for _ in range(MAX_TERMS + 1):
        chosen = min(([*chosen, i] for i in range(count) if i not in chosen), key=lambda c: _left(reduced, goal, c))
        for idle in chosen[:-1]:  # a term taken early may be idle once better ones are in
            without = [c for c in chosen if c != idle]
            if _left(reduced, goal, without) <= 1.02 * _left(reduced, goal, chosen):
                chosen = without
        stages.append(list(chosen))
    return stages


def _reduced(
    columns: Columns, values: Column, weights: Column | None
) -> tuple[Float[np.ndarray, "rows columns"], Float[np.ndarray, " rows"]]:
    """The same least-squares problems in as many rows as there are columns, the offset last."""
    design = np.column_stack((columns, np.ones(len(values))))
    if weights is not None:
        design, values = design * weights[:, None], values * weights
    design = design / np.maximum(np.linalg.norm(design, axis=0), 1e-300)
    whole = np.asarray(np.linalg.qr(np.column_stack((design, values)), mode="r"))
    return whole[:, :-1], whole[:, -1]


def _left(reduced: Float[np.ndarray, "rows columns"], goal: Float[np.ndarray, " rows"], chosen: list[int]) -> float:
    design = reduced[:, [*chosen, reduced.shape[1] - 1]]
    solved = np.linalg.lstsq(design, goal, rcond=1e-14)[0]
    return float(((design @ solved - goal) ** 2).sum())


# --- curves of one number ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Curve:
    """A curve scale · curve(u; inner constants) + offset.

    tree     of the number u.
    kinds    of each inner constant: "rate" per unit of u; "angle", added to a rate times u; "place", added to u.
    starts   where to search them, for the standardised number v = (u - mean) / spread.
    """

    tree: Tree
    kinds: tuple[str, ...]
    starts: tuple[tuple[float, ...], ...]


_U, _A, _B = variable(0), constant(0), constant(1)
_PLACED = plus(_U, _A)
_SQUARED = power(times(_A, plus(_U, _B)), 2)
_RATES = (0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 4.5, 5.0)
_BEYOND = ((1.5,), (3.0,), (10.0,))  # spreads beyond the mean, where a root, a logarithm or a pole begins

CURVES: dict[str, Curve] = {
    "sin": Curve(
        ("sin", plus(times(_A, _U), _B)), ("rate", "angle"), tuple((r, p) for r in _RATES for p in (0.0, 1.5))
    ),
    "exp": Curve(("exp", times(_A, _U)), ("rate",), ((0.4,), (-0.4,), (2.0,), (-2.0,))),
    "tanh": Curve(("tanh", times(_A, plus(_U, _B))), ("rate", "place"), ((1.0, 0.0), (3.0, 0.0))),
    "bell": Curve(
        ("exp", times(number(-1), _SQUARED)), ("rate", "place"), ((1.0, 0.0), (3.0, 0.0), (0.4, 3.0), (0.4, -3.0))
    ),
    "parabola": Curve(power(_PLACED, 2), ("place",), ((0.0,), (-2.0,), (2.0,))),
    "abs": Curve(("abs", _PLACED), ("place",), ((0.0,), (0.5,), (-0.5,))),
    "sqrt": Curve(("sqrt", _PLACED), ("place",), _BEYOND),
    "log": Curve(("log", _PLACED), ("place",), _BEYOND),
    "one over": Curve(power(_PLACED, -1), ("place",), (*_BEYOND, (-1.5,))),
}


def _curves(u: Column, values: Column) -> Iterator[Form]:
    mean, spread = float(u.mean()), float(u.std()) or 1.0
    v = ((u - mean) / spread)[:, None]
    for name, curve in CURVES.items():
        # A curve that begins where the units of the data do, beside those of the list.
        starts = [*curve.starts, (mean / spread,)] if curve.starts[: len(_BEYOND)] == _BEYOND else curve.starts
        begun = [(_residual(Form(curve.tree, start), v, values), start) for start in starts]
        ranked = sorted((float(left @ left), start) for (left, _), start in begun if np.isfinite(left).all())
        solved = [_searched(curve.tree, v, values, start) for _, start in ranked[:REFINED]]
        if not solved:
            continue
        inner = min(solved)[1]
        if not all(_bends(kind, c) for kind, c in zip(curve.kinds, inner, strict=True)):
            continue
        if name == "abs" and not KINK < float((v[:, 0] < -inner[0]).mean()) < 1 - KINK:
            continue
        yield _in_units(curve, inner, u, values, mean, spread)


def _bends(kind: str, value: float) -> bool:
    """Whether a curve with this inner constant, for v, is more than a straight line in disguise."""
    return abs(value) >= STRAIGHT if kind == "rate" else kind == "angle" or abs(value) <= 1 / STRAIGHT


def _in_units(curve: Curve, inner: tuple[float, ...], u: Column, values: Column, mean: float, spread: float) -> Form:
    """The curve of u in place of v, with its scale and offset."""
    rate = inner[0] / spread
    native = []
    for kind, value in zip(curve.kinds, inner, strict=True):
        native.append(rate if kind == "rate" else value * spread - mean if kind == "place" else value - rate * mean)
    tree = curve.tree
    if "angle" in curve.kinds:  # the rate positive and the phase less than a quarter turn: the sign is the scale's
        sign = 1.0 if native[0] >= 0 else -1.0
        native = [sign * native[0], (sign * native[1] + np.pi / 2) % np.pi - np.pi / 2]
    elif curve is CURVES["exp"] and abs(rate * mean) > FAR:
        digit = 10 ** int(np.floor(np.log10(spread)))
        tree = ("exp", times(_A, plus(_U, number(-Fraction(round(mean / digit) * digit)))))
    count = len(native)
    scale, offset = _line(Form(tree, tuple(native)).at(u[:, None]), values)
    return Form(plus(times(constant(count), tree), constant(count + 1)), (*native, scale, offset))


def _residual(form: Form, v: Columns, values: Column) -> tuple[Column, float]:
    """What the curve leaves, with its best scale and offset, and that scale."""
    curve = form.at(v)
    scale, offset = _line(curve, values)
    return scale * curve + offset - values, scale


def _searched(tree: Tree, v: Columns, values: Column, start: tuple[float, ...]) -> tuple[float, tuple[float, ...]]:
    """Inner constants by least squares; the outer two (scale and offset) are exact for each of them."""

    def residual(inner: Float[np.ndarray, " constants"]) -> Column:
        return _residual(Form(tree, tuple(inner.tolist())), v, values)[0]

    def slopes(inner: Float[np.ndarray, " constants"]) -> Float[np.ndarray, "N constants"]:
        form = Form(tree, tuple(inner.tolist()))
        curve = form.at(v)
        moved = _residual(form, v, values)[1] * form.slopes(v, range(len(inner)))
        # What the scale and the offset take up of each slope is no slope (Kaufman's approximation).
        moved = moved - moved.mean(axis=0)
        centred = curve - curve.mean()
        return moved - np.outer(centred, centred @ moved) / max(float(centred @ centred), 1e-300)

    if len(v) <= len(start):
        return float((residual(np.array(start)) ** 2).mean()), start
    solved, _, info, _, _ = leastsq(
        residual, np.array(start), Dfun=slopes, full_output=True, ftol=1e-8, xtol=1e-8, gtol=1e-8, maxfev=100
    )
    return float((info["fvec"] ** 2).mean()), tuple(solved.tolist())


def _line(curve: Column, values: Column) -> tuple[float, float]:
    """The best scale and offset of a curve, by the line of regression."""
    middle = curve.mean()
    centred = curve - middle
    spread = float(centred @ centred)
    scale = float(centred @ values) / spread if spread > 0 else 0.0
    return scale, float(values.mean() - scale * middle)


# --- several numbers --------------------------------------------------------------------------------


def _wrapped(numbers: Columns, values: Column) -> Iterator[Form]:
    """Roots, exponentials and inverses of polynomials."""
    powers = _monomials(numbers.shape[1], INNER_DEGREES)
    columns = _columns(numbers, powers)
    ways: list[tuple[Column, Column, str]] = []  # what the polynomial is fitted to, how much an error weighs there
    if (values > -0.05 * values.std()).all():  # a norm is never negative, but for what the network misses
        ways.append((values**2, 1 / np.maximum(2 * values, 0.1 * values.std()), "sqrt"))
    if (values > 0).all():
        ways.append((np.log(values), values, "exp"))
        ways.append((1 / values, values**2, "one over"))
    for goal, weights, way in ways:
        ranked = sorted(
            ((_linear(columns[:, c], goal, weights), c) for c in _choices(columns, goal, weights)),
            key=lambda found: found[0][1] * len(values) ** (len(found[1]) / len(values)),
        )
        for (solved, _), chosen in ranked[:PASSED_ON]:
            inside = _polynomial([powers[c] for c in chosen], solved)
            tree = power(inside.tree, -1) if way == "one over" else (way, inside.tree)
            yield Form(tree, inside.constants).refitted(numbers, values)


def _powers(numbers: Columns, values: Column) -> Iterator[Form]:
    """scale · u^p · v^q …, where everything is on one side of zero: laws of nature look so in their own units."""
    if not (numbers > 0).all() or not ((values > 0).all() or (values < 0).all()):
        return
    count = numbers.shape[1]
    solved, _ = _linear(np.log(numbers), np.log(np.abs(values)), np.abs(values))
    scale = float(np.sign(values[0]) * np.exp(np.clip(solved[-1], -300, 300)))
    factors = [power(variable(i), constant(i)) for i in range(count)]
    form = Form(times(constant(count), *factors), (*solved[:-1].tolist(), scale))
    yield form.refitted(numbers, values)
