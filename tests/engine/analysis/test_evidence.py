"""One call gives the whole evidence, as plain JSON, the same for the same seed, for every architecture."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from bimt_engine.analysis.evidence import gather_evidence
from bimt_engine.analysis.graph import Graph
from bimt_engine.analysis.report import finite_json
from tests.engine.analysis.teachers import plain_spec, student_and_data
from tests.engine.makers import build

QUICK = {"random_groups": 19, "leiden_seeds": 3, "refit_steps": 10, "tolerance": 0.05}


def test_every_architecture_gives_its_evidence_as_json(architecture: str) -> None:
    network, data = build(architecture)
    heard: list[float] = []
    evidence = gather_evidence(
        network, data, plain_spec(**QUICK), seed=0, progress=lambda fraction, note: heard.append(fraction), nulls=2
    )
    document = json.loads(json.dumps(evidence.document(), allow_nan=False))
    always = {"metrics", "prune_curve", "graph", "modules", "effects", "interior", "communities", "readout"}
    assert set(document) == always | ({"representations"} if data.group is not None else set())
    assert Graph.from_json(document["graph"]) == evidence.graph
    assert document["metrics"]["connections"] == len(document["graph"]["edges"])
    assert document["metrics"]["modules"] == len(document["modules"])
    for prefix in ("", "trained_"):
        assert document["metrics"][f"{prefix}wiring"] >= document["metrics"][f"{prefix}relaid_wiring"] >= 0
    assert (document["metrics"]["wiring_efficiency"] or 1.0) >= 1.0
    assert heard == sorted(heard)
    assert heard[-1] == 1.0
    assert heard[0] >= 0
    if data.task == "classification":
        assert 0 <= document["metrics"]["test_accuracy"] <= 1


def test_the_network_of_the_evidence_is_the_one_in_the_graph() -> None:
    network, data = student_and_data()
    evidence = gather_evidence(network, data, plain_spec(leiden_seeds=3), seed=0, nulls=2)
    parameters = dict(evidence.network.named_parameters())
    kept = {c.parameter: np.zeros(tuple(parameters[c.parameter].shape), bool) for c in evidence.graph.connections}
    for connection in evidence.graph.connections:
        assert parameters[connection.parameter][connection.row, connection.column].item() == connection.weight
        kept[connection.parameter][connection.row, connection.column] = True
    for name, mask in kept.items():
        assert (parameters[name].detach().numpy()[~mask] == 0).all()
    with torch.no_grad():
        error = (evidence.network(torch.from_numpy(data.test_inputs)) - torch.from_numpy(data.test_targets)) ** 2
    assert evidence.metrics["test_prediction_loss"] == pytest.approx(error.mean().item(), rel=1e-9)
    assert {n.module for n in evidence.graph.neurons} == {"A", "B"}


def test_groups_of_targets_that_name_classes_have_an_accuracy() -> None:
    network, data = build("grid mlp")  # five targets, of which two and three name a class together
    grouped = replace(data, label_groups=((0, 1), (2, 3, 4)))
    metrics = gather_evidence(network, grouped, plain_spec(**QUICK), seed=0, nulls=0).metrics
    with torch.no_grad():
        said = network(torch.from_numpy(data.test_inputs)).numpy()
    right = [said[:, g].argmax(1) == data.test_targets[:, g].argmax(1) for g in ([0, 1], [2, 3, 4])]
    assert metrics["trained_test_accuracy"] == pytest.approx(np.mean(right))
    assert metrics["test_r2"] is not None
    assert "test_accuracy" not in gather_evidence(network, data, plain_spec(**QUICK), seed=0, nulls=0).metrics


def test_the_evidence_is_equal_by_seed() -> None:
    network, data = student_and_data()
    one, two = (
        gather_evidence(network, data, plain_spec(leiden_seeds=3), seed=4, nulls=5).document() for _ in range(2)
    )
    assert one == two


def test_without_random_groups_nothing_is_called_supported() -> None:
    network, data = student_and_data()
    evidence = gather_evidence(network, data, plain_spec(random_groups=0, leiden_seeds=1), seed=0, nulls=0)
    assert evidence.metrics["supported_modules"] == 0


def test_what_progress_raises_goes_through() -> None:
    class Stopped(Exception):
        pass

    def stop(fraction: float, note: str) -> None:
        raise Stopped

    network, data = student_and_data()
    with pytest.raises(Stopped):
        gather_evidence(network, data, plain_spec(), seed=0, progress=stop)


def test_infinities_become_null() -> None:
    thing = {"a": [float("nan"), np.float64("inf"), np.int64(3)], "b": (True, np.bool_(False), "x", None)}
    assert finite_json(thing) == {"a": [None, None, 3], "b": [True, False, "x", None]}
