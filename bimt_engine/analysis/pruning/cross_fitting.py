"""Is there anything to learn? Asked of a small data set by training again on parts of it: cross-fitting.

A network is kept only where it is clearly better than a constant answer. Some ten validation rows cannot show that of
any network. So the same training and the same pruning are done for each of five folds, on the rows outside the fold,
and each row is predicted by the network that has not seen it, neither for its weights nor for the choice of its
connections. That judges the way to the network, on all rows that are not for testing, and needs no row twice.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from jaxtyping import Float, Int

from bimt_engine.analysis.context import AnalysisContext
from bimt_engine.analysis.pruning.engine import PruningEngine
from bimt_engine.analysis.pruning.search import Search
from bimt_engine.data.dataset import Dataset, data_generator
from bimt_engine.data.split import Split
from bimt_engine.errors import TrainingDiverged
from bimt_engine.spec import Spec, UploadedData
from bimt_engine.training.loop import Training

FOLDS = 5
FEW_ROWS = 200  # validation rows; from so many on they decide alone
MAX_WORK = 2e10  # parameters × steps × examples of one training, which is some seconds of one core

Progress = Callable[[float, str], None]


def worth_cross_fitting(context: AnalysisContext, spec: Spec) -> bool:
    """Whether the validation rows are few, and five more trainings cost little."""
    dataset, training = context.dataset, spec.training
    if dataset.validation_inputs is None or len(dataset.validation_inputs) >= FEW_ROWS:
        return False
    if dataset.train_weights is not None:
        return False  # standard errors of weighted rows are those of the validation rows
    if isinstance(spec.dataset, UploadedData) and spec.dataset.split.by != "random":
        return False  # folds at random would put rows of one group, or of one time, on both sides
    parameters = sum(parameter.numel() for parameter in context.network.parameters())
    examples = min(training.batch_size or len(dataset.train_inputs), len(dataset.train_inputs))
    if dataset.is_text:
        return False  # windows of one file would be on both sides
    each = dataset.train_inputs[0].size if dataset.is_sequence else 1
    return parameters * training.steps * examples * each <= MAX_WORK


def cross_fitted_gains(
    dataset: Dataset, spec: Spec, *, seed: int, progress: Progress = lambda fraction, note: None
) -> Float[np.ndarray, " N"]:
    """For each training and validation row, by how much its loss is below that of a constant.

    Both are fitted to the rows of the other folds. A training that diverges answers a constant, and gains nothing.
    """
    parts = [dataset.part("train"), dataset.part("validation")]
    inputs, targets = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    share = len(parts[0][0]) / len(inputs)
    training = spec.training.model_copy(
        update={"device": "cpu", "snapshot_every": None, "log_every": spec.training.steps, "stepper": "auto"}
    )
    spec = spec.model_copy(update={"training": training})
    folds = folds_of(targets, classes=dataset.task == "classification", seed=seed)
    gains = np.zeros(len(inputs))
    for fold in range(FOLDS):
        progress(fold / FOLDS, f"cross-fitting, fold {fold + 1} of {FOLDS}")
        others = np.flatnonzero(folds != fold)
        split = Split.random(len(others), share, 1 - share, seed=seed)
        if dataset.task == "classification":
            split = Split.by_class(targets[others], share, 1 - share, seed=seed)
        chosen = np.concatenate([split.validation, split.test])  # rounding may leave rows over
        split = replace(split, train=others[split.train], validation=others[chosen], test=np.flatnonzero(folds == fold))
        gains[split.test] = _gains(replace(dataset, **split.parts_of(inputs, targets)), spec, seed, progress)
    return gains


def folds_of(targets: np.ndarray, *, classes: bool, seed: int) -> Int[np.ndarray, " N"]:
    """The fold of each row, at random, with the shares of classes kept; equally large but for rounding."""
    order = data_generator(seed, "cross-fitting").permutation(len(targets))
    if classes:
        order = order[np.argsort(targets[order], kind="stable")]
    folds = np.empty(len(targets), np.int64)
    folds[order] = np.arange(len(targets)) % FOLDS
    return folds


def _gains(dataset: Dataset, spec: Spec, seed: int, progress: Progress) -> Float[np.ndarray, " fold"]:
    """Of the rows of the test part: trained and pruned without them."""
    training = Training.begin(spec, dataset, seed=seed)
    try:
        for _ in training.updates():
            progress(0.0, "")
    except TrainingDiverged:
        return np.zeros(len(dataset.test_inputs))
    context = AnalysisContext.of(training.network, dataset, loss=spec.training.loss, seed=seed)
    engine = PruningEngine(context, refit_evaluations=spec.evidence.refit_evaluations)
    search = Search(engine, tolerance=spec.evidence.tolerance)
    *others, constant = search.run()
    chosen, _ = search.sparsest(others)
    of_constant, of_chosen = (
        context.losses(context.outputs(state.values, context.test), context.test) for state in (constant, chosen)
    )
    return of_constant - of_chosen
