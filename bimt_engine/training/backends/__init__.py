"""Backends: which stepper trains a network, on which device, and how many replicas of it side by side."""

from __future__ import annotations

import importlib
import json
import logging
from abc import ABC, abstractmethod
from collections.abc import Iterator
from math import ceil
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from bimt_engine.data.dataset import Dataset
from bimt_engine.data.registry import differs_by_seed
from bimt_engine.errors import SpecError
from bimt_engine.networks.network import DTYPES, Network, build_network
from bimt_engine.networks.transformer import TransformerNetwork
from bimt_engine.random import torch_generator
from bimt_engine.spec import Spec, TrainingSpec
from bimt_engine.training.batches import TensorData
from bimt_engine.training.state import TrainingState

log = logging.getLogger(__name__)

STEPPERS = {
    "kernel": ("bimt_engine.training.backends.kernel.stepper", "KernelStepper"),
    "batched": ("bimt_engine.training.backends.batched", "BatchedStepper"),
    "autograd": ("bimt_engine.training.backends.autograd", "AutogradStepper"),
}
"""Fastest first; the last one takes any network."""

GPU_MIN_WORK = 3_000_000  # parameters × examples a step × replicas; below it launches cost a GPU more than the work
MAX_REPLICAS = 64  # beyond, one crash costs too much of a job, and even a GPU gains little
REPLICA_BYTES = 1 << 29  # of data, parameters and activations, all replicas together


class Stepper(ABC):
    """Takes optimiser steps in place. All steppers do the same arithmetic, to rounding."""

    name: ClassVar[str]
    side_by_side: ClassVar[bool]
    """Whether many replicas in one training take less time than one after another."""

    @staticmethod
    @abstractmethod
    def supports(network: Network, dataset: Dataset, training: TrainingSpec) -> str | None:
        """None when it takes this network; otherwise the reason why not, for the log."""

    @abstractmethod
    def __init__(self, state: TrainingState, data: TensorData, training: TrainingSpec) -> None: ...

    @abstractmethod
    def advance(self, steps: int, *, price: Float[Tensor, "... P"]) -> None:
        """Take so many steps and raise `state.step` by as many.

        price   λ · price of every entry: (P,), or (R, P) where replicas differ in λ.
        """

    @abstractmethod
    def losses(self, *, everything: bool = False) -> list[dict[str, float]]:
        """prediction_loss, validation_… and test_prediction_loss and, for classes, accuracies: one row per replica."""


WEIGHTED_ROWS = "it does not support rows that count differently"

Computation = Literal["perceptron", "transformer"]


def computation_of(network: Network) -> Computation | None:
    """Which computation with a hand-written gradient this network is; None: only automatic differentiation fits it."""
    if network.wiring.chain is not None:
        return "perceptron"
    if isinstance(network.architecture, TransformerNetwork) and network.architecture.as_published:
        return "transformer"
    return None


def resolve_device(training: TrainingSpec, network: Network, dataset: Dataset, *, replicas: int = 1) -> str:
    """The device to train on: the one asked for, or for `auto` a GPU where the work is worth one, else the CPU.

    Raises SpecError when the device asked for is not there, or cannot compute at the precision asked for.
    """
    asked = training.device
    if asked == "auto":
        examples = dataset.train_inputs.shape[0]
        work = sum(p.numel() for p in network.parameters()) * min(training.batch_size or examples, examples) * replicas
        work *= dataset.steps if dataset.is_text else 1
        return "cuda" if torch.cuda.is_available() and work >= GPU_MIN_WORK else "cpu"
    if asked == "cuda" and not torch.cuda.is_available():
        raise SpecError("`device: cuda` was asked for, but this machine shows no CUDA device: ask for cpu or auto.")
    if asked == "mps":
        if not torch.backends.mps.is_available():
            raise SpecError("`device: mps` was asked for, but this machine has no Metal device: ask for cpu or auto.")
        if training.precision == "float64":
            raise SpecError("Metal devices have no float64: ask for `precision: float32`, or for `device: cpu`.")
    return asked


