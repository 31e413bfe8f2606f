"""A perceptron in the units of the data: raw columns in, raw targets out; of classes, scores for raw columns.

Standardising is affine, so it folds into the first weight layer, and the way back into the last one. What comes out
is a perceptron of the same shape, and everything that is said of it is said in the units that people measured in.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bimt_engine.analysis.plain_mlp import Array, PlainMlp, Values
from bimt_engine.analysis.subject import Examples, Subject
from bimt_engine.datasets.dataset import Scaling


@dataclass(frozen=True)
class DataUnits:
    """The scalings of inputs and targets, those that do nothing where the data were taken as they are."""

    inputs: Scaling
    targets: Scaling

    @classmethod
    def of(cls, subject: Subject) -> DataUnits:
        data = subject.dataset
        return cls(data.input_scaling or Scaling.none(data.inputs), data.target_scaling or Scaling.none(data.targets))

    def folded(self, plain: PlainMlp, values: Values) -> Values:
        """The parameters of the perceptron that gives the same answers in the units of the data."""
        order, back = plain.input_order, plain.output_order
        last = max(int(name.removeprefix("weights.")) for name in values if name.startswith("weights."))
        folded = dict(values)
        folded["biases.0"] = values["biases.0"] - values["weights.0"] @ (self.inputs.mean / self.inputs.std)[order]
        folded["weights.0"] = values["weights.0"] / self.inputs.std[order]
        std = self.targets.std[back]
        folded[f"biases.{last}"] = folded[f"biases.{last}"] * std + self.targets.mean[back]
        folded[f"weights.{last}"] = folded[f"weights.{last}"] * std[:, None]
        return folded

    def raw_inputs(self, examples: Examples) -> Array:
        """(N, inputs), as they were measured."""
        return self.inputs.undo(np.asarray(examples.inputs, np.float64))

    def raw_targets(self, examples: Examples) -> Array | None:
        """(N, targets), as they were measured; None for classes."""
        return None if examples.targets.ndim == 1 else self.targets.undo(examples.targets)

    def answer(self, raw: Array, output: int) -> Array:
        """An output in the units of the data -> as the network is trained to give it."""
        return (raw - self.targets.mean[output]) / self.targets.std[output]
