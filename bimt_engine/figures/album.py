"""The pictures that every run gets: one table from a picture's name to how it is drawn."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from matplotlib.figure import Figure

from bimt_engine.analysis.evidence import Evidence
from bimt_engine.datasets.dataset import Dataset
from bimt_engine.figures.decision import draw_decision
from bimt_engine.figures.effects import draw_effects
from bimt_engine.figures.fit import draw_fit
from bimt_engine.figures.network import draw_network
from bimt_engine.figures.prune_curve import draw_prune_curve

MANY_TARGETS = 12  # panels of true against predicted; beyond, nobody looks at each


def album(evidence: Evidence, dataset: Dataset) -> dict[str, Figure]:
    """Name -> picture, of those that say something about this run. All show the pruned and refitted network."""
    drawn = {name: draw(evidence, dataset) for name, draw in PICTURES.items()}
    return {name: figure for name, figure in drawn.items() if figure is not None}


def _network(evidence: Evidence, dataset: Dataset) -> Figure:
    return draw_network(evidence.graph)


def _prune_curve(evidence: Evidence, dataset: Dataset) -> Figure:
    metrics = evidence.metrics
    limits = {
        "train_loss": float(metrics["prediction_loss_limit"] or 0),
        "held_out_loss": float(metrics["test_prediction_loss_limit"] or 0),
    }
    return draw_prune_curve(evidence.prune_curve, chosen=int(metrics["connections"] or 0), limits=limits)


def _effects(evidence: Evidence, dataset: Dataset) -> Figure | None:
    return draw_effects(evidence.effects) if evidence.modules else None


def _fit(evidence: Evidence, dataset: Dataset) -> Figure | None:
    """True against predicted on held-out data; for numbers alone."""
    if dataset.task != "regression" or dataset.is_sequence or dataset.targets > MANY_TARGETS:
        return None
    predicted = outputs_of(evidence, dataset.test_inputs)
    return draw_fit(dataset.test_targets, predicted, dataset.target_names)


def _decision(evidence: Evidence, dataset: Dataset) -> Figure | None:
    """The plane of two inputs; for two numbers and classes alone."""
    if dataset.task != "classification" or dataset.inputs != 2 or dataset.tokens is not None or dataset.is_sequence:
        return None
    return draw_decision(
        lambda points: outputs_of(evidence, points),
        dataset.test_inputs,
        dataset.test_targets,
        feature_names=dataset.feature_names,
        class_names=dataset.target_names,
    )


def outputs_of(evidence: Evidence, inputs: np.ndarray) -> np.ndarray:
    """The pruned network's outputs."""
    with torch.no_grad():
        return evidence.network(torch.from_numpy(np.ascontiguousarray(inputs))).numpy()


PICTURES: dict[str, Callable[[Evidence, Dataset], Figure | None]] = {
    "network": _network,
    "prune-curve": _prune_curve,
    "effects": _effects,
    "fit": _fit,
    "decision": _decision,
}
