"""Columns of a table as a network reads them: levels, gaps and dates become numbers as they did in training.

`columns` is what a weights file says under `encoding`: for each column its type, its levels, what stands for a missing
cell. The service does the same in bimt_engine/data/encoding.py.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from typing import Any

from .errors import BimtError

DAY = 86_400  # seconds
TRUE, FALSE = ("true", "yes", "1"), ("false", "no", "0")
Column = Mapping[str, Any]


class UnreadableCell(BimtError):
    """A cell that the network cannot read; a sentence."""


def inputs_of(columns: Sequence[Column], rows: Sequence[Any]) -> list[list[float]]:
    """Rows of cells, lists in the order of the columns or mappings by their names, as inputs before standardising.

    A cell is a number, a text, true or false, a date (or its ISO text), and None, NaN or an empty text without a value.
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
    if cell is None or cell == "" or (isinstance(cell, float) and math.isnan(cell)):
        readable = column.get("indicator") or column.get("fills") or column.get("unseen") != "refuse"
        if not column.get("allowed") or not readable:
            raise UnreadableCell(f"Column `{name}` has no value here, which no training row shows.")
        return [math.nan] * max(1, len(parts))
    if kind in ("category", "text"):
        return [_level(column, str(int(cell)) if isinstance(cell, float) and cell.is_integer() else str(cell))]
    if kind == "date":
        return _date(name, cell, parts)
    if kind == "boolean" and isinstance(cell, str) and cell.strip().lower() in TRUE + FALSE:
        return [float(cell.strip().lower() in TRUE)]
    try:
        number = float(cell)
    except (TypeError, ValueError, OverflowError):
        raise UnreadableCell(f"Column `{name}` holds {cell!r} here, which is no number.") from None
    if not math.isfinite(number):
        raise UnreadableCell(f"Column `{name}` holds no number that can be computed with.")
    return [number]


def _level(column: Column, level: str) -> float:
    levels, joined = column.get("levels") or (), column.get("joined") or ()
    if level in levels:
        return float(levels.index(level))
    if level in joined or (column.get("unseen") == "rare" and joined):
        return float(len(levels))
    if column.get("unseen") == "refuse" or column.get("ordered"):
        raise UnreadableCell(f"Column `{column['name']}` has no level {level!r} in its training rows.")
    return -1.0


def _date(name: str, cell: Any, parts: Sequence[str]) -> list[float]:
    if isinstance(cell, str):
        try:
            cell = datetime.fromisoformat(cell.strip())
        except ValueError:
            raise UnreadableCell(f"Column `{name}` holds {cell!r} here, which is no date; write 2024-05-31.") from None
    if not isinstance(cell, datetime) and isinstance(cell, date):
        cell = datetime(cell.year, cell.month, cell.day)
    if not isinstance(cell, datetime):
        raise UnreadableCell(f"Column `{name}` holds {cell!r} here, which is no date.")
    when = cell.replace(tzinfo=UTC)
    if not parts:
        return [when.timestamp() / DAY]
    hour = (when - when.replace(hour=0, minute=0, second=0, microsecond=0)).total_seconds() / 3600
    known = {"year": when.year, "month": when.month, "weekday": when.weekday(), "hour": hour}
    return [float(known[part]) for part in parts]
