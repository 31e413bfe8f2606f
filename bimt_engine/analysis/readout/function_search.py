"""The search for a formula of one function, first in the library, then, where that misses, by genetic programming.

The function is taken apart first: into additive parts, and each part into the few numbers that it reads. The parts are
fitted to the function, then their sum to the data, and the sum is judged on examples that nothing was fitted to.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import sympy
from jaxtyping import Float

from bimt_engine.analysis.readout.form import Column, Columns, Form, Through, Tree, opened, summed
from bimt_engine.analysis.readout.formula_library import forms
from bimt_engine.analysis.readout.formula_search import ENOUGH, LARGEST, Examples, best_form, with_plain_constants
from bimt_engine.analysis.readout.genetic_search import MAX_READ, MISSED, SYMBOL_SETS, evolved_forms, is_available
from bimt_engine.analysis.readout.symmetry import (
    Function,
    additive_blocks,
    combined_inputs,
    interactions,
    read_inputs,
    with_others_at_medians,
)
from bimt_engine.analysis.readout.verdicts import Judge, Verdict, simplest
from bimt_engine.analysis.statements.wording import listed

MAX_NUMBERS = 3  # that one part of a formula of the library may depend on
MAX_PARTS = 5  # that a formula may add up; a longer sum is a table, not an insight
NOISE = (5e-2, 5e-3, 5e-4, 5e-5)  # shares of a function's variance by which formulas may miss it, the simplest first
LITTLE = 1e-3  # share of an output's variance below which a part of a formula must be worth its constants
STAGES = ("library", *SYMBOL_SETS)
MAX_SEARCHES = 8  # by genetic programming, of one network: a second or two each
NO_VALUE = "what was found has no value for some validation rows"


@dataclass(frozen=True)
class Sampled:
    """A function of columns in the units of the data, known at examples.

    gradient   of the function, at each example.
    spread     the unit of each column in which columns compare: its standard deviation.
    targets    what the function should give there; None: nothing says so.
    """

    function: Function
    inputs: Columns
    gradient: Columns
    spread: Float[np.ndarray, " inputs"]
    targets: Column | None
    names: tuple[str, ...]


@dataclass(frozen=True)
class Found:
    """What a search gives: the formula that is reported, if any, or why there is none.

    skipped   why a search that was due was left out.
    """

    verdict: Verdict | None
    reason: str | None = None
    skipped: str | None = None


@dataclass(frozen=True)
class Part:
    """One additive part of a function: the columns it reads, through which numbers, and its values there.

    values   with all other columns at their medians.
    forms    what was found so far, of the part's columns, constants fitted to the values.
    """

    block: list[int]
    columns: Columns
    through: list[Through]
    values: Column
    forms: list[Form] = field(default_factory=list)

    def search(self, stage: str, seed: int) -> None:
        """Add the formulas of one stage: a fitted one for each that the searcher knows."""
        numbers = np.column_stack([t.of(self.columns) for t in self.through])
        for column in (*numbers.T, self.values):  # five powers of it, squared, must be numbers still
            if not 1 / LARGEST < float(np.abs(column).max()) < LARGEST:
                return
        if stage != "library":
            found = evolved_forms(numbers, self.values, symbols=SYMBOL_SETS[stage], seed=seed)
        else:
            found = list(forms(numbers, self.values)) if len(self.through) <= MAX_NUMBERS else []
        for form in found:
            whole = opened(form, self.through)
            # The weights of such numbers are only good guesses.
            combined = any(len(t.columns) > 1 for t in self.through)
            self.forms.append(whole.refitted(self.columns, self.values) if combined else whole)

    def missed(self) -> float:
        """Mean squared error of the closest formula."""
        errors = [float(((form.at(self.columns) - self.values) ** 2).mean()) for form in self.forms]
        return min((error for error in errors if np.isfinite(error)), default=np.inf)


@dataclass
class Budget:
    """How many genetic searches are left, for all outputs of a network together."""

    left: int = MAX_SEARCHES


def find(sampled: Sampled, judge: Judge, *, seed: int, budget: Budget | None = None) -> Found:
    """The formula that is reported of a function, with its verdict.

    budget   of genetic searches; None: MAX_SEARCHES for this function alone.
    """
    budget = Budget() if budget is None else budget
    symbols = symbols_for(sampled.names)
    answers = sampled.function(sampled.inputs)
    tried: list[Verdict] = []
    seen: set[Tree] = set()
    reason = skipped = None
    for blocks in decompositions(sampled, seed=seed):
        parts, reason = parts_of(sampled, blocks)
        for stage in STAGES if reason is None else ():
            if stage != "library":
                skipped = _left_out(sampled, budget)
                if skipped is not None or sampled.targets is None:
                    break
            _search(parts, stage, seed, float(answers.var()), budget)
            for whole in _sums(sampled, parts, seen):
                tried += _judged(sampled, judge, whole, symbols, "library" if stage == "library" else "genetic")
                if tried and judge.settles(tried[-1]):
                    return Found(tried[-1])
            best = simplest(tried, judge.negligible)
            # A fraction may come near a curve: short of the exact formula, both genetic searches are due, or neither.
            if best is not None and stage == "library" and not judge.is_missed_by(best):
                return Found(best)
            if not tried:
                reason = _nothing(parts, sampled)
        best = simplest(tried, judge.negligible)
        if best is not None and not judge.is_missed_by(best):
            return Found(best)
    best = simplest(tried, judge.negligible)
    return Found(best, None if best is not None else reason or NO_VALUE, skipped)


def _left_out(sampled: Sampled, budget: Budget) -> str | None:
    """Why no genetic search follows, if one was due."""
    if sampled.targets is None:
        return None
    if budget.left > 0 and not is_available():
        return MISSED
    return None if budget.left > 0 else "no further search was made: `evidence.formula_searches` allows no more of them"


def decompositions(sampled: Sampled, *, seed: int) -> list[list[list[int]]]:
    """The inputs that a function reads, divided into additive parts; then in one part, for what is nearly additive."""
    read = read_inputs(sampled.gradient * sampled.spread)
    mixed = interactions(sampled.function, sampled.inputs, generator=np.random.default_rng([seed, 6]))
    blocks = additive_blocks(mixed, read)
    return [blocks, [read]] if len(blocks) > 1 and len(read) <= MAX_READ else [blocks]


def symbols_for(names: tuple[str, ...]) -> tuple[sympy.Symbol, ...]:
    """One real symbol for each feature."""
    return tuple(sympy.Symbol(str(name), real=True) for name in names)


def parts_of(sampled: Sampled, blocks: list[list[int]]) -> tuple[list[Part], str | None]:
    """The parts of a function, one for each block of inputs, or why no formula is sought."""
    if len(blocks) > MAX_PARTS:
        return [], f"it adds up {len(blocks)} separate parts; sums of more than {MAX_PARTS} are not sought"
    x, parts = sampled.inputs, []
    for block in blocks:
        combined = combined_inputs(sampled.gradient, block, units=sampled.spread)
        if len(combined) > MAX_READ:
            reads = listed([sampled.names[i] for i in block])
            return [], f"the part that reads {reads} depends on {len(combined)} numbers at once"
        through = [Through(tuple(block.index(i) for i in c.inputs), c.coefficients) for c in combined]
        parts.append(Part(block, x[:, block], through, sampled.function(with_others_at_medians(x, block))))
    return parts, None


def _search(parts: list[Part], stage: str, seed: int, variance: float, budget: Budget) -> None:
    """Every part in the library; by genetic programming those that the library misses, or all where it misses none."""
    chosen = parts
    if stage != "library":
        moving = [part for part in parts if float(part.values.var()) > LITTLE * variance]
        chosen = ([part for part in moving if part.missed() > ENOUGH * variance] or moving)[: budget.left]
        budget.left -= len(chosen)
    for number, part in enumerate(chosen):
        part.search(stage, int(np.random.SeedSequence([seed, number]).generate_state(1)[0]))


def _sums(sampled: Sampled, parts: list[Part], seen: set[Tree]) -> Iterator[Form]:
    """Sums of one formula for each part, from coarse to fine: by how much a formula may miss its part.

    Every part was taken with the others at their median: together they have one offset, and are judged as one. A part
    that does next to nothing may be the network's own invention: the sum without it is given as well.
    """
    variance = float(sampled.function(sampled.inputs).var())
    for noise in NOISE:
        chosen = []
        for part in parts:
            share = noise * variance / (len(parts) * max(float(part.values.var()), 1e-300))
            form = best_form(Examples.of_function(part.columns, part.values, share=share), part.forms)
            if form is None:
                return
            chosen.append((form, part.block))
        moving = [
            (form, part.block)
            for (form, _), part in zip(chosen, parts, strict=True)
            if float(part.values.var()) > LITTLE * variance
        ]
        for whole in (summed(moving), summed(chosen)):
            if whole.tree not in seen:
                seen.add(whole.tree)
                yield whole


def _judged(
    sampled: Sampled, judge: Judge, whole: Form, symbols: tuple[sympy.Symbol, ...], searcher: str
) -> list[Verdict]:
    """The formula with its constants fitted to the data; where that is not accepted, fitted to the function as well."""
    x, verdicts = sampled.inputs, []
    if sampled.targets is not None:
        verdict = judge(with_plain_constants(whole, Examples.of_data(x, sampled.targets), symbols), symbols, searcher)
        if verdict is not None:
            verdicts.append(verdict)
            if verdict.accepted:
                return verdicts
    examples = Examples.of_function(x, sampled.function(x))
    verdict = judge(with_plain_constants(whole, examples, symbols), symbols, searcher)
    return verdicts if verdict is None else [*verdicts, verdict]


def _nothing(parts: list[Part], sampled: Sampled) -> str:
    """Why there is no formula at all."""
    for part in parts:
        if not part.forms:
            reads = listed([sampled.names[i] for i in part.block])
            if len(part.through) > MAX_NUMBERS:
                return f"the part that reads {reads} depends on {len(part.through)} numbers at once"
            return f"nothing in the library fits the part that reads {reads}"
    return NO_VALUE
