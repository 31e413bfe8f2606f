"""Tables as programs and people write them: each is read with the right values and notes, or refused by a sentence."""

# ruff: noqa: E501 - a table is easier to see in one line

from __future__ import annotations

import datetime
import gzip
import io
from typing import Any

import numpy as np
import polars as pl
import pytest

from bimt_engine.data.preview import understand
from bimt_engine.data.readers import Column, ReadAs, RefusedData
from bimt_engine.data.readers.rows import PORTION
from bimt_engine.data.roles import Roles, read_table, resolve_roles
from tests.engine.data.makers import npz, xlsx, zipped

nan = float("nan")


def csv(header: str, *rows: str, above: str = "", encoding: str = "utf-8") -> bytes:
    return (above + "\n".join([header, *rows]) + "\n").encode(encoding)


def frame(write: str = "write_ipc", **columns: Any) -> bytes:
    held = io.BytesIO()
    getattr(pl.DataFrame(columns), write)(held)
    return held.getvalue()


def npy(array: np.ndarray) -> bytes:
    held = io.BytesIO()
    np.save(held, array)
    return held.getvalue()


def days(*texts: str) -> list[Any]:
    return [np.datetime64(text, "us") for text in texts]


PLAIN = csv("x,y", "1.5,10", "2.5,30", "3.5,20", "4.5,50")
RECORD = np.array([(1.5, 2, b"1"), (nan, 3, b"2"), (3.5, 5, b"3"), (4.5, 4, b"4")], dtype="f8,i4,S1")
NAMED = np.array([(1.5, 2, "a"), (nan, 3, "b"), (3.5, 5, "a"), (4.5, 4, "b")], [("x", "f8"), ("n", "i4"), ("s", "U3")])

