"""Scores agree with networkx, igraph and the definition; Leiden finds planted groups; nulls keep what they claim."""

from __future__ import annotations

import igraph
import networkx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse.csgraph import laplacian
from scipy.stats import entropy, kstest
from sklearn.cluster import SpectralClustering

from bimt_engine.analysis.communities import (
    NULL_KINDS,
    NULL_SEEDS,
    Layered,
    Slice,
    directed_modularity,
    find_communities,
    layered,
    layered_modularity,
    leiden,
    normalised_cut,
    null_scores,
    relabelled,
    spectral_cut,
    variation_of_information,
)
from bimt_engine.analysis.context import AnalysisContext
from bimt_engine.analysis.extraction import extract_graph
from bimt_engine.analysis.graph import Graph
from bimt_engine.analysis.modules.significance import p_value
from tests.engine.analysis.teachers import data_of, teacher


def random_net(seed: int, sizes: tuple[int, ...] = (4, 6, 5, 2), share: float = 0.5) -> Layered:
    """Neuron layers of these sizes with random connections between neighbours, at least one in each matrix."""
    draw = np.random.default_rng(seed)
    starts = np.cumsum([0, *sizes])
    slices = []
    for i in range(len(sizes) - 1):
        source, target = np.nonzero(draw.random((sizes[i], sizes[i + 1])) < share)
        if not source.size:
            source, target = np.array([0]), np.array([0])
        among = [np.arange(starts[j], starts[j + 1]) for j in (i, i + 1)]
        weight = draw.exponential(size=source.size)
        slices.append(Slice(source + starts[i], target + starts[i + 1], weight, *among))
    return Layered(int(starts[-1]), tuple(slices))


seeds = st.integers(0, 2**32 - 1)


@given(seeds)
@settings(max_examples=30)
def test_layered_modularity_is_its_definition(seed: int) -> None:
    net = random_net(seed)
    labels = relabelled(np.random.default_rng(seed).integers(3, size=net.neurons))
    same = labels[:, None] == labels
    expected = 0.0
    for s in net.slices:
        a = np.zeros((net.neurons, net.neurons))
        a[s.source, s.target] = s.weight
        null = np.outer(a.sum(1), a.sum(0)) / s.total
        expected += s.total / net.total * ((a - null) * same).sum() / s.total
    assert layered_modularity(net, labels) == pytest.approx(expected, abs=1e-12)


@given(seeds)
@settings(max_examples=30)
def test_directed_modularity_agrees_with_networkx_and_igraph(seed: int) -> None:
    net = random_net(seed)
    labels = relabelled(np.random.default_rng(seed).integers(3, size=net.neurons))
    edges = [
        (int(a), int(b), float(w)) for s in net.slices for a, b, w in zip(s.source, s.target, s.weight, strict=True)
    ]
    theirs = networkx.DiGraph()
    theirs.add_nodes_from(range(net.neurons))
    theirs.add_weighted_edges_from(edges)
    groups = [set(np.flatnonzero(labels == g).tolist()) for g in range(labels.max() + 1)]
    assert directed_modularity(net, labels) == pytest.approx(networkx.community.modularity(theirs, groups), abs=1e-12)
    also = igraph.Graph(net.neurons, [(a, b) for a, b, _ in edges], directed=True)
    q = also.modularity(labels.tolist(), weights=[w for _, _, w in edges], directed=True)
    assert directed_modularity(net, labels) == pytest.approx(q, abs=1e-12)


@given(seeds)
@settings(max_examples=30)
def test_with_one_matrix_both_scores_are_one(seed: int) -> None:
    net = random_net(seed, (5, 7))
    labels = relabelled(np.random.default_rng(seed).integers(4, size=12))
    assert layered_modularity(net, labels) == pytest.approx(directed_modularity(net, labels), abs=1e-12)


@given(seeds)
@settings(max_examples=30)
def test_the_normalised_cut_agrees_with_networkx(seed: int) -> None:
    net = random_net(seed)
    labels = relabelled(np.random.default_rng(seed).integers(3, size=net.neurons))
    graph = networkx.Graph()
    graph.add_nodes_from(range(net.neurons))
    for s in net.slices:
        graph.add_weighted_edges_from(zip(s.source.tolist(), s.target.tolist(), s.weight.tolist(), strict=True))
    expected = 0.0
    for g in range(labels.max() + 1):
        inside = set(np.flatnonzero(labels == g).tolist())
        volume = networkx.volume(graph, inside, weight="weight")
        if volume:
            expected += networkx.cut_size(graph, inside, weight="weight") / volume
    assert normalised_cut(net, labels) == pytest.approx(expected, abs=1e-12)


