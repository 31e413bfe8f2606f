"""The network and the data under analysis: float64 arrays, outputs in the order of the data, and their evaluation.

Here too: the examples, their prediction losses and the scale that a loss is measured by, and the units of the data.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from jaxtyping import Float, Shaped
from scipy.special import log_softmax

from bimt_engine.analysis.evaluator import Array, Evaluator, Outputs, Values
from bimt_engine.analysis.hooked_network import HookedNetwork
from bimt_engine.analysis.numpy_mlp import NumpyMlp
from bimt_engine.data.dataset import Dataset, PartName, Scaling, output_weights
from bimt_engine.networks.network import Network
from bimt_engine.networks.wiring import Wiring

LossName = Literal["mse", "cross_entropy"]
MAX_EXAMPLES = 4096  # of each part; a loss over more moves by less than the tolerances that are asked of it


@dataclass(frozen=True)
class Examples:
    """Inputs as the network takes them, and targets as rows (N, outputs), labels (N,), or of text labels (N, steps).

    weights   how much the loss of each counts, 1 on average; None: all alike.
    """

    inputs: Shaped[np.ndarray, "N ..."]
    targets: Shaped[np.ndarray, "N ..."]
    weights: Float[np.ndarray, " N"] | None = None


@dataclass(frozen=True)
class AnalysisContext:
    """A network under analysis and its data. The network is a float64 copy; the one passed in is never changed.

    evaluator   computes outputs for any parameters of this network, the fastest way that its wiring allows.
    general     the same by torch passes with hooks, for what needs a whole network.
    train, validation, test   the three parts of the data. Everything that is chosen is chosen by the first two,
                which stand together as `development`; test is only reported.
    scale       loss of the best constant answer on the training examples.
    weights     what the squared error of each output is multiplied by, as in training; None: 1 each.
    """

    network: Network
    evaluator: Evaluator
    general: HookedNetwork
    dataset: Dataset
    train: Examples
    validation: Examples
    test: Examples
    loss: LossName
    scale: float
    weights: Float[np.ndarray, " outputs"] | None = None

    @classmethod
    def of(
        cls,
        network: Network,
        dataset: Dataset,
        *,
        loss: LossName | None = None,
        balance_outputs: bool = False,
        seed: int = 0,
    ) -> AnalysisContext:
        """Prepare a network for analysis; at most MAX_EXAMPLES of each part (of text: bytes), drawn by the seed."""
        copied = copy.deepcopy(network).to("cpu").double().eval()
        loss = loss or dataset.default_loss
        steps = None
        if copied.wiring.output_layer.samples:
            steps = dataset.predicted_positions or tuple(range(dataset.train_inputs.shape[1]))
        parts = []
        names: tuple[PartName, ...] = ("train", "validation", "test")
        most = max(1, MAX_EXAMPLES // (dataset.steps if dataset.is_text else 1))
        for name in names:
            (inputs, targets), counted = dataset.part(name), dataset.row_weights(name)
            if len(inputs) > most:
                drawn = np.sort(np.random.default_rng(seed).choice(len(inputs), most, replace=False))
                inputs, targets = inputs[drawn], targets[drawn]
                counted = None if counted is None else counted[drawn] / counted[drawn].mean()
            if dataset.is_text:
                inputs, targets = inputs.astype(np.int64), targets.astype(np.int64)
            if steps is not None and targets.ndim == 3:
                targets = targets[:, list(steps)].reshape(len(targets), -1)
            elif steps is not None and are_steps(targets):
                targets = targets[:, list(steps)]
            parts.append(Examples(inputs, targets, counted))
        general = HookedNetwork.of(copied, dataset.train_inputs[:1], time_steps=steps)
        train, validation, test = parts
        weights = None
        if balance_outputs and loss == "mse":
            weights = np.tile(output_weights(dataset), len(steps or (0,)))  # as the flattened targets lie
        scale = loss_scale(train.targets, dataset.targets, loss, weights, train.weights)
        chain = copied.wiring.chain
        evaluator = NumpyMlp.of(copied) if chain is not None and chain.embedding is None else None
        return cls(
            network=copied,
            evaluator=evaluator or general,
            general=general,
            dataset=dataset,
            train=train,
            validation=validation,
            test=test,
            loss=loss,
            scale=scale,
            weights=weights,
        )

    @property
    def parts(self) -> dict[str, Examples]:
        """The three parts by what the names of their metrics begin with."""
        return {"": self.train, "validation_": self.validation, "test_": self.test}

    @cached_property
    def development(self) -> Examples:
        """Training and validation examples together, the training ones first: those on which choices are made."""
        parts = (self.train, self.validation)
        joined = [p.weights for p in parts if p.weights is not None]
        return Examples(
            np.concatenate([p.inputs for p in parts]),
            np.concatenate([p.targets for p in parts]),
            np.concatenate(joined) if joined else None,
        )

    @property
    def wiring(self) -> Wiring:
        """The wiring of the network."""
        return self.network.wiring

    @property
    def plain(self) -> NumpyMlp | None:
        """A perceptron on plain numbers, which formulas are read out of; None for any other network."""
        return self.evaluator if isinstance(self.evaluator, NumpyMlp) else None

    def values(self) -> Values:
        """Every parameter by name."""
        return {name: p.detach().numpy().copy() for name, p in self.network.named_parameters()}

    def outputs(self, values: Mapping[str, Array], examples: Examples) -> Outputs:
        """The outputs of the network with these parameters, in the order of the data."""
        return self.evaluator.outputs(values, examples.inputs)

    def features(self, place: int) -> tuple[int, ...]:
        """The numbers of the features that a place of the input layer reads.

        One for a neuron that stands for a feature, and for a copy that stands for a token; for a channel of an image,
        all its pixels; all tokens where they share one layer.
        """
        layer = self.wiring.input_layer
        copied, slot = divmod(place, layer.neurons)
        if self.dataset.tokens is not None:
            return (copied,) if layer.copies > 1 else tuple(range(self.dataset.inputs))
        share = self.dataset.inputs // layer.places
        first = (copied * layer.neurons + int(self.network.input_order[slot])) * share
        return tuple(range(first, first + share))

    def losses(self, outputs: Float[np.ndarray, "*many N outputs"], examples: Examples) -> Float[np.ndarray, "*many N"]:
        """The loss of each example, times how much it counts."""
        found = loss_per_example(outputs, examples.targets, self.loss, self.weights)
        return found if examples.weights is None else found * examples.weights

    def accuracy(
        self,
        outputs: Outputs,
        targets: Shaped[np.ndarray, "N ..."],
        counted: Float[np.ndarray, " N"] | None = None,
    ) -> float | None:
        """The share of correctly predicted classes, over all label groups; None for targets that are no classes.

        counted   how much each example counts; None: all alike.
        """
        if counted is not None and self.dataset.task == "classification":
            return float(np.average(outputs.argmax(-1) == targets, weights=counted))
        if self.dataset.task == "classification":
            return float((outputs.reshape(targets.size, -1).argmax(-1) == targets.reshape(-1)).mean())
        groups = [list(group) for group in self.dataset.label_groups]
        right = [outputs[:, group].argmax(-1) == targets[:, group].argmax(-1) for group in groups]
        return float(np.mean(right)) if right else None

    def faithfulness(self, outputs: Outputs, trained: Outputs) -> float:
        """How far the trained outputs are preserved: 1 - share of their variance lost, or the share of equal labels."""
        if self.dataset.task == "classification":
            classes = self.dataset.targets
            same = outputs.reshape(-1, classes).argmax(-1) == trained.reshape(-1, classes).argmax(-1)
            return float(same.mean())
        variance = float(weighted(trained.var(axis=0), self.weights).mean())
        error = float(weighted((outputs - trained) ** 2, self.weights).mean())
        return 1.0 - error / variance if variance > 0 else float(error == 0)


# --- losses ---------------------------------------------------------------------------------------


def are_steps(targets: Shaped[np.ndarray, "N ..."]) -> bool:
    """Whether targets are labels of time steps, (N, steps), whose scores lie side by side: (N, steps · classes)."""
    return targets.ndim == 2 and np.issubdtype(targets.dtype, np.integer)


def one_hot(labels: Shaped[np.ndarray, "N ..."], classes: int) -> Float[np.ndarray, "N _"]:
    """Labels (N,) as rows with one 1; targets that are rows already stay as they are."""
    return np.eye(classes)[labels] if labels.ndim == 1 else labels


def weighted(
    squares: Float[np.ndarray, "*many outputs"], weights: Float[np.ndarray, " outputs"] | None
) -> Float[np.ndarray, "*many outputs"]:
    """Squared errors or variances of outputs as the loss counts them."""
    return squares if weights is None else squares * weights


def loss_per_example(
    outputs: Float[np.ndarray, "*many N outputs"],
    targets: Shaped[np.ndarray, "N ..."],
    loss: LossName,
    weights: Float[np.ndarray, " outputs"] | None = None,
) -> Float[np.ndarray, "*many N"]:
    """The loss of each example: mean over its outputs for `mse`, -log p(label) for `cross_entropy`.

    targets   (N, outputs) or labels (N,). Sequences come flattened to one row per example; of text with labels
              (N, steps), and the loss is the mean over its steps.
    weights   what the squared error of each output is multiplied by; None: 1 each.
    """
    if loss == "cross_entropy" and are_steps(targets):
        apart = outputs.reshape(*outputs.shape[:-1], targets.shape[1], -1)
        log_p = log_softmax(apart, axis=-1)
        labels = np.broadcast_to(targets[:, :, None], (*apart.shape[:-1], 1))
        return -np.take_along_axis(log_p, labels, axis=-1)[..., 0].mean(axis=-1)
    if loss == "cross_entropy":
        log_p = log_softmax(outputs, axis=-1)
        return -np.take_along_axis(log_p, np.broadcast_to(targets[:, None], (*outputs.shape[:-1], 1)), axis=-1)[..., 0]
    error = outputs - one_hot(targets, outputs.shape[-1])
    return weighted(error * error, weights).mean(axis=-1)


def loss_scale(
    targets: Shaped[np.ndarray, "N ..."],
    classes: int,
    loss: LossName,
    weights: Float[np.ndarray, " outputs"] | None = None,
    counted: Float[np.ndarray, " N"] | None = None,
) -> float:
    """The loss of the best constant answer: Var(y), mean over outputs, or the entropy of the labels; ε is a share.

    counted   how much each example counts, of tables; None: all alike.
    """
    if counted is not None and loss == "mse":
        return float(weighted(variance_of(one_hot(targets, classes), counted), weights).mean()) or 1.0
    if loss == "cross_entropy":
        share = np.bincount(targets.reshape(-1), weights=counted, minlength=classes) / targets.size
        share = share[share > 0]
        return float(-(share * np.log(share)).sum()) or 1.0
    return float(weighted(one_hot(targets, classes).var(axis=0), weights).mean()) or 1.0


def variance_of(
    values: Float[np.ndarray, "N outputs"], counted: Float[np.ndarray, " N"] | None
) -> Float[np.ndarray, " outputs"]:
    """The variance of each column, its rows counting as they do; None: all alike."""
    if counted is None:
        return values.var(axis=0)
    share = counted / counted.sum()
    return share @ (values - share @ values) ** 2


# --- units of the data ----------------------------------------------------------------------------


@dataclass(frozen=True)
class DataUnits:
    """The scalings of inputs and targets, those that do nothing where the data were taken as they are.

    Standardising is affine, so it folds into the first weight layer of a perceptron, and the way back into the last
    one: what comes out is a perceptron of the same shape, from raw columns to raw targets (of classes, to scores).
    """

    inputs: Scaling
    targets: Scaling

    @classmethod
    def of(cls, context: AnalysisContext) -> DataUnits:
        """The units of these data."""
        data = context.dataset
        return cls(data.input_scaling or Scaling.none(data.inputs), data.target_scaling or Scaling.none(data.targets))

    def folded(self, plain: NumpyMlp, values: Values) -> Values:
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

    def raw_inputs(self, examples: Examples) -> Float[np.ndarray, "N inputs"]:
        """The inputs as they were measured."""
        return self.inputs.undo(np.asarray(examples.inputs, np.float64))

    def raw_targets(self, examples: Examples) -> Float[np.ndarray, "N targets"] | None:
        """The targets as they were measured; None for classes."""
        return None if examples.targets.ndim == 1 else self.targets.undo(examples.targets)

    def answer(self, raw: Array, output: int) -> Array:
        """An output in the units of the data -> as the network is trained to give it."""
        return (raw - self.targets.mean[output]) / self.targets.std[output]
