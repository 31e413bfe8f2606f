"""Connected components of the kept connections: which inputs and outputs hang together."""

from __future__ import annotations

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from bimt_engine.analysis.paths import Masks, by_neuron, copies
from bimt_engine.networks.wiring import Wiring


def component_labels(wiring: Wiring, masks: Masks) -> dict[str, np.ndarray]:
    """Per neuron layer, the number of each place's component, counted from 0; -1 for a place with no connection."""
    offsets, total = {}, 0
    for layer in wiring.neuron_layers:
        offsets[layer.name] = total
        total += layer.neurons * copies(wiring, layer.name)
    rows, columns = [], []
    for weights in wiring.weight_layers:
        target, source = np.nonzero(by_neuron(masks[weights.parameter], weights, wiring))
        rows.append(target + offsets[weights.target])
        columns.append(source + offsets[weights.source])
        if weights.target_fold > 1 and len(target):  # attention: the neurons of a block act on one another
            layer = wiring.layer(weights.target)
            used = np.unique(target)
            block = used // (layer.neurons // layer.blocks)
            first = np.array([used[block == b][0] for b in block])
            rows.append(used + offsets[layer.name])
            columns.append(first + offsets[layer.name])
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
