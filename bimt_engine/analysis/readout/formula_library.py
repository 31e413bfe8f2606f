"""The formulas that are tried on functions of one to three numbers, each with its constants still open.

They are written in the units of the data, whatever these are: where a constant is looked for, and how large a step of
it is small, follow from the mean and the spread of the numbers. A parabola is `flow**2` in those units and only there.

Over 500 lines, because a formula (`Form`), what is made of it (`opened`, `summed`) and the list of formulas
(`SHAPES` and the polynomials) are of no use without one another.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, TypeVar

import numpy as np
import sympy
from jaxtyping import Float
from scipy.optimize import least_squares, leastsq

Column = Float[np.ndarray, " N"]
"""One number for each example."""
Columns = Float[np.ndarray, "N k"]
"""Several numbers for each example."""
Constants = Sequence[float] | np.ndarray
"""The constants of a formula, in its order."""
Expressions = Sequence[sympy.Expr]
Result = TypeVar("Result")

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
STARTS = (0.5, 1.5, 3.0, 5.0)  # inner scales to start from, in units of one over the number's spread
FORWARD = float(np.finfo(float).eps) ** 0.5  # of an inner constant's size, where its slope is measured
STEP = 1e-5  # of a constant's size, where a slope is measured
MAX_STEPS = 12
SHARES = (1.0, 0.5, 0.2, 0.05)  # of a step that are tried


def kept(compute: Callable[[Columns], Result]) -> Callable[[Columns], Result]:
    """The function, computed once for as long as it is asked for the same array. No array here is ever changed."""
    last: tuple[Columns, Result] | None = None

    def of(columns: Columns) -> Result:
        nonlocal last
        if last is None or last[0] is not columns:
            last = columns, compute(columns)
        return last[1]

    return of


@cache
def rational(number: float) -> sympy.Expr:
    """A number as a fraction, exact where that is a short one."""
    return sympy.nsimplify(number, rational=True)


@dataclass(frozen=True)
class Form:
    """A formula whose constants may be changed.

    value      (numbers (N, k), constants) -> (N,)
    written    (symbols, constants as expressions) -> the expression
    constants  where they stand; sizes: what a step of each is measured by
    angles     the constants that count in turns, for which multiples of π are plain numbers
    shape      what it costs, in constants, that this is no straight line
    offset     whether the last constant is added to all the rest
    """

    value: Callable[[Columns, Constants], Column]
    written: Callable[[Expressions, Expressions], sympy.Expr]
    constants: tuple[float, ...]
    sizes: tuple[float, ...]
    angles: frozenset[int] = frozenset()
    shape: float = 0.0
    offset: bool = False

    def at(self, numbers: Columns, constants: Constants | None = None) -> Column:
        """The value with these constants, or with its own; not finite where there is none."""
        with np.errstate(all="ignore"):
            return self.value(numbers, self.constants if constants is None else constants)

    def slopes(self, numbers: Columns, which: Sequence[int]) -> Float[np.ndarray, "N constants"]:
        """How the value moves with each of these constants, in steps of its size."""
        columns = []
        for i in which:
            moved = list(self.constants)
            ends = []
            for sign in (1.0, -1.0):
                moved[i] = self.constants[i] + sign * STEP * self.sizes[i]
                ends.append(self.at(numbers, moved))
            with np.errstate(all="ignore"):
                columns.append((ends[0] - ends[1]) / (2 * STEP))
        return np.nan_to_num(np.column_stack(columns), nan=0.0, posinf=0.0, neginf=0.0)

    def refitted(self, numbers: Columns, values: Column, free: Sequence[int]) -> Form:
        """The same with these constants at their least squares, the others left alone: a few Gauss-Newton steps.

        They begin where the constants are nearly right, and one is enough where the formula is linear in them.
        """
        free = list(free)
        here, left = self, values - self.at(numbers)
        with np.errstate(all="ignore"):
            error = float((left**2).mean())
        for _ in range(MAX_STEPS if free and np.isfinite(error) else 0):
            slopes = here.slopes(numbers, free)
            scale = np.maximum(np.linalg.norm(slopes, axis=0), 1e-300)
            step = np.linalg.lstsq(slopes / scale, left, rcond=1e-13)[0] / scale
            expected = float(((left - slopes @ step) ** 2).mean())
            for share in SHARES:
                constants = list(here.constants)
                for i, amount in zip(free, step.tolist(), strict=True):
                    constants[i] += share * amount * here.sizes[i]
                trial = values - here.at(numbers, constants)
                with np.errstate(all="ignore"):
                    reached = float((trial**2).mean())
                if reached < error:
                    break
            else:
                break
            gained, here, left, error = error - reached, replace(here, constants=tuple(constants)), trial, reached
            if gained <= 1e-6 * reached or reached - expected <= 1e-6 * gained:
                break
        return here


@dataclass(frozen=True)
class Through:
    """A number that a formula reads in place of several: the columns that it adds up, and how each is weighed.

    The first of them has the weight 1: a formula has constants of its own to make it larger.
    """

    columns: tuple[int, ...]
    weights: tuple[float, ...]

    def of(self, columns: Columns) -> Column:
        """The number for each example."""
        return columns[:, list(self.columns)] @ np.array(self.weights)


def opened(form: Form, through: Sequence[Through], columns: Columns) -> Form:
    """A formula of such numbers as one of the columns themselves; the weights become its first constants."""
    weights = [w for t in through for w in t.weights[1:]]
    count = len(weights)
    read = kept(lambda columns: [columns[:, list(t.columns)] for t in through])
    if not count:
        order = [t.columns[0] for t in through]
        ordered = kept(lambda columns: columns[:, order])
        return replace(
            form,
            value=lambda columns, constants: form.value(ordered(columns), constants),
            written=lambda symbols, constants: form.written([symbols[i] for i in order], constants),
        )

    def weighed(constants: Any) -> Iterator[tuple[Through, list[Any]]]:
        left = iter(constants[:count])
        for t in through:
            yield t, [next(left) for _ in t.weights[1:]]

    def value(columns: Columns, constants: Constants) -> Column:
        numbers = [c @ np.array((1.0, *w)) for c, (_, w) in zip(read(columns), weighed(constants), strict=True)]
        return form.value(np.column_stack(numbers), constants[count:])

    def written(symbols: Expressions, constants: Expressions) -> sympy.Expr:
        numbers = [
            sympy.Add(symbols[t.columns[0]], *(k * symbols[i] for k, i in zip(w, t.columns[1:], strict=True)))
            for t, w in weighed(constants)
        ]
        return form.written(numbers, constants[count:])

    sizes = [
        (float(columns[:, t.columns[0]].std()) or 1.0) / (float(columns[:, i].std()) or 1.0)
        for t in through
        for i in t.columns[1:]
    ]
    return Form(
        value,
        written,
        (*weights, *form.constants),
        (*sizes, *form.sizes),
        frozenset(count + i for i in form.angles),
        form.shape,
        form.offset,
    )


def summed(parts: Sequence[tuple[Form, Sequence[int]]], size: float) -> Form:
    """The sum of formulas, each of some of the columns, with one offset for all of them.

    size   what a step of the offset is measured by.
    """
    counts = [len(form.constants) - form.offset for form, _ in parts]
    begins = np.cumsum([0, *counts]).tolist()
    own_columns = kept(lambda columns: [columns[:, list(block)] for _, block in parts])

    def own(number: int, constants: Any, nothing: Any) -> list[Any]:
        """The constants of one part, its own offset zero."""
        here = list(constants[begins[number] : begins[number + 1]])
        return [*here, nothing] if parts[number][0].offset else here

    def value(columns: Columns, constants: Constants) -> Column:
        total = np.full(len(columns), float(constants[-1]))
        for number, ((form, _), read) in enumerate(zip(parts, own_columns(columns), strict=True)):
            total = total + form.value(read, own(number, constants, 0.0))
        return total

    def written(symbols: Expressions, constants: Expressions) -> sympy.Expr:
        terms = [
            form.written([symbols[i] for i in block], own(number, constants, sympy.Integer(0)))
            for number, (form, block) in enumerate(parts)
        ]
        return sympy.Add(*terms, constants[-1])

    together = [
        (form.constants[i], form.sizes[i]) for (form, _), n in zip(parts, counts, strict=True) for i in range(n)
    ]
    offset = float(sum(form.constants[-1] for form, _ in parts if form.offset))
    return Form(
        value,
        written,
        (*(constant for constant, _ in together), offset),
        (*(step for _, step in together), size),
        frozenset(begins[number] + i for number, (form, _) in enumerate(parts) for i in form.angles),
        float(sum(form.shape for form, _ in parts)),
        offset=True,
    )


# --- the list ---------------------------------------------------------------------------------------


def forms(numbers: Columns, values: Column) -> Iterator[Form]:
    """Every formula of the library, its constants fitted to these values."""
    yield _polynomial([], np.array([float(values.mean())]), np.empty((len(values), 0)), values)
    yield from _polynomials(numbers, values, DEGREES if numbers.shape[1] == 1 else JOINT_DEGREES)
    if numbers.shape[1] == 1:
        yield from _shapes(numbers, values)
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
        picked = [powers[c] for c in chosen]
        solved = _linear(columns[:, chosen], values)[0]
        yield _polynomial(picked, solved, columns[:, chosen], values)


def _monomials(count: int, degrees: int) -> list[tuple[int, ...]]:
    return [p for p in itertools.product(range(degrees + 1), repeat=count) if 0 < sum(p) <= degrees]


def _columns(numbers: Columns, powers: list[tuple[int, ...]]) -> Float[np.ndarray, "N powers"]:
    return np.column_stack([np.prod(numbers ** np.array(p), axis=1) for p in powers])


def _polynomial(
    powers: list[tuple[int, ...]], solved: Float[np.ndarray, " terms"], columns: Columns, values: Column
) -> Form:
    exponents = np.array(powers)
    terms_of = kept(lambda numbers: [np.prod(numbers**power, axis=1) for power in exponents])
    spread = float(values.std()) or 1.0

    def value(numbers: Columns, constants: Constants) -> Column:
        total = np.full(len(numbers), float(constants[-1]))
        for term, constant in zip(terms_of(numbers), constants, strict=False):
            total = total + constant * term
        return total

    def written(symbols: Expressions, constants: Expressions) -> sympy.Expr:
        terms = (
            c * sympy.prod(s**k for s, k in zip(symbols, power, strict=True))
            for c, power in zip(constants, powers, strict=False)
        )
        return sympy.Add(*terms, constants[-1])

    sizes = [spread / (float(column.std()) or 1.0) for column in columns.T]
    shape = 0.25 * float(sum(sum(power) - 1 for power in powers))
    return Form(value, written, tuple(solved.tolist()), (*sizes, spread), shape=shape, offset=True)


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
    if count <= MANY_MONOMIALS:
        sizes = range(1, (count if count <= DEGREES else MAX_TERMS) + 1)
        every = [list(c) for size in sizes for c in itertools.combinations(range(count), size)]
        if len(every) <= 2**DEGREES:
            return every
        reduced, goal = _reduced(columns, values, weights)
        errors = [_left(reduced, goal, chosen) for chosen in every]
        # Of each number of terms, the best few.
        kept = []
        for size in sizes:
            ranked = sorted((e, c) for e, c in zip(errors, every, strict=True) if len(c) == size)
            kept += [c for _, c in ranked[:PASSED_ON]]
        return kept
    reduced, goal = _reduced(columns, values, weights)
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
class Shape:
    """A curve scale · shape(u; inner constants) + offset.

    curve    of the standardised number v = (u - mean) / spread, where it is searched
    starts   (mean / spread) -> where to search
    native   (inner constants for v, mean, spread) -> those for u
    written  the same curve of u, and as an expression
    kinds    of each inner constant: "rate" per unit of u, "angle", or "place" on its scale
    """

    curve: Callable[..., Column]
    native: Callable[..., tuple[float, ...]]
    written: Callable[..., sympy.Expr]
    kinds: tuple[str, ...]
    starts: Callable[[float], list[tuple[float, ...]]]


def _shifted(b: float, mean: float, spread: float) -> tuple[float, ...]:
    return (b * spread - mean,)


def _placed(b: float, mean: float, spread: float) -> tuple[float, ...]:
    return (b * spread + mean,)


def _turning(a: float, b: float, mean: float, spread: float) -> tuple[float, ...]:
    """Rate and phase, the rate positive and the phase less than a quarter turn: the sign is the scale's."""
    rate, phase = a / spread, b - a * mean / spread
    if rate < 0:
        rate, phase = -rate, -phase
    return rate, (phase + np.pi / 2) % np.pi - np.pi / 2


