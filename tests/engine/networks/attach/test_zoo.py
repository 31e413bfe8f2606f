"""Every module of the zoo is attached, proven, trained with the cost, relocated, pruned and examined.

What it computes is what it did all along, but for what pruning takes away.
"""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from bimt_engine.analysis.attached import evidence_of, sample_of
from bimt_engine.networks.attach import Attached, AttachError, attach
from bimt_engine.networks.attach.traced import network_of
from bimt_engine.networks.attach.views import permuted
from bimt_engine.spec import EvidenceSpec
from tests.engine.networks.attach.zoo import ZOO, made

IN_PART = {
    "grouped convolution": {"layer_0": "blocks", "layer_2": "all"},
    "group norm": {"conv1": "all"},
    "encoder layer": {"encoder_self_attn": "all"},
    "encoder layer, norm first": {"encoder_self_attn": "all"},
    "gpt": {"block_c_attn": "all"},
    "llama": {"q_proj": "blocks"},
    "fused llama": {"qkv": "blocks"},
}
"""Layers with blocks: what of them moves."""
PINNED = {
    "llama": {"q_proj": "`arange` in the network itself", "embed.weight axis 0": "`embedding` in embed"},
    "gpt": {"output": "`embedding` in wte", "wpe.weight axis 0": "`embedding` in wpe"},
    "grouped convolution": {"layer_0": "neurons of several blocks share one entry"},
}
UNSEEN = {"two directions": "No activation", "tied autoencoder": "outputs are its inputs"}
"""Modules that have a cost and are relocated, but whose activations are not all seen."""

HIDDEN = {
    "perceptron": [7, 6], "residual cnn": [5, 5, 6, 6], "depthwise separable": [6, 5], "grouped convolution": [6, 9, 5],
    "group norm": [6, 5], "gru": [6], "lstm and layer norm": [6], "two directions": [5, 5, 5, 5], "gru by hand": [5],
    "encoder layer": [8, 8, 12], "encoder layer, norm first": [8, 8, 12], "gpt": [8, 32], "llama": [8, 10],
    "fused llama": [8, 9], "raw parameters": [9, 6], "weight norm": [7, 5], "shared twice": [7],
    "tied autoencoder": [5], "concatenated": [5, 6], "scikit-learn": [7, 5],
}  # fmt: skip
"""Neurons of each hidden layer, all of which move; of `two directions` a layer for each direction."""
QUICK = EvidenceSpec(tolerance=0.3, refit_evaluations=2, random_groups=0, formula_searches=0)

each = pytest.mark.parametrize("name", ZOO)


