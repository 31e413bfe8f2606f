"""Relaying finds the shorter layout of a shuffled network, changes nothing that was handed in, and never lengthens."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from bimt_engine.analysis.wiring_efficiency import relayout
from bimt_engine.networks.mlp import MlpNetwork
from bimt_engine.networks.network import build_network
from tests.engine.makers import build, table_data


def wiring_by_hand(weights: list[np.ndarray]) -> float:
    """Σ |w| · |difference of the two places|, slot i of n at (i + ½) / n."""
    total = 0.0
    for matrix in weights:
        target, source = ((np.arange(n) + 0.5) / n for n in matrix.shape)
        total += float((np.abs(matrix) * np.abs(target[:, None] - source)).sum())
    return total


@pytest.mark.parametrize("seed", range(3))
def test_the_wiring_and_the_best_layout_are_those_of_trying_every_order(seed: int) -> None:
    data = table_data(3, 2)
    network = build_network(
        MlpNetwork(hidden=[5], move_inputs=False, move_outputs=False),
        data,
        precision="float64",
        generator=torch.Generator().manual_seed(seed),
    )
    first, second = (w.detach().numpy() for w in network.weights)
    found = relayout(network, seed=0)
    assert found.wiring == pytest.approx(wiring_by_hand([first, second]))
    orders = itertools.permutations(range(5))
    best = min(wiring_by_hand([first[list(order)], second[:, list(order)]]) for order in orders)
    assert found.relaid_wiring == pytest.approx(best)
    assert found.wiring_efficiency == pytest.approx(found.wiring / best)


def test_relaying_leaves_the_network_alone_and_is_equal_by_seed(architecture: str) -> None:
    network, _ = build(architecture)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    one, two = (relayout(network, seed=1, restarts=2) for _ in range(2))
    assert one == two
    assert one.relaid_wiring <= one.wiring
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_without_a_connection_there_is_no_efficiency() -> None:
    network, _ = build("mlp")
    with torch.no_grad():
        for weights in network.weights:
            weights.zero_()
    assert relayout(network, seed=0).document() == {"wiring": 0.0, "relaid_wiring": 0.0, "wiring_efficiency": None}
