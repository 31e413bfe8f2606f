"""How well a network predicts: each output compared with a constant answer, and all of them with other methods.

A module says what a network does; whether that has anything to do with the data is another question. A number is
learnt when its R² is at least LEARNT_R2 and its squared errors are below those of the best constant by more
than their standard error. A class is learnt when its rows are predicted as this class more often than other
rows are, by as much and by more than the standard error of that difference: a constant answer predicts both alike.
All of this is on validation rows.

The other methods, on tables, are least squares or logistic regression, and boosted trees. Both are fitted to the
training rows, to the very inputs that the network reads, with the library's own settings; which of the two is the
better one is decided on validation rows, and test rows are only reported. So people see what a network of few
connections costs in accuracy, or does not.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Shaped
from threadpoolctl import threadpool_limits

from bimt_engine.analysis.context import AnalysisContext, Examples, variance_of, weighted
from bimt_engine.analysis.evaluator import Values
from bimt_engine.analysis.report import AnswerScore, BaselineScore, BaselinesDocument, OutputScore, Score
from bimt_engine.analysis.statements.outputs import LEARNT_R2, baselines_statement
from bimt_engine.data.dataset import Dataset, answers_in_units

MAX_WORK = 4e8  # rows · inputs · outputs of the boosted trees: half a minute of one core
MOST_ITERATIONS = 1_000  # of logistic regression
Part = Literal["validation", "test"]
PARTS: tuple[Part, ...] = ("validation", "test")

Rows = Shaped[np.ndarray, "N ..."]


def score_outputs(subject: AnalysisContext, pruned: Values, *, reached: Sequence[str]) -> list[OutputScore]:
    """For each target, how well it is predicted: pruned, as trained, on the rows of the training, and on test rows.

    pruned    the values of the pruned network; the subject has those as trained.
    reached   targets that a connection leads to.
    """
    trained = subject.values()
    scored = {
        "pruned": scores(subject, pruned, subject.validation),
        "trained": scores(subject, trained, subject.validation),
        "trained_on_training_rows": scores(subject, trained, subject.train),
        "test": scores(subject, pruned, subject.test),
    }
    levels = (
        {number for group in subject.dataset.label_groups for number in group} if subject.dataset.answers else set()
    )
    found: list[OutputScore] = []
    for number, name in enumerate(subject.dataset.target_names):
        rows = [of[number].pop("rows") for of in scored.values()]
        found.append(
            {
                "output": str(name),
                "reached": str(name) in reached,
                "learnt": scored["pruned"][number]["learnt"],
                "measure": "recall" if subject.dataset.task == "classification" or number in levels else "r2",
                "rows": rows[0],
                "pruned": scored["pruned"][number],
                "trained": scored["trained"][number],
                "trained_on_training_rows": scored["trained_on_training_rows"][number],
                "test": scored["test"][number],
            }
        )
    return found


def scores(subject: AnalysisContext, values: Values, examples: Examples) -> list[Score]:
    """For each target, how well these examples are predicted: the measure, its standard error, `learnt`, rows."""
    outputs = subject.outputs(values, examples)
    if subject.dataset.task == "classification":
        classes, labels = len(subject.dataset.target_names), examples.targets.reshape(-1)  # of text, of each step
        called = outputs.reshape(-1, classes).argmax(-1)
        return [_recognised(called == number, labels == number) for number in range(classes)]
    # A sequence that is predicted at several steps has a column for each step and target; its steps are pooled.
    targets = len(subject.dataset.target_names)
    shape = (len(outputs), -1, targets)
    truth, said = examples.targets.reshape(shape), outputs.reshape(shape)
    constant = subject.train.targets.reshape(len(subject.train.targets), -1, targets).mean(axis=0)
    found = [_explained(truth[..., t], said[..., t], constant[..., t]) for t in range(targets)]
    for answer, place in zip(subject.dataset.answers, subject.dataset.answer_places, strict=True):
        if answer.levels:  # a level is recognised or not, as a class is
            called, own = outputs[:, place].argmax(-1), examples.targets[:, place].argmax(-1)
            found[place] = [_recognised(called == level, own == level) for level in range(len(answer.levels))]
    return found


def score_answers(subject: AnalysisContext, pruned: Values) -> list[AnswerScore]:
    """For each target column of a table where one is a category or a logarithm: how well it is predicted.

    `accuracy` of a category; `r2` of a number, in the units of the data, and `r2_log` as it is trained where that is
    the logarithm. Of validation and test rows, counting as the loss counts them.
    """
    data = subject.dataset
    found: list[AnswerScore] = [{"target": answer.name, "validation": {}, "test": {}} for answer in data.answers]
    for part, examples in (("validation", subject.validation), ("test", subject.test)):
        said, truth, counted = subject.outputs(pruned, examples), examples.targets, examples.weights
        in_units = answers_in_units(data, said.copy()), answers_in_units(data, truth.copy())
        for answer, place, row in zip(data.answers, data.answer_places, found, strict=True):
            scored: dict[str, float | None] = {}
            if answer.levels:
                right = said[:, place].argmax(-1) == truth[:, place].argmax(-1)
                scored["accuracy"] = float(np.average(right, weights=counted))
            else:
                scored["r2"] = _r2(in_units[0][:, place.start], in_units[1][:, place.start], counted)
            if answer.median is not None:
                scored["r2_log"] = _r2(said[:, place.start], truth[:, place.start], counted)
            row[part] = scored  # type: ignore[literal-required]
    return found


def _r2(
    said: Float[np.ndarray, " N"], truth: Float[np.ndarray, " N"], counted: Float[np.ndarray, " N"] | None
) -> float | None:
    variance = float(variance_of(truth[:, None], counted)[0])
    return 1 - float(np.average((said - truth) ** 2, weights=counted)) / variance if variance > 0 else None


def _explained(
    truth: Float[np.ndarray, "examples steps"],
    said: Float[np.ndarray, "examples steps"],
    constant: Float[np.ndarray, " steps"],
) -> Score:
    """R² of one target, and whether its errors are below those of the constant."""
    variance = float(truth.var(axis=0).mean())
    errors = ((truth - said) ** 2).mean(axis=1)
    if len(truth) < 2 or variance <= 0:
        return {"r2": None, "standard_error": None, "learnt": None, "rows": len(truth)}
    gains = ((truth - constant) ** 2).mean(axis=1) - errors
    r2 = 1 - float(errors.mean()) / variance
    error = float(gains.std()) / math.sqrt(len(gains)) / variance
    better = r2 >= LEARNT_R2 and float(gains.mean()) / variance > error
    return {"r2": r2, "standard_error": error, "learnt": bool(better), "rows": len(truth)}


def _recognised(called: Bool[np.ndarray, " examples"], own: Bool[np.ndarray, " examples"]) -> Score:
    """How often rows of a class are predicted as this class (recall), and other rows mistaken for it."""
    ours, others = int(own.sum()), int((~own).sum())
    score: Score = {"recall": None, "precision": None, "mistaken": None, "standard_error": None, "learnt": None}
    if not (ours and others):
        return score | {"rows": ours}
    recall, mistaken = float(called[own].mean()), float(called[~own].mean())
    error = math.sqrt(recall * (1 - recall) / ours + mistaken * (1 - mistaken) / others)
    return {
        "recall": recall,
        "precision": float(own[called].mean()) if called.any() else None,
        "mistaken": mistaken,
        "standard_error": error,
        "learnt": bool(recall - mistaken >= LEARNT_R2 and recall - mistaken > error),
        "rows": ours,
    }


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
