"""Uploaded data: from the bytes and the roles of their columns to the data set."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from bimt_engine.data.dataset import Answer, Dataset, Examples, Scaling
from bimt_engine.data.encoding import ColumnSpec, EncodedColumn, TableEncoding, kept_rows, levels_of, missing_cells
from bimt_engine.data.kinds import Drawn, dataset_kind
from bimt_engine.data.kinds.groups import group_dataset, read_cayley
from bimt_engine.data.kinds.text import CONTEXT, MAX_CONTEXT, text_dataset, windows_of
from bimt_engine.data.readers import MIN_ROWS, Column, Problem, RefusedData, Table
from bimt_engine.data.readers.files import read_texts
from bimt_engine.data.roles import Format, Roles, all_but, check_roles, read_table
from bimt_engine.data.split import Split
from bimt_engine.errors import DataError
from bimt_engine.spec_part import Name, Part

NO_FILE = {"dataset_id": f"ds_{'0' * 26}", "sha256": "0" * 64}  # of a spec whose table is at hand


MOST_TARGET_LEVELS = 64  # of a category beside other targets; each is an output


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
        description=f"For text: bytes of one example; null: {CONTEXT}.",
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
    def examples(self) -> Examples:  # type: ignore[override]  # here the spec decides
        """What one example is, by the format."""
        tokens: dict[str, Examples] = {"cayley": "tokens", "text": "text"}
        return tokens.get(self.format, "numbers")

    @property
    def has_classes(self) -> bool:  # type: ignore[override]
        """As the roles say."""
        return self.task == "classification"

    @property
    def several_own_targets(self) -> bool:
        """Whether several columns of numbers are predicted."""
        return self.task == "regression" and len(self.targets) > 1

    @property
    def is_standardised_table(self) -> bool:
        """Whether it is a table of columns, standardised: no products of a group, no text, no images."""
        return self.standardise and self.format not in ("cayley", "text", "images")

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
    return dataset_of(_read(content, spec), spec, seed=seed)


def _read(content: bytes | Path, spec: UploadedData) -> Table:
    apart = [name for name in (spec.split.column, spec.weight) if name is not None]
    used = None if spec.inputs is None else frozenset([*spec.inputs, *spec.targets, *apart])
    return read_table(content, spec.format, used=used, whole=False, read_as=spec.columns or None)


def check_upload(content: bytes | Path, spec: UploadedData, *, seeds: Sequence[int]) -> None:
    """Raise what keeps a spec from being trained on an upload with one of these seeds. Raises DataError."""
    if spec.format == "text":
        windows_of(read_texts(content), spec.context or CONTEXT)
    elif spec.format != "cayley":
        check_table(_read(content, spec), spec, seeds=seeds)


@dataclass(frozen=True)
class _Understood:
    """A table in the roles of a spec, rows that are dropped left out; the same whatever the seed."""

    table: Table
    columns: list[Column]
    targets: list[Column]
    labels: NDArray[np.int64] | None
    classes: tuple[str, ...]


def _understood(table: Table, spec: UploadedData) -> _Understood:
    if table.rows < MIN_ROWS:
        raise DataError(f"The data have {table.rows} rows; at least {MIN_ROWS} are needed to train and to test.")
    apart = [name for name in (spec.split.column, spec.weight) if name is not None]
    names = all_but(table, [*spec.targets, *apart]) if spec.inputs is None else tuple(spec.inputs)
    if not spec.columns:
        problems = check_roles(table, Roles(names, tuple(spec.targets), spec.task))
        if problems:
            raise RefusedData(problems)
    else:
        table, names = _without_gaps(table, names, apart, spec)
    columns = [table.column(name) for name in names]
    targets = [_typed_target(table.column(name), spec) for name in spec.targets]
    if spec.task == "regression" and (problems := [p for column in targets for p in _unfit_levels(column)]):
        raise RefusedData(problems)
    labels, classes = _labels(targets[0]) if spec.task == "classification" else (None, ())
    return _Understood(table, columns, targets, labels, classes)


def dataset_of(table: Table, spec: UploadedData, *, seed: int) -> Dataset:
    """The data set that a spec makes of typed columns. Raises DataError."""
    found = _understood(table, spec)
    table, columns, targets, labels, classes = found.table, found.columns, found.targets, found.labels, found.classes
    split = _split(table, labels, spec, seed)
    encoding = None
    if spec.columns:
        encoding = TableEncoding.of(columns, spec.columns, split.train)
        inputs = encoding.apply(encoding.codes(columns))
        input_scaling = encoding.scaling(inputs[split.train]) if spec.standardise else None
        inputs = input_scaling.apply(inputs) if input_scaling else inputs
        feature_names = encoding.inputs
    else:
        inputs, input_scaling = _inputs(columns, split.train, standardise=spec.standardise)
        feature_names = tuple(part for column in columns for part in column.parts)
    weights = _weights(table, split, spec)
    if labels is not None:
        return Dataset(
            **split.parts_of(inputs, labels),
            **weights,
            task="classification",
            feature_names=feature_names,
            target_names=classes,
            input_scaling=input_scaling,
            encoding=encoding,
        )
    values, answers = _answers(targets, spec, split.train)
    scaling = Scaling.of(values[split.train]) if spec.standardise else None
    of = np.repeat(np.arange(len(answers)), [len(answer.outputs) for answer in answers])
    places = np.array([bool(answers[number].levels) for number in of], bool)
    if scaling is not None and places.any():  # levels stay 0 and 1, so that outputs are shares
        scaling = Scaling(np.where(places, 0.0, scaling.mean), np.where(places, 1.0, scaling.std))
    scaled = scaling.apply(values) if scaling else values
    names = tuple(part for column in targets for part in column.parts)
    return Dataset(
        **split.parts_of(inputs, scaled),
        **weights,
        task="regression",
        feature_names=feature_names,
        target_names=tuple(name for answer in answers for name in answer.outputs) or names,
        input_scaling=input_scaling,
        target_scaling=scaling,
        encoding=encoding,
        label_groups=tuple(
            tuple(np.flatnonzero(of == number).tolist()) for number, answer in enumerate(answers) if answer.levels
        ),
        answers=answers,
    )


def _answers(
    targets: list[Column], spec: UploadedData, train: NDArray[np.int64]
) -> tuple[NDArray[np.float64], tuple[Answer, ...]]:
    """What is predicted, (rows, outputs), and of which columns; () where each is a number as it is."""
    found: list[Answer] = []
    parts: list[NDArray[np.float64]] = []
    for column in targets:
        chosen = spec.columns.get(column.name)
        if column.values.dtype == object:
            labels, levels = _labels(column)
            found.append(Answer(column.name, levels=levels))
            parts.append(np.eye(len(levels))[labels])
        elif chosen is not None and chosen.transform == "log":
            values = column.as_matrix().astype(np.float64)
            median = float(np.median(values[train])) or 1.0
            found.append(Answer(column.name, median=median))
            parts.append(np.log1p(values / median))
        else:
            found += [Answer(part) for part in column.parts]
            parts.append(column.as_matrix().astype(np.float64))
    plain = all(not answer.levels and answer.median is None for answer in found)
    return np.concatenate(parts, axis=1), () if plain else tuple(found)


def _unfit_levels(column: Column) -> list[Problem]:
    """What keeps a category from being one of several targets."""
    if column.values.dtype != object:
        return []
    levels = len(set(column.values.tolist()))
    if levels > MOST_TARGET_LEVELS or 2 * levels > len(column.values) + 2:
        detail = (
            f"The target {column.name!r} has {levels:,} different levels in {len(column.values):,} rows; beside other "
            f"targets at most {MOST_TARGET_LEVELS} are predicted, each with two rows or more."
        )
        return [Problem(detail, column=column.name)]
    return []


def check_table(table: Table, spec: UploadedData, *, seeds: Sequence[int] = ()) -> None:
    """Raise what keeps a spec from being trained on a table, without making the inputs: RefusedData, DataError.

    It is asked before a job is queued, and says more than `dataset_of`, which still reads what older versions trained
    on: a column of times must have an order, and the training rows of a split by groups or times more than one target.

    seeds   of the runs, by which rows come into parts; (): what fails for one seed only is not looked at.
    """
    found = _understood(table, spec)
    if spec.split.by == "time":
        _refuse_unordered(found.table.column(str(spec.split.column)))
    if spec.weight is not None:
        _weight_values(found.table.column(spec.weight), parts=3 if spec.shares[1] else 2)
    own = (spec.seed,) if spec.seed is not None else tuple(seeds)
    by_seed = spec.weight is not None or spec.split.column is not None
    for number, seed in enumerate(own or (0,)):
        if number and not by_seed:
            break
        split = _split(found.table, found.labels, spec, seed)
        if spec.columns and not number:
            TableEncoding.of(found.columns, spec.columns, split.train)
        if own:
            _weights(found.table, split, spec)
        if own and spec.split.column is not None:
            _refuse_constant(found, split, spec, seed)


def _refuse_constant(found: _Understood, split: Split, spec: UploadedData, seed: int) -> None:
    for number, column in enumerate(found.targets):
        values = found.labels if found.labels is not None and not number else column.as_matrix()
        values = values.astype(str) if values.dtype == object else values
        if len(np.unique(values[split.train], axis=0)) < 2:
            detail = (
                f"The target {column.name!r} has the same value in every training row when rows are split by "
                f"{spec.split.column!r} (seed {seed}), so there is nothing to learn: split by another column, or by "
                "chance."
            )
            raise RefusedData([Problem(detail, column=column.name)])


def _refuse_unordered(column: Column) -> None:
    """Raise RefusedData for times that are words: only numbers, dates, and codes such as 2024Q1 have an order."""
    if column.values.dtype != object:
        return
    values = [str(value) for value in column.values.tolist() if value is not None]
    shapes = {re.sub(r"[0-9]", "9", value) for value in values}
    if len(shapes) == 1 and all(re.match(r"[0-9]{4}", value) for value in values):
        return
    shown = next((value for value in values if not re.match(r"[0-9]{4}", value)), values[0] if values else "")
    detail = (
        f"Column {column.name!r} holds {shown[:40]!r}, which says no time: by time, rows are split by numbers, by "
        "dates (give the column the type `date` and its `notation`), or by words that begin with the year and are all "
        "written alike, such as 2024Q1. Or split by `group`."
    )
    raise RefusedData([Problem(detail, column=column.name)])


def _without_gaps(
    table: Table, names: tuple[str, ...], apart: list[str], spec: UploadedData
) -> tuple[Table, tuple[str, ...]]:
    """The table without the rows that the spec drops, and the inputs that differ in what is left.

    Raises RefusedData where nothing is left to learn from.
    """
    used = [table.column(name) for name in (*names, *spec.targets, *apart)]
    kept, _ = kept_rows(used, spec.columns)
    rows = np.flatnonzero(kept)
    if len(rows) < MIN_ROWS:
        detail = f"Only {len(rows)} rows have every value that is needed; at least {MIN_ROWS} are needed. "
        raise RefusedData([Problem(detail + "Fill missing cells (`missing`) instead of dropping their rows.")])
    columns = tuple(
        replace(column, values=column.values[rows], missing=None if column.missing is None else column.missing[rows])
        for column in used
    )
    train_rows = None if table.train_rows is None else int(kept[: table.train_rows].sum())
    left = replace(table, columns=columns, train_rows=train_rows)
    for name in spec.targets:
        if len(set(levels_of(left.column(name)).tolist())) < 2:
            detail = f"The target {name!r} has the same value in every row that is left; there is nothing to learn."
            raise RefusedData([Problem(detail, column=name)])
    return left, names


def _typed_target(column: Column, spec: UploadedData) -> Column:
    """The target as numbers for a regression, and as the type of its spec for classes."""
    chosen = spec.columns.get(column.name)
    if chosen is None:
        return column
    if chosen.transform != "none" and spec.task == "classification":
        detail = f"The target {column.name!r} is a class and has no logarithm: leave `transform` out."
        raise RefusedData([Problem(detail, column=column.name)])
    if spec.task == "regression" and chosen.type not in ("category", "text"):
        plain = EncodedColumn(column.name, chosen.type)
        values = plain.codes(column)[:, 0]
        if chosen.transform == "log" and values.min() < 0:
            detail = (
                f"The target {column.name!r} is negative in some row ({values.min():g}) and has no logarithm: leave "
                "`transform` out."
            )
            raise RefusedData([Problem(detail, column=column.name)])
        return Column(column.name, values)
    if spec.task == "regression" and len(spec.targets) > 1:
        return Column(column.name, levels_of(column), found="category")
    if spec.task == "regression":
        detail = f"The target {column.name!r} holds levels; choose the task `classification`, or a column of numbers."
        raise RefusedData([Problem(detail, column=column.name)])
    if chosen.type == "boolean" and column.values.dtype != object:
        names = np.where(column.values.astype(np.float64) > 0, "true", "false")
        return Column(column.name, names.astype(object), found="category")
    whole = column.values.dtype != object and bool((column.values == np.rint(column.values)).all())
    return column if whole else Column(column.name, levels_of(column), found="category")


def _weights(table: Table, split: Split, spec: UploadedData) -> dict[str, Any]:
    """How much each row of the three parts counts, as keyword arguments of a `Dataset`; nothing without such a column.

    Raises RefusedData for weights that are no numbers of 0 or more, and for a part whose weights are all 0.
    """
    if spec.weight is None:
        return {}
    column = table.column(spec.weight)
    values = _weight_values(column, parts=3 if spec.shares[1] else 2)
    if len(split.validation) == 0:
        detail = f"Rows that come in parts of their own have no validation part to weight: leave {spec.weight!r} out."
        raise RefusedData([Problem(detail, column=spec.weight)])
    found = {}
    for name, rows in (("train", split.train), ("validation", split.validation), ("test", split.test)):
        part = values[rows]
        if not part.sum() > 0:
            detail = (
                f"The weight {spec.weight!r} is 0 in every row of the {name} part ({len(part)} rows); it must be above "
                "0 in some row of each part. Leave it out, or try another seed."
            )
            raise RefusedData([Problem(detail, column=spec.weight)])
        found[f"{name}_weights"] = part / part.mean()
    return found


def _weight_values(column: Column, *, parts: int) -> NDArray[np.float64]:
    """The weight in each row, 0 or more, and above 0 in as many rows as there are parts. Raises RefusedData."""
    values = column.values
    detail = ""
    if values.dtype.kind not in "fiub" or column.width > 1:
        held = "arrays" if column.width > 1 else "dates" if values.dtype.kind == "M" else "text"
        detail = f"The weight {column.name!r} holds {held}; it must be a number in every row."
    elif (gaps := missing_cells(column)).any():
        detail = (
            f"The weight {column.name!r} has no value in {int(gaps.sum()):,} of {len(values):,} rows; it must be a "
            "number in every row. Drop these rows (`missing`), or fill them in the file."
        )
    elif (values < 0).any():
        detail = (
            f"The weight {column.name!r} is negative in {int((values < 0).sum()):,} rows, {float(values.min()):g} at "
            "least; weights are 0 or more."
        )
    elif (above := int((values > 0).sum())) < parts:
        detail = (
            f"The weight {column.name!r} is above 0 in {above} of {len(values):,} rows; it must be so in some row of "
            f"each of the {parts} parts."
        )
    if detail:
        raise RefusedData([Problem(detail, column=column.name)])
    weights: NDArray[np.float64] = values.astype(np.float64)
    return weights


def _labels(column: Column) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Each row's class, and the names of the classes in their natural order."""
    if column.values.dtype == object:
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
        values = column.values if column.values.dtype != object else np.array([x or "" for x in column.values], object)
        name = f"Column {column.name!r}, by which rows are split,"
        try:
            if spec.split.by == "time":
                return Split.by_time(values, *shares, column=name)
            return Split.by_group(values, *shares, seed=seed, column=name)
        except DataError as error:
            raise RefusedData([Problem(str(error), column=column.name)]) from None
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
