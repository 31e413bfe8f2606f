"""The stepper for perceptrons and small transformers on the CPU: a compiled kernel that takes many steps in one call.

Same arithmetic as the autograd stepper, to rounding; the same bits however the steps are cut into calls. The structures
below are laid out as at the top of c_api.h, perceptron.cpp and transformer.cpp; change both or neither.
"""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Callable
from ctypes import POINTER, Structure, byref, c_double, c_int32, c_int64, c_uint8, c_void_p
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from bimt_engine.data.dataset import Dataset
from bimt_engine.networks.network import Network
from bimt_engine.networks.transformer import MLP_WIDTH, TransformerNetwork
from bimt_engine.spec import TrainingSpec
from bimt_engine.training.backends import WEIGHTED_ROWS, Computation, Stepper, computation_of
from bimt_engine.training.backends.kernel import KernelUnavailable, load_kernel
from bimt_engine.training.batches import LOGGED_EXAMPLES, STEPS_AT_ONCE, TensorData
from bimt_engine.training.state import TrainingState

SPARSE_BELOW = 0.4  # share of inputs that are not 0; listing them is faster than multiplying by zeros up to about here
SPARSE_FROM, SPARSE_TO = 64, 65_535  # inputs; a narrower first layer is little of the work, a wider one is not listed
LARGEST_MATRIX = 3 << 20  # bytes
PROBED = 4096  # examples by which inputs are judged sparse
MAX_LAYERS = 32  # weight layers of a perceptron; the spec allows 17
MAX_BLOCKS = 32  # blocks of a transformer; the spec allows 24


class Examples(Structure):
    """One part of the data; null where the network has no such array."""

    _fields_ = (
        ("count", c_int64),
        ("inputs", c_void_p),
        ("tokens", c_void_p),
        ("targets", c_void_p),
        ("labels", c_void_p),
        ("weights", c_void_p),
        ("sparse", c_int32),
    )


class Rule(Structure):
    """The optimiser's numbers, as in backends/autograd.py."""

    _fields_ = (
        ("learning_rate", c_double),
        ("beta1", c_double),
        ("beta2", c_double),
        ("epsilon", c_double),
        ("weight_decay", c_double),
        ("proximal", c_int32),
    )


class Score(Structure):
    """The mean loss of a part, and how many of its examples are classified correctly."""

    _fields_ = (("loss", c_double), ("correct", c_double))


class PerceptronShape(Structure):
    """A perceptron in one flat vector; offsets count numbers."""

    _fields_ = (
        ("parameters", c_int64),
        ("embedding_at", c_int64),
        ("weight_at", c_int64 * MAX_LAYERS),
        ("bias_at", c_int64 * MAX_LAYERS),
        ("layers", c_int32),
        ("activation", c_int32),
        ("cross_entropy", c_int32),
        ("tokens", c_int32),
        ("positions", c_int32),
        ("embedding", c_int32),
        ("widths", c_int32 * (MAX_LAYERS + 1)),
    )


class Affine(Structure):
    """Where a weight and a bias begin in the flat vector."""

    _fields_ = (("weight", c_int64), ("bias", c_int64))


class TransformerShape(Structure):
    """A transformer in one flat vector; offsets count numbers."""

    _fields_ = (
        ("parameters", c_int64),
        ("read_in", Affine),
        ("attend", Affine * MAX_BLOCKS),
        ("gather", Affine * MAX_BLOCKS),
        ("expand", Affine * MAX_BLOCKS),
        ("contract", Affine * MAX_BLOCKS),
        ("read_out", Affine),
        ("inputs", c_int32),
        ("outputs", c_int32),
        ("width", c_int32),
        ("hidden", c_int32),
        ("blocks", c_int32),
        ("heads", c_int32),
        ("activation", c_int32),
        ("time", c_int32),
        ("first_predicted", c_int32),
        ("predicted", c_int32),
        ("counts", POINTER(c_uint8)),
    )


def shape_of(state: TrainingState, data: TensorData) -> PerceptronShape | TransformerShape:
    """The network as its kernel reads it: the widths, and where each parameter begins in the flat vector."""
    computation = computation_of(state.network)
    assert computation is not None  # `supports` has answered for it
    return SHAPES[computation](state, data)


