"""CSV and Parquet into columns, with every problem named by row and column.

CSV is read by Python's csv module in portions: it never panics, needs the same few megabytes for any file, knows the
number of each row, and reads quotes in the same way in good and bad files. 76 MB take 3 s (polars: 0.3 s, but its
errors name neither the row nor all of the problems, and a second reader for bad files would read them differently).
"""

from __future__ import annotations

import codecs
import csv
import io
import math
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bimt_engine.data.readers import (
    MAX_CELLS,
    MAX_COLUMNS,
    MAX_PROBLEMS,
    Column,
    Problem,
    RefusedData,
    Table,
    check_names,
    opened,
    refuse,
)

PORTION = 8_192  # rows; one portion decides what type a column has
MAX_LINE = 4 << 20  # bytes; 1 000 columns of 20 digits need 20 kB
SEPARATORS = ",;\t|"
MISSING = frozenset(["", "na", "n/a", "#n/a", "null", "none", "missing", "?", "-", "."])
WORDS = frozenset(["none"])  # among numbers no value, among words a word: a label like any other
NOT_FINITE = frozenset(["nan", "inf", "infinity", "+inf", "-inf", "-nan", "+nan", "+infinity", "-infinity"])

_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?", re.ASCII)
_DECIMAL_COMMA = re.compile(r"[+-]?[0-9]+,[0-9]+", re.ASCII)


def read_csv(content: bytes | Path, *, used: frozenset[str] | None = None) -> Table:
    """The columns of a CSV file with a header.

    used   the columns that must be without fault; None: all.
    Raises RefusedData with up to MAX_PROBLEMS problems.
    """
    odd = _check_bytes(content)
    with opened(content) as raw, io.TextIOWrapper(raw, encoding="utf-8-sig", newline="") as text:
        separator = _separator(text)
        records = csv.reader(text, delimiter=separator, strict=True)
        reading = _Reading(_header(records), separator=separator, odd=odd, used=used)
        portion: list[list[str]] = []
        try:
            for record in records:
                portion.append(record)
                if len(portion) == PORTION:
                    reading.take(portion)
                    portion = []
                    if len(reading.problems) >= MAX_PROBLEMS:
                        break
        except csv.Error as error:
            reading.take(portion)
            reading.problems.append(_unreadable(error, records.line_num))
        else:
            reading.take(portion)
    return reading.table()


def _check_bytes(content: bytes | Path) -> bool:
    """Refuse what is no text; True when cells may hold what float() alone calls numbers (1_000, or other digits)."""
    decode = codecs.getincrementaldecoder("utf-8")().decode
    odd, line, done, lines = False, 0, 0, 0
    with opened(content) as raw:
        while block := raw.read(1 << 20):
            if not done and block[:2] in (b"\xff\xfe", b"\xfe\xff"):
                raise refuse("The file is UTF-16; save it as UTF-8 (in a spreadsheet: “CSV UTF-8”) and send it again.")
            if (at := block.find(0)) >= 0:
                raise refuse(
                    f"The file has a zero byte at byte {done + at + 1}, so it is no text in UTF-8 (UTF-16, or a "
                    "spreadsheet or archive?); save it as CSV in UTF-8."
                )
            try:
                odd |= not block.isascii() or b"_" in block
                decode(block)
            except UnicodeDecodeError as error:
                where = lines + 1 + block[: error.start].replace(b"\r\n", b"\n").count(b"\n")
                raise refuse(
                    f"Line {where} of the file (the header is line 1) is not UTF-8; save the file as CSV in UTF-8."
                ) from None
            ends = block.replace(b"\r", b"\n").split(b"\n")
            line = line + len(ends[0]) if len(ends) == 1 else len(ends[-1])
            if max(line, *map(len, ends)) > MAX_LINE:
                raise refuse(f"A line has more than {MAX_LINE:,} bytes; is this a table with one row on each line?")
            done += len(block)
            lines += block.count(b"\n")
    try:
        decode(b"", final=True)
    except UnicodeDecodeError:
        raise refuse("The file ends within a character of UTF-8; it may be cut off. Send it again.") from None
    if not done:
        raise refuse("The file is empty; send a CSV table whose first row names the columns.")
    return odd


def _separator(text: io.TextIOWrapper) -> str:
    """The separator that the header has most of; reading starts again afterwards."""
    line = next((line for line in text if line.strip()), "")
    text.seek(0)
    unquoted = re.sub(r'"[^"]*"', "", line)
    return max(SEPARATORS, key=unquoted.count)


def _header(records: Any) -> list[str]:
    try:
        names = next((record for record in records if any(cell.strip() for cell in record)), None)
    except csv.Error as error:
        raise RefusedData([_unreadable(error, records.line_num)]) from None
    if names is None:
        raise refuse("The file holds blank lines only; send a CSV table whose first row names the columns.")
    names = [name.strip() for name in names]
    if len(names) <= MAX_COLUMNS and all(_NUMBER.fullmatch(name) for name in names):
        raise refuse(
            f"The first row should name the columns but holds numbers ({', '.join(names[:4])}"
            f"{', …' if len(names) > 4 else ''}); add a row with names on top."
        )
    problems = check_names(names)
    if problems:
        raise RefusedData(problems)
    return names


