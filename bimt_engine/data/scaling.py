"""Standardisation: each column centred and divided by a scale of its own."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Scaling:
    """Standardisation by the training part's mean and standard deviation, one of each per column.

    mean, std   (columns,)
    values      (rows, columns)
    """

    mean: NDArray[np.float64]
    std: NDArray[np.float64]

    @classmethod
    def of(cls, values: NDArray[np.float64]) -> Scaling:
        """The scaling that gives these values mean 0 and variance 1; a constant column is only centred."""
        mean, std = values.mean(axis=0), values.std(axis=0)
        # A column that is constant up to rounding has no scale of its own; dividing by 1e-17 would make noise of it.
        constant = std <= 1e-12 * np.maximum(1.0, np.abs(mean)) if len(values) else np.ones(values.shape[1], bool)
        return cls(mean=mean, std=np.where(constant, 1.0, std))

    @classmethod
    def none(cls, columns: int) -> Scaling:
        """The scaling that changes nothing."""
        return cls(mean=np.zeros(columns), std=np.ones(columns))

    def apply(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Values of the data -> standardised."""
        return (values - self.mean) / self.std

    def undo(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Standardised -> values of the data."""
        return values * self.std + self.mean

    def to_json(self) -> dict[str, list[float]]:
        """Mean and std as lists."""
        return {"mean": self.mean.tolist(), "std": self.std.tolist()}

    @classmethod
    def from_json(cls, saved: dict[str, list[float]]) -> Scaling:
        """The scaling that `to_json` wrote."""
        return cls(mean=np.asarray(saved["mean"], np.float64), std=np.asarray(saved["std"], np.float64))
