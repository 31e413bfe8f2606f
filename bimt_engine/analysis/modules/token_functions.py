"""What the first hidden neurons read of a token, as functions of the token: independent of the basis of the embedding.

A neuron of the first layer reads f(t) = Σ_c E[t, c]·w[c] of the token t at each position. Multiplying the embedding E
by any invertible matrix, and the weights w by its inverse, changes neither f nor the outputs of the network; only the
connection cost prefers some bases. So two parts of a network that compute with different functions of the token may
share dimensions, for example where one dimension holds a mixture of two irreducible representations. The similarity of
two trees is the sum of the squared correlations of the functions that their neurons read. Trees are separated where
most of the similarity lies within each side, and the leak is measured in the basis that separates the groups best.

Trees are not compared pair by pair: a neuron that reads 90 % of one representation and 10 % of another correlates with
those of the other by as much as neurons of one representation may with one another, which has many functions (nine for
three dimensions).

The cuts follow Kannan, Vempala and Vetta, "On clusterings: good, bad and spectral", J. ACM 51(3), 2004. This
use of them is ours; networks without an embedding keep to the definitions of `nested.py`.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from bimt_engine.analysis.modules.structure import Depth, Group, joined, merged
from bimt_engine.networks.network import Network

COMMON = 0.15  # of the similarity of a part with all neurons, at most this share is with those of others: about half of
# ½ − 2/π² = 0.30, which is the share across the weakest cut of the functions of one frequency in all phases
SAME_FUNCTION = 0.1  # squared correlation over the tokens: from here on, `tied` treats two functions as the same
LEAST_READ = 1e-3  # of the variance of a neuron: below, what it reads at a position is left out
WORST_CONDITION = 1e8  # number of the embedding: beyond, its dimensions are dependent and the basis is not changed


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

    def split(self, depth: Depth) -> tuple[Group, ...]:
        """The trees of a depth, divided as finely as leaves every part with little similarity to the others.

        Those with most neurons first. A tree without a neuron of the first layer reads no function and stays alone.
        """
        # Every function counts alike: a neuron that combines functions of two positions needs the weaker one as much.
        owned = np.zeros((len(depth.trees), len(self.functions)))
        for number, tree in enumerate(depth.trees):
            owned[number, self._of(tree)] = 1.0
        parts = cut_apart(owned @ (self.functions @ self.functions.T) ** 2 @ owned.T)
        groups = [merged([depth.trees[number] for number in part]) for part in parts]
        return tuple(sorted(groups, key=lambda group: -group.size))

    def tied(self, depth: Depth) -> tuple[Group, ...]:
        """The trees of a depth, joined where any two of their neurons read the same function, as up to version 2."""
        owners = [self._of(tree) for tree in depth.trees]
        alike = (self.functions @ self.functions.T) ** 2 >= SAME_FUNCTION
        tied = np.array([[bool(alike[np.ix_(one, other)].any()) for other in owners] for one in owners])
        return joined(depth.trees, tied)

    def _of(self, group: Group) -> Int[np.ndarray, " some"]:
        places = group.places.get(self.layer)
        return np.flatnonzero(places[self.neurons]) if places is not None else np.empty(0, int)

    def basis(self, groups: Sequence[Group]) -> Float[np.ndarray, "dimensions dimensions"]:
        """Old coordinates -> those that separate the groups best.

        The functions of all groups are whitened together. The eigenvectors of their second moments, each group weighted
        by a different number, are then directions of one group each, where the groups can be separated.
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

    def in_basis(self, network: Network, basis: Float[np.ndarray, "dimensions dimensions"]) -> Network:
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

    None, too, where dimensions of the embedding are so dependent that its basis cannot be changed.
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


def cut_apart(common: Float[np.ndarray, "items items"]) -> list[list[int]]:
    """Items divided in two repeatedly, as long as at most COMMON of the similarity of both sides is across the cut.

    common   similarity of every two items, and of each with itself; symmetric, not negative. An item whose similarity
             with itself is 0 stays alone.
    """
    alone = [[int(number)] for number in np.flatnonzero(common.diagonal() <= 0)]
    waiting = [np.flatnonzero(common.diagonal() > 0)]
    found: list[list[int]] = []
    while waiting:
        items = waiting.pop()
        if not items.size:
            continue
        side = weakest_cut(common[np.ix_(items, items)])
        if side is None:
            found.append(items.tolist())
        else:
            waiting += [items[side], items[~side]]
    return sorted(found) + alone


def weakest_cut(common: Float[np.ndarray, "items items"]) -> Bool[np.ndarray, " items"] | None:
    """One side of the cut with the least similarity across it, as a share of that of the smaller side (conductance).

    None where it is more than COMMON. Tried are the cuts along every eigenvector of the normalised Laplacian whose
    eigenvalue is at most twice COMMON: where there is none, by Cheeger's inequality there is no such cut.
    """
    in_all = common.sum(axis=1)
    root = np.sqrt(in_all)
    constant = root / np.linalg.norm(root)
    laplacian = np.eye(len(common)) - common / np.outer(root, root)
    # The constant, an eigenvector of eigenvalue 0 that cuts nothing, is shifted to 3: components without similarity
    # have eigenvalue 0 too, and their eigenvectors would be mixed with it.
    values, vectors = np.linalg.eigh(laplacian + 3 * np.outer(constant, constant))
    weakest, side = COMMON, None
    for vector in vectors[:, values <= 2 * COMMON].T:
        order = np.argsort(vector / root, kind="stable")
        sorted_common = common[np.ix_(order, order)]
        inside = np.cumsum(np.cumsum(sorted_common, axis=0), axis=1).diagonal()[:-1]
        first = np.cumsum(in_all[order])[:-1]
        across = (first - inside) / np.minimum(first, in_all.sum() - first)
        best = int(across.argmin())
        if across[best] <= weakest:
            weakest, side = float(across[best]), np.isin(np.arange(len(common)), order[: best + 1])
    return side
