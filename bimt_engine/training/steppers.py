"""Which stepper trains a network, and on which device."""

from __future__ import annotations

import importlib
import logging
from typing import Any, Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from bimt_engine.datasets.dataset import Dataset
from bimt_engine.errors import SpecError
from bimt_engine.networks.network import Network
from bimt_engine.spec import TrainingSpec
from bimt_engine.training.batches import TensorData
from bimt_engine.training.state import TrainingState

log = logging.getLogger(__name__)

STEPPERS = {
    "kernel": ("bimt_engine.training.kernel_stepper", "KernelStepper"),
    "batched": ("bimt_engine.training.batched_stepper", "BatchedStepper"),
    "autograd": ("bimt_engine.training.autograd_stepper", "AutogradStepper"),
}
"""Fastest first; the last one takes any network."""

WORTH_A_GPU = 3_000_000  # parameters × examples a step × replicas; below it a GPU waits for its own launches


class Stepper(Protocol):
    """Takes optimiser steps in place. All steppers do the same arithmetic, to rounding."""

    name: str
    side_by_side: bool
    """Whether many replicas in one training take less time than one after another."""

    @staticmethod
    def supports(network: Network, dataset: Dataset, training: TrainingSpec) -> str | None:
        """None: yes. Otherwise the reason why not, for the log."""
        ...

    def __init__(self, state: TrainingState, data: TensorData, training: TrainingSpec) -> None: ...

    def advance(self, steps: int, *, price: Float[Tensor, "... P"]) -> None:
        """So many steps, with λ · price of every entry: (P,) or (R, P). Raises `state.step`."""
        ...

    def losses(self, *, everything: bool = False) -> list[dict[str, float]]:
        """prediction_loss, test_prediction_loss and, for classes, accuracies: one row per replica."""
        ...


def resolve_device(training: TrainingSpec, network: Network, dataset: Dataset, *, replicas: int = 1) -> str:
    """The device to train on: the one asked for, or for `auto` a GPU where the work is worth one, else the CPU.

    Raises SpecError when the device asked for is not there, or cannot compute at the precision asked for.
    """
    asked = training.device
    if asked == "auto":
        examples = dataset.train_inputs.shape[0]
        work = sum(p.numel() for p in network.parameters()) * min(training.batch_size or examples, examples) * replicas
        return "cuda" if torch.cuda.is_available() and work >= WORTH_A_GPU else "cpu"
    if asked == "cuda" and not torch.cuda.is_available():
        raise SpecError("`device: cuda` was asked for, but this machine shows no CUDA device: ask for cpu or auto.")
    if asked == "mps":
        if not torch.backends.mps.is_available():
            raise SpecError("`device: mps` was asked for, but this machine has no Metal device: ask for cpu or auto.")
        if training.precision == "float64":
            raise SpecError("Metal devices have no float64: ask for `precision: float32`, or for `device: cpu`.")
    return asked


def choose_stepper(network: Network, dataset: Dataset, training: TrainingSpec, *, say_why: bool = True) -> type[Any]:
    """The stepper that was asked for, or for `auto` the fastest that takes this network on this device.

    training   with its device resolved. Where a stepper cannot take the work the next one does, and the log says why.
    """
    asked = training.stepper
    fallback = [name for name in STEPPERS if name not in (asked, "kernel")]
    names = list(STEPPERS) if asked == "auto" else [asked, *fallback]
    for name in names:
        module, attribute = STEPPERS[name]
        try:
            stepper = getattr(importlib.import_module(module), attribute)
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
