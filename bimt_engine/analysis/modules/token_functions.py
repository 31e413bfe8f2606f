"""What the first hidden neurons read of a token: functions of it, whatever basis the embedding happens to have.

A neuron of the first layer reads f(t) = Σ_c E[t, c]·w[c] of the token t at each position. Turning the dimensions of the
embedding E by any invertible matrix, and the weights w by its inverse, changes no f and nothing that the network does:
only the charge for connections prefers some bases. So two parts of a network that compute with different functions of
the token may well share dimensions, as where one dimension holds a mixture of two irreducible representations. Trees
are tied where their neurons read nearly the same functions, and what reads past whom is measured in the basis in which
the groups read apart as far as any basis can part them.

The definitions are ours; they keep to those of `nested.py` in every network without an embedding.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int

from bimt_engine.analysis.modules.structure import Depth, Group, merged
from bimt_engine.networks.network import Network

SAME_FUNCTION = 0.1  # squared correlation over the tokens: from here on, two neurons read the same function in part
LEAST_READ = 1e-3  # of all that moves a neuron: what it reads of a position below is left out
WORST_CONDITION = 1e8  # of the embedding: beyond, its dimensions are dependent and no basis is better than its own


@dataclass(frozen=True)
class TokenFunctions:
    """The functions of a token that the neurons of the first hidden layer read, in coordinates.

    layer       the first hidden layer.
    dimensions  slots of the embedding that some connection reads.
    whitening   (dimensions, dimensions); E centred @ its inverse has uncorrelated columns of length 1.
    neurons     for each function, the neuron that reads it; functions: of length 1, one a row.
    """

    embedding: str
    weights: str
    layer: str
    dimensions: Int[np.ndarray, " dimensions"]
    whitening: Float[np.ndarray, "dimensions dimensions"]
    neurons: Int[np.ndarray, " functions"]
    functions: Float[np.ndarray, "functions dimensions"]

    def tied(self, depth: Depth) -> tuple[Group, ...]:
        """The trees of a depth, joined where they read the same functions; those with most neurons first."""
        from scipy.sparse.csgraph import connected_components

        owners = [self._of(tree) for tree in depth.trees]
        alike = (self.functions @ self.functions.T) ** 2 >= SAME_FUNCTION
        tied = np.array([[bool(alike[np.ix_(one, other)].any()) for other in owners] for one in owners])
        labels = connected_components(tied, directed=False)[1]
        groups = [
            merged([tree for tree, of in zip(depth.trees, labels, strict=True) if of == label])
            for label in dict.fromkeys(labels.tolist())
        ]
        return tuple(sorted(groups, key=lambda group: -group.size))

    def _of(self, group: Group) -> Int[np.ndarray, " some"]:
        places = group.places.get(self.layer)
        return np.flatnonzero(places[self.neurons]) if places is not None else np.empty(0, int)

    def basis(self, groups: Sequence[Group]) -> Float[np.ndarray, "dimensions dimensions"]:
        """Old coordinates -> those in which the groups read apart as far as possible.

        The functions of all groups are made white together; the eigenvectors of their moments, each group's counted a
        different number of times, are then the directions of one group where the groups can be parted.
        """
        size = len(self.dimensions)
        moments = []
        for group in groups:
            own = self.functions[self._of(group)]
            moments.append(own.T @ own)
        total = np.sum(moments, axis=0) + 1e-9 * np.eye(size)
        values, vectors = np.linalg.eigh(total)
        white = (vectors / np.sqrt(values)) @ vectors.T
        counted = np.sum([number * white @ m @ white for number, m in enumerate(moments)], axis=0)
        return np.linalg.eigh(counted)[1].T @ white

    def turned(self, network: Network, basis: Float[np.ndarray, "dimensions dimensions"]) -> Network:
        """The same network, computing the same, with these dimensions of its embedding in another basis."""
        found = copy.deepcopy(network)
        to_new = basis @ self.whitening
        with torch.no_grad():
            parameters = dict(found.named_parameters())
            table, weights = parameters[self.embedding], parameters[self.weights]
            width = table.shape[1]
            at = torch.from_numpy(self.dimensions)
            forward = torch.from_numpy(to_new).to(weights.dtype)
            back = torch.from_numpy(np.linalg.inv(to_new)).to(table.dtype)
            table[:, at] = table[:, at] @ back
            for start in range(0, weights.shape[1], width):
                weights[:, start + at] = weights[:, start + at] @ forward.T
        return found


def token_functions(network: Network) -> TokenFunctions | None:
    """Of a pruned network that looks tokens up and computes layer by layer; None of every other.

    None, too, where dimensions of the embedding are so dependent that its basis cannot be turned.
    """
    chain = network.wiring.chain
    if chain is None or chain.embedding is None:
        return None
    values = {name: value.detach().numpy().astype(np.float64) for name, value in network.named_parameters()}
    first = network.wiring.weight_layers[0]
    table, weights = values[chain.embedding], values[first.parameter]
    width = table.shape[1]
    by_copy = weights.reshape(len(weights), -1, width)
    read = np.flatnonzero(np.abs(by_copy).sum(axis=(0, 1)) > 0)
    if len(read) < 2 or len(table) <= len(read):
        return None
    centred = table[:, read] - table[:, read].mean(axis=0)
    whitening: Float[np.ndarray, "dimensions dimensions"] = np.asarray(np.linalg.qr(centred, mode="r"))
    if np.linalg.cond(whitening) > WORST_CONDITION:
        return None
    functions = by_copy[:, :, read] @ whitening.T
    power = (functions**2).sum(axis=2)
    neurons, copies = np.nonzero(power > LEAST_READ * power.sum(axis=1, keepdims=True))
    unit = functions[neurons, copies] / np.sqrt(power[neurons, copies])[:, None]
    return TokenFunctions(chain.embedding, first.parameter, first.target, read, whitening, neurons, unit)
