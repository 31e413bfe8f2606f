"""Groups inside one component: what the structure proposes, what interaction decides, and what is said of it."""

import numpy as np
import pytest
import torch
from scipy.stats import kstest

from bimt_engine.analysis.context import AnalysisContext
from bimt_engine.analysis.extraction import extract_graph
from bimt_engine.analysis.modules.effects import Ablator, ablation_effects
from bimt_engine.analysis.modules.interior import examine_interior, with_groups
from bimt_engine.analysis.modules.nested import (
    INTERACTS,
    Reading,
    chance,
    joint_effects,
    measure_reading,
    merge_interacting,
    partitions_of,
    random_partitions,
)
from bimt_engine.analysis.modules.structure import TieGraph, cheapest_cut, depths
from bimt_engine.analysis.statements.interior import (
    cut_statement,
    groups_shown,
    interior_modules,
    partition_statement,
    partition_verdict,
    run_verdict,
)
from bimt_engine.networks.network import build_network
from bimt_engine.networks.transformer import TransformerNetwork
from tests.engine.analysis.teachers import RESIDUE, TWO_MODULES, data_of, teacher
from tests.engine.makers import sequence_data

# The two modules of the teacher, both led to y1: one piece at the outputs, two groups that are added up.
SUM = (*TWO_MODULES, (2, 0, 4, 1.3), (2, 0, 5, -1.5))
# One neuron of the second hidden layer combines what both compute: y = f(g1(x1, x3), g2(x2, x4)).
COMPOSED = (
    (0, 0, 0, 1.5), (0, 0, 2, 1.2), (0, 1, 0, -1.1), (0, 1, 2, -1.4),
    (0, 4, 1, 1.3), (0, 4, 3, -1.6), (0, 5, 1, -1.2), (0, 5, 3, 0.9),
    (1, 0, 0, 1.4), (1, 0, 1, 1.1), (1, 0, 4, 1.9), (1, 0, 5, -1.7), (1, 1, 1, -1.3), (1, 1, 4, 1.6),
    (2, 0, 0, 2.6), (2, 0, 1, -2.2), (2, 1, 0, 1.3),
)  # fmt: skip
# Both groups of SUM read x1: a weak connection ties them.
TIED = (*SUM, (0, 4, 0, 0.03))


def subject(connections, *, residue: float = 0.0):
    """Context, values, masks and ablators of a teacher, and of the same network with residue, as if it were trained."""
    network = teacher(connections)
    data = data_of(network)
    context = AnalysisContext.of(teacher(connections, residue=residue), data)
    pruned = AnalysisContext.of(network, data)
    values = pruned.values()
    masks = {w.parameter: values[w.parameter] != 0 for w in pruned.wiring.weight_layers}
    ablators = Ablator(pruned, pruned.network, seed=0), Ablator(context, context.network, seed=0)
    return pruned, values, masks, ablators


def slots(group) -> dict[str, list[int]]:
    return {layer: np.flatnonzero(places).tolist() for layer, places in group.places.items()}


def read(group) -> set[int]:
    return {slot for _, slot in group.terminals}


def test_trees_and_groups_at_every_depth():
    context, _, masks, _ = subject(SUM)
    first, second = depths(context.wiring, masks)
    assert first.layer == "hidden1"
    assert len(first.trees) == 4
    assert [slots(g) for g in first.groups] == [{"hidden1": [0, 1]}, {"hidden1": [4, 5]}]
    assert [slots(g) for g in second.groups] == [
        {"hidden1": [0, 1], "hidden2": [0, 1]},
        {"hidden1": [4, 5], "hidden2": [4, 5]},
    ]
    assert [read(g) for g in second.groups] == [{0, 2}, {1, 3}]
    assert len(second.trees) == 2


