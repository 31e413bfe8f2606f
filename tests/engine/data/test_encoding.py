"""Typed columns become numbers by what training rows alone say, the same way in training, prediction and ONNX."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.preprocessing import OneHotEncoder

from bimt_engine.data.encoding import ColumnSpec, EncodedColumn, TableEncoding, UnreadableCell
from bimt_engine.data.kinds.uploaded import UploadedData, dataset_of
from bimt_engine.data.readers import Column, RefusedData, Table


def column(name: str, values: list[Any], found: Any = None) -> Column:
    """A column as a reader gives it."""
    if found == "date":
        return Column(name, np.array(values, "datetime64[us]"), found="date")
    if any(isinstance(value, str) for value in values):
        return Column(name, np.array(values, object), found="category")
    return Column(name, np.array(values, np.float64), found=found)


def fitted(values: list[Any], *, train: list[int] | None = None, found: Any = None, **spec: Any) -> EncodedColumn:
    """One column, fitted to these rows; None: to all."""
    rows = np.arange(len(values)) if train is None else np.array(train)
    return EncodedColumn.of(column("x", values, found), ColumnSpec.model_validate(spec), rows)


def inputs(encoded: EncodedColumn, values: list[Any], found: Any = None) -> np.ndarray:
    """What the network reads, before it is standardised."""
    encoding = TableEncoding((encoded,))
    return encoding.apply(encoding.codes([column("x", values, found)]))


def test_levels_are_those_of_scikit_learn() -> None:
    levels = np.random.default_rng(0).choice(["a", "b", "c", "d"], size=60).tolist()
    found = inputs(fitted(levels, type="category", rare=1), levels)
    reference = OneHotEncoder(sparse_output=False).fit_transform(np.array(levels)[:, None])
    assert np.array_equal(found, reference)


def test_rare_levels_are_one_input_and_unseen_ones_follow_the_rule() -> None:
    levels = ["a"] * 6 + ["b"] * 5 + ["c", "d"]
    kept = fitted(levels, type="category", unseen="rare")
    assert kept.inputs == ("x[a]", "x[b]", "x[other]")
    assert inputs(kept, ["c", "z", "a"]).tolist() == [[0, 0, 1], [0, 0, 1], [1, 0, 0]]
    assert kept.code_cells("z") == [2.0]
    assert fitted(levels, type="category", unseen="zeros").code_cells("z") == [-1.0]
    with pytest.raises(UnreadableCell, match="no level 'z' in its training rows; it has a, b"):
        fitted(levels, type="category").code_cells("z")
    assert len(fitted(levels, type="category", most_levels=1).inputs) == 2


def test_two_levels_are_one_input_and_ordered_levels_one_number() -> None:
    assert fitted(["f", "m"] * 5, type="category").inputs == ("x[m]",)
    ordered = fitted(["low", "high", "mid"] * 3, type="category", order=["low", "mid", "high"])
    assert inputs(ordered, ["mid", "low", "high"]).tolist() == [[1], [0], [2]]
    with pytest.raises(RefusedData, match="lacks the level 'mid'"):
        fitted(["low", "high", "mid"], type="category", order=["low", "high"])


def test_gaps_are_filled_by_training_rows_alone_beside_an_indicator() -> None:
    nan = float("nan")
    values = [1.0, 2.0, nan, 9.0, 1000.0]
    filled = fitted(values, train=[0, 1, 2, 3], missing="median")
    assert inputs(filled, [nan, 5.0]).tolist() == [[2.0, 1.0], [5.0, 0.0]]
    assert fitted(values, train=[0, 1, 2, 3], missing="mean").fills == (4.0,)
    whole = fitted([1.0, 2.0, 3.0], missing="median")
    assert whole.inputs == ("x",)  # nothing is missing in training: an indicator would be constant
    assert inputs(whole, [nan]).tolist() == [[2.0]]
    with pytest.raises(UnreadableCell, match="none was missing in training"):
        fitted([1.0, 2.0]).code_cells(None)


def test_a_missing_level_is_a_level() -> None:
    own = fitted(["a", "b", None, "a", "b"] * 5, type="category", missing="category")
    assert own.inputs == ("x[a]", "x[b]", "x[missing]")
    assert inputs(own, [None, "a"]).tolist() == [[0, 0, 1], [1, 0, 0]]
    assert own.code_cells("") != own.code_cells("a")


def test_dates_are_days_or_parts() -> None:
    dates = ["2024-02-29", "1969-12-31", "2023-01-02"]
    days = inputs(fitted(dates, found="date", type="date"), dates, "date")
    assert days[:, 0].tolist() == [19782.0, -1.0, 19359.0]
    parts = fitted(dates, found="date", type="date", dates="parts")
    assert parts.inputs == ("x[year]", "x[month]", "x[weekday]")
    assert inputs(parts, dates, "date").tolist() == [[2024, 2, 3], [1969, 12, 2], [2023, 1, 0]]
    assert parts.code_cells("2024-02-29") == [2024, 2, 3]
    with pytest.raises(UnreadableCell, match="is no date"):
        parts.code_cells("29th")


def test_a_logarithm_is_of_what_the_median_makes_of_the_value() -> None:
    skewed = fitted([1.0, 10.0, 100.0], transform="log")
    assert inputs(skewed, [0.0, 10.0, 990.0])[:, 0] == pytest.approx(np.log([1, 2, 100]))
    with pytest.raises(RefusedData, match="no logarithm"):
        fitted([1.0, -1.0], transform="log")


def test_an_encoding_is_plain_data_and_torch_computes_the_same() -> None:
    draw = np.random.default_rng(1)
    columns = [
        column("level", draw.choice(["a", "b", "c"], 50).tolist()),
        Column("gap", np.where(draw.random(50) < 0.2, np.nan, draw.normal(size=50))),
        column("day", ["2024-01-01", "2024-06-01"] * 25, "date"),
        Column("size", np.exp(draw.normal(size=50))),
    ]
    specs = {
        "level": ColumnSpec(type="category", missing="category"),
        "gap": ColumnSpec(missing="mean"),
        "day": ColumnSpec(type="date"),
        "size": ColumnSpec(transform="log"),
    }
    encoding = TableEncoding.of(columns, specs, np.arange(30))
    assert TableEncoding.from_json(encoding.to_json()) == encoding
    codes = encoding.codes(columns)
    assert encoding.apply(torch.from_numpy(codes), torch).numpy() == pytest.approx(encoding.apply(codes), abs=1e-14)


def table() -> Table:
    """Six columns of forty rows: gaps in an input and in the target."""
    draw = np.random.default_rng(2)
    y = draw.normal(size=40)
    y[3] = np.nan
    return Table(
        (
            Column("age", np.where(draw.random(40) < 0.3, np.nan, draw.normal(size=40))),
            column("port", draw.choice(["C", "Q", "S"], 40).tolist()),
            Column("y", y),
        )
    )


def spec(**changes: Any) -> UploadedData:
    """How that table is read."""
    columns = {"age": {"missing": "median"}, "port": {"type": "category"}, "y": {"missing": "drop"}}
    given = {"dataset_id": f"dataset_{0:026d}", "sha256": "0" * 64, "format": "csv", "targets": ["y"]}
    return UploadedData.model_validate(
        given | {"inputs": ["age", "port"], "task": "regression", "columns": columns} | changes
    )


def test_rows_without_a_target_are_dropped_and_columns_keep_their_inputs_together() -> None:
    data = dataset_of(table(), spec(), seed=0)
    parts = (data.train_inputs, data.validation_inputs, data.test_inputs)
    assert sum(len(part) for part in parts if part is not None) == 39
    assert data.column_names == ("age", "port")
    assert data.feature_names == ("age", "age[missing]", "port[C]", "port[Q]", "port[S]")
    assert data.column_of.tolist() == [0, 0, 1, 1, 1]


def test_gaps_that_the_spec_refuses_are_named() -> None:
    with pytest.raises(RefusedData, match="Column 'age' has no value in"):
        dataset_of(table(), spec(columns={"port": {"type": "category"}, "y": {"missing": "drop"}}), seed=0)


def test_a_spec_without_columns_says_nothing_of_them() -> None:
    plain = spec(columns={})
    assert not {"columns", "weight"} & set(plain.model_dump(mode="json"))
