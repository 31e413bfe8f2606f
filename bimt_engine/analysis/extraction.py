"""From a pruned network to its graph: the neurons left, their positions, names and activation statistics."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from bimt_engine.analysis.context import AnalysisContext
from bimt_engine.analysis.evaluator import Array, Masks, Values
from bimt_engine.analysis.graph import Connection, Graph, Neuron
from bimt_engine.analysis.reachability import touched_places


def neuron_id(layer: str, slot: int) -> str:
    """The name of a place: hidden1:7."""
    return f"{layer}:{slot}"


def place_name(context: AnalysisContext, layer: str, place: int) -> str:
    """How a place is called in sentences: the feature or target that it stands for, else hidden1:7."""
    neuron = int(context.network.orders[layer][place % context.wiring.layer(layer).neurons])
    return _name(context, layer, place, neuron) or neuron_id(layer, place)


def extract_graph(
    context: AnalysisContext,
    values: Values,
    masks: Masks,
    *,
    effects: Mapping[tuple[str, int, int], float] | None = None,
) -> Graph:
    """The graph of the kept connections.

    Every input and output stands in it, read or not; of the neurons between, those that a connection touches. A column
    of a table that became several inputs is one neuron, its weights connections of their own; which input each slot
    holds then stands under `columns`.
    effects   (parameter, row, column) -> what the loss gains without that connection.
    """
    wiring = context.wiring
    touched = touched_places(wiring, masks)
    statistics = context.evaluator.activation_statistics(values, context.train.inputs)
    neurons, layers = [], []
    for depth, layer in enumerate(wiring.neuron_layers):
        at_an_end = layer is wiring.input_layer or layer is wiring.output_layer
        order = context.network.orders[layer.name].cpu().numpy()
        positions = layer.positions.double().numpy()
        bias = _bias_of(context, values, layer.name)
        mean, std = statistics[layer.name]
        layers.append({"name": layer.name, "neurons": layer.places, "depth": depth})
        for slot in range(layer.places):
            if not (at_an_end or touched[layer.name][slot]) or layer.first_of_run[slot] != slot:
                continue
            run = np.flatnonzero(layer.first_of_run == slot)  # several inputs of one column are one neuron of the graph
            copy, within = divmod(slot, layer.neurons)
            neurons.append(
                Neuron(
                    id=neuron_id(layer.name, slot),
                    layer=layer.name,
                    slot=slot,
                    neuron=int(order[within]),
                    position=tuple(float(x) for x in positions[within]),
                    name=_name(context, layer.name, slot, int(order[within])),
                    bias=None if bias is None else float(bias[within]),
                    mean=float(mean[slot]),
                    std=float(std[slot]) if len(run) == 1 else float(np.sqrt((std[run] ** 2).sum())),
                    copy=copy,
                )
            )
    described: dict[str, Any] = {
        "layers": layers,
        "inputs": list(context.dataset.column_names),
        "outputs": list(context.dataset.target_names),
        "task": context.dataset.task,
    }
    if wiring.input_layer.runs:
        order = context.network.input_order.cpu().numpy()
        described["columns"] = [context.dataset.feature_names[int(i)] for i in order]
    if wiring.copy_roles:
        described["folds"] = wiring.copy_roles
    return Graph(tuple(neurons), _connections(context, values, masks, effects or {}), described)


def _connections(
    context: AnalysisContext, values: Values, masks: Masks, effects: Mapping[tuple[str, int, int], float]
) -> tuple[Connection, ...]:
    wiring = context.wiring
    found = []
    for weights in wiring.weight_layers:
        name = weights.parameter
        lengths = wiring.lengths(weights).numpy()
        targets = wiring.layer(weights.target).neurons
        sources = wiring.layer(weights.source).places
        first = wiring.layer(weights.source).first_of_run
        for row, column in zip(*np.nonzero(masks[name]), strict=True):
            found.append(
                Connection(
                    source=neuron_id(weights.source, int(first[int(column) % sources])),
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


def _bias_of(context: AnalysisContext, values: Values, layer: str) -> Array | None:
    """The bias of a layer's neurons, where one weight layer brings exactly one for each."""
    names = [w.bias for w in context.wiring.into(layer) if w.bias is not None]
    if len(names) == 1 and values[names[0]].size == context.wiring.layer(layer).neurons:
        return values[names[0]].reshape(-1)
    return None


def _name(context: AnalysisContext, layer: str, place: int, neuron: int) -> str:
    """The feature or target that a place at an end stands for; "" inside."""
    wiring, names = context.wiring, context.dataset.feature_names
    if layer == wiring.input_layer.name:
        features = context.features(place)
        if context.dataset.encoding is not None and len(features) == 1:
            return context.dataset.column_names[int(context.dataset.column_of[features[0]])]
        if context.dataset.tokens is not None:  # one coordinate of a token's vector
            return f"{names[features[0]] if len(features) == 1 else 'token'}[{neuron}]"
        return names[features[0]] if len(features) == 1 else f"{names[features[0]]} … {names[features[-1]]}"
    return context.dataset.target_names[neuron] if layer == wiring.output_layer.name else ""