def _unreadable(error: csv.Error, line: int) -> Problem:
    said = str(error)
    if "field larger" in said:
        why = f"has a cell of more than {csv.field_size_limit():,} characters; a quote may be open"
    elif "unexpected end" in said:
        return Problem("The file ends inside a quoted cell: a quote is never closed. Close it and send the file again.")
    elif "expected after" in said:
        why = 'has text after a closing quote; write a quote inside a cell as ""'
    else:
        why = f"cannot be read ({said})"
    return Problem(f"Line {line} of the file (the header is line 1) {why}. Correct it and send the file again.")


class _Reading:
    """Columns under construction: portions of rows come in, typed columns or problems come out."""

    def __init__(self, names: list[str], *, separator: str, odd: bool, used: frozenset[str] | None) -> None:
        self._names = names
        self._separator = separator
        self._odd = odd
        self._watched = [used is None or name in used for name in names]
        self._is_text: list[bool] | None = None  # decided by the first portion
        self._parts: list[list[Any]] = [[] for _ in names]
        self._row = 0
        self._kept = 0
        self.problems: list[Problem] = []

    def take(self, portion: list[list[str]]) -> None:
        width = len(self._names)
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
        if self._kept and len(self.problems) >= MAX_PROBLEMS:
            return
        if (self._kept + len(rows)) * width > MAX_CELLS:
            raise refuse(
                f"The table has more than {MAX_CELLS:,} cells; send fewer rows, fewer columns, or arrays of images."
            )
        columns = list(zip(*rows, strict=True))
        if self._is_text is None:
            self._is_text = [_mostly_text(cells) for cells in columns]
        found: list[Problem] = []
        for index, cells in enumerate(columns):
            take = self._take_text if self._is_text[index] else self._take_numbers
            part, problems = take(index, cells, numbers)
            self._parts[index].append(part)
            if self._watched[index]:
                found += problems
        self._kept += len(rows)
        self.problems += found
        self.problems.sort(key=lambda problem: problem.row or sys.maxsize)

    def table(self) -> Table:
        if self.problems:
            raise RefusedData(self.problems)
        if not self._kept:
            raise refuse("The table has a header but no rows; add the data below it.")
        columns = []
        for name, parts in zip(self._names, self._parts, strict=True):
            columns.append(Column(name, np.concatenate(parts)))
            parts.clear()  # half of the memory is freed on the way
        return Table(tuple(columns))

    def _ragged(self, number: int, record: list[str]) -> str:
        said = f"Row {number} has {len(record)} cell{'s' if len(record) != 1 else ''} where the header has "
        said += f"{len(self._names)}"
        if self._separator == "," and len(record) > len(self._names):
            return f"{said}; put cells that contain a comma in quotes, and write decimals with a point."
        return f"{said}; complete or remove the row."

    def _take_text(self, index: int, cells: tuple[str, ...], numbers: list[int]) -> tuple[NDArray[Any], list[Problem]]:
        values = np.empty(len(cells), dtype=object)
        values[:] = [sys.intern(cell.strip()) for cell in cells]  # labels repeat; one string serves all
        absent = (MISSING - WORDS) | {"nan"}
        missing = [i for i, value in enumerate(values) if value.lower() in absent]
        name = self._names[index]
        problems = [Problem(_missing(numbers[i], name, values[i]), numbers[i], name) for i in missing[:MAX_PROBLEMS]]
        return values, problems

    def _take_numbers(
        self, index: int, cells: tuple[str, ...], numbers: list[int]
    ) -> tuple[NDArray[np.float64], list[Problem]]:
        if not self._odd:
            try:
                values = np.fromiter(map(float, cells), np.float64, len(cells))
            except ValueError:
                pass
            else:
                if np.isfinite(values).all():
                    return values, []
        values = np.empty(len(cells))
        problems: list[Problem] = []
        name = self._names[index]
        for i, cell in enumerate(cells):
            stripped = cell.strip()
            values[i] = float(stripped) if _NUMBER.fullmatch(stripped) else math.nan
            if not math.isfinite(values[i]) and len(problems) < MAX_PROBLEMS:
                problems.append(Problem(self._not_a_number(numbers[i], name, stripped), numbers[i], name))
        return values, problems

    def _not_a_number(self, row: int, name: str, cell: str) -> str:
        if cell.lower() in NOT_FINITE or _NUMBER.fullmatch(cell):
            said = f"Row {row}, column {name!r} holds {_shown(cell)}, which is not a finite number"
            return f"{said}; correct the cell or remove the row."
        if cell.lower() in MISSING:
            return _missing(row, name, cell)
        hint = ""
        if _DECIMAL_COMMA.fullmatch(cell):
            hint = " (decimals are written with a point)"
        elif re.fullmatch(r"[+-]?[0-9]+(_[0-9]+)+|[+-]?[0-9]{1,3}([ ,'][0-9]{3})+(\.[0-9]*)?", cell):
            hint = " (numbers are written without separators between thousands)"
        return (
            f"Row {row}, column {name!r} holds {_shown(cell)}, which is not a number{hint}, while most of the column "
            "is; correct the cell or remove the row."
        )


