"""What other methods reach on the same rows of a table: least squares or logistic regression, and boosted trees.

Both are fitted to the training rows, to the very inputs that the network reads, with the library's own settings; which
of the two is the better one is decided on validation rows, and test rows are only reported. So people see what a
network of few connections costs in accuracy, or does not.
"""

from __future__ import annotations

import warnings
from typing import Literal

import numpy as np
from jaxtyping import Float, Shaped
from threadpoolctl import threadpool_limits

from bimt_engine.analysis.context import AnalysisContext, variance_of, weighted
from bimt_engine.analysis.evaluator import Values
from bimt_engine.analysis.report import BaselineScore, BaselinesDocument
from bimt_engine.analysis.statements.outputs import baselines_statement
from bimt_engine.data.dataset import Dataset

MAX_WORK = 4e8  # rows · inputs · outputs of the boosted trees: half a minute of one core
MOST_ITERATIONS = 1_000  # of logistic regression
Part = Literal["validation", "test"]
PARTS: tuple[Part, ...] = ("validation", "test")

Rows = Shaped[np.ndarray, "N ..."]


def compare_with_baselines(
    subject: AnalysisContext, pruned: Values, *, connections: int, seed: int
) -> BaselinesDocument | None:
    """The scores of both baselines and of the pruned network; None where the rows are no table of numbers, or too many.

    Equal by seed, bit for bit: one thread. R² is of all targets together, 1 - Σ squared errors / Σ variances, as the
    metrics have it; of classes the score is the accuracy.
    """
    data = subject.dataset
    if data.tokens is not None or data.is_sequence or data.train_inputs.ndim != 2:
        return None
    if len(data.train_inputs) * data.inputs * data.targets > MAX_WORK:
        return None
    network: BaselineScore = {"name": "pruned network", "validation": None, "test": None}
    for part, examples in zip(PARTS, (subject.validation, subject.test), strict=True):
        network[part] = _score(subject, subject.outputs(pruned, examples), examples.targets, examples.weights)
    found: dict[str, BaselineScore] = {}
    for kind, name, answers in _fitted(data, seed):
        score: BaselineScore = {"name": name, "validation": None, "test": None}
        for part in PARTS:
            score[part] = _score(subject, answers[part], data.part(part)[1], data.row_weights(part))
        found[kind] = score
    better = max(found, key=lambda kind: _or_least(found[kind]["validation"]))
    document: BaselinesDocument = {
        "measure": "accuracy" if data.task == "classification" else "r2",
        "network": network,
        "linear": found["linear"],
        "boosted": found["boosted"],
        "better": "linear" if better == "linear" else "boosted",
        "gap": _difference(found[better]["test"], network["test"]),
        "connections": connections,
        "reading": "",
    }
    return {**document, "reading": baselines_statement(document)}


def _fitted(data: Dataset, seed: int) -> list[tuple[str, str, dict[Part, Rows]]]:
    """(kind, name, answers for each part): numbers (N, targets), or the label that is predicted (N,)."""
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LinearRegression, LogisticRegression

    inputs, targets, counted = data.train_inputs, data.train_targets, data.train_weights
    with threadpool_limits(1), warnings.catch_warnings():  # now that the library has brought its threads
        warnings.simplefilter("ignore", ConvergenceWarning)  # the iterations are what it may cost
        if data.task == "classification":
            if len(np.unique(targets)) < 2:  # a class that training rows lack: everything else is one class
                same: dict[Part, Rows] = {part: np.full(len(data.part(part)[1]), targets[0]) for part in PARTS}
                return [("linear", "logistic regression", same), ("boosted", "boosted trees", same)]
            logistic = LogisticRegression(max_iter=MOST_ITERATIONS).fit(inputs, targets, counted)
            # On many rows the trees hold some out, which a class of one row cannot be split for.
            stops = "auto" if np.bincount(targets)[np.unique(targets)].min() > 1 else False
            trees = HistGradientBoostingClassifier(random_state=seed, early_stopping=stops)
            trees.fit(inputs, targets, counted)
            by_line: dict[Part, Rows] = {part: logistic.predict(data.part(part)[0]) for part in PARTS}
            by_trees: dict[Part, Rows] = {part: trees.predict(data.part(part)[0]) for part in PARTS}
            return [("linear", "logistic regression", by_line), ("boosted", "boosted trees", by_trees)]
        line = LinearRegression().fit(inputs, targets, counted)
        forests = [
            HistGradientBoostingRegressor(random_state=seed).fit(inputs, targets[:, number], counted)
            for number in range(data.targets)
        ]
        fitted: dict[Part, Rows] = {part: line.predict(data.part(part)[0]) for part in PARTS}
        boosted: dict[Part, Rows] = {
            part: np.stack([forest.predict(data.part(part)[0]) for forest in forests], axis=1) for part in PARTS
        }
        return [("linear", "least squares", fitted), ("boosted", "boosted trees", boosted)]


def _score(subject: AnalysisContext, answers: Rows, targets: Rows, counted: Rows | None) -> float | None:
    """Accuracy or R², rows counting as they do; None where the targets do not vary."""
    if not len(targets):
        return None
    if subject.dataset.task == "classification":
        labels = answers if answers.ndim == 1 else answers.argmax(axis=-1)
        return float(np.average(labels == targets, weights=counted))
    variance = _mean(variance_of(targets, counted), subject)
    error = _mean(np.average((answers - targets) ** 2, axis=0, weights=counted), subject)
    return 1 - error / variance if variance > 0 else None


def _mean(squares: Float[np.ndarray, ...], subject: AnalysisContext) -> float:
    return float(weighted(squares, subject.weights).mean())


def _or_least(score: float | None) -> float:
    return -np.inf if score is None else score


def _difference(baseline: float | None, network: float | None) -> float | None:
    return None if baseline is None or network is None else baseline - network
