"""A large perceptron cut down to its live neurons, so that a refit by gradient costs only what is left."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from bimt_engine.analysis.evaluator import Array, Masks, Values
from bimt_engine.analysis.pruning.refit import GradientProblem, Refitted, refit_by_gradient
from bimt_engine.networks.network import ACTIVATIONS, Network
from bimt_engine.networks.wiring import Chain


class CompactMlp(nn.Module):
    """The same computation between live neurons only. Parameters have the names they have in the whole network.

    places   parameter -> index of its live entries in the whole one.
    """

    def __init__(self, whole: Network, chain: Chain, masks: Masks) -> None:
        super().__init__()
        layers = len(chain.weights)
        inputs = masks["weights.0"].any(axis=0).reshape(chain.fold, -1).any(axis=0)
        live = [np.flatnonzero(inputs)]
        live += [np.flatnonzero(masks[f"weights.{i}"].any(axis=0)) for i in range(1, layers)]
        live.append(np.arange(whole.wiring.output_layer.neurons))
        columns = np.concatenate([live[0] + copy * inputs.size for copy in range(chain.fold)])
        self.places: dict[str, tuple[Array, ...]] = {}
        for i in range(layers):
            self.places[f"weights.{i}"] = np.ix_(live[i + 1], columns if i == 0 else live[i])
            self.places[f"biases.{i}"] = (live[i + 1],)
        embedded = chain.embedding is not None
        if embedded:
            self.places["embedding"] = np.ix_(np.arange(whole.embedding.shape[0]), live[0])
        shapes = {name: np.empty(p.shape)[self.places[name]].shape for name, p in whole.named_parameters()}
        dtype = whole.weights[0].dtype
        self.weights = nn.ParameterList([torch.empty(shapes[f"weights.{i}"], dtype=dtype) for i in range(layers)])
        self.biases = nn.ParameterList([torch.empty(shapes[f"biases.{i}"], dtype=dtype) for i in range(layers)])
        self.embedding = nn.Parameter(torch.empty(shapes["embedding"], dtype=dtype)) if embedded else None
        self.activation = ACTIVATIONS[chain.activation]
        self.read = whole.input_order[torch.from_numpy(live[0])]  # for plain numbers; vectors lie in slot order already
        self.leave = torch.argsort(whole.output_order)

    def forward(self, x: Tensor) -> Tensor:
        """Outputs in the order of the data's targets."""
        here = self.embedding[x].flatten(1) if self.embedding is not None else x.index_select(-1, self.read)
        last = len(self.weights) - 1
        for number, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            here = nn.functional.linear(here, weight, bias)
            if number < last:
                here = self.activation(here)
        return here.index_select(-1, self.leave)


def refit_compact(problem: GradientProblem, values: Mapping[str, Array], masks: Masks, *, steps: int) -> Refitted:
    """As `refit_by_gradient`, on the live part of a perceptron; what is not live stays as it is. Others: the whole."""
    whole = problem.network
    chain = whole.wiring.chain if isinstance(whole, Network) else None
    if chain is None or not all(masks[name].any() for name in chain.weights):
        return refit_by_gradient(problem, values, masks, steps=steps)
    assert isinstance(whole, Network)
    compact = CompactMlp(whole, chain, masks)
    part = problem.of(compact)
    small = {name: values[name][place] for name, place in compact.places.items()}
    small_masks = {name: masks[name][place] for name, place in compact.places.items() if name in masks}
    found = refit_by_gradient(part, small, small_masks, steps=steps)
    full: Values = {
        name: np.where(masks[name], value, 0.0) if name in masks else value.copy() for name, value in values.items()
    }
    for name, place in compact.places.items():
        full[name][place] = found.values[name]
    return Refitted(full, found.loss, found.passes)