def _mostly_text(cells: tuple[str, ...]) -> bool:
    """Whether fewer than half of the cells that are filled hold numbers; one odd cell does not make a column text."""
    filled = [cell for cell in map(str.strip, cells) if cell.lower() not in MISSING]
    meant = [_NUMBER.fullmatch(c) or _DECIMAL_COMMA.fullmatch(c) or c.lower() in NOT_FINITE for c in filled]
    numeric = sum(map(bool, meant))
    return 2 * numeric < len(filled)


def _missing(row: int, name: str, cell: str) -> str:
    written = f" ({_shown(cell)} stands for none)" if cell else ""
    return f"Row {row}, column {name!r} has no value{written}; fill the cell or remove the row."


def _shown(cell: str) -> str:
    return repr(cell if len(cell) <= 40 else cell[:40] + "…")


def read_records(content: bytes | Path, *, most: int) -> list[list[str]]:
    """The stripped cells of a small CSV file without a header, blank lines left out. Raises RefusedData."""
    _check_bytes(content)
    with opened(content) as raw, io.TextIOWrapper(raw, encoding="utf-8-sig", newline="") as text:
        records = csv.reader(text, delimiter=_separator(text), strict=True)
        rows: list[list[str]] = []
        try:
            for record in records:
                cells = [cell.strip() for cell in record]
                if any(cells):
                    rows.append(cells)
                if len(rows) > most:
                    raise refuse(f"The file has more than {most} rows; at most {most} are read here.")
        except csv.Error as error:
            raise RefusedData([_unreadable(error, records.line_num)]) from None
    if not rows:
        raise refuse("The file holds blank lines only.")
    return rows


# --- Parquet ---


def read_parquet(content: bytes | Path, *, used: frozenset[str] | None = None, whole: bool = True) -> Table:
    """The columns of a Parquet file; numbers, booleans and text.

    used    the columns that must be without fault; None: all.
    whole   the others are read, too, where there is room for them; what of them cannot be read is left out.
    Raises RefusedData.
    """
    import polars as pl  # 0.1 s, needed by this format alone

    try:
        with opened(content) as raw:
            schema = pl.read_parquet_schema(raw)
            names = list(schema)
            problems = check_names(names)
            if problems:
                raise RefusedData(problems)
            wanted = [name for name in names if used is None or name in used]
            raw.seek(0)
            rows = pl.scan_parquet(raw).select(pl.len()).collect().item()
            if whole and rows * len(names) <= MAX_CELLS:
                wanted = [name for name in names if name in wanted or _is_read(schema[name])]
            if rows * max(len(wanted), 1) > MAX_CELLS:
                raise refuse(f"The table has {rows * len(wanted):,} cells; at most {MAX_CELLS:,} are read.")
            raw.seek(0)
            frame = pl.read_parquet(raw, columns=wanted, use_statistics=False)
    except (RefusedData, MemoryError):
        raise
    except (Exception, pl.exceptions.PanicException) as error:  # the reader panics on some damaged files
        said = str(error).split("\n")[0][:200]
        raise refuse(f"The file cannot be read as Parquet ({said}); write it again and send it.") from None
    if not rows:
        raise refuse("The table has columns but no rows; add the data.")
    problems = []
    columns = [_column(frame[name], problems) for name in frame.columns]
    problems = [problem for problem in problems if used is None or problem.column in used]
    if problems:
        raise RefusedData(sorted(problems, key=lambda problem: problem.row or 0))
    left_out = ", ".join([name for name in names if name not in frame.columns][:10]) if whole else ""
    notes = (f"These columns are of types that are not read, or too many: {left_out}.",) if left_out else ()
    return Table(tuple(columns), notes=notes)


def _is_read(dtype: Any) -> bool:
    import polars as pl

    return dtype in (pl.String, pl.Categorical, pl.Boolean) or isinstance(dtype, pl.Enum) or dtype.is_numeric()


def _column(series: Any, problems: list[Problem]) -> Column:
    import polars as pl

    name = series.name
    if series.dtype in (pl.String, pl.Categorical) or isinstance(series.dtype, pl.Enum):
        texts = [text.strip() if text is not None else "" for text in series.cast(pl.String).to_list()]
        wrong = np.array([not text for text in texts])
        column = Column(name, np.array(texts, dtype=object))
    elif series.dtype.is_numeric() or series.dtype == pl.Boolean:
        values = series.cast(pl.Float64).fill_null(float("nan")).to_numpy().astype(np.float64)
        wrong = ~np.isfinite(values)
        column = Column(name, values)
    else:
        detail = (
            f"Column {name!r} is of type {series.dtype}; numbers, booleans and text are read. Convert or remove it."
        )
        problems.append(Problem(detail, column=name))
        return Column(name, np.zeros(len(series)))
    for row in np.flatnonzero(wrong)[:MAX_PROBLEMS] + 1:
        detail = f"Row {row}, column {name!r} has no finite value; fill the cell or remove the row."
        problems.append(Problem(detail, int(row), name))
    return column
