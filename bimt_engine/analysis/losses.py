"""Prediction losses on plain arrays, and the yardstick that a loss is measured by."""

from __future__ import annotations

from typing import Literal

import numpy as np
from scipy.special import log_softmax

LossName = Literal["mse", "cross_entropy"]


def one_hot(labels: np.ndarray, classes: int) -> np.ndarray:
    """Labels (N,) as rows with one 1; targets that are rows already stay as they are."""
    return np.eye(classes)[labels] if labels.ndim == 1 else labels


def loss_per_example(outputs: np.ndarray, targets: np.ndarray, loss: LossName) -> np.ndarray:
    """The loss of each example, (…, N): mean over its outputs for `mse`, -log p(label) for `cross_entropy`.

    outputs   (…, N, outputs), targets (N, outputs) or labels (N,). Sequences come flattened to one row per example.
    """
    if loss == "cross_entropy":
        log_p = log_softmax(outputs, axis=-1)
        return -np.take_along_axis(log_p, np.broadcast_to(targets[:, None], (*outputs.shape[:-1], 1)), axis=-1)[..., 0]
    error = outputs - one_hot(targets, outputs.shape[-1])
    return (error * error).mean(axis=-1)


def loss_scale(targets: np.ndarray, classes: int, loss: LossName) -> float:
    """The loss of the best constant answer: Var(y), mean over outputs, or the entropy of the labels; ε is a share."""
    if loss == "cross_entropy":
        share = np.bincount(targets, minlength=classes) / targets.size
        share = share[share > 0]
        return float(-(share * np.log(share)).sum()) or 1.0
    return float(one_hot(targets, classes).var(axis=0).mean()) or 1.0
