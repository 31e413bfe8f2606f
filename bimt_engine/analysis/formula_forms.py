"""A formula with constants that may be changed; what becomes of it when it reads sums, and when formulas add up."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import sympy

Array = np.ndarray
Numbers = Sequence[float] | Array
Expressions = Sequence[sympy.Expr]
STEP = 1e-5  # of a constant's size, where a slope is measured
MOST_STEPS = 12
SHARES = (1.0, 0.5, 0.2, 0.05)  # of a step that are tried


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

    value: Callable[[Array, Numbers], Array]
    written: Callable[[Expressions, Expressions], sympy.Expr]
    constants: tuple[float, ...]
    sizes: tuple[float, ...]
    angles: frozenset[int] = frozenset()
    shape: float = 0.0
    offset: bool = False

    def at(self, numbers: Array, constants: Numbers | None = None) -> Array:
        """The value with these constants, or with its own; not finite where there is none."""
        with np.errstate(all="ignore"):
            return self.value(numbers, self.constants if constants is None else constants)

    def slopes(self, numbers: Array, which: Sequence[int]) -> Array:
        """How the value moves with each of these constants, in steps of its size, (N, constants)."""
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

    def refitted(self, numbers: Array, values: Array, free: Sequence[int]) -> Form:
        """The same with these constants at their least squares, the others left alone: a few Gauss-Newton steps.

        They begin where the constants are nearly right, and one is enough where the formula is linear in them.
        """
        free = list(free)
        here, left = self, values - self.at(numbers)
        with np.errstate(all="ignore"):
            error = float((left**2).mean())
        for _ in range(MOST_STEPS if free and np.isfinite(error) else 0):
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

    def of(self, columns: Array) -> Array:
        """(N, columns) -> (N,)"""
        return columns[:, list(self.columns)] @ np.array(self.weights)


def opened(form: Form, through: Sequence[Through], columns: Array) -> Form:
    """A formula of such numbers as one of the columns themselves; the weights become its first constants."""
    weights = [w for t in through for w in t.weights[1:]]
    count = len(weights)
    if not count:
        order = [t.columns[0] for t in through]
        return replace(
            form,
            value=lambda columns, constants: form.value(columns[:, order], constants),
            written=lambda symbols, constants: form.written([symbols[i] for i in order], constants),
        )

    def weighed(constants: Any) -> Iterator[tuple[Through, list[Any]]]:
        left = iter(constants[:count])
        for t in through:
            yield t, [next(left) for _ in t.weights[1:]]

    def value(columns: Array, constants: Numbers) -> Array:
        numbers = [replace(t, weights=(1.0, *w)).of(columns) for t, w in weighed(constants)]
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
    kept = [len(form.constants) - form.offset for form, _ in parts]
    begins = np.cumsum([0, *kept]).tolist()

    def own(number: int, constants: Any, nothing: Any) -> list[Any]:
        """The constants of one part, its own offset zero."""
        here = list(constants[begins[number] : begins[number + 1]])
        return [*here, nothing] if parts[number][0].offset else here

    def value(columns: Array, constants: Numbers) -> Array:
        total = np.full(len(columns), float(constants[-1]))
        for number, (form, block) in enumerate(parts):
            total = total + form.value(columns[:, list(block)], own(number, constants, 0.0))
        return total

    def written(symbols: Expressions, constants: Expressions) -> sympy.Expr:
        terms = [
            form.written([symbols[i] for i in block], own(number, constants, sympy.Integer(0)))
            for number, (form, block) in enumerate(parts)
        ]
        return sympy.Add(*terms, constants[-1])

    together = [(form.constants[i], form.sizes[i]) for (form, _), n in zip(parts, kept, strict=True) for i in range(n)]
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
