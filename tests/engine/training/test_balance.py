"""Balanced outputs: whatever scale a target has, it counts as much as the others, from training to refit."""

from __future__ import annotations

import copy
import hashlib
import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from bimt_engine.analysis.context import AnalysisContext
from bimt_engine.analysis.pruning.engine import PruningEngine
from bimt_engine.analysis.pruning.refit import refit_by_gradient, refit_least_squares
from bimt_engine.data.dataset import Dataset, output_weights
from bimt_engine.data.kinds.synthetic import FormulaData
from bimt_engine.data.registry import make_dataset
from bimt_engine.errors import SpecError
from bimt_engine.networks.network import Network
from bimt_engine.spec import Spec, TrainingSpec
from bimt_engine.training.batches import TensorData
from bimt_engine.training.loop import Training
from bimt_engine.training.state import fingerprint
from tests.engine.makers import build, sequence_data, spec_for, table_data

WITHOUT_IDENTITY = {"stepper", "device", "log_every", "snapshot_every", "checkpoint_every"}


def scaled(data: Dataset, factors: np.ndarray) -> Dataset:
    return replace(data, train_targets=data.train_targets * factors, test_targets=data.test_targets * factors)


def context_of(network: Network, data: Dataset) -> AnalysisContext:
    return AnalysisContext.of(network, data, balance_outputs=True)


def test_the_weight_of_an_output_is_one_over_its_variance() -> None:
    data = table_data(targets=3)
    np.testing.assert_allclose(output_weights(data), 1 / data.train_targets.var(axis=0), rtol=1e-12)
    constant = scaled(data, np.array([1.0, 0.0, 1.0]))
    assert output_weights(constant)[1] == 1.0
    sequences = sequence_data()
    [step] = sequences.predicted_positions
    assert output_weights(sequences)[0] == pytest.approx(1 / sequences.train_targets[:, step, 0].var())
    classes = table_data(3, 4, classes=True)
    share = np.bincount(classes.train_targets, minlength=4) / len(classes.train_targets)
    np.testing.assert_allclose(output_weights(classes), 1 / (share * (1 - share)), rtol=1e-12)


def test_a_balanced_loss_does_not_depend_on_the_scale_of_a_target() -> None:
    network, data = build("mlp")
    factors = np.array([1e-3, 50.0])
    other = network_with_outputs_scaled(network, factors)
    one, two = context_of(network, data), context_of(other, scaled(data, factors))
    assert one.scale == pytest.approx(1.0)
    assert two.scale == pytest.approx(1.0)
    outputs = [context.outputs(context.values(), context.train) for context in (one, two)]
    np.testing.assert_allclose(one.losses(outputs[0], one.train), two.losses(outputs[1], two.train), rtol=1e-9)
    ours = TensorData.of(data, TrainingSpec(balance_outputs=True), seeds=[0]).evaluate(network)
    theirs = TensorData.of(scaled(data, factors), TrainingSpec(balance_outputs=True), seeds=[0]).evaluate(other)
    assert ours == pytest.approx(theirs, rel=1e-9)
    assert ours["prediction_loss"] == pytest.approx(float(one.losses(outputs[0], one.train).mean()))


def network_with_outputs_scaled(network: Network, factors: np.ndarray) -> Network:
    """The same network with its outputs, in the order of the data, multiplied by these."""
    copied = copy.deepcopy(network)
    slots, last = torch.from_numpy(factors)[copied.output_order], len(copied.weights) - 1
    with torch.no_grad():
        copied.weights[last].mul_(slots[:, None])
        copied.biases[last].mul_(slots)
    return copied


def test_both_refits_and_the_context_measure_the_same_balanced_loss() -> None:
    """Outputs that have moved, so that slots are not targets; the refit must fall, and agree with gradients."""
    network, _ = build("mlp")
    network.orders["output"].copy_(network.orders["output"].flip(0))
    context = context_of(network, scaled(table_data(), np.array([1.0, 0.05])))
    engine = PruningEngine(context, refit_evaluations=50)
    trained = engine.trained()
    assert engine.least_squares is not None
    assert engine.least_squares.losses(trained.values) == pytest.approx(trained.step.train_loss, rel=1e-12)
    assert engine.gradient_problem().losses(trained.values) == pytest.approx(trained.step.train_loss, rel=1e-9)
    exact = refit_least_squares(engine.least_squares, trained.values, trained.masks, steps=200, min_gain=1e-9)
    by_gradient = refit_by_gradient(engine.gradient_problem(), trained.values, trained.masks, steps=2000)
    assert exact.loss < 0.5 * trained.step.train_loss
    assert exact.loss <= by_gradient.loss * 1.01
    state = engine.state(exact.values, trained.masks)
    assert state.step.train_loss == pytest.approx(exact.loss, rel=1e-9)


def test_a_product_of_three_is_learnt_beside_an_output_of_ten_times_its_variance() -> None:
    """The default for several formulas; without balance λ takes the weak output away before it is learnt."""
    data = FormulaData(inputs=4, formulas=["x1*x2*x3", "x1*x2*x3 + x4"])
    explained = {}
    for balanced in (None, False):
        spec = Spec(dataset=data, training=TrainingSpec(balance_outputs=balanced, precision="float32"))
        made = make_dataset(data, seed=1)
        training = Training.begin(spec, made, seed=1)
        for _ in training.updates():
            pass
        with torch.no_grad():
            said = training.network(torch.from_numpy(made.test_inputs).float()).numpy()
        error = ((said[:, 0] - made.test_targets[:, 0]) ** 2).mean()
        explained[balanced] = 1 - error / made.test_targets[:, 0].var()
    assert explained[None] > 0.9
    assert explained[False] < 0.5


def test_a_cross_entropy_is_not_balanced() -> None:
    with pytest.raises(SpecError, match="leave it out or set `loss` to `mse`"):
        TensorData.of(table_data(classes=True), TrainingSpec(balance_outputs=True), seeds=[0])


def test_a_checkpoint_of_before_the_field_is_of_the_same_training() -> None:
    spec, _ = spec_for("mlp", balance_outputs=False)
    document = spec.model_dump(mode="json", exclude={"training": WITHOUT_IDENTITY, "evidence": True})
    del document["training"]["balance_outputs"]
    before = hashlib.sha256(json.dumps([[document, 3]], sort_keys=True).encode()).hexdigest()
    assert fingerprint([spec], [3]) == before
    balanced = spec.model_copy(update={"training": spec.training.model_copy(update={"balance_outputs": True})})
    assert fingerprint([balanced], [3]) != before
