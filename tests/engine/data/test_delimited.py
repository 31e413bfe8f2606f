"""CSV: good cells are read exactly, and every problem is named by row and column."""

from __future__ import annotations

import csv
import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bimt_engine.data.readers import MAX_PROBLEMS, RefusedData
from bimt_engine.data.readers.delimited import read_csv
from bimt_engine.data.readers.rows import PORTION
from tests.engine.data.makers import table


def problems(content: bytes, *, strict: bool = False, **options):
    with pytest.raises(RefusedData) as caught:
        read_csv(content, read_as=None if strict else {}, **options)
    return [(p.row, p.column, p.detail) for p in caught.value.problems]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "The file is empty"),
        (b"\n\n \n", "blank lines only"),
        (b"a,b", "a header but no rows"),
        (b"1,2\n3,4", "should name the columns but holds numbers (1, 2)"),
        ("a,b\n1,2\n".encode("utf-16")[:-1], "The file is damaged UTF-16"),
        (b"a,b\n1,\x00\n", "a zero byte at byte 7"),
        ("é,b\n1,2\n3,".encode() + b"\xff\n", "Line 3 of the file (the header is line 1) is not UTF-8"),
        ("é,b\n1,2\n3,".encode() + b"\xc3", "ends within a character"),
        (b"\x01a,b\n1,2\n3,\xff\n", "Line 3 of the file (the header is line 1) is not UTF-8"),
        (b'a,b\n1,"2\n3,4\n', "a quote is never closed"),
        (b'a,b\n1,"2"3\n', "Line 2 of the file (the header is line 1) has text after a closing quote"),
        (b"a,b\n1," + b"x" * 200_000, "a cell of more than 131,072 characters"),
        (b"a" * 5_000_000, "A line has more than"),
        (b"a,a,b\n1,2,3", "Columns 1 and 2 are both named 'a'"),
        (b"Report 2024,,,\nx,y,z,w\n1,2,3,4", "The first row names 1 of 4 columns"),
        (b"a" * 201 + b",b\n1,2", "has 201 characters"),
        (",".join(f"c{i}" for i in range(10_000)).encode() + b"\n", "has 10,000 columns; at most 1,000"),
    ],
)
def test_a_file_that_is_no_table_is_refused_with_what_to_do(content, says):
    ((_, _, detail), *_) = problems(content)
    assert says in detail


@pytest.mark.parametrize(
    ("cell", "says"),
    [
        ("-inf", "'-inf', which is not a finite number"),
        ("1e999", "'1e999', which is not a finite number"),
        ("tall", "'tall', which is not a number"),
        ("1_000", "without separators between thousands"),
        ('"1,5"', "decimals are written with a point"),
        ("٣", "which is not a number"),
        ("0x10", "which is not a number"),
    ],
)
def test_a_cell_that_is_no_number_is_named_by_row_and_column(cell, says):
    lines = [f"{i},{i * i}.5" for i in range(30)]
    lines[16] = f"16,{cell}"
    ((row, column, detail),) = problems("\n".join(["x,y", *lines]).encode())
    assert (row, column) == (17, "y")
    assert "Row 17, column 'y'" in detail
    assert says in detail
    assert problems("\n".join(["x,y", *lines]).encode(), strict=True)[0][:2] == (17, "y")


@pytest.mark.parametrize(
    ("cell", "says"), [("", ""), ("  ", ""), ("NA", " ('NA' stands for none)"), ("nan", " ('nan'")]
)
def test_without_types_a_missing_cell_is_an_error_as_it_was_before_columns_had_types(cell, says):
    lines = [f"{i},{i * i}" for i in range(30)]
    lines[16] = f"16,{cell}"
    ((row, column, detail),) = problems("\n".join(["x,y", *lines]).encode(), strict=True)
    assert (row, column) == (17, "y")
    assert f"has no value{says}" in detail
    assert "fill the cell or remove the row" in detail


def test_none_is_a_label_among_words_and_no_value_among_numbers():
    words = read_csv(b"a,kind\n1,none\n2,some\n3,None\n")
    assert list(words.column("kind").values) == ["none", "some", "None"]
    ((row, column, detail),) = problems(b"a,b\n1,2\n2,none\n3,4\n", strict=True)
    assert (row, column) == (2, "b")
    assert "has no value ('none' stands for none)" in detail


def test_all_problems_are_told_at_once_in_the_order_of_the_rows():
    lines = [f"{i},{i},{i}" for i in range(50)]
    lines[3] = "3,x,3"
    lines[5] = "5,5"
    lines[9] = "inf,9,oops"
    lines[20] = "20,20,20,20"
    found = [(row, column) for row, column, _ in problems("\n".join(["a,b,c", *lines]).encode())]
    assert found == [(4, "b"), (6, None), (10, "a"), (10, "c"), (21, None)]


