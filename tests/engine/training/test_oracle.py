"""The engine against the textbook: the same cost, the same exchanges, the same path through training."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch

from bimt_engine.data.dataset import Dataset
from bimt_engine.data.registry import make_dataset
from bimt_engine.networks.network import build_network
from bimt_engine.random import torch_generator
from bimt_engine.spec import Spec
from bimt_engine.training.loop import Training
from measurements.oracle import Oracle

FORMULA = {"kind": "formula", "inputs": 4, "formulas": ["(x1 + x3)**3", "x2**2 + sin(pi*x4)"], "train": 60, "test": 40}
SPECS: dict[str, dict[str, Any]] = {
    "line": {"dataset": FORMULA, "network": {"kind": "mlp", "hidden": [9, 7]}},
    "mean, no length at the end": {
        "dataset": FORMULA,
        "network": {"kind": "grid_mlp", "hidden": [9]},
        "cost": {"locality": 2, "layer_spacing": 0.5, "reduction": "mean", "last_layer_locality": False},
    },
    "tokens": {
        "dataset": {"kind": "group", "group": "S3"},
        "network": {"kind": "mlp", "hidden": [8], "embedding_width": 5},
        "cost": {"locality": 1, "layer_spacing": 0.5, "reduction": "mean"},
        "strength": 0.5,
    },
    "transformer": {
        "dataset": {"kind": "in_context_regression", "sequences": 40},
        "network": {"kind": "transformer", "width": 6, "blocks": 2},
    },
}


def spec_of(name: str) -> Spec:
    told = SPECS[name]
    return Spec.model_validate(
        {
            "dataset": told["dataset"] | {"seed": 1},
            "network": told["network"],
            "training": {
                "steps": 120,
                "balance_outputs": False,
                "phases": [{"until": 1.0, "cost_strength": told.get("strength", 0.003)}],
                "cost": told.get("cost", {}),
                "log_every": 40,
                "snapshot_every": None,
                "relocation": {
                    "method": "greedy",
                    "relocate_every": 40,
                    "relocation_candidates": 4,
                    "carry_moments": False,
                    "final_restarts": 0,
                },
            },
        }
    ).expanded()


def oracle_of(spec: Spec, dataset: Dataset) -> Oracle:
    generator = torch_generator(0, "network")
    network = build_network(spec.network, dataset, precision="float64", generator=generator)
    return Oracle(network, dataset, spec.training)


@pytest.mark.parametrize("name", SPECS)
def test_the_engine_takes_the_path_of_the_textbook(name: str) -> None:
    spec = spec_of(name)
    dataset = make_dataset(spec.dataset, seed=0)
    oracle, engine = oracle_of(spec, dataset), Training.begin(spec, dataset, seed=0)
    taken = 0
    for update in engine.updates():
        for _ in range(update.step - taken):
            oracle.step(spec.training.phases[0].cost_strength)
        taken = update.step
        if update.step and update.step % 40 == 0:
            oracle.relocate(4)
        if update.row is not None:
            assert update.row["connection_cost"] == pytest.approx(oracle.cost().item(), rel=1e-9)
    assert taken == 120
    for layer, order in engine.network.orders.items():
        assert torch.equal(order, oracle.network.orders[layer]), layer
    for ours, theirs in zip(engine.network.parameters(), oracle.network.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("name", SPECS)
def test_a_textbook_pass_changes_no_answer_and_shortens_the_wiring(name: str) -> None:
    spec = spec_of(name)
    dataset = make_dataset(spec.dataset, seed=0)
    oracle = oracle_of(spec, dataset)
    inputs = oracle.test[0]
    with torch.no_grad():
        answers, cost = oracle.network(inputs), oracle.cost().item()
        assert oracle.relocate(5) > 0
        torch.testing.assert_close(oracle.network(inputs), answers, rtol=1e-12, atol=1e-12)
        assert oracle.cost().item() < cost


def test_an_exchange_made_twice_leaves_no_trace() -> None:
    spec = spec_of("tokens")
    oracle = oracle_of(spec, make_dataset(spec.dataset, seed=0))
    before = copy.deepcopy(oracle.network.state_dict())
    for layer in oracle.network.wiring.neuron_layers:
        oracle.exchange(layer, 0, 2)
        oracle.exchange(layer, 0, 2)
    after = oracle.network.state_dict()
    assert all(np.array_equal(before[name], after[name]) for name in before)
