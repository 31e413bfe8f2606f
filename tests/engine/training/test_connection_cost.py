"""The price vector against the cost as a textbook would write it."""

from __future__ import annotations

import pytest
import torch

from bimt_engine.spec import CostSpec
from bimt_engine.training.connection_cost import connection_cost, flat_prices, prices, shapes_of
from bimt_engine.training.state import TrainingState
from tests.engine.makers import build


def textbook_cost(network, cost: CostSpec, *, bias_cost: bool) -> float:
    """One connection after another, from the positions of its two neurons."""
    wiring, parameters = network.wiring, {name: p.detach() for name, p in network.named_parameters()}
    total = 0.0

    def share(parameter) -> float:
        return 1.0 if cost.reduction == "sum" else 1.0 / parameter.numel()

    for number, weights in enumerate(wiring.weight_layers):
        matrix = parameters[weights.parameter]
        source, target = wiring.layer(weights.source), wiring.layer(weights.target)
        last = number == len(wiring.weight_layers) - 1
        locality = 0.0 if last and not cost.last_layer_locality else cost.locality
        for row in range(matrix.shape[0]):
            for column in range(matrix.shape[1]):
                here = target.positions[row % target.neurons]
                there = source.positions[column % source.neurons]
                length = float((here - there).abs().sum())
                paid = locality * length + cost.layer_spacing
                total += float(matrix[row, column].abs()) * paid * share(matrix)
        if bias_cost and weights.bias is not None:
            bias = parameters[weights.bias]
            total += cost.layer_spacing * float(bias.abs().sum()) * share(bias)
    for name in (*wiring.embeddings, *wiring.offsets):
        total += cost.layer_spacing * float(parameters[name].abs().sum()) * share(parameters[name])
    return total


@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("bias_cost", [False, True])
@pytest.mark.parametrize("last", [False, True])
def test_the_price_vector_agrees_with_the_textbook(
    architecture: str, reduction: str, bias_cost: bool, last: bool
) -> None:
    network, _ = build(architecture)
    state = TrainingState.of(network)
    cost = CostSpec(locality=1.7, layer_spacing=0.3, reduction=reduction, last_layer_locality=last)
    priced = prices(network.wiring, shapes_of(state.layout), cost, bias_cost=bias_cost)
    found = connection_cost(state.theta, flat_prices(state.layout, priced, dtype=torch.float64))
    assert float(found[0]) == pytest.approx(textbook_cost(network, cost, bias_cost=bias_cost), rel=1e-12)


def test_judging_by_another_locality_changes_length_alone(architecture: str) -> None:
    network, _ = build(architecture)
    shapes = {name: parameter.shape for name, parameter in network.named_parameters()}
    judged = prices(network.wiring, shapes, CostSpec(locality=0.5), bias_cost=False, locality=2.0)
    trained = prices(network.wiring, shapes, CostSpec(locality=2.0), bias_cost=False)
    for name in shapes:
        assert torch.equal(judged[name], trained[name])