@given(seeds)
@settings(max_examples=30)
def test_the_normalised_cut_is_what_scikit_learn_relaxes(seed: int) -> None:
    """tr(Hᵀ L H), L being the normalised Laplacian that its spectral clustering takes the eigenvectors of."""
    net = random_net(seed)
    labels = relabelled(np.random.default_rng(seed).integers(3, size=net.neurons))
    adjacency = undirected(net)
    normalised = laplacian(adjacency, normed=True)
    root = np.sqrt(adjacency.sum(axis=0))
    indicators = np.stack([root * (labels == g) for g in range(labels.max() + 1)], axis=1)
    indicators = indicators[:, (indicators**2).sum(axis=0) > 0]
    indicators /= np.linalg.norm(indicators, axis=0)
    cut = normalised_cut(net, labels)
    assert cut == pytest.approx(np.trace(indicators.T @ normalised @ indicators), abs=1e-12)
    assert cut >= np.linalg.eigvalsh(normalised)[: indicators.shape[1]].sum() - 1e-12


@pytest.mark.parametrize("groups", [2, 3, 4])
@pytest.mark.parametrize("noise", [0.05, 0.3])
def test_the_spectral_cut_is_no_worse_than_scikit_learn_s(groups: int, noise: float) -> None:
    net = planted(groups, per=3, noise=noise)
    cut, labels = spectral_cut(net, groups, seed=0)
    theirs = SpectralClustering(groups, affinity="precomputed", random_state=0).fit_predict(undirected(net))
    assert cut <= normalised_cut(net, relabelled(theirs)) + 1e-12
    assert variation_of_information(labels, relabelled(theirs)) == pytest.approx(0.0, abs=1e-9)


def test_leiden_never_does_worse_than_the_best_of_all_partitions_it_was_planted_with() -> None:
    net = planted(4)
    labels, score, runs = leiden(net, seeds=range(5))
    truth = np.tile(np.arange(4), 3)
    assert variation_of_information(labels, relabelled(truth)) == pytest.approx(0.0, abs=1e-12)
    assert score == pytest.approx(layered_modularity(net, truth))
    assert len(runs) == 5


def test_leiden_s_score_is_the_layered_one_and_no_single_move_betters_it() -> None:
    for seed in range(10):
        net = random_net(seed)
        labels, score, _ = leiden(net, seeds=range(10))
        for neuron in range(net.neurons):
            for group in range(labels.max() + 2):
                moved = labels.copy()
                moved[neuron] = group
                assert layered_modularity(net, moved) <= score + 1e-9


def test_leiden_gives_the_same_groups_for_the_same_seeds() -> None:
    net = random_net(3)
    one, two = (leiden(net, seeds=[1, 2, 3]) for _ in range(2))
    assert (one[0] == two[0]).all()
    assert one[1] == two[1]


def test_the_spectral_cut_of_a_disconnected_net_is_zero() -> None:
    net = planted(3, noise=0.0)
    cut, labels = spectral_cut(net, 3, seed=0)
    assert cut == pytest.approx(0.0, abs=1e-12)
    assert variation_of_information(labels, np.tile(np.arange(3), 3)) == pytest.approx(0.0, abs=1e-9)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=20))
def test_variation_of_information_is_its_definition_and_a_distance(pairs: list[tuple[int, int]]) -> None:
    one, other = (relabelled(np.array(side)) for side in zip(*pairs, strict=True))
    joint = np.zeros((4, 4))
    np.add.at(joint, (one, other), 1 / len(one))
    mutual = entropy(joint.sum(0)) + entropy(joint.sum(1)) - entropy(joint.ravel())
    expected = entropy(joint.sum(0)) + entropy(joint.sum(1)) - 2 * mutual
    assert variation_of_information(one, other) == pytest.approx(expected, abs=1e-9)
    assert variation_of_information(one, other) == pytest.approx(variation_of_information(other, one), abs=1e-12)
    assert variation_of_information(one, one) == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("kind", NULL_KINDS)
@pytest.mark.parametrize("seed", range(4))
def test_nulls_keep_the_weights_of_each_matrix(kind: str, seed: int) -> None:
    net = random_net(seed)
    chance = NULL_KINDS[kind](net, np.random.default_rng(seed))
    for before, after in zip(net.slices, chance.slices, strict=True):
        assert sorted(before.weight) == sorted(after.weight)
        assert len(set(zip(after.source.tolist(), after.target.tolist(), strict=True))) == after.source.size
        assert set(after.source.tolist()) <= set(before.sources.tolist())
        assert set(after.target.tolist()) <= set(before.targets.tolist())


