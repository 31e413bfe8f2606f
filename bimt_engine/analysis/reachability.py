"""What the kept connections reach: paths from inputs to outputs, dead ends, and connected components.

All of it is read off the wiring; a place is a neuron, or one copy of it where its layer declares copies.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from jaxtyping import Bool, Int, Shaped
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from bimt_engine.analysis.evaluator import Array, Masks
from bimt_engine.networks.wiring import WeightLayer, Wiring

Reached = dict[str, Bool[np.ndarray, " places"]]
"""neuron layer -> bool for each place."""


def full_masks(wiring: Wiring, values: Mapping[str, Array]) -> Masks:
    """Everything kept: one mask for each weight layer."""
    return {w.parameter: np.ones(values[w.parameter].shape, bool) for w in wiring.weight_layers}


def by_neuron(
    mask: Bool[np.ndarray, "rows columns"], weights: WeightLayer, wiring: Wiring
) -> Bool[np.ndarray, "targets sources"]:
    """A weight mask by neuron and source place: copies of one neuron (query, key, value; kernel taps) are merged."""
    merged = np.asarray(mask.reshape(weights.target_copies, -1, mask.shape[1]).any(axis=0))
    apart = wiring.layer(weights.source).copies
    if apart == 1 and weights.source_copies > 1:
        merged = np.asarray(merged.reshape(merged.shape[0], weights.source_copies, -1).any(axis=1))
    return merged


def by_column(of_places: Shaped[np.ndarray, " places"], columns: int) -> Shaped[np.ndarray, " {columns}"]:
    """A value of each source place -> of each column of a weight layer; copies that are no places repeat."""
    return np.tile(of_places, columns // of_places.size)


def reached_from_inputs(wiring: Wiring, masks: Masks) -> Reached:
    """Per neuron layer: which places an input reaches over kept connections. Residual and recurrent loops included."""
    reached = {layer.name: np.full(layer.places, layer is wiring.input_layer) for layer in wiring.neuron_layers}
    merged = [(w, by_neuron(masks[w.parameter], w, wiring)) for w in wiring.weight_layers]
    changed = True
    while changed:
        changed = False
        for weights, mask in merged:
            new = reached[weights.target] | (mask & reached[weights.source]).any(axis=1)
            changed |= bool((new != reached[weights.target]).any())
            reached[weights.target] = new
    return reached


def reaching_outputs(wiring: Wiring, masks: Masks) -> Reached:
    """Per neuron layer: from which places an output can be reached over kept connections.

    In a layer that mixes (attention), all neurons of a block act on one another through the scores, so a block with one
    such neuron counts as a whole.
    """
    reaching = {layer.name: np.full(layer.places, layer is wiring.output_layer) for layer in wiring.neuron_layers}
    merged = [(w, by_neuron(masks[w.parameter], w, wiring)) for w in wiring.weight_layers]
    changed = True
    while changed:
        changed = False
        for weights, mask in reversed(merged):
            downstream = reaching[weights.target]
            if wiring.layer(weights.target).mixes:
                blocks = wiring.layer(weights.target).blocks
                downstream = np.repeat(downstream.reshape(blocks, -1).any(axis=1), downstream.size // blocks)
                reaching[weights.target] = downstream
            new = reaching[weights.source] | (mask & downstream[:, None]).any(axis=0)
            changed |= bool((new != reaching[weights.source]).any())
            reaching[weights.source] = new
    return reaching


def drop_dead_ends(wiring: Wiring, masks: Masks) -> Masks:
    """The same masks without connections that lie on no path from an input to an output."""
    ahead, behind = reached_from_inputs(wiring, masks), reaching_outputs(wiring, masks)
    trimmed = dict(masks)
    for weights in wiring.weight_layers:
        rows = np.tile(ahead[weights.target] & behind[weights.target], weights.target_copies)
        live = ahead[weights.source] & behind[weights.source]
        columns = by_column(live, masks[weights.parameter].shape[1])
        trimmed[weights.parameter] = masks[weights.parameter] & rows[:, None] & columns
    return trimmed


def touched_places(wiring: Wiring, masks: Masks) -> Reached:
    """Per neuron layer: the places that a kept connection leaves or enters; of a run of slots, all or none."""
    touched = {layer.name: np.zeros(layer.places, bool) for layer in wiring.neuron_layers}
    for weights in wiring.weight_layers:
        mask = by_neuron(masks[weights.parameter], weights, wiring)
        touched[weights.target] |= mask.any(axis=1)
        touched[weights.source] |= mask.any(axis=0)
    return {name: wiring.layer(name).whole_runs(places) for name, places in touched.items()}


def component_labels(wiring: Wiring, masks: Masks) -> dict[str, Int[np.ndarray, " places"]]:
    """Per neuron layer, the number of each place's component, counted from 0; -1 for a place with no connection.

    The slots of a run, which stand for one thing, are in one component.
    """
    offsets, total = {}, 0
    for layer in wiring.neuron_layers:
        offsets[layer.name] = total
        total += layer.places
    rows, columns = [], []
    for weights in wiring.weight_layers:
        target, source = np.nonzero(by_neuron(masks[weights.parameter], weights, wiring))
        rows.append(target + offsets[weights.target])
        columns.append(source + offsets[weights.source])
        layer = wiring.layer(weights.target)
        if layer.mixes and len(target):
            used = np.unique(target)
            block = used // (layer.neurons // layer.blocks)
            first = np.array([used[block == b][0] for b in block])
            rows.append(used + offsets[layer.name])
            columns.append(first + offsets[layer.name])
    touched = touched_places(wiring, masks)
    for layer in wiring.neuron_layers:
        if layer.runs:
            used = np.flatnonzero(touched[layer.name])
            rows.append(used + offsets[layer.name])
            columns.append(layer.first_of_run[used] + offsets[layer.name])
    row, column = np.concatenate(rows), np.concatenate(columns)
    adjacency = coo_matrix((np.ones(len(row)), (row, column)), shape=(total, total))
    labels = connected_components(adjacency, directed=False)[1]
    joined = np.zeros(total, bool)
    joined[row] = joined[column] = True
    renumber = {old: new for new, old in enumerate(dict.fromkeys(labels[joined].tolist()))}
    labels = np.array([renumber[old] if there else -1 for old, there in zip(labels.tolist(), joined, strict=True)])
    ends = [*list(offsets.values())[1:], total]
    return {name: labels[start:end] for (name, start), end in zip(offsets.items(), ends, strict=True)}


def count_modules(wiring: Wiring, masks: Masks) -> int:
    """How many components hold an output."""
    labels = component_labels(wiring, masks)[wiring.output_layer.name]
    return len(set(labels[labels >= 0].tolist()))
