"""Readers of uploaded files, and what they give: columns with names and types, or a list of problems."""

from __future__ import annotations

import io
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from bimt_engine.errors import DataError

MAX_COLUMNS = 1_000  # columns of a table; wider data are images or embeddings and come as arrays
MAX_PIXELS = 4_096  # numbers in one example of an array; the widest layer that a spec allows
MAX_CELLS = 50_000_000  # 400 MB at float64, which a worker must hold beside the network
MIN_ROWS = 4  # two to train on, one to test on, and one to spare
MAX_PROBLEMS = 20  # listed at once; more than this is not read
JOINERS = {0x200C: None, 0x200D: None}  # within words and emoji: they cannot be seen alone, but belong there
MAX_NAME = 200  # characters of a column's name, as in the spec


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong: a sentence, and its place where it has one. Rows count from 1, without the header."""

    detail: str
    row: int | None = None
    column: str | None = None

    def to_json(self) -> dict[str, Any]:
        """detail, row and column."""
        return {"detail": self.detail, "row": self.row, "column": self.column}


class RefusedData(DataError):
    """Data with at least one problem; `problems` holds them all, up to MAX_PROBLEMS."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)[:MAX_PROBLEMS]
        first = self.problems[0]
        place: dict[str, object] = {key: value for key, value in first.to_json().items() if value and key != "detail"}
        more = len(self.problems) - 1
        also = f" ({more} more problem{'s' if more != 1 else ''} like this were found.)" if more else ""
        super().__init__(first.detail + also, where=place)


def refuse(detail: str, *, row: int | None = None, column: str | None = None) -> RefusedData:
    """One problem as an error, to be raised."""
    return RefusedData([Problem(detail, row, column)])


ColumnType = Literal["number", "integer", "boolean", "category", "date", "text", "index"]
Notation = Literal["1,234.5", "1.234,5", "2024-12-31", "31/12/2024", "12/31/2024"]
"""How numbers or dates are written: an example of each. Signs between thousands may be absent."""


@dataclass(frozen=True)
class ReadAs:
    """What a column is, and how it is written, as the user has it; None: as it is found."""

    type: ColumnType | None = None
    notation: Notation | None = None


@dataclass(frozen=True)
class Column:
    """One column of a table, or one array whose examples hold several numbers.

    values    numbers: float64 (rows,) or (rows, numbers), images of bytes uint8; booleans: 0 and 1 as float64; dates:
              datetime64[us]; categories and text: str objects (rows,). Where a cell is missing: NaN, NaT or None.
    shape     of one example: () for a column, (28, 28) for images
    missing   (rows,) True where the cell has no value; None: every cell has one
    found     the type that the reader found, where the values alone do not show it
    notation  how its numbers or dates are written, where another way of reading them would give others
    notes     what was decided about it, a sentence each
    written   the notation in which its cells were read, whether or not another would give others; None: not from text
    sign      beside its numbers, `%` or that of a currency; empty: none
    """

    name: str
    values: NDArray[Any]
    shape: tuple[int, ...] = ()
    missing: NDArray[np.bool_] | None = None
    found: ColumnType | None = None
    notation: Notation | None = None
    notes: tuple[str, ...] = ()
    written: Notation | None = None
    sign: str = ""

    @property
    def type(self) -> ColumnType:
        """What the column is; of numbers, `integer` when every one is whole."""
        if self.found is not None:
            return self.found
        if self.values.dtype == object:
            return "text"
        if self.values.dtype.kind == "u":
            return "integer"
        return "integer" if bool((self.values == np.rint(self.values)).all()) else "number"

    @property
    def width(self) -> int:
        """How many numbers one example has."""
        return 1 if self.values.ndim == 1 else int(self.values.shape[1])

    @property
    def parts(self) -> tuple[str, ...]:
        """A name for each number: `age`, or `pixel[3,14]`, counted from 0."""
        if not self.shape:
            return (self.name,)
        return tuple(f"{self.name}[{','.join(map(str, index))}]" for index in np.ndindex(*self.shape))

    def as_matrix(self) -> NDArray[Any]:
        """(rows, width), in the type that the values have."""
        return self.values.reshape(len(self.values), -1)


@dataclass(frozen=True)
class Table:
    """Columns of equal length. `train_rows` is set when the upload says itself which rows are for training."""

    columns: tuple[Column, ...]
    train_rows: int | None = None
    notes: tuple[str, ...] = ()

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return len(self.columns[0].values)

    def names(self) -> tuple[str, ...]:
        """The names of the columns, in their order."""
        return tuple(column.name for column in self.columns)

    def column(self, name: str) -> Column:
        """The column, or one number of an array column, by name.

        Raises RefusedData with the names that there are.
        """
        for column in self.columns:
            if column.name == name:
                return column
        for column in self.columns:
            if column.shape and name.startswith(column.name + "[") and name in column.parts:
                return Column(name, column.values[:, column.parts.index(name)])
        shown = ", ".join(self.names()[:20]) + (", …" if len(self.columns) > 20 else "")
        raise refuse(f"There is no column {name!r}; the data have: {shown}. Correct the name.", column=name)


def opened(content: bytes | Path) -> io.BytesIO | io.BufferedReader:
    """The bytes as a file that can be read and sought."""
    return io.BytesIO(content) if isinstance(content, bytes) else Path(content).open("rb")


def check_names(names: list[str]) -> list[Problem]:
    """What is wrong with the names of the columns, if anything."""
    if len(names) > MAX_COLUMNS:
        return [
            Problem(
                f"The table has {len(names):,} columns; at most {MAX_COLUMNS:,} are read. Keep the columns that "
                "matter, or send the data as arrays (NPZ)."
            )
        ]
    problems: list[Problem] = []
    first: dict[str, int] = {}
    for number, name in enumerate(names, start=1):
        if not name:
            problems.append(Problem(f"Column {number} has no name; name it in the header or remove the column."))
        elif len(name) > MAX_NAME:
            detail = f"The name of column {number} has {len(name)} characters; shorten it to {MAX_NAME}."
            problems.append(Problem(detail))
        elif not name.translate(JOINERS).isprintable():
            detail = f"The name of column {number}, {name[:30]!r}, has characters that cannot be shown; rename it."
            problems.append(Problem(detail))
        elif name in first:
            detail = f"Columns {first[name]} and {number} are both named {name!r}; give each a name of its own."
            problems.append(Problem(detail, column=name))
        else:
            first[name] = number
    return problems[:MAX_PROBLEMS]
