"""Random draws and splits of data: functions of a seed and nothing else."""

from __future__ import annotations

import zlib

import numpy as np
from numpy.typing import NDArray


def generator(seed: int, purpose: str) -> np.random.Generator:
    """A stream of its own for each seed and purpose, so that a draw added in one place changes none elsewhere."""
    return np.random.default_rng([seed, zlib.crc32(purpose.encode())])


def split(rows: int, train_fraction: float, *, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows for training and rows for testing, in a random order; both have at least one."""
    order = generator(seed, "split").permutation(rows)
    train = min(max(round(train_fraction * rows), 1), rows - 1)
    return order[:train], order[train:]


def split_by_class(
    labels: NDArray[np.int64], train_fraction: float, *, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The same, with the shares of the classes kept; every class has at least one row for training."""
    order = generator(seed, "split").permutation(len(labels))
    train = np.zeros(len(labels), dtype=bool)
    owed = 0.0  # what rounding has held back so far, so that the totals come out right
    for label in np.unique(labels):
        rows = order[labels[order] == label]
        owed += train_fraction * len(rows)
        take = min(max(round(owed), 1), len(rows))
        owed -= take
        train[rows[:take]] = True
    if train.all():  # every class has one row only, or nearly so: testing still needs one
        train[order[-1]] = False
    return order[train[order]], order[~train[order]]
