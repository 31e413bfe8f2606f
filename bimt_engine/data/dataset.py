"""A data set: three parts of inputs and targets, names and scaling; and how rows are drawn. Plain numpy, no torch."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from bimt_engine.data.encoding import TableEncoding
from bimt_engine.data.scaling import Scaling as Scaling

PartName = Literal["train", "validation", "test"]
Examples = Literal["numbers", "tokens", "sequences", "text"]


@dataclass(frozen=True)
class Answer:
    """One predicted column of a table, where it is not simply one number: what the outputs of the network say of it.

    levels   of a category among several targets: one output for each, 1 for the level that a row has and else 0.
    median   of the training rows, where log(1 + value / median) is predicted, so that errors count as ratios.
    Neither: the number itself.
    """

    name: str
    levels: tuple[str, ...] = ()
    median: float | None = None

    @property
    def outputs(self) -> tuple[str, ...]:
        """The names of its outputs."""
        if self.levels:
            return tuple(f"{self.name}[{level}]" for level in self.levels)
        return (self.name,) if self.median is None else (f"{self.name}[log]",)

    @property
    def predicted(self) -> tuple[str, ...]:
        """The names of what a prediction holds, in the units of the data."""
        return self.outputs if self.levels else (self.name,)

    def to_json(self) -> dict[str, object]:
        """Its fields; those that say nothing left out."""
        found: dict[str, object] = {"name": self.name}
        found |= {"levels": list(self.levels)} if self.levels else {}
        return found if self.median is None else found | {"median": self.median}


@dataclass(frozen=True)
class Dataset:
    """Examples of one task in three parts.

    train        the weights are fitted to these.
    validation   with `train`, everything that is chosen is chosen by these: connections, limits, what counts as learnt.
    test         only reported. Where there is no validation part, the test part is validated on as well.

    inputs     numbers: (N, inputs) float64; tokens: (N, positions) int64; sequences: (N, time, channels) float64.
               Sequences of tokens, such as text: (N, time) whole numbers of any width (bytes stay bytes, for they are
               views of one long text), whose targets have a label for each time step; each token is a channel.
    targets    regression: (N, targets) float64, sequences (N, time, targets); classification: (N,) int64 labels, or
               (N, time) labels of sequences of tokens.
    target_names          names of the targets; for classification the names of the classes.
    tokens                vocabulary size when the inputs are tokens, otherwise None.
    input_scaling         how the inputs were standardised, None where they were not; target_scaling, the targets.
    predicted_positions   sequences: the time steps that count in the loss; None: all.
    group                 where an example is two elements of a finite group and its label their product: the group's
                          Cayley table, (tokens, tokens), element a in row a; otherwise None.
    label_groups          regression: groups of targets that name a class together, by the largest of each group.
    answers               regression of a table: its targets, where one is a category or a logarithm; otherwise ().
    encoding              how the columns of a table became inputs, where that is more than taking numbers as they are.
    train_weights, validation_weights, test_weights   how much each row counts in losses and scores, (N,), the mean of
                          each part being 1; None: all alike.
    origin                what was read, where that differs by machine: words by name, such as a version and a hash.
    """

    train_inputs: np.ndarray
    train_targets: np.ndarray
    test_inputs: np.ndarray
    test_targets: np.ndarray
    task: Literal["regression", "classification"]
    feature_names: tuple[str, ...]
    target_names: tuple[str, ...]
    tokens: int | None = None
    input_scaling: Scaling | None = None
    target_scaling: Scaling | None = None
    predicted_positions: tuple[int, ...] | None = None
    group: NDArray[np.int64] | None = None
    label_groups: tuple[tuple[int, ...], ...] = ()
    validation_inputs: np.ndarray | None = None
    validation_targets: np.ndarray | None = None
    origin: Mapping[str, str] | None = None
    encoding: TableEncoding | None = None
    train_weights: NDArray[np.float64] | None = None
    validation_weights: NDArray[np.float64] | None = None
    test_weights: NDArray[np.float64] | None = None
    answers: tuple[Answer, ...] = ()

    def part(self, name: PartName) -> tuple[np.ndarray, np.ndarray]:
        """Inputs and targets of one part; for validation those of the test part where there are no others."""
        if name == "train":
            return self.train_inputs, self.train_targets
        if name == "validation" and self.validation_inputs is not None and self.validation_targets is not None:
            return self.validation_inputs, self.validation_targets
        return self.test_inputs, self.test_targets

    def row_weights(self, name: PartName) -> NDArray[np.float64] | None:
        """How much each row of a part counts; None: all alike."""
        if name == "train":
            return self.train_weights
        return self.test_weights if name == "test" or self.validation_inputs is None else self.validation_weights

    @cached_property
    def column_names(self) -> tuple[str, ...]:
        """What a row is made of: the columns of a table where these are encoded, else the features."""
        return self.feature_names if self.encoding is None else self.encoding.names

    @cached_property
    def column_widths(self) -> tuple[int, ...]:
        """How many features each column became, in order; (1, 1, …) where the features are the columns."""
        return (1,) * len(self.feature_names) if self.encoding is None else self.encoding.widths

    @cached_property
    def column_of(self) -> NDArray[np.int64]:
        """The number of the column that each feature belongs to."""
        return np.repeat(np.arange(len(self.column_widths)), self.column_widths)

    def columns_of(self, features: Iterable[int]) -> list[str]:
        """The columns that these features belong to, each once, in the order of the data."""
        return [self.column_names[number] for number in sorted({int(self.column_of[i]) for i in features})]

    @property
    def predicted_names(self) -> tuple[str, ...]:
        """The names of what a prediction holds: the targets, a logarithm undone."""
        return tuple(name for answer in self.answers for name in answer.predicted) or self.target_names

    @cached_property
    def answer_places(self) -> tuple[slice, ...]:
        """Of each of `answers`, where its outputs are."""
        ends = np.cumsum([0, *(len(answer.outputs) for answer in self.answers)]).tolist()
        return tuple(slice(*ends[number : number + 2]) for number in range(len(self.answers)))

    @property
    def default_loss(self) -> Literal["mse", "cross_entropy"]:
        """The loss that fits the task."""
        return "cross_entropy" if self.task == "classification" else "mse"

    @property
    def examples(self) -> Examples:
        """What one example is: numbers, a few tokens, a series of numbers, or a series of tokens to be continued."""
        if self.is_text:
            return "text"
        if self.tokens is not None:
            return "tokens"
        return "sequences" if self.is_sequence else "numbers"

    @property
    def is_sequence(self) -> bool:
        """Whether one example is a series of time steps."""
        return self.train_inputs.ndim == 3 or self.is_text

    @property
    def is_text(self) -> bool:
        """Whether one example is a series of tokens with a label for each of them."""
        return self.tokens is not None and self.task == "classification" and self.train_targets.ndim == 2

    @property
    def inputs(self) -> int:
        """How many numbers (of sequences, channels) or tokens one example brings; of text, how many there are."""
        return self.tokens if self.is_text and self.tokens else int(self.train_inputs.shape[-1])

    @property
    def steps(self) -> int:
        """How many time steps a sequence has; 1 for single examples."""
        return int(self.train_inputs.shape[1]) if self.is_sequence else 1

    @property
    def targets(self) -> int:
        """How many outputs a network needs: the targets, or the classes."""
        return len(self.target_names)


def is_image(data: Dataset) -> bool:
    """Whether the inputs are pixels: bytes that were scaled to 0 … 1."""
    scaling = data.input_scaling
    return scaling is not None and bool((scaling.std == 255.0).all() and (scaling.mean == 0.0).all())


def output_weights(data: Dataset) -> NDArray[np.float64]:
    """One over each output's variance over the training rows, and 1 for an output that is constant there: (targets,).

    Balanced outputs have their squared errors multiplied by it. Of sequences the predicted time steps are pooled; of
    classes the variances are those of the one-hot rows. The levels of a category among several targets share one
    weight, one over the sum of their variances, so that the column counts as much as a number does.
    """
    rows = data.train_targets
    if data.task == "classification":
        rows = np.eye(data.targets)[rows]
    if data.predicted_positions is not None:
        rows = rows[:, list(data.predicted_positions)]
    scale = Scaling.of(np.asarray(rows, np.float64).reshape(-1, data.targets)).std
    weights: NDArray[np.float64] = scale**-2
    for answer, place in zip(data.answers, data.answer_places, strict=True):
        if answer.levels:
            weights[place] = 1 / (float(np.asarray(rows, np.float64)[:, place].var(axis=0).sum()) or 1.0)
    return weights


def answers_in_units(data: Dataset, outputs: NDArray[np.float64]) -> NDArray[np.float64]:
    """Outputs (N, outputs) in the units of the data, `predicted_names`; the same for targets."""
    found = outputs if data.target_scaling is None else data.target_scaling.undo(outputs)
    for answer, place in zip(data.answers, data.answer_places, strict=True):
        if answer.median is not None:
            found[:, place] = answer.median * np.expm1(found[:, place])
    return found


# --- draws and splits: functions of a seed and nothing else ---


def data_generator(seed: int, purpose: str) -> np.random.Generator:
    """A stream of its own for each seed and purpose, so that a draw added in one place changes none elsewhere."""
    return np.random.default_rng([seed, zlib.crc32(purpose.encode())])