def without_dropout(model: nn.Module) -> nn.Module:
    """Dropout falls on positions, not on neurons, so trajectories with it differ by what was drawn."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        elif isinstance(module, nn.MultiheadAttention):
            module.dropout = 0.0
    return model


def outputs_and_gradients(model: nn.Module, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    model.eval()
    model.zero_grad()
    y = model(x)
    y.sin().sum().backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.train()
    return y.detach(), gradients


def train(
    net: Attached | nn.Module, optimiser: torch.optim.Optimizer, x: Tensor, *, steps: int, strength: float = 0.0
) -> list[Tensor]:
    """Some steps; the outputs before each."""
    seen = []
    model = net.model if isinstance(net, Attached) else net
    for _ in range(steps):
        optimiser.zero_grad()
        y = model(x)
        loss = (y.sin() - 0.3).square().mean()
        (loss + strength * net.cost() if isinstance(net, Attached) else loss).backward()
        optimiser.step()
        seen.append(y.detach())
    return seen


@each
def test_it_is_proven_trained_with_the_cost_relocated_and_known_to_the_engine(name: str) -> None:
    model, x = made(name)
    net = attach(model, x)
    assert_what_moves(net, name)
    start = copy.deepcopy(model.state_dict())
    assert_a_trajectory_without_cost_is_the_same_with_relocation(net, x)
    model.load_state_dict(start)
    net.orders = {layer: torch.arange(len(order)) for layer, order in net.orders.items()}
    assert_relocation_changes_nothing(net, x)
    if name not in UNSEEN:
        assert_the_engine_computes_the_same(net, x)
        assert_it_is_pruned_and_examined(net, x)
    else:
        with pytest.raises(AttachError, match=UNSEEN[name]):
            network_of(net)


def assert_what_moves(net: Attached, name: str) -> None:
    """The proof held; every hidden layer moves; what is pinned says why."""
    assert not [pinned for pinned in net.pinned if "proof" in pinned.reason]
    assert net.notes == ()
    hidden = net.wiring.neuron_layers[1:-1]
    assert all(layer.movable for layer in hidden)
    assert [layer.neurons for layer in hidden] == HIDDEN[name]
    assert {layer.name: layer.moves for layer in hidden if layer.blocks > 1} == IN_PART.get(name, {})
    reasons = {pinned.what: pinned.reason for pinned in reversed(net.pinned)}
    for what, reason in PINNED.get(name, {}).items():
        assert reason in reasons[what]
    for what in reasons:
        assert what in net.summary()


def assert_relocation_changes_nothing(net: Attached, x: Tensor) -> None:
    """After some steps of AdamW: outputs and gradients stay, the cost falls, and a second time nothing is gained."""
    model = net.model
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2)
    torch.manual_seed(0)
    first = net.cost().item()
    train(net, optimiser, x, steps=3, strength=1e-3)
    assert net.cost().item() != first
    y, gradients = outputs_and_gradients(model, x)
    moments = {
        name: optimiser.state[p]["exp_avg"].clone() for name, p in model.named_parameters() if p in optimiser.state
    }
    cost = net.cost().item()
    saved = net.relocate(optimiser)
    assert saved > 0
    assert net.cost().item() == pytest.approx(cost - saved, rel=1e-9)
    assert any((order != torch.arange(len(order))).any() for order in net.orders.values())
    y2, gradients2 = outputs_and_gradients(model, x)
    torch.testing.assert_close(y2, y, rtol=0, atol=1e-10)
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    axes = net.views.axis_orders(net.orders, shapes)
    for parameter, gradient in gradients.items():
        moved = permuted(gradient, axes.get(parameter, {}))
        torch.testing.assert_close(gradients2[parameter], moved, rtol=0, atol=1e-10)
    for parameter, moment in moments.items():
        now = optimiser.state[model.get_parameter(parameter)]["exp_avg"]
        torch.testing.assert_close(now, permuted(moment, axes.get(parameter, {})), rtol=0, atol=0)
    assert net.relocate(optimiser) == pytest.approx(0.0, abs=1e-9 * cost)


def assert_the_engine_computes_the_same(net: Attached, x: Tensor) -> None:
    """The network of the engine gives the module's outputs, and activations as its wiring says."""
    network = network_of(net)
    more = torch.cat((x, x.flip(0)))
    y, seen = network.forward_with_hooks(more)
    torch.testing.assert_close(y, net.model.eval()(more), rtol=0, atol=1e-12)
    for layer in network.wiring.neuron_layers:
        places = layer.to_places(seen[layer.name])
        assert places.shape[0] == len(more)
        assert places.shape[-1] == layer.places
        torch.testing.assert_close(layer.from_places(places), seen[layer.name])
    silenced, _ = network.forward_with_hooks(more, lambda name, a: torch.zeros_like(a) if name != "output" else a)
    assert not torch.allclose(silenced, y)


def assert_it_is_pruned_and_examined(net: Attached, x: Tensor) -> None:
    """On what it says itself of some inputs: connections go, the rest still answers, and every analysis has its say."""
    start = {key: value.clone() for key, value in net.model.state_dict().items()}
    more = torch.cat([x.flip(0), x] + ([x + 0.3, x - 0.3] if x.is_floating_point() else [])).clone()
    with torch.no_grad():
        y = net.model.eval()(more)
    classes = not x.is_floating_point()
    rows = TensorDataset(more, y.argmax(-1) if classes else y)
    data = sample_of(net, train=rows, test=rows)
    evidence = evidence_of(net, data, evidence=QUICK, nulls=0)
    metrics = evidence.metrics
    assert 0 < metrics["connections"] < metrics["trained_connections"]
    if classes:
        assert metrics["trained_test_accuracy"] == 1.0
    else:
        assert metrics["trained_test_prediction_loss"] < 1e-20
    assert metrics["validation_prediction_loss"] <= metrics["validation_prediction_loss_limit"] * (1 + 1e-9)
    assert metrics["connections"] == len(evidence.graph.connections)
    assert evidence.modules
    assert all(module["outputs"] for module in evidence.modules)
    assert np.isfinite(np.array(evidence.effects["matrices"]["mean"])).all()
    json.dumps(evidence.document(), allow_nan=False)
    assert all(torch.equal(value, start[key]) for key, value in net.model.state_dict().items())


def assert_a_trajectory_without_cost_is_the_same_with_relocation(net: Attached, x: Tensor) -> None:
    """Seven steps of SGD with momentum at cost strength 0, one with a relocation on the way."""
    without_dropout(net.model)
    runs = []
    for model in (copy.deepcopy(net.model), net.model):
        optimiser = torch.optim.SGD(model.parameters(), lr=1e-2, momentum=0.9)
        seen = train(model, optimiser, x, steps=3)
        if model is net.model:
            assert net.relocate(optimiser) > 0
        runs.append(seen + train(model, optimiser, x, steps=4))
    for one, other in zip(*runs, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-10)
