"""Modularity: how well the weights agree with the modules, and the groups that the Leiden algorithm finds in them.

Secondary by design. A weighted graph that is not random need not have the parts that an optimiser finds, and a sparse
network in disconnected pieces is hardly more modular than its own shuffle. What a part computes is tested by
`modules/find.py` and `modules/nested.py`; this file scores them on the weights alone.

Leiden runs only where a spec says so. igraph and leidenalg (both GPL) are an optional extra, imported in `leiden`
and nowhere else. No torch.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float, Int, Shaped
from scipy.cluster.vq import kmeans2

from bimt_engine.analysis.graph import Graph
from bimt_engine.analysis.modules.significance import p_value
from bimt_engine.analysis.report import CommunitiesDocument, Community, NullDocument
from bimt_engine.analysis.statements.network import CAUTION, communities_statement
from bimt_engine.analysis.statements.wording import too_large

Labels = Int[np.ndarray, " neurons"]
"""The number of each neuron's group."""

NULLS = 59  # random graphs of each null model; p can be no smaller than 1 in 60
NULL_SEEDS = 2  # Leiden runs on each of them, and as many count of our own when the two are compared
NULL_WORK = 200_000  # connections in all null graphs of one kind together, at most
FEWEST_NULLS = (
    19  # p = 0.05 can be reached; and all that is spent on a null that is reported only to compare with the literature
)
NOT_INSTALLED = "not installed: `pip install leidenalg` (GPL) for Leiden's groups"
SWAPS = 10  # tried exchanges for each connection when a graph is rewired, and again when its strengths are annealed
K_MEANS_STARTS = 10
K_MEANS_ROUNDS = 50
MAX_CONNECTIONS = 200_000  # beyond, rewiring FEWEST_NULLS graphs of each kind takes more than an hour
MAX_SPECTRAL_NEURONS = 4_000  # whose dense eigenvalue problem is solved


@dataclass(frozen=True)
class Slice:
    """One weight matrix as connections: |weight| from source to target; numbers of neurons in one common list."""

    source: Int[np.ndarray, " connections"]
    target: Int[np.ndarray, " connections"]
    weight: Float[np.ndarray, " connections"]
    sources: Int[np.ndarray, " _"]  # all neurons of the two neuron layers: what an all-entry shuffle may use
    targets: Int[np.ndarray, " _"]

    @property
    def total(self) -> float:
        """The sum of all weights."""
        return float(self.weight.sum())


@dataclass(frozen=True)
class Layered:
    """A layered graph: neurons 0 … n-1 and one slice for each weight matrix."""

    neurons: int
    slices: tuple[Slice, ...]

    @property
    def total(self) -> float:
        """The sum of all weights."""
        return sum(s.total for s in self.slices)

    @property
    def connections(self) -> int:
        """How many there are, over all weight matrices."""
        return sum(s.weight.size for s in self.slices)


def layered(graph: Graph) -> tuple[Layered, list[str]]:
    """The connected neurons of a graph as a layered graph, and their ids. Signs are dropped: Leiden takes none."""
    joined = {c.source for c in graph.connections} | {c.target for c in graph.connections}
    ids = [n.id for n in graph.neurons if n.id in joined]
    index = {identifier: i for i, identifier in enumerate(ids)}
    layer_of = {n.id: n.layer for n in graph.neurons}
    slices = []
    for parameter in dict.fromkeys(c.parameter for c in graph.connections):
        some = [c for c in graph.connections if c.parameter == parameter]
        ends = ({layer_of[c.source] for c in some}, {layer_of[c.target] for c in some})
        among = [np.array([index[i] for i in ids if layer_of[i] in layers]) for layers in ends]
        slices.append(
            Slice(
                np.array([index[c.source] for c in some]),
                np.array([index[c.target] for c in some]),
                np.array([abs(c.weight) for c in some]),
                among[0],
                among[1],
            )
        )
    return Layered(len(ids), tuple(slices)), ids


