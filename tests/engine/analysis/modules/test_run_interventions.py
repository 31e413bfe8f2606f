"""Interventions as documents: what is asked in JSON is what is done, and every wrong field is told with its place."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from bimt_engine.analysis.context import AnalysisContext
from bimt_engine.analysis.intervention_request import MAX_TRIALS, InterventionError, read_request
from bimt_engine.analysis.modules.interventions import Change, Intervention, run_interventions
from bimt_engine.data.dataset import Dataset
from tests.engine.analysis.teachers import TWO_MODULES, data_of, teacher
from tests.engine.makers import build

MODULES = [{"name": "A", "neurons": ["input:0", "input:2", "hidden1:0", "hidden1:1", "hidden2:0", "output:0"]}]


def test_the_answer_is_that_of_the_intervention_and_survives_json() -> None:
    network = teacher()
    data = data_of(network)
    asked = {
        "trials": [
            [{"kind": "connection", "id": "weights.0[0,0]"}],
            [{"kind": "neuron", "id": "hidden1:4", "do": "scale", "value": 0.5}, {"kind": "module", "id": "A"}],
        ]
    }
    answer = json.loads(json.dumps(run_interventions(network, data, asked, modules=MODULES), allow_nan=False))
    subject = AnalysisContext.of(network, data)
    by_hand = Intervention(subject, subject.values(), modules={"A": MODULES[0]["neurons"]}).run(
        [
            [Change("connection", "weights.0[0,0]")],
            [Change("neuron", "hidden1:4", "scale", 0.5), Change("module", "A")],
        ]
    )
    for told, outcome in zip(answer["trials"], by_hand, strict=True):
        assert told["metrics"] == pytest.approx(outcome.metrics)
        assert told["effects"] == pytest.approx(outcome.effects)
    assert answer["trials"][0]["effects"]["y2"] == 0.0
    assert answer["trials"][1]["changes"][1] == {"kind": "module", "id": "A", "do": "zero", "value": None}


def test_a_group_inside_a_module_is_changed_as_its_neurons_are() -> None:
    network = teacher()
    data = data_of(network)
    group = {"name": "A1", "neurons": ["hidden1:0", "hidden2:0"]}
    asked = {"trials": [[{"kind": "module", "id": "A1", "do": "mean"}]]}
    [told] = run_interventions(network, data, asked, modules=[*MODULES, group])["trials"]
    by_hand = {"trials": [[{"kind": "neuron", "id": one, "do": "mean"} for one in group["neurons"]]]}
    [expected] = run_interventions(network, data, by_hand)["trials"]
    assert told["effects"] == expected["effects"]
    assert told["effects"]["y1"] > 0.1
    assert told["effects"]["y2"] == 0.0


def test_each_connection_that_is_kept_has_a_trial() -> None:
    network = teacher()
    answer = run_interventions(network, data_of(network), {"each": {"kind": "connection"}})
    keys = {trial["changes"][0]["id"] for trial in answer["trials"]}
    assert keys == {f"weights.{layer}[{target},{source}]" for layer, target, source, _ in TWO_MODULES}
    loss = [trial["metrics"]["prediction_loss"] for trial in answer["trials"]]
    assert min(loss) > answer["before"]["prediction_loss"]


def test_each_neuron_is_one_between_the_ends_that_a_connection_touches() -> None:
    network = teacher()
    answer = run_interventions(network, data_of(network), {"each": {"kind": "neuron", "do": "mean"}})
    ids = {trial["changes"][0]["id"] for trial in answer["trials"]}
    assert ids == {f"hidden{layer}:{slot}" for layer in (1, 2) for slot in (0, 1, 4, 5)}


@pytest.mark.parametrize("kind", ["connection", "neuron"])
def test_every_architecture_answers(architecture: str, kind: str) -> None:
    network, data = build(architecture)
    inner = [layer.name for layer in network.wiring.neuron_layers][1:-1]
    if kind == "neuron" and not inner:
        with pytest.raises(InterventionError, match="no neuron to change"):
            run_interventions(network, data, {"each": {"kind": kind}})
        return
    answer = run_interventions(network, data, {"each": {"kind": kind}})
    assert len(answer["trials"]) >= 3
    assert np.isfinite([list(trial["effects"].values()) for trial in answer["trials"]]).all()


@pytest.mark.parametrize(
    ("asked", "pointer"),
    [
        ({}, ""),
        ({"trials": []}, ""),
        ({"trials": [[{"kind": "neuron", "id": "hidden1:0"}]], "each": {"kind": "neuron"}}, ""),
        ({"trials": [[{"kind": "synapse", "id": "x"}]]}, "/trials/0/0/kind"),
        ({"trials": [[{"kind": "neuron", "id": "hidden1:0", "d": "set"}]]}, "/trials/0/0/d"),
        (
            {"trials": [[{"kind": "neuron", "id": "hidden1:0", "do": "set", "value": float("inf")}]]},
            "/trials/0/0/value",
        ),
        ({"trials": [[]] * (MAX_TRIALS + 1)}, "/trials"),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_place(asked: dict, pointer: str) -> None:
    with pytest.raises(InterventionError) as caught:
        read_request(asked)
    assert caught.value.problems[0][0] == pointer


def test_every_change_that_cannot_be_made_is_told_at_once() -> None:
    network = teacher()
    asked = {
        "trials": [
            [{"kind": "neuron", "id": "hidden1:0"}, {"kind": "neuron", "id": "hidden9:0"}],
            [{"kind": "module", "id": "Q"}],
        ]
    }
    with pytest.raises(InterventionError) as caught:
        run_interventions(network, data_of(network), asked, modules=MODULES)
    assert [place for place, _ in caught.value.problems] == ["/trials/0/1", "/trials/1/0"]
    assert "no module 'Q'; this network has A" in caught.value.problems[1][1]


def test_more_than_can_be_answered_soon_is_refused_with_what_can() -> None:
    network, small = build("grid mlp")
    x = np.zeros((4096, small.inputs))
    data = Dataset(
        x, np.zeros((4096, small.targets)), x, np.zeros((4096, small.targets)), "regression", small.feature_names,
        small.target_names,
    )  # fmt: skip
    import bimt_engine.analysis.modules.interventions as interventions

    before = interventions.MAX_WORK
    interventions.MAX_WORK = 1e8
    try:
        with pytest.raises(InterventionError, match="ask for at most [0-9]+ at once"):
            run_interventions(network, data, {"each": {"kind": "connection"}})
    finally:
        interventions.MAX_WORK = before


def test_what_may_be_asked_is_read_without_torch() -> None:
    code = "import bimt_engine.analysis.intervention_request, sys; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
