"""Columns of a table as a network reads them: levels, gaps and dates become numbers as they did in training.

`columns` is what a weights file says under `encoding`: for each column its type, its levels, what stands for a missing
cell. The service does the same in bimt_engine/data/encoding.py.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any

from .errors import BimtError

DAY = 86_400  # seconds
TRUE, FALSE = ("true", "yes", "t", "y", "1", "1.0"), ("false", "no", "f", "n", "0", "0.0")
# What files say where there is no value, in lower case; `none` is a word among words. As the service's readers.
MISSING = frozenset(
    [
        *["", "na", "n/a", "#n/a", "#n/a n/a", "#na", "<na>", "null", "nil", "none", "missing", "?", "-", "--", "."],
        *["nan", "-nan", "+nan", "nat", "1.#qnan", "-1.#qnan", "1.#ind", "-1.#ind", "(null)", "(blank)"],
    ]
)
Column = Mapping[str, Any]


class UnreadableCell(BimtError):
    """A cell that the network cannot read; a sentence."""


def inputs_of(columns: Sequence[Column], rows: Sequence[Any]) -> list[list[float]]:
    """Rows of cells, lists in the order of the columns or mappings by their names, as inputs before standardising.

    A cell is a number, a text, true or false, a date, and None or NaN without a value. A text is read as it would be in
    the file that the network learned from: in the notation of its column, and as no value where it is a word for that.
    Raises UnreadableCell.
    """
    found = []
    for row in rows:
        cells = [row[column["name"]] for column in columns] if isinstance(row, Mapping) else list(row)
        if len(cells) != len(columns):
            raise UnreadableCell(f"A row has {len(columns)} values; this one has {len(cells)}.")
        found.append([x for column, cell in zip(columns, cells, strict=True) for x in _inputs(column, cell)])
    return found


def _inputs(column: Column, cell: Any) -> list[float]:
    """The inputs that one cell becomes."""
    codes = _codes(column, cell)
    missing = math.isnan(codes[0])
    categorical = column["type"] in ("category", "text") and not column.get("ordered")
    if categorical:
        count = len(column.get("levels") or ()) + bool(column.get("joined"))
        found = [float(codes[0] == level) for level in range(1 if column.get("binary") else 0, count)]
    else:
        found = list(column["fills"]) if missing else codes
    if column.get("median") is not None:
        found = [math.log1p(max(found[0], 0.0) / column["median"])]
    return [*found, float(missing)] if column.get("indicator") else found


def _codes(column: Column, cell: Any) -> list[float]:
    name, kind, parts = column["name"], column["type"], column.get("parts") or ()
    cell = cell.strip() if isinstance(cell, str) else cell
    if _is_missing(column, cell):
        readable = column.get("indicator") or column.get("fills") or column.get("unseen") != "refuse"
        if not column.get("allowed") or not readable:
            raise UnreadableCell(f"Column `{name}` has no value here, which no training row shows.")
        return [math.nan] * max(1, len(parts))
    if kind in ("category", "text"):
        return [_level(column, str(int(cell)) if isinstance(cell, float) and cell.is_integer() else str(cell))]
    if kind == "date":
        return _date(name, cell, parts, column.get("notation") or "2024-12-31")
    if kind == "boolean" and isinstance(cell, str):
        if cell.lower() not in TRUE + FALSE:
            raise UnreadableCell(f"Column `{name}` is true or false; {cell!r} is neither.")
        return [float(cell.lower() in TRUE)]
    try:
        number = _number(column, cell) if isinstance(cell, str) else float(cell)
    except (TypeError, ValueError, OverflowError):
        raise UnreadableCell(f"Column `{name}` holds {cell!r} here, which is no number.") from None
    if not math.isfinite(number):
        raise UnreadableCell(f"Column `{name}` holds no number that can be computed with.")
    if kind == "boolean" and number not in (0.0, 1.0):
        raise UnreadableCell(f"Column `{name}` is true or false; {cell!r} is neither.")
    return [number]


def _is_missing(column: Column, cell: Any) -> bool:
    if not isinstance(cell, str):
        return cell is None or (isinstance(cell, float) and math.isnan(cell))
    if column["type"] in ("category", "text"):
        known = [*(column.get("levels") or ()), *(column.get("joined") or ())]
        return cell.lower() in MISSING - {"none"} and cell not in known
    return cell.lower() in MISSING


# --- texts, as the service's readers have it in bimt_engine/data/readers/cells.py ---

_PLAIN = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?", re.ASCII)
_GAP = "'’ \u00a0\u202f\u2009"


def _number_pattern(decimal: str, group: str) -> re.Pattern[str]:
    digits = (
        rf"(?:[1-9][0-9]{{0,2}}(?P<gap>[{group}{_GAP}])[0-9]{{3}}(?:(?P=gap)[0-9]{{3}})*|[0-9]+)(?:{decimal}[0-9]*)?"
    )
    body = rf"(?P<body>(?:{digits}|{decimal}[0-9]+)(?:[eE][+-]?[0-9]+)?)"
    return re.compile(rf"(?P<sign>[+\-−]?)\s?(?P<before>[$€£¥₹]?)\s?{body}\s?(?P<after>[%$€£¥₹]?)")


_NUMBERS = {"1,234.5": _number_pattern(r"\.", ","), "1.234,5": _number_pattern(",", r"\.")}


def _number(column: Column, cell: str) -> float:
    """The number that a text holds in the notation of its column; in encodings without one, a plain number."""
    name, notation = column["name"], column.get("notation")
    match = (_NUMBERS[notation] if notation else _PLAIN).fullmatch(cell)
    if match is None or (notation and match["before"] and match["after"]):
        like = notation or "1234.5"
        raise UnreadableCell(f"Column `{name}` holds {cell!r} here, which is no number; write numbers like {like}.")
    if not notation:
        return float(cell)
    body = match["body"].replace(match["gap"], "") if match["gap"] else match["body"]
    value, sign = float(body.replace(",", ".")), column.get("sign") or ""
    if value and (match["before"] or match["after"]) != sign:
        how = f"with the sign {sign}" if sign else "without a sign"
        raise UnreadableCell(f"Column `{name}` holds {cell!r} here, and its numbers are written {how}; write it so.")
    return -value if match["sign"] in ("-", "−") else value


_MONTHS = {
    name: number
    for number, names in enumerate(
        [
            *["jan january", "feb february", "mar march", "apr april", "may", "jun june", "jul july", "aug august"],
            *["sep sept september", "oct october", "nov november", "dec december"],
        ],
        start=1,
    )
    for name in names.split()
}
_MONTH = rf"(?P<month>{'|'.join(sorted(_MONTHS, key=len, reverse=True))})\.?"
_CLOCK = (
    r"(?:(?:T|,? )(?P<hour>[0-9]{1,2}):(?P<minute>[0-9]{2})(?::(?P<second>[0-9]{2})(?:[.,](?P<fraction>[0-9]{1,9}))?)?"
    r"(?: ?(?P<half>[AaPp])\.?[Mm]\.?)? ?(?P<zone>Z|z|UTC|GMT|[+-][0-9]{2}:?[0-9]{2})?)?"
)
_DAY_NAME = r"(?:(?:mon|tues?|wed(?:nes)?|thu(?:rs)?|fri|sat(?:ur)?|sun)(?:day)?,? )?"
_DATES = [
    re.compile(form, re.IGNORECASE | re.ASCII)
    for form in (
        r"(?P<year>[0-9]{4})(?P<mark>[-/.])(?P<month>[0-9]{1,2})(?:(?P=mark)(?P<day>[0-9]{1,2}))?" + _CLOCK,
        r"(?P<first>[0-9]{1,2})(?P<mark>[-/.])(?P<next>[0-9]{1,2})(?P=mark)(?P<year>[0-9]{4}|[0-9]{2})" + _CLOCK,
        rf"{_DAY_NAME}(?P<day>[0-9]{{1,2}})(?:st|nd|rd|th)?[- ]{_MONTH}[-, ]{{1,2}}(?P<year>[0-9]{{4}})" + _CLOCK,
        rf"{_DAY_NAME}{_MONTH} (?P<day>[0-9]{{1,2}})(?:st|nd|rd|th)?,? (?P<year>[0-9]{{4}})" + _CLOCK,
        r"(?P<year>[0-9]{4})(?P<month>[0-9]{2})(?P<day>[0-9]{2})",
    )
]


def _parsed_date(cell: str, notation: str) -> datetime | None:
    """The date that a text holds, in UTC where it names a zone; None where it is none in this notation."""
    match = next((found for pattern in _DATES if (found := pattern.fullmatch(cell))), None)
    if match is None or not 6 <= len(cell) <= 60:
        return None
    part = match.groupdict()
    try:
        year = int(part["year"])
        if "first" in part:
            day, month = int(part["first"]), int(part["next"])
            if part["mark"] != "." and notation == "2024-12-31":
                return None
            if part["mark"] != "." and notation == "12/31/2024":
                day, month = month, day
            if len(part["year"]) == 2:
                year += 2000 if year < 69 else 1900
        else:
            day, month = int(part["day"] or 1), _MONTHS.get(part["month"].lower()) or int(part["month"])
        hour, half = int(part.get("hour") or 0), part.get("half")
        if half and not 1 <= hour <= 12:
            return None
        if half:
            hour = hour % 12 + (12 if half in "pP" else 0)
        micro = int((part.get("fraction") or "0")[:6].ljust(6, "0"))
        when = datetime(year, month, day, hour, int(part.get("minute") or 0), int(part.get("second") or 0), micro)
        zone = part.get("zone")
        if zone and zone[0] in "+-":
            shift = timedelta(hours=int(zone[1:3]), minutes=int(zone[-2:]))
            when = when.replace(tzinfo=timezone(shift if zone[0] == "+" else -shift)).astimezone(UTC)
        return when.replace(tzinfo=None)
    except (ValueError, OverflowError):
        return None


# --- codes ---


def _level(column: Column, level: str) -> float:
    levels, joined = column.get("levels") or (), column.get("joined") or ()
    if level in levels:
        return float(levels.index(level))
    if level in joined or (column.get("unseen") == "rare" and joined):
        return float(len(levels))
    if column.get("unseen") == "refuse" or column.get("ordered"):
        raise UnreadableCell(f"Column `{column['name']}` has no level {level!r} in its training rows.")
    return -1.0


def _date(name: str, cell: Any, parts: Sequence[str], notation: str) -> list[float]:
    if isinstance(cell, str):
        when = _parsed_date(cell, notation)
        if when is None:
            raise UnreadableCell(f"Column `{name}` holds {cell!r} here, which is no date; write it like {notation}.")
        cell = when
    if not isinstance(cell, datetime) and isinstance(cell, date):
        cell = datetime(cell.year, cell.month, cell.day)
    if not isinstance(cell, datetime):
        raise UnreadableCell(f"Column `{name}` holds dates, and {cell!r} is none; write the date like {notation}.")
    when = cell.replace(tzinfo=UTC) if cell.tzinfo is None else cell.astimezone(UTC)
    if not parts:
        return [when.timestamp() / DAY]
    hour = (when - when.replace(hour=0, minute=0, second=0, microsecond=0)).total_seconds() / 3600
    known = {"year": when.year, "month": when.month, "weekday": when.weekday(), "hour": hour}
    return [float(known[part]) for part in parts]
