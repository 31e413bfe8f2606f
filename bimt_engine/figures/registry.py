"""The figure registry: every figure that a run or a job gets, by name, and how it is drawn.

A figure that is added here is drawn, published and served. What it shows, in a sentence, is in `FIGURE_LABELS` of
`analysis/statements/network.py`, which web pages read without matplotlib.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from matplotlib.figure import Figure

from bimt_engine.analysis.report import Evidence
from bimt_engine.analysis.statements.interior import groups_shown
from bimt_engine.data.dataset import Dataset
from bimt_engine.figures.charts import draw_decision, draw_effects, draw_features, draw_fit, draw_weight_ranks
from bimt_engine.figures.curves import draw_pareto, draw_prune_curve
from bimt_engine.figures.embedding import draw_embedding, draw_strips, representation_parts
from bimt_engine.figures.network import draw_network

PIXEL = re.compile(r"(.+)\[([0-9]{1,4}),([0-9]{1,4})\]")
MIN_PIXELS = 16  # a smaller image is a table
MAX_TARGETS = 12  # panels of true against predicted; with more, none can be read


def draw_run_figures(evidence: Evidence, dataset: Dataset) -> dict[str, Figure]:
    """Name -> figure, of those that say something about this run."""
    drawn = {name: draw(evidence, dataset) for name, draw in RUN_FIGURES.items()}
    return {name: figure for name, figure in drawn.items() if figure is not None}


def _network(evidence: Evidence, dataset: Dataset) -> Figure:
    return draw_network(evidence.graph)


def _prune_curve(evidence: Evidence, dataset: Dataset) -> Figure:
    metrics = evidence.metrics
    limits = {
        "train_loss": float(metrics["prediction_loss_limit"] or 0),
        "validation_loss": float(metrics["validation_prediction_loss_limit"] or 0),
    }
    return draw_prune_curve(evidence.prune_curve, chosen=int(metrics["connections"] or 0), limits=limits)


def _effects(evidence: Evidence, dataset: Dataset) -> Figure | None:
    return draw_effects(evidence.effects, groups=groups_shown(evidence.interior)) if evidence.modules else None


def _fit(evidence: Evidence, dataset: Dataset) -> Figure | None:
    """True against predicted on held-out data; for numbers alone."""
    if dataset.task != "regression" or dataset.is_sequence or dataset.targets > MAX_TARGETS:
        return None
    predicted = outputs_of(evidence, dataset.test_inputs)
    return draw_fit(dataset.test_targets, predicted, dataset.target_names)


def _decision(evidence: Evidence, dataset: Dataset) -> Figure | None:
    """The plane of two inputs; for two numbers and classes alone."""
    plane = dataset.inputs == 2 and len(dataset.column_names) == 2
    if dataset.task != "classification" or not plane or dataset.tokens is not None or dataset.is_sequence:
        return None
    return draw_decision(
        lambda points: outputs_of(evidence, points),
        dataset.test_inputs,
        dataset.test_targets,
        feature_names=dataset.feature_names,
        class_names=dataset.target_names,
    )


def _embedding(evidence: Evidence, dataset: Dataset) -> Figure | None:
    """The parts of the embedding that the network reads, by representation; for tokens alone."""
    read = embedding_of(evidence, dataset)
    return None if read is None else draw_embedding(read, dataset.target_names, dataset.group)


def _strips(evidence: Evidence, dataset: Dataset) -> Figure | None:
    """One strip for each dimension; for tokens that a few frequencies of an abelian group do not distinguish."""
    read, table = embedding_of(evidence, dataset), dataset.group
    if read is None or (table is not None and (table == table.T).all() and representation_parts(read, table)):
        return None
    return draw_strips(read, dataset.target_names, table)


def embedding_of(evidence: Evidence, dataset: Dataset) -> Float[np.ndarray, "tokens dimensions"] | None:
    """The embedding in those dimensions that a connection leaves, in the order of their slots; None without."""
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
    """What the first hidden layer responds to; for images, whose inputs are named name[row,column]."""
    found = [PIXEL.fullmatch(name) for name in dataset.feature_names]
    places = [(int(match[2]), int(match[3])) for match in found if match]
    if len(places) < len(found) or len(places) < MIN_PIXELS:
        return None
    shape = (1 + max(row for row, _ in places), 1 + max(column for _, column in places))
    wiring = evidence.network.wiring
    weights = wiring.weight_layers[0]
    if weights.source_copies != 1 or shape[0] * shape[1] != len(places):
        return None
    matrix = dict(evidence.network.named_parameters())[weights.parameter].detach().numpy()
    kept = np.zeros_like(matrix)
    for connection in evidence.graph.connections:
        if connection.parameter == weights.parameter:
            kept[connection.row, connection.column] = matrix[connection.row, connection.column]
    images = np.zeros_like(kept)
    images[:, [row * shape[1] + column for row, column in np.array(places)[_input_order(evidence)]]] = kept
    return draw_features(images, shape)


def _input_order(evidence: Evidence) -> Int[np.ndarray, " slots"]:
    """The input in each slot."""
    return evidence.network.orders[evidence.network.wiring.input_layer.name].cpu().numpy()


def outputs_of(evidence: Evidence, inputs: Float[np.ndarray, "examples ..."]) -> Float[np.ndarray, "examples ..."]:
    """The pruned network's outputs."""
    with torch.no_grad():
        return evidence.network(torch.from_numpy(np.ascontiguousarray(inputs))).numpy()


def _ranks(evidence: Evidence, dataset: Dataset) -> Figure | None:
    """The weights as training left them, all of them, with the number that pruning kept."""
    if evidence.trained is None:
        return None
    parameters = dict(evidence.trained.named_parameters())
    weights = {w.parameter: parameters[w.parameter].detach().numpy() for w in evidence.network.wiring.weight_layers}
    return draw_weight_ranks(weights, kept=len(evidence.graph.connections))


def _pareto(document: Mapping[str, Any]) -> Figure | None:
    """Of the job's stored sweep; None where fewer than two runs can be compared."""
    points: Sequence[Mapping[str, Any]] = document.get("points") or ()
    return draw_pareto(points, loss="loss", wiring="wiring") if len(points) > 1 else None


RUN_FIGURES: dict[str, Callable[[Evidence, Dataset], Figure | None]] = {
    "network": _network,
    "prune-curve": _prune_curve,
    "effects": _effects,
    "fit": _fit,
    "decision": _decision,
    "embedding": _embedding,
    "strips": _strips,
    "features": _features,
    "ranks": _ranks,
}
"""Name of a run's figure -> how it is drawn; None where it says nothing about the run."""

JOB_FIGURES: dict[str, Callable[[Mapping[str, Any]], Figure | None]] = {
    "pareto": _pareto,
}
"""Name of a job's figure -> how it is drawn from the job's stored document of that name."""
