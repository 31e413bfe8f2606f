"""Uploaded data: from the bytes and the roles of their columns to the data set."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from bimt_engine.data.dataset import Dataset, Scaling
from bimt_engine.data.encoding import ColumnSpec
from bimt_engine.data.kinds import Drawn, dataset_kind
from bimt_engine.data.kinds.groups import group_dataset, read_cayley
from bimt_engine.data.kinds.text import CONTEXT, MAX_CONTEXT, text_dataset
from bimt_engine.data.readers import MIN_ROWS, Column, Problem, RefusedData, Table
from bimt_engine.data.readers.files import read_texts
from bimt_engine.data.roles import Format, Roles, all_but, check_roles, read_table
from bimt_engine.data.split import Split
from bimt_engine.errors import DataError
from bimt_engine.spec_part import Name, Part


class SplitSpec(Part):
    """How rows come into the three parts: at random, whole groups of a column at random, or by a column of times."""

    by: Literal["random", "group", "time"] = "random"
    column: Name | None = Field(
        default=None,
        description="`group`: rows with the same value stay together. `time`: the latest rows are for testing; text is "
        "sorted as text, so write dates as 2024-05-31. It is read for this alone, not as an input.",
    )

    @model_validator(mode="after")
    def _names_the_column_it_needs(self) -> SplitSpec:
        if (self.by == "random") != (self.column is None):
            needs = "takes no `column`" if self.by == "random" else "needs the `column` that says which rows belong"
            raise ValueError(f"A split by `{self.by}` {needs}.")
        return self


class UploadedData(Drawn):
    """A table, arrays, images or text that a team uploaded, with the roles of its columns."""

    kind: Literal["uploaded"] = "uploaded"
    dataset_id: Annotated[str, Field(pattern=r"^[a-z]+_[0-9a-z]{26}$")]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    format: Format
    inputs: list[Name] | None = Field(default=None, description="Columns to read; null: all that are not targets.")
    targets: list[Name] = Field(min_length=1, max_length=256)
    task: Literal["regression", "classification"]
    validation_fraction: float = Field(default=0.15, gt=0, lt=1, description="Share of the rows for validation.")
    test_fraction: float = Field(default=0.15, gt=0, lt=1, description="Share of the rows for testing.")
    split: SplitSpec = SplitSpec()
    standardise: bool = Field(default=True, description="Scale inputs and regression targets to mean 0, variance 1.")
    context: int | None = Field(
        default=None,
        ge=2,
        le=MAX_CONTEXT,
        exclude_if=lambda context: context is None,
        description=f"Of text: bytes of one example; null: {CONTEXT}.",
    )
    columns: dict[Name, ColumnSpec] = Field(
        default={},
        max_length=1_000,
        exclude_if=lambda columns: not columns,
        description="Types of the columns that are used, and how each is read. Empty: every input is a number in every "
        "row.",
    )
    weight: Name | None = Field(
        default=None,
        exclude_if=lambda weight: weight is None,
        description="Column of numbers that say how much each row counts in losses and scores; null: all count alike.",
    )

    @property
    def several_own_targets(self) -> bool:
        """Whether several columns of numbers are predicted."""
        return self.task == "regression" and len(self.targets) > 1

    @model_validator(mode="after")
    def _leaves_rows_to_train_on(self) -> UploadedData:
        if self.shares[0] <= 0:
            raise ValueError(
                f"`validation_fraction` ({self.validation_fraction:g}) and `test_fraction` ({self.test_fraction:g}) "
                "leave no rows for training: make them smaller, so that their sum is below 1."
            )
        if self.split.column in (*self.targets, *(self.inputs or ())):
            raise ValueError(f"`{self.split.column}` is what rows are split by; it cannot be an input or a target too.")
        if self.weight is not None and self.weight in (*self.targets, *(self.inputs or ())):
            raise ValueError(f"`{self.weight}` weights the rows; it cannot be an input or a target too.")
        return self

    @model_validator(mode="after")
    def _text_is_held_out_by_file(self) -> UploadedData:
        if self.format == "text" and self.split.column is not None:
            raise ValueError(f"Text has no column {self.split.column!r}: whole files are held out. Leave `split` out.")
        if self.format != "text" and self.context is not None:
            raise ValueError("Only text is read in windows: leave `context` out.")
        return self

    @property
    def shares(self) -> tuple[float, float]:
        """Shares of the rows for training and for validation; validation 0: the test rows serve as both."""
        if self.split_version == 1:
            return 1 - self.test_fraction, 0.0
        return 1 - self.test_fraction - self.validation_fraction, self.validation_fraction


@dataset_kind(UploadedData, label="An uploaded table, arrays, images or text", uploaded=True)
def uploaded_dataset(spec: UploadedData, *, seed: int, content: bytes | Path) -> Dataset:
    """The upload in its roles, split by the seed, scaled by the training part alone.

    Images of bytes are scaled to 0 … 1; other inputs and regression targets are standardised when the spec says so.
    Raises DataError.
    """
    if spec.format == "cayley":
        names, products = read_cayley(content)
        return group_dataset(names, products, train_fraction=spec.shares[0], seed=seed)
    if spec.format == "text":
        return text_dataset(read_texts(content), context=spec.context or CONTEXT, shares=spec.shares, seed=seed)
    apart = [] if spec.split.column is None else [spec.split.column]
    used = None if spec.inputs is None else frozenset([*spec.inputs, *spec.targets, *apart])
    table = read_table(content, spec.format, used=used, whole=False, read_as=spec.columns or None)
    if table.rows < MIN_ROWS:
        raise DataError(f"The data have {table.rows} rows; at least {MIN_ROWS} are needed to train and to test.")
    names = all_but(table, [*spec.targets, *apart]) if spec.inputs is None else tuple(spec.inputs)
    problems = check_roles(table, Roles(names, tuple(spec.targets), spec.task))
    if problems:
        raise RefusedData(problems)
    columns = [table.column(name) for name in names]
    targets = [table.column(name) for name in spec.targets]
    labels, classes = _labels(targets[0]) if spec.task == "classification" else (None, ())
    split = _split(table, labels, spec, seed)
    inputs, input_scaling = _inputs(columns, split.train, standardise=spec.standardise)
    feature_names = tuple(part for column in columns for part in column.parts)
    if labels is not None:
        return Dataset(
            **split.parts_of(inputs, labels),
            task="classification",
            feature_names=feature_names,
            target_names=classes,
            input_scaling=input_scaling,
        )
    values = np.concatenate([column.as_matrix() for column in targets], axis=1).astype(np.float64)
    scaling = Scaling.of(values[split.train]) if spec.standardise else None
    scaled = scaling.apply(values) if scaling else values
    return Dataset(
        **split.parts_of(inputs, scaled),
        task="regression",
        feature_names=feature_names,
        target_names=tuple(part for column in targets for part in column.parts),
        input_scaling=input_scaling,
        target_scaling=scaling,
    )


def _labels(column: Column) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Each row's class, and the names of the classes in their natural order."""
    if column.type == "text":
        classes, labels = np.unique(column.values.astype(str), return_inverse=True)
        return labels.astype(np.int64), tuple(classes.tolist())
    numbers, labels = np.unique(column.values, return_inverse=True)
    return labels.reshape(-1).astype(np.int64), tuple(str(int(number)) for number in numbers)


