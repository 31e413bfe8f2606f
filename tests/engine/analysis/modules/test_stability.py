"""Runs are compared by what their modules do, and sweeps by what no other run betters."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import adjusted_rand_score

from bimt_engine.analysis.communities import adjusted_rand
from bimt_engine.analysis.evidence import gather_evidence
from bimt_engine.analysis.graph import Graph
from bimt_engine.analysis.job import (
    align_modules,
    by_cost_strength,
    dependencies,
    end_labels,
    interior_stability,
    knee,
    non_dominated,
    pareto,
    selection_loss,
    stability,
)
from bimt_engine.analysis.statements.job import pareto_statement, stability_statement
from tests.engine.analysis.teachers import TANGLED, TWO_MODULES, plain_spec, student_and_data

labels = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=2, max_size=15)


@pytest.fixture(scope="module")
def documents() -> list[dict]:
    """Three runs that agree, and one that is tangled."""
    found = []
    for connections, seed in ((TWO_MODULES, 0), (TWO_MODULES, 1), (TWO_MODULES, 2), (TANGLED, 0)):
        network, data = student_and_data(connections, seed=seed)
        evidence = gather_evidence(network, data, plain_spec(leiden_seeds=1, random_groups=20), seed=seed, nulls=0)
        found.append(json.loads(json.dumps(evidence.document())))
    return found


@pytest.fixture(scope="module")
def nothing() -> dict:
    """A run on pure noise, of which no connection is left."""
    network, data = student_and_data(TWO_MODULES, seed=3)
    draw = np.random.default_rng(3)
    noise = replace(data, train_targets=draw.normal(size=(100, 2)), test_targets=draw.normal(size=(100, 2)))
    evidence = gather_evidence(
        network, noise, plain_spec(tolerance=0.5, leiden_seeds=1, random_groups=20), seed=3, nulls=0
    )
    found = json.loads(json.dumps(evidence.document()))
    assert found["metrics"]["connections"] == 0
    return found


@given(labels)
def test_the_rand_index_is_scikit_learn_s(pairs: list[tuple[int, int]]) -> None:
    one, other = (np.array(side) for side in zip(*pairs, strict=True))
    assert adjusted_rand(one, other) == pytest.approx(adjusted_rand_score(one, other))


def interior_of(*roles, verdict: str = "supported", lies_in=()) -> dict:
    """A document of groups with these (reads, moves)."""
    groups = [
        {
            "name": f"A{number + 1}",
            "works": True,
            "reads": [{"name": name, "share": share} for name, share in reads.items()],
            "strongest": [{"output": name, "effect": 0.5} for name in moves],
            **({"lies_in": [{"name": lies_in[number], "share": 0.95}]} if lies_in else {}),
        }
        for number, (reads, moves) in enumerate(roles)
    ]
    numbers = {"largest_interaction": 0.0, "trained_largest_interaction": 0.0, "trained_leak": 0.0}
    partition = {"kind": "sum", "groups": groups, "p": 0.01 if verdict == "supported" else 0.5, **numbers}
    return {"interior": {"primary": 0, "partitions": [partition | {"random_partitions": 99}]}}


def test_groups_inside_are_met_again_by_what_they_read_and_move() -> None:
    pair = ({"x1": 0.6, "x2": 0.4}, ("y1",)), ({"x3": 0.5, "x4": 0.45, "x1": 0.01}, ("y1",))
    other = ({"x1": 1.0}, ("y1",)), ({"x3": 1.0}, ("y1",))
    runs = [interior_of(*pair), interior_of(*reversed(pair)), interior_of(*other), interior_of(*pair, verdict="no")]
    found = interior_stability([*runs, {}, {"interior": {"skipped": "too large"}}])
    assert [found[name] for name in ("examined", "groups", "counted_in", "same_roles_in")] == [4, 2, 3, 2]
    assert [(role["reads"], role["moves"], role["met_in"]) for role in found["roles"]] == [
        (["x1", "x2"], ["y1"], 2),
        (["x3", "x4"], ["y1"], 2),
    ]
    assert interior_stability([{}, {"interior": {"skipped": "too large"}}]) is None


def test_groups_of_a_group_s_products_are_met_again_by_their_representation() -> None:
    roles = ({"embedding dimension 3": 1.0}, ("0", "1")), ({"embedding dimension 9": 1.0}, ("0", "2"))
    runs = [
        interior_of(*roles, lies_in=names) for names in (("frequency 4", "frequency 9"), ("frequency 9", "frequency 4"))
    ]
    runs.append(interior_of(*roles, lies_in=("frequency 4", "frequency 7")))
    found = interior_stability(runs)
    assert [(role["representation"], role["met_in"]) for role in found["roles"]] == [
        ("frequency 4", 3),
        ("frequency 9", 2),
    ]
    assert (found["counted_in"], found["same_roles_in"]) == (3, 2)
    document = {"runs": 3, "empty": 0, "agreement": 3, "partition": [], "adjusted_rand": None, "modules": []}
    said = stability_statement(document | {"interior": found})
    assert said.endswith(
        "Inside, 3 of 3 runs have 2 supported groups, 2 with the same roles (frequency 4 | frequency 9)."
    )


def test_runs_that_agree_are_counted_and_told(documents) -> None:
    found = stability(documents)
    assert (found["runs"], found["agreement"]) == (4, 3)
    assert found["partition"] == [["in x1", "in x3", "out y1"], ["in x2", "in x4", "out y2"]]
    assert found["reading"].startswith("3 of 4 runs divide inputs and outputs the same way (x1, x3 → y1 | x2, x4 → y2)")
    assert [m["met_in"] for m in found["modules"]] == [4, 4]  # what joins the two overlaps with both
    assert found["modules"][0]["same_ends_in"] == 3
    assert found["modules"][0]["supported_in"] == 3
    assert "x1, x3 → y1 in 3 of 4 runs, overlapping modules in 1 more" in found["reading"]
    shares = np.array(found["dependencies"]["share"])
    np.testing.assert_allclose(shares, [[1, 0.25], [0, 1], [1, 0.25], [0, 1]])
    assert {"parameter": "weights.0", "reads": ["x1"], "leads_to": ["y1"], "share": 1.0} in found["connections"]
    json.dumps(found, allow_nan=False)


def test_runs_that_all_agree_agree_fully(documents) -> None:
    found = stability(documents[:3])
    assert found["agreement"] == 3
    assert found["adjusted_rand"] == pytest.approx(1.0)
    assert found["variation_of_information"] == pytest.approx(0.0)
    assert stability(documents[:1])["agreement"] == 1
    assert stability([])["runs"] == 0


def test_runs_that_kept_nothing_are_runs_that_found_nothing(documents, nothing) -> None:
    found = stability([nothing] * 3)
    assert (found["runs"], found["empty"], found["agreement"], found["modules"]) == (3, 3, 0, [])
    assert (found["reference"], found["adjusted_rand"], found["partition"]) == (None, None, [])
    assert found["reading"].startswith("3 of 3 runs kept no connection")
    assert not np.any(found["dependencies"]["share"])
    json.dumps(found, allow_nan=False)


def test_runs_that_kept_nothing_do_not_outvote_those_that_found_something(documents, nothing) -> None:
    found = stability([nothing, documents[0], nothing, documents[1], nothing])
    assert (found["runs"], found["empty"], found["agreement"], found["reference"]) == (5, 3, 2, 1)
    assert found["reading"].startswith(
        "3 of 5 runs kept no connection, so they have no modules. 2 of 5 runs divide inputs and outputs the same way"
    )
    assert [m["same_ends_in"] for m in found["modules"]] == [2, 2]
    assert found["adjusted_rand"] == pytest.approx(1.0)
    assert np.max(found["dependencies"]["share"]) == pytest.approx(0.4)
    old = json.loads(json.dumps(nothing))
    old["effects"] = {"outputs": ["y1", "y2"], "modules": []}  # as it was once published
    assert stability([old, documents[0], old])["reading"] == stability([nothing, documents[0], nothing])["reading"]


def test_every_cost_strength_is_compared_with_itself_alone(documents, nothing) -> None:
    def at(document: dict, strength: float) -> dict:
        return document | {"cost_strength": strength}

    swept = [at(documents[3], 0.001), at(documents[0], 0.01), at(documents[1], 0.01), at(nothing, 0.1)]
    found = stability(swept)
    assert found["runs"] == 4
    assert "agreement" not in found
    low, middle, high = found["cost_strengths"]
    assert [of["cost_strength"] for of in found["cost_strengths"]] == [0.001, 0.01, 0.1]
    assert [(of["runs"], of["agreement"], of["empty"]) for of in (low, middle, high)] == [
        (1, 1, 0),
        (2, 2, 0),
        (1, 0, 1),
    ]
    assert middle["adjusted_rand"] == pytest.approx(1.0)
    assert [of["reference"] for of in (low, middle, high)] == [0, 1, None]
    assert middle["partition"] == stability(documents[:2])["partition"]
    assert "At λ 0.01: 2 of 2 runs divide inputs and outputs the same way" in found["reading"]
    assert "At λ 0.1: 1 of 1 runs kept no connection" in found["reading"]
    json.dumps(found, allow_nan=False)
    alone = stability([at(document, 0.01) for document in documents])
    assert alone["cost_strengths"] == [{key: alone[key] for key in alone["cost_strengths"][0]}]


def test_modules_are_aligned_by_what_they_do_not_by_their_order(documents) -> None:
    turned = json.loads(json.dumps(documents[1]))
    turned["modules"].reverse()
    for matrix in turned["effects"]["matrices"].values():
        matrix.reverse()
    assert align_modules(turned, documents[0]) == [1, 0]
    assert align_modules(documents[1], documents[0]) == [0, 1]


def test_an_input_that_nothing_reads_stands_alone(documents) -> None:
    lonely = json.loads(json.dumps(documents[0]))
    lonely["modules"][0]["inputs"] = ["x1"]
    names, of = end_labels(lonely)
    group = dict(zip(names, of.tolist(), strict=True))
    assert group["in x1"] == group["out y1"]
    assert list(group.values()).count(group["in x3"]) == 1


def test_dependencies_follow_the_paths(documents) -> None:
    graph = Graph.from_json(documents[0]["graph"])
    of = dependencies(graph)
    for neuron in graph.neurons:
        if neuron.name == "y1":
            assert of[neuron.id][0] == {"x1", "x3"}
        if neuron.name == "x2":
            assert of[neuron.id][1] == {"y2"}


def test_runs_of_other_data_are_not_compared(documents) -> None:
    other = json.loads(json.dumps(documents[0]))
    other["graph"]["graph"]["inputs"][0] = "z"
    for module in other["modules"]:
        module["inputs"] = [n for n in module["inputs"] if n != "x1"]
    with pytest.raises(ValueError, match="only runs of one data set"):
        stability([documents[0], other])


def test_stability_and_pareto_load_without_torch() -> None:
    code = "import sys, bimt_engine.analysis.job; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=12))
def test_what_nothing_betters_is_found_by_trying_all_pairs(points: list[tuple[int, int]]) -> None:
    values = np.array(points, float)
    for row, efficient in zip(points, non_dominated(values), strict=True):
        better = any(a <= row[0] and b <= row[1] and (a, b) != row for a, b in points)
        assert efficient == (not better)


def test_the_knee_is_the_corner() -> None:
    assert knee(np.array([[1e-4, 100.0], [1.2e-4, 10.0], [2e-4, 5.0], [1e-1, 4.0], [1.0, 3.5]])) == 2
    assert knee(np.array([[1.0, 2.0], [2.0, 1.0]])) is None
    assert knee(np.array([[1.0, 100.0], [10.0, 10.0], [100.0, 1.0]])) is None


def test_the_largest_harmless_cost_strength_is_judged_by_the_median_of_its_seeds() -> None:
    points = [
        {"cost_strength": strength, "loss": loss, "wiring": 1.0, "scale": 1.0}
        for strength, losses in ((0.001, (0.010, 0.011, 0.9)), (0.01, (0.012, 0.013, 0.012)), (0.1, (0.5, 0.4, 0.01)))
        for loss in losses
    ]
    found = by_cost_strength(points, tolerance=0.05)
    assert [(s["cost_strength"], s["harmless"]) for s in found] == [(0.001, True), (0.01, True), (0.1, False)]
    assert [(s["loss"], s["lowest_loss"], s["highest_loss"]) for s in found][2] == (0.4, 0.01, 0.5)
    assert found[2]["times_best"] == pytest.approx(0.4 / 0.011)
    assert pareto(points, tolerance=0.05)["suggested_cost_strength"] == 0.01
    assert pareto(points, tolerance=0.5)["suggested_cost_strength"] == 0.1
    assert by_cost_strength([], tolerance=0.5) == []


def test_runs_are_compared_on_validation_rows_where_all_of_them_have_some() -> None:
    before, now = {"test_prediction_loss": 1.0}, {"test_prediction_loss": 1.0, "validation_prediction_loss": 2.0}
    assert selection_loss([now, now]) == ("validation_prediction_loss", "validation")
    assert selection_loss([now, before]) == ("test_prediction_loss", "held-out")


def test_a_loss_a_hundred_times_higher_is_not_harmless() -> None:
    points = [
        {"cost_strength": strength, "loss": loss, "wiring": 1.0, "scale": 0.3, "tolerance": 5e-4}
        for strength, loss in ((0.001, 1e-4), (0.003, 2e-4), (0.01, 1e-2))
    ]
    found = pareto(points)
    assert (found["tolerance"], found["suggested_cost_strength"]) == (5e-4, 0.003)
    assert found["cost_strengths"][2]["times_best"] == pytest.approx(100)
    assert "At λ 0.01 it is 100 times the best." in pareto_statement(found).suggested


def test_a_sweep_marks_its_efficient_runs_and_skips_broken_ones() -> None:
    points = [
        {"run": "a", "cost_strength": 0.0, "loss": 0.01, "wiring": 10.0},
        {"run": "b", "cost_strength": 0.1, "loss": 0.011, "wiring": 1.0},
        {"run": "c", "cost_strength": 1.0, "loss": 0.5, "wiring": 0.8},
        {"run": "d", "cost_strength": 0.5, "loss": 0.6, "wiring": 0.9},
        {"run": "e", "cost_strength": 2.0, "loss": None, "wiring": 0.9},
    ]
    found = pareto(points, tolerance=0.2)
    assert [p["run"] for p in found["points"] if p["efficient"]] == ["a", "b", "c"]
    assert found["knee"]["run"] == "b"
    assert found["suggested_cost_strength"] == 0.1
    assert found["reading"] is None
    assert pareto([])["points"] == pareto([])["cost_strengths"] == []
    assert pareto([])["suggested_cost_strength"] is None


def test_a_run_that_kept_nothing_is_a_point_but_no_knee() -> None:
    points = [
        {"run": str(n), "cost_strength": 10.0**n, "loss": loss, "wiring": wiring, "connections": int(wiring)}
        for n, (loss, wiring) in enumerate([(1e-4, 100.0), (1.2e-4, 10.0), (1e-1, 4.0), (1.0, 3.5), (1.1, 0.0)])
    ]
    found = pareto(points)
    assert found["knee"]["run"] == "1"
    assert [p["run"] for p in found["points"] if p["efficient"]] == ["0", "1", "2", "3", "4"]
    assert found["reading"].startswith("1 of 5 runs kept no connection")
    nothing = [{"run": str(n), "cost_strength": 0.1, "loss": 1.0, "wiring": 0.0, "connections": 0} for n in range(3)]
    assert (pareto(nothing)["knee"], pareto(nothing)["reading"][:10]) == (None, "3 of 3 run")
