"""From what a spec asks for to the data: one maker for each kind.

No maker knows torch, and each is a function of its spec and the seed.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bimt_engine.datasets.dataset import Dataset
from bimt_engine.datasets.draw import generator, split
from bimt_engine.datasets.formulas import evaluate_formula
from bimt_engine.datasets.groups import check_group, check_group_table, group_dataset, multiplication
from bimt_engine.datasets.images import digits, mnist, mnist_folder
from bimt_engine.datasets.uploaded import uploaded_dataset
from bimt_engine.errors import DataError
from bimt_engine.spec import (
    DatasetSpec,
    DigitsData,
    FormulaData,
    GroupData,
    ImagesData,
    InContextRegressionData,
    ModularAdditionData,
    TwoMemoriesData,
    TwoMoonsData,
    UploadedData,
)


def make_dataset(spec: DatasetSpec, *, seed: int, content: bytes | Path | None = None) -> Dataset:
    """The data that a spec asks for.

    seed      of the run; a seed in the spec wins over it.
    content   the uploaded bytes, or where they lie; for `uploaded` only.
    Raises DataError when the data cannot be used.
    """
    own = getattr(spec, "seed", None)
    seed = seed if own is None else own
    match spec:
        case FormulaData():
            return _formula(spec, seed)
        case TwoMoonsData():
            return _two_moons(spec, seed)
        case ModularAdditionData():
            return _modular_addition(spec, seed)
        case GroupData():
            return _group(spec, seed)
        case InContextRegressionData():
            return _in_context_regression(spec, seed)
        case TwoMemoriesData():
            return _two_memories(spec, seed)
        case DigitsData():
            return digits(train_fraction=spec.train_fraction, seed=seed)
        case ImagesData():
            return mnist(mnist_folder(), train=spec.train, test=spec.test, deskew=spec.deskew)
        case UploadedData():
            if content is None:
                raise DataError(f"The content of the uploaded data set {spec.dataset_id} is missing.")
            return uploaded_dataset(spec, content, seed=seed)


def differs_by_seed(spec: DatasetSpec) -> bool:
    """Whether runs with other seeds have other data."""
    return not isinstance(spec, ImagesData) and getattr(spec, "seed", None) is None


def _formula(spec: FormulaData, seed: int) -> Dataset:
    """Uniform inputs and the value of each formula. (section 3.1)"""
    draw = generator(seed, "formula")
    parts = [draw.uniform(spec.low, spec.high, (rows, spec.inputs)) for rows in (spec.train, spec.test)]
    targets = [np.stack([evaluate_formula(formula, part) for formula in spec.formulas], axis=1) for part in parts]
    for number, formula in enumerate(spec.formulas):
        if np.ptp(targets[0][:, number]) == 0:
            raise DataError(f"The formula `{formula}` has the same value everywhere; there is nothing to learn.")
    names = tuple(f"y{i + 1}" for i in range(len(spec.formulas)))
    return Dataset(
        train_inputs=parts[0],
        train_targets=targets[0],
        test_inputs=parts[1],
        test_targets=targets[1],
        task="regression",
        feature_names=tuple(f"x{i + 1}" for i in range(spec.inputs)),
        target_names=names if len(names) > 1 else ("y",),
    )


def _two_moons(spec: TwoMoonsData, seed: int) -> Dataset:
    """Two interleaved half circles. (section 3.2)"""
    from sklearn.datasets import make_moons

    draw = generator(seed, "two_moons")
    parts = [
        make_moons(rows, noise=spec.noise, random_state=int(draw.integers(2**32))) for rows in (spec.train, spec.test)
    ]
    return Dataset(
        train_inputs=parts[0][0],
        train_targets=parts[0][1].astype(np.int64),
        test_inputs=parts[1][0],
        test_targets=parts[1][1].astype(np.int64),
        task="classification",
        feature_names=("x1", "x2"),
        target_names=("upper", "lower"),
    )


def _modular_addition(spec: ModularAdditionData, seed: int) -> Dataset:
    """All pairs (a, b) with a + b modulo p. (section 3.3)"""
    names, table = multiplication(f"Z{spec.modulus}")
    return group_dataset(names, table, train_fraction=spec.train_fraction, seed=seed)


def _group(spec: GroupData, seed: int) -> Dataset:
    """All pairs of a group with their product. (section 3.3)"""
    check_group(spec.group, spec.cayley_table)
    if spec.cayley_table is not None:
        table = check_group_table(spec.cayley_table)
        names = tuple(map(str, range(len(table))))
    else:
        names, table = multiplication(spec.group)
    return group_dataset(names, table, train_fraction=spec.train_fraction, seed=seed)


def _in_context_regression(spec: InContextRegressionData, seed: int) -> Dataset:
    """Sequences (x₁, y₁), (x₂, 0) with y = w·x: what is y₂? (section 3.4)

    inputs    (N, 2, 2): time × (x, y); the y that is asked for is hidden as 0.
    targets   (N, 2, 1): y at both times, of which the last alone is predicted.
    """
    draw = generator(seed, "in_context_regression")
    w = draw.uniform(-1, 1, (spec.sequences, 1))
    x = draw.uniform(1, 3, (spec.sequences, 2))
    y = w * x
    inputs = np.stack([x, np.stack([y[:, 0], np.zeros(spec.sequences)], axis=1)], axis=2)
    train, test = split(spec.sequences, spec.train_fraction, seed=seed)
    return Dataset(
        train_inputs=inputs[train],
        train_targets=y[train, :, None],
        test_inputs=inputs[test],
        test_targets=y[test, :, None],
        task="regression",
        feature_names=("x", "y"),
        target_names=("y",),
        predicted_positions=(1,),
    )


def _two_memories(spec: TwoMemoriesData, seed: int) -> Dataset:
    """Two things to remember that share nothing, asked for at the last step. Not in the paper.

    inputs and targets   (N, time, 2).
    """
    draw = generator(seed, "two_memories")
    parts = [draw.uniform(-1, 1, (rows, spec.time, 2)) for rows in (spec.train, spec.test)]
    targets = [np.zeros_like(part) for part in parts]
    for part, target in zip(parts, targets, strict=True):
        target[:, 1:, 0] = part[:, :-1, 0]
        target[:, 0, 1] = part[:, 0, 1]
        for time in range(1, spec.time):
            target[:, time, 1] = part[:, time, 1] + 0.5 * target[:, time - 1, 1]
    return Dataset(
        train_inputs=parts[0],
        train_targets=targets[0],
        test_inputs=parts[1],
        test_targets=targets[1],
        task="regression",
        feature_names=("x1", "x2"),
        target_names=("y1", "y2"),
        predicted_positions=(spec.time - 1,),
    )