@pytest.mark.parametrize("seed", range(4))
def test_rewiring_keeps_degrees_and_nearly_the_strengths(seed: int) -> None:
    net = random_net(seed, (8, 10, 9))
    generator = np.random.default_rng(seed)
    chance = NULL_KINDS["degree_preserving"](net, generator)
    moved = 0
    for before, after in zip(net.slices, chance.slices, strict=True):
        for end in ("source", "target"):
            degrees = [np.bincount(getattr(s, end), minlength=net.neurons) for s in (before, after)]
            assert (degrees[0] == degrees[1]).all()
        strengths = [np.bincount(s.source, weights=s.weight, minlength=net.neurons) for s in (before, after)]
        dealt = np.bincount(before.source, weights=generator.permutation(before.weight), minlength=net.neurons)
        assert ((strengths[1] - strengths[0]) ** 2).sum() < ((dealt - strengths[0]) ** 2).sum()
        moved += len(
            set(zip(before.source.tolist(), before.target.tolist(), strict=True))
            - set(zip(after.source.tolist(), after.target.tolist(), strict=True))
        )
    assert moved > 5


@pytest.mark.slow
def test_p_of_the_score_is_uniform_when_the_graph_is_itself_drawn_from_the_null() -> None:
    net = random_net(0, (5, 6, 5), 0.7)
    generator = np.random.default_rng(0)
    labels = relabelled(generator.integers(3, size=net.neurons))
    searched, held = [], []
    for _ in range(100):
        drawn = NULL_KINDS["value_shuffle"](net, generator)
        observed = leiden(drawn, seeds=generator.integers(2**31, size=NULL_SEEDS).tolist())[1]
        free, fixed = null_scores(drawn, labels, "value_shuffle", 39, generator=generator)
        searched.append(p_value(observed, free))
        held.append(p_value(layered_modularity(drawn, labels), fixed))
    for found in (searched, held):
        assert kstest(found, "uniform").pvalue > 0.01


def test_planted_groups_are_significant_and_random_weights_are_not() -> None:
    planted_graph, random_graph = (graph_of(net) for net in (planted(4, per=3), random_net(0, (9, 9, 9), 0.5)))
    found = find_communities(planted_graph, seeds=5, seed=0, nulls=29)
    assert found["nulls"]["degree_preserving"]["p"] < 0.05
    assert "more than rewired graphs reach" in found["reading"]
    found = find_communities(random_graph, seeds=5, seed=0, nulls=19)
    assert found["nulls"]["degree_preserving"]["p"] > 0.05
    assert "not distinguishable from chance" in found["reading"]


def test_the_document_holds_every_connected_neuron_once_and_is_equal_by_seed() -> None:
    network = teacher()
    subject = AnalysisContext.of(network, data_of(network))
    masks = {name: value != 0 for name, value in subject.values().items() if name.startswith("weights")}
    graph = extract_graph(subject, subject.values(), masks)
    one, two = (find_communities(graph, seeds=5, seed=1, nulls=19) for _ in range(2))
    assert one == two
    members = [i for group in one["groups"] for i in group["neurons"]]
    assert sorted(members) == sorted(layered(graph)[1])
    assert one["spectral"]["normalised_cut"] == pytest.approx(0.0, abs=1e-9)


def test_a_graph_without_connections_has_no_groups() -> None:
    found = find_communities(Graph((), ()), seeds=3, seed=0)
    assert found["groups"] == []
    assert found["modularity"] is None


def undirected(net: Layered) -> np.ndarray:
    """Weights between neurons, either way: (neurons, neurons), symmetric."""
    adjacency = np.zeros((net.neurons, net.neurons))
    for s in net.slices:
        np.add.at(adjacency, (s.source, s.target), s.weight)
    return adjacency + adjacency.T


def planted(groups: int, *, per: int = 1, noise: float = 0.01) -> Layered:
    """Three neuron layers; heavy connections within groups, noise between all others."""
    size = groups * per
    draw = np.random.default_rng(0)
    of = np.arange(size) % groups
    slices = []
    for i in range(2):
        weight = np.where(of[:, None] == of, 1 + draw.random((size, size)), noise * draw.random((size, size)))
        source, target = np.nonzero(weight)
        among = [np.arange(size) + size * j for j in (i, i + 1)]
        slices.append(Slice(source + size * i, target + size * (i + 1), weight[source, target], *among))
    return Layered(3 * size, tuple(slices))


def graph_of(net: Layered) -> Graph:
    """The layered graph as one of ours."""
    from bimt_engine.analysis.graph import Connection, Neuron

    layer_of = {}
    for depth, s in enumerate(net.slices):
        layer_of |= {int(i): depth for i in s.sources} | {int(i): depth + 1 for i in s.targets}
    neurons = tuple(Neuron(f"l{layer_of[i]}:{i}", f"l{layer_of[i]}", i, i, (0.5,)) for i in range(net.neurons))
    connections = tuple(
        Connection(neurons[a].id, neurons[b].id, float(w), parameter=f"weights.{depth}")
        for depth, s in enumerate(net.slices)
        for a, b, w in zip(s.source.tolist(), s.target.tolist(), s.weight.tolist(), strict=True)
    )
    return Graph(neurons, connections)
