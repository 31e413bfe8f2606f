"""Where there is nothing to find, nothing is kept; what is there is found even where validation rows are few."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bimt_engine.analysis.context import AnalysisContext
from bimt_engine.analysis.evidence import gather_evidence
from bimt_engine.analysis.pruning.cross_fitting import FOLDS, cross_fitted_gains, folds_of, worth_cross_fitting
from bimt_engine.analysis.pruning.engine import PruningEngine
from bimt_engine.analysis.pruning.search import ALONE, Gain, Search, prune
from bimt_engine.data.dataset import Dataset
from bimt_engine.data.registry import make_dataset
from bimt_engine.networks.mlp import MlpNetwork
from bimt_engine.networks.network import Network
from bimt_engine.recipes import load_recipe
from bimt_engine.spec import Spec, UploadedData
from bimt_engine.training.loop import Training
from measurements.noise import TASKS, line, noise_table
from measurements.noise import asked as noise_experiments
from measurements.rows import run_experiment
from tests.engine.analysis.teachers import TWO_MODULES, plain_spec, student_and_data
from tests.engine.makers import ARCHITECTURES, build


def with_random_targets(data: Dataset, *, rows: int = 200, seed: int = 0) -> Dataset:
    """Inputs of the same kind, so many of each part, with targets that have nothing to do with them."""
    draw = np.random.default_rng(seed)
    changed = {}
    for part in ("train", "test"):
        inputs, targets = data.part(part)
        changed[f"{part}_inputs"] = inputs[draw.integers(len(inputs), size=rows)]
        classes = data.task == "classification"
        shape = (rows, *targets.shape[1:])
        changed[f"{part}_targets"] = draw.integers(data.targets, size=shape) if classes else draw.normal(size=shape)
    return replace(data, **changed)


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_every_architecture_answers_a_constant_to_noise_and_its_evidence_is_whole(architecture: str) -> None:
    network, data = build(architecture)
    noise = with_random_targets(data)
    evidence = gather_evidence(network, noise, plain_spec(random_groups=5, leiden_seeds=1), seed=0, nulls=0)
    document = evidence.document()
    assert document["metrics"]["connections"] == 0
    assert document["modules"] == []
    assert document["graph"]["edges"] == []
    assert document["metrics"]["verdict"].startswith("Nothing was learnt: no connection is left")
    assert not any(output["learnt"] for output in document["metrics"]["outputs"])
    assert document["prune_curve"][-1]["connections"] == 0


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_the_constant_answer_is_the_best_constant(architecture: str) -> None:
    network, data = build(architecture)
    context = AnalysisContext.of(network, data)
    engine = PruningEngine(context, refit_evaluations=20)
    constant = engine.constant(engine.trained())
    outputs = context.outputs(constant.values, context.train)
    assert np.ptp(outputs, axis=0).max() < 1e-9
    assert constant.step.connections == 0
    # A network without biases has one constant answer: no class more likely than another.
    best = context.scale if any("bias" in name for name, _ in network.named_parameters()) else np.log(data.targets)
    assert constant.step.train_loss == pytest.approx(best, rel=1e-3)


def test_the_scan_ends_at_the_empty_network_which_no_search_leaves_out() -> None:
    network, data = student_and_data(TWO_MODULES)
    context = AnalysisContext.of(network, data)
    pruned = prune(context, tolerance=5e-4)
    assert 0 < pruned.chosen.connections <= len(TWO_MODULES)
    kept = [step.connections for step in pruned.curve if step.refitted]
    assert kept[-1] == 0
    # The scan goes on where it has lost more than half of what there is to explain.
    assert any(step.train_loss > 0.5 * context.scale for step in pruned.curve if step.connections)
    assert pruned.gain is not None
    assert pruned.gain.clear
    assert pruned.gain.by == "validation"


def test_a_search_by_the_rules_of_before_does_not_try_the_constant() -> None:
    network, data = student_and_data(TWO_MODULES)
    old, new = (
        prune(AnalysisContext.of(network, data), tolerance=5e-4, evidence_version=version) for version in (1, 2)
    )
    assert old.gain is None
    assert min(step.connections for step in old.curve) > 0
    assert old.chosen == new.chosen


def test_a_gain_is_clear_beyond_two_standard_errors() -> None:
    gains = np.array([1.0, -1.0, 1.0, -1.0])
    error = gains.std(ddof=1) / 2
    assert Gain.of(gains + 1.99 * error, "validation").clear is False
    assert Gain.of(gains + 2.01 * error, "validation").clear is True
    assert Gain.of(np.array([5.0]), "validation").clear is False  # one row has no error that one could estimate
    assert Gain.of(np.zeros(9), "validation").clear is False


def test_cross_fitting_is_asked_only_where_validation_leaves_it_open() -> None:
    network, data = student_and_data(TWO_MODULES)
    context = AnalysisContext.of(network, data)

    def unasked() -> np.ndarray:
        raise AssertionError("cross-fitting was asked")

    assert prune(context, tolerance=5e-4, cross_fit=unasked).chosen.connections > 0
    some = slice(ALONE - 1)
    few = replace(data, validation_inputs=data.test_inputs[some], validation_targets=data.test_targets[some])
    context = AnalysisContext.of(network, few)
    for gains, kept in ((np.full(50, -1.0), False), (np.linspace(0.5, 1.5, 50), True)):
        found = prune(context, tolerance=5e-4, cross_fit=lambda gains=gains: gains)
        assert (found.chosen.connections > 0) == kept
        assert found.gain is not None
        assert (found.gain.by, found.gain.rows) == ("cross-fitting", 50)


def table_of(task: str, content: bytes, **fields: object) -> tuple[Spec, Dataset]:
    data = UploadedData(
        dataset_id=f"dataset_{0:026d}", sha256="0" * 64, format="csv", targets=["y"], task=task, **fields
    )
    return load_recipe("table").spec_for(data), make_dataset(data, seed=0, content=content)


def trained(spec: Spec, data: Dataset) -> Network:
    training = Training.begin(spec, data, seed=0)
    for _ in training.updates():
        pass
    return training.network


def test_a_true_relation_is_kept_where_six_validation_rows_could_not_show_it() -> None:
    draw = np.random.default_rng(1)
    x = draw.normal(size=(40, 3))
    rows = "\n".join(["a,b,c,y", *(",".join(map(repr, [*row, float(2 * row[0] - row[1])])) for row in x.tolist())])
    spec, data = table_of("regression", rows.encode())
    assert len(data.validation_inputs) == 6
    network = trained(spec, data)
    assert worth_cross_fitting(AnalysisContext.of(network, data), spec)
    evidence = gather_evidence(network, data, spec, seed=0, nulls=0)
    gain = evidence.metrics["gain_over_constant"]
    assert (gain["by"], gain["rows"]) == ("cross-fitting", 34)
    assert evidence.metrics["connections"] > 0
    assert evidence.metrics["test_r2"] > 0.9


@pytest.mark.parametrize("task", TASKS)
def test_each_row_is_predicted_by_a_network_that_has_not_seen_it(task, monkeypatch) -> None:
    spec, data = table_of(task, noise_table(task, 0))
    training = spec.training.model_copy(update={"steps": 40})
    shorter = spec.model_copy(update={"training": training, "network": MlpNetwork(hidden=[2])})
    seen = []
    from bimt_engine.analysis.pruning import cross_fitting

    made = Training.begin

    def begin(spec: Spec, part: Dataset, *, seed: int) -> Training:
        seen.append(part)
        return made(spec, part, seed=seed)

    monkeypatch.setattr(cross_fitting.Training, "begin", begin)
    gains = cross_fitted_gains(data, shorter, seed=0)
    assert len(seen) == FOLDS
    assert len(gains) == len(data.train_inputs) + len(data.validation_inputs)
    everything = {row.tobytes() for name in ("train", "validation") for row in data.part(name)[0]}
    judged: set[bytes] = set()
    for part in seen:
        used, new = ({row.tobytes() for row in inputs} for inputs in (
            np.concatenate([part.train_inputs, part.validation_inputs]), part.test_inputs))  # fmt: skip
        assert not used & new
        assert used | new == everything
        assert not judged & new
        judged |= new
    assert judged == everything
    assert not judged & {row.tobytes() for row in data.test_inputs}
    np.testing.assert_array_equal(gains, cross_fitted_gains(data, shorter, seed=0))


def test_folds_are_alike_in_size_and_in_classes() -> None:
    labels = np.repeat([0, 1, 2], [50, 30, 21])
    folds = folds_of(labels, classes=True, seed=3)
    assert np.ptp(np.bincount(folds)) <= 1
    for label in range(3):
        assert np.ptp(np.bincount(folds[labels == label], minlength=FOLDS)) <= 1


def test_large_tables_and_long_trainings_are_not_cross_fitted() -> None:
    spec, data = table_of("regression", noise_table("regression", 0))
    network = Training.begin(spec, data, seed=0).network
    context = AnalysisContext.of(network, data)
    assert worth_cross_fitting(context, spec)
    long = spec.model_copy(update={"training": spec.training.model_copy(update={"steps": 10**7})})
    assert not worth_cross_fitting(context, long)
    large = replace(data, validation_inputs=np.zeros((200, 9)), validation_targets=np.zeros((200, 1)))
    assert not worth_cross_fitting(replace(context, dataset=large), spec)
    assert not worth_cross_fitting(replace(context, dataset=replace(data, validation_inputs=None)), spec)


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_tables_of_noise_keep_nothing_and_claim_nothing(task, tmp_path: Path) -> None:
    lines = [line(run_experiment(experiment)) for experiment in noise_experiments(task, 5)]
    assert [entry["connections"] for entry in lines] == [0] * 5
    assert [entry["learnt"] for entry in lines] == [[]] * 5


def test_the_sparsest_state_is_found_among_those_within_their_limits() -> None:
    network, data = student_and_data(TWO_MODULES)
    search = Search(PruningEngine(AnalysisContext.of(network, data), refit_evaluations=60), tolerance=5e-4)
    states = search.run()
    chosen, reference = search.sparsest(states)
    assert search.within_limits(chosen, reference)
    assert all(s.step.connections >= chosen.step.connections for s in states if search.within_limits(s, reference))