def choose_stepper(
    network: Network, dataset: Dataset, training: TrainingSpec, *, say_why: bool = True
) -> type[Stepper]:
    """The stepper that was asked for, or for `auto` the fastest that takes this network on this device.

    training   with its device resolved. Where a stepper does not take the network the next one does, and the log
               says why.
    """
    asked = training.stepper
    fallback = [name for name in STEPPERS if name not in (asked, "kernel")]
    names = list(STEPPERS) if asked == "auto" else [asked, *fallback]
    for name in names:
        module, attribute = STEPPERS[name]
        try:
            stepper: type[Stepper] = getattr(importlib.import_module(module), attribute)
        except ImportError as error:
            reason: str | None = f"it cannot be loaded ({error})"
        else:
            reason = stepper.supports(network, dataset, training)
            if reason is None:
                return stepper
        if say_why:
            level = logging.INFO if asked == "auto" else logging.WARNING
            log.log(level, "stepper %s is not used: %s", name, reason)
    raise AssertionError("the autograd stepper takes any network")


# --- replicas -----------------------------------------------------------------------------------
#
# Which runs of a job are trained side by side follows from the specs and the shape of the data alone. It may not
# depend on the machine's free memory or on which runs have ended: the last bits of a replica depend on how many there
# are, and a resumed training must be the one that was interrupted.


def alike(spec: Spec) -> str:
    """What the specs of replicas must have in common, as JSON: everything but the cost strengths."""
    fields = spec.expanded().model_dump(mode="json")
    for phase in fields["training"]["phases"]:
        del phase["cost_strength"]
    return json.dumps(fields, sort_keys=True)


def most_side_by_side(spec: Spec, dataset: Dataset) -> int:
    """How many replicas of such a spec are trained side by side at most. Raises SpecError when none can be built."""
    data, rest = _bytes_of_one(_drawn(spec, dataset), dataset, spec)
    most = REPLICA_BYTES // (data + rest) if differs_by_seed(spec.dataset) else (REPLICA_BYTES - data) // rest
    return max(1, min(MAX_REPLICAS, most))


def gains_by_replicas(spec: Spec, dataset: Dataset, *, replicas: int) -> bool:
    """Whether the stepper that would train so many replicas on this machine takes them all in one call."""
    network = _drawn(spec, dataset)
    device = resolve_device(spec.training, network, dataset, replicas=replicas)
    training = spec.training.model_copy(update={"device": device})
    return choose_stepper(network, dataset, training, say_why=False).side_by_side


def pieces(number: int, most: int) -> Iterator[slice]:
    """Cut so many runs into the fewest pieces of at most so many, which differ by one at most."""
    count = ceil(number / most)
    for piece in range(count):
        yield slice(number * piece // count, number * (piece + 1) // count)


def _drawn(spec: Spec, dataset: Dataset) -> Network:
    generator = torch_generator(0, "network")
    return build_network(spec.network, dataset, precision=spec.training.precision, generator=generator)


def _bytes_of_one(network: Network, dataset: Dataset, spec: Spec) -> tuple[int, int]:
    """What one replica takes on the device: its data; and θ with gradient and moments, and three numbers a neuron."""
    examples, itemsize = len(dataset.train_inputs), DTYPES[spec.training.precision].itemsize
    at_once = min(spec.training.batch_size or examples, examples)
    neurons = sum(layer.neurons for layer in network.wiring.neuron_layers)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    scored = [part for part in (dataset.validation_inputs, dataset.test_inputs) if part is not None]
    inputs = dataset.train_inputs.size + sum(part.size for part in scored)
    if dataset.is_text:
        return 2 * inputs, itemsize * (5 * parameters + 3 * at_once * neurons * dataset.steps)
    targets = (examples + sum(map(len, scored))) * dataset.targets
    return itemsize * (inputs + targets), itemsize * (5 * parameters + 3 * at_once * neurons)
