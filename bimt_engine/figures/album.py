"""The pictures that every run gets: one table from a picture's name to how it is drawn."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import torch
from matplotlib.figure import Figure

from bimt_engine.analysis.evidence import Evidence
from bimt_engine.datasets.dataset import Dataset
from bimt_engine.figures.decision import draw_decision
from bimt_engine.figures.effects import draw_effects
from bimt_engine.figures.embedding import draw_embedding, draw_strips, frequency_planes
from bimt_engine.figures.features import draw_features
from bimt_engine.figures.fit import draw_fit
from bimt_engine.figures.network import draw_network
from bimt_engine.figures.prune_curve import draw_prune_curve

PIXEL = re.compile(r"(.+)\[([0-9]{1,4}),([0-9]{1,4})\]")
FEWEST_PIXELS = 16  # a smaller image is a table
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


def _embedding(evidence: Evidence, dataset: Dataset) -> Figure | None:
    """The planes of the embedding that the network reads; for tokens alone."""
    read = embedding_of(evidence, dataset)
    return None if read is None else draw_embedding(read, dataset.target_names)


def _strips(evidence: Evidence, dataset: Dataset) -> Figure | None:
    """One strip for each dimension; for tokens that no few frequencies tell apart."""
    read = embedding_of(evidence, dataset)
    return None if read is None or frequency_planes(read) else draw_strips(read, dataset.target_names)


def embedding_of(evidence: Evidence, dataset: Dataset) -> np.ndarray | None:
    """(tokens, dimensions) of those dimensions that a connection leaves, in the order of their slots; None without."""
    parameters = dict(evidence.network.named_parameters())
    if dataset.tokens is None or dataset.tokens != dataset.targets or "embedding" not in parameters:
        return None
    embedding = parameters["embedding"].detach().numpy()
    width = embedding.shape[1]
    sources = {connection.source for connection in evidence.graph.connections}
    first = evidence.network.wiring.input_layer.name
    read = sorted({n.slot % width for n in evidence.graph.neurons if n.layer == first and n.id in sources})
    return embedding[:, read] if read else None


def _features(evidence: Evidence, dataset: Dataset) -> Figure | None:
    """What the first hidden sheet looks for; for images, whose inputs are named name[row,column]."""
    found = [PIXEL.fullmatch(name) for name in dataset.feature_names]
    places = [(int(match[2]), int(match[3])) for match in found if match]
    if len(places) < len(found) or len(places) < FEWEST_PIXELS:
        return None
    shape = (1 + max(row for row, _ in places), 1 + max(column for _, column in places))
    wiring = evidence.network.wiring
    weights = wiring.weight_layers[0]
    if weights.source_fold != 1 or shape[0] * shape[1] != len(places):
        return None
    matrix = dict(evidence.network.named_parameters())[weights.parameter].detach().numpy()
    kept = np.zeros_like(matrix)
    for connection in evidence.graph.connections:
        if connection.parameter == weights.parameter:
            kept[connection.row, connection.column] = matrix[connection.row, connection.column]
    images = np.zeros_like(kept)
    images[:, [row * shape[1] + column for row, column in np.array(places)[_input_order(evidence)]]] = kept
    return draw_features(images, shape)


def _input_order(evidence: Evidence) -> np.ndarray:
    """Which input sits in each slot."""
    return evidence.network.orders[evidence.network.wiring.input_layer.name].cpu().numpy()


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
    "embedding": _embedding,
    "strips": _strips,
    "features": _features,
}
