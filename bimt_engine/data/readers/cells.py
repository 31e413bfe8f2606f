"""Cells of text: what a column of them is, in which notation it is written, and its values.

A column is judged by all of its cells, each different one once. At most one in ten may be written otherwise than the
others, which is then an error in that row; of more, the column is no column of numbers (or dates), but of words.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta, timezone
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bimt_engine.data.readers import MAX_PROBLEMS, Column, ColumnType, Notation, Problem, ReadAs

MAX_LEVELS = 50  # different words of a category; a column of more is text
SOME = 2_000  # different cells that are looked at first
MAX_WRONG = 0.1  # share of the filled cells that may be written otherwise before the column is one of words

# What people and programs write where there is no value, in lower case.
MISSING = frozenset(
    [
        *["", "na", "n/a", "#n/a", "#n/a n/a", "#na", "<na>", "null", "nil", "none", "missing", "?", "-", "--", "."],
        *["nan", "-nan", "+nan", "nat", "1.#qnan", "-1.#qnan", "1.#ind", "-1.#ind", "(null)", "(blank)"],
    ]
)
WORDS = frozenset(["none"])  # among numbers no value, among words a word: a label like any other
NOT_FINITE = frozenset(["nan", "inf", "infinity", "+inf", "-inf", "-nan", "+nan", "+infinity", "-infinity"])
BOOLEANS = (("true", "false"), ("yes", "no"), ("t", "f"), ("y", "n"))
TRUTH = {word: float(1 - at) for pair in (*BOOLEANS, ("1", "0"), ("1.0", "0.0")) for at, word in enumerate(pair)}

NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?", re.ASCII)


@dataclass(frozen=True)
class Looked:
    """What the cells of a column say.

    notation    of numbers and dates
    others      the notation that reads every cell as well, but differently; what is meant is seen in other columns
    sample      a cell that Python's own notation would not read, or would read differently: it is shown to the user
    sure        whether the cells can be read in this notation alone
    wrong       how many cells are written otherwise
    """

    type: ColumnType
    notation: Notation | None = None
    others: Notation | None = None
    sample: str | None = None
    sure: bool = False
    wrong: int = 0


def look(counts: Mapping[str, int], wanted: ReadAs | None = None) -> Looked:
    """What a column of these stripped cells is, or how it is written if it is known what it is.

    counts   how often each different cell is there
    wanted   as the user has it
    """
    wanted = wanted or ReadAs()
    if wanted.type in ("category", "text"):
        return Looked(wanted.type)
    filled = {cell: n for cell, n in counts.items() if cell.lower() not in MISSING}
    total = sum(filled.values())
    if wanted.type == "boolean":
        return Looked("boolean")
    if wanted.type == "date":
        return _look_at_dates(filled, wanted.notation, compact=True)
    if wanted.type in ("number", "integer", "index"):
        return replace(_look_at_numbers(filled, wanted.notation), type=wanted.type)
    if not total:
        return Looked("text")
    if _are_booleans(filled):
        return Looked("boolean", sample=max(filled, key=lambda cell: (filled[cell], cell)))
    some = dict(islice(filled.items(), 0, None, 1 + len(filled) // SOME))
    for look_at in (_look_at_numbers, _look_at_dates):
        if 2 * look_at(some, wanted.notation).wrong > sum(some.values()):
            continue  # of many different words, a part says that they are words
        found = look_at(filled, wanted.notation)
        if found.wrong <= max(1, MAX_WRONG * total) and 2 * found.wrong <= total:
            return found
    return Looked("category" if is_category(words_of(counts)) else "text")


def words_of(counts: Mapping[str, int]) -> dict[str, int]:
    """The cells that hold a word, and how often."""
    return {cell: n for cell, n in counts.items() if cell.lower() not in MISSING - WORDS}


def is_category(words: Mapping[str, int]) -> bool:
    """Whether words repeat: at most MAX_LEVELS different ones, and no more than half as many as there are cells."""
    return 0 < len(words) <= min(MAX_LEVELS, (sum(words.values()) + 1) // 2)


# --- numbers ------------------------------------------------------------------------------------

_GAP = "'’ \u00a0\u202f\u2009"


def _number_pattern(decimal: str, group: str) -> re.Pattern[str]:
    digits = (
        rf"(?:[1-9][0-9]{{0,2}}(?P<gap>[{group}{_GAP}])[0-9]{{3}}(?:(?P=gap)[0-9]{{3}})*|[0-9]+)(?:{decimal}[0-9]*)?"
    )
    body = rf"(?P<body>(?:{digits}|{decimal}[0-9]+)(?:[eE][+-]?[0-9]+)?)"
    return re.compile(rf"(?P<sign>[+\-−]?)\s?(?P<before>[$€£¥₹]?)\s?{body}\s?(?P<after>[%$€£¥₹]?)")


_NUMBERS: dict[Notation, re.Pattern[str]] = {
    "1,234.5": _number_pattern(r"\.", ","),
    "1.234,5": _number_pattern(",", r"\."),
}

NOTATIONS = tuple(_NUMBERS)


def number(cell: str, notation: Notation) -> tuple[float, str] | None:
    """The number that a cell holds and the sign beside it (%, $ …), or None. `12.5%` is 12.5.

    notation   "1,234.5" or "1.234,5"; blanks and apostrophes may stand between thousands in both.
    """
    match = _NUMBERS[notation].fullmatch(cell)
    if match is None or (match["before"] and match["after"]):
        return None
    body = match["body"]
    if match["gap"]:
        body = body.replace(match["gap"], "")
    value = float(body.replace(",", "."))
    return -value if match["sign"] in ("-", "−") else value, match["before"] or match["after"]


def _look_at_numbers(filled: Mapping[str, int], notation: Notation | None) -> Looked:
    """The better notation of numbers, and how many cells are none. Where both do, `others` is the second."""
    point, comma, differ = 0, 0, False
    for cell, n in filled.items():
        first, second = number(cell, "1,234.5"), number(cell, "1.234,5")
        point += n if first else 0
        comma += n if second else 0
        differ = differ or bool(first and second and first[0] != second[0])
    chosen: Notation = notation if notation in _NUMBERS else "1.234,5" if comma > point else "1,234.5"
    others: Notation | None = None
    if notation is None and differ and point == comma:
        others = "1.234,5" if chosen == "1,234.5" else "1,234.5"
    parsed = {cell: number(cell, chosen) for cell in filled}
    sample = next((cell for cell, found in parsed.items() if found and not NUMBER.fullmatch(cell)), None)
    right = _sign_of(parsed, filled)[1]
    # Beside numbers an infinity is a wrong number, to be reported by its row, and no reason to call the column a text.
    infinite = sum(n for cell, n in filled.items() if _is_infinite(cell, parsed[cell])) if right else 0
    wrong = sum(filled.values()) - right - infinite
    return Looked("number", chosen, others, sample, point != comma, wrong)


def _is_infinite(cell: str, found: tuple[float, str] | None) -> bool:
    return cell.lower() in NOT_FINITE or (found is not None and not math.isfinite(found[0]))


def _sign_of(parsed: Mapping[str, tuple[float, str] | None], counts: Mapping[str, int]) -> tuple[str, int]:
    """The sign that most of the numbers bear, and how many numbers bear it; 0 needs none."""
    signs: Counter[str] = Counter()
    zeros = 0
    for cell, found in parsed.items():
        if found is None or not math.isfinite(found[0]):
            continue
        if found[0]:
            signs[found[1]] += counts[cell]
        else:
            zeros += counts[cell]
    right = max(signs, key=lambda sign: (signs[sign], sign), default="")
    return right, signs[right] + zeros


def as_numbers(
    cells: NDArray[Any], rows: NDArray[np.int64], name: str, notation: Notation | None, *, forced: bool = False
) -> tuple[NDArray[np.float64], NDArray[np.bool_] | None, list[Problem]]:
    """The numbers of a column, where it has none, and the cells that hold something else.

    cells    (rows,) stripped texts; rows: (rows,) the number of each row in the file
    forced   the user says that they are numbers; nothing is known of how many are
    """
    chosen: Notation = notation if notation in _NUMBERS else "1,234.5"
    kinds = Counter(cells.tolist())
    parsed = {cell: number(cell, chosen) for cell in kinds}
    right, _ = _sign_of(parsed, kinds)
    absent = {cell for cell in kinds if cell.lower() in MISSING}

    def why(cell: str) -> str | None:
        """What is wrong with a cell that is no number of this column."""
        found = parsed[cell]
        if _is_infinite(cell, found):
            return f"{shown(cell)}, which is not a finite number; correct the cell or remove the row"
        if found is None:
            return f"{shown(cell)}, which is not a number{_hint(cell)}{_than_others(forced)}"
        if found[1] != right and found[0]:
            most = "most of its numbers are" if forced else "most of the column is"
            return f"{shown(cell)}, while {most} written {_with_sign(right)}; {CORRECT}"
        return None

    wrong = {cell: sentence for cell in kinds if cell not in absent and (sentence := why(cell)) is not None}
    values = {cell: math.nan if found is None or cell in wrong else found[0] for cell, found in parsed.items()}
    problems = _problems(cells, rows, name, wrong)
    return _mapped(cells, values), _mask(cells, absent | set(wrong)), problems


CORRECT = "correct the cell or remove the row"


def _than_others(forced: bool) -> str:
    """The end of a sentence on a cell that is not what the column is: what to do."""
    if forced:
        return f"; {CORRECT}, or choose another type for the column"
    return f", while most of the column is; {CORRECT}"


def _with_sign(sign: str) -> str:
    return f"with the sign {sign}" if sign else "without a sign"


def _hint(cell: str) -> str:
    if re.fullmatch(r"[+-]?[0-9]+,[0-9]+", cell):
        return " (decimals are written with a point)"
    if re.fullmatch(r"[+-]?[0-9]+(_[0-9]+)+", cell):
        return " (numbers are written without separators between thousands)"
    if cell.startswith("#"):
        return " (a formula of the spreadsheet has failed)"
    return ""


def _mapped(cells: NDArray[Any], values: Mapping[str, float]) -> NDArray[np.float64]:
    return np.fromiter(map(values.__getitem__, cells), np.float64, len(cells))


def _mask(cells: NDArray[Any], absent: Iterable[str]) -> NDArray[np.bool_] | None:
    """Where cells have no value; None where every one has."""
    without = frozenset(absent)
    if not without:
        return None
    return np.fromiter(map(without.__contains__, cells), np.bool_, len(cells))


def _problems(cells: NDArray[Any], rows: NDArray[np.int64], name: str, wrong: Mapping[str, str]) -> list[Problem]:
    """The first MAX_PROBLEMS wrong cells in the order of the rows."""
    if not wrong:
        return []
    places = np.flatnonzero(np.fromiter(map(wrong.__contains__, cells), np.bool_, len(cells)))[:MAX_PROBLEMS]
    return [Problem(f"Row {rows[at]}, column {name!r} holds {wrong[cells[at]]}.", int(rows[at]), name) for at in places]


# --- booleans -----------------------------------------------------------------------------------


def _are_booleans(filled: Mapping[str, int]) -> bool:
    """Whether there are no words but those of one pair, and both of them where they are single letters."""
    words = {cell.lower() for cell in filled}
    return any(words <= set(pair) and (len(pair[0]) > 1 or len(words) == 2) for pair in BOOLEANS)


def as_booleans(
    cells: NDArray[Any], rows: NDArray[np.int64], name: str
) -> tuple[NDArray[np.float64], NDArray[np.bool_] | None, list[Problem]]:
    """1 for true, yes, t, y and 1, 0 for false, no, f, n and 0; as of `as_numbers`."""
    kinds = set(cells.tolist())
    absent = {cell for cell in kinds if cell.lower() in MISSING}
    wrong = {
        cell: f"{shown(cell)}, which is neither true nor false; {CORRECT}, or choose the type `category`"
        for cell in kinds - absent
        if cell.lower() not in TRUTH
    }
    values = {cell: TRUTH.get(cell.lower(), math.nan) for cell in kinds}
    return _mapped(cells, values), _mask(cells, absent | set(wrong)), _problems(cells, rows, name, wrong)


# --- dates --------------------------------------------------------------------------------------

ORDERS: tuple[Notation, ...] = ("2024-12-31", "31/12/2024", "12/31/2024")
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
    re.compile(form + _CLOCK, re.IGNORECASE | re.ASCII)
    for form in (
        r"(?P<year>[0-9]{4})(?P<mark>[-/.])(?P<month>[0-9]{1,2})(?:(?P=mark)(?P<day>[0-9]{1,2}))?",
        r"(?P<first>[0-9]{1,2})(?P<mark>[-/.])(?P<second_>[0-9]{1,2})(?P=mark)(?P<year>[0-9]{4}|[0-9]{2})",
        rf"{_DAY_NAME}(?P<day>[0-9]{{1,2}})(?:st|nd|rd|th)?[- ]{_MONTH}[-, ]{{1,2}}(?P<year>[0-9]{{4}})",
        rf"{_DAY_NAME}{_MONTH} (?P<day>[0-9]{{1,2}})(?:st|nd|rd|th)?,? (?P<year>[0-9]{{4}})",
    )
]
_COMPACT = re.compile(r"(?P<year>[0-9]{4})(?P<month>[0-9]{2})(?P<day>[0-9]{2})", re.ASCII)


def date(cell: str, notation: Notation, *, compact: bool = False) -> datetime | None:
    """The date and time that a cell holds, in UTC where it names a zone, or None.

    notation   "31/12/2024" or "12/31/2024" says what comes first where only numbers stand; years come first, and
               months by name, in every notation. Years of two digits are 1969 to 2068, as C's strptime reads them.
    compact    20241231 is a date, too
    """
    if not 6 <= len(cell) <= 60 or not any(map(str.isdigit, cell)):
        return None
    for pattern in (*_DATES, *([_COMPACT] if compact else [])):
        if match := pattern.fullmatch(cell):
            return _date(match.groupdict(), notation)
    return None


def _date(part: Mapping[str, Any], notation: Notation) -> datetime | None:
    try:
        year = int(part["year"])
        if "first" in part:
            day, month = int(part["first"]), int(part["second_"])
            if part["mark"] != ".":  # with points days always come first
                if notation == "2024-12-31":
                    return None
                if notation == "12/31/2024":
                    day, month = month, day
            if len(part["year"]) == 2:
                year += 2000 if year < 69 else 1900
        else:
            said = part["month"].lower()
            day, month = int(part["day"] or 1), _MONTHS.get(said) or int(said)
        hour = int(part.get("hour") or 0)
        if part.get("half"):
            if not 1 <= hour <= 12:
                return None
            hour = hour % 12 + (12 if part["half"] in "pP" else 0)
        micro = int((part.get("fraction") or "0")[:6].ljust(6, "0"))
        when = datetime(year, month, day, hour, int(part.get("minute") or 0), int(part.get("second") or 0), micro)
        zone = part.get("zone")
        if zone and zone[0] in "+-":
            shift = timedelta(hours=int(zone[1:3]), minutes=int(zone[-2:]))
            when = when.replace(tzinfo=timezone(shift if zone[0] == "+" else -shift))
            when = when.astimezone(UTC).replace(tzinfo=None)
        return when
    except (ValueError, OverflowError):
        return None


def _look_at_dates(filled: Mapping[str, int], notation: Notation | None, *, compact: bool = False) -> Looked:
    """The best notation of dates, and how many cells are none."""
    right: dict[Notation, int] = dict.fromkeys(ORDERS, 0)
    differ, sample = False, None
    for cell, n in filled.items():
        read = {order: date(cell, order, compact=compact) for order in ORDERS}
        for order, when in read.items():
            right[order] += n if when else 0
        differ = differ or bool(read[ORDERS[1]] and read[ORDERS[2]] and read[ORDERS[1]] != read[ORDERS[2]])
        if sample is None and read[ORDERS[0]] is None and any(read.values()):
            sample = cell
    chosen = notation if notation in ORDERS else max(ORDERS, key=lambda order: right[order])
    others = ORDERS[2] if notation is None and differ and right[ORDERS[1]] == right[ORDERS[2]] else None
    sure = right[ORDERS[1]] != right[ORDERS[2]]
    return Looked("date", chosen, others, sample, sure, sum(filled.values()) - right[chosen])


def as_dates(
    cells: NDArray[Any], rows: NDArray[np.int64], name: str, notation: Notation | None, *, forced: bool = False
) -> tuple[NDArray[Any], NDArray[np.bool_] | None, list[Problem]]:
    """The dates of a column as datetime64[us], 20241231 among them where the type is forced; as of `as_numbers`."""
    chosen: Notation = notation if notation in ORDERS else ORDERS[0]
    kinds = set(cells.tolist())
    absent = {cell for cell in kinds if cell.lower() in MISSING}
    parsed = {cell: date(cell, chosen, compact=forced) for cell in kinds - absent}
    wrong = {
        cell: f"{shown(cell)}, which is not a date written like {chosen}{_than_others(forced)}"
        for cell, when in parsed.items()
        if when is None
    }
    values = {cell: np.datetime64("NaT", "us") for cell in kinds}
    values |= {cell: np.datetime64(when, "us") for cell, when in parsed.items() if when is not None}
    made = np.array([values[cell] for cell in cells], dtype="datetime64[us]")
    return made, _mask(cells, absent | set(wrong)), _problems(cells, rows, name, wrong)


# --- words --------------------------------------------------------------------------------------


def as_words(cells: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
    """The words of a column, None where there are none, and where that is."""
    absent = {cell for cell in set(cells.tolist()) if cell.lower() in MISSING - WORDS}
    mask = _mask(cells, absent)
    if mask is None:
        return cells, None
    values = cells.copy()
    values[mask] = None
    return values, mask


# --- the whole column ---------------------------------------------------------------------------


def typed(
    name: str, cells: NDArray[Any], rows: NDArray[np.int64], looked: Looked, wanted: ReadAs | None = None
) -> tuple[Column, list[Problem]]:
    """The column as it was looked at, or as the user wants it, with the cells that do not fit.

    cells   (rows,) stripped texts; rows: (rows,) the number of each row in the file
    """
    kind, notation = looked.type, looked.notation
    forced = wanted is not None and wanted.type is not None
    if kind in ("category", "text"):
        values, missing = as_words(cells)
        return Column(name, values, missing=missing, found=kind), []
    if kind == "boolean":
        numbers, missing, problems = as_booleans(cells, rows, name)
        return Column(name, numbers, missing=missing, found=kind), problems
    if kind == "date":
        dates, missing, problems = as_dates(cells, rows, name, notation, forced=forced)
        return Column(name, dates, missing=missing, found=kind, notation=notation, written=notation), problems
    numbers, missing, problems = as_numbers(cells, rows, name, notation, forced=forced)
    column, wrong = plain(name, numbers, missing, rows, wanted)
    problems = sorted([*problems, *wrong], key=lambda problem: problem.row or 0)
    chosen: Notation = notation if notation in _NUMBERS else "1,234.5"
    if looked.sample is None:  # no cell has more than digits and a point
        return replace(column, notation=None, written=chosen), problems
    kinds = Counter(cells.tolist())
    sign, _ = _sign_of({cell: number(cell, chosen) for cell in kinds}, kinds)
    return replace(column, notation=notation, written=chosen, sign=sign), problems


def plain(
    name: str,
    values: NDArray[np.float64],
    missing: NDArray[np.bool_] | None,
    rows: NDArray[np.int64],
    wanted: ReadAs | None = None,
) -> tuple[Column, list[Problem]]:
    """The column of numbers: `integer` when every one that is there is whole, unless the user has it otherwise.

    missing   where there is none; an infinite number, and a fraction where integers are wanted, is a problem
    """
    kind = wanted.type if wanted else None
    problems = []
    wrong = np.isinf(values) if kind != "integer" else np.isinf(values) | (np.isfinite(values) & (values % 1 != 0))
    for at in np.flatnonzero(wrong)[:MAX_PROBLEMS]:
        said = "not a finite number" if np.isinf(values[at]) else "not a whole number; choose the type `number`"
        detail = f"Row {rows[at]}, column {name!r} holds {values[at]:g}, which is {said}; {CORRECT}."
        problems.append(Problem(detail, int(rows[at]), name))
    if wrong.any():
        missing = wrong if missing is None else missing | wrong
        values = np.where(wrong, math.nan, values)
    if missing is not None and not missing.any():
        missing = None
    if kind is None and missing is not None and missing.all():
        return Column(name, np.full(len(values), None, dtype=object), missing=missing, found="text"), problems
    there = values if missing is None else values[~missing]
    found: ColumnType = kind or ("integer" if bool((there == np.rint(there)).all()) else "number")
    return Column(name, values, missing=missing, found=found), problems


def read_sample(looked: Looked) -> str | None:
    """How a cell was read that may be meant otherwise: `'1,000' as 1000`."""
    if looked.sample is None or looked.notation is None:
        return None
    if looked.type == "date":
        when = date(looked.sample, looked.notation, compact=True)
        return None if when is None else f"{shown(looked.sample)} as {when.date().isoformat()}"
    found = number(looked.sample, looked.notation)
    return None if found is None else f"{shown(looked.sample)} as {found[0]:.12g}"


def shown(cell: str) -> str:
    """A cell in a sentence."""
    return repr(cell if len(cell) <= 40 else cell[:40] + "…")
