"""Pruning while training: exactly as many connections as asked for, the weakest first, and for good."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest
import torch

from bimt_engine.errors import SpecError
from bimt_engine.networks.network import Network
from bimt_engine.spec import Phase, PruningSpec, RelocationSpec
from bimt_engine.training.backends import STEPPERS
from bimt_engine.training.loop import Training
from tests.engine.makers import spec_for

QUICK = {
    "steps": 60,
    "log_every": 10,
    "snapshot_every": None,
    "relocation": RelocationSpec(relocate_every=15, final_restarts=2),
    "pruning": PruningSpec(connections=20, begin=0.2, end=0.6, prune_every=5),
}


def connections(network: Network) -> int:
    parameters = dict(network.named_parameters())
    return sum(int(torch.count_nonzero(parameters[w.parameter])) for w in network.wiring.weight_layers)


@pytest.mark.parametrize("stepper", list(STEPPERS))
def test_as_many_connections_are_left_as_were_asked_for(architecture: str, stepper: str) -> None:
    spec, data = spec_for(architecture, **QUICK, stepper=stepper)
    if "shallow" in architecture:
        spec = spec.model_copy(
            update={"training": spec.training.model_copy(update={"pruning": PruningSpec(connections=7)})}
        )
    training = Training.begin(spec, data, seed=0)
    if training.stepper_name != stepper:
        pytest.skip(f"the {stepper} stepper does not take a {architecture} here")
    asked = spec.training.pruning
    assert asked is not None
    seen = {update.step: connections(training.network) for update in training.updates()}
    assert seen[60] == asked.connections
    assert all(count == asked.connections for step, count in seen.items() if step >= 36)
    assert all(count > asked.connections for step, count in seen.items() if step < 25)


def test_what_has_gone_does_not_come_back_and_fewer_go_each_time() -> None:
    spec, data = spec_for("mlp", **{**QUICK, "relocation": RelocationSpec(relocate_every=None)})
    training = Training.begin(spec, data, seed=0)
    left, gone = [], torch.zeros_like(training.state.theta, dtype=torch.bool)
    for _ in training.updates():
        mask = training.state.mask
        if mask is not None:
            assert not (mask & gone).any()
            assert (training.state.theta[~mask] == 0).all()
            gone = ~mask
            left.append(int(mask.sum()))
    steps = -np.diff(sorted(set(left), reverse=True))
    assert len(steps) >= 3
    assert (np.diff(steps) <= 0).all()


def test_the_weakest_go_first() -> None:
    """Against the definition, worked out by hand for a perceptron: |w| · std of the source's activation."""
    spec, data = spec_for("mlp", **QUICK)
    training = Training.begin(spec, data, seed=0)
    network = copy.deepcopy(training.network)
    training.pruning.prune(0.5)
    left = training.pruning.left(0.5)
    activation, by_hand = torch.as_tensor(data.train_inputs), []
    for number, (weight, bias) in enumerate(zip(network.weights, network.biases, strict=True)):
        by_hand.append((weight.detach().abs() * activation.std(0, correction=0)).flatten())
        activation = activation @ weight.T + bias
        activation = torch.nn.functional.silu(activation).detach() if number < 2 else activation
    kept = torch.cat(by_hand).argsort(descending=True)[:left]
    mask = training.state.mask[0, training.pruning.entries]
    assert sorted(mask.nonzero().flatten().tolist()) == sorted(kept.tolist())
    assert left == 20 + round(53 / 8)


def test_a_connection_that_carries_nothing_goes_before_all_others() -> None:
    spec, data = spec_for("mlp", **QUICK)
    inputs = data.train_inputs.copy()
    inputs[:, 2] = 0.7
    training = Training.begin(spec, dataclasses.replace(data, train_inputs=inputs), seed=0)
    training.pruning.prune(1 - (46 / 53) ** (1 / 3))  # seven go
    assert (training.network.weights[0][:, 2] == 0).all()
    assert connections(training.network) == 66
    training.pruning.prune(1 - (45 / 53) ** (1 / 3))  # one more; what has gone counts
    assert connections(training.network) == 65


def test_more_connections_than_there_are_cannot_be_kept() -> None:
    spec, data = spec_for("mlp", **{**QUICK, "pruning": PruningSpec(connections=73)})  # 4·7 + 7·5 + 5·2 = 73
    with pytest.raises(SpecError, match="73 connections"):
        Training.begin(spec, data, seed=0)


@pytest.mark.parametrize("stepper", list(STEPPERS))
def test_a_phase_may_have_a_learning_rate_of_its_own(stepper: str) -> None:
    phases = [Phase(until=0.5, cost_strength=0.0), Phase(until=1.0, cost_strength=0.0, learning_rate=3e-4)]
    still = RelocationSpec(relocate_every=None)
    spec, data = spec_for("mlp", steps=60, phases=phases, relocation=still, stepper=stepper)
    training = Training.begin(spec, data, seed=0)
    if training.stepper_name != stepper:
        pytest.skip(f"the {stepper} stepper is not there")
    reference = Training.begin(spec, data, seed=0).network
    optimiser = torch.optim.AdamW(reference.parameters(), lr=2e-3, weight_decay=0.0)
    inputs, targets = torch.as_tensor(data.train_inputs), torch.as_tensor(data.train_targets)
    for step in range(60):
        optimiser.param_groups[0]["lr"] = 2e-3 if step < 30 else 3e-4
        optimiser.zero_grad()
        torch.nn.functional.mse_loss(reference(inputs), targets).backward()
        optimiser.step()
    for _ in training.updates():
        pass
    for ours, theirs in zip(training.network.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(ours.detach(), theirs.detach(), rtol=1e-9, atol=1e-12)
