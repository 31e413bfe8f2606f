"""On a real table, whose noise can be memorised, a run still gives back a network that one can look at."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from bimt_engine.analysis.context import AnalysisContext
from bimt_engine.analysis.modules.find import find_modules
from bimt_engine.analysis.output_scores import score_outputs
from bimt_engine.analysis.pruning.cross_fitting import cross_fitted_gains
from bimt_engine.analysis.pruning.search import Pruned, prune
from bimt_engine.data.dataset import Dataset
from bimt_engine.data.registry import make_dataset
from bimt_engine.recipes import load_recipe
from bimt_engine.spec import UploadedData
from bimt_engine.training.loop import Training
from standalone.demo import write_diabetes


def trained_and_pruned(asked: UploadedData, table: Path, seed: int) -> tuple[AnalysisContext, Pruned]:
    """A run of the recipe `table`, as far as its pruned network."""
    spec = load_recipe("table").spec_for(asked).expanded()
    data = make_dataset(asked, seed=seed, content=table)
    training = Training.begin(spec, data, seed=seed)
    for _ in training.updates():
        pass
    subject = AnalysisContext.of(training.network, data, seed=seed)
    pruned = prune(
        subject,
        tolerance=spec.evidence.tolerance,
        seed=seed,
        cross_fit=lambda: cross_fitted_gains(data, spec, seed=seed),
    )
    assert pruned.within_tolerance
    return subject, pruned


def of_table(table: Path, targets: list[str]) -> UploadedData:
    return UploadedData(
        dataset_id=f"dataset_{0:026d}",
        sha256=hashlib.sha256(table.read_bytes()).hexdigest(),
        format="csv",
        targets=targets,
        task="regression",
    )


def variance_explained(dataset: Dataset) -> float:
    """Of the test examples, by least squares on all inputs."""
    train, test = (np.column_stack([x, np.ones(len(x))]) for x in (dataset.train_inputs, dataset.test_inputs))
    weights, *_ = np.linalg.lstsq(train, dataset.train_targets, rcond=None)
    return float(1 - ((test @ weights - dataset.test_targets) ** 2).mean() / dataset.test_targets.var())


def test_the_diabetes_study_keeps_few_connections_and_predicts_as_well_as_least_squares(tmp_path: Path) -> None:
    """Over seeds 0, 1, …, each with a split of its own; compared on rows that nothing was chosen by.

    One seed can lie below by more: a validation loss within a standard error of the best counts as equal, and of 66
    rows that is up to 0.05 of the variance.
    """
    study = write_diabetes(tmp_path / "diabetes.csv")
    ahead = []
    for seed in range(8):
        subject, pruned = trained_and_pruned(of_table(study, ["progression"]), study, seed)
        assert pruned.chosen.connections <= 30
        assert pruned.chosen.connections > 0
        error = subject.outputs(pruned.values, subject.test) - subject.test.targets
        explained = 1 - (error**2).mean() / subject.test.targets.var()
        ahead.append(explained - variance_explained(subject.dataset))
    assert np.median(ahead) > -0.05
    assert min(ahead) > -0.12


def test_two_formulas_of_a_table_are_both_learnt_and_told_apart(tmp_path: Path) -> None:
    """A product is weak at first: a cost that is high at once takes it away before it is learnt."""
    draw = np.random.default_rng(12)
    inputs = draw.uniform(-1, 1, (500, 6))
    temp, press, flow, ph = inputs.T[:4]
    truth = np.stack([np.sin(2 * temp) * press, flow**2 - 0.7 * ph], axis=1)
    rows = np.hstack([inputs, truth + 0.05 * draw.standard_normal((500, 2))])
    table = tmp_path / "plant.csv"
    header = "temp,press,flow,ph,noise1,noise2,crop,colour"
    np.savetxt(table, rows, delimiter=",", header=header, comments="")
    apart = 0
    for seed in range(5):
        subject, pruned = trained_and_pruned(of_table(table, ["crop", "colour"]), table, seed)
        outputs = score_outputs(subject, pruned.values, reached=())
        assert min(row["pruned"]["r2"] for row in outputs) > 0.95
        found = {(module.inputs, module.outputs) for module in find_modules(subject, pruned.masks)}
        apart += found == {((0, 1), (0,)), ((2, 3), (1,))}
    assert apart >= 4
