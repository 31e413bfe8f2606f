"""No part of the evidence grows beyond its bound, and none that fails takes the others with it."""

from __future__ import annotations

import json

import pytest
import sympy
import torch

from bimt_engine.analysis import evidence as pipeline
from bimt_engine.analysis.communities import find_communities
from bimt_engine.analysis.context import AnalysisContext
from bimt_engine.analysis.evidence import gather_evidence
from bimt_engine.analysis.graph import Connection, Graph, Neuron
from bimt_engine.analysis.modules import find
from bimt_engine.analysis.reachability import full_masks
from bimt_engine.analysis.readout.formulas import (
    ReadoutError,
    compose,
    expression_size,
)
from bimt_engine.analysis.wiring_efficiency import MAX_WORK, relayout
from bimt_engine.networks.mlp import MlpNetwork
from bimt_engine.networks.network import build_network
from tests.engine.analysis.teachers import plain_spec, student_and_data
from tests.engine.makers import table_data

QUICK = {"random_groups": 19, "leiden_seeds": 1, "refit_steps": 5, "tolerance": 0.05}


def perceptron(hidden: list[int], *, activation: str = "silu"):
    data = table_data(2, 1)
    part = MlpNetwork(hidden=hidden, activation=activation)
    return build_network(part, data, precision="float64", generator=torch.Generator().manual_seed(0)), data


@pytest.mark.parametrize("activation", ["silu", "relu", "tanh", "gelu", "gelu_tanh"])
def test_the_size_of_an_expression_is_never_below_that_of_the_expression_made(activation: str) -> None:
    network, data = perceptron([3, 2], activation=activation)
    subject = AnalysisContext.of(network, data)
    masks = full_masks(subject.wiring, subject.values())
    [made] = compose(subject, subject.values(), masks)
    found = sum(1 for _ in sympy.preorder_traversal(made))
    assert found / 2 <= expression_size(subject.plain, masks) <= 4 * found


def test_sixteen_layers_are_refused_before_anything_is_composed() -> None:
    network, data = perceptron([2] * 16)
    subject = AnalysisContext.of(network, data)
    masks = full_masks(subject.wiring, subject.values())
    assert expression_size(subject.plain, masks) > 4**15
    assert masks["weights.0"].size * 16 < 120  # so the number of connections alone would not have refused them
    with pytest.raises(ReadoutError, match=r"Too large: the size of the exact expression would be .* at most 30"):
        compose(subject, subject.values(), masks)


def test_the_evidence_of_sixteen_layers_comes_without_the_expression_alone() -> None:
    network, data = perceptron([2] * 16)
    with torch.no_grad():
        for weight, bias in zip(network.weights, network.biases, strict=True):
            weight.copy_(torch.eye(*weight.shape) * 2.0 + 0.3)  # so that something reaches the output
            bias.zero_()
        outputs = [network(torch.from_numpy(x)).numpy() for x in (data.train_inputs, data.test_inputs)]
    data.train_targets[:], data.test_targets[:] = outputs
    document = gather_evidence(network, data, plain_spec(**QUICK | {"tolerance": 1e-6}), seed=0, nulls=0).document()
    document = json.loads(json.dumps(document, allow_nan=False))
    assert not any("skipped" in document[part] for part in ("effects", "communities", "readout"))
    [output] = document["readout"]["outputs"]
    assert output["formula"]["text"] is not None or output["formula"]["reason"]
    assert output["expression"] is None
    if output["formula"].get("predicted", True):
        assert "oo large" in output["expression_skipped"] or "is not composed" in output["expression_skipped"]


@pytest.mark.parametrize(
    ("function", "part"),
    [("examine_modules", "effects"), ("find_communities", "communities"), ("readout", "readout")],
)
def test_a_part_that_fails_leaves_its_reason_and_all_the_others(monkeypatch, function: str, part: str) -> None:
    network, data = student_and_data()
    spec = plain_spec(**QUICK)
    whole = gather_evidence(network, data, spec, seed=0, nulls=0).document()

    def fail(*_, **__):
        raise RecursionError("too deep")

    monkeypatch.setattr(pipeline, function, fail)
    document = json.loads(json.dumps(gather_evidence(network, data, spec, seed=0, nulls=0).document(), allow_nan=False))
    assert document[part]["skipped"] == "failed: RecursionError: too deep"
    assert document["prune_curve"] == whole["prune_curve"]
    for other in {"effects", "communities", "readout"} - {part}:
        assert "skipped" not in document[other]
    if part != "effects":
        assert document["modules"] == whole["modules"]
    else:
        assert (document["modules"], document["metrics"]["supported_modules"]) == ([], 0)
        assert document["metrics"]["verdict"].startswith("Modules skipped: failed: RecursionError")


def test_random_groups_and_pairs_are_fewer_where_they_would_be_too_much(monkeypatch) -> None:
    monkeypatch.setattr(find, "MAX_GROUP_WORK", 1e6)
    monkeypatch.setattr(find, "MAX_PAIRED_MODULES", 1)
    monkeypatch.setattr(find, "MAX_PERMUTED_INPUTS", 3)
    network, data = student_and_data()
    found = gather_evidence(network, data, plain_spec(**QUICK | {"random_groups": 200}), seed=0, nulls=0).effects
    assert set(found["reduced"]) == {"random_groups", "interaction", "upstream"}
    assert found["random_groups"] < 40
    assert found["interaction"] == []
    assert found["upstream"]["matrix"] == []


def test_a_graph_of_too_many_connections_is_not_searched_for_communities(monkeypatch) -> None:
    monkeypatch.setattr("bimt_engine.analysis.communities.MAX_CONNECTIONS", 3)
    neurons = [Neuron(f"a:{i}", "a", i, i, ()) for i in range(4)] + [Neuron(f"b:{i}", "b", i, i, ()) for i in range(4)]
    connections = [Connection(f"a:{i}", f"b:{i}", 1.0, parameter="weights.0") for i in range(4)]
    found = find_communities(Graph(tuple(neurons), tuple(connections), {}), seeds=1, seed=0, nulls=0)
    assert found["skipped"] == "too large: the number of connections would be 4, and at most 3 is computed"
    assert found["groups"] == []
    assert found["modularity"] is None


def test_no_layout_is_sought_for_layers_too_large(monkeypatch) -> None:
    network, _ = perceptron([4])
    assert relayout(network, seed=0, restarts=1).relaid_wiring is not None
    monkeypatch.setattr("bimt_engine.analysis.wiring_efficiency.MAX_WORK", 10.0)
    found = relayout(network, seed=0)
    assert found.wiring is not None
    assert (found.relaid_wiring, found.wiring_efficiency) == (None, None)


def test_the_bounds_are_well_above_the_networks_of_the_paper() -> None:
    digits, width = 784**3 + 2 * 100**3 + 10**3, 512 * (784 * 100 + 100 * 100 + 100 * 10)
    assert 17 * digits < MAX_WORK
    assert 10 * 40 * 10 * width < find.MAX_GROUP_WORK
