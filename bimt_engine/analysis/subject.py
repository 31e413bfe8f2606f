"""The trained network and its data as the analyses see them: float64 arrays, outputs in the order of the data."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from bimt_engine.analysis.losses import LossName, loss_per_example, loss_scale
from bimt_engine.analysis.plain_mlp import Array, PlainMlp, Values, forward, split
from bimt_engine.datasets.dataset import Dataset
from bimt_engine.networks.network import Network
from bimt_engine.networks.wiring import Wiring

MAX_EXAMPLES = 4096  # of each part; a loss over more moves by less than the tolerances that are asked of it
CHUNK_ROWS = 65_536  # rows in one forward pass of the general path


@dataclass(frozen=True)
class Examples:
    """Inputs as the network takes them, and targets as rows (N, outputs) or labels (N,)."""

    inputs: Array
    targets: Array


@dataclass(frozen=True)
class Subject:
    """A network under examination. The network here is a float64 copy; the one handed in is never touched.

    plain      the same as arrays, for perceptrons on plain numbers; None for all others.
    scale      loss of the best constant answer on the training examples.
    positions  sequences: the time steps that count; their outputs lie side by side in one row.
    """

    network: Network
    plain: PlainMlp | None
    dataset: Dataset
    train: Examples
    held_out: Examples
    loss: LossName
    scale: float
    positions: tuple[int, ...] | None

    @classmethod
    def of(cls, network: Network, dataset: Dataset, *, loss: LossName | None = None, seed: int = 0) -> Subject:
        """Prepare a network for analysis; at most MAX_EXAMPLES of each part, drawn by the seed."""
        copied = copy.deepcopy(network).to("cpu").double().eval()
        loss = loss or dataset.default_loss
        positions = None
        if dataset.is_sequence:
            positions = dataset.predicted_positions or tuple(range(dataset.train_inputs.shape[1]))
        parts = []
        for inputs, targets in (
            (dataset.train_inputs, dataset.train_targets),
            (dataset.test_inputs, dataset.test_targets),
        ):
            if len(inputs) > MAX_EXAMPLES:
                drawn = np.sort(np.random.default_rng(seed).choice(len(inputs), MAX_EXAMPLES, replace=False))
                inputs, targets = inputs[drawn], targets[drawn]
            if positions is not None and targets.ndim == 3:
                targets = targets[:, list(positions)].reshape(len(targets), -1)
            parts.append(Examples(inputs, targets))
        scale = loss_scale(parts[0].targets, dataset.targets, loss)
        return cls(copied, PlainMlp.of(copied), dataset, parts[0], parts[1], loss, scale, positions)

    @property
    def wiring(self) -> Wiring:
        return self.network.wiring

    def values(self) -> Values:
        """Every parameter by name."""
        return {name: p.detach().numpy().copy() for name, p in self.network.named_parameters()}

    def with_values(self, values: Mapping[str, Array]) -> Network:
        """A copy of the network with these parameters."""
        network = copy.deepcopy(self.network)
        with torch.no_grad():
            for name, parameter in network.named_parameters():
                parameter.copy_(torch.from_numpy(values[name]))
        return network

    def outputs(self, values: Mapping[str, Array], examples: Examples) -> Array:
        """Answers (N, outputs) in the order of the data."""
        if self.plain is not None:
            weights, biases = split(values)
            slots = forward(weights, biases, examples.inputs[:, self.plain.input_order], self.plain.activation)[0][-1]
            return slots[:, np.argsort(self.plain.output_order)]
        return self.network_outputs(self.with_values(values), examples.inputs)

    def network_outputs(self, network: Network, inputs: Array) -> Array:
        """Answers of a network, sequences flattened to one row per example, in chunks."""
        answers = []
        with torch.no_grad():
            for start in range(0, len(inputs), CHUNK_ROWS):
                outputs = network(self.tensor(inputs[start : start + CHUNK_ROWS]))
                answers.append(self.rows(outputs))
        return np.concatenate(answers)

    def rows(self, outputs: torch.Tensor) -> Array:
        """Outputs of the network as rows (N, outputs); of sequences, the positions that count."""
        if self.positions is not None:
            outputs = outputs[:, list(self.positions)].flatten(1)
        return outputs.numpy()

    def tensor(self, inputs: Array) -> torch.Tensor:
        """Inputs as the network takes them."""
        made = torch.as_tensor(inputs)
        return made.double() if made.is_floating_point() else made

    def losses(self, outputs: Array, examples: Examples) -> Array:
        """The loss of each example."""
        return loss_per_example(outputs, examples.targets, self.loss)

    def faithfulness(self, outputs: Array, trained: Array) -> float:
        """How much of the trained network's answers is kept: 1 - share of their variance lost, or equal labels."""
        if self.dataset.task == "classification":
            return float((outputs.argmax(-1) == trained.argmax(-1)).mean())
        variance = float(trained.var(axis=0).mean())
        error = float(((outputs - trained) ** 2).mean())
        return 1.0 - error / variance if variance > 0 else float(error == 0)
