"""Effects are what brute force says, p-values are uniform under chance, and modules are what networkx finds."""

from __future__ import annotations

import dataclasses
import itertools

import networkx
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from bimt_engine.analysis.context import AnalysisContext
from bimt_engine.analysis.extraction import extract_graph
from bimt_engine.analysis.modules.effects import (
    ABLATIONS,
    Ablator,
    complement,
    interaction,
    selectivity,
    sufficiency,
    union,
    upstream_effects,
)
from bimt_engine.analysis.modules.find import examine_modules, find_modules, letter
from bimt_engine.analysis.modules.significance import holm, p_value, random_groups, specific_effect
from bimt_engine.analysis.pruning.search import prune
from bimt_engine.analysis.reachability import component_labels, count_modules, full_masks, touched_places
from bimt_engine.analysis.statements.wording import listed, short
from tests.engine.analysis.teachers import TANGLED, TWO_MODULES, data_of, student_and_data, teacher
from tests.engine.makers import build


@pytest.mark.parametrize("name", ["recurrent", "transformer"])
def test_a_target_predicted_at_several_steps_is_one_claim(name: str) -> None:
    network, data = build(name)
    data = dataclasses.replace(data, predicted_positions=(0, 2))
    subject = AnalysisContext.of(network, data)
    ablator = Ablator(subject, subject.network, seed=1)
    group = {"hidden1": np.arange(subject.wiring.layer("hidden1").places) < 2}
    [answers] = ablator.outputs_without([group], "zero").reshape(1, -1, 2, 2)
    plain = subject.network(ablator.inputs).detach().numpy()[:, [0, 2]]
    lost = ((answers - plain) ** 2).mean(axis=0).sum(axis=0) / plain.var(axis=0).sum(axis=0)
    np.testing.assert_allclose(ablator.effects([group], "zero").matrix, lost[None], rtol=1e-12)

    pruned = prune(subject, tolerance=0.05, refit_evaluations=20, seed=0)
    report = examine_modules(
        subject, Ablator(subject, pruned.network, seed=1), ablator, pruned.masks, random_group_count=5, seed=0
    )
    assert all(set(module["effects"]) == set(data.target_names) for module in report.modules)


@pytest.mark.parametrize("do", ABLATIONS)
@pytest.mark.parametrize("name", ["mlp", "classifier", "grid mlp"])
def test_effects_agree_with_switching_neurons_off_by_hand(name: str, do: str) -> None:
    network, data = build(name)
    subject = AnalysisContext.of(network, data)
    ablator = Ablator(subject, subject.network, seed=1)
    size = subject.wiring.layer("hidden1").neurons
    groups = [{"hidden1": np.arange(size) == slot} for slot in range(size)]
    groups.append({"hidden1": np.arange(size) < 2})
    matrix = ablator.effects(groups, do).matrix

    x = torch.from_numpy(np.concatenate([data.train_inputs, data.test_inputs]))
    with torch.no_grad():
        first = network.forward_with_hooks(x)[1]["hidden1"]
        before = network(x).numpy()
    for row, group in enumerate(groups):
        places = torch.from_numpy(group["hidden1"])

        def switch_off(layer: str, activation: torch.Tensor, places: torch.Tensor = places) -> torch.Tensor:
            if layer != "hidden1":
                return activation
            changed = activation.clone()
            if do == "zero":
                changed[:, places] = 0.0
            elif do == "mean":
                changed[:, places] = first.mean(0)[places]
            else:
                changed[:, places] = first[ablator.partner][:, places]
            return changed

        with torch.no_grad():
            after = network.forward_with_hooks(x, switch_off)[0].numpy()
        brute = ((after - before) ** 2).mean(0) / before.var(0)
        np.testing.assert_allclose(matrix[row], brute, rtol=1e-10)


def test_every_example_is_resampled_from_another_one() -> None:
    subject = AnalysisContext.of(*build("mlp"))
    for seed in range(5):
        partner = Ablator(subject, subject.network, seed=seed).partner
        assert (partner != torch.arange(len(partner))).all()
        assert sorted(partner.tolist()) == list(range(len(partner)))