def _perceptron(state: TrainingState, data: TensorData) -> PerceptronShape:
    chain = state.network.wiring.chain
    assert chain is not None
    layers = len(chain.weights)
    weights = [state.place(name) for name in chain.weights]
    shape = PerceptronShape(
        parameters=state.size,
        layers=layers,
        activation=_activation(chain.activation),
        cross_entropy=data.loss == "cross_entropy",
    )
    if chain.embedding is not None:
        place = state.place(chain.embedding)
        shape.embedding_at = place.offset
        shape.tokens, shape.embedding = place.shape
        shape.positions = chain.copies
    shape.widths[0] = weights[0].shape[1]
    for layer, place in enumerate(weights):
        shape.weight_at[layer] = place.offset
        shape.bias_at[layer] = state.place(chain.biases[layer]).offset
        shape.widths[layer + 1] = place.shape[0]
    return shape


def _transformer(state: TrainingState, data: TensorData) -> TransformerShape:
    network = cast(TransformerNetwork, state.network.architecture)
    time = data.train_inputs.shape[2]
    counting = set(range(time)) if data.predicted_positions is None else {t % time for t in data.predicted_positions}

    def affine(name: str) -> Affine:
        return Affine(state.place(f"{name}.weight").offset, state.place(f"{name}.bias").offset)

    shape = TransformerShape(
        parameters=state.size,
        read_in=affine("read_in"),
        read_out=affine("read_out"),
        inputs=state.place("read_in.weight").shape[1],
        outputs=state.place("read_out.weight").shape[0],
        width=network.width,
        hidden=MLP_WIDTH * network.width,
        blocks=network.blocks,
        heads=network.heads,
        activation=_activation(network.activation),
        time=time,
        first_predicted=min(counting),
        predicted=len(counting),
        counts=(c_uint8 * time)(*(t in counting for t in range(time))),
    )
    for block in range(network.blocks):
        for name in ("attend", "gather", "expand", "contract"):
            getattr(shape, name)[block] = affine(f"{name}.{block}")
    return shape


def _activation(name: str) -> int:
    """The number of an activation in vectors.h."""
    return ["silu", "relu", "tanh", "gelu", "gelu_tanh"].index(name)


SHAPES: dict[Computation, Callable[[TrainingState, TensorData], PerceptronShape | TransformerShape]] = {
    "perceptron": _perceptron,
    "transformer": _transformer,
}


def unsupported_reason(network: Network, loss: str) -> str | None:
    """Why no kernel takes this network; None when one does."""
    computation = computation_of(network)
    if computation is None:
        if getattr(network.architecture, "layer_norm", False):
            return "it does not support layer norm"
        if getattr(network.architecture, "positions", False):
            return "it does not support learnt positions"
        return f"it supports perceptrons and transformers, not a {network.kind}"
    if computation == "perceptron":
        layers = len(network.wiring.weight_layers)
        return f"it takes {MAX_LAYERS} weight layers at most, not {layers}" if layers > MAX_LAYERS else None
    blocks = cast(TransformerNetwork, network.architecture).blocks
    if blocks > MAX_BLOCKS:
        return f"it takes {MAX_BLOCKS} blocks at most, not {blocks}"
    return None if loss == "mse" else "it supports the squared error only, for sequences"