SHAPES: dict[str, Shape] = {
    "sin": Shape(
        lambda u, a, b: np.sin(a * u + b),
        _turning,
        lambda u, a, b: sympy.sin(a * u + b),
        ("rate", "angle"),
        lambda far: [(s, p) for s in STARTS for p in (0.0, 1.5)],
    ),
    "exp": Shape(
        lambda u, a: np.exp(np.clip(a * u, -300, 300)),
        lambda a, mean, spread: (a / spread,),
        lambda u, a: sympy.exp(a * u),
        ("rate",),
        lambda far: [(0.4,), (-0.4,), (2.0,)],
    ),
    "tanh": Shape(
        lambda u, a, b: np.tanh(a * (u - b)),
        lambda a, b, mean, spread: (a / spread, b * spread + mean),
        lambda u, a, b: sympy.tanh(a * (u - b)),
        ("rate", "place"),
        lambda far: [(1.0, 0.0), (3.0, 0.0)],
    ),
    "bell": Shape(
        lambda u, a, b: np.exp(-np.clip((a * (u - b)) ** 2, 0, 50)),
        lambda a, b, mean, spread: (abs(a) / spread, b * spread + mean),
        lambda u, a, b: sympy.exp(-((a * (u - b)) ** 2)),
        ("rate", "place"),
        lambda far: [(1.0, 0.0), (3.0, 0.0)],
    ),
    "parabola": Shape(
        lambda u, b: (u - b) ** 2,
        _placed,
        lambda u, b: (u - b) ** 2,
        ("place",),
        lambda far: [(0.0,), (-2.0,), (2.0,)],
    ),
    "abs": Shape(
        lambda u, b: np.abs(u - b),
        _placed,
        lambda u, b: sympy.Abs(u - b),
        ("place",),
        lambda far: [(0.0,), (0.5,), (-0.5,)],
    ),
    "sqrt": Shape(
        lambda u, b: np.sqrt(np.maximum(u + b, 0)),
        _shifted,
        lambda u, b: sympy.sqrt(u + b),
        ("place",),
        lambda far: [(1.5,), (3.0,), (far,)],
    ),
    "log": Shape(
        lambda u, b: np.log(np.maximum(u + b, 1e-9)),
        _shifted,
        lambda u, b: sympy.log(u + b),
        ("place",),
        lambda far: [(1.5,), (3.0,), (far,)],
    ),
    "one over": Shape(
        lambda u, b: 1 / np.where(np.abs(u + b) < 1e-6, 1e-6, u + b),
        _shifted,
        lambda u, b: 1 / (u + b),
        ("place",),
        lambda far: [(1.5,), (-1.5,), (far,)],
    ),
}  # fmt: skip