def layered_modularity(net: Layered, labels: Labels) -> float:
    """Q_L = Σ_l (W_l/W) Q_l with Q_l = (1/W_l) Σ_ij (A_ij - s_i^out s_j^in / W_l) δ(c_i, c_j).

    Within each weight matrix chance keeps what every source gives and every target takes; W is the sum of all weights.
    """
    found = 0.0
    for s in net.slices:
        if s.total == 0:
            continue
        groups = int(labels.max()) + 1
        inside = s.weight[labels[s.source] == labels[s.target]].sum()
        gives = np.bincount(labels[s.source], weights=s.weight, minlength=groups)
        takes = np.bincount(labels[s.target], weights=s.weight, minlength=groups)
        found += inside - float(gives @ takes) / s.total
    return float(found / net.total) if net.total else 0.0


def directed_modularity(net: Layered, labels: Labels) -> float:
    """Leicht and Newman's Q of the whole directed graph: one null over all weight matrices, blind to the layers."""
    whole = Slice(*_joined(net), np.empty(0, int), np.empty(0, int))
    return layered_modularity(Layered(net.neurons, (whole,)), labels)


def normalised_cut(net: Layered, labels: Labels) -> float:
    """Σ over groups of cut / volume of the undirected graph; groups without volume do not count."""
    source, target, weight = _joined(net)
    groups = int(labels.max()) + 1
    volume = np.bincount(labels[source], weights=weight, minlength=groups)
    volume += np.bincount(labels[target], weights=weight, minlength=groups)
    across = labels[source] != labels[target]
    cut = np.bincount(labels[source][across], weights=weight[across], minlength=groups)
    cut += np.bincount(labels[target][across], weights=weight[across], minlength=groups)
    return float((cut[volume > 0] / volume[volume > 0]).sum())


def spectral_cut(net: Layered, groups: int, *, seed: int) -> tuple[float, Labels]:
    """A normalised cut into so many groups by spectral clustering, and the labels."""
    source, target, weight = _joined(net)
    adjacency = np.zeros((net.neurons, net.neurons))
    np.add.at(adjacency, (source, target), weight)
    adjacency += adjacency.T
    inverse = 1 / np.sqrt(adjacency.sum(axis=0))
    _, vectors = np.linalg.eigh(-inverse[:, None] * adjacency * inverse)
    leading = vectors[:, :groups] * inverse[:, None]
    leading /= np.maximum(np.linalg.norm(leading, axis=1, keepdims=True), 1e-300)
    labels = k_means(leading, groups, generator=np.random.default_rng([seed, 7]))
    return normalised_cut(net, labels), relabelled(labels)


def leiden(net: Layered, *, seeds: Sequence[int]) -> tuple[Labels, float, list[Labels]]:
    """The best of several Leiden partitions by layered modularity: labels, Q, and all partitions found."""
    import igraph  # here, because the operations that only compare partitions do without
    import leidenalg

    graphs = [
        igraph.Graph(net.neurons, np.column_stack((s.source, s.target)).tolist(), directed=True) for s in net.slices
    ]
    found: list[Labels] = []
    for seed in seeds:
        # Not normalised by each slice's weight, so slices of equal say add up to W · Q_L.
        partitions = [
            leidenalg.RBConfigurationVertexPartition(g, weights=s.weight.tolist())
            for g, s in zip(graphs, net.slices, strict=True)
        ]
        optimiser = leidenalg.Optimiser()
        optimiser.set_rng_seed(int(seed))
        optimiser.optimise_partition_multiplex(partitions, layer_weights=[1.0] * len(partitions), n_iterations=-1)
        found.append(relabelled(np.array(partitions[0].membership)))
    scores = [layered_modularity(net, labels) for labels in found]
    best = int(np.argmax(scores))
    return found[best], scores[best], found


# --- null models -----------------------------------------------------------------------------------------


def value_shuffle(net: Layered, generator: np.random.Generator) -> Layered:
    """The same connections with their weights permuted within each weight matrix."""
    return replace(net, slices=tuple(replace(s, weight=generator.permutation(s.weight)) for s in net.slices))


def degree_preserving(net: Layered, generator: np.random.Generator) -> Layered:
    """Rewired within each weight matrix: every neuron keeps its number of connections and, annealed, its strengths."""
    return replace(net, slices=tuple(_annealed(_rewired(s, generator), s, generator) for s in net.slices))