def test_an_empty_group_does_nothing_and_a_mean_of_everything_leaves_a_constant(architecture: str) -> None:
    network, data = build(architecture)
    subject = AnalysisContext.of(network, data)
    ablator = Ablator(subject, subject.network, seed=0)
    ends = (subject.wiring.input_layer.name, subject.wiring.output_layer.name)
    sizes = {layer.name: layer.places for layer in subject.wiring.neuron_layers}
    nothing = {layer: np.zeros(size, bool) for layer, size in sizes.items()}
    everything = {layer: np.ones(size, bool) for layer, size in sizes.items() if layer != ends[1]}
    assert ablator.effects([nothing], "zero").matrix == pytest.approx(0.0, abs=1e-20)
    answers = ablator.outputs_without([everything], "zero")
    np.testing.assert_allclose(answers.std(axis=1), 0.0, atol=1e-12)


def test_all_groups_at_once_are_the_same_as_one_by_one(architecture: str) -> None:
    network, data = build(architecture)
    subject = AnalysisContext.of(network, data)
    ablator = Ablator(subject, subject.network, seed=0)
    layer = subject.wiring.neuron_layers[1].name
    size = subject.wiring.layer(layer).places
    groups = [{layer: np.arange(size) == slot} for slot in range(size)]
    for do in ABLATIONS:
        together = ablator.effects(groups, do).matrix
        alone = np.concatenate([ablator.effects([group], do).matrix for group in groups])
        np.testing.assert_allclose(together, alone, rtol=1e-8, atol=1e-14)


def test_class_effects_are_the_rise_of_cross_entropy_on_the_examples_of_the_class() -> None:
    network, data = build("classifier")
    subject = AnalysisContext.of(network, data)
    ablator = Ablator(subject, subject.network, seed=0)
    group = {"hidden1": np.arange(8) == 3}
    effects = ablator.effects([group], "zero")
    y = torch.from_numpy(np.concatenate([data.train_targets, data.test_targets]))
    after = torch.from_numpy(ablator.outputs_without([group], "zero")[0])
    before = torch.from_numpy(ablator.outputs)
    for label in range(4):
        of = y == label
        rise = torch.nn.functional.cross_entropy(after[of], y[of]) - torch.nn.functional.cross_entropy(
            before[of], y[of]
        )
        assert effects.cross_entropy[0, label] == pytest.approx(rise.item())
        fall = (before[of].argmax(1) == y[of]).double().mean() - (after[of].argmax(1) == y[of]).double().mean()
        assert effects.accuracy[0, label] == pytest.approx(fall.item())


def test_selectivity_is_one_for_one_output_and_zero_for_all_alike() -> None:
    effects = np.array([[1.0, 0.0, 0.0], [0.5, 0.5, 0.5], [0.0, 0.0, 0.0], [1.0, 1.0, 0.0]])
    np.testing.assert_allclose(selectivity(effects), [1.0, 0.0, 0.0, 1 - np.log(2) / np.log(3)], atol=1e-12)


def test_two_modules_are_exclusive_sufficient_and_do_not_interact() -> None:
    network = teacher()
    subject = AnalysisContext.of(network, data_of(network))
    masks = {name: value != 0 for name, value in subject.values().items() if name.startswith("weights")}
    modules = find_modules(subject, masks)
    assert [(m.name, m.inputs, m.outputs, m.connections) for m in modules] == [
        ("A", (0, 2), (0,), 9),
        ("B", (1, 3), (1,), 9),
    ]
    ablator = Ablator(subject, subject.network, seed=0)
    groups = [{n: p for n, p in m.places.items() if n.startswith("hidden")} for m in modules]
    whole = union(*groups)
    for do in ABLATIONS:
        matrix = ablator.effects(groups, do).matrix
        assert matrix[0, 1] == matrix[1, 0] == 0.0
        assert min(matrix[0, 0], matrix[1, 1]) > 0.5
    np.testing.assert_allclose(np.diag(sufficiency(ablator, groups, whole)), 1.0, atol=1e-12)
    np.testing.assert_allclose(interaction(ablator, groups), 0.0, atol=1e-12)
    upstream = upstream_effects(ablator, groups)
    assert (upstream[[1, 3], 0] == 0).all()
    assert (upstream[[0, 2], 1] == 0).all()
    assert (upstream[[0, 2], 0] > 0.05).all()


