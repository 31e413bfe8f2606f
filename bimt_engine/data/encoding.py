"""From typed columns to the numbers that a network reads: as the user chose, fitted to training rows.

What a cell becomes in training, in `predict` and in ONNX stands in one place, so that the three cannot differ.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from bimt_engine.data.readers import Column, ColumnType, Notation, Problem, RefusedData
from bimt_engine.data.readers import cells as reader
from bimt_engine.data.scaling import Scaling
from bimt_engine.errors import DataError
from bimt_engine.spec_part import Name, Part

Missing = Literal["refuse", "drop", "mean", "median", "category"]


class ColumnSpec(Part):
    """What one column is and how it is read: how missing cells are filled, how levels and dates become numbers."""

    type: ColumnType = "number"
    notation: Notation | None = Field(
        default=None,
        description="How numbers or dates are written in the file, by an example; null: as most of the cells are.",
    )
    missing: Missing = Field(
        default="refuse",
        description="Cells without a value: `refuse` the data; `drop` the row; for numbers and dates the `mean` or the "
        "`median` of the training rows, beside an indicator; `category`: a level of its own.",
    )
    dates: Literal["days", "parts"] = Field(
        default="days",
        description="A date as days since 1970-01-01, or as parts: year, month, weekday, and the "
        "hour where there is one.",
    )
    transform: Literal["none", "log"] = Field(
        default="none",
        description="`log`: log(1 + value / median) of a column of numbers that are not negative, for skewed columns. "
        "For a target: errors count as ratios, and predictions are in the units of the file all the same.",
    )
    order: list[Name] = Field(
        default=[],
        max_length=1_000,
        description="Levels of an ordered category from the lowest to the highest: it is read as one number, 0, 1, 2 "
        "…; empty: each level is an input of its own.",
    )
    rare: int = Field(default=5, ge=1, description="Levels with fewer training rows than this are joined into one.")
    most_levels: int = Field(
        default=20,
        ge=1,
        le=1_000,
        description="This many levels, the most frequent ones, stay separate; others are joined.",
    )
    unseen: Literal["refuse", "rare", "zeros"] = Field(
        default="refuse",
        description="A level that no training row has, in rows to predict: refused with a sentence; read as the rare "
        "levels are; or as none of the levels. In validation and test rows `refuse` reads it as none of them.",
    )

    @model_validator(mode="after")
    def _fits_its_type(self) -> ColumnSpec:
        if len(set(self.order)) < len(self.order):
            raise ValueError("A level stands twice in `order`.")
        if "type" not in self.model_fields_set:  # a change of a column whose type is known elsewhere
            return self
        if self.missing in ("mean", "median") and self.type in ("category", "text"):
            raise ValueError(
                f"A column of type `{self.type}` has no {self.missing}: choose `category`, `drop` or `refuse`."
            )
        if self.transform == "log" and self.type not in ("number", "integer"):
            raise ValueError(f"Only numbers have a logarithm, not a column of type `{self.type}`.")
        if self.order and self.type not in ("category", "text"):
            raise ValueError("Only a category has an order of levels: leave `order` out.")
        return self


MISSING, OTHER = "missing", "other"  # in names of inputs: age[missing], port[other]
DAY = 86_400_000_000  # microseconds
DATE_PARTS = ("year", "month", "weekday", "hour")
SHOWN_LEVELS = 8  # in a sentence
HALF = 0.5  # standard deviation of an indicator that holds in half of the rows; rarer ones are not blown up beyond it


class UnreadableCell(DataError):
    """A cell that a fitted encoding cannot read; a sentence."""


@dataclass(frozen=True)
class _Asked:
    """The name that an input asks for; where it is taken, `column[another]`. `gives_way`: to all that do not."""

    column: str
    name: str
    another: str
    gives_way: bool


def _unique(asked: Sequence[_Asked], columns: frozenset[str]) -> list[str]:
    """A name for each, none twice, and none that is another column's. Columns that stay a number keep theirs."""
    found: dict[int, str] = {}
    taken: set[str] = set(columns)
    own: set[str] = set()
    for at, each in enumerate(asked):
        if each.name == each.column and each.name not in own:
            found[at] = each.name
            own.add(each.name)
    for gives_way in (False, True):
        for at, each in enumerate(asked):
            if at not in found and each.gives_way == gives_way and each.name not in taken:
                found[at] = each.name
                taken.add(each.name)
    for at, each in enumerate(asked):
        if at in found:
            continue
        names = (f"{each.column}[{each.another}{f' {number}' if number > 1 else ''}]" for number in count(1))
        found[at] = next(name for name in names if name not in taken)
        taken.add(found[at])
    return [found[at] for at in range(len(asked))]


