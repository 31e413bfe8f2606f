"""Typed columns become numbers by what training rows alone say, the same way in training, prediction and ONNX."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.preprocessing import OneHotEncoder

from bimt_engine.data.encoding import ColumnSpec, EncodedColumn, TableEncoding, UnreadableCell
from bimt_engine.data.kinds.uploaded import UploadedData, dataset_of
from bimt_engine.data.readers import Column, RefusedData, Table
from bimt_engine.data.roles import read_table


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


GERMAN = """amount;whole;rate;day;port;seen
1.234,5;12;5 %;05/03/2023;S;yes
2,25;1500;7,5 %;28/03/2023;Q;no
NA;3;2 %;31/12/2023;;yes
1.500;7;1 %;13/01/2024;S;no
0,5;9;3 %;14/01/2024;NA;yes
"""
GERMAN_COLUMNS = {
    "amount": ColumnSpec(missing="median"),
    "whole": ColumnSpec(),
    "rate": ColumnSpec(),
    "day": ColumnSpec(type="date"),
    "port": ColumnSpec(type="category", missing="category", rare=1),
    "seen": ColumnSpec(type="boolean"),
}


def german() -> dict[str, EncodedColumn]:
    """The columns of that file, fitted and stored."""
    read = read_table(GERMAN.encode(), "csv", read_as=GERMAN_COLUMNS)
    encoding = TableEncoding.of(read.columns, GERMAN_COLUMNS, np.arange(5))
    again = TableEncoding.from_json(json.loads(json.dumps(encoding.to_json())))
    assert again == encoding
    rows = [line.split(";") for line in GERMAN.splitlines()[1:]]
    assert np.array_equal([again.code_row(row) for row in rows], again.codes(read.columns), equal_nan=True)
    return {one.name: one for one in again.columns}


def test_texts_are_read_as_the_file_was() -> None:
    read = german()
    amount, day, port = read["amount"], read["day"], read["port"]
    assert (amount.notation, day.notation, read["rate"].sign) == ("1.234,5", "31/12/2024", "%")
    assert [amount.code_cells(x) for x in ("1.500", " 1,5 ", 1.5, "-1.234,5")] == [[1500], [1.5], [1.5], [-1234.5]]
    assert read["whole"].code_cells("1.500") == [1500.0]  # as elsewhere in the file
    assert [read["rate"].code_cells(x) for x in ("5%", 5, "0")] == [[5], [5], [0]]
    assert all(np.isnan(amount.code_cells(x)) for x in ("NA", " n/a ", "", "-", None))
    assert np.isnan(port.code_cells("NA"))
    assert port.code_cells(" S ") == port.code_cells("S")
    assert day.code_cells(" 05/03/2023 ") == day.code_cells("2023-03-05") == day.code_cells("20230305") == [19421.0]
    assert read["seen"].code_cells(" Y ") == [1.0]
    for column, cell, why in [
        (amount, "1.5", "no number; write numbers like 1.234,5"),
        (amount, "12 %", "written without a sign"),
        (read["rate"], "12", "written with the sign %"),
        (amount, "1_000", "no number"),
        (read["whole"], "NA", "none was missing in training"),
        (read["seen"], "maybe", "neither"),
    ]:
        with pytest.raises(UnreadableCell, match=why):
            column.code_cells(cell)


@pytest.mark.parametrize("cell", [2023, 19478, 1.5, True, "2023", "now", "today", "12/31/2024", "19478"])
def test_what_is_no_date_is_refused(cell: Any) -> None:
    with pytest.raises(UnreadableCell, match="write .* like 31/12/2024"):
        german()["day"].code_cells(cell)


def test_encodings_of_before_read_plain_numbers_and_iso_dates() -> None:
    old = EncodedColumn.from_json({"name": "x", "type": "number", "fills": [0.0], "inputs": ["x"]})
    assert old.code_cells(" 1.500 ") == [1.5]
    with pytest.raises(UnreadableCell, match="no number"):
        old.code_cells("1,500")
    day = EncodedColumn.from_json({"name": "x", "type": "date", "fills": [0.0], "inputs": ["x"]})
    assert day.code_cells("2024-02-29T12:00:00Z") == [19782.5]
    with pytest.raises(UnreadableCell, match="like 2024-12-31"):
        day.code_cells("05/03/2023")


def test_a_notation_that_the_user_says_holds_for_plain_numbers_too() -> None:
    read = read_table(b"a,b\n1.500,1\n2.250,2\n3.125,3\n4.000,4", "csv", read_as={"a": ColumnSpec(notation="1.234,5")})
    assert read.column("a").values.tolist() == [1500, 2250, 3125, 4000]
    assert EncodedColumn.of(read.column("a"), ColumnSpec(), np.arange(4)).code_cells("1.500") == [1500]


def test_no_two_inputs_have_the_same_name() -> None:
    nan = float("nan")
    columns = [
        column("age", [1.0, nan, 3.0, 4.0, 5.0, 6.0]),
        column("age[missing]", [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]),
        column("age[is missing]", ["a", "b", "c", "a", "b", "c"]),
        column("x", ["other", "other", "missing", "missing", "rare", None]),
        column("x[other levels]", [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]),
        column("d", ["2024-01-01", "2024-02-01", "2023-03-05", "2024-05-01", "2024-06-01", "2024-07-01"], "date"),
        column("d[year]", [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]),
        column("s", [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]),
        column("s[log]", ["a]", "a]", "a", "a", "b", "b"]),
        column("s[log][a", ["]", "]", "a", "a", "b", "b"]),
    ]
    specs = {
        "age": ColumnSpec(missing="mean"),
        "age[is missing]": ColumnSpec(type="category", rare=1),
        "x": ColumnSpec(type="category", missing="category", rare=2),
        "d": ColumnSpec(type="date", dates="parts"),
        "s": ColumnSpec(transform="log"),
        "s[log]": ColumnSpec(type="category", rare=1),
        "s[log][a": ColumnSpec(type="category", rare=1),
    }
    encoding = TableEncoding.of(columns, specs, np.arange(6))
    assert len(set(encoding.inputs)) == len(encoding.inputs) == encoding.apply(encoding.codes(columns)).shape[1]
    assert len(set(encoding.code_names)) == len(encoding.code_names)
    inputs_of = {one.name: one.inputs for one in encoding.columns}
    assert inputs_of["age"] == ("age", "age[is missing 2]")
    assert inputs_of["age[missing]"] == ("age[missing]",)
    assert inputs_of["x"] == ("x[missing]", "x[other]", "x[other levels 2]", "x[is missing]")
    assert inputs_of["d"] == ("d[year 2]", "d[month]", "d[weekday]")
    assert inputs_of["s"] == ("s[log 2]",)
    stored = json.loads(json.dumps(encoding.to_json()))
    assert TableEncoding.from_json(stored) == encoding
    some = encoding.only(["age", "x"])
    assert some.inputs == inputs_of["age"] + inputs_of["x"]
    assert TableEncoding.from_json(some.to_json()) == some
    doubled = TableEncoding.from_json([{"name": "a", "type": "category", "levels": ["missing"], "indicator": True}])
    assert doubled.inputs == ("a[missing]", "a[is missing]")
