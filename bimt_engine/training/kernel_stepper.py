"""The stepper for perceptrons and small transformers on the CPU: a compiled kernel that takes many steps in one call.

Same arithmetic as the autograd stepper, to rounding; the same bits however the steps are cut into calls.
kernel.cpp and kernel_transformer.cpp say how; kernel_build.py where the libraries come from.
"""

from __future__ import annotations

import ctypes
import weakref
from ctypes import byref, c_int32, c_int64, c_void_p
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from bimt_engine.datasets.dataset import Dataset
from bimt_engine.networks.mlp import Mlp
from bimt_engine.networks.network import Network
from bimt_engine.spec import TrainingSpec
from bimt_engine.training.batches import LOGGED_EXAMPLES, TensorData
from bimt_engine.training.kernel_build import KernelUnavailable, Kind, load_kernel
from bimt_engine.training.kernel_shapes import (
    Examples,
    PerceptronShape,
    Rule,
    Score,
    TransformerShape,
    shape_of,
    whats_in_the_way,
)
from bimt_engine.training.state import TrainingState

SPARSE_BELOW = 0.4  # share of inputs that are not 0; listing them beats multiplying by zeros up to about here
SPARSE_FROM, SPARSE_TO = 64, 65_535  # inputs; a narrower first layer is little of the work, a wider one is not listed
LARGEST_MATRIX = 3 << 20  # bytes
LOOKED_AT = 4096  # examples that tell whether inputs are sparse
BATCHES_AT_ONCE = 1024  # steps whose examples are drawn together; bounds the memory of a long call


class KernelStepper:
    """Many optimiser steps in place, one replica after another."""

    name = "kernel"
    side_by_side = False

    @staticmethod
    def supports(network: Network, dataset: Dataset, training: TrainingSpec) -> str | None:
        """None for such a network on the CPU of a machine with a C++ compiler; otherwise what is in the way."""
        if training.device not in ("cpu", "auto"):
            return f"it runs on the CPU, and {training.device} was asked for"
        if reason := whats_in_the_way(network, training.loss or dataset.default_loss):
            return reason
        if training.stepper == "auto" and (reason := _better_left_to_blas(network, dataset)):
            return reason
        try:
            load_kernel(_kind(network), training.precision)
        except KernelUnavailable as error:
            return str(error)
        return None

    def __init__(self, state: TrainingState, data: TensorData, training: TrainingSpec) -> None:
        self.state, self.data = state, data
        optimiser = training.optimiser
        self._rule = Rule(
            optimiser.learning_rate,
            optimiser.beta1,
            optimiser.beta2,
            optimiser.epsilon,
            optimiser.weight_decay,
            optimiser.kind == "proximal",
        )
        shape = shape_of(state, data)
        library = load_kernel(_kind(state.network), training.precision)
        shared = data.replicas == 1 or data.train_inputs.stride(0) == 0
        # Replicas that share their data share one machine, which holds nothing of theirs between two calls.
        self._machines = [_Machine(library, shape, data, replica) for replica in range(1 if shared else data.replicas)]

    def advance(self, steps: int, *, price: Float[Tensor, "... P"]) -> None:
        """Take so many steps. price: λ · price of every entry, (P,) or one row per replica."""
        state, done = self.state, 0
        price = price.contiguous()
        while done < steps:
            some = steps - done if self.data.batch_size is None else min(BATCHES_AT_ONCE, steps - done)
            batches = self.data.batches(state.step, some)
            for replica in range(state.replicas):
                self._machine(replica).advance(
                    state.theta[replica],
                    state.first_moment[replica],
                    state.second_moment[replica],
                    price if price.dim() == 1 else price[replica],
                    None if state.mask is None else state.mask[replica],
                    rule=self._rule,
                    step=state.step,
                    steps=some,
                    batches=None if batches is None else batches[replica],
                )
            state.step += some
            done += some

    def losses(self, *, everything: bool = False) -> list[dict[str, float]]:
        """Prediction loss and accuracy on both parts, for each replica."""
        rows = []
        for replica in range(self.state.replicas):
            machine, row = self._machine(replica), {}
            for part, prefix in enumerate(("", "test_")):
                count = machine.counts[part] if everything else min(machine.counts[part], LOGGED_EXAMPLES)
                score = machine.score(part, self.state.theta[replica], count)
                row[prefix + "prediction_loss"] = score.loss
                if self.data.train_labels is not None:
                    row[(prefix or "train_") + "accuracy"] = score.correct / count
            rows.append(row)
        return rows

    def _machine(self, replica: int) -> _Machine:
        """The machine of a replica, with the replica's orders."""
        machine = self._machines[replica if len(self._machines) > 1 else 0]
        layers = self.state.network.wiring
        orders = self.state.orders
        machine.order(orders[layers.input_layer.name][replica], orders[layers.output_layer.name][replica])
        return machine


