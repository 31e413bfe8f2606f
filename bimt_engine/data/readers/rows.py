"""Rows of cells into columns, for every format whose cells are text: CSV, and the sheets of workbooks.

Rows come in portions, so that any file needs the memory of its values and a few megabytes more. While every cell of a
column is a plain number or empty, its numbers are kept and the text is not. A column that turns out to hold anything
else is read once more, as text, so that it is judged by all of its cells and not by the first ones.
"""

from __future__ import annotations

import math
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bimt_engine.data.readers import (
    MAX_CELLS,
    MAX_PROBLEMS,
    Column,
    Notation,
    Problem,
    ReadAs,
    RefusedData,
    Table,
    check_names,
    refuse,
)
from bimt_engine.data.readers.cells import (
    CORRECT,
    MISSING,
    NOT_FINITE,
    NOTATIONS,
    NUMBER,
    WORDS,
    Looked,
    is_category,
    look,
    plain,
    read_sample,
    shown,
    typed,
    words_of,
)

PORTION = 8_192  # rows
Records = Callable[[], Iterator[list[str]]]
"""Starts at the first row below the header, each time anew. Raises RefusedData at a row that cannot be read."""


@dataclass(frozen=True)
class Layout:
    """What is known of a table of text before its rows are read.

    names       as the header has them; "" where it has none
    separator   between the cells of a line, None where they are not separated by a character
    odd         whether cells may hold what float() alone calls numbers (1_000, or other digits)
    notes       what was decided on the way here
    """

    names: list[str]
    separator: str | None = None
    odd: bool = True
    notes: tuple[str, ...] = ()


def read_rows(
    layout: Layout,
    records: Records,
    *,
    used: frozenset[str] | None = None,
    whole: bool = True,
    read_as: Mapping[str, ReadAs] | None = None,
) -> Table:
    """The typed columns of a table.

    used      the columns that must be without fault; None: all.
    whole     False: the others are left out.
    read_as   what columns are, as the user has it; the others are looked at. None: as it was before columns had types:
              the first rows decide whether a column is numbers or text, and each cell needs a value.
    Raises RefusedData with up to MAX_PROBLEMS problems.
    """
    strict = read_as is None
    names, notes = (layout.names, []) if strict else _named(layout.names)
    if problems := check_names(names):
        raise RefusedData(problems)
    keep = [whole or used is None or name in used for name in names]
    as_text = [(read_as or {}).get(name, ReadAs()).type in ("category", "text", "date", "boolean") for name in names]
    first = _Reading(layout, keep=keep, as_text=as_text, strict=strict)
    first.read(records)
    if not first.kept:
        if first.problems:
            raise RefusedData(first.problems)
        raise refuse("The table has a header but no rows; add the data below it.")
    texts = first.texts()
    texts |= _again(layout, records, [mixed and kept for mixed, kept in zip(first.mixed, keep, strict=True)])
    if strict:
        return _strict_table(first, names, texts, used)
    assert read_as is not None
    looked = _looked(first, names, texts, read_as, separator=layout.separator)
    commas = any(found.notation == "1.234,5" and found.sure for found in looked.values())
    said = [read_as.get(name, ReadAs()).notation for name in names]
    # Where other columns have decimal commas, or the user says so, 1.234 may be a thousand and more.
    points = [
        i not in texts and kept and first.has_fractions(i) and (commas or said[i] == "1.234,5")
        for i, kept in enumerate(keep)
    ]
    if any(points):
        texts |= _again(layout, records, points)
        looked = _looked(first, names, texts, read_as, separator=layout.separator)
    problems = [*first.problems]
    columns: list[Column] = []
    rows, texts_read = first.rows(), frozenset(texts)
    for index, name in enumerate(names):
        if not keep[index]:
            continue
        wanted = read_as.get(name)
        if index in texts:
            column, wrong = typed(name, texts.pop(index), rows, looked[index], wanted)
        else:
            column, wrong = plain(name, *first.numbers(index), rows, wanted)
            column = replace(column, written="1,234.5")
        alike = index not in texts_read or not (looked[index].sure or looked[index].others)
        if commas and alike and column.written == "1,234.5" and said[index] is None:
            column = replace(column, written="1.234,5")  # its cells are the same in both; others would be as elsewhere
        elif index not in texts_read and said[index] in NOTATIONS:
            column = replace(column, written=said[index])
        if used is None or name in used:
            problems += wrong
        columns.append(with_notes(column, looked.get(index), wanted, unnamed=not layout.names[index].strip()))
    if problems:
        raise RefusedData(sorted(problems, key=lambda problem: problem.row or sys.maxsize))
    kept, left_out = _without_empty(columns, layout.names)
    return Table(tuple(kept), notes=(*layout.notes, *notes, *left_out))


