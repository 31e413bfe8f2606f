"""Claims are computed anew from the weights; an altered claim, an altered weight or other data are found out."""

from __future__ import annotations

import copy
import dataclasses
import json

import pytest
import torch

from bimt_engine.analysis.evidence import gather_evidence
from bimt_engine.analysis.report import Evidence
from bimt_engine.analysis.verification import verify
from bimt_engine.data.dataset import Dataset
from bimt_engine.data.kinds.synthetic import FormulaData
from bimt_engine.data.registry import make_dataset
from bimt_engine.exports.weights import SavedNetwork, load_weights, weights_file
from bimt_engine.networks.mlp import MlpNetwork
from bimt_engine.networks.network import Network
from bimt_engine.recipes import load_recipe
from bimt_engine.spec import Spec
from bimt_engine.training.loop import Training
from tests.engine.analysis.teachers import TWO_MODULES, data_of, student_and_data


@pytest.fixture(scope="module")
def run() -> tuple[Network, Dataset, Spec, Evidence]:
    spec = Spec.model_validate(
        {
            "dataset": FormulaData(formulas=["x1", "x2"], inputs=4),
            "network": MlpNetwork(hidden=[8, 8]),
            "evidence": {"random_groups": 40, "leiden_seeds": 1},
        }
    )
    network, data = student_and_data()
    return network, data, spec, gather_evidence(network, data, spec, seed=3, nulls=0)


@pytest.fixture
def claims(run) -> dict:
    return json.loads(json.dumps(run[3].document()))


@pytest.fixture
def saved(run) -> SavedNetwork:
    network, data, spec, evidence = run
    return load_weights(weights_file(network, evidence.network, spec=spec, seed=3, dataset=data))


def disagreeing(document: dict) -> list[str]:
    return [check["what"] for check in document["checks"] if not check["agrees"]]


def test_true_claims_are_confirmed(run, saved, claims) -> None:
    heard = []
    found = verify(saved, run[1], claims, progress=lambda fraction, note: heard.append(fraction))
    assert found["agrees"], found
    assert disagreeing(found) == []
    assert found["reading"] == "The stored weights reproduce every claim."
    whats = [check["what"] for check in found["checks"]]
    assert {"the data are those of the run", "modules", "connections", "connections, pruned again"} <= set(whats)
    assert heard == sorted(heard)
    assert heard[-1] == 1.0
    json.dumps(found, allow_nan=False)


@pytest.mark.parametrize(
    ("tamper", "found_out"),
    [
        (lambda c: c["metrics"].update(test_prediction_loss=1e-9), "test_prediction_loss"),
        (lambda c: c["modules"][0]["inputs"].append("x2"), "modules"),
        (lambda c: c["modules"][1].update(supported=not c["modules"][1]["supported"]), "which modules are supported"),
        (lambda c: c["effects"]["matrices"]["mean"][0].__setitem__(1, 0.5), "effects (mean): largest difference"),
        (lambda c: c["effects"]["p_holm"][0].__setitem__(0, 1e-9), "p-values (Holm): largest difference"),
        (lambda c: c["graph"]["edges"].pop(), "connections"),
        (lambda c: c["graph"]["edges"][0].update(weight=0.1), "largest difference of a weight"),
    ],
)
def test_an_altered_claim_is_found_out(run, saved, claims, tamper, found_out: str) -> None:
    tamper(claims)
    found = verify(saved, run[1], claims, again=False)
    assert not found["agrees"]
    assert found_out in disagreeing(found)
    assert found_out in found["reading"]


@pytest.fixture(scope="module")
def one_piece() -> tuple[Network, Dataset, Spec, Evidence]:
    """Both modules of the teacher led to one output: one piece, with groups inside."""
    spec = Spec.model_validate(
        {
            "dataset": FormulaData(formulas=["x1", "x2"], inputs=4),
            "network": MlpNetwork(hidden=[8, 8]),
            "evidence": {"random_groups": 40},
        }
    )
    network, data = student_and_data((*TWO_MODULES, (2, 0, 4, 1.3), (2, 0, 5, -1.5)))
    return network, data, spec, gather_evidence(network, data, spec, seed=3)