class KernelStepper(Stepper):
    """Many optimiser steps in place, one replica after another."""

    name = "kernel"
    side_by_side = False

    @staticmethod
    def supports(network: Network, dataset: Dataset, training: TrainingSpec) -> str | None:
        """None for such a network on the CPU of a machine with a C++ compiler; otherwise the reason why not."""
        if dataset.is_text:
            return "it supports sequences of numbers, not of tokens"
        if dataset.train_weights is not None:
            return WEIGHTED_ROWS
        if training.device not in ("cpu", "auto"):
            return f"it runs on the CPU, and {training.device} was asked for"
        if reason := unsupported_reason(network, training.loss or dataset.default_loss):
            return reason
        if training.stepper == "auto" and (reason := _better_left_to_blas(network, dataset)):
            return reason
        computation = computation_of(network)
        assert computation is not None
        try:
            load_kernel(computation, training.precision)
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
        computation = computation_of(state.network)
        assert computation is not None
        library = load_kernel(computation, training.precision)
        shared = data.replicas == 1 or data.train_inputs.stride(0) == 0
        # Replicas that share their data share one machine, which holds nothing of theirs between two calls.
        self._machines = [_Machine(library, shape, data, replica) for replica in range(1 if shared else data.replicas)]

    def advance(self, steps: int, *, price: Float[Tensor, "... P"]) -> None:
        """Take so many steps. price: λ · price of every entry, (P,) or one row per replica."""
        state, done = self.state, 0
        price = price.contiguous()
        while done < steps:
            some = steps - done if self.data.batch_size is None else min(STEPS_AT_ONCE, steps - done)
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
        """Prediction loss and accuracy on every part, for each replica."""
        rows = []
        for replica in range(self.state.replicas):
            machine, row = self._machine(replica), {}
            for prefix, (part, first, examples) in machine.parts.items():
                count = examples if everything else min(examples, LOGGED_EXAMPLES)
                score = machine.score(part, self.state.theta[replica], first, count)
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
    """A kernel with its examples and its working memory, for one set of data.

    The kernel knows two parts: what it trains on, and what is only scored, validation before test.
    parts   what the names of a part's losses begin with -> part of the kernel, first example, how many.
    """

    def __init__(
        self, library: ctypes.CDLL, shape: PerceptronShape | TransformerShape, data: TensorData, replica: int
    ) -> None:
        self._library = library
        library.machine_open.restype = c_void_p
        library.machine_close.argtypes = [c_void_p]
        library.machine_close.restype = library.machine_order.restype = None
        train, validation, test = (
            [None if of_all is None else of_all[replica] for of_all in part]
            for part in (
                (data.train_inputs, data.train_targets, data.train_labels),
                (data.validation_inputs, data.validation_targets, data.validation_labels),
                (data.test_inputs, data.test_targets, data.test_labels),
            )
        )
        scored = [None if a is None or b is None else torch.cat([a, b]) for a, b in zip(validation, test, strict=True)]
        self._kept: list[Tensor] = []  # memory that the kernel reads
        tokens = isinstance(shape, PerceptronShape) and shape.tokens > 0
        sparse = not tokens and inputs_are_sparse(data.train_inputs[replica])
        examples = []
        for inputs, targets, labels in (train, scored):
            assert inputs is not None
            assert targets is not None
            part = Examples(count=len(inputs), sparse=sparse)
            if tokens:
                part.tokens = self._keep(inputs.to(torch.int32))
            else:
                part.inputs = self._keep(inputs)
            if data.loss == "mse":
                part.targets = self._keep(targets)
            if data.output_weights is not None:
                part.weights = self._keep(data.output_weights[replica])
            if labels is not None:
                part.labels = self._keep(labels.to(torch.int32))
            examples.append(part)
        validated = data.validation_inputs.shape[1]
        self.parts = {
            "": (0, 0, data.examples),
            "validation_": (1, 0, validated),
            "test_": (1, validated, data.test_inputs.shape[1]),
        }
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

    def score(self, part: int, theta: Tensor, first: int, count: int) -> Score:
        """Mean loss over `count` examples of a part from the first on, and how many of them are classified rightly."""
        score = Score()
        failed = self._library.machine_score(
            self._machine, c_int32(part), _at(theta), c_int64(first), c_int64(count), byref(score)
        )
        if failed:
            raise MemoryError("the kernel found no memory for its activations")
        return score

    def _keep(self, tensor: Tensor) -> int:
        tensor = tensor.contiguous()
        self._kept.append(tensor)
        return tensor.data_ptr()


def inputs_are_sparse(inputs: Float[Tensor, "examples ..."]) -> bool:
    """Whether most inputs are zeros, as in images of digits, judged by the first PROBED examples."""
    probed = inputs[:PROBED]
    if probed.dim() != 2 or not SPARSE_FROM <= probed.shape[1] <= SPARSE_TO:
        return False
    return int(torch.count_nonzero(probed)) < SPARSE_BELOW * probed.numel()


def _better_left_to_blas(network: Network, dataset: Dataset) -> str | None:
    """The reason to leave this network to torch, whose blocked products are faster for matrices larger than the cache.

    Measured, batch 256, one thread: 256² kernel 1.3–1.4 × faster, 512² 1.1–1.2 ×, 768² 0.87 ×, 1024² 0.65–0.8 ×.
    A first layer that is listed is never multiplied, so its size does not count.
    """
    weights = [parameter for parameter in network.parameters() if parameter.dim() == 2]
    large = [weight for weight in weights if weight.numel() * weight.element_size() > LARGEST_MATRIX]
    if computation_of(network) == "perceptron" and len(large) == 1 and large[0] is network.weights[0]:
        large = [] if inputs_are_sparse(torch.as_tensor(dataset.train_inputs[:PROBED])) else large
    if large:
        return f"a weight matrix of {large[0].shape[0]} × {large[0].shape[1]} is better multiplied by torch"
    return None


def _at(tensor: Tensor) -> Any:
    return c_void_p(tensor.data_ptr())