def _shapes(numbers: Columns, values: Column) -> Iterator[Form]:
    u = numbers[:, 0]
    mean, spread = float(u.mean()), float(u.std()) or 1.0
    v = (u - mean) / spread
    size = {"rate": 1 / spread, "angle": 1.0, "place": spread}
    for shape in SHAPES.values():
        best: tuple[float, np.ndarray] | None = None
        for start in shape.starts(mean / spread):
            solved = _searched(shape.curve, v, values, np.array(start, float))
            if solved is not None and (best is None or solved[0] < best[0]):
                best = solved
        if best is None:
            continue
        if not all(_bends(kind, c) for kind, c in zip(shape.kinds, best[1].tolist(), strict=True)):
            continue
        if shape is SHAPES["abs"] and not KINK < float((v < best[1][0]).mean()) < 1 - KINK:
            continue
        inner = shape.native(*best[1].tolist(), mean, spread)
        base = 0.0
        if shape is SHAPES["exp"] and abs(inner[0] * mean) > FAR:
            digit = 10 ** np.floor(np.log10(spread))
            base = float(round(mean / digit) * digit)
        yield _shape(shape, base, inner, u, values, tuple(size[kind] for kind in shape.kinds))


def _bends(kind: str, constant: float) -> bool:
    """Whether a curve with this inner constant, for v, is more than a straight line in disguise."""
    return abs(constant) >= STRAIGHT if kind == "rate" else kind == "angle" or abs(constant) <= 1 / STRAIGHT


