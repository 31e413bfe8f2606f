"""Data sets that are computed: formulas, parities, two moons, and two tasks on sequences."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import accumulate
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import AfterValidator, Field, model_validator

from bimt_engine.data.dataset import Dataset, Examples, data_generator
from bimt_engine.data.formulas import check_formula, check_values, evaluate_formula
from bimt_engine.data.kinds import Drawn, dataset_kind
from bimt_engine.data.split import Split
from bimt_engine.errors import DataError

MOST_BITS = 62  # of a row of parities, which is drawn as a whole number
MOST_BITS_IN_FULL = 16  # 65 536 rows


def _readable(formula: str, info: Any) -> str:  # a ValidationInfo, which no type check at run time can take
    if (inputs := info.data.get("inputs")) is not None:  # None: that field is wrong, and says so itself
        check_formula(formula, inputs=inputs)
    return formula


Formula = Annotated[str, Field(min_length=1, max_length=500), AfterValidator(_readable)]


class FormulaData(Drawn):
    """Targets computed from uniform inputs by formulas such as `(x1 + x3)**3`."""

    kind: Literal["formula"] = "formula"
    inputs: int = Field(ge=1, le=256, description="How many inputs: x1 … xn.")  # the formulas are read against it
    formulas: list[Formula] = Field(min_length=1, max_length=64)
    low: float = -1.0
    high: float = 1.0
    train: int = Field(default=100, ge=2, le=1_000_000)
    test: int = Field(default=100, ge=1, le=1_000_000)

    @property
    def several_own_targets(self) -> bool:
        """Whether there are several formulas."""
        return len(self.formulas) > 1

    @model_validator(mode="after")
    def _values_are_finite(self) -> FormulaData:
        if not self.low < self.high:
            raise ValueError(f"`low` ({self.low}) must be below `high` ({self.high}).")
        if not math.isfinite(self.high - self.low):
            raise ValueError("`low` and `high` are further apart than a number can say; bring them together.")
        for formula in self.formulas:
            check_values(formula, inputs=self.inputs, low=self.low, high=self.high)
        return self


@dataset_kind(FormulaData, label="Formulas of uniform inputs")
def formula(spec: FormulaData, *, seed: int) -> Dataset:
    """Uniform inputs and the value of each formula. (section 3.1)"""

    def examples(draw: np.random.Generator, rows: int) -> tuple[np.ndarray, np.ndarray]:
        inputs = draw.uniform(spec.low, spec.high, (rows, spec.inputs))
        return inputs, np.stack([evaluate_formula(formula, inputs) for formula in spec.formulas], axis=1)

    parts = _drawn(examples, spec, seed=seed)
    for number, formula in enumerate(spec.formulas):
        if np.ptp(parts["train_targets"][:, number]) == 0:
            raise DataError(f"The formula `{formula}` has the same value everywhere; there is nothing to learn.")
    names = tuple(f"y{i + 1}" for i in range(len(spec.formulas)))
    return Dataset(
        **parts,
        task="regression",
        feature_names=tuple(f"x{i + 1}" for i in range(spec.inputs)),
        target_names=names if len(names) > 1 else ("y",),
    )


class ParitiesData(Drawn):
    """Bits of −1 and 1, and parities (products) of some of them: no two parities share a bit.

    With sizes 2 and 3: y1 = x1·x2, y2 = x3·x4·x5; further bits decide nothing. Modules: each parity with its bits.
    """

    kind: Literal["parities"] = "parities"
    sizes: list[Annotated[int, Field(ge=1, le=8)]] = Field(
        default=[3, 3, 3], min_length=1, max_length=16, description="How many bits each parity is of."
    )
    unused: int = Field(default=3, ge=0, le=64, description="Bits that decide nothing.")
    rows: int | None = Field(
        default=1000, ge=8, le=1_000_000, description="Different rows, drawn at random; null: all that there are."
    )
    train_fraction: float = Field(default=0.8, gt=0, lt=1)

    @property
    def bits(self) -> int:
        """How many bits a row has."""
        return sum(self.sizes) + self.unused

    @model_validator(mode="after")
    def _has_so_many_rows(self) -> ParitiesData:
        most = MOST_BITS_IN_FULL if self.rows is None else MOST_BITS
        if not 3 <= self.bits <= most:
            raise ValueError(
                f"`sizes` and `unused` come to {self.bits} bits; 3 to {MOST_BITS} are offered, and with `rows` null, "
                f"which asks for all rows, 3 to {MOST_BITS_IN_FULL}."
            )
        if self.rows is not None and self.rows > 2**self.bits:
            raise ValueError(
                f"{self.rows:,} rows are asked for; {self.bits} bits have {2**self.bits:,} different ones."
            )
        return self


@dataset_kind(ParitiesData, label="Parities of bits")
def parities(spec: ParitiesData, *, seed: int) -> Dataset:
    """Every row of bits, or a sample, with the product of each group of bits. Not in the paper."""
    if spec.rows is None:
        numbers = np.arange(2**spec.bits)
    else:  # no row twice, so that no test row has been trained on
        numbers = data_generator(seed, "parities").choice(2**spec.bits, spec.rows, replace=False)
    bits = 2.0 * (numbers[:, None] >> np.arange(spec.bits) & 1) - 1
    ends = list(accumulate(spec.sizes))
    products = [bits[:, end - size : end].prod(axis=1) for size, end in zip(spec.sizes, ends, strict=True)]
    targets = np.stack(products, axis=1)
    return Dataset(
        **Split.random(len(bits), spec.train_fraction, seed=seed).parts_of(bits, targets),
        task="regression",
        feature_names=tuple(f"x{number + 1}" for number in range(spec.bits)),
        target_names=tuple(f"y{number + 1}" for number in range(len(ends))) if len(ends) > 1 else ("y",),
    )


class TwoMoonsData(Drawn):
    """Two interleaved half circles of points."""

    has_classes: ClassVar[bool] = True  # which of the two moons
    kind: Literal["two_moons"] = "two_moons"
    noise: float = Field(default=0.1, ge=0, le=10)
    train: int = Field(default=200, ge=2, le=1_000_000)
    test: int = Field(default=200, ge=1, le=1_000_000)


@dataset_kind(TwoMoonsData, label="Two moons")
def two_moons(spec: TwoMoonsData, *, seed: int) -> Dataset:
    """Two interleaved half circles. (section 3.2)"""
    from sklearn.datasets import make_moons

    def examples(draw: np.random.Generator, rows: int) -> tuple[np.ndarray, np.ndarray]:
        inputs, labels = make_moons(rows, noise=spec.noise, random_state=int(draw.integers(2**32)))
        return inputs, labels.astype(np.int64)

    return Dataset(
        **_drawn(examples, spec, seed=seed),
        task="classification",
        feature_names=("x1", "x2"),
        target_names=("upper", "lower"),
    )


class InContextRegressionData(Drawn):
    """Sequences (x₁, y₁), (x₂, ?) with y = w·x and one w for each sequence: predict y₂."""

    examples: ClassVar[Examples] = "sequences"  # sequences of numbers
    kind: Literal["in_context_regression"] = "in_context_regression"
    sequences: int = Field(default=10_000, ge=10, le=1_000_000)
    train_fraction: float = Field(default=0.8, gt=0, lt=1)


@dataset_kind(InContextRegressionData, label="In-context regression")
def in_context_regression(spec: InContextRegressionData, *, seed: int) -> Dataset:
    """Sequences (x₁, y₁), (x₂, 0) with y = w·x: what is y₂? (section 3.4)

    inputs    (N, 2, 2): time × (x, y); the y that is asked for is hidden as 0.
    targets   (N, 2, 1): y at both times, of which the last alone is predicted.
    """

    def examples(draw: np.random.Generator, rows: int) -> tuple[np.ndarray, np.ndarray]:
        w = draw.uniform(-1, 1, (rows, 1))
        x = draw.uniform(1, 3, (rows, 2))
        y = w * x
        return np.stack([x, np.stack([y[:, 0], np.zeros(rows)], axis=1)], axis=2), y[:, :, None]

    split = Split.random(spec.sequences, spec.train_fraction, seed=seed)
    parts = split.parts_of(*examples(data_generator(seed, spec.kind), spec.sequences))
    validation = examples(data_generator(seed, "validation"), len(split.test))
    return Dataset(
        **parts | dict(zip(("validation_inputs", "validation_targets"), validation, strict=True)),
        task="regression",
        feature_names=("x", "y"),
        target_names=("y",),
        predicted_positions=(1,),
    )


class TwoMemoriesData(Drawn):
    """Sequences of two numbers and two things to remember: the first, one step later, and a fading sum of the second.

    y₁(t) = x₁(t − 1), and 0 at the first step; y₂(t) = x₂(t) + ½·y₂(t − 1). The last step's are predicted.
    """

    examples: ClassVar[Examples] = "sequences"  # sequences of numbers
    kind: Literal["two_memories"] = "two_memories"
    time: int = Field(default=6, ge=2, le=256, description="Steps of each sequence.")
    train: int = Field(default=200, ge=2, le=1_000_000)
    test: int = Field(default=200, ge=1, le=1_000_000)


@dataset_kind(TwoMemoriesData, label="Two memories")
def two_memories(spec: TwoMemoriesData, *, seed: int) -> Dataset:
    """Two things to remember that share nothing, asked for at the last step. Not in the paper.

    inputs and targets   (N, time, 2).
    """

    def examples(draw: np.random.Generator, rows: int) -> tuple[np.ndarray, np.ndarray]:
        inputs = draw.uniform(-1, 1, (rows, spec.time, 2))
        targets = np.zeros_like(inputs)
        targets[:, 1:, 0] = inputs[:, :-1, 0]
        targets[:, 0, 1] = inputs[:, 0, 1]
        for time in range(1, spec.time):
            targets[:, time, 1] = inputs[:, time, 1] + 0.5 * targets[:, time - 1, 1]
        return inputs, targets

    return Dataset(
        **_drawn(examples, spec, seed=seed),
        task="regression",
        feature_names=("x1", "x2"),
        target_names=("y1", "y2"),
        predicted_positions=(spec.time - 1,),
    )


def _drawn(
    examples: Callable[[np.random.Generator, int], tuple[np.ndarray, np.ndarray]],
    spec: FormulaData | TwoMoonsData | TwoMemoriesData,
    *,
    seed: int,
) -> dict[str, Any]:
    """Inputs and targets of all three parts by their names in a `Dataset`; as many validation as test rows.

    Training and test rows come from one stream, as they always have; validation rows from another, so that drawing
    them moves no other row.
    """
    draw = data_generator(seed, spec.kind)
    parts = {
        "train": examples(draw, spec.train),
        "test": examples(draw, spec.test),
        "validation": examples(data_generator(seed, "validation"), spec.test),
    }
    return {
        f"{name}_{what}": array
        for name, pair in parts.items()
        for what, array in zip(("inputs", "targets"), pair, strict=True)
    }
