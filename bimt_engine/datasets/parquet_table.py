"""Parquet into columns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from bimt_engine.datasets.table import (
    MAX_CELLS,
    MAX_PROBLEMS,
    Column,
    Problem,
    RefusedData,
    Table,
    check_names,
    opened,
    refuse,
)


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