def _again(layout: Layout, records: Records, which: list[bool]) -> dict[int, NDArray[Any]]:
    """The text of these columns, from the file once more."""
    if not any(which):
        return {}
    reading = _Reading(layout, keep=which, as_text=which, strict=False)
    reading.read(records)
    return reading.texts()


def _named(names: list[str]) -> tuple[list[str], list[str]]:
    """Names for the columns that have none, and a sentence where a name was changed."""
    cleaned = [_visible(name) for name in names]
    without = sum(not name for name in cleaned)
    if len(names) > 2 and 2 * without > len(names):
        raise refuse(
            f"The first row names {len(names) - without} of {len(names)} columns; it should name each of them. Remove "
            "what stands above the names."
        )
    made = [name or f"column {number}" for number, name in enumerate(cleaned, start=1)]
    hidden = [shown(new) for old, new in zip(names, cleaned, strict=True) if old.strip() != new]
    notes = (
        [f"Characters that cannot be seen were taken out of these names: {', '.join(hidden[:10])}."] if hidden else []
    )
    return made, notes


def _visible(name: str) -> str:
    """A name without marks of direction and the like; a line break or a tab in it is a blank."""
    seen = "".join(" " if c in "\t\r\n\u00a0\u2007\u202f\u2028\u2029" else c for c in name)
    return re.sub(r"[\u00ad\u061c\u200b\u200e\u200f\u202a-\u202e\u2060-\u2069\ufeff]", "", seen).strip()