def all_entry_shuffle(net: Layered, generator: np.random.Generator) -> Layered:
    """Every entry of each matrix permuted, zeros too; reported only to compare with the literature.

    It misleads on sparse networks: it breaks the neurons' degrees along with the placement, so to reject it may say no
    more than that few neurons hold all connections, and which way it errs depends on the density.
    """
    slices = []
    for s in net.slices:
        pairs = s.sources.size * s.targets.size
        parallel = -(
            -s.weight.size // pairs
        )  # parallel connections, several copies of a layer: kernel taps, gates, or query, key and value
        cells = generator.permutation(pairs * parallel)[: s.weight.size] % pairs
        slices.append(replace(s, source=s.sources[cells % s.sources.size], target=s.targets[cells // s.sources.size]))
    return replace(net, slices=tuple(slices))


NULL_KINDS: dict[str, Callable[[Layered, np.random.Generator], Layered]] = {
    "value_shuffle": value_shuffle,
    "degree_preserving": degree_preserving,
    "all_entry_shuffle": all_entry_shuffle,
}


def _rewired(s: Slice, generator: np.random.Generator) -> Slice:
    """Exchange the targets of random pairs of connections, unless that would double one."""
    target = s.target.tolist()
    source = s.source.tolist()
    taken = set(zip(source, target, strict=True))
    count = len(source)
    if count < 2 or len(taken) < count:  # parallel connections (of several copies) are left as they are
        return s
    for a, b in generator.integers(count, size=(SWAPS * count, 2)).tolist():
        one, other = (source[a], target[b]), (source[b], target[a])
        if one in taken or other in taken:
            continue
        taken -= {(source[a], target[a]), (source[b], target[b])}
        taken |= {one, other}
        target[a], target[b] = target[b], target[a]
    return replace(s, target=np.array(target))


def _annealed(s: Slice, like: Slice, generator: np.random.Generator) -> Slice:
    """Distribute the weights, by simulated annealing, so that in- and out-strengths come near the original ones."""
    size = 1 + int(max(s.source.max(), s.target.max()))
    gives = np.bincount(like.source, weights=like.weight, minlength=size)
    takes = np.bincount(like.target, weights=like.weight, minlength=size)
    weight = generator.permutation(s.weight).tolist()
    off_gives = (np.bincount(s.source, weights=weight, minlength=size) - gives).tolist()
    off_takes = (np.bincount(s.target, weights=weight, minlength=size) - takes).tolist()
    source, target, count = s.source.tolist(), s.target.tolist(), len(weight)
    steps = SWAPS * count
    heat = float(np.var(s.weight)) + 1e-300
    pairs = generator.integers(count, size=(steps, 2)).tolist()
    for step, ((a, b), luck) in enumerate(zip(pairs, generator.random(steps).tolist(), strict=True)):
        move = weight[b] - weight[a]
        gain = 0.0
        if source[a] != source[b]:
            gain += 2 * move * (off_gives[source[a]] - off_gives[source[b]]) + 2 * move * move
        if target[a] != target[b]:
            gain += 2 * move * (off_takes[target[a]] - off_takes[target[b]]) + 2 * move * move
        if gain <= 0 or luck < np.exp(-gain / (heat * (1 - step / steps))):
            weight[a], weight[b] = weight[b], weight[a]
            off_gives[source[a]] += move
            off_gives[source[b]] -= move
            off_takes[target[a]] += move
            off_takes[target[b]] -= move
    return replace(s, weight=np.array(weight))


def null_scores(
    net: Layered, labels: Labels, kind: str, count: int, *, generator: np.random.Generator
) -> tuple[Float[np.ndarray, " graphs"], Float[np.ndarray, " graphs"]]:
    """Layered Q of chance graphs: re-optimised for each, and for this partition held fixed."""
    free, fixed = np.empty(count), np.empty(count)
    for i in range(count):
        chance = NULL_KINDS[kind](net, generator)
        seeds = generator.integers(2**31, size=NULL_SEEDS).tolist()
        free[i] = leiden(chance, seeds=seeds)[1]
        fixed[i] = layered_modularity(chance, labels)
    return free, fixed


# --- the document -----------------------------------------------------------------------------------


def find_communities(
    graph: Graph, *, seeds: int, seed: int, cut_into: int = 2, nulls: int = NULLS
) -> CommunitiesDocument:
    """How modular the weights are: Q of the modules and, where the spec says so, of Leiden's own groups.

    seeds      runs of Leiden; the best is kept. 0: none. It needs igraph and leidenalg, an optional extra.
    cut_into   groups of the spectral cut; with Leiden only.
    nulls      random graphs that Leiden is run on again; our own partition is compared with FEWEST_NULLS.
    """
    net, ids = layered(graph)
    if net.connections == 0:
        nothing: CommunitiesDocument = {"groups": [], "modularity": None}
        return nothing | {"reading": communities_statement(nothing)}
    if net.connections > MAX_CONNECTIONS:
        return skipped_communities(too_large("the number of connections", net.connections, MAX_CONNECTIONS))
    generator = np.random.default_rng([seed, 4])
    parts = relabelled(np.array([graph.part_of.get(i) or f"alone {i}" for i in ids]))
    if not seeds:
        document = _of_parts(net, parts, len(graph.parts), generator)
    elif importlib.util.find_spec("leidenalg") is None:
        document = _of_parts(net, parts, len(graph.parts), generator) | {"leiden": NOT_INSTALLED}
    else:
        document = _of_leiden(net, ids, parts, seeds=seeds, seed=seed, nulls=nulls, generator=generator)
        document["spectral"] = _spectral(net, ids, cut_into, seed=seed)
    return document | {"reading": communities_statement(document)}


def _of_parts(net: Layered, parts: Labels, count: int, generator: np.random.Generator) -> CommunitiesDocument:
    """Scores of the parts, and of the same parts in random graphs; one part alone has nothing to be compared with."""
    score = layered_modularity(net, parts)
    chance: dict[str, NullDocument] = {}
    for kind in ("value_shuffle", "degree_preserving") if count > 1 else ():
        fixed = np.array([layered_modularity(NULL_KINDS[kind](net, generator), parts) for _ in range(FEWEST_NULLS)])
        chance[kind] = {
            "graphs": FEWEST_NULLS,
            "mean": float(fixed.mean()),
            "std": float(fixed.std()),
            "p": None,
            "p_fixed": p_value(score, fixed),
            "parity_only": False,
        }
    return {
        "method": "modules",
        "groups": [],
        "parts": count,
        "modularity": score,
        "modularity_of_modules": score,
        "directed_modularity": directed_modularity(net, parts),
        "normalised_cut": normalised_cut(net, parts),
        "nulls": chance,
        "caution": CAUTION,
    }


def _of_leiden(
    net: Layered,
    ids: Sequence[str],
    parts: Labels,
    *,
    seeds: int,
    seed: int,
    nulls: int,
    generator: np.random.Generator,
) -> CommunitiesDocument:
    """Leiden's groups with nulls and stability."""
    labels, score, runs = leiden(net, seeds=[seed * 1000 + i for i in range(seeds)])
    count = int(np.clip(NULL_WORK // net.connections, FEWEST_NULLS, nulls)) if nulls else 0
    # The best of twenty runs against the best of two would take luck in the search for structure.
    as_hard = max(layered_modularity(net, run) for run in runs[:NULL_SEEDS])
    chance: dict[str, NullDocument] = {}
    for kind in NULL_KINDS if count else ():
        parity = kind == "all_entry_shuffle"
        drawn = min(count, FEWEST_NULLS) if parity else count
        free, fixed = null_scores(net, labels, kind, drawn, generator=generator)
        chance[kind] = {
            "graphs": drawn,
            "mean": float(free.mean()),
            "std": float(free.std()),
            "p": p_value(as_hard, free),
            "p_fixed": p_value(score, fixed),
            "parity_only": parity,
        }
    apart = [variation_of_information(a, b) for i, a in enumerate(runs) for b in runs[:i]]
    groups: list[Community] = [
        {"name": str(g + 1), "neurons": [i for i, label in zip(ids, labels, strict=True) if label == g]}
        for g in range(int(labels.max()) + 1)
    ]
    return {
        "method": "leiden",
        "groups": groups,
        "modularity": score,
        "modularity_of_modules": layered_modularity(net, parts),
        "directed_modularity": directed_modularity(net, labels),
        "normalised_cut": normalised_cut(net, labels),
        "nulls": chance,
        "stability": {
            "runs": len(runs),
            "best_found": sum(np.array_equal(run, labels) for run in runs),
            "variation_of_information": float(np.mean(apart)) if apart else 0.0,
        },
        "variation_of_information_to_modules": variation_of_information(labels, parts),
        "caution": CAUTION,
    }


def _spectral(net: Layered, ids: Sequence[str], cut_into: int, *, seed: int) -> dict[str, Any]:
    if net.neurons > MAX_SPECTRAL_NEURONS:
        return {"skipped": too_large("the number of neurons", net.neurons, MAX_SPECTRAL_NEURONS)}
    if not 2 <= cut_into < net.neurons:
        return {}
    cut, labels = spectral_cut(net, cut_into, seed=seed)
    groups = [[i for i, label in zip(ids, labels, strict=True) if label == g] for g in range(int(labels.max()) + 1)]
    return {"groups": groups, "normalised_cut": cut}


def _joined(
    net: Layered,
) -> tuple[Int[np.ndarray, " connections"], Int[np.ndarray, " connections"], Float[np.ndarray, " connections"]]:
    """Source, target and weight of all connections of all weight matrices."""
    parts = zip(*((s.source, s.target, s.weight) for s in net.slices), strict=True)
    source, target, weight = (np.concatenate(part) for part in parts)
    return source, target, weight


def skipped_communities(reason: str) -> CommunitiesDocument:
    """The document where communities were not computed."""
    document: CommunitiesDocument = {"skipped": reason, "groups": [], "modularity": None}
    return document | {"reading": communities_statement(document)}


# --- partitions -------------------------------------------------------------------------------------


def relabelled(labels: Shaped[np.ndarray, " neurons"]) -> Labels:
    """The same groups numbered in the order in which they first appear."""
    order = {old: new for new, old in enumerate(dict.fromkeys(labels.tolist()))}
    return np.array([order[old] for old in labels.tolist()])


def adjusted_rand(one: Labels, other: Labels) -> float:
    """Hubert and Arabie's index: 1 for equal partitions, 0 on average for random ones."""
    table = np.zeros((int(one.max()) + 1, int(other.max()) + 1))
    np.add.at(table, (one, other), 1)

    def pairs(counts: Shaped[np.ndarray, " ..."]) -> float:
        return float((counts * (counts - 1) / 2).sum())

    both, left, right = pairs(table), pairs(table.sum(1)), pairs(table.sum(0))
    chance = left * right / max(pairs(np.array([len(one)])), 1e-300)
    top = (left + right) / 2
    return 1.0 if top == chance else (both - chance) / (top - chance)


def variation_of_information(one: Labels, other: Labels) -> float:
    """H(one | other) + H(other | one) in nats."""
    joint = np.zeros((int(one.max()) + 1, int(other.max()) + 1))
    np.add.at(joint, (one, other), 1 / len(one))

    def entropy(p: Float[np.ndarray, " _"]) -> float:
        p = p[p > 0]
        return -float((p * np.log(p)).sum())

    return max(0.0, 2 * entropy(joint.reshape(-1)) - entropy(joint.sum(0)) - entropy(joint.sum(1)))


def k_means(points: Float[np.ndarray, "neurons axes"], groups: int, *, generator: np.random.Generator) -> Labels:
    """A group for each point, so that the squares of the distances to the groups' means sum to little.

    The best of K_MEANS_STARTS runs of SciPy's k-means. scikit-learn's own would be the only reason to import it in
    every training process: a second and 130 MB. There are fewer groups where there are fewer different points.
    """
    groups = min(groups, len(np.unique(points, axis=0)))
    found = [kmeans2(points, groups, iter=K_MEANS_ROUNDS, minit="++", rng=generator)[1] for _ in range(K_MEANS_STARTS)]
    return min(found, key=lambda labels: _spread(points, labels))


def _spread(points: Float[np.ndarray, "neurons axes"], labels: Labels) -> float:
    return float(sum(((points[labels == g] - points[labels == g].mean(axis=0)) ** 2).sum() for g in np.unique(labels)))