def _shape(
    shape: Shape, base: float, inner: tuple[float, ...], u: Column, values: Column, sizes: tuple[float, ...]
) -> Form:
    from_where = rational(base)
    curve = shape.curve(u - base, *inner)
    scale, offset = _line(curve, values)
    spread = float(values.std()) or 1.0

    def value(numbers: Columns, constants: Constants) -> Column:
        *inner, scale, offset = constants
        return scale * shape.curve(numbers[:, 0] - base, *inner) + offset

    def written(symbols: Expressions, constants: Expressions) -> sympy.Expr:
        *inner, scale, offset = constants
        return scale * shape.written(symbols[0] - from_where, *inner) + offset

    return Form(
        value,
        written,
        (*inner, scale, offset),
        (*sizes, spread / (float(curve.std()) or 1.0), spread),
        angles=frozenset(range(2)) if "angle" in shape.kinds else frozenset(),
        shape=0.0 if shape is SHAPES["parabola"] else 0.5,
        offset=True,
    )


def _searched(
    curve: Callable[..., Column], v: Column, values: Column, inner: Float[np.ndarray, " constants"]
) -> tuple[float, np.ndarray] | None:
    """Inner constants by least squares; the outer two (scale and offset) are exact for each of them."""

    def residual(constants: Float[np.ndarray, " constants"]) -> Column:
        shape = curve(v, *constants)
        scale, offset = _line(shape, values)
        return scale * shape + offset - values

    def slopes(constants: Float[np.ndarray, " constants"]) -> Float[np.ndarray, "N constants"]:
        here = residual(constants)
        columns = []
        for i, constant in enumerate(constants.tolist()):
            moved = constants.copy()
            moved[i] = constant + FORWARD * max(1.0, abs(constant)) * (1 if constant >= 0 else -1)
            columns.append((residual(moved) - here) / (moved[i] - constant))
        return np.array(columns).T

    if not np.isfinite(residual(inner)).all():
        return None
    if len(v) <= len(inner):
        few = least_squares(residual, inner, max_nfev=200)
        return float((few.fun**2).mean()), few.x
    # What least_squares(method="lm") does, bit for bit, without what it adds to each evaluation.
    solved, _, info, _, _ = leastsq(
        residual, inner, Dfun=slopes, full_output=True, ftol=1e-8, xtol=1e-8, gtol=1e-8, maxfev=200
    )
    return float((info["fvec"] ** 2).mean()), solved