class _Reading:
    """Columns under construction: portions of rows come in, numbers or texts come out.

    keep      which columns are kept
    as_text   which of them as text from the start
    mixed     which columns held text after rows of numbers, so that their text is to be read again
    """

    def __init__(self, layout: Layout, *, keep: list[bool], as_text: list[bool], strict: bool) -> None:
        self._layout = layout
        self.keep = keep
        self._strict = strict
        self._state = ["text" if text else "" for text in as_text]
        self._parts: list[list[Any]] = [[] for _ in keep]
        self._row = 0
        self._numbers: list[NDArray[np.int64]] = []
        self.kept = 0
        self.mixed = [False for _ in keep]
        self.problems: list[Problem] = []

    def read(self, records: Records) -> None:
        """All rows, or those up to the first that cannot be read."""
        portion: list[list[str]] = []
        try:
            for record in records():
                portion.append(record)
                if len(portion) == PORTION:
                    self._take(portion)
                    portion = []
                    if len(self.problems) >= MAX_PROBLEMS:
                        return
        except RefusedData as error:
            self._take(portion)
            self.problems += error.problems
        else:
            self._take(portion)

    def texts(self) -> dict[int, NDArray[Any]]:
        """The cells of the columns that are text, by the number of the column."""
        return {
            index: np.concatenate(self._parts[index])
            for index, state in enumerate(self._state)
            if state == "text" and self.keep[index]
        }

    def numbers(self, index: int) -> tuple[NDArray[np.float64], NDArray[np.bool_] | None]:
        """The numbers of a column and where it has none."""
        parts = self._parts[index]
        values = np.concatenate([part[0] for part in parts])
        absent = any(part[1] is not None for part in parts)
        missing = (
            np.concatenate([np.zeros(len(v), bool) if mask is None else mask for v, mask in parts]) if absent else None
        )
        parts.clear()  # half of the memory is freed on the way
        return values, missing

    def has_fractions(self, index: int) -> bool:
        """Whether any of the numbers of a column is not whole."""
        return any(bool((part[0] != np.rint(part[0]))[np.isfinite(part[0])].any()) for part in self._parts[index])

    def rows(self) -> NDArray[np.int64]:
        """The number of each row in the file, from 1, blank lines counted."""
        return np.concatenate(self._numbers)

    def _take(self, portion: list[list[str]]) -> None:
        width = len(self.keep)
        rows, numbers = [], []
        for number, record in enumerate(portion, start=self._row + 1):
            if len(record) == width:
                rows.append(record)
                numbers.append(number)
            elif record and not (len(record) == 1 and not record[0].strip()):  # blank lines are passed over
                self.problems.append(Problem(self._ragged(number, record), row=number))
        self._row += len(portion)
        if not rows:
            return
        if (self.kept + len(rows)) * width > MAX_CELLS:
            raise refuse(
                f"The table has more than {MAX_CELLS:,} cells; send fewer rows, fewer columns, or arrays of images."
            )
        for index, cells in enumerate(zip(*rows, strict=True)):
            if self.keep[index] and not self.mixed[index]:
                self._take_cells(index, cells)
        self._numbers.append(np.array(numbers, np.int64))
        self.kept += len(rows)

    def _take_cells(self, index: int, cells: tuple[str, ...]) -> None:
        if not self._state[index]:
            self._state[index] = "text" if self._strict and _mostly_text(cells) else "numbers"
        if self._state[index] == "numbers":
            plain = _plain_numbers(cells, odd=self._layout.odd, absent=not self._strict)
            if plain is not None:
                self._parts[index].append(plain)
                return
            if self._parts[index] or self._strict:
                self._parts[index].clear()
                self.mixed[index] = True
                return
            self._state[index] = "text"
        values = np.empty(len(cells), dtype=object)
        values[:] = [sys.intern(cell.strip()) for cell in cells]  # labels repeat; one string serves all
        self._parts[index].append(values)

    def _ragged(self, number: int, record: list[str]) -> str:
        said = f"Row {number} has {len(record)} cell{'s' if len(record) != 1 else ''} where the header has "
        said += f"{len(self.keep)}"
        if self._layout.separator == "," and len(record) > len(self.keep):
            return f"{said}; put cells that contain a comma in quotes, and write decimals with a point."
        return f"{said}; complete or remove the row."


def _plain_numbers(
    cells: tuple[str, ...], *, odd: bool, absent: bool
) -> tuple[NDArray[np.float64], NDArray[np.bool_] | None] | None:
    """The numbers of cells that are all plain ones, or empty where that is allowed; None where any is not."""
    if not odd:
        try:
            values = np.fromiter(map(float, cells), np.float64, len(cells))
        except ValueError:
            pass
        else:
            if np.isfinite(values).all():
                return values, None
    values = np.empty(len(cells))
    missing = np.zeros(len(cells), bool)
    for i, cell in enumerate(cells):
        stripped = cell.strip()
        if NUMBER.fullmatch(stripped):
            values[i] = float(stripped)
            if math.isinf(values[i]):
                return None
        elif absent and stripped.lower() in MISSING:
            values[i], missing[i] = math.nan, True
        else:
            return None
    return values, missing if missing.any() else None


# --- judging ------------------------------------------------------------------------------------