def test_the_report_supports_two_true_modules_and_says_so_in_words() -> None:
    network, data = student_and_data()
    subject = AnalysisContext.of(network, data)
    pruned = prune(subject, tolerance=5e-4)
    report = examine_modules(
        subject, Ablator(subject, pruned.network, seed=0), Ablator(subject, subject.network, seed=0), pruned.masks,
        random_group_count=200, seed=0,
    )  # fmt: skip
    assert report.supported == 2
    assert report.verdict == "Both modules are supported: A and B."
    assert report.modules[0]["reading"].startswith("module A reads x1 and x3, decides y1, nothing else: effect 1.0")
    first = report.modules[0]
    assert (
        "in the pruned network, where it is separate by construction; in the network as trained its" in first["reading"]
    )
    assert first["reading"].endswith(
        f"neurons move y1 by {first['effects']['y1']['trained']:.2f} of its variance, others by "
        f"{short(first['effects']['y2']['trained'])} at most"
    )
    assert (first["trained_effect"], first["trained_leak"]) == tuple(
        first["effects"][target]["trained"] for target in ("y1", "y2")
    )
    assert report.modules[1]["effects"]["y1"]["mean"] < 1e-3
    assert report.modules[1]["effects"]["y2"]["p_holm"] < 0.05


def test_a_module_has_the_p_values_of_the_matrix_both_raw_and_corrected() -> None:
    network, data = student_and_data()
    subject = AnalysisContext.of(network, data)
    pruned = prune(subject, tolerance=5e-4)
    ablators = Ablator(subject, pruned.network, seed=0), Ablator(subject, subject.network, seed=0)
    report = examine_modules(subject, *ablators, pruned.masks, random_group_count=200, seed=0)
    for row, module in enumerate(report.modules):
        for column, target in enumerate(report.effects["outputs"]):
            found = module["effects"][target]
            assert found["p"] == report.effects["p"][row][column]
            assert found["p_holm"] == report.effects["p_holm"][row][column]
        [own] = module["outputs"]
        assert module["effects"][own]["p_holm"] == pytest.approx(2 * module["effects"][own]["p"])  # two claims
        assert f"p = {module['effects'][own]['p_holm']:.3g} (Holm)" in module["reading"]


