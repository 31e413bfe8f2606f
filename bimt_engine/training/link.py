"""One weight layer as relocation sees it: slots only, folds added up."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from bimt_engine.training.state import Place


@dataclass(frozen=True)
class Link:
    """Connections from one neuron layer into another, both by number.

    folds     target fold, targets, source fold, sources: the shape of the parameter taken apart.
    lengths   distance times what a unit of it costs, for a strength of 1.
    """

    place: Place
    source: int
    target: int
    folds: tuple[int, int, int, int]
    lengths: Float[np.ndarray, "target source"]

    @property
    def ends(self) -> tuple[int, int]:
        return self.source, self.target

    def strengths(self, theta: Float[np.ndarray, " P"]) -> Float[np.ndarray, "target source"]:
        """Σ|w| over the folds, for each pair of slots."""
        strength = np.abs(theta[self.place.slice], dtype=np.float64).reshape(self.folds)
        if self.folds[0] == 1 and self.folds[2] == 1:
            return strength[0, :, 0]
        return strength.sum(axis=(0, 2))
