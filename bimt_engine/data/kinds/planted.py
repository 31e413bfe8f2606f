"""Data whose modules are known, because they are put together of parts that share nothing."""

from __future__ import annotations

from itertools import accumulate
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from bimt_engine.data.dataset import Dataset, data_generator
from bimt_engine.data.kinds import Drawn, dataset_kind
from bimt_engine.data.kinds.images import DIGITS, small_digits
from bimt_engine.data.split import Split

MOST_BITS_IN_FULL = 16  # 65 536 rows
SIDES = ("left", "right")
TRAIN_IMAGES = 0.8  # share of the images; test pairs are made of the others


class DigitPairData(Drawn):
    """Two handwritten digits of 8×8 pixels side by side, each to be recognised.

    Twenty outputs, 0 or 1, ten for each side. Every image is in training pairs or in test pairs, never in both.
    Modules: {left pixels} → {left digits} and {right pixels} → {right digits}. With `larger` one more output compares
    the two: 1 where the left digit is larger, 0 where the right one is, ½ for equal digits; it needs both sides.
    """

    kind: Literal["digit_pair"] = "digit_pair"
    larger: bool = Field(default=False, description="Also predict which of the two digits is larger.")
    train: int = Field(default=2000, ge=20, le=1_000_000, description="Pairs.")
    test: int = Field(default=1000, ge=10, le=1_000_000, description="Pairs.")


@dataset_kind(DigitPairData, label="Two digits side by side")
def digit_pair(spec: DigitPairData, *, seed: int) -> Dataset:
    """Pairs drawn at random from the images of their part. Not in the paper.

    inputs    (N, 128): the 64 pixels of the left image, row by row, then those of the right one.
    targets   (N, 20): which digit is left, which is right; with `larger` (N, 21).
    """
    answers = tuple(f"{side}{digit}" for side in SIDES for digit in DIGITS)
    images, labels = small_digits()
    draw = data_generator(seed, "digit_pair")

    def pairs(rows: NDArray[np.int64], count: int) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
        left, right = rows[draw.integers(len(rows), size=(2, count))]
        targets = [np.eye(10)[labels[left]], np.eye(10)[labels[right]]]
        if spec.larger:
            targets.append((np.sign(labels[left] - labels[right])[:, None] + 1) / 2)
        return np.concatenate([images[left], images[right]], axis=1), np.concatenate(targets, axis=1)

    images_of = Split.by_class(labels, TRAIN_IMAGES, seed=seed)
    train_inputs, train_targets = pairs(images_of.train, spec.train)
    test_inputs, test_targets = pairs(images_of.test, spec.test)
    return Dataset(
        train_inputs=train_inputs,
        train_targets=train_targets,
        test_inputs=test_inputs,
        test_targets=test_targets,
        task="regression",
        feature_names=tuple(f"{side}[{row},{column}]" for side in SIDES for row in range(8) for column in range(8)),
        target_names=(*answers, "larger") if spec.larger else answers,
        label_groups=(tuple(range(10)), tuple(range(10, 20))),
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
    rows: int | None = Field(default=1000, ge=8, le=1_000_000, description="Drawn at random; null: every row once.")
    train_fraction: float = Field(default=0.8, gt=0, lt=1)

    @property
    def bits(self) -> int:
        """How many bits a row has."""
        return sum(self.sizes) + self.unused

    @model_validator(mode="after")
    def _has_a_bounded_number_of_rows(self) -> ParitiesData:
        if self.rows is None and not 3 <= self.bits <= MOST_BITS_IN_FULL:
            raise ValueError(
                f"{self.bits} bits have 2^{self.bits} rows, and every row once is for 3 to {MOST_BITS_IN_FULL} bits: "
                "set `rows`, how many are drawn, or change `sizes` and `unused`."
            )
        return self


@dataset_kind(ParitiesData, label="Parities of bits")
def parities(spec: ParitiesData, *, seed: int) -> Dataset:
    """Every row of bits, or a sample, with the product of each group of bits. Not in the paper."""
    if spec.rows is None:
        ones = np.array(list(np.ndindex(*[2] * spec.bits)))
    else:
        ones = data_generator(seed, "parities").integers(2, size=(spec.rows, spec.bits))
    bits = (2 * ones - 1).astype(np.float64)
    ends = list(accumulate(spec.sizes))
    products = [bits[:, end - size : end].prod(axis=1) for size, end in zip(spec.sizes, ends, strict=True)]
    targets = np.stack(products, axis=1)
    return Dataset(
        **Split.random(len(bits), spec.train_fraction, seed=seed).parts_of(bits, targets),
        task="regression",
        feature_names=tuple(f"x{number + 1}" for number in range(spec.bits)),
        target_names=tuple(f"y{number + 1}" for number in range(len(ends))) if len(ends) > 1 else ("y",),
    )
