"""An output that the network does not predict is named, with advice that its own numbers bear out."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from bimt_engine.analysis.context import AnalysisContext
from bimt_engine.analysis.evidence import gather_evidence
from bimt_engine.analysis.output_scores import score_outputs
from bimt_engine.analysis.statements.outputs import LEARNT_R2, not_learnt, output_statement
from bimt_engine.data.dataset import Dataset
from bimt_engine.networks.mlp import MlpNetwork
from bimt_engine.networks.network import Network, build_network
from bimt_engine.spec import Spec
from tests.engine.analysis.teachers import TWO_MODULES, data_of, plain_spec, student_and_data, teacher

COSTLY = plain_spec(leiden_seeds=1, random_groups=0, tolerance=0.01)


def words_of(rows: list, spec: Spec, *, connections: int) -> str | None:
    phases = spec.expanded().training.phases
    strength = next((phase.cost_strength for phase in phases if phase.cost_strength > 0), None)
    return not_learnt(rows, connections=connections, tolerance=spec.evidence.tolerance, cost_strength=strength)


def scored(network: Network, data: Dataset, *, reached: tuple[str, ...] = ("y1", "y2")) -> list[dict]:
    subject = AnalysisContext.of(network, data)
    return score_outputs(subject, subject.values(), reached=reached)


def with_noise_for_y2(data: Dataset, *, held_out_only: bool = False, seed: int = 0) -> Dataset:
    draw = np.random.default_rng(seed)
    train, test = data.train_targets.copy(), data.test_targets.copy()
    for part in (test,) if held_out_only else (train, test):
        part[:, 1] = draw.normal(size=len(part))
    return replace(data, train_targets=train, test_targets=test)


def test_an_output_that_is_predicted_has_its_r2_and_another_is_called_not_learnt() -> None:
    network, data = student_and_data()
    data = with_noise_for_y2(data)
    y1, y2 = scored(network, data)
    assert (y1["learnt"], y2["learnt"]) == (True, False)
    said = network(torch.from_numpy(data.test_inputs)).detach().numpy()[:, 0]
    truth = data.test_targets[:, 0]
    assert y1["pruned"]["r2"] == pytest.approx(1 - ((said - truth) ** 2).mean() / truth.var())
    assert y2["pruned"]["r2"] < LEARNT_R2
    words = words_of([y1, y2], COSTLY, connections=18)
    assert words is not None
    assert words.startswith("y2 is not learnt: R² -")
    assert "on 100 validation rows." in words
    assert "did not fit it even on its training rows" in words
    assert "try smaller cost strengths, such as 0.0001." in words
    assert words_of([y1], COSTLY, connections=18) is None


def test_no_smaller_cost_strength_is_advised_where_the_rows_were_learnt_by_heart_or_nothing_is_paid() -> None:
    network, data = student_and_data()
    by_heart = words_of(scored(network, with_noise_for_y2(data, held_out_only=True)), COSTLY, connections=18)
    assert by_heart is not None
    assert "fitted it on its training rows only" in by_heart
    assert "cost strengths" not in by_heart
    free = Spec.model_validate(COSTLY.model_dump() | {"training": {"method": "vanilla"}})
    nothing_paid = words_of(scored(network, with_noise_for_y2(data)), free, connections=18)
    assert nothing_paid is not None
    assert "cost strengths" not in nothing_paid


def test_a_constant_that_was_kept_has_its_reason_and_a_smaller_tolerance_is_not_advised() -> None:
    network, data = student_and_data()
    rows = scored(network, data)
    for mean, said in (
        (-0.1, "No pruned network predicted 45 validation rows better."),
        (0.02, "lower by 0.02, which"),
    ):
        gain = {"mean": mean, "standard_error": 0.015, "rows": 45, "by": "validation"}
        words = not_learnt(rows, connections=0, tolerance=0.01, cost_strength=0.001, gain=gain)
        assert words is not None
        assert words.startswith("Nothing was learnt: no connection is left, so the network answers a constant.")
        assert said in words
        assert "tolerance" not in words
    old = not_learnt(rows, connections=0, tolerance=0.01, cost_strength=0.001)
    assert old is not None
    assert "try a smaller `evidence.tolerance` than 0.01." in old


def test_old_scores_of_one_held_out_part_are_told_as_such() -> None:
    network, data = student_and_data()
    new = scored(network, data)[0]
    old = {name: value for name, value in new.items() if name != "test"}
    assert "held out" in output_statement(old).text
    assert "on test rows" in output_statement(new).text
    assert "on validation rows" in output_statement(new).text


def test_what_pruning_lost_is_told_from_what_was_never_known() -> None:
    network, data = student_and_data()
    subject = AnalysisContext.of(network, data)
    without_y2 = {n: v.copy() for n, v in subject.values().items()}
    without_y2["weights.2"][1] = 0.0
    rows = score_outputs(subject, without_y2, reached=("y1",))
    assert [row["reached"] for row in rows] == [True, False]
    words = words_of(rows, COSTLY, connections=10)
    assert words is not None
    assert "and no connection leads to it" in words
    assert (
        "The network as trained predicted it; pruning lost it: try a smaller `evidence.tolerance` than 0.01." in words
    )
    assert "cost strengths" not in words


def test_a_constant_is_never_learnt_however_few_the_rows() -> None:
    """The bound is a fair one: on noise alone, answers that were fitted to it seldom pass."""
    passed = 0
    for seed in range(200):
        draw = np.random.default_rng(seed)
        data = data_of(None, examples=30, seed=seed)
        noise = replace(data, train_targets=draw.normal(size=(30, 2)), test_targets=draw.normal(size=(30, 2)))
        network = teacher(residue=0.0, seed=seed)
        for parameter in network.parameters():
            parameter.data *= 0.2
        passed += sum(row["learnt"] for row in scored(network, noise))
    assert passed <= 0.1 * 400


def test_a_class_that_is_called_as_often_when_it_is_not_there_is_not_learnt() -> None:
    draw = np.random.default_rng(0)
    x = draw.uniform(-1, 1, (300, 2))
    labels = np.where(x[:, 0] > 0, 0, np.where(draw.random(300) < 0.5, 1, 2))
    data = Dataset(x[:150], labels[:150], x[150:], labels[150:], "classification", ("a", "b"), ("0", "1", "2"))
    network = build_network(MlpNetwork(hidden=[4]), data, generator=torch.Generator().manual_seed(0))
    for parameter in network.parameters():
        parameter.data.zero_()
    network.weights[0].data[0, 0] = 5.0
    network.weights[1].data[0, 0] = 4.0
    network.biases[1].data[1] = 2.0
    subject = AnalysisContext.of(network, data)
    rows = score_outputs(subject, subject.values(), reached=("0",))
    assert [row["learnt"] for row in rows] == [True, True, False]
    assert rows[2]["pruned"]["recall"] == 0
    assert rows[2]["pruned"]["precision"] is None
    words = words_of(rows, COSTLY, connections=2)
    assert words is not None
    assert words.startswith("Class 2 is not learnt: 0% of its ")
    network.weights[1].data.zero_()  # now it says 1 whatever it sees
    assert [row["learnt"] for row in scored_classes(network, data)] == [False, False, False]


def scored_classes(network: Network, data: Dataset) -> list[dict]:
    subject = AnalysisContext.of(network, data)
    return score_outputs(subject, subject.values(), reached=())


def test_the_evidence_of_pure_noise_says_that_nothing_was_learnt() -> None:
    network, data = student_and_data(TWO_MODULES, seed=3)
    draw = np.random.default_rng(3)
    noise = replace(data, train_targets=draw.normal(size=(100, 2)), test_targets=draw.normal(size=(100, 2)))
    spec = plain_spec(leiden_seeds=1, random_groups=0, tolerance=0.5)
    found = json.loads(json.dumps(gather_evidence(network, noise, spec, seed=3, nulls=0).document(), allow_nan=False))
    assert found["metrics"]["verdict"].startswith("Nothing was learnt: no connection is left")
    assert found["effects"]["verdict"] == found["metrics"]["verdict"]
    assert [row["learnt"] for row in found["metrics"]["outputs"]] == [False, False]
