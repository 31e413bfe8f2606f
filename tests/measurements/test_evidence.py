"""Each claim of the evidence report can fail, and fails on a document that does not have the structure."""

from __future__ import annotations

import copy
import json

import pytest

from bimt_engine.analysis.context import AnalysisContext
from bimt_engine.analysis.evidence import gather_evidence
from measurements.evidence import CASES, details, no_module, only_differences, two_modules
from measurements.rows import prune_by_magnitude
from tests.engine.analysis.teachers import TANGLED, TWO_MODULES, plain_spec, student_and_data


def evidence_of(connections) -> dict:
    network, data = student_and_data(connections)
    evidence = gather_evidence(network, data, plain_spec(leiden_seeds=1, random_groups=40), seed=0, nulls=0)
    return json.loads(json.dumps(evidence.document()))


@pytest.fixture(scope="module")
def apart() -> dict:
    return evidence_of(TWO_MODULES)


def test_two_modules_are_told_from_a_tangle(apart) -> None:
    tangled = evidence_of(TANGLED)
    assert two_modules(apart)
    assert not two_modules(tangled)
    assert no_module(tangled)
    assert not no_module(apart)
    assert details(apart)["block_diagonal"]
    assert details(apart)["significant"]
    assert not details(tangled)["block_diagonal"]


def test_an_effect_off_the_diagonal_or_a_large_p_is_seen(apart) -> None:
    changed = copy.deepcopy(apart)
    changed["effects"]["matrices"]["zero"][0][1] = 0.01
    changed["effects"]["p_holm"][1][1] = 0.2
    found = details(changed)
    assert (found["off_diagonal"], found["block_diagonal"]) == (0.01, False)
    assert (found["p_holm"], found["significant"]) == (0.2, False)


def test_differences_are_read_with_the_right_signs_and_hardly_anything_else() -> None:
    def part(names: list[str], sign: float, asymmetry: float) -> dict:
        return {"inputs": names, "coefficients": [1.0, sign], "asymmetry": asymmetry}

    def said(*parts: dict) -> dict:
        return {"readout": {"outputs": [{"symmetry": {"through": list(parts)}}]}}

    first, second = part(["x1", "x2"], -1.0, 0.04), part(["x3", "x4"], -1.0, 0.01)
    assert only_differences(said(first, second))
    assert not only_differences(said(first, second | {"asymmetry": 0.06}))
    assert not only_differences(said(first, second | {"coefficients": [1.0, 1.0]}))
    assert not only_differences(said(first))


def test_every_case_has_a_spec_and_a_claim_in_words() -> None:
    for case in CASES.values():
        assert case.spec().dataset.kind == "formula"
        assert case.claim.__doc__
    assert CASES["vanilla"].spec().expanded().training.phases[0].cost_strength == 0.0


def test_a_threshold_drops_what_is_small_and_refits_nothing() -> None:
    network, data = student_and_data(TWO_MODULES)
    subject = AnalysisContext.of(network, data)
    whole, cut = prune_by_magnitude(subject, 0.0), prune_by_magnitude(subject, 0.1)
    assert whole["metrics"]["connections"] == sum(weight.numel() for weight in network.weights)
    assert cut["metrics"]["connections"] == len(TWO_MODULES)
    assert two_modules(cut)
    weights = {edge["key"]: edge["weight"] for edge in cut["graph"]["edges"]}
    assert weights["weights.0[0,0]"] == pytest.approx(network.weights[0][0, 0].item())
    json.dumps(cut, allow_nan=False)
