"""Parquet, and Arrow or Feather files, into columns by polars. Their columns say themselves what they are."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from bimt_engine.data.readers import (
    MAX_CELLS,
    MAX_PROBLEMS,
    Column,
    Problem,
    ReadAs,
    RefusedData,
    Table,
    check_names,
    opened,
    refuse,
)
from bimt_engine.data.readers.cells import plain
from bimt_engine.data.readers.rows import typed_values, with_notes

STREAM_BEGINS = b"\xff\xff\xff\xff"
FEATHER_1_BEGINS = b"FEA1"
NAMES = {"parquet": "Parquet", "arrow": "Arrow"}


def read_frame(
    content: bytes | Path,
    format: Literal["parquet", "arrow"],
    *,
    used: frozenset[str] | None = None,
    whole: bool = True,
    read_as: Mapping[str, ReadAs] | None = None,
) -> Table:
    """The columns of a Parquet or Arrow file: numbers, booleans, dates and text.

    used      the columns that must be without fault; None: all.
    whole     the others are read, too, where there is room for them; what of them cannot be read is left out.
    read_as   what columns are, as the user has it; None: numbers and text alone, and each cell needs a value.
    Raises RefusedData.
    """
    import polars as pl  # 0.1 s, needed by these formats alone

    try:
        frame, names, rows = _frame(content, format, used=used, whole=whole, dates=read_as is not None)
    except (RefusedData, MemoryError):
        raise
    except (Exception, pl.exceptions.PanicException) as error:  # the reader panics on some damaged files
        said = str(error).split("\n")[0][:200]
        raise refuse(f"The file cannot be read as {NAMES[format]} ({said}); write it again and send it.") from None
    if not rows:
        raise refuse("The table has columns but no rows; add the data.")
    problems: list[Problem] = []
    columns = []
    for name in frame.columns:
        if read_as is None:
            columns.append(_strict_column(frame[name], problems))
        elif (column := _column(frame[name], read_as.get(name), problems)) is not None:
            columns.append(column)
        elif used is not None and name in used:
            problems.append(_unread(name, frame[name].dtype))
    problems = [problem for problem in problems if used is None or problem.column in used]
    if problems:
        raise RefusedData(sorted(problems, key=lambda problem: problem.row or 0))
    if not columns:
        raise refuse("No column holds numbers, booleans, dates or text; convert those that matter.")
    read = {column.name for column in columns}
    left_out = ", ".join([name for name in names if name not in read][:10]) if whole else ""
    notes = (f"These columns are of types that are not read, or too many: {left_out}.",) if left_out else ()
    return Table(tuple(columns), notes=notes)


def _frame(
    content: bytes | Path, format: str, *, used: frozenset[str] | None, whole: bool, dates: bool
) -> tuple[Any, list[str], int]:
    """The frame, the names of all columns, and the number of rows. Raises RefusedData, and what polars raises."""
    import polars as pl

    with opened(content) as raw:
        head = raw.read(4)
    with opened(content) as raw:  # anew: polars reads on where the file is, whatever Python holds of it
        if head == FEATHER_1_BEGINS:
            raise refuse("The file is Feather of version 1; write it as version 2, which is Arrow, or as Parquet.")
        if format == "arrow" and head == STREAM_BEGINS:
            whole_frame = pl.read_ipc_stream(io.BytesIO(raw.read()))
            schema, rows = dict(whole_frame.schema), whole_frame.height
        elif format == "arrow":
            schema = dict(pl.read_ipc_schema(raw))
            raw.seek(0)
            rows = pl.scan_ipc(raw).select(pl.len()).collect().item()
        else:
            schema = dict(pl.read_parquet_schema(raw))
            raw.seek(0)
            rows = pl.scan_parquet(raw).select(pl.len()).collect().item()
        names = list(schema)
        if problems := check_names(names):
            raise RefusedData(problems)
        wanted = [name for name in names if used is None or name in used]
        if dates and used is None:
            wanted = [name for name in wanted if _is_read(schema[name], dates=dates)]
        if whole and rows * len(names) <= MAX_CELLS:
            wanted = [name for name in names if name in wanted or _is_read(schema[name], dates=dates)]
        if rows * max(len(wanted), 1) > MAX_CELLS:
            raise refuse(f"The table has {rows * len(wanted):,} cells; at most {MAX_CELLS:,} are read.")
        raw.seek(0)
        if format == "arrow" and head == STREAM_BEGINS:
            return whole_frame.select(wanted), names, rows
        if format == "arrow":
            return pl.read_ipc(raw, columns=wanted), names, rows
        return pl.read_parquet(raw, columns=wanted, use_statistics=False), names, rows


def _is_text(dtype: Any) -> bool:
    import polars as pl

    return dtype in (pl.String, pl.Categorical) or isinstance(dtype, pl.Enum)


def _is_read(dtype: Any, *, dates: bool) -> bool:
    import polars as pl

    timely = dates and dtype in (pl.Date, pl.Datetime, pl.Duration, pl.Null)
    return bool(_is_text(dtype) or dtype == pl.Boolean or dtype.is_numeric() or timely)


def _column(series: Any, wanted: ReadAs | None, problems: list[Problem]) -> Column | None:
    """The typed column; None where it is of a type that is not read."""
    import polars as pl

    name, dtype = series.name, series.dtype
    if not _is_read(dtype, dates=True):
        return None
    kind = wanted.type if wanted else None
    if _is_text(dtype):
        texts = [(text or "").strip() for text in series.cast(pl.String).to_list()]
        return typed_values(name, texts, wanted, problems, declared=True)
    is_date = dtype in (pl.Date, pl.Datetime)
    if is_date and kind in ("number", "integer", "boolean"):
        detail = f"Column {name!r} holds dates; choose the type `date`, `category` or `text`."
        problems.append(Problem(detail, column=name))
        return Column(name, np.zeros(len(series)))
    if kind in ("category", "text") or (kind in ("date", "boolean") and dtype.is_numeric()):
        return typed_values(name, [_text(value) for value in series.to_list()], wanted, problems)
    missing = series.is_null().to_numpy()
    if dtype == pl.Null:
        return Column(name, np.full(len(series), None, dtype=object), missing=missing, found="text")
    if is_date:
        if dtype == pl.Datetime and series.dtype.time_zone is not None:
            series = series.dt.convert_time_zone("UTC").dt.replace_time_zone(None)
        values = series.cast(pl.Datetime("us")).to_numpy().astype("datetime64[us]")
        return Column(name, values, missing=missing if missing.any() else None, found="date")
    if dtype == pl.Duration:
        series = series.dt.total_microseconds() / 1e6
    numbers = series.cast(pl.Float64).fill_null(float("nan")).to_numpy().astype(np.float64)
    as_wanted = wanted or (ReadAs("boolean") if dtype == pl.Boolean else None)
    column, wrong = plain(name, numbers, np.isnan(numbers), np.arange(1, len(numbers) + 1), as_wanted)
    problems += wrong
    return with_notes(column, None, wanted)


def _text(value: Any) -> str:
    """A value as a word: a whole number without a fraction."""
    if value is None or value != value:
        return ""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _strict_column(series: Any, problems: list[Problem]) -> Column:
    import polars as pl

    name = series.name
    if _is_text(series.dtype):
        texts = [text.strip() if text is not None else "" for text in series.cast(pl.String).to_list()]
        wrong = np.array([not text for text in texts])
        column = Column(name, np.array(texts, dtype=object))
    elif series.dtype.is_numeric() or series.dtype == pl.Boolean:
        values = series.cast(pl.Float64).fill_null(float("nan")).to_numpy().astype(np.float64)
        wrong = ~np.isfinite(values)
        column = Column(name, values)
    else:
        problems.append(_unread(name, series.dtype))
        return Column(name, np.zeros(len(series)))
    for row in np.flatnonzero(wrong)[:MAX_PROBLEMS] + 1:
        detail = f"Row {row}, column {name!r} has no finite value; fill the cell or remove the row."
        problems.append(Problem(detail, int(row), name))
    return column


def _unread(name: str, dtype: Any) -> Problem:
    detail = f"Column {name!r} is of type {dtype}; numbers, booleans and text are read. Convert or remove it."
    return Problem(detail, column=name)