def _looked(
    first: _Reading,
    names: list[str],
    texts: Mapping[int, NDArray[Any]],
    read_as: Mapping[str, ReadAs],
    *,
    separator: str | None,
) -> dict[int, Looked]:
    """What the columns of text are; where one alone does not show its notation, the others do."""
    counts = {index: Counter(cells.tolist()) for index, cells in texts.items()}
    looked = {index: look(counts[index], read_as.get(names[index])) for index in texts}
    sure = {found.notation for found in looked.values() if found.sure}
    plain = [i for i in range(len(names)) if i not in texts and not first.mixed[i]]
    if any(first.has_fractions(index) for index in plain):
        sure.add("1,234.5")
    for index, found in looked.items():
        if found.others is None:
            continue
        pair = {found.notation, found.others}
        if found.type == "date":
            meant = next(iter(pair & sure)) if len(pair & sure) == 1 else None
            # A day and a month that may be either: guessing would be silent, so the column is left out.
            looked[index] = replace(found, notation=meant, others=None) if meant else replace(found, type="text")
        else:
            usual: Notation = "1.234,5" if separator == ";" and "," in (found.sample or "") else "1,234.5"
            meant = next(iter(pair & sure)) if len(pair & sure) == 1 else usual
            other: Notation = "1.234,5" if meant == "1,234.5" else "1,234.5"
            looked[index] = replace(found, notation=meant, others=other)
            if meant == "1.234,5" and found.sample is None:
                looked[index] = replace(looked[index], sample=next(iter(counts[index])))
    return looked


# --- notes on columns -------------------------------------------------------------------------------

_ENDS_IN_ID = re.compile(r"(?:.*[\W_])?(?:id|idx|index|uuid|guid|key|nr|no|num|row|rownum|rownames?)", re.IGNORECASE)
_CAMEL_ID = re.compile(r".*[a-z0-9](?:Id|ID|Index|Key|Nr|No)|#|Unnamed: 0|(?:row|pk)(?:id|number|name)s?", re.ASCII)


def is_named_like_an_id(name: str) -> bool:
    """Whether the name is that of an identifier: `id`, `row`, `customer_id`, `PassengerId` …"""
    return bool(_ENDS_IN_ID.fullmatch(name) or _CAMEL_ID.fullmatch(name))


def with_notes(
    column: Column, looked: Looked | None = None, wanted: ReadAs | None = None, *, unnamed: bool = False
) -> Column:
    """The column, called `index` where it only identifies rows, with a sentence about how it was read.

    wanted    as the user has it
    unnamed   the header has no name for it
    """
    name, kind = column.name, column.type
    note = None
    as_found = wanted is None or wanted.type is None
    if kind == "integer" and as_found and column.missing is None and _tells_rows_apart(column, unnamed=unnamed):
        note = f"{name!r} only counts or identifies rows."
        return replace(column, found="index", notes=(note,))
    if looked is None:
        return column
    if kind == "text" and looked.others is not None:
        note = (
            f"{name!r} holds dates such as {shown(looked.sample or '')}, and no row says whether the day or the month "
            "comes first, so it is left out; to use it, say the type `date` and the notation `31/12/2024` or "
            "`12/31/2024`."
        )
    elif kind == "boolean" and looked.sample:
        note = f"{name!r} is read as 1 for true or yes and 0 for false or no."
    elif (sample := read_sample(looked)) is not None:
        more = "" if looked.others is None else f"; the notation `{looked.others}` would read it otherwise"
        note = f"{name!r} is read as {'dates' if kind == 'date' else 'numbers'}, {sample}{more}."
    return column if note is None else replace(column, notes=(note,))


def _tells_rows_apart(column: Column, *, unnamed: bool) -> bool:
    """Of a column without a name, whether it grows with every row; of one named like an id, whether none repeats."""
    values = column.values
    if len(values) < 2:
        return False
    if unnamed:
        return bool((np.diff(values) > 0).all())
    return is_named_like_an_id(column.name) and len(np.unique(values)) == len(values)


