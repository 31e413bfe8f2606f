"""The wiring that is derived from a built-in network's graph is the one that the network declares."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from bimt_engine.networks.attach import attach
from bimt_engine.networks.wiring import Wiring
from bimt_engine.training.connection_cost import prices
from tests.engine.makers import build


def described(wiring: Wiring) -> tuple[dict[Any, Any], set[Any], Any]:
    """A wiring without the names of its layers, which are the architecture's to choose."""
    key = {
        layer.name: frozenset(
            (p.parameter, p.axis, p.copies, p.buffer) for p in layer.ports if not p.parameter.startswith("order_")
        )
        for layer in wiring.neuron_layers
    }
    layers = {
        key[layer.name]: (layer.blocks, layer.axis, layer.samples, layer.copies, layer.mixes, layer.moves, layer.tied)
        for layer in wiring.neuron_layers
    }
    weights = {
        (w.parameter, key[w.source], key[w.target], w.source_copies, w.target_copies, w.bias)
        for w in wiring.weight_layers
    }
    return layers, weights, wiring.embeddings


def declared_wiring(architecture: str, network: Any) -> Wiring:
    """What `attach` can see of the declared wiring: all but neurons for tokens, which are rows of a table to it."""
    wiring: Wiring = network.wiring
    if architecture != "text transformer":
        return wiring
    tokens, stream, *layers = wiring.neuron_layers
    assert [port.parameter for port in tokens.ports] == ["read_in.weight"]
    (read_in,) = [weight for weight in wiring.weight_layers if weight.source == tokens.name]
    weights = [
        replace(weight, **{end: "input" for end in ("source", "target") if getattr(weight, end) == stream.name})
        for weight in wiring.weight_layers
        if weight is not read_in
    ]
    first = replace(stream, name="input")  # the first layer of a wiring has this name
    return replace(wiring, neuron_layers=(first, *layers), weight_layers=tuple(weights))


def test_derived_is_declared(architecture: str) -> None:
    network, data = build(architecture)
    x = torch.as_tensor(data.train_inputs[:5])
    net = attach(network.double(), x if data.tokens else x.double())
    wiring = declared_wiring(architecture, network)
    assert described(net.wiring) == described(wiring)
    # The order of the outputs is computed (argsort), so they stay; all that is hidden moves as declared.
    for one, other in zip(net.wiring.hidden_layers, network.wiring.hidden_layers, strict=True):
        assert one.movable == other.movable
    assert [w.parameter for w in net.wiring.weight_layers] == [w.parameter for w in wiring.weight_layers]


def test_the_cost_is_the_engines(architecture: str) -> None:
    network, data = build(architecture)
    x = torch.as_tensor(data.train_inputs[:5])
    net = attach(network.double(), x if data.tokens else x.double())
    parameters = dict(network.named_parameters())
    declared = declared_wiring(architecture, network)
    placed = tuple(
        replace(layer, positions=derived.positions)
        for layer, derived in zip(declared.neuron_layers, net.wiring.neuron_layers, strict=True)
    )
    # Positions that are added to the stream pay in the engine; to `attach` they are no weight, as those of any module.
    wiring = replace(declared, neuron_layers=placed, offsets=())
    priced = prices(wiring, {name: p.shape for name, p in parameters.items()}, net.cost_spec, bias_cost=True)
    expected = sum((priced[name] * p.abs()).sum() for name, p in parameters.items())
    torch.testing.assert_close(net.cost(), expected)
