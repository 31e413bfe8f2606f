"""Excel workbooks (.xlsx) into columns: the first sheet that is shown and holds a table.

calamine reads the sheet; what it would need for that is known before, because the archive and the places of the cells
are looked at first. A cell becomes the text that it would be in a CSV file, so that both are judged alike.
"""

from __future__ import annotations

import datetime
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bimt_engine.data.readers import MAX_COLUMNS, ReadAs, RefusedData, Table, opened, refuse
from bimt_engine.data.readers.files import archive_of, entries_of
from bimt_engine.data.readers.rows import Layout, read_rows

MAX_SHEET_CELLS = 10_000_000  # of the rectangle around all cells; calamine holds 32 bytes and the text of each
MAX_UNPACKED = 1 << 30  # bytes of XML
CHUNK = 1 << 20
TITLES = 20  # rows above the header that may hold one cell each

_PLACE = re.compile(rb'<(?:\w+:)?c\b[^>]{0,200}?\br="([A-Z]{1,4})([0-9]{1,8})"[^>]{0,200}')


def read_workbook(
    content: bytes | Path,
    *,
    used: frozenset[str] | None = None,
    whole: bool = True,
    read_as: Mapping[str, ReadAs] | None = None,
) -> Table:
    """The columns of the first sheet that holds a table; `used`, `whole` and `read_as` as of `read_rows`.

    Raises RefusedData.
    """
    import python_calamine as calamine

    failed = _check_archive(content)
    try:
        with opened(content) as raw, calamine.CalamineWorkbook.from_filelike(raw) as book:
            shown = [
                sheet.name
                for sheet in book.sheets_metadata
                if sheet.visible == calamine.SheetVisibleEnum.Visible and sheet.typ == calamine.SheetTypeEnum.WorkSheet
            ]
            filled = [name for name in shown if book.get_sheet_by_name(name).height > 1]
            if not filled:
                raise refuse("The workbook has no sheet with more than one row; put the table on its first sheet.")
            rows = [[_text(cell) for cell in row] for row in book.get_sheet_by_name(filled[0]).iter_rows()]
    except (RefusedData, MemoryError):
        raise
    except BaseException as error:  # a panic of the reader is no Exception
        if isinstance(error, (KeyboardInterrupt, SystemExit)) or type(error).__name__ == "OutOfTime":
            raise
        said = str(error).split("\n")[0][:200]
        raise refuse(f"The workbook cannot be read ({said}); save it again as .xlsx, or as CSV.") from None
    notes = [f"Cells of failed formulas (such as {failed}) are read as cells without a value."] if failed else []
    return _table(rows, filled, notes, used=used, whole=whole, read_as=read_as)


def _table(
    rows: list[list[str]],
    sheets: Sequence[str],
    notes: list[str],
    *,
    used: frozenset[str] | None,
    whole: bool,
    read_as: Mapping[str, ReadAs] | None,
) -> Table:
    if len(sheets) > 1:
        others = ", ".join(repr(name) for name in sheets[1:6]) + (", …" if len(sheets) > 6 else "")
        notes.append(f"The sheet {sheets[0]!r} is read; these are not: {others}.")
    # Rows with one cell above the first row with more than one are titles, where the table has more than one column.
    wide = next((i for i, row in enumerate(rows[:TITLES]) if sum(map(bool, row)) > 1), None)
    at = wide if wide is not None else next((i for i, row in enumerate(rows) if any(row)), 0)
    if titles := ["".join(row) for row in rows[:at] if any(row)]:
        notes.append(f"Above the header stands: {' / '.join(titles)[:500]}.")
    names = rows[at]
    if len(names) <= MAX_COLUMNS and all(map(_is_number, names)):
        raise refuse(
            f"The first row of the sheet {sheets[0]!r} should name the columns but holds numbers "
            f"({', '.join(names[:4])}{', …' if len(names) > 4 else ''}); add a row with names on top."
        )

    def records() -> Iterator[list[str]]:
        return (row if any(row) else [] for row in rows[at + 1 :])

    return read_rows(Layout(names, None, notes=tuple(notes)), records, used=used, whole=whole, read_as=read_as)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _text(cell: Any) -> str:
    """A cell as a CSV file would have it."""
    if isinstance(cell, str):
        return cell.strip()
    if isinstance(cell, bool):
        return "true" if cell else "false"
    if isinstance(cell, float):
        return str(int(cell)) if cell.is_integer() and abs(cell) < 1e15 else repr(cell)
    if isinstance(cell, datetime.datetime):
        return cell.date().isoformat() if cell.time() == datetime.time() else cell.isoformat(" ")
    if isinstance(cell, datetime.timedelta):
        return repr(cell.total_seconds())
    return str(cell)


def _check_archive(content: bytes | Path) -> str:
    """Refuse an archive that would unpack too far, and sheets whose cells lie too far apart. Raises RefusedData.

    Returns the place of a cell whose formula has failed, or "".
    """
    failed = ""
    with archive_of(content) as archive:
        entries = entries_of(archive, most_bytes=MAX_UNPACKED)
        names = {entry.filename for entry in entries}
        if "xl/workbook.xml" not in names:
            hint = "an .xlsb workbook" if "xl/workbook.bin" in names else "no workbook"
            raise refuse(f"The file is {hint}; save it as .xlsx, or as CSV.")
        for entry in entries:
            if entry.filename.startswith("xl/worksheets/") and entry.filename.endswith(".xml"):
                failed = _check_extent(archive, entry) or failed
    return failed


def _check_extent(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> str:
    """Refuse a sheet whose rectangle around all cells is too large. Raises RefusedData.

    Returns the place of a cell whose formula has failed, or "".
    """
    lowest, rightmost, failed = 0, 0, ""
    rest = b""
    with archive.open(entry) as member:
        while block := member.read(CHUNK):
            for found in _PLACE.finditer(rest + block):
                lowest, rightmost = max(lowest, int(found[2])), max(rightmost, _column_number(found[1]))
                if not failed and b't="e"' in found[0]:
                    failed = (found[1] + found[2]).decode()
            rest = block[-300:]
    if lowest * rightmost > MAX_SHEET_CELLS:
        raise refuse(
            f"The cells of {entry.filename[-40:]!r} reach to row {lowest:,} and column {rightmost:,}, more than the "
            f"{MAX_SHEET_CELLS:,} cells that are read of a workbook; send the table as CSV or Parquet."
        )
    return failed


def _column_number(letters: bytes) -> int:
    number = 0
    for letter in letters:
        number = 26 * number + letter - ord("A") + 1
    return number