def test_no_more_problems_are_told_than_anyone_reads():
    content = b"a,b\n" + b"1,2\n" * 400 + b"1,x\n" * 39
    assert len(problems(content)) == MAX_PROBLEMS


def test_problems_deep_in_a_long_file_have_the_right_row():
    lines = ["1,2"] * (3 * PORTION)
    lines[2 * PORTION + 5] = "1,oops"
    ((row, column, _),) = problems("\n".join(["a,b", *lines]).encode())
    assert (row, column) == (2 * PORTION + 6, "b")


def test_unused_columns_may_have_faults():
    content = b"a,b,junk\n1,2,inf\n3,4,5\n5,6,7\n"
    for strict in (False, True):
        assert len(problems(content, strict=strict)) == 1
    assert read_csv(content, used=frozenset("ab")).rows == 3
    assert read_csv(content, used=frozenset("ab"), whole=False, read_as={}).names() == ("a", "b")


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_separators_line_ends_and_byte_order_marks_are_understood(separator, ending, mark):
    lines = ["x;y,z".replace(";", separator) if separator != "," else '"x;y",z', '1.5;" -2e3 "', "", "3;4"]
    lines[0] = "left;right"
    content = mark + ending.join(lines).replace(";", separator).encode()
    got = read_csv(content)
    assert got.names() == ("left", "right")
    assert got.column("left").values.tolist() == [1.5, 3]
    assert got.column("right").values.tolist() == [-2000, 4]


def test_types_are_told_apart():
    got = read_csv(table())
    assert [column.type for column in got.columns] == ["number", "number", "number", "text", "number"]
    assert read_csv(b"n,l\n1,a\n2,1\n3,b\n").column("l").values.tolist() == ["a", "1", "b"]


def test_a_name_that_is_not_there_is_answered_with_those_that_are():
    with pytest.raises(RefusedData, match="no column 'agee'; the data have: age, height"):
        read_csv(table()).column("agee")


@given(
    st.lists(
        st.tuples(st.floats(allow_nan=False, allow_infinity=False), st.text(min_size=1, max_size=9), st.integers()),
        min_size=1,
        max_size=30,
    )
)
@settings(max_examples=200)
def test_what_is_written_is_read_back_exactly(rows):
    """Any numbers, and any text that has something to show, through Python's own writer."""
    rows = [(x, "t" + "".join(c for c in text if c.isprintable()), n % 10**6) for x, text, n in rows]
    file = io.StringIO()
    writer = csv.writer(file)
    writer.writerow(["x", "text", "n"])
    writer.writerows(rows)
    got = read_csv(file.getvalue().encode())
    assert np.array_equal(got.column("x").values, [row[0] for row in rows])
    assert got.column("text").values.tolist() == [row[1].strip() for row in rows]
    assert np.array_equal(got.column("n").values, [row[2] for row in rows])


@st.composite
def mutations(draw):
    """A sound table after up to eight small accidents."""
    content = bytearray(table(20))
    for _ in range(draw(st.integers(1, 8))):
        at = draw(st.integers(0, max(len(content) - 1, 0)))
        match draw(st.integers(0, 5)):
            case 0:
                content[at : at + 1] = draw(st.binary(max_size=3))
            case 1:
                del content[at : at + draw(st.integers(1, 40))]
            case 2:
                content[at:at] = draw(
                    st.sampled_from([b",", b'"', b"\n", b"\r", b";", b"nan", b"-", b"\xef\xbb\xbf", b"\0"])
                )
            case 3:
                content[at:at] = content[draw(st.integers(0, len(content))) :][:60]
            case 4:
                content = content[: at + 1]
            case 5:
                content[at:at] = b"," * draw(st.integers(1, 2000))
    return bytes(content)


@given(mutations())
@settings(max_examples=200)
def test_two_hundred_accidents_each_end_in_a_table_or_in_sentences(content):
    try:
        got = read_csv(content, read_as={})
    except RefusedData as error:
        assert 1 <= len(error.problems) <= MAX_PROBLEMS  # noqa: PT017 - both outcomes are right
        assert all(10 < len(problem.detail) < 400 for problem in error.problems)  # noqa: PT017
    else:
        assert all(len(column.values) == got.rows for column in got.columns)
        for column in got.columns:
            there = ~column.missing if column.missing is not None else np.ones(got.rows, bool)
            if column.values.dtype.kind == "f":
                assert np.array_equal(np.isfinite(column.values), there)
            else:
                assert np.array_equal([value is not None and value == value for value in column.values], there)