def _split(table: Table, labels: NDArray[np.int64] | None, spec: UploadedData, seed: int) -> Split:
    """As the spec says; else the split that came with the data, else a random one, with the shares of classes kept."""
    shares = spec.shares
    if spec.split.column is not None:
        column = table.column(spec.split.column)
        if column.width > 1:
            detail = f"Column {column.name!r} is an array; rows are split by one value for each row."
            raise RefusedData([Problem(detail, column=column.name)])
        if spec.split.by == "time":
            return Split.by_time(column.values, *shares)
        return Split.by_group(column.values, *shares, seed=seed)
    if table.train_rows is not None:
        test = np.arange(table.train_rows, table.rows)
        return Split(np.arange(table.train_rows), test[:0], test)
    if labels is not None:
        return Split.by_class(labels, *shares, seed=seed)
    return Split.random(table.rows, *shares, seed=seed)


def _inputs(
    columns: list[Column], train: NDArray[np.int64], *, standardise: bool
) -> tuple[NDArray[Any], Scaling | None]:
    if all(column.values.dtype == np.uint8 for column in columns):
        pixels = np.concatenate([column.as_matrix() for column in columns], axis=1).astype(np.float32)
        scaling = Scaling(mean=np.zeros(pixels.shape[1]), std=np.full(pixels.shape[1], 255.0))
        return pixels / np.float32(255), scaling
    values = np.concatenate([column.as_matrix() for column in columns], axis=1).astype(np.float64)
    if not standardise:
        return values, None
    scaling = Scaling.of(values[train])
    return scaling.apply(values), scaling
