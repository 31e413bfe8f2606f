"""Groups of hidden neurons inside one component, as the kept connections suggest them: trees, groups, cheapest cuts.

Inputs, embedding dimensions, residual streams and outputs are terminals: all parts of a network may read and write
them, so sharing one does not join two parts. Two things tie hidden neurons together:
  - a kept connection between them (the parts tied by these alone are *trees*), and
  - a terminal that both read (trees that read a common terminal are one *group*).
Both are computed at every depth: with a hidden layer taken as the outputs, only connections up to it count. Where the
groups are still separate at one layer and tied at a later one, the later layers combine what the groups compute.

Structure only proposes groups; `nested.py` ignores terminals that hardly affect their readers, and tests the groups by
ablation. That a modular network has separate parts inside one connected component was observed in arXiv 2305.08746,
section 3.3; the definitions are ours.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from bimt_engine.analysis.evaluator import Array, Connection, Masks
from bimt_engine.networks.wiring import WeightLayer, Wiring

Terminal = tuple[str, int]
"""(neuron layer, slot): copies of one slot, such as an embedding dimension of several tokens, are one terminal."""

MOST_CUT = 3  # connections in one cut
WEAKEST_TRIED = 12  # connections that cuts are made of


@dataclass(frozen=True)
class Group:
    """Hidden neurons that are tied to one another, and the terminals that they read.

    places   neuron layer -> bool for each place; hidden layers only.
    """

    places: dict[str, Bool[np.ndarray, " places"]]
    terminals: frozenset[Terminal]

    @property
    def size(self) -> int:
        """How many neurons it has."""
        return sum(int(places.sum()) for places in self.places.values())


@dataclass(frozen=True)
class Depth:
    """The hidden neurons of all layers up to one, divided into groups, and these into trees."""

    layer: str
    groups: tuple[Group, ...]
    trees: tuple[Group, ...]


@dataclass(frozen=True)
class Cut:
    """Connections without which one group becomes several; `cost`: the rises of the loss without each, summed."""

    connections: tuple[Connection, ...]
    cost: float
    parts: tuple[Group, ...]


class TieGraph:
    """What ties the hidden neurons of some layers: kept connections into them, from one another and from terminals.

    layers   names of hidden layers, or of the output layer too; neurons of other hidden layers are left out.
    """

    def __init__(self, wiring: Wiring, masks: Masks, layers: Sequence[str]) -> None:
        self.wiring, self.layers = wiring, tuple(layers)
        self._offset: dict[str, int] = {}
        nodes = 0
        for layer in wiring.neuron_layers:
            self._offset[layer.name] = nodes
            nodes += layer.places
        self.nodes = nodes
        sources, targets, self.connections = [], [], []
        within = set(self.layers)
        hidden = {layer.name for layer in wiring.hidden_layers}
        for weights in wiring.weight_layers:
            if weights.target not in within or (weights.source in hidden and weights.source not in within):
                continue
            rows, columns = np.nonzero(masks[weights.parameter])
            sources.append(self._source_nodes(weights, columns))
            targets.append(self._offset[weights.target] + rows % wiring.layer(weights.target).neurons)
            self.connections += [
                (weights.parameter, int(row), int(column)) for row, column in zip(rows, columns, strict=True)
            ]
        self.sources: Int[np.ndarray, " connections"] = np.concatenate([*sources, np.empty(0, int)])
        self.targets: Int[np.ndarray, " connections"] = np.concatenate([*targets, np.empty(0, int)])
        self._within = np.zeros(nodes, bool)
        for name in self.layers:
            start = self._offset[name]
            self._within[start : start + wiring.layer(name).places] = True

    def _source_nodes(self, weights: WeightLayer, columns: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
        layer = self.wiring.layer(weights.source)
        # Copies of a slot are one terminal; a fold that is no copy (kernel taps) is one neuron in any case; a run of
        # slots, which is one column of a table, counts as its first.
        return self._offset[weights.source] + layer.first_of_run[columns % layer.neurons]

    def groups(self, *, by_terminals: bool = True, without: Collection[int] = ()) -> list[Group]:
        """The components, those with most neurons first.

        by_terminals   False: a terminal that two neurons read does not tie them; the components are trees.
        without        numbers of connections that are left out.
        """
        kept = np.ones(len(self.connections), bool)
        kept[list(without)] = False
        tying = kept if by_terminals else kept & self._within[self.sources]
        rows, columns = [self.sources[tying]], [self.targets[tying]]
        for first, second in self._mixing():
            rows.append(first)
            columns.append(second)
        row, column = np.concatenate(rows), np.concatenate(columns)
        adjacency = coo_matrix((np.ones(len(row)), (row, column)), shape=(self.nodes, self.nodes))
        labels = connected_components(adjacency, directed=False)[1]
        live = np.zeros(self.nodes, bool)
        live[self.targets[kept]] = True
        inner = kept & self._within[self.sources]
        live[self.sources[inner]] = True
        found = []
        for label in dict.fromkeys(labels[live & self._within].tolist()):
            own = live & self._within & (labels == label)
            read = self.sources[kept & own[self.targets] & ~self._within[self.sources]]
            found.append(Group(self._places(own), frozenset(self._terminal(int(node)) for node in np.unique(read))))
        return sorted(found, key=lambda group: -group.size)

    def _mixing(self) -> Iterable[tuple[Array, Array]]:
        """What ties the neurons of a block whose layer mixes them: each to the first of its block."""
        used = np.unique(self.targets)
        for name in self.layers:
            layer, start = self.wiring.layer(name), self._offset[name]
            if layer.mixes:
                mine = used[(used >= start) & (used < start + layer.places)]
                block = (mine - start) // (layer.neurons // layer.blocks)
                first = {int(b): int(mine[block == b][0]) for b in np.unique(block)}
                yield np.array([first[int(b)] for b in block], int), mine

    def _places(self, nodes: Bool[np.ndarray, " nodes"]) -> dict[str, Bool[np.ndarray, " places"]]:
        found = {}
        for name in self.layers:
            start = self._offset[name]
            places = nodes[start : start + self.wiring.layer(name).places]
            if places.any():
                found[name] = places
        return found

    def _terminal(self, node: int) -> Terminal:
        name = max((n for n, start in self._offset.items() if start <= node), key=lambda n: self._offset[n])
        return name, node - self._offset[name]


def depths(wiring: Wiring, masks: Masks) -> list[Depth]:
    """The groups and trees at each hidden layer that has live neurons, the first layer first."""
    names = [layer.name for layer in wiring.hidden_layers]
    found: list[Depth] = []
    for number, name in enumerate(names):
        graph = TieGraph(wiring, masks, names[: number + 1])
        groups = graph.groups()
        if any(name in group.places for group in groups):
            found.append(Depth(name, tuple(groups), tuple(graph.groups(by_terminals=False))))
    return found


def merged(groups: Sequence[Group]) -> Group:
    """Several groups as one."""
    places: dict[str, Array] = {}
    for group in groups:
        for layer, own in group.places.items():
            places[layer] = places[layer] | own if layer in places else own
    return Group(places, frozenset().union(*(group.terminals for group in groups)))


def joined(trees: Sequence[Group], tied: Array) -> tuple[Group, ...]:
    """The trees, joined where they are tied to one another, directly or through others; those with most neurons first.

    tied   (trees, trees), true where two are.
    """
    from scipy.sparse.csgraph import connected_components

    labels = connected_components(tied, directed=False)[1]
    groups = [
        merged([tree for tree, of in zip(trees, labels, strict=True) if of == label])
        for label in dict.fromkeys(labels.tolist())
    ]
    return tuple(sorted(groups, key=lambda group: -group.size))


def cheapest_cut(
    wiring: Wiring,
    masks: Masks,
    layers: Sequence[str],
    costs: Mapping[Connection, float],
    *,
    holding: str | None = None,
) -> Cut | None:
    """The cheapest cut of up to MOST_CUT connections that makes two or more groups of one; None where there is none.

    layers    whose neurons are divided: hidden layers, and the output layer where the parts should be modules.
    costs     the rise of the loss without each connection. Cuts are made of the WEAKEST_TRIED cheapest of them.
    holding   a layer of which each part must have a neuron. Each part must read a terminal in any case.
    """
    graph = TieGraph(wiring, masks, layers)
    whole = graph.groups()
    if len(whole) != 1 or not costs:
        return None
    order = sorted(range(len(graph.connections)), key=lambda number: costs.get(graph.connections[number], np.inf))
    weakest = order[:WEAKEST_TRIED]
    trials = [t for size in range(1, MOST_CUT + 1) for t in itertools.combinations(weakest, size)]

    def cost(trial: tuple[int, ...]) -> float:
        return sum(max(0.0, costs.get(graph.connections[number], np.inf)) for number in trial)

    for trial in sorted(trials, key=cost):
        parts = graph.groups(without=trial)
        lost = whole[0].size - sum(part.size for part in parts)
        sound = all(part.terminals and (holding is None or holding in part.places) for part in parts)
        if len(parts) > 1 and lost == 0 and sound:
            return Cut(tuple(graph.connections[number] for number in trial), cost(trial), tuple(parts))
    return None
