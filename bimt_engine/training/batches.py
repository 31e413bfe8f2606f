"""The data as tensors, and which examples each step uses.

That is a function of seed and step alone, so a resumed run uses the same examples as an undisturbed one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional

from bimt_engine.data.dataset import Dataset, PartName, output_weights
from bimt_engine.errors import SpecError
from bimt_engine.networks.network import DTYPES, Network
from bimt_engine.random import numpy_generator
from bimt_engine.spec import BALANCED_CLASSES, NO_CLASSES, TEXT_LOSS, TrainingSpec
from bimt_engine.training.state import TrainingState

Loss = Literal["mse", "cross_entropy"]
LOGGED_EXAMPLES = 4096  # a log row in mid-training looks at no more of any part; the last row looks at all
STEPS_AT_ONCE = 1024  # steps whose examples are drawn together; bounds the memory of a long call
CHUNK = 16_384  # examples in one forward pass without gradients; bounds the memory of a large test set
# Of text each step of an example is a prediction of its own, so its examples are counted by their steps.
MOST_PREDICTIONS = 1 << 18  # of each part in the last row; the standard error of their mean loss is 0.004 nats


@dataclass(frozen=True)
class TensorData:
    """Training, validation and test examples of R replicas on the training device.

    Every tensor leads with the replica axis; replicas that share their data share its memory.
    train_inputs   (R, N, …) in the order of the data's features, or tokens (int64; of text as narrow as in the data).
    train_targets  (R, N, targets) for the squared error, classes one-hot; (R, N) labels for the cross entropy; of text
                   (R, N, time) labels.
    train_labels   (R, N) for classification, else None.
    steps          predictions of one example of text; 1 for anything else.
    seeds          one per replica: which examples it sees when.
    row_weights    part -> (R, N): how much each example counts; None: all alike.
    output_weights (R, targets): what the squared error of each output is multiplied by; None: 1 each.
    """

    train_inputs: Tensor
    train_targets: Tensor
    validation_inputs: Tensor
    validation_targets: Tensor
    test_inputs: Tensor
    test_targets: Tensor
    train_labels: Tensor | None
    validation_labels: Tensor | None
    test_labels: Tensor | None
    loss: Loss
    seeds: tuple[int, ...]
    batch_size: int | None = None
    predicted_positions: tuple[int, ...] | None = None
    output_weights: Tensor | None = None
    steps: int = 1
    row_weights: dict[PartName, Tensor] | None = None

    @classmethod
    def of(
        cls,
        datasets: Dataset | Sequence[Dataset],
        training: TrainingSpec,
        *,
        seeds: Sequence[int],
        device: torch.device | str = "cpu",
    ) -> TensorData:
        """One data set for all replicas, or one for each. Raises SpecError when the loss does not fit the task."""
        each = [datasets] if isinstance(datasets, Dataset) else list(datasets)
        first = each[0]
        loss: Loss = training.loss or first.default_loss
        if loss == "cross_entropy" and first.task != "classification":
            raise SpecError(NO_CLASSES)
        if first.is_text and loss == "mse":
            raise SpecError(TEXT_LOSS)
        if loss == "cross_entropy" and training.balance_outputs:
            raise SpecError(BALANCED_CLASSES)
        dtype = DTYPES[training.precision]

        def gather(parts: list[np.ndarray]) -> Tensor:
            tensors = [torch.as_tensor(part).to(device) for part in parts]
            if not first.is_text:  # text stays as it is until a step reads it: eight times as little
                tensors = [t.to(dtype) if t.is_floating_point() else t.to(torch.int64) for t in tensors]
            if len(tensors) == 1:
                return tensors[0].expand(len(seeds), *tensors[0].shape)
            return torch.stack(tensors)

        def target(labels_or_values: Tensor) -> Tensor:
            if first.task == "classification" and loss == "mse":
                return functional.one_hot(labels_or_values, first.targets).to(dtype)
            return labels_or_values

        parts: dict[str, Tensor | None] = {}
        names: tuple[PartName, ...] = ("train", "validation", "test")
        for name in names:
            inputs, targets = zip(*(d.part(name) for d in each), strict=True)
            of_part = gather(list(targets))
            parts[f"{name}_inputs"] = gather(list(inputs))
            parts[f"{name}_targets"] = target(of_part)
            parts[f"{name}_labels"] = of_part if first.task == "classification" else None
        examples = first.train_inputs.shape[0]
        size = training.batch_size
        return cls(
            **parts,  # type: ignore[arg-type]
            loss=loss,
            seeds=tuple(seeds),
            batch_size=None if size is None or size >= examples else size,
            predicted_positions=first.predicted_positions,
            output_weights=gather([output_weights(d) for d in each]) if training.balance_outputs else None,
            steps=first.steps if first.is_text else 1,
            row_weights=None if first.train_weights is None else {n: gather(_weights(each, n)) for n in names},
        )

    @property
    def replicas(self) -> int:
        """How many replicas there are."""
        return len(self.seeds)

    @property
    def examples(self) -> int:
        """How many training examples each replica has."""
        return self.train_inputs.shape[1]

    def batches(self, first_step: int, steps: int) -> Int64[np.ndarray, "R steps batch"] | None:
        """The examples of each of these steps, for each replica; None when every step uses all of them."""
        if self.batch_size is None:
            return None
        return np.stack(
            [
                np.stack([batch(seed, first_step + step, self.batch_size, self.examples) for step in range(steps)])
                for seed in self.seeds
            ]
        )

    def chosen(self, replica: int, rows: Tensor | None) -> tuple[Tensor, Tensor]:
        """Inputs and targets of some training examples, as a network reads them; None: of all."""
        inputs, targets = self.train_inputs[replica], self.train_targets[replica]
        if rows is not None:
            inputs, targets = inputs[rows], targets[rows]
        return widened(inputs), widened(targets)

    def weights_of(self, replica: int, rows: Tensor | slice | None, part: PartName = "train") -> Tensor | None:
        """How much some examples of a part count; None: all alike."""
        if self.row_weights is None:
            return None
        weights = self.row_weights[part][replica]
        return weights if rows is None else weights[rows]

    def prediction_loss(
        self, outputs: Tensor, targets: Tensor, replica: int = 0, row_weights: Tensor | None = None
    ) -> Float[Tensor, ""]:
        """The mean loss of one replica's outputs."""
        weights = None if self.output_weights is None else self.output_weights[replica]
        return prediction_loss(outputs, targets, self.loss, self.predicted_positions, weights, row_weights)

    def evaluate(self, network: Network, *, replica: int = 0, everything: bool = False) -> dict[str, float]:
        """Prediction loss (and accuracy, for classes) on every part.

        everything   False: on the first 4096 examples of each part, which is what a log row in mid-training shows. Of
                     text predictions are counted, and everything is MOST_PREDICTIONS of them.
        """
        row: dict[str, float] = {}
        parts: tuple[tuple[PartName, Tensor, Tensor, Tensor | None], ...] = (
            ("train", self.train_inputs, self.train_targets, self.train_labels),
            ("validation", self.validation_inputs, self.validation_targets, self.validation_labels),
            ("test", self.test_inputs, self.test_targets, self.test_labels),
        )
        for part, inputs, targets, labels in parts:
            loss_prefix, accuracy_prefix = "" if part == "train" else f"{part}_", f"{part}_"
            if self.steps > 1:
                of_text = self._evaluate_text(network, inputs[replica], targets[replica], everything=everything)
                row[loss_prefix + "prediction_loss"], row[accuracy_prefix + "accuracy"] = of_text
                continue
            number = inputs.shape[1] if everything else min(inputs.shape[1], LOGGED_EXAMPLES)
            with torch.no_grad():
                outputs = torch.cat(
                    [network(inputs[replica, start : min(start + CHUNK, number)]) for start in range(0, number, CHUNK)]
                )
                counted = self.weights_of(replica, slice(number), part)
                loss = self.prediction_loss(outputs, targets[replica, :number], replica, counted)
                row[loss_prefix + "prediction_loss"] = float(loss)
                if labels is not None:
                    right = outputs.argmax(-1) == labels[replica, :number]
                    row[accuracy_prefix + "accuracy"] = int(right.sum()) / right.numel()
                    if counted is not None:
                        row[accuracy_prefix + "accuracy"] = float((counted * right).sum() / counted.sum())
        return row

    def _evaluate_text(
        self, network: Network, inputs: Tensor, labels: Tensor, *, everything: bool
    ) -> tuple[float, float]:
        """Cross entropy and accuracy of the next token, over evenly spaced examples of a part.

        The scores of all steps together would take gigabytes, so a few examples at a time are added up.
        """
        most = max(1, (MOST_PREDICTIONS if everything else LOGGED_EXAMPLES) // self.steps)
        spaced = torch.arange(0, len(inputs), -(-len(inputs) // most), device=inputs.device)
        lost, right, count = 0.0, 0, len(spaced) * self.steps
        with torch.no_grad():
            for rows in spaced.split(max(1, LOGGED_EXAMPLES // self.steps)):
                outputs, wanted = network(widened(inputs[rows])), widened(labels[rows])
                lost += float(self.prediction_loss(outputs, wanted)) * wanted.numel()
                right += int((outputs.argmax(-1) == wanted).sum())
        return lost / count, right / count

    def evaluate_replicas(self, state: TrainingState, *, everything: bool = False) -> list[dict[str, float]]:
        """The same for every replica of a training: one row each."""
        rows = []
        for replica in range(state.replicas):
            with state.showing(replica) as network:
                rows.append(self.evaluate(network, replica=replica, everything=everything))
        return rows


def prediction_loss(
    outputs: Tensor,
    targets: Tensor,
    loss: Loss,
    predicted_positions: tuple[int, ...] | None = None,
    weights: Float[Tensor, " targets"] | None = None,
    row_weights: Float[Tensor, " N"] | None = None,
) -> Float[Tensor, ""]:
    """Mean squared error or mean cross entropy; of sequences only the predicted time steps count.

    weights      what the squared error of each output is multiplied by; None: 1 each.
    row_weights  what the loss of each example is multiplied by, of tables; None: 1 each.
    """
    if row_weights is not None:
        if loss == "cross_entropy":
            each = functional.cross_entropy(outputs, targets, reduction="none")
        else:
            each = ((1.0 if weights is None else weights) * (outputs - targets) ** 2).mean(-1)
        return (row_weights * each).mean()
    if predicted_positions is not None and outputs.dim() == 3:
        outputs, targets = outputs[:, list(predicted_positions)], targets[:, list(predicted_positions)]
    if loss == "cross_entropy":
        if outputs.dim() == 3:  # a label for each time step
            return functional.cross_entropy(outputs.flatten(0, 1), targets.flatten())
        return functional.cross_entropy(outputs, targets)
    if weights is not None:
        return (weights * (outputs - targets) ** 2).mean()
    return functional.mse_loss(outputs, targets)


def _weights(datasets: Sequence[Dataset], part: PartName) -> list[np.ndarray]:
    found = [dataset.row_weights(part) for dataset in datasets]
    return [weights for weights in found if weights is not None]


def widened(tensor: Tensor) -> Tensor:
    """Tokens and labels as int64, whatever they are kept as; numbers as they are."""
    return tensor if tensor.is_floating_point() else tensor.to(torch.int64)


def batch(seed: int, step: int, size: int, examples: int) -> Int64[np.ndarray, " batch"]:
    """The examples of this step: each epoch in an order of its own, a short rest at its end left out."""
    steps_per_epoch = examples // size
    order = _epoch_order(seed, step // steps_per_epoch, examples)
    start = (step % steps_per_epoch) * size
    return order[start : start + size]


@lru_cache(maxsize=8)
def _epoch_order(seed: int, number: int, examples: int) -> Int64[np.ndarray, " examples"]:
    return numpy_generator(seed, f"pass {number} over the data").permutation(examples)
