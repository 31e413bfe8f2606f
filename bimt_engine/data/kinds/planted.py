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

MOST_BITS = 62  # a row is drawn as a whole number
MOST_BITS_IN_FULL = 16  # 65 536 rows
SIDES = ("left", "right")
TRAIN_IMAGES, VALIDATION_IMAGES = 0.8, 0.1  # shares of the images; test pairs are made of the others


class DigitPairData(Drawn):
    """Two handwritten digits of 8×8 pixels side by side, each to be recognised.

    Twenty outputs, 0 or 1, ten for each side. No image is in pairs of two parts: training, validation and test pairs
    are made of images of their own.
    Modules: {left pixels} → {left digits} and {right pixels} → {right digits}. With `larger` one more output compares
    the two: 1 where the left digit is larger, 0 where the right one is, ½ for equal digits; it needs both sides.
    """

    kind: Literal["digit_pair"] = "digit_pair"
    larger: bool = Field(default=False, description="Also predict which of the two digits is larger.")
    train: int = Field(default=2000, ge=20, le=1_000_000, description="Pairs.")
    test: int = Field(default=1000, ge=10, le=1_000_000, description="Pairs.")


@dataset_kind(DigitPairData, label="Two digits side by side")
def digit_pair(spec: DigitPairData, *, seed: int) -> Dataset:
    """Pairs drawn at random from the images of their part, as many for validation as for testing. Not in the paper.

    inputs    (N, 128): the 64 pixels of the left image, row by row, then those of the right one.
    targets   (N, 20): which digit is left, which is right; with `larger` (N, 21).
    """
    answers = tuple(f"{side}{digit}" for side in SIDES for digit in DIGITS)
    images, labels = small_digits()

    def pairs(
        draw: np.random.Generator, rows: NDArray[np.int64], count: int
    ) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
        left, right = rows[draw.integers(len(rows), size=(2, count))]
        targets = [np.eye(10)[labels[left]], np.eye(10)[labels[right]]]
        if spec.larger:
            targets.append((np.sign(labels[left] - labels[right])[:, None] + 1) / 2)
        return np.concatenate([images[left], images[right]], axis=1), np.concatenate(targets, axis=1)

    images_of = Split.by_class(labels, TRAIN_IMAGES, VALIDATION_IMAGES, seed=seed)
    draw = data_generator(seed, "digit_pair")
    train_inputs, train_targets = pairs(draw, images_of.train, spec.train)
    test_inputs, test_targets = pairs(draw, images_of.test, spec.test)
    validation = pairs(data_generator(seed, "validation"), images_of.validation, spec.test)
    return Dataset(
        train_inputs=train_inputs,
        train_targets=train_targets,
        validation_inputs=validation[0],
        validation_targets=validation[1],
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
