"""From a pruned network to its graph: who is left, where it sits, what it is called, what it does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from bimt_engine.analysis.activity import activation_statistics
from bimt_engine.analysis.graph import Connection, Graph, Neuron
from bimt_engine.analysis.paths import Masks, by_neuron, copies
from bimt_engine.analysis.plain_mlp import Array, Values
from bimt_engine.analysis.subject import Subject


def neuron_id(layer: str, slot: int) -> str:
    """The name of a place: hidden1:7."""
    return f"{layer}:{slot}"


def extract_graph(
    subject: Subject,
    values: Values,
    masks: Masks,
    *,
    effects: Mapping[tuple[str, int, int], float] | None = None,
    meta: Mapping[str, Any] | None = None,
) -> Graph:
    """The graph of the kept connections.

    Every input and output stands in it, read or not; of the neurons between, those that a connection touches.
    effects   (parameter, row, column) -> what the loss gains without that connection.
    """
    wiring = subject.wiring
    touched = touched_places(subject, masks)
    statistics = activation_statistics(subject, values)
    neurons, layers = [], []
    for depth, layer in enumerate(wiring.neuron_layers):
        places = layer.neurons * copies(wiring, layer.name)
        at_an_end = layer is wiring.input_layer or layer is wiring.output_layer
        order = subject.network.orders[layer.name].cpu().numpy()
        positions = layer.positions.double().numpy()
        bias = _bias_of(subject, values, layer.name)
        mean, std = statistics[layer.name]
        layers.append({"name": layer.name, "neurons": places, "depth": depth})
        for slot in range(places):
            if not (at_an_end or touched[layer.name][slot]):
                continue
            copy, within = divmod(slot, layer.neurons)
            neurons.append(
                Neuron(
                    id=neuron_id(layer.name, slot),
                    layer=layer.name,
                    slot=slot,
                    neuron=int(order[within]),
                    position=tuple(float(x) for x in positions[within]),
                    name=_name(subject, layer.name, int(order[within]), copy),
                    bias=None if bias is None else float(bias[within]),
                    mean=float(mean[slot]),
                    std=float(std[slot]),
                    copy=copy,
                )
            )
    described = {
        "layers": layers,
        "inputs": list(subject.dataset.feature_names),
        "outputs": list(subject.dataset.target_names),
        "task": subject.dataset.task,
    }
    return Graph(tuple(neurons), _connections(subject, values, masks, effects or {}), described | dict(meta or {}))


def touched_places(subject: Subject, masks: Masks) -> dict[str, Array]:
    """Per neuron layer: the places that a kept connection leaves or enters."""
    wiring = subject.wiring
    touched = {n.name: np.zeros(n.neurons * copies(wiring, n.name), bool) for n in wiring.neuron_layers}
    for weights in wiring.weight_layers:
        mask = by_neuron(masks[weights.parameter], weights, wiring)
        touched[weights.target] |= mask.any(axis=1)
        touched[weights.source] |= mask.any(axis=0)
    return touched


def _connections(
    subject: Subject, values: Values, masks: Masks, effects: Mapping[tuple[str, int, int], float]
) -> tuple[Connection, ...]:
    wiring = subject.wiring
    found = []
    for weights in wiring.weight_layers:
        name = weights.parameter
        lengths = wiring.lengths(weights).numpy()
        targets = wiring.layer(weights.target).neurons
        sources = wiring.layer(weights.source).neurons * copies(wiring, weights.source)
        for row, column in zip(*np.nonzero(masks[name]), strict=True):
            found.append(
                Connection(
                    source=neuron_id(weights.source, int(column) % sources),
                    target=neuron_id(weights.target, int(row) % targets),
                    weight=float(values[name][row, column]),
                    length=float(lengths[row, column]),
                    effect=effects.get((name, int(row), int(column))),
                    parameter=name,
                    row=int(row),
                    column=int(column),
                )
            )
    return tuple(found)


def _bias_of(subject: Subject, values: Values, layer: str) -> Array | None:
    """The bias of a layer's neurons, where one weight layer brings exactly one for each."""
    names = [w.bias for w in subject.wiring.into(layer) if w.bias is not None]
    if len(names) == 1 and values[names[0]].size == subject.wiring.layer(layer).neurons:
        return values[names[0]].reshape(-1)
    return None


def _name(subject: Subject, layer: str, neuron: int, copy: int) -> str:
    wiring, dataset = subject.wiring, subject.dataset
    if layer == wiring.input_layer.name:
        if dataset.tokens is not None:
            return f"{dataset.feature_names[copy]}[{neuron}]"  # one coordinate of a token's vector
        return dataset.feature_names[neuron] if neuron < len(dataset.feature_names) else ""
    if layer == wiring.output_layer.name and neuron < len(dataset.target_names):
        return dataset.target_names[neuron]
    return ""
