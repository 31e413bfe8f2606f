"""Rows that count differently: as if they stood in the table as often as their weight says."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from bimt_engine.analysis.context import AnalysisContext
from bimt_engine.analysis.evidence import gather_evidence
from bimt_engine.analysis.output_scores import compare_with_baselines
from bimt_engine.analysis.pruning.engine import PruningEngine
from bimt_engine.data.dataset import Dataset
from bimt_engine.data.kinds.uploaded import UploadedData, dataset_of
from bimt_engine.data.readers import Column, RefusedData, Table
from bimt_engine.networks.mlp import MlpNetwork
from bimt_engine.networks.network import build_network
from bimt_engine.recipes import load_recipe
from bimt_engine.spec import Spec, TrainingSpec
from bimt_engine.training.batches import TensorData
from bimt_engine.training.loop import Training
from tests.engine.makers import table_data

COUNTS = np.array([3, 1, 2, 1] * 6)


def repeated(data: Dataset) -> Dataset:
    """Every row as often as it counts."""
    train = [np.repeat(part, COUNTS, axis=0) for part in (data.train_inputs, data.train_targets)]
    test = [np.repeat(part, COUNTS, axis=0) for part in (data.test_inputs, data.test_targets)]
    return replace(data, train_inputs=train[0], train_targets=train[1], test_inputs=test[0], test_targets=test[1])


def counted(data: Dataset) -> Dataset:
    """The same by weights."""
    weights = COUNTS / COUNTS.mean()
    return replace(data, train_weights=weights, test_weights=weights)


@pytest.mark.parametrize("classes", [False, True])
def test_weights_are_repetitions(classes: bool) -> None:
    data = table_data(targets=3, classes=classes)
    network = build_network(MlpNetwork(hidden=[5]), data, generator=torch.Generator().manual_seed(0))
    losses, scales, refits, baselines = [], [], [], []
    for of in (repeated(data), counted(data)):
        tensors = TensorData.of(of, TrainingSpec(precision="float64"), seeds=[0])
        losses.append(tensors.evaluate(network))
        context = AnalysisContext.of(network, of)
        scales.append(context.scale)
        engine = PruningEngine(context, refit_evaluations=20)
        trained = engine.trained()
        refits.append(engine.refit((trained.values, trained.masks)).step.train_loss)
        found = compare_with_baselines(context, context.values(), connections=1, seed=0)
        assert found is not None
        baselines.append((found["network"]["test"], found["linear"]["test"]))
    assert losses[0] == pytest.approx(losses[1])
    assert scales[0] == pytest.approx(scales[1])
    assert refits[0] == pytest.approx(refits[1], rel=1e-3)
    assert baselines[0] == pytest.approx(baselines[1], rel=1e-3)


def table(weights: Any = None) -> Table:
    """y = x in the rows that count, and noise in the others."""
    draw = np.random.default_rng(0)
    x, noise, good = draw.normal(size=120), 3 * draw.normal(size=120), draw.random(120) < 0.5
    weight = good * draw.integers(1, 4, 120) if weights is None else np.full(120, weights)
    values = {"x": x, "y": np.where(good, x, noise), "w": weight.astype(float)}
    return Table(tuple(Column(name, of) for name, of in values.items()))


def spec() -> Spec:
    """How it is trained."""
    said = {"dataset_id": f"dataset_{0:026d}", "sha256": "0" * 64, "format": "csv", "task": "regression"}
    columns = {"x": {}, "y": {}, "w": {}}
    data = UploadedData.model_validate(said | {"targets": ["y"], "weight": "w", "columns": columns})
    whole = load_recipe("table").spec_for(data).model_dump(mode="json")
    whole["training"]["steps"] = 500
    whole["evidence"] |= {"formula_searches": 0}
    return Spec.model_validate(whole).expanded()


def test_a_column_of_weights_counts_from_training_to_scores() -> None:
    asked = spec()
    assert isinstance(asked.dataset, UploadedData)
    data = dataset_of(table(), asked.dataset, seed=0)
    assert data.column_names == ("x",)
    assert data.train_weights is not None
    assert data.train_weights.mean() == pytest.approx(1)
    training = Training.begin(asked, data, seed=0)
    for _ in training.updates():
        pass
    metrics = gather_evidence(training.network, data, asked, seed=0, nulls=2).metrics
    assert metrics["test_r2"] > 0.98
    assert metrics["baselines"]["linear"]["test"] > 0.98


@pytest.mark.parametrize("weight", [-1.0, 0.0, np.nan])
def test_weights_that_cannot_be_are_refused(weight: float) -> None:
    asked = spec().dataset
    assert isinstance(asked, UploadedData)
    with pytest.raises(RefusedData, match=r"'w'"):
        dataset_of(table(weight), asked, seed=0)