def typed_values(
    name: str, texts: list[str], wanted: ReadAs | None, problems: list[Problem], *, declared: bool = False
) -> Column:
    """The column of stripped texts, and into `problems` what does not fit.

    declared   the file says that they are texts, so digits are no numbers
    """
    cells = np.empty(len(texts), dtype=object)
    cells[:] = texts
    counts = Counter(texts)
    looked = look(counts, wanted)
    if declared and (wanted is None or wanted.type is None) and looked.type == "number":
        looked = Looked("category" if is_category(words_of(counts)) else "text")
    if looked.type == "date" and looked.others is not None:
        looked = replace(looked, type="text")
    column, wrong = typed(name, cells, np.arange(1, len(texts) + 1), looked, wanted)
    problems += wrong
    return with_notes(column, looked, wanted)


def _without_empty(columns: list[Column], header: list[str]) -> tuple[list[Column], list[str]]:
    """The columns but those without a name and without a value, which spreadsheets leave behind."""
    empty = [
        column
        for column, name in zip(columns, header, strict=False)
        if len(columns) == len(header) and not name.strip() and column.missing is not None and column.missing.all()
    ]
    kept = [column for column in columns if not any(column is other for other in empty)]
    if not kept:
        raise refuse("Every column is empty; send a table with values.")
    return kept, [
        f"Left out, because they have neither a name nor a value: {len(empty)} of the columns."
    ] if empty else []


# --- as it was before columns had types -----------------------------------------------------------


def _mostly_text(cells: tuple[str, ...]) -> bool:
    """Whether fewer than half of the cells that are filled hold numbers; one odd cell does not make a column text."""
    absent = frozenset(["", "na", "n/a", "#n/a", "null", "none", "missing", "?", "-", "."])
    filled = [cell for cell in map(str.strip, cells) if cell.lower() not in absent]
    comma = re.compile(r"[+-]?[0-9]+,[0-9]+", re.ASCII)
    numeric = sum(bool(NUMBER.fullmatch(c) or comma.fullmatch(c) or c.lower() in NOT_FINITE) for c in filled)
    return 2 * numeric < len(filled)


def _strict_table(
    first: _Reading, names: list[str], texts: dict[int, NDArray[Any]], used: frozenset[str] | None
) -> Table:
    """Numbers and text, every cell with a value."""
    rows = first.rows()
    problems = [*first.problems]
    columns = []
    for index, name in enumerate(names):
        wrong: list[Problem] = []
        if index in texts:
            cells = texts.pop(index)
            if first.mixed[index]:
                number = {cell: float(cell) if NUMBER.fullmatch(cell) else math.nan for cell in set(cells.tolist())}
                values = np.fromiter(map(number.__getitem__, cells), np.float64, len(cells))
                values[np.isinf(values)] = math.nan
                places = np.flatnonzero(np.isnan(values))
            else:
                values = cells
                places = np.array([i for i, cell in enumerate(cells) if cell.lower() in MISSING - WORDS], np.int64)
            for i in places[:MAX_PROBLEMS].tolist():
                wrong.append(Problem(_no_value(int(rows[i]), name, cells[i]), int(rows[i]), name))
            columns.append(Column(name, values))
        elif first.keep[index]:
            columns.append(Column(name, first.numbers(index)[0]))
        if used is None or name in used:
            problems += wrong
    if problems:
        raise RefusedData(sorted(problems, key=lambda problem: problem.row or sys.maxsize))
    return Table(tuple(columns))


def _no_value(row: int, name: str, cell: str) -> str:
    place = f"Row {row}, column {name!r}"
    if cell.lower() in MISSING:
        written = f" ({shown(cell)} stands for none)" if cell else ""
        return f"{place} has no value{written}; fill the cell or remove the row."
    return f"{place} holds {shown(cell)}, which is not a finite number in plain digits; {CORRECT}."