@dataclass(frozen=True)
class EncodedColumn:
    """One column as it was fitted to the training rows. Plain data.

    A cell becomes one *code* (of a date in parts, several): a number as it is; 0 or 1; a date in days since 1970-01-01;
    of a category the number of its level in `levels`, `len(levels)` for one that was joined to the rare ones, -1 for
    one that no training row has; NaN for a cell without a value. Codes become *inputs*, named in `inputs`.

    levels     of a category, those with inputs of their own, sorted; of an ordered one in its order, rarest included.
    joined     the rare levels, which are one input together.
    ordered    whether the level's number is read, as one input.
    binary     whether a category with two levels is one input: whether it is the second.
    fills      what stands for a missing code, for each code; empty: a missing cell is none of the levels.
    indicator  whether a missing cell has an input of its own.
    median     of the training rows, where log(1 + value / median) is read; None: the value.
    parts      of a date, the names of its codes; empty: days.
    allowed    whether a missing cell can be read at all.
    unseen     as the user chose for levels that no training row has.
    notation   in which texts were read as numbers or dates; None (earlier versions): plain numbers, ISO dates.
    sign       that stands beside its numbers in the file, such as `%`.
    named      the names of its inputs, where a table's other names leave not all of the usual ones free; coded: of its
               codes. `TableEncoding` sees to it.
    """

    name: str
    type: ColumnType
    levels: tuple[str, ...] = ()
    joined: tuple[str, ...] = ()
    ordered: bool = False
    binary: bool = False
    fills: tuple[float, ...] = ()
    indicator: bool = False
    median: float | None = None
    parts: tuple[str, ...] = ()
    allowed: bool = False
    unseen: Literal["refuse", "rare", "zeros"] = "refuse"
    notation: Notation | None = None
    sign: str = ""
    named: tuple[str, ...] = ()
    coded: tuple[str, ...] = ()

    @classmethod
    def of(cls, column: Column, spec: ColumnSpec, train: NDArray[Any]) -> EncodedColumn:
        """Fitted to these rows of a column. Raises RefusedData where it cannot be read as the spec says."""
        missing = missing_cells(column)
        found = cls(
            column.name,
            spec.type,
            allowed=spec.missing in ("mean", "median", "category"),
            indicator=spec.missing in ("mean", "median", "category") and bool(missing[train].any()),
            unseen=spec.unseen,
            notation=_notation_of(column, spec),
            sign="" if spec.type in ("category", "text", "boolean", "date") else column.sign,
        )
        if spec.type in ("category", "text") and not spec.order:
            return found._with_levels(levels_of(column)[train], spec)
        if spec.order:
            found = replace(found, levels=tuple(spec.order), ordered=True)
            unknown = sorted({level for level in levels_of(column) if level is not None} - set(spec.order))
            if unknown:
                detail = f"`order` of column {column.name!r} lacks the level {unknown[0]!r}; add it."
                raise RefusedData([Problem(detail, column=column.name)])
        elif spec.type == "date" and spec.dates == "parts":
            found = replace(found, parts=DATE_PARTS if _has_hours(column.values) else DATE_PARTS[:3])
        codes = found.codes(column)[train]
        middle = np.nanmedian if spec.missing == "median" or spec.transform == "log" else np.nanmean
        known = ~np.isnan(codes).all(axis=0)
        fills = [float(middle(codes[:, at])) if known[at] else 0.0 for at in range(codes.shape[1])]
        median = None
        if spec.transform == "log":
            every = found.codes(column)
            if np.nanmin(every, initial=0.0) < 0:
                detail = f"Column {column.name!r} has negative values, which have no logarithm: leave `transform` out."
                raise RefusedData([Problem(detail, column=column.name)])
            median = fills[0] if fills[0] > 0 else 1.0
            fills = [float(np.nanmean(codes)) if spec.missing == "mean" and known[0] else fills[0]]
        return replace(found, fills=tuple(fills), median=median)

    def _with_levels(self, levels: NDArray[Any], spec: ColumnSpec) -> EncodedColumn:
        """Levels with enough rows stay apart; of those, the most frequent ones, by name where they are equal."""
        counts = Counter(level for level in levels.tolist() if level is not None)
        frequent = sorted((level for level in counts if counts[level] >= spec.rare), key=lambda x: (-counts[x], x))
        apart = tuple(sorted(frequent[: spec.most_levels]))
        joined = tuple(sorted(set(counts) - set(apart)))
        binary = len(apart) == 2 and not joined and not self.indicator and spec.unseen == "refuse"
        return replace(self, levels=apart, joined=joined, binary=binary)

    @property
    def code_names(self) -> tuple[str, ...]:
        """A name for each code."""
        return self.coded or self._usual_codes

    @property
    def inputs(self) -> tuple[str, ...]:
        """A name for each input that the column becomes; a column that stays a number keeps its name."""
        return self.named or self._usual_inputs

    @property
    def _usual_codes(self) -> tuple[str, ...]:
        return tuple(f"{self.name}[{part}]" for part in self.parts) or (self.name,)

    @property
    def _usual_inputs(self) -> tuple[str, ...]:
        if self.categorical:
            names = [*self.levels[1 if self.binary else 0 :], *([OTHER] if self.joined else [])]
            found = [f"{self.name}[{name}]" for name in names]
        else:
            found = [f"{self.name}[log]"] if self.median is not None else list(self._usual_codes)
        return (*found, *([f"{self.name}[{MISSING}]"] if self.indicator else []))

    def _asked(self) -> list[_Asked]:
        """The name that each input asks for, in order; those of several rows together give way to levels."""
        last = len(self.inputs) - self.indicator
        found = []
        for at, name in enumerate(self.inputs):
            rest = self.categorical and bool(self.joined) and at == last - 1
            another = "is missing" if at == last else "other levels" if rest else name[len(self.name) + 1 : -1]
            found.append(_Asked(self.name, name, another, at == last or rest))
        return found

    @property
    def categorical(self) -> bool:
        """Whether each level is an input of its own."""
        return self.type in ("category", "text") and not self.ordered

    def is_indicator(self) -> list[bool]:
        """Of each input, whether it is 0 or 1."""
        numbers = 0 if self.categorical or self.type == "boolean" else max(1, len(self.parts))
        return [number >= numbers for number in range(len(self.inputs))]

    # --- cells to codes -----------------------------------------------------------------------------

    def codes(self, column: Column) -> NDArray[np.float64]:
        """(rows, codes) of a typed column. Raises RefusedData where the values are of another type."""
        values = column.values
        if self.levels or self.type in ("category", "text"):
            number: dict[Any, float] = {level: float(at) for at, level in enumerate(self.levels)}
            number |= dict.fromkeys(self.joined, float(len(self.levels)))
            unknown = float(len(self.levels)) if self.unseen == "rare" and self.joined else -1.0
            found = [math.nan if x is None else number.get(x, unknown) for x in levels_of(column).tolist()]
            return np.array(found, np.float64)[:, None]
        if self.type == "date":
            if values.dtype.kind != "M":
                raise _of_another_type(column, "dates")
            return self._date_codes(values.astype("datetime64[us]"))
        if values.dtype.kind not in "fiub":
            raise _of_another_type(column, "numbers")
        return np.where(missing_cells(column), np.nan, values.astype(np.float64))[:, None]

    def _date_codes(self, dates: NDArray[Any]) -> NDArray[np.float64]:
        unknown = np.isnat(dates)
        days = np.where(unknown, np.nan, dates.astype(np.int64) / DAY)
        if not self.parts:
            return days[:, None]
        filled = np.where(unknown, np.datetime64(0, "us"), dates)
        months = filled.astype("datetime64[M]").astype(np.int64)
        day = filled.astype("datetime64[D]").astype(np.int64)
        hours = (filled - filled.astype("datetime64[D]")).astype("timedelta64[us]").astype(np.int64) / (DAY / 24)
        parts = {"year": months // 12 + 1970, "month": months % 12 + 1, "weekday": (day + 3) % 7, "hour": hours}
        return np.where(unknown[:, None], np.nan, np.stack([parts[part] for part in self.parts], axis=1))

    def code_cells(self, cell: Any) -> list[float]:
        """The codes of one cell as JSON has it: a number, a text, true or false, or null. Raises UnreadableCell.

        A text is read as the same text in the file was: stripped, in the notation of the column, and as no value where
        it is one of the usual words for that. A number is that number, but never a date.
        """
        cell = cell.strip() if isinstance(cell, str) else cell
        if self._is_missing(cell):
            if not self.allowed:
                raise UnreadableCell(f"Column `{self.name}` has no value here, and none was missing in training.")
            if self.categorical and not self.indicator and self.unseen == "refuse":
                raise UnreadableCell(f"Column `{self.name}` has no value here, which no training row shows.")
            return [math.nan] * len(self.code_names)
        if self.type in ("category", "text"):
            return [self._code_of_level(level_of(cell))]
        if self.type == "date":
            return self._code_of_date(cell)
        if isinstance(cell, str) and self.type == "boolean" and cell.lower() in reader.TRUTH:
            return [reader.TRUTH[cell.lower()]]
        if isinstance(cell, str) and self.type == "boolean":
            raise UnreadableCell(f"Column `{self.name}` is true or false; {reader.shown(cell)} is neither.")
        try:
            number = self._number_of(cell) if isinstance(cell, str) else float(cell)
        except OverflowError:
            number = math.inf
        except (TypeError, ValueError):
            raise UnreadableCell(f"Column `{self.name}` holds {cell!r} here, which is no number.") from None
        if not math.isfinite(number):
            raise UnreadableCell(f"Column `{self.name}` holds no number that can be computed with.")
        if self.type == "boolean" and number not in (0.0, 1.0):
            raise UnreadableCell(f"Column `{self.name}` is true or false; {cell!r} is neither.")
        return [number]

    def _is_missing(self, cell: Any) -> bool:
        """Whether a stripped cell has no value: null, NaN, or one of the reader's words for it that is no level."""
        if not isinstance(cell, str):
            return cell is None or (isinstance(cell, float) and math.isnan(cell))
        if self.type in ("category", "text"):
            return cell.lower() in reader.MISSING - reader.WORDS and cell not in (*self.levels, *self.joined)
        return cell.lower() in reader.MISSING

    def _number_of(self, cell: str) -> float:
        """The number that a stripped text holds. Raises UnreadableCell."""
        if self.notation is None:
            found = (float(cell), self.sign) if reader.NUMBER.fullmatch(cell) else None
        else:
            found = reader.number(cell, self.notation)
        if found is None:
            how = f"no number; write numbers like {self.notation or '1234.5'}"
            raise UnreadableCell(f"Column `{self.name}` holds {reader.shown(cell)} here, which is {how}.")
        if found[0] and found[1] != self.sign:
            how = f"with the sign {self.sign}" if self.sign else "without a sign"
            sentence = f"Column `{self.name}` holds {reader.shown(cell)} here, and its numbers are written {how}"
            raise UnreadableCell(f"{sentence}; write it so, or as a JSON number.")
        return found[0]

    def _code_of_level(self, level: str) -> float:
        if level in self.levels:
            return float(self.levels.index(level))
        if level in self.joined or (self.unseen == "rare" and self.joined and not self.ordered):
            return float(len(self.levels))
        if self.unseen == "refuse" or self.ordered:
            known = ", ".join(self.levels[:SHOWN_LEVELS]) + (", …" if len(self.levels) > SHOWN_LEVELS else "")
            raise UnreadableCell(f"Column `{self.name}` has no level {level!r} in its training rows; it has {known}.")
        return -1.0

    def _code_of_date(self, cell: Any) -> list[float]:
        how: Notation = self.notation or "2024-12-31"
        if not isinstance(cell, str):
            sentence = f"Column `{self.name}` holds dates, and {cell!r} is none; write the date as text like {how}."
            raise UnreadableCell(sentence)
        when = reader.date(cell, how, compact=True)
        if when is None:
            sentence = f"Column `{self.name}` holds {reader.shown(cell)} here, which is no date; write it like {how}."
            raise UnreadableCell(sentence)
        date = np.datetime64(when, "us")
        return [float(code) for code in self._date_codes(np.array([date]))[0]]

    # --- codes to inputs ----------------------------------------------------------------------------

    def _inputs_of(self, codes: list[Any], xp: Any, number: Callable[[float], Any]) -> list[Any]:
        """Each input from the codes, both (rows,), by numpy or by torch, operation by operation the same."""
        missing = xp.isnan(codes[0])

        def truth(condition: Any) -> Any:
            return xp.where(condition, number(1.0), number(0.0))

        if self.categorical:
            apart = range(1 if self.binary else 0, len(self.levels) + bool(self.joined))
            found = [truth(codes[0] == number(float(at))) for at in apart]
        else:
            found = [xp.where(missing, number(fill), code) for code, fill in zip(codes, self.fills, strict=True)]
        if self.median is not None:
            positive = xp.where(found[0] > number(0.0), found[0], number(0.0))
            found = [xp.log1p(positive / number(self.median))]
        return [*found, *([truth(missing)] if self.indicator else [])]

    def to_json(self) -> dict[str, Any]:
        """Every field; those that say nothing left out."""
        fields = {name: list(x) if isinstance(x, tuple) else x for name, x in vars(self).items() if name != "named"}
        return {name: x for name, x in fields.items() if x or name in ("name", "type")} | {"inputs": list(self.inputs)}

    @classmethod
    def from_json(cls, saved: Mapping[str, Any]) -> EncodedColumn:
        """The column that `to_json` wrote."""
        fields: dict[str, Any] = {
            name: tuple(x) if isinstance(x, list) else x for name, x in saved.items() if name != "inputs"
        }
        column = cls(**fields)
        inputs = tuple(saved.get("inputs") or ())
        return column if inputs == column.inputs else replace(column, named=inputs)


@dataclass(frozen=True)
class TableEncoding:
    """How every input column of a table becomes inputs of a network, fitted to the training rows alone.

    No two inputs have the same name, and no two codes: where a column `age` has gaps and another is called
    `age[missing]`, the indicator is `age[is missing]`, and with a number behind it where that is taken, too.
    """

    columns: tuple[EncodedColumn, ...]

    def __post_init__(self) -> None:
        names = frozenset(self.names)
        inputs = _unique([each for column in self.columns for each in column._asked()], names)
        codes = _unique(
            [
                _Asked(column.name, name, name[len(column.name) + 1 : -1], False)
                for column in self.columns
                for name in column.code_names
            ],
            names,
        )
        columns, at, code_at = [], 0, 0
        for column in self.columns:
            named = tuple(inputs[at : at + len(column.inputs)])
            coded = tuple(codes[code_at : code_at + len(column.code_names)])
            at, code_at = at + len(named), code_at + len(coded)
            column = column if named == column.inputs else replace(column, named=named)
            columns.append(column if coded == column.code_names else replace(column, coded=coded))
        object.__setattr__(self, "columns", tuple(columns))

    @classmethod
    def of(cls, columns: Sequence[Column], specs: Mapping[str, ColumnSpec], train: NDArray[Any]) -> TableEncoding:
        """Fitted to the rows `train`; a column without a spec is a number. Raises RefusedData."""
        plain = ColumnSpec()
        return cls(tuple(EncodedColumn.of(column, specs.get(column.name, plain), train) for column in columns))

    @property
    def names(self) -> tuple[str, ...]:
        """The columns."""
        return tuple(column.name for column in self.columns)

    @property
    def code_names(self) -> tuple[str, ...]:
        """A name for each code, column by column."""
        return tuple(name for column in self.columns for name in column.code_names)

    @property
    def inputs(self) -> tuple[str, ...]:
        """A name for each input, column by column."""
        return tuple(name for column in self.columns for name in column.inputs)

    @property
    def widths(self) -> tuple[int, ...]:
        """How many inputs each column becomes."""
        return tuple(len(column.inputs) for column in self.columns)

    def codes(self, columns: Sequence[Column]) -> NDArray[np.float64]:
        """(rows, codes) of typed columns, in the order of this encoding."""
        return np.concatenate([one.codes(c) for one, c in zip(self.columns, columns, strict=True)], axis=1)

    def apply(self, codes: Any, xp: Any = np) -> Any:
        """Codes (rows, codes) -> inputs (rows, inputs), before they are standardised.

        xp   numpy, or torch for tensors: the same numbers, and operations that can be written as ONNX.
        """
        number = np.float64 if xp is np else (lambda x: xp.tensor(x, dtype=xp.float64))
        found: list[Any] = []
        at = 0
        for column in self.columns:
            width = len(column.code_names)
            found += column._inputs_of([codes[:, place] for place in range(at, at + width)], xp, number)
            at += width
        return xp.stack(found, -1)

    def scaling(self, inputs: NDArray[np.float64]) -> Scaling:
        """Standardisation of these inputs; indicators are centred and divided by HALF, so that rare ones stay small."""
        scaling = Scaling.of(inputs)
        indicator = np.array([flag for column in self.columns for flag in column.is_indicator()])
        return Scaling(scaling.mean, np.where(indicator, HALF, scaling.std))

    def code_row(self, row: Sequence[Any]) -> list[float]:
        """The codes of one row of cells, one for each column. Raises UnreadableCell."""
        return [code for column, cell in zip(self.columns, row, strict=True) for code in column.code_cells(cell)]

    def only(self, names: Sequence[str]) -> TableEncoding:
        """The same for some of the columns."""
        return TableEncoding(tuple(column for column in self.columns if column.name in names))

    def to_json(self) -> list[dict[str, Any]]:
        """One object for each column."""
        return [column.to_json() for column in self.columns]

    @classmethod
    def from_json(cls, saved: Sequence[Mapping[str, Any]]) -> TableEncoding:
        """The encoding that `to_json` wrote."""
        return cls(tuple(EncodedColumn.from_json(column) for column in saved))


# --- cells ----------------------------------------------------------------------------------------


def missing_cells(column: Column) -> NDArray[np.bool_]:
    """(rows,) True where the cell has no value."""
    if column.missing is not None:
        return column.missing
    values = column.values
    if values.dtype == object:
        return np.array([value is None for value in values.tolist()], bool)
    if values.dtype.kind == "M":
        return np.isnat(values)
    if values.dtype.kind != "f":
        return np.zeros(len(values), bool)
    return np.isnan(values.reshape(len(values), -1)).any(axis=1)


def levels_of(column: Column) -> NDArray[Any]:
    """(rows,) The level in each row, as text; None where there is no value."""
    gaps = missing_cells(column).tolist()
    return np.array([None if gap else level_of(x) for x, gap in zip(column.values.tolist(), gaps, strict=True)], object)


def level_of(value: Any) -> str:
    """A level as text: whole numbers without a point."""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def _notation_of(column: Column, spec: ColumnSpec) -> Notation | None:
    """The notation in which the texts of a column are read as what the spec says; None where neither says."""
    if spec.type in ("category", "text", "boolean"):
        return None
    fit = reader.ORDERS if spec.type == "date" else reader.NOTATIONS
    return next((found for found in (column.written, column.notation, spec.notation) if found in fit), None)


def kept_rows(columns: Sequence[Column], specs: Mapping[str, ColumnSpec]) -> tuple[NDArray[np.bool_], dict[str, int]]:
    """Which rows stay, and of each column how many rows go because of it, one that has gone before not counted again.

    Raises RefusedData for every column with missing cells whose spec refuses them.
    """
    kept = np.ones(len(columns[0].values), bool)
    dropped: dict[str, int] = {}
    problems = []
    for column in columns:
        gaps = missing_cells(column)
        rule = specs[column.name].missing if column.name in specs else "refuse"
        if not gaps.any() or rule not in ("refuse", "drop"):
            continue
        if rule == "refuse":
            first = int(np.flatnonzero(gaps)[0]) + 1
            detail = (
                f"Column {column.name!r} has no value in {int(gaps.sum())} of {len(gaps)} rows; choose how they are "
                "read (`missing`), or leave the column out."
            )
            problems.append(Problem(detail, first, column.name))
        if here := int((gaps & kept).sum()):
            dropped[column.name] = here
        kept &= ~gaps
    if problems:
        raise RefusedData(problems)
    return kept, dropped


def _of_another_type(column: Column, wanted: str) -> RefusedData:
    held = "dates" if column.values.dtype.kind == "M" else "text"
    detail = f"Column {column.name!r} holds {held}, not {wanted}: choose another type for it."
    return RefusedData([Problem(detail, column=column.name)])


def _has_hours(dates: NDArray[Any]) -> bool:
    known = dates[~np.isnat(dates)]
    return bool((known.astype("datetime64[D]") != known).any())