class _Machine:
    """A kernel with its examples and its working memory, for one set of data."""

    def __init__(
        self, library: ctypes.CDLL, shape: PerceptronShape | TransformerShape, data: TensorData, replica: int
    ) -> None:
        self._library = library
        library.machine_open.restype = c_void_p
        library.machine_close.argtypes = [c_void_p]
        library.machine_close.restype = library.machine_order.restype = None
        parts = (
            (data.train_inputs, data.train_targets, data.train_labels),
            (data.test_inputs, data.test_targets, data.test_labels),
        )
        self._kept: list[Tensor] = []  # memory that the kernel reads
        tokens = isinstance(shape, PerceptronShape) and shape.tokens > 0
        sparse = not tokens and inputs_are_sparse(data.train_inputs[replica])
        examples = []
        for inputs, targets, labels in parts:
            told = Examples(count=inputs.shape[1], sparse=sparse)
            if tokens:
                told.tokens = self._keep(inputs[replica].to(torch.int32))
            else:
                told.inputs = self._keep(inputs[replica])
            if data.loss == "mse":
                told.targets = self._keep(targets[replica])
            if labels is not None:
                told.labels = self._keep(labels[replica].to(torch.int32))
            examples.append(told)
        self.counts = tuple(int(told.count) for told in examples)
        self._parameters = int(shape.parameters)
        machine = library.machine_open(byref(shape), byref(examples[0]), byref(examples[1]))
        if not machine:
            raise MemoryError("the kernel found no memory for its examples")
        self._machine = c_void_p(machine)
        weakref.finalize(self, library.machine_close, self._machine)

    def order(self, inputs: Tensor, outputs: Tensor) -> None:
        inputs, outputs = inputs.contiguous(), outputs.contiguous()
        self._library.machine_order(self._machine, _at(inputs), _at(outputs))

    def advance(
        self,
        theta: Tensor,
        first: Tensor,
        second: Tensor,
        price: Tensor,
        mask: Tensor | None,
        *,
        rule: Rule,
        step: int,
        steps: int,
        batches: np.ndarray | None,
    ) -> None:
        for flat in (theta, first, second, price):
            assert flat.is_contiguous()
            assert flat.shape == (self._parameters,)
            assert flat.dtype == theta.dtype
        chosen = None if batches is None else np.ascontiguousarray(batches, dtype=np.int64)
        kept = None if mask is None else mask.contiguous()
        failed = self._library.machine_advance(
            self._machine,
            *(_at(flat) for flat in (theta, first, second, price)),
            None if kept is None else _at(kept),
            byref(rule),
            c_int64(step),
            c_int64(steps),
            None if chosen is None else chosen.ctypes.data_as(c_void_p),
            c_int64(0 if chosen is None else chosen.shape[1]),
        )
        if failed:
            raise MemoryError("the kernel found no memory for its activations")

    def score(self, part: int, theta: Tensor, count: int) -> Score:
        """Mean loss over the first `count` examples of a part, and how many of them are classified rightly."""
        score = Score()
        failed = self._library.machine_score(
            self._machine, c_int32(part), _at(theta), c_int64(0), c_int64(count), byref(score)
        )
        if failed:
            raise MemoryError("the kernel found no memory for its activations")
        return score

    def _keep(self, tensor: Tensor) -> int:
        tensor = tensor.contiguous()
        self._kept.append(tensor)
        return tensor.data_ptr()


def inputs_are_sparse(inputs: Float[Tensor, "examples ..."]) -> bool:
    """Whether most inputs are zeros, as in images of digits, by a look at the first few thousand examples."""
    looked_at = inputs[:LOOKED_AT]
    if looked_at.dim() != 2 or not SPARSE_FROM <= looked_at.shape[1] <= SPARSE_TO:
        return False
    return int(torch.count_nonzero(looked_at)) < SPARSE_BELOW * looked_at.numel()


def _better_left_to_blas(network: Network, dataset: Dataset) -> str | None:
    """Whether torch's blocked products are faster than the kernel's, which count on matrices that fit the cache.

    Measured, batch 256, one thread: 256² kernel 1.3–1.4 × faster, 512² 1.1–1.2 ×, 768² 0.87 ×, 1024² 0.65–0.8 ×.
    A first layer that is listed is never multiplied, so its size does not count.
    """
    weights = [parameter for parameter in network.parameters() if parameter.dim() == 2]
    large = [weight for weight in weights if weight.numel() * weight.element_size() > LARGEST_MATRIX]
    if isinstance(network, Mlp) and len(large) == 1 and large[0] is network.weights[0]:
        large = [] if inputs_are_sparse(torch.as_tensor(dataset.train_inputs[:LOOKED_AT])) else large
    if large:
        return f"a weight matrix of {large[0].shape[0]} × {large[0].shape[1]} is better multiplied by torch"
    return None


def _kind(network: Network) -> Kind:
    return "perceptron" if isinstance(network, Mlp) else "transformer"


def _at(tensor: Tensor) -> Any:
    return c_void_p(tensor.data_ptr())
