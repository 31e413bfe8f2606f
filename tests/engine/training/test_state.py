"""The flat vector and the named parameters are one memory."""

from __future__ import annotations

import torch

from bimt_engine.training.state import TrainingState
from tests.engine.makers import build


def test_parameters_are_views_of_the_flat_vector(architecture: str) -> None:
    network, _ = build(architecture)
    before = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
    state = TrainingState.of(network)
    assert state.size == sum(parameter.numel() for parameter in before.values())
    for name, view in state.views(state.theta[0]).items():
        assert torch.equal(view, before[name])
    state.theta += 1
    for name, parameter in network.named_parameters():
        assert torch.equal(parameter.detach(), before[name] + 1)
        assert torch.equal(state.theta[0, state.place(name).slice].view(parameter.shape), parameter.detach())


def test_orders_are_views_too_and_no_optimiser_sees_them(architecture: str) -> None:
    network, _ = build(architecture)
    state = TrainingState.of(network)
    state.orders["output"][0] = state.orders["output"][0].flip(0)
    assert torch.equal(network.output_order, state.orders["output"][0])
    assert all(order.dtype == torch.int64 and not order.requires_grad for order in network.orders.values())
    assert not any("order" in name for name, _ in network.named_parameters())


def test_showing_a_replica_is_for_a_while() -> None:
    networks = [build("mlp", seed=seed)[0] for seed in range(2)]
    weights = [network.weights[0].detach().clone() for network in networks]
    state = TrainingState.of(networks)
    with state.showing(1) as network:
        assert torch.equal(network.weights[0].detach(), weights[1])
    assert torch.equal(state.network.weights[0].detach(), weights[0])


def test_masked_weights_and_their_moments_become_zero() -> None:
    state = TrainingState.of(build("mlp")[0])
    state.first_moment += 1
    state.mask = torch.rand(state.theta.shape, generator=torch.Generator().manual_seed(0)) > 0.5
    state.apply_mask()
    assert (state.theta[~state.mask] == 0).all()
    assert (state.first_moment[~state.mask] == 0).all()
    assert (state.first_moment[state.mask] == 1).all()


def test_the_state_dict_carries_the_orders() -> None:
    network, _ = build("mlp")
    TrainingState.of(network)
    assert {name for name in network.state_dict() if name.startswith("order_")} == {
        "order_input",
        "order_hidden1",
        "order_hidden2",
        "order_output",
    }