@pytest.mark.parametrize(
    ("rejected", "named", "verdict"), [(None, None, "supported"), (["B"], [], "supported"), (["A", "B"], ["A"], "not")]
)
def test_groups_in_a_module_that_is_not_supported_are_not_supported_either(rejected, named, verdict):
    context, values, masks, ablators = subject(SUM, residue=RESIDUE)
    module_of = {"hidden1:0": "A", "hidden1:4": "A"}
    document = examine_interior(context, *ablators, values, masks, module_of=module_of, costs={}, rejected=rejected)
    [partition] = document["partitions"]
    assert partition.get("rejected_modules") == named
    partition |= {"p": 0.01, "random_partitions": 99}  # so few neurons leave no others to compare with
    said, reason = partition_verdict(partition)
    if verdict == "supported":
        assert (said, reason) == ("supported", None)
        assert (len(groups_shown(document)), interior_modules(document)) == (2, 2)
    else:
        assert (said, reason) == ("not supported", "the groups lie in module A, not supported itself")
        assert (groups_shown(document), interior_modules(document)) == ([], 0)
        assert reason in run_verdict("No module is supported.", document, modules=2)


def test_groups_that_are_added_up_are_found_inside_one_piece():
    context, values, masks, ablators = subject(SUM, residue=RESIDUE)
    document = examine_interior(
        context, *ablators, values, masks, module_of={"hidden1:0": "A", "hidden1:4": "A"}, costs={}
    )
    partition = document["partitions"][document["primary"]]
    assert (partition["layer"], partition["kind"]) == ("hidden2", "sum")
    groups = {group["name"]: set(group["neurons"]) for group in partition["groups"]}
    assert sorted(groups) == ["A1", "A2"]
    assert {"hidden1:0", "hidden1:1", "hidden2:0", "hidden2:1"} in groups.values()
    assert partition["largest_interaction"] <= 1e-20
    assert partition["trained_largest_interaction"] <= INTERACTS
    assert {tuple(sorted(r["name"] for r in g["reads"])) for g in partition["groups"]} == {("x1", "x3"), ("x2", "x4")}
    # Only ten other partitions of two and two neurons in each of two layers exist: chance cannot be ruled out.
    assert partition["verdict"] == "not testable"
    assert "to compare with" in partition["why_not"]
    assert partition_statement(partition).text == partition["reading"]
    of_modules = "No separate module is supported: the pruned network is one piece."
    assert run_verdict(of_modules, document, modules=1).startswith(
        f"{of_modules} Inside there are 2 separate groups of neurons (A1 and A2): what they compute is added up; "
        "not testable, because"
    )
    document["partitions"][document["primary"]]["p"] = 0.01
    assert run_verdict(of_modules, document, modules=1) == (
        "2 separate groups of neurons are supported (A1 and A2), inside one connected piece: "
        "what they compute is added up."
    )
    both = "Both modules are supported: A and B."
    assert run_verdict(both, document, modules=2).startswith(f"{both} Inside there are 2 separate groups")
    assert run_verdict(both, {"skipped": "no room"}, modules=2) == both
    graph = with_groups(extract_graph(context, values, masks), document)
    assert graph.part_of["hidden1:0"] == graph.part_of["input:0"] != graph.part_of["input:1"]
    assert "output:0" not in graph.part_of
    document["partitions"][document["primary"]]["verdict"] = "not supported"
    denied = with_groups(extract_graph(context, values, masks), document)
    assert "hidden1:0" not in denied.part_of, "no picture has colours that the verdict denies"


def test_groups_that_later_layers_combine_are_a_composition():
    context, values, masks, ablators = subject(COMPOSED)
    document = examine_interior(context, *ablators, values, masks, module_of={}, costs={})
    kinds = {(p["layer"], p["kind"]): [len(g["neurons"]) for g in p["groups"]] for p in document["partitions"]}
    assert kinds == {("hidden1", "composition"): [2, 2]}
    assert document["partitions"][0]["largest_interaction"] > INTERACTS


def test_groups_that_interact_are_merged():
    context, _, masks, (ablator, _) = subject(COMPOSED)
    groups = depths(context.wiring, masks)[0].groups
    assert len(groups) == 2
    assert len(merge_interacting(ablator, groups)) == 1
    context, _, masks, (ablator, _) = subject(SUM)
    groups = depths(context.wiring, masks)[0].groups
    assert len(merge_interacting(ablator, groups)) == 2