@pytest.mark.parametrize(
    ("tamper", "found_out"),
    [
        (lambda p: p["groups"][0]["neurons"].pop(), "groups inside the modules"),
        (lambda p: p.update(verdict="supported by nothing"), "verdicts on these groups"),
        (
            lambda p: p.update(trained_largest_interaction=0.3),
            "largest interactions of these groups: largest difference",
        ),
    ],
)
def test_an_altered_claim_about_groups_is_found_out(one_piece, tamper, found_out: str) -> None:
    network, data, spec, evidence = one_piece
    saved = load_weights(weights_file(network, evidence.network, spec=spec, seed=3, dataset=data))
    claims = json.loads(json.dumps(evidence.document()))
    assert verify(saved, data, claims, again=False)["agrees"]
    tamper(claims["interior"]["partitions"][0])
    found = verify(saved, data, claims, again=False)
    assert found_out in disagreeing(found)


@pytest.mark.parametrize(("version", "asked"), [(3, False), (4, True)])
def test_without_connection_cost_no_group_is_supported_and_earlier_rules_are_checked_as_they_were(
    version, asked
) -> None:
    recipe = load_recipe("independence").spec.model_dump(mode="json")
    recipe["training"]["method"], recipe["evidence"]["evidence_version"] = "vanilla", version
    spec = Spec.model_validate(recipe)
    data = make_dataset(spec.dataset, seed=2)
    training = Training.begin(spec, data, seed=2)
    for _ in training.updates():
        pass
    evidence = gather_evidence(training.network, data, spec, seed=2)
    claims = json.loads(json.dumps(evidence.document()))
    assert claims["metrics"]["supported_modules"] == 0
    assert {"rejected_modules" in p for p in claims["interior"]["partitions"]} == {asked}
    if asked:
        assert claims["metrics"]["interior_modules"] == 0
    saved = load_weights(weights_file(training.network, evidence.network, spec=spec, seed=2, dataset=data))
    assert verify(saved, data, claims, again=False)["agrees"]


def test_altered_weights_are_found_out(run, saved, claims) -> None:
    changed = copy.deepcopy(saved)
    with torch.no_grad():
        row, column = changed.masks["weights.1"].nonzero()[0].tolist()
        changed.network.weights[1][row, column] *= 1.1
    found = verify(changed, run[1], claims, again=False)
    assert not found["agrees"]
    assert "largest difference of a weight" in disagreeing(found)
    assert "prediction_loss" in disagreeing(found)


def test_an_old_run_is_checked_by_what_is_stored_of_it_and_not_pruned_again(run, saved, claims) -> None:
    document = saved.spec.model_dump(mode="json")
    del document["evidence"]["evidence_version"]
    old = dataclasses.replace(saved, spec=Spec.from_stored(document))
    for name in [name for name in claims["metrics"] if "validation" in name]:
        del claims["metrics"][name]
    found = verify(old, run[1], claims, again=True)
    assert found["agrees"], found
    assert found["pruned_again"] is False
    assert not any("again" in check["what"] for check in found["checks"])
    claims["metrics"]["test_prediction_loss"] *= 2
    assert "test_prediction_loss" in disagreeing(verify(old, run[1], claims, again=True))


def test_other_data_are_found_out(run, saved, claims) -> None:
    network = run[0]
    found = verify(saved, data_of(network, seed=9), claims, again=False)
    assert "the data are those of the run" in disagreeing(found)
    assert not found["agrees"]


def test_what_was_not_claimed_is_not_checked(run, saved) -> None:
    found = verify(saved, run[1], {}, again=False)
    assert found["agrees"]
    assert len(found["checks"]) == 2