def _line(shape: Column, values: Column) -> tuple[float, float]:
    """The best scale and offset of a shape, by the line of regression."""
    middle = shape.mean()
    centred = shape - middle
    spread = float(centred @ centred)
    scale = float(centred @ values) / spread if spread > 0 else 0.0
    return scale, float(values.mean() - scale * middle)


# --- several numbers --------------------------------------------------------------------------------


def _wrapped(numbers: Columns, values: Column) -> Iterator[Form]:
    """Roots, exponentials and inverses of polynomials."""
    powers = _monomials(numbers.shape[1], INNER_DEGREES)
    columns = _columns(numbers, powers)
    # (what the polynomial is fitted to, how much an error there weighs, the way back, as an expression)
    ways: list[tuple[Column, Column, Callable[[Column], Column], Callable[[sympy.Expr], sympy.Expr]]] = []
    if (values > -0.05 * values.std()).all():  # a norm is never negative, but for what the network misses
        weights = 1 / np.maximum(2 * values, 0.1 * values.std())
        ways.append((values**2, weights, lambda z: np.sqrt(np.maximum(z, 0)), sympy.sqrt))
    if (values > 0).all():
        ways.append((np.log(values), values, lambda z: np.exp(np.clip(z, -300, 300)), sympy.exp))
        ways.append((1 / values, values**2, lambda z: 1 / np.where(np.abs(z) < 1e-12, 1e-12, z), lambda z: 1 / z))
    for goal, weights, back, wrap in ways:
        ranked = sorted(
            ((_linear(columns[:, c], goal, weights), c) for c in _choices(columns, goal, weights)),
            key=lambda found: found[0][1] * len(values) ** (len(found[1]) / len(values)),
        )
        for (solved, _), chosen in ranked[:PASSED_ON]:
            plain = _polynomial([powers[c] for c in chosen], solved, columns[:, chosen], goal)
            yield _inside(plain, back, wrap).refitted(numbers, values, range(len(chosen) + 1))


def _inside(plain: Form, back: Callable[[Column], Column], wrap: Callable[[sympy.Expr], sympy.Expr]) -> Form:
    return replace(
        plain,
        value=lambda numbers, constants: back(plain.value(numbers, constants)),
        written=lambda symbols, constants: wrap(plain.written(symbols, constants)),
        shape=plain.shape + 0.5,
        offset=False,
    )


def _powers(numbers: Columns, values: Column) -> Iterator[Form]:
    """scale · u^p · v^q …, where everything is on one side of zero: laws of nature look so in their own units."""
    if not (numbers > 0).all() or not ((values > 0).all() or (values < 0).all()):
        return
    sign, count = float(np.sign(values[0])), numbers.shape[1]
    solved, _ = _linear(np.log(numbers), np.log(np.abs(values)), np.abs(values))

    def value(numbers: Columns, constants: Constants) -> Column:
        with np.errstate(all="ignore"):
            return constants[-1] * np.prod(numbers ** np.array(constants[:-1]), axis=1)

    start = (*solved[:-1].tolist(), sign * float(np.exp(np.clip(solved[-1], -300, 300))))
    form = Form(
        value,
        lambda symbols, constants: constants[-1] * sympy.prod(s**p for s, p in zip(symbols, constants, strict=False)),
        start,
        (*(1.0 / max(float(np.log(numbers[:, i]).std()), 1e-3) for i in range(count)), abs(start[-1]) or 1.0),
        shape=0.5 * count,
    )
    yield form.refitted(numbers, values, range(count + 1))