def test_interaction_is_the_mixed_difference():
    context, _, masks, (ablator, _) = subject(COMPOSED)
    groups = [g.places for g in depths(context.wiring, masks)[0].groups]
    effects, interaction = joint_effects(ablator, groups)
    both = {"hidden1": groups[0]["hidden1"] | groups[1]["hidden1"]}
    y, a, b, ab = ablator.outputs, *(ablator.outputs_without([g], "mean")[0] for g in (*groups, both))
    assert np.allclose(interaction[0, 1], ((ab - a - b + y) ** 2).mean(axis=0) / y.var(axis=0))
    assert np.allclose(effects[0], ((a - y) ** 2).mean(axis=0) / y.var(axis=0))


def test_a_separation_that_pruning_made_is_not_supported():
    pruned, values, masks, (ablator, _) = subject(SUM)
    mixed = [(layer, target, source, value) for layer, target, source, value in SUM]
    crossing = [(0, 0, 1, 1.5), (0, 1, 3, 1.5), (0, 4, 0, 1.5), (0, 5, 2, 1.5), (1, 0, 4, 1.5), (1, 4, 0, 1.5)]
    trained = AnalysisContext.of(teacher((*mixed, *crossing)), pruned.dataset)
    document = examine_interior(
        pruned, ablator, Ablator(trained, trained.network, seed=0), values, masks, module_of={}, costs={}
    )
    partition = document["partitions"][document["primary"]]
    assert partition["verdict"] == "not supported"
    assert "pruning made this separation" in partition["why_not"]


@pytest.mark.parametrize(("weight", "groups"), [(0.03, 2), (0.1, 1)])
def test_a_terminal_ties_only_what_it_moves_by_a_thousandth(weight, groups):
    """x1 moves hidden1:4 by 2e-4 of its variance, or by 2e-3."""
    context, _, masks, ablators = subject((*SUM, (0, 4, 0, weight)))
    [found] = {len(depth.groups) for depth in depths(context.wiring, masks)}
    assert found == 1  # the structure alone ties them in both cases
    at, partitions = partitions_of(*ablators, depths(context.wiring, masks), seed=0)
    assert [len(depth.groups) for depth in at] == [groups, groups]
    sums = [partition for partition in partitions if partition.kind == "sum"]
    assert [len(partition.groups) for partition in sums] == ([2] if groups == 2 else [])
    assert all(0 < partition.leak < 1e-3 for partition in sums)


def test_the_cheapest_cut_names_the_connection_that_ties_two_groups():
    context, values, masks, ablators = subject(TIED)
    costs = ablation_effects(context, values, masks)
    names = [layer.name for layer in context.wiring.hidden_layers]
    cut = cheapest_cut(context.wiring, masks, names, costs)
    assert cut is not None
    assert cut.connections == (("weights.0", 4, 0),)
    assert sorted(map(read, cut.parts), key=min) == [{0, 2}, {1, 3}]
    document = examine_interior(context, *ablators, values, masks, module_of={}, costs=costs)
    inside = next(c for c in document["cuts"] if c["level"] == "inside")
    assert "x1 → hidden1:4 (weight 0.03)" in cut_statement(inside)
    for change, said in ((0.25, "rises by 25%"), (-0.5, "falls by 50%"), (3e27, "becomes 3·10²⁷ times as large")):
        assert cut_statement(inside | {"loss_change": change}).endswith(f"the held-out loss {said}.")
    assert 0 < inside["loss_rise"] < 0.01


def test_nearly_two_modules_at_the_outputs_are_told():
    tied = (*TWO_MODULES, (1, 4, 0, 0.02))
    context, values, masks, ablators = subject(tied)
    costs = ablation_effects(context, values, masks)
    document = examine_interior(context, *ablators, values, masks, module_of={}, costs=costs)
    (cut,) = [c for c in document["cuts"] if c["level"] == "outputs"]
    assert [c["key"] for c in cut["connections"]] == ["weights.1[4,0]"]


