"""Which neurons lie on a path from an input to an output, and what to do with those that do not."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from bimt_engine.analysis.plain_mlp import ACTIVATIONS, Array, Values
from bimt_engine.networks.wiring import WeightLayer, Wiring

Masks = dict[str, Array]


def copies(wiring: Wiring, layer: str) -> int:
    """How many places each neuron of a layer has: one for every token, in an input layer that is folded; else one.

    Folds on the target side (query, key, value) are three sets of connections into ONE neuron.
    """
    if wiring.into(layer):
        return 1
    return max((w.source_fold for w in wiring.out_of(layer)), default=1)


def full_masks(wiring: Wiring, values: Mapping[str, Array]) -> Masks:
    """Everything kept: one mask for each weight layer."""
    return {w.parameter: np.ones(values[w.parameter].shape, bool) for w in wiring.weight_layers}


def by_neuron(mask: Array, weights: WeightLayer, wiring: Wiring) -> Array:
    """A weight mask as (target neurons, source places): folds of one neuron are merged."""
    merged = np.asarray(mask.reshape(weights.target_fold, -1, mask.shape[1]).any(axis=0))
    if copies(wiring, weights.source) == 1 and weights.source_fold > 1:
        merged = np.asarray(merged.reshape(merged.shape[0], weights.source_fold, -1).any(axis=1))
    return merged


def reached_from_inputs(wiring: Wiring, masks: Masks) -> dict[str, Array]:
    """Per neuron layer: which places an input reaches over kept connections. Residual and recurrent loops included."""
    reached = {
        layer.name: np.full(layer.neurons * copies(wiring, layer.name), layer is wiring.input_layer)
        for layer in wiring.neuron_layers
    }
    merged = [(w, by_neuron(masks[w.parameter], w, wiring)) for w in wiring.weight_layers]
    changed = True
    while changed:
        changed = False
        for weights, mask in merged:
            new = reached[weights.target] | (mask & reached[weights.source]).any(axis=1)
            changed |= bool((new != reached[weights.target]).any())
            reached[weights.target] = new
    return reached


def reaching_outputs(wiring: Wiring, masks: Masks) -> dict[str, Array]:
    """Per neuron layer: from which places an output can be reached over kept connections.

    Where several folds enter one layer (attention), all neurons of a block act on one another through the scores, so
    a block with one such neuron counts as a whole.
    """
    reaching = {
        layer.name: np.full(layer.neurons * copies(wiring, layer.name), layer is wiring.output_layer)
        for layer in wiring.neuron_layers
    }
    merged = [(w, by_neuron(masks[w.parameter], w, wiring)) for w in wiring.weight_layers]
    changed = True
    while changed:
        changed = False
        for weights, mask in reversed(merged):
            downstream = reaching[weights.target]
            if weights.target_fold > 1:
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
        rows = np.tile(ahead[weights.target] & behind[weights.target], weights.target_fold)
        live = ahead[weights.source] & behind[weights.source]
        columns = live if live.size == masks[weights.parameter].shape[1] else np.tile(live, weights.source_fold)
        trimmed[weights.parameter] = masks[weights.parameter] & rows[:, None] & columns
    return trimmed


def settle_mlp(values: Values, masks: Masks, activation: str) -> tuple[Values, Masks]:
    """A perceptron without its dead ends: the answer is unchanged, the neurons off every path are gone.

    A neuron that no input reaches says the same thing always; what it says moves into the biases it feeds. A neuron
    that reaches no output is simply left out. Biases of neurons on a path, and of all outputs, are kept.
    """
    layers = sum(name.startswith("weights.") for name in values)
    act = ACTIVATIONS[activation]
    values, masks = dict(values), dict(masks)
    ahead: Array = np.ones(masks["weights.0"].shape[1], bool)
    reached = [ahead]
    for i in range(layers):
        ahead = np.asarray((masks[f"weights.{i}"] & ahead).any(axis=1))
        reached.append(ahead)
        if i + 1 < layers and not ahead.all():
            constant = act(values[f"biases.{i}"])[0] * ~ahead
            onward = values[f"weights.{i + 1}"] * masks[f"weights.{i + 1}"]
            values[f"biases.{i + 1}"] = values[f"biases.{i + 1}"] + onward @ constant
    behind: Array = np.ones(masks[f"weights.{layers - 1}"].shape[0], bool)
    for i in reversed(range(layers)):
        # An output that no input reaches still answers with its bias; its row of weights is all gone already.
        live_rows = behind & reached[i + 1]
        masks[f"weights.{i}"] = masks[f"weights.{i}"] & live_rows[:, None] & reached[i]
        masks[f"biases.{i}"] = live_rows if i + 1 < layers else np.ones_like(live_rows)
        behind = np.asarray(masks[f"weights.{i}"].any(axis=0))
    for name in values:
        values[name] = np.where(masks[name], values[name], 0.0)
    return values, masks
