"""Which examples a step sees depends on seed and step alone, and every example is seen."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bimt_engine.spec import TrainingSpec
from bimt_engine.training.batches import TensorData, batch, prediction_loss
from tests.engine.makers import build, sequence_data, table_data


@given(seed=st.integers(0, 100), first=st.integers(0, 50), steps=st.integers(1, 20), size=st.integers(1, 23))
def test_batches_do_not_depend_on_where_one_begins_to_ask(seed, first, steps, size) -> None:
    data = TensorData.of(table_data(), TrainingSpec(batch_size=size), seeds=[seed, seed + 1])
    asked = data.batches(first, steps)
    assert asked.shape == (2, steps, size)
    for number in range(steps):
        np.testing.assert_array_equal(asked[:, number], data.batches(first + number, 1)[:, 0])


@given(seed=st.integers(0, 100), size=st.integers(1, 30))
def test_a_pass_sees_no_example_twice(seed, size) -> None:
    seen = np.concatenate([batch(seed, step, size, 30) for step in range(30 // size)])
    assert len(set(seen.tolist())) == len(seen)


def test_passes_come_in_different_orders() -> None:
    orders = {tuple(np.concatenate([batch(0, n * 3 + step, 10, 30) for step in range(3)])) for n in range(5)}
    assert len(orders) == 5


def test_a_batch_as_large_as_the_data_is_all_of_them() -> None:
    assert TensorData.of(table_data(examples=24), TrainingSpec(batch_size=24), seeds=[0]).batches(0, 3) is None


def test_the_squared_error_of_classes_is_taken_on_one_hot_targets() -> None:
    data = TensorData.of(table_data(3, 4, classes=True), TrainingSpec(loss="mse"), seeds=[0])
    assert data.train_targets.shape == (1, 24, 4)
    assert torch.equal(data.train_targets.argmax(-1), data.train_labels)
    assert (data.train_targets.sum(-1) == 1).all()


def test_only_predicted_positions_count() -> None:
    outputs, targets = torch.zeros(2, 3, 1), torch.tensor([[[1.0], [1.0], [3.0]]] * 2)
    assert prediction_loss(outputs, targets, "mse", (2,)) == pytest.approx(9.0)
    data = TensorData.of(sequence_data(), TrainingSpec(), seeds=[0])
    assert data.predicted_positions == (2,)


def test_replicas_that_share_their_data_share_its_memory() -> None:
    data = TensorData.of(table_data(), TrainingSpec(), seeds=[0, 1, 2])
    assert data.train_inputs.shape[0] == 3
    assert data.train_inputs[0].data_ptr() == data.train_inputs[2].data_ptr()


def test_a_log_row_in_mid_training_looks_at_a_bounded_part() -> None:
    network, _ = build("mlp")
    data = TensorData.of(table_data(examples=5000), TrainingSpec(), seeds=[0])
    part, whole = data.evaluate(network), data.evaluate(network, everything=True)
    assert part != whole
    outputs = network(data.test_inputs[0]).detach()
    expected = float(((outputs - data.test_targets[0]) ** 2).mean())
    assert whole["test_prediction_loss"] == pytest.approx(expected)