# name: (format, content, {column: (type, values)}, what the notes say)
READ: dict[str, tuple[str, bytes, dict[str, tuple[str, list[Any] | None]], list[str]]] = {
    # --- indices
    "to_csv with its index": (
        "csv", csv(",x,y", "0,1.5,1", "1,2.5,3", "2,3.5,2", "3,4.5,5"),
        {"column 1": ("index", [0, 1, 2, 3]), "x": ("number", [1.5, 2.5, 3.5, 4.5]), "y": ("integer", [1, 3, 2, 5])},
        ["Left out, because it only counts or identifies rows: column 1."],
    ),
    "to_csv of filtered rows": (
        "csv", csv(",x,y", "3,1.5,1", "17,2.5,3", "18,3.5,2", "99,4.5,5"), {"column 1": ("index", None)}, ["counts"],
    ),
    "an index that was written twice": (
        "csv", csv("Unnamed: 0,x,y", "0,1.5,1", "1,2.5,3", "2,3.5,2", "3,4.5,5"), {"Unnamed: 0": ("index", None)}, [],
    ),
    "row names of R": (
        "csv", csv('"",x,y', '"Mazda RX4",1.5,1', '"Datsun",2.5,3', '"Hornet",3.5,2', '"Valiant",4.5,5'),
        {"column 1": ("text", ["Mazda RX4", "Datsun", "Hornet", "Valiant"])}, ["column 1 ('Mazda RX4', …)"],
    ),
    "an id": (
        "csv", csv("PassengerId,x,y", "892,1,1", "894,2,3", "893,3,2", "895,9,5"), {"PassengerId": ("index", None)}, [],
    ),
    "years count, but are no id": (
        "csv", csv("year,y", "2001,1.5", "2002,2.5", "2003,1.5", "2004,9"), {"year": ("integer", None)}, [],
    ),
    "an empty column that a spreadsheet leaves": (
        "csv", csv("x,y,", "1.5,1,", "2.5,3,", "3.5,2,", "4.5,5,"), {"x": ("number", None), "y": ("integer", None)},
        ["they have neither a name nor a value: 1 of the columns."],
    ),
    # --- missing cells
    "missing cells": (
        "csv", csv("x,s,y", "1.5,a,1", ",b,3", "3.5,,2", "4.5,a,", "4,b,6"),
        {"x": ("number", [1.5, nan, 3.5, 4.5, 4]), "s": ("category", ["a", "b", None, "a", "b"]),
         "y": ("integer", [1, 3, 2, nan, 6])},
        ["No value: x (1 of 5 rows). The median", "No value: s (1 of 5 rows). That is a level of its own.",
         "No value: y (1 of 5 rows). These rows are left out."],
    ),
    "the words for a missing number": (
        "csv", csv("x,y", "NA,1", "n/a,3", "NaN,2", "null,5", "None,1", "?,2", "-,4", ".,1", "#N/A,2", "<NA>,7", "1.5,3"),
        {"x": ("number", [nan] * 10 + [1.5])}, ["More than half of the cells have no value: x."],
    ),
    "the words for a missing word": (
        "csv", csv("s,y", "a,1", "?,3", "NA,2", "a,5", "none,6", "none,1"),
        {"s": ("category", ["a", None, None, "a", "none", "none"])}, ["No value: s (2 of 6 rows)"],
    ),
    "a column without any value": (
        "csv", csv("x,e,y", "1.5,,1", "2.5,,3", "3.5,,2", "4.5,,5"), {"e": ("text", [None] * 4)},
        ["Left out, because no row has a value: e."],
    ),
    "whole numbers with a gap stay whole": (
        "csv", csv("x,y", "1.0,1", ",3", "3.0,2", "4.0,5"), {"x": ("integer", [1, nan, 3, 4])}, [],
    ),
    # --- booleans
    "True and False": (
        "csv", csv("b,y", "True,1.5", "False,3", "True,2", ",5"), {"b": ("boolean", [1, 0, 1, nan])},
        ["'b' is read as 1 for true or yes and 0 for false or no."],
    ),
    "yes and no": ("csv", csv("b,y", "yes,1.5", "no,3", "Yes,2", "NO,5"), {"b": ("boolean", [1, 0, 1, 0])}, []),
    "letters of yes and no": ("csv", csv("b,y", "Y,1.5", "N,3", "Y,2", "N,5"), {"b": ("boolean", [1, 0, 1, 0])}, []),
    "one letter alone is a word": (
        "csv", csv("b,x,y", "T,1,1.5", "T,2,3", "T,1,2", "T,2,5"), {"b": ("category", ["T"] * 4)}, ["carry no information: b."],
    ),
    "0 and 1 are numbers": ("csv", csv("b,y", "0,1.5", "1,3", "1,2", "0,5"), {"b": ("integer", [0, 1, 1, 0])}, []),
    # --- dates
    "ISO dates": (
        "csv", csv("d,y", "2024-05-31,1.5", "2024-06-01,3", ",2", "2023-12-31,5"),
        {"d": ("date", [*days("2024-05-31", "2024-06-01"), np.datetime64("NaT"), *days("2023-12-31")])},
        ["No value: d (1 of 4 rows). The median"],
    ),
    "ISO dates with times and zones": (
        "csv", csv("d,y", "2024-05-31T12:30:00Z,1.5", "2024-05-31 14:30:00.25+02:00,3", "2024-05-31T00:00,2", "2024-06,5"),
        {"d": ("date", days("2024-05-31T12:30", "2024-05-31T12:30:00.25", "2024-05-31", "2024-06-01"))}, [],
    ),
    "days first": (
        "csv", csv("d,y", "31/05/2024,1.5", "01/06/2024,3", "02/06/2024,2", "31/12/2023,5"),
        {"d": ("date", days("2024-05-31", "2024-06-01", "2024-06-02", "2023-12-31"))},
        ["'d' is read as dates, '31/05/2024' as 2024-05-31."],
    ),
    "months first, with times": (
        "csv", csv("d,y", "5/31/2024 2:05 PM,1.5", "6/1/2024 12:00 AM,3", "6/2/2024,2", "12/31/2023,5"),
        {"d": ("date", days("2024-05-31T14:05", "2024-06-01", "2024-06-02", "2023-12-31"))}, [],
    ),
    "days first between points": (
        "csv", csv("d;y", "01.02.2024;1,5", "02.02.2024;3,5", "03.02.2024;2,5", "04.02.2024;5,5"),
        {"d": ("date", days("2024-02-01", "2024-02-02", "2024-02-03", "2024-02-04"))}, [],
    ),
    "months by name": (
        "csv", csv('d,y', '"May 31, 2024",1.5', "1 June 2024,3", "02-Jun-2024,2", '"Sun, 31 Dec 2023",5'),
        {"d": ("date", days("2024-05-31", "2024-06-01", "2024-06-02", "2023-12-31"))}, [],
    ),
    "dates that may be either are left out": (
        "csv", csv("d,x,y", "01/02/2024,1,1.5", "02/03/2024,2,3", "03/04/2024,1,2", "04/05/2024,7,5"),
        {"d": ("text", None)}, ["no row says whether the day or the month comes first, so it is left out"],
    ),
    "one column says it for the other": (
        "csv", csv("a,b,y", "01/02/2024,31/01/2024,1.5", "02/03/2024,28/02/2024,3", "03/04/2024,01/04/2024,2", "04/05/2024,30/04/2024,5"),
        {"a": ("date", days("2024-02-01", "2024-03-02", "2024-04-03", "2024-05-04"))}, [],
    ),
    "years of two digits are noted": (
        "csv", csv("d,y", "31/05/24,1.5", "01/06/24,3", "02/06/99,2", "31/12/23,5"),
        {"d": ("date", days("2024-05-31", "2024-06-01", "1999-06-02", "2023-12-31"))}, ["'31/05/24' as 2024-05-31"],
    ),
    # --- notations of numbers
    "commas between thousands": (
        "csv", csv("x,y", '"1,000",1.5', '"12,500",3', '999,2', '"1,234,567",5'),
        {"x": ("integer", [1000, 12500, 999, 1234567])}, ["'x' is read as numbers, '1,000' as 1000."],
    ),
    "commas between thousands that might be decimal": (
        "csv", csv("x,y", '"1,000",1', '"2,500",3', '"3,000",2', '"9,000",5'), {"x": ("integer", [1000, 2500, 3000, 9000])},
        ["'1,000' as 1000; the notation `1.234,5` would read it otherwise."],
    ),
    "percents": (
        "csv", csv("x,y", "12.5%,1.5", "3 %,3", "0,2", "100%,5"), {"x": ("number", [12.5, 3, 0, 100])}, ["'12.5%' as 12.5"],
    ),
    "decimal commas": (
        "csv", csv("x;y", "1,5;10,25", "2;3,5", "-3,25;2,0", "1.234,5;5,75"),
        {"x": ("number", [1.5, 2, -3.25, 1234.5]), "y": ("number", [10.25, 3.5, 2, 5.75])}, ["'1,5' as 1.5"],
    ),
    "decimal commas with three digits": (
        "csv", csv("x;y", "1,234;1", "2,345;3", "3,456;2", "9,876;5"), {"x": ("number", [1.234, 2.345, 3.456, 9.876])},
        ["'1,234' as 1.234; the notation `1,234.5` would read it otherwise."],
    ),
    "points between thousands beside decimal commas": (
        "csv", csv("x;y", "1.234;1,5", "2.345;3,5", "3.456;2,25", "9.876;5,75"), {"x": ("integer", [1234, 2345, 3456, 9876])},
        ["'1.234' as 1234"],
    ),
    "currencies": (
        "csv", csv("x,y", "$1.50,1", '"$1,200.00",3', "-$3,2", "$0.75,5"), {"x": ("number", [1.5, 1200, -3, 0.75])}, [],
    ),
    "blanks and apostrophes between thousands": (
        "csv", csv("x;z;y", "1 234,5;1'000;1", "2\u00a0345;2'000;3", "3\u202f456,25;3'500;2", "9;9'000;5"),
        {"x": ("number", [1234.5, 2345, 3456.25, 9]), "z": ("integer", [1000, 2000, 3500, 9000])}, [],
    ),
    "the sign of print": ("csv", csv("x,y", "−1.5,1", "2,3", "−3,2", "+4,5"), {"x": ("number", [-1.5, 2, -3, 4])}, []),
    # --- words
    "few words are a category": (
        "csv", csv("s,y", "a,1.5", "b,3", "a,2", "b,5"), {"s": ("category", ["a", "b", "a", "b"])}, [],
    ),
    "names are text": (
        "csv", csv("n,x,y", "Anna,1,1.5", "Ben,2,3", "Carl,1,2", "Dora,7,5"), {"n": ("text", None)}, ["n ('Anna', …)"],
    ),
    "ticket numbers are text": (
        "csv", csv("t,x,y", *(f"{'A/5 ' if i % 3 == 0 else ''}{1000 + i},{i % 7},{i * i % 11}.5" for i in range(12))),
        {"t": ("text", None)}, ["t ('A/5 1000', …)"],
    ),
    "51 words are text": (
        "csv", csv("s,x,y", *(f"w{i % 51},{i % 7},{i * i % 11}.5" for i in range(204))), {"s": ("text", None)}, [],
    ),
    "50 words are a category": (
        "csv", csv("s,x,y", *(f"w{i % 50},{i % 7},{i * i % 11}.5" for i in range(204))), {"s": ("category", None)}, [],
    ),
    "numbers first and words far below": (
        "csv", csv("s,y", *(f"{i % 5},{i % 7}.5" for i in range(PORTION)), *(f"w{i % 5},{i % 7}.5" for i in range(PORTION))),
        {"s": ("category", [str(i % 5) for i in range(PORTION)] + [f"w{i % 5}" for i in range(PORTION)])}, [],
    ),
    "gaps first and dates far below": (
        "csv", csv("d,y", *(f",{i % 7}.5" for i in range(PORTION)), "2024-05-31,1.5", "2024-06-01,2.5"),
        {"d": ("date", [np.datetime64("NaT")] * PORTION + days("2024-05-31", "2024-06-01"))}, [],
    ),
    # --- comments, encodings, separators
    "comment lines above the header": (
        "csv", csv("x,y", "1.5,1", "2.5,3", "3.5,2", "4.5,5", above="# unit: mm\n# taken in May\n"),
        {"x": ("number", [1.5, 2.5, 3.5, 4.5])}, ["Above the header stands: # unit: mm / # taken in May."],
    ),
    "the header of savetxt": (
        "csv", csv("1.5,1", "2.5,3", "3.5,2", "4.5,5", above="# x,y\n"), {"x": ("number", [1.5, 2.5, 3.5, 4.5])},
        ["Above the rows stands: # x,y; the last of these lines names the columns."],
    ),
    "sep= of a spreadsheet": (
        "csv", csv("x;y", "1,5;1", "2,5;3", "3,5;2", "4,5;5", above="sep=;\n"), {"x": ("number", [1.5, 2.5, 3.5, 4.5])}, [],
    ),
    "Latin-1": (
        "csv", csv("größe,y", "1.5,1", "2.5,3", "3.5,2", "4.5,5", encoding="latin-1"), {"größe": ("number", None)},
        ["read as Windows-1252 (Latin-1), as in 'größe'"],
    ),
    "Windows-1252": (
        "csv", csv("s,y", "“€”,1.5", "Zürich,3", "“€”,2", "Zürich,5", encoding="cp1252"),
        {"s": ("category", ["“€”", "Zürich", "“€”", "Zürich"])}, ["Windows-1252"],
    ),
    "Windows-1251": (
        "csv", csv("город,y", "Москва столица России,1.5", "Санкт-Петербург на Неве,3", "Москва столица России,2",
                   "Санкт-Петербург на Неве,5", encoding="cp1251"),
        {"город": ("category", None)}, ["read as cp1251"],
    ),
    "UTF-16": ("csv", csv("größe,y", "1.5,1", "2.5,3", "3.5,2", "4.5,5", encoding="utf-16"), {"größe": ("number", None)}, ["UTF-16"]),
    "UTF-16 without a mark": (
        "csv", csv("x,y", "1.5,1", "2.5,3", "3.5,2", "4.5,5", encoding="utf-16-le"), {"x": ("number", None)}, ["UTF-16"],
    ),
    "UTF-8 with a mark": ("csv", b"\xef\xbb\xbf" + PLAIN, {"x": ("number", None)}, []),
    "tabs": ("csv", PLAIN.replace(b",", b"\t"), {"x": ("number", [1.5, 2.5, 3.5, 4.5])}, []),
    # --- packed
    "csv.gz": ("csv", gzip.compress(PLAIN), {"x": ("number", [1.5, 2.5, 3.5, 4.5])}, []),
    "tsv.gz": ("csv", gzip.compress(PLAIN.replace(b",", b"\t")), {"x": ("number", [1.5, 2.5, 3.5, 4.5])}, []),
    "csv.zip": ("csv", zipped({"a/table.csv": PLAIN, "__MACOSX/._t": b"x"}), {"x": ("number", [1.5, 2.5, 3.5, 4.5])}, []),
    # --- other formats
    "npy of numbers": (
        "npy", npy(np.array([[1.5, 2], [nan, 3], [3.5, 5], [4.5, 4]])),
        {"column 1": ("number", [1.5, nan, 3.5, 4.5]), "column 2": ("integer", [2, 3, 5, 4])}, ["The array names no columns"],
    ),
    "npy with fields": (
        "npy", npy(NAMED), {"x": ("number", [1.5, nan, 3.5, 4.5]), "n": ("integer", None), "s": ("category", list("abab"))}, [],
    ),
    "npz with gaps and words": (
        "npz", npz(x=np.array([1.5, nan, 3.5, 4.5]), y=np.array(["a", "b", "a", "b"])),
        {"x": ("number", [1.5, nan, 3.5, 4.5]), "y": ("category", list("abab"))}, [],
    ),
    "Arrow": (
        "arrow", frame(x=[1.5, None, 3.5, 4.5], b=[True, False, None, True], d=[datetime.date(2024, 5, day) for day in (1, 2, 3, 4)],
                       s=["a", "b", None, "a"], y=[1, 3, 2, 5]),
        {"x": ("number", [1.5, nan, 3.5, 4.5]), "b": ("boolean", [1, 0, nan, 1]), "s": ("category", ["a", "b", None, "a"]),
         "d": ("date", days("2024-05-01", "2024-05-02", "2024-05-03", "2024-05-04")), "y": ("integer", [1, 3, 2, 5])}, [],
    ),
    "an Arrow stream": ("arrow", frame("write_ipc_stream", x=[1.5, 2, 3, 4], y=[1, 3, 2, 5]), {"x": ("number", [1.5, 2, 3, 4])}, []),
    "Parquet with digits as text": (
        "parquet", frame("write_parquet", zip=["01234", "01235", "01234", "01235"], y=[1.5, 3, 2, 5]),
        {"zip": ("category", ["01234", "01235", "01234", "01235"])}, [],
    ),
    "Excel": (
        "xlsx", xlsx([["x", "s", "b", "d", "y"],
                      [1.5, "a", True, datetime.date(2024, 5, 31), 1], [None, "b", False, datetime.date(2024, 6, 1), 3],
                      [3.5, "a", True, datetime.date(2024, 6, 2), 2], [4.5, None, False, None, 5]]),
        {"x": ("number", [1.5, nan, 3.5, 4.5]), "s": ("category", ["a", "b", "a", None]), "b": ("boolean", [1, 0, 1, 0]),
         "d": ("date", [*days("2024-05-31", "2024-06-01", "2024-06-02"), np.datetime64("NaT")]), "y": ("integer", [1, 3, 2, 5])},
        [],
    ),
    "Excel with a title and more sheets": (
        "xlsx", xlsx([["Report 2024"], [None], ["x", "y"], [1.5, 1], [2.5, 3], [3.5, 2], [4.5, 5]], [["a", "b"], [1, 2]]),
        {"x": ("number", [1.5, 2.5, 3.5, 4.5])},
        ["The sheet 'Data' is read; these are not: 'Notes'.", "Above the header stands: Report 2024."],
    ),
    "Excel with numbers as text": (
        "xlsx", xlsx([["x", "y"], ["1,234.5", 1], ["2", 3], ["3", 2], ["4", 5]]), {"x": ("number", [1234.5, 2, 3, 4])}, [],
    ),
    "Excel with a failed formula": (
        "xlsx", xlsx([["x", "y"], [1.5, 1], ["#DIV/0!", 3], [3.5, 2], [4.5, 5]]), {"x": ("number", [1.5, nan, 3.5, 4.5])},
        ["Cells of failed formulas (such as A3) are read as cells without a value."],
    ),
    "Excel with a hidden sheet first": (
        "xlsx", xlsx([["h"], [1], [2]], [["x", "y"], [1.5, 1], [2.5, 3], [3.5, 2], [4.5, 5]], hidden=(0,)), {"x": ("number", None)}, [],
    ),
}  # fmt: skip


