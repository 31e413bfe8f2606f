"""A formula whose constants are still open: a tree of inputs, constants and operations, and what is done with it.

Both searchers, the library and the genetic one, give such trees. A tree is evaluated at rows of numbers, differentiated
in its constants, fitted to values by least squares, and written as a sympy expression.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from typing import Any

import numpy as np
import sympy
from jaxtyping import Float

Column = Float[np.ndarray, " N"]
"""One number for each example."""
Columns = Float[np.ndarray, "N k"]
"""Several numbers for each example."""
Constants = Sequence[float] | np.ndarray
"""The constants of a formula, in its order."""
Tree = tuple[Any, ...]
"""("input", i), ("constant", j), ("number", n), or an operation and its arguments, which are trees.

Operations: "+" and "*" of two or more, "power" of two, and the names in FUNCTIONS, of one.
"""

MAX_STEPS = 12  # of a fit
SHARES = (1.0, 0.5, 0.2, 0.05)  # of a step that are tried
TINY = 1e-12  # nearer to zero than this nothing is divided by, and no logarithm is taken
# What a formula costs beside its constants, in constants.
FUNCTION_COST, FACTOR_COST = 0.5, 0.25


@dataclass(frozen=True)
class Function:
    """A function of one number.

    value    where it is not defined, the nearest value that it has: a search may pass through such places.
    slope    (argument, value) -> derivative
    """

    value: Callable[[Column], Column]
    slope: Callable[[Column, Column], Column]
    written: Callable[[sympy.Expr], sympy.Expr]


FUNCTIONS: dict[str, Function] = {
    "sin": Function(np.sin, lambda z, f: np.cos(z), sympy.sin),
    "cos": Function(np.cos, lambda z, f: -np.sin(z), sympy.cos),
    "tanh": Function(np.tanh, lambda z, f: 1 - f * f, sympy.tanh),
    "exp": Function(lambda z: np.exp(np.clip(z, -300, 300)), lambda z, f: f, sympy.exp),
    "log": Function(lambda z: np.log(np.maximum(z, TINY)), lambda z, f: 1 / np.maximum(z, TINY), sympy.log),
    "sqrt": Function(lambda z: np.sqrt(np.maximum(z, 0)), lambda z, f: 0.5 / np.maximum(f, TINY), sympy.sqrt),
    "abs": Function(np.abs, lambda z, f: np.sign(z), sympy.Abs),
    "asin": Function(
        lambda z: np.arcsin(np.clip(z, -1, 1)),
        lambda z, f: 1 / np.sqrt(np.maximum(1 - z * z, TINY)),
        sympy.asin,
    ),
}
ANGLES = ("sin", "cos")  # of an angle


def number(value: int | Fraction) -> Tree:
    """A number that stays as it is."""
    return "number", value


def constant(index: int) -> Tree:
    """The constant of this number."""
    return "constant", index


def variable(index: int) -> Tree:
    """The input of this number."""
    return "input", index


def plus(*terms: Tree) -> Tree:
    """The sum; of one term, that term."""
    return terms[0] if len(terms) == 1 else ("+", *terms)


def times(*factors: Tree) -> Tree:
    """The product; of one factor, that factor."""
    return factors[0] if len(factors) == 1 else ("*", *factors)


def power(base: Tree, exponent: int | Fraction | Tree) -> Tree:
    """A power, its exponent a number or a tree."""
    if exponent == 1:
        return base
    return "power", base, exponent if isinstance(exponent, tuple) else number(exponent)


@dataclass(frozen=True)
class Form:
    """A formula with its constants at some values. Equal trees are the same formula."""

    tree: Tree
    constants: tuple[float, ...]

    @cached_property
    def angles(self) -> frozenset[int]:
        """The constants that count in turns, for which multiples of π are plain numbers."""
        return frozenset(_in_angles(self.tree, inside=False))

    @cached_property
    def offset(self) -> int | None:
        """The number of the constant that is added to all the rest; None where there is none."""
        terms = self.tree[1:] if self.tree[0] == "+" else (self.tree,)
        return next((term[1] for term in terms if term[0] == "constant"), None)

    @cached_property
    def cost(self) -> float:
        """What the formula costs before any constant is plain: its constants, and its shape measured in constants."""
        return len(self.constants) + self.shape

    @cached_property
    def shape(self) -> float:
        """What it costs, in constants, that this is no weighted sum."""
        return _shape(self.tree)

    def at(self, columns: Columns, constants: Constants | None = None) -> Column:
        """The value with these constants, or with its own; not finite where there is none."""
        with np.errstate(all="ignore"):
            value, _ = _evaluated(self.tree, columns, self.constants if constants is None else constants, frozenset())
        return np.broadcast_to(np.asarray(value, float), (len(columns),))

    def slopes(self, columns: Columns, which: Sequence[int]) -> Float[np.ndarray, "N constants"]:
        """The derivative in each of these constants; 0 where there is none."""
        with np.errstate(all="ignore"):
            _, slopes = _evaluated(self.tree, columns, self.constants, frozenset(which))
        found = np.zeros((len(columns), len(which)))
        for position, index in enumerate(which):
            if index in slopes:
                found[:, position] = slopes[index]
        return np.nan_to_num(found, nan=0.0, posinf=0.0, neginf=0.0)

    def refitted(self, columns: Columns, values: Column, free: Sequence[int] | None = None) -> Form:
        """The same with these constants (None: all) at their least squares, the others left alone: Gauss-Newton steps.

        They begin where the constants are nearly right, and one is enough where the formula is linear in them.
        """
        free = list(range(len(self.constants))) if free is None else list(free)
        here, left = self, values - self.at(columns)
        with np.errstate(all="ignore"):
            error = float(left @ left) / len(left)
        for _ in range(MAX_STEPS if free and np.isfinite(error) else 0):
            slopes = here.slopes(columns, free)
            scale = np.maximum(np.linalg.norm(slopes, axis=0), 1e-300)
            step = np.linalg.lstsq(slopes / scale, left, rcond=1e-13)[0] / scale
            missed = left - slopes @ step
            expected = float(missed @ missed) / len(left)
            for share in SHARES:
                constants = list(here.constants)
                for i, amount in zip(free, step.tolist(), strict=True):
                    constants[i] += share * amount
                trial = values - here.at(columns, constants)
                with np.errstate(all="ignore"):
                    reached = float(trial @ trial) / len(trial)
                if reached < error:
                    break
            else:
                break
            gained, here, left, error = error - reached, replace(here, constants=tuple(constants)), trial, reached
            if gained <= 1e-6 * reached or reached - expected <= 1e-6 * gained:
                break
        return here

    def written(self, symbols: Sequence[sympy.Expr], constants: Sequence[sympy.Expr]) -> sympy.Expr:
        """The expression in these symbols, with these constants."""
        return _written(self.tree, symbols, constants)


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


def opened(form: Form, through: Sequence[Through]) -> Form:
    """A formula of such numbers as one of the columns themselves; the weights become its first constants."""
    weights: list[float] = []
    numbers: list[Tree] = []
    for read in through:
        terms = [variable(read.columns[0])]
        for column, weight in zip(read.columns[1:], read.weights[1:], strict=True):
            terms.append(times(constant(len(weights)), variable(column)))
            weights.append(weight)
        numbers.append(plus(*terms))
    return Form(_replaced(form.tree, numbers, len(weights)), (*weights, *form.constants))


def summed(parts: Sequence[tuple[Form, Sequence[int]]]) -> Form:
    """The sum of formulas, each of some of the columns, with one offset for all of them."""
    terms: list[Tree] = []
    constants: list[float] = []
    offset = 0.0
    for form, block in parts:
        own = form.tree[1:] if form.tree[0] == "+" else (form.tree,)
        moved = {
            i: len(constants) + i - (form.offset is not None and i > form.offset) for i in range(len(form.constants))
        }
        if form.offset is not None:
            offset += form.constants[form.offset]
        own = tuple(term for term in own if term != ("constant", form.offset))
        terms += [_replaced(term, [variable(i) for i in block], moved) for term in own]
        constants += [value for i, value in enumerate(form.constants) if i != form.offset]
    return Form(plus(*terms, constant(len(constants))), (*constants, offset))


# --- trees ------------------------------------------------------------------------------------------


def _replaced(tree: Tree, inputs: Sequence[Tree], constants: dict[int, int] | int) -> Tree:
    """The tree with other trees in the places of its inputs, and its constants numbered anew."""
    kind = tree[0]
    if kind == "input":
        return inputs[tree[1]]
    if kind == "constant":
        return constant(tree[1] + constants if isinstance(constants, int) else constants[tree[1]])
    if kind == "number":
        return tree
    return kind, *(_replaced(argument, inputs, constants) for argument in tree[1:])


def _in_angles(tree: Tree, *, inside: bool) -> Iterator[int]:
    if tree[0] == "constant" and inside:
        yield tree[1]
    if tree[0] in ("input", "constant", "number"):
        return
    for argument in tree[1:]:
        yield from _in_angles(argument, inside=inside or tree[0] in ANGLES)


def _shape(tree: Tree) -> float:
    kind, *arguments = tree
    if kind in ("input", "constant", "number"):
        return 0.0
    inner = sum(_shape(argument) for argument in arguments if isinstance(argument, tuple))
    if kind == "+":
        return inner
    if kind == "*":
        return inner + FACTOR_COST * (sum(a[0] not in ("constant", "number") for a in arguments) - 1)
    if kind == "power":
        exponent = arguments[1]
        if exponent[0] == "number" and float(exponent[1]).is_integer() and exponent[1] > 0:
            return inner + FACTOR_COST * float(exponent[1] - 1)
        return inner + FUNCTION_COST
    return inner + FUNCTION_COST


# The values below are arrays (N,), or one number for all examples. Their shapes stand in no signature: a check of each
# node of each tree would take longer than the search.
_Value = Any
_Slopes = dict[int, Any]


def _evaluated(tree: Tree, columns: Any, constants: Any, wanted: frozenset[int]) -> tuple[_Value, _Slopes]:
    """The value, and its derivative in each of the wanted constants that it depends on."""
    kind = tree[0]
    if kind == "input":
        return columns[:, tree[1]], {}
    if kind == "constant":
        return float(constants[tree[1]]), {tree[1]: 1.0} if tree[1] in wanted else {}
    if kind == "number":
        return float(tree[1]), {}
    if kind in FUNCTIONS:
        function = FUNCTIONS[kind]
        argument, inner = _evaluated(tree[1], columns, constants, wanted)
        argument = np.asarray(argument)
        value = function.value(argument)
        outer = function.slope(argument, value) if inner else 0.0
        return value, {i: outer * slope for i, slope in inner.items()}
    if kind == "power":
        return _powered(tree, columns, constants, wanted)
    parts = [_evaluated(argument, columns, constants, wanted) for argument in tree[1:]]
    total, slopes = parts[0]
    for value, inner in parts[1:]:
        if kind == "+":
            slopes = _joined(slopes, inner)
            total = total + value
        else:
            slopes = _joined({i: s * value for i, s in slopes.items()}, {i: s * total for i, s in inner.items()})
            total = total * value
    return total, slopes


def _powered(tree: Tree, columns: Any, constants: Any, wanted: frozenset[int]) -> tuple[_Value, _Slopes]:
    base, inner = _evaluated(tree[1], columns, constants, wanted)
    exponent, above = _evaluated(tree[2], columns, constants, wanted)
    if tree[2][0] == "number" and exponent < 0:
        base = np.where(np.abs(base) < TINY, TINY, base)
    value = np.power(base, exponent)
    slopes: _Slopes = {}
    if inner:
        outer = exponent * np.power(base, exponent - 1)
        slopes = {i: outer * slope for i, slope in inner.items()}
    if above:
        outer = value * np.log(np.maximum(base, TINY))
        slopes = _joined(slopes, {i: outer * slope for i, slope in above.items()})
    return value, slopes


def _joined(one: _Slopes, other: _Slopes) -> _Slopes:
    if not one or not other:
        return one or other
    return one | {i: one[i] + slope if i in one else slope for i, slope in other.items()}


def _written(tree: Tree, symbols: Sequence[sympy.Expr], constants: Sequence[sympy.Expr]) -> sympy.Expr:
    kind = tree[0]
    if kind == "input":
        return symbols[tree[1]]
    if kind == "constant":
        return constants[tree[1]]
    if kind == "number":
        return sympy.Rational(tree[1])
    arguments = [_written(argument, symbols, constants) for argument in tree[1:]]
    if kind in FUNCTIONS:
        return FUNCTIONS[kind].written(*arguments)
    if kind == "power":
        return sympy.Pow(*arguments)
    return sympy.Add(*arguments) if kind == "+" else sympy.Mul(*arguments)