def test_reading_is_the_share_of_each_terminal():
    reading = Reading(
        (("hidden1", 0), ("hidden1", 1)), (("input", 0), ("input", 1)), np.array([[1.0, 0.0], [0.5, 0.5]])
    )
    assert reading.leak([0, 0]) == pytest.approx(0)
    assert reading.leak([0, 1]) == pytest.approx(0.25)  # half of what the second reads is the first's
    context, _, masks, (ablator, _) = subject(SUM)
    live = {"hidden1": depths(context.wiring, masks)[0].groups[0].places["hidden1"]}
    measured = measure_reading(ablator, live, [("input", slot) for slot in range(4)])
    assert (measured.share[:, [0, 2]] > 0.05).all()
    assert (measured.share[:, [1, 3]] == 0).all()


def test_random_partitions_keep_the_sizes_of_each_layer():
    context, _, masks, _ = subject(SUM)
    groups = [g.places for g in depths(context.wiring, masks)[1].groups]
    drawn = random_partitions(groups, 50, generator=np.random.default_rng(0))
    # C(4, 2) ways to part each of two layers, of groups of equal size: 6 · 6 / 2, less the groups themselves.
    assert len(drawn) == 17
    for parts in drawn:
        assert [int(part["hidden1"].sum()) for part in parts] == [2, 2]
        assert not (parts[0]["hidden2"] & parts[1]["hidden2"]).any()


def test_a_stream_is_a_terminal_and_a_head_is_one_tree():
    data = sequence_data()
    network = build_network(
        TransformerNetwork(width=4, blocks=1, heads=2), data, generator=torch.Generator().manual_seed(0)
    )
    wiring = network.wiring
    assert wiring.streams == {"residual"}
    assert [layer.name for layer in wiring.hidden_layers] == ["attention1", "hidden1"]
    masks = {
        w.parameter: np.ones(tuple(dict(network.named_parameters())[w.parameter].shape), bool)
        for w in wiring.weight_layers
    }
    trees = TieGraph(wiring, masks, ["attention1", "hidden1"]).groups(by_terminals=False)
    assert sorted(tree.size for tree in trees) == [1] * 16 + [2, 2]  # neurons of the perceptron, and two heads
    assert len(TieGraph(wiring, masks, ["attention1"]).groups()) == 1  # all read the one stream


@pytest.mark.slow
def test_p_is_uniform_for_partitions_that_are_random_themselves():
    """Under the null the partition that is tested is one of the random ones."""
    context, _, _masks, (ablator, _) = subject(COMPOSED)
    wide = teacher([(0, i, j, 1.0 + 0.1 * i - 0.2 * j) for i in range(8) for j in range(4)]
                   + [(1, i, j, 0.7 - 0.1 * i + 0.05 * j * i) for i in range(8) for j in range(8)]
                   + [(2, o, j, 0.5 + 0.1 * j - 0.3 * o) for o in range(2) for j in range(8)])  # fmt: skip
    context = AnalysisContext.of(wide, data_of(wide))
    ablator = Ablator(context, context.network, seed=0)
    live = {"hidden1": np.ones(8, bool), "hidden2": np.ones(8, bool)}
    reading = measure_reading(ablator, live, [("input", slot) for slot in range(4)])
    half = {"hidden1": np.arange(8) < 4, "hidden2": np.arange(8) < 4}
    rest = {layer: ~places for layer, places in half.items()}
    tested = random_partitions([half, rest], 200, generator=np.random.default_rng(1))
    found = [chance(ablator, reading, "sum", parts, count=39, seed=n)[0] for n, parts in enumerate(tested)]
    assert kstest(found, "uniform").pvalue > 1e-3


def test_equal_seeds_give_equal_documents():
    context, values, masks, ablators = subject(SUM, residue=RESIDUE)
    first, second = (
        examine_interior(context, *ablators, values, masks, module_of={}, costs={}, seed=3) for _ in range(2)
    )
    assert first == second
    _, partitions = partitions_of(*ablators, depths(context.wiring, masks), seed=3)
    assert partitions[0].p == first["partitions"][0]["p"]
