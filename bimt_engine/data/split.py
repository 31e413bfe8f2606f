"""Which rows of a data set are trained on, validated on and tested on: functions of a seed and nothing else."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bimt_engine.data.dataset import Dataset, data_generator
from bimt_engine.errors import DataError

Rows = NDArray[np.int64]
BY = "The column that the rows are split by"  # in sentences, where its name is not known


@dataclass(frozen=True)
class Split:
    """Row numbers of the three parts, each in the order in which it is used.

    Shares are of all rows: `train`, `validation`, and the rest for testing. With validation 0 there is no such part,
    and the test part serves as both.
    """

    train: Rows
    validation: Rows
    test: Rows

    @classmethod
    def random(cls, rows: int, train: float, validation: float = 0.0, *, seed: int) -> Split:
        """Rows in a random order, cut by the shares. Every part that is asked for has at least one."""
        return cls._cut(data_generator(seed, "split").permutation(rows), train, validation)

    @classmethod
    def by_class(cls, labels: NDArray[Any], train: float, validation: float = 0.0, *, seed: int) -> Split:
        """The same, with the shares of the classes kept; every class has at least one row for training."""
        order = data_generator(seed, "split").permutation(len(labels))
        chosen = _share_of_each_class(labels, order, train, at_least=1)
        if chosen.all():  # every class has one row only, or nearly so: testing still needs one
            chosen[order[-1]] = False
        rest = order[~chosen[order]]
        if not validation or len(rest) < 2:
            return cls(order[chosen[order]], rest[:0], rest)
        validated = _share_of_each_class(labels, rest, validation / (1 - train))
        if validated[rest].all() or not validated[rest].any():
            validated[rest[-1]] = not validated[rest[-1]]
        return cls(order[chosen[order]], rest[validated[rest]], rest[~validated[rest]])

    @classmethod
    def by_group(
        cls, groups: NDArray[Any], train: float, validation: float = 0.0, *, seed: int, column: str = BY
    ) -> Split:
        """Rows of one group (a patient, a machine) are all in one part; the groups come in a random order.

        The shares are met as nearly as whole groups allow. Raises DataError for fewer groups than parts.
        """
        names, numbers = np.unique(groups, return_inverse=True)
        order = data_generator(seed, "split").permutation(len(names))
        return cls._of_units(numbers.reshape(-1), order, train, validation, column)

    @classmethod
    def by_time(cls, times: NDArray[Any], train: float, validation: float = 0.0, *, column: str = BY) -> Split:
        """The past for training, what follows for validation, the latest for testing; rows of one time stay together.

        Raises DataError for fewer times than parts.
        """
        moments, numbers = np.unique(times, return_inverse=True)
        return cls._of_units(numbers.reshape(-1), np.arange(len(moments)), train, validation, column)

    @classmethod
    def _cut(cls, order: Rows, train: float, validation: float) -> Split:
        rows = len(order)
        parts = 3 if validation and rows > 2 else 2
        first = min(max(round(train * rows), 1), rows - parts + 1)
        second = first if parts == 2 else min(max(round((train + validation) * rows), first + 1), rows - 1)
        return cls(order[:first], order[first:second], order[second:])

    @classmethod
    def _of_units(cls, numbers: Rows, order: Rows, train: float, validation: float, column: str) -> Split:
        """Whole units of rows, in this order of the units, cut where the shares of rows are met most nearly."""
        parts = 3 if validation else 2
        if len(order) < parts:
            raise DataError(
                f"{column} has {len(order)} different value{'s' if len(order) != 1 else ''}; {parts} parts need at "
                f"least {parts}. Split by another column, or by chance."
            )
        before = np.concatenate([[0], np.cumsum(np.bincount(numbers, minlength=len(order))[order])])
        first = _nearest(before, train * len(numbers), low=1, high=len(order) - parts + 1)
        second = first
        if parts == 3:
            second = _nearest(before, (train + validation) * len(numbers), low=first + 1, high=len(order) - 1)
        rank = np.empty(len(order), np.int64)
        rank[order] = np.arange(len(order))
        rows = np.argsort(rank[numbers], kind="stable")
        return cls(*np.split(rows, [before[first], before[second]]))

    def parts_of(self, inputs: np.ndarray, targets: np.ndarray) -> dict[str, Any]:
        """The rows of each part, as keyword arguments of a `Dataset`."""
        validated = len(self.validation) > 0
        return {
            "train_inputs": inputs[self.train],
            "train_targets": targets[self.train],
            "validation_inputs": inputs[self.validation] if validated else None,
            "validation_targets": targets[self.validation] if validated else None,
            "test_inputs": inputs[self.test],
            "test_targets": targets[self.test],
        }


def halve_test(dataset: Dataset, *, seed: int) -> Dataset:
    """The same data set with half of its test part for validation, the shares of classes kept.

    For data that come as training and test parts and cannot be drawn anew. A test part of one row stays whole.
    """
    rows = len(dataset.test_inputs)
    if rows < 2:
        return dataset
    order = data_generator(seed, "validation").permutation(rows)
    validated = np.zeros(rows, dtype=bool)
    if dataset.task == "classification":
        validated = _share_of_each_class(dataset.test_targets, order, 0.5)
    if validated.all() or not validated.any():
        validated[:] = False
        validated[order[: rows // 2]] = True
    return replace(
        dataset,
        validation_inputs=dataset.test_inputs[validated],
        validation_targets=dataset.test_targets[validated],
        test_inputs=dataset.test_inputs[~validated],
        test_targets=dataset.test_targets[~validated],
    )


def _share_of_each_class(labels: NDArray[Any], order: Rows, share: float, *, at_least: int = 0) -> NDArray[np.bool_]:
    """For every row, whether it is among the first share of its class's rows in this order; others are False."""
    chosen = np.zeros(len(labels), dtype=bool)
    owed = 0.0  # what rounding has held back so far, so that the totals come out right
    for label in np.unique(labels[order]):
        rows = order[labels[order] == label]
        owed += share * len(rows)
        take = min(max(round(owed), at_least), len(rows))
        owed -= take
        chosen[rows[:take]] = True
    return chosen


def _nearest(before: Rows, rows: float, *, low: int, high: int) -> int:
    """How many units come nearest to so many rows, within bounds. before: rows of the first 0, 1, 2 … units."""
    return low + int(np.abs(before[low : high + 1] - rows).argmin())
