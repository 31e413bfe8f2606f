"""CSV and TSV: lines of text into columns, with every problem named by row and column.

It is read by Python's csv module in portions: it never panics, needs the same few megabytes for any file, knows the
number of each row, and reads quotes in the same way in good and bad files. 76 MB take 3 s (polars: 0.3 s, but its
errors name neither the row nor all of the problems, and a second reader for bad files would read them differently).
"""

from __future__ import annotations

import csv
import io
import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from bimt_engine.data.readers import (
    MAX_COLUMNS,
    Problem,
    ReadAs,
    RefusedData,
    Table,
    check_names,
    opened,
    refuse,
)
from bimt_engine.data.readers.cells import NUMBER, number
from bimt_engine.data.readers.encodings import Encoding, encoding_of
from bimt_engine.data.readers.rows import Layout, read_rows

SEPARATORS = ",;\t|"
COMMENTS = ("#", "%", "//")  # with which a line above the header may begin
MAX_COMMENTS = 1_000  # lines of them
SHOWN_COMMENTS = 500  # characters that are kept as a note
_SEP = re.compile(r'"?sep=([,;\t|])"?')
NO_HEADER = "The file holds blank lines only; send a CSV table whose first row names the columns."


@dataclass(frozen=True)
class _Start:
    """Where the table begins: lines that are passed over, what they say, and how cells are separated.

    header   the names where they stand in a comment line, as numpy.savetxt writes them; None: in the next line
    """

    lines: int
    comments: tuple[str, ...]
    separator: str
    header: list[str] | None = None


def read_csv(
    content: bytes | Path,
    *,
    used: frozenset[str] | None = None,
    whole: bool = True,
    read_as: Mapping[str, ReadAs] | None = None,
) -> Table:
    """The columns of a CSV file with a header; `used`, `whole` and `read_as` as of `read_rows`.

    Comment lines above the header are kept as a note, and other encodings than UTF-8 are recognised, unless `read_as`
    is None.
    Raises RefusedData with up to MAX_PROBLEMS problems.
    """
    encoding = encoding_of(content, tolerant=read_as is not None)
    start = _start(content, encoding, comments=read_as is not None)
    names = start.header or _header(content, encoding, start, strict=read_as is None)
    notes = [note for note in (encoding.note(), _comment_note(start)) if note]
    odd = not encoding.ascii or _has_underscores(content)

    def records() -> Iterator[list[str]]:
        with _text(content, encoding) as text:
            rows = _records(text, start)
            if start.header is None:
                next((row for row in rows if any(cell.strip() for cell in row)), None)
            yield from rows

    return read_rows(
        Layout(names, start.separator, odd=odd, notes=tuple(notes)), records, used=used, whole=whole, read_as=read_as
    )


def _text(content: bytes | Path, encoding: Encoding) -> io.TextIOWrapper:
    return io.TextIOWrapper(opened(content), encoding=encoding.name, newline="")


def _has_underscores(content: bytes | Path) -> bool:
    with opened(content) as raw:
        return any(b"_" in block for block in iter(lambda: raw.read(1 << 20), b""))


def _records(text: io.TextIOWrapper, start: _Start) -> Iterator[list[str]]:
    """The rows below the comments. Raises RefusedData where one cannot be read."""
    for _ in range(start.lines):
        text.readline()
    rows = csv.reader(text, delimiter=start.separator, strict=True)
    try:
        yield from rows
    except csv.Error as error:
        raise RefusedData([_unreadable(error, rows.line_num + start.lines)]) from None


def _start(content: bytes | Path, encoding: Encoding, *, comments: bool) -> _Start:
    """What stands above the table. `comments`: whether anything may."""
    said: list[str] = []
    lines, separator, first = 0, "", ""
    with _text(content, encoding) as text:
        for line in itertools.islice(text, MAX_COMMENTS):
            stripped = line.strip()
            if comments and not separator and (named := _SEP.fullmatch(stripped)):
                separator = named[1]  # as spreadsheets write it
            elif comments and stripped.startswith(COMMENTS):
                said.append(stripped)
            elif stripped:
                first = line
                break
            lines += 1
    separator = separator or _separator_of(first)
    if said:
        names, cells = _cells(said[-1].lstrip("#%/ \t"), separator), _cells(first, separator)
        if len(names) == len(cells) > 1 and _is_data(cells) and not _is_data(names):
            return _Start(lines, tuple(said), separator, header=[name.strip() for name in names])
    return _Start(lines, tuple(said), separator)


def _cells(line: str, separator: str) -> list[str]:
    try:
        return next(csv.reader([line.rstrip("\r\n")], delimiter=separator), [])
    except csv.Error:
        return []


def _is_data(cells: list[str]) -> bool:
    """Whether any of the cells is a number, which names are not."""
    return any(number(cell.strip(), "1,234.5") or number(cell.strip(), "1.234,5") for cell in cells)


def _comment_note(start: _Start) -> str | None:
    if not start.comments:
        return None
    said = " / ".join(start.comments)
    where = "Above the rows" if start.header else "Above the header"
    names = "; the last of these lines names the columns" if start.header else ""
    return f"{where} stands: {said if len(said) <= SHOWN_COMMENTS else said[:SHOWN_COMMENTS] + '…'}{names}."


def _separator_of(line: str) -> str:
    """The separator that the header has most of."""
    unquoted = re.sub(r'"[^"]*"', "", line)
    return max(SEPARATORS, key=unquoted.count)


def _header(content: bytes | Path, encoding: Encoding, start: _Start, *, strict: bool) -> list[str]:
    with _text(content, encoding) as text:
        names = next((record for record in _records(text, start) if any(cell.strip() for cell in record)), None)
    if names is None:
        raise refuse(NO_HEADER)
    names = [name.strip() for name in names]
    if len(names) <= MAX_COLUMNS and all(NUMBER.fullmatch(name) for name in names):
        raise refuse(
            f"The first row should name the columns but holds numbers ({', '.join(names[:4])}"
            f"{', …' if len(names) > 4 else ''}); add a row with names on top."
        )
    if strict and (problems := check_names(names)):
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


def read_records(content: bytes | Path, *, most: int) -> list[list[str]]:
    """The stripped cells of a small CSV file without a header, blank lines left out. Raises RefusedData."""
    encoding = encoding_of(content, tolerant=False)
    start = _start(content, encoding, comments=False)
    rows: list[list[str]] = []
    with _text(content, encoding) as text:
        for record in _records(text, start):
            cells = [cell.strip() for cell in record]
            if any(cells):
                rows.append(cells)
            if len(rows) > most:
                raise refuse(f"The file has more than {most} rows; at most {most} are read here.")
    if not rows:
        raise refuse("The file holds blank lines only.")
    return rows