def same(column: Column, values: list[Any]) -> bool:
    if column.values.dtype == object:
        return column.values.tolist() == values
    return bool(np.array_equal(column.values, np.array(values, column.values.dtype), equal_nan=True))


@pytest.mark.parametrize("name", READ)
def test_a_table_is_read_with_its_values_and_notes(name: str) -> None:
    form, content, expected, says = READ[name]
    table = read_table(content, form, read_as={})
    for column, (kind, values) in expected.items():
        found = table.column(column)
        assert (found.name, found.type) == (column, kind), found
        assert values is None or same(found, values), found.values
        gaps = np.zeros(table.rows, bool) if found.missing is None else found.missing
        absent = [value is None or value != value for value in found.values.tolist()]
        assert gaps.tolist() == absent
    preview = understand(content, form)
    for sentence in says:
        assert any(sentence in note for note in preview["notes"]), preview["notes"]
    if not says:
        told = [
            note
            for note in preview["notes"]
            if not note.startswith(("No value: ", "'", "Text", "Left out", "The array", "More than"))
        ]
        assert told == [] or name in ("Arrow", "an index that was written twice"), told


ROWS = [f"{i % 9}.5,{i * 7 % 11},{i * i % 13}" for i in range(40)]

REFUSED: dict[str, tuple[str, bytes, str]] = {
    "a wrong cell in a column of numbers": (
        "csv", csv("a,b,y", *ROWS[:11], "1.5,1.2.3,4", *ROWS[12:]),
        "Row 12, column 'b' holds '1.2.3', which is not a number, while most of the column is; correct the cell or remove the row.",
    ),
    "infinity": ("csv", csv("a,b,y", *ROWS[:11], "inf,1,4", *ROWS[12:]), "Row 12, column 'a' holds 'inf', which is not a finite number"),
    "many infinities": ("csv", csv("a,y", "1,2", "inf,3", "2,4", "-Infinity,1", "1e400,2", "6,8"), "Row 2, column 'a' holds 'inf', which is not a finite number"),
    "a number beyond all floats": ("csv", csv("a,b,y", *ROWS, "1e999,1,4"), "Row 41, column 'a' holds '1e999', which is not a finite number"),
    "a percent among plain numbers": (
        "csv", csv("a,b,y", *ROWS, "12%,1,4"), "Row 41, column 'a' holds '12%', while most of the column is written without a sign",
    ),
    "a wrong date": (
        "csv", csv("d,y", *(f"2024-05-{i + 1:02d},{i * 7 % 11}" for i in range(20)), "2024-02-30,4"),
        "Row 21, column 'd' holds '2024-02-30', which is not a date written like 2024-12-31",
    ),
    "a failed formula as text": (
        "csv", csv("x,y", *(f"{i + 0.5},{i * 7 % 11}" for i in range(20)), "#DIV/0!,3"),
        "Row 21, column 'x' holds '#DIV/0!', which is not a number (a formula of the spreadsheet has failed)",
    ),
    "a header of titles": ("csv", b"Report,,,\nx,y,z,w\n1,2,3,4\n", "The first row names 1 of 4 columns"),
    "names that are twice there": ("csv", csv("x,x,y", "1,2,3"), "Columns 1 and 2 are both named 'x'"),
    "a constant target": ("csv", csv("x,y", "1,5", "3,5", "2,5", "4,5"), "The target 'y' has the same value in every row"),
    "ids and names alone": ("csv", csv("id,name", "1,Anna", "2,Ben", "3,Carl", "4,Dora"), "Name the column in `targets`"),
    "a workbook that was called CSV": ("csv", xlsx([["x"], [1]]), "The file is no CSV but xlsx; send it with the format `xlsx`."),
    "Parquet that was called CSV": ("csv", frame("write_parquet", x=[1]), "The file is no CSV but parquet"),
    "a gzip file that is cut off": ("csv", gzip.compress(PLAIN)[:-9], "cannot be unpacked"),
    "two files in an archive": ("csv", zipped({"a.csv": PLAIN, "b.csv": PLAIN}), "The archive holds 2 files: 'a.csv', 'b.csv'"),
    "a gzip bomb": ("csv", gzip.compress(b"x,y\n" + b"0" * (60 << 20)), "more than 200 times"),
    "an archive that unpacks too far": ("csv", zipped({"a.csv": b"x,y\n" + b"0" * (30 << 20)}), "more than 200 times"),
    "a workbook without rows": ("xlsx", xlsx([["x", "y"]]), "no sheet with more than one row"),
    "a workbook without names": ("xlsx", xlsx([[1, 2], [3, 4], [5, 6]]), "should name the columns but holds numbers (1, 2)"),
    "a document that is no workbook": ("xlsx", zipped({"word/document.xml": b"<x/>"}), "The file is no workbook; save it as .xlsx"),
    "NPY with pickles": ("npy", npy(np.array([[1, "a"]], dtype=object)), "objects are never read"),
    "NPY with images": ("npy", npy(np.zeros((4, 3, 3))), "Send images and their targets as NPZ"),
    "NPY with fields of bytes": ("npy", npy(RECORD), "numbers, booleans and text are read"),
    "Feather of version 1": ("arrow", b"FEA1" + bytes(40), "write it as version 2"),
    "Arrow with lists alone": ("arrow", frame(x=[[1], [2], [3], [4]]), "No column holds numbers, booleans, dates or text"),
    "zeros in text": ("csv", b"x,y\n1,\x002\n", "a zero byte at byte 7"),
    "a picture": ("csv", b"\x89PNG\r\n\x1a\n\x01\x02" * 30, "is not UTF-8"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_a_table_is_refused_by_a_sentence_that_says_what_to_do(name: str) -> None:
    form, content, says = REFUSED[name]
    with pytest.raises(RefusedData) as caught:
        understand(content, form)
    assert says in caught.value.problems[0].detail, caught.value.problems[0].detail
    assert len(caught.value.problems[0].detail) < 400


def test_there_are_enough_of_them() -> None:
    assert len(READ) + len(REFUSED) >= 60


# --- what the user has otherwise ------------------------------------------------------------------

CHOICES: list[tuple[bytes, dict[str, ReadAs], str, str, list[Any]]] = [
    (READ["dates that may be either are left out"][1], {"d": ReadAs("date", "12/31/2024")}, "d", "date",
     days("2024-01-02", "2024-02-03", "2024-03-04", "2024-04-05")),
    (READ["dates that may be either are left out"][1], {"d": ReadAs("date", "31/12/2024")}, "d", "date",
     days("2024-02-01", "2024-03-02", "2024-04-03", "2024-05-04")),
    (READ["commas between thousands that might be decimal"][1], {"x": ReadAs("number", "1.234,5")}, "x", "number", [1, 2.5, 3, 9]),
    (csv("z,y", "01234,1.5", "01235,3", "01234,2", "01235,5"), {"z": ReadAs("category")}, "z", "category",
     ["01234", "01235", "01234", "01235"]),
    (csv("d,y", "20240531,1.5", "20240601,3", "20240602,2", ",5"), {"d": ReadAs("date")}, "d", "date",
     [*days("2024-05-31", "2024-06-01", "2024-06-02"), np.datetime64("NaT")]),
    (csv("b,y", "1,1.5", "0,3", "1,2", ",5"), {"b": ReadAs("boolean")}, "b", "boolean", [1, 0, 1, nan]),
    (csv("id,y", "1,1.5", "2,3", "3,2", "4,5"), {"id": ReadAs("integer")}, "id", "integer", [1, 2, 3, 4]),
    (csv("n,y", "Anna,1.5", "Ben,3", "Carl,2", "NA,5"), {"n": ReadAs("category")}, "n", "category", ["Anna", "Ben", "Carl", None]),
]  # fmt: skip


@pytest.mark.parametrize(("content", "read_as", "name", "kind", "values"), CHOICES)
def test_a_column_is_read_as_the_user_has_it(content, read_as, name, kind, values) -> None:
    for form, held in (("csv", content), ("csv", gzip.compress(content))):
        found = read_table(held, form, read_as=read_as).column(name)
        assert found.type == kind
        assert same(found, values), found.values


@pytest.mark.parametrize(
    ("read_as", "says"),
    [
        (ReadAs("number"), "Row 1, column 's' holds 'a', which is not a number"),
        (ReadAs("date"), "Row 1, column 's' holds 'a', which is not a date"),
        (ReadAs("boolean"), "Row 1, column 's' holds 'a', which is neither true nor false"),
    ],
)
def test_a_type_that_no_cell_has_is_refused(read_as: ReadAs, says: str) -> None:
    with pytest.raises(RefusedData) as caught:
        read_table(csv("s,y", "a,1.5", "b,3", "a,2", "b,5"), "csv", read_as={"s": read_as})
    assert says in caught.value.problems[0].detail
    halves = csv("s,y", "1.5,1.5", "2,3", "3,2", "4,5")
    with pytest.raises(RefusedData, match="not a whole number"):
        read_table(halves, "csv", read_as={"s": ReadAs("integer")})


# --- a passenger list -------------------------------------------------------------------------------


def passengers(rows: int = 60) -> bytes:
    draw = np.random.default_rng(0)
    lines = []
    for i in range(rows):
        age = "" if i % 5 == 0 else f"{draw.integers(1, 80)}"
        cabin = f"C{i}" if i % 4 == 0 else ""
        port = "" if i == 7 else "SCQ"[int(draw.integers(3))]
        ticket = f"PC {17000 + i}" if i % 3 else f"{30000 + 7 * i}"
        sex = "male" if draw.random() < 0.6 else "female"
        lines.append(
            f'{i + 1},{draw.integers(2)},{1 + draw.integers(3)},"Braund, Mr. No {i}",{sex},{age},{draw.integers(3)},'
            f"{ticket},{draw.random() * 90:.4f},{cabin},{port}"
        )
    return csv("PassengerId,Survived,Pclass,Name,Sex,Age,SibSp,Ticket,Fare,Cabin,Embarked", *lines)


def test_a_passenger_list_is_understood_as_it_is() -> None:
    preview = understand(passengers(), "csv")
    types = {column["name"]: column["type"] for column in preview["columns"]}
    assert types == {
        "PassengerId": "index", "Survived": "integer", "Pclass": "integer", "Name": "text", "Sex": "category",
        "Age": "integer", "SibSp": "integer", "Ticket": "text", "Fare": "number", "Cabin": "text", "Embarked": "category",
    }  # fmt: skip
    assert preview["suggested"] == {
        "inputs": ["Pclass", "Sex", "Age", "SibSp", "Fare", "Embarked"],
        "targets": ["Survived"],
        "task": "classification",
    }
    assert preview["notes"] == [
        "No target was named, so 'Survived' is the target, because of its name.",
        "Left out, because it only counts or identifies rows: PassengerId.",
        "Text with many different values is not read, so it is left out: Name ('Braund, Mr. No 0', …), "
        "Ticket ('30000', …), Cabin ('C0', …).",
        "No value: Age (12 of 60 rows). The median of the training rows stands there, and an input of its own says where.",
        "No value: Embarked (1 of 60 rows). That is a level of its own.",
    ]
    columns = resolve_roles(preview, {})["columns"]
    assert {name: (spec["type"], spec["missing"]) for name, spec in columns.items()} == {
        "Pclass": ("integer", "refuse"), "Sex": ("category", "refuse"), "Age": ("integer", "median"),
        "SibSp": ("integer", "refuse"), "Fare": ("number", "refuse"), "Embarked": ("category", "category"),
        "Survived": ("integer", "refuse"),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("content", "target"),
    [
        (csv("kind,x,id", *(f"{'ab'[i % 2]},{i * i % 7}.5,{i}" for i in range(12))), "kind"),
        (csv("kind,n", *(f"{'ab'[i % 2]},{i}" for i in range(30))), "kind"),
        (csv("kind,n", *(f"{'ab'[i % 2]},{i + i // 3}" for i in range(30))), "kind"),
        (csv("kind,x,customer_id", *(f"{'ab'[i % 2]},{i * i % 7}.5,{i * 17 % 30}" for i in range(30))), "kind"),
        (csv("x,few,name", *(f"{i * i % 7}.5,{i % 3},name {i}" for i in range(30))), "few"),
        (csv("y,x", *(f"{i * i % 7}.5,{i * 3 % 11}.5" for i in range(30))), "y"),
    ],
)
def test_no_column_that_counts_is_guessed_to_be_the_target(content: bytes, target: str) -> None:
    assert understand(content, "csv")["suggested"]["targets"] == [target]


# --- before columns had types -------------------------------------------------------------------------


def test_specs_without_types_read_numbers_alone_as_they_did() -> None:
    content = csv("x,flag,y", "1.5,True,1", "2.5,False,3", "3.5,True,2", "4.5,False,5")
    table = read_table(content, "csv")
    assert [column.type for column in table.columns] == ["number", "text", "integer"]
    assert table.column("flag").values.tolist() == ["True", "False", "True", "False"]
    for cell in ("", "1,000", "12%", "1 000"):
        with pytest.raises(RefusedData, match="Row 2, column 'x'"):
            read_table(content.replace(b"2.5", f'"{cell}"'.encode()), "csv")
    with pytest.raises(RefusedData):
        read_table(b"# comment\n" + content, "csv")


def test_a_preview_without_types_settles_roles_without_them() -> None:
    preview = understand(PLAIN, "csv")
    old = preview | {"columns": [{k: v for k, v in c.items() if k != "missing"} for c in preview["columns"]]}
    assert "columns" in resolve_roles(preview, {})
    assert resolve_roles(old, {}) == {k: v for k, v in resolve_roles(preview, {}).items() if k != "columns"}


def test_roles_given_with_types_are_read_by_them() -> None:
    content = READ["dates that may be either are left out"][1]
    preview = understand(content, "csv", {"columns": {"d": {"type": "date", "notation": "31/12/2024"}}})
    assert preview["suggested"]["inputs"] == ["d", "x"]
    resolved = resolve_roles(preview, {"columns": {"d": {"type": "date", "notation": "31/12/2024", "dates": "parts"}}})
    assert resolved["columns"]["d"]["dates"] == "parts"
    assert resolved["columns"]["d"]["notation"] == "31/12/2024"
    assert understand(PLAIN, "csv", Roles(None, ("y",), "regression"))["suggested"]["inputs"] == ["x"]


def test_of_a_type_that_the_user_chose_no_sentence_says_that_most_cells_have_it() -> None:
    words = csv("a,y", *(f"word{i},{i * 7 % 11}" for i in range(20)))
    for chosen in ("number", "date"):
        with pytest.raises(RefusedData) as refused:
            read_table(words, "csv", read_as={"a": ReadAs(chosen)})
        detail = refused.value.problems[0].detail
        assert "most of" not in detail
        assert detail.endswith("correct the cell or remove the row, or choose another type for the column.")