def test_a_separation_that_pruning_made_is_not_supported() -> None:
    """The trained network does the two tasks with neurons that all serve both; pruning cuts a pretty picture."""
    network = teacher()
    data = data_of(network)
    with torch.no_grad():  # a rotation between the neurons of the last hidden layer: every neuron now serves both
        network.weights[2] += 0.8 * torch.randn(2, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    trained = AnalysisContext.of(network, data)
    clean = AnalysisContext.of(teacher(), data)
    masks = {name: value != 0 for name, value in clean.values().items() if name.startswith("weights")}
    report = examine_modules(
        trained, Ablator(clean, clean.network, seed=0), Ablator(trained, trained.network, seed=0), masks,
        random_group_count=200, seed=0,
    )  # fmt: skip
    assert report.supported == 0
    assert "pruning made this separation, training did not" in report.verdict


def test_a_network_in_one_piece_has_no_separate_module() -> None:
    network, data = student_and_data(TANGLED)
    subject = AnalysisContext.of(network, data)
    pruned = prune(subject, tolerance=5e-4)
    report = examine_modules(
        subject, Ablator(subject, pruned.network, seed=0), Ablator(subject, subject.network, seed=0), pruned.masks,
        random_group_count=50, seed=0,
    )  # fmt: skip
    assert report.supported == 0
    assert report.verdict.startswith("No separate module is supported")


def test_components_are_those_of_networkx(architecture: str) -> None:
    network, data = build(architecture)
    subject = AnalysisContext.of(network, data)
    draw = np.random.default_rng(0)
    values = subject.values()
    for _ in range(10):
        masks = {n: draw.random(m.shape) < 0.12 for n, m in full_masks(subject.wiring, values).items()}
        graph = extract_graph(subject, values, masks)
        theirs = networkx.Graph([(c.source, c.target) for c in graph.connections])
        for weights in subject.wiring.weight_layers:  # a head's neurons hang together through its scores
            if weights.target_copies > 1:
                layer = subject.wiring.layer(weights.target)
                rows = sorted({int(row) % layer.neurons for row in np.nonzero(masks[weights.parameter])[0]})
                for one, other in itertools.pairwise(rows):
                    if one * layer.blocks // layer.neurons == other * layer.blocks // layer.neurons:
                        theirs.add_edge(f"{layer.name}:{one}", f"{layer.name}:{other}")
        labels = component_labels(subject.wiring, masks)
        ours: dict[int, set[str]] = {}
        for layer_name, of in labels.items():
            for slot, label in enumerate(of.tolist()):
                if label >= 0:
                    ours.setdefault(label, set()).add(f"{layer_name}:{slot}")
        assert sorted(map(sorted, ours.values())) == sorted(map(sorted, networkx.connected_components(theirs)))
        last = subject.wiring.output_layer.name
        holding = [c for c in networkx.connected_components(theirs) if any(i.startswith(f"{last}:") for i in c)]
        assert count_modules(subject.wiring, masks) == len(holding)


def test_a_graph_holds_what_the_wiring_says(architecture: str) -> None:
    network, data = build(architecture)
    subject = AnalysisContext.of(network, data)
    values = subject.values()
    masks = full_masks(subject.wiring, values)
    graph = extract_graph(subject, values, masks)
    assert len(graph.connections) == sum(mask.size for mask in masks.values())
    positions = {n.id: n.position for n in graph.neurons}
    for connection in graph.connections[:: max(1, len(graph.connections) // 40)]:
        weights = next(w for w in subject.wiring.weight_layers if w.parameter == connection.parameter)
        assert connection.weight == values[connection.parameter][connection.row, connection.column]
        ends = zip(positions[connection.source], positions[connection.target], strict=False)
        assert connection.length == pytest.approx(sum(abs(a - b) for a, b in ends))
        assert connection.source.startswith(weights.source)
    named = {n.name for n in graph.neurons}
    assert set(data.target_names) <= named
    places = range(subject.wiring.input_layer.places)
    assert {feature for place in places for feature in subject.features(place)} == set(range(data.inputs))
    if data.tokens is None and len(places) == data.inputs:
        assert set(data.feature_names) <= named
    assert type(graph).from_json(graph.to_json()) == graph


def test_exchanged_neurons_keep_their_names_and_identities() -> None:
    network = teacher()
    data = data_of(network)
    network.adopt_orders({"input": torch.tensor([2, 0, 3, 1]), "output": torch.tensor([1, 0])})
    subject = AnalysisContext.of(network, data)
    masks = {name: value != 0 for name, value in subject.values().items() if name.startswith("weights")}
    graph = extract_graph(subject, subject.values(), masks)
    assert [n.name for n in graph.neurons if n.layer == "input"] == ["x3", "x1", "x4", "x2"]
    assert [n.name for n in graph.neurons if n.layer == "output"] == ["y2", "y1"]
    modules = find_modules(subject, masks)
    # Slots 0 and 2 hold x3 and x4 now, and lead to slot 0, which holds y2.
    assert {(m.inputs, m.outputs) for m in modules} == {((2, 3), (1,)), ((0, 1), (0,))}
    touched = touched_places(subject.wiring, masks)
    assert touched["hidden1"].sum() == 4


# --- chance -----------------------------------------------------------------------------------------


def test_random_groups_match_in_size_and_are_never_the_group_itself() -> None:
    group = {"hidden1": np.array([1, 1, 0, 0, 0, 0], bool), "hidden2": np.array([0, 1, 0, 0], bool)}
    pool = {"hidden1": np.array([1, 1, 1, 1, 1, 0], bool), "hidden2": np.ones(4, bool)}
    found = random_groups(group, pool, 30, generator=np.random.default_rng(0))
    told = {tuple(np.flatnonzero(g["hidden1"])) + tuple(np.flatnonzero(g["hidden2"])) for g in found}
    assert len(found) == len(told) == 30
    assert (0, 1, 1) not in told
    assert all(g["hidden1"].sum() == 2 and g["hidden2"].sum() == 1 and not g["hidden1"][5] for g in found)


def test_where_few_groups_exist_all_are_tried_once() -> None:
    group = {"hidden1": np.array([1, 0, 0], bool)}
    pool = {"hidden1": np.ones(3, bool)}
    assert len(random_groups(group, pool, 200, generator=np.random.default_rng(0))) == 2
    assert random_groups(pool, pool, 200, generator=np.random.default_rng(0)) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_agrees_with_its_definition(p: list[float]) -> None:
    ours = holm(np.array(p))
    order = np.argsort(p, kind="stable")
    running = 0.0
    for rank, index in enumerate(order):
        running = max(running, min(1.0, (len(p) - rank) * p[index]))
        assert ours[index] == pytest.approx(running)


def test_p_counts_ties_and_the_observed_itself() -> None:
    assert p_value(1.0, np.array([0.0, 0.5, 1.0, 2.0])) == 3 / 5
    assert p_value(3.0, np.zeros(199)) == 1 / 200


def test_a_specific_effect_counts_no_more_than_all_there_is() -> None:
    assert specific_effect(np.array([[5.0, 0.25], [0.5, 3.0], [1.0, 0.0]]), 0).tolist() == [0.75, -0.5, 1.0]
    assert specific_effect(np.array([0.4]), 0) == pytest.approx(0.4)


@pytest.mark.slow
def test_p_is_uniform_when_the_module_is_itself_a_random_group() -> None:
    network = teacher(residue=0.7, hidden=14, seed=5)
    subject = AnalysisContext.of(network, data_of(network))
    ablator = Ablator(subject, subject.network, seed=0)
    pool = {"hidden1": np.ones(14, bool), "hidden2": np.ones(14, bool)}
    draw = np.random.default_rng(0)
    found = []
    for _ in range(300):
        group = {layer: np.isin(np.arange(14), draw.choice(14, 4, replace=False)) for layer in pool}
        chance = random_groups(group, pool, 99, generator=draw)
        own, others = (specific_effect(ablator.effects(g, "mean").matrix, 0) for g in ([group], chance))
        found.append(p_value(float(own[0]), others))
    assert stats.kstest(found, "uniform").pvalue > 0.01


def test_letters_and_lists_read_as_people_write_them() -> None:
    assert [letter(i) for i in (0, 25, 26, 27, 701, 702)] == ["A", "Z", "AA", "AB", "ZZ", "AAA"]
    assert listed([]) == ""
    assert listed(["x1"]) == "x1"
    assert listed(["x1", "x2", "x3"]) == "x1, x2 and x3"
    assert listed([str(i) for i in range(10)]).endswith("7 and 2 more")


def test_complement_and_union_are_what_they_say() -> None:
    whole = {"hidden1": np.array([1, 1, 1, 0], bool)}
    part = {"hidden1": np.array([1, 0, 0, 0], bool)}
    assert complement(part, whole)["hidden1"].tolist() == [False, True, True, False]
    assert union(part, {"hidden2": np.ones(2, bool)})["hidden2"].all()


def test_teachers_are_what_their_names_say() -> None:
    assert len(TANGLED) == len(TWO_MODULES) + 1
