"""The interface through which every analysis evaluates a network, and the changes that interventions make.

Two classes do it: `NumpyMlp` for a chain that reads numbers (numpy_mlp.py), `HookedNetwork` for anything else
(hooked_network.py). `AnalysisContext` chooses; analyses depend neither on the choice nor on the architecture.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Shaped

from bimt_engine.analysis.intervention_request import Do

Array = np.ndarray
Values = dict[str, Array]
"""Every parameter of a network by name, float64."""
Masks = dict[str, Array]
"""parameter -> which of its entries are kept; parameters not named are kept whole."""
Connection = tuple[str, int, int]
"""(parameter, row, column)."""
Inputs = Shaped[np.ndarray, "N ..."]
"""Inputs as the network takes them, in the order of the data's features."""
Outputs = Float[np.ndarray, "N outputs"]
"""Outputs in the order of the data's targets; of sequences, the predicted steps side by side."""


@dataclass(frozen=True)
class NeuronChange:
    """What is done to the activation of some places of a neuron layer. `value` is for set and scale."""

    layer: str
    places: Bool[np.ndarray, " places"]
    do: Do
    value: float


@dataclass(frozen=True)
class WeightChange:
    """What is done to one connection: set, scale and zero act on its weight, mean and resample on what it carries."""

    parameter: str
    row: int
    column: int
    do: Do
    value: float

    def new_weight(self, weight: float) -> float:
        """The weight that takes the place of this one."""
        if self.do == "set":
            return self.value
        return float(weight) * self.value if self.do == "scale" else 0.0


Trial = Sequence[NeuronChange | WeightChange]
"""Changes that are made at once."""


@runtime_checkable
class Evaluator(Protocol):
    """A network as a function of its parameters. Nothing is modified."""

    @property
    def replaces_signals(self) -> bool:
        """Whether a WeightChange can replace what a single connection carries (mean, resample)."""
        ...

    def outputs(self, values: Mapping[str, Array], inputs: Inputs) -> Outputs:
        """The outputs of the network with these parameters."""
        ...

    def activation_statistics(
        self, values: Mapping[str, Array], inputs: Inputs
    ) -> dict[str, tuple[Float[np.ndarray, " places"], Float[np.ndarray, " places"]]]:
        """Mean and standard deviation of each place's activation, by neuron layer; time steps and pixels pooled."""
        ...

    def without_each(
        self, values: Mapping[str, Array], connections: Sequence[Connection], inputs: Inputs
    ) -> Iterator[tuple[Sequence[Connection], Float[np.ndarray, "connections N outputs"]]]:
        """Outputs with one connection at zero, for each of them: some connections at a time, in any order."""
        ...

    def intervened(
        self, values: Mapping[str, Array], trials: Sequence[Trial], inputs: Inputs, partner: Shaped[np.ndarray, " N"]
    ) -> list[Outputs]:
        """Outputs under each trial. `resample` takes what example i's partner[i] had without any change."""
        ...

    def full_masks(self, values: Mapping[str, Array]) -> Masks:
        """Everything kept, for all parameters that pruning may mask."""
        ...

    def without_dead_ends(self, values: Mapping[str, Array], masks: Masks) -> tuple[Values, Masks]:
        """The same network without connections that lie on no path from an input to an output."""
        ...
