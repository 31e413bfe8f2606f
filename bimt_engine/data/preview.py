"""What an upload holds: its columns with statistics, the roles that would fit, and what was decided about them."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bimt_engine.data.kinds.groups import read_cayley
from bimt_engine.data.kinds.text import BYTE_NAMES, BYTES, FEW_FILES, MIN_WINDOWS, windows_of
from bimt_engine.data.kinds.uploaded import NO_FILE, UploadedData, check_table
from bimt_engine.data.readers import MIN_ROWS, Column, ReadAs, RefusedData, Table, refuse
from bimt_engine.data.readers.files import read_texts
from bimt_engine.data.readers.rows import is_named_like_an_id
from bimt_engine.data.roles import (
    CONTEXT,
    FEW_DISTINCT,
    GROUP_COLUMNS,
    MAX_CLASSES,
    TEXT_COLUMNS,
    UNREAD,
    Format,
    ImpossibleRoles,
    Roles,
    all_but,
    check_roles,
    distinct,
    has_types,
    is_constant,
    likely_kind,
    read_table,
    resolve_roles,
    role_notes,
)

LIKELY_TARGETS = frozenset(  # names that say what a column is
    [
        *["y", "label", "labels", "target", "targets", "class", "classes", "outcome", "response", "output"],
        *["survived", "species", "diagnosis", "churn"],
    ]
)
COUNTED_AT_ONCE = 1 << 24  # bytes of a text
PREVIEW_ROWS = 8
PREVIEW_COLUMNS = 50
BINS = 20  # of a histogram, at most
HISTOGRAMS = 300  # columns that have one: a form shows no more
MANY = 10  # columns, or notes about them, that are named one by one


def understand(content: bytes | Path, format: Format, roles: Roles | Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The preview of an upload: rows, columns with statistics, roles that fit, first rows, notes.

    roles   those that the user declared, perhaps not all: `inputs`, `targets`, `task`, `columns`, `split`, `weight`,
            `context`. They are checked and completed.
    Raises DataError; RefusedData names rows and columns.
    """
    if format == "cayley":
        return _understand_cayley(content)
    if format == "text":
        return _understand_text(content, roles.get("context") if isinstance(roles, Mapping) else None)
    declared = dict(vars(roles) if isinstance(roles, Roles) else roles or {})
    chosen = declared.get("columns") or {}
    read_as = {name: ReadAs(fields.get("type"), fields.get("notation")) for name, fields in chosen.items()}
    apart = [name for name in ((declared.get("split") or {}).get("column"), declared.get("weight")) if name]
    targets = list(declared.get("targets") or [])
    used = None
    if declared.get("inputs") is not None and targets:
        used = frozenset([*declared["inputs"], *targets, *apart])
    table = read_table(content, format, used=used, read_as=read_as)
    if table.rows < MIN_ROWS:
        said = f"{table.rows} row{'s' if table.rows != 1 else ''}"
        raise refuse(f"The data have {said}; at least {MIN_ROWS} are needed to train and to test.")
    if not (targets and declared.get("task")) and _unknown(table, [*targets, *(declared.get("inputs") or []), *apart]):
        declared, targets, apart = {"columns": chosen}, [], []  # the caller says which name is wrong
    complete = _completed(table, declared, apart)
    if problems := check_roles(table, complete):
        raise RefusedData(problems)
    preview: dict[str, Any] = {
        "rows": table.rows,
        "train_rows": table.train_rows,
        "columns": [_statistics(column) | _spread(column, at) for at, column in enumerate(table.columns)],
        "suggested": {
            "inputs": list(complete.inputs or ()),
            "targets": list(complete.targets),
            "task": complete.task,
        },
        "first_rows": _first_rows(table, complete.targets),
    }
    try:
        resolved = resolve_roles(preview, declared | preview["suggested"])
    except ImpossibleRoles:  # which the caller reports with the places in the request
        resolved = {}
    if resolved and (has_types(preview) or apart):
        check_table(table, UploadedData.model_validate(NO_FILE | {"format": format} | resolved))
    notes = [*table.notes, *([] if targets else _why(table, complete.targets[0]))]
    gaps = role_notes(preview, resolved)
    return preview | {"notes": [*notes, *_notes(table, complete, apart), *gaps], "missing_notes": gaps}


def _unknown(table: Table, names: list[str]) -> bool:
    """Whether there is no column, nor a number of an array column, of one of these names."""
    try:
        for name in names:
            table.column(name)
    except RefusedData:
        return True
    return False


def _completed(table: Table, declared: Mapping[str, Any], apart: list[str]) -> Roles:
    """All roles, where some are declared."""
    targets = tuple(declared.get("targets") or ()) or (_target(table),)
    inputs = declared.get("inputs")
    if inputs is None:
        inputs = all_but(table, [*targets, *apart])
        if not inputs and not declared.get("targets"):
            detail = "Every column but the target is text, or only counts rows: inputs are numbers, dates or categories"
            raise refuse(f"{detail}. Add columns that can be read.")
    task = declared.get("task")
    if task is None and not _unknown(table, [*targets]):
        columns = [table.column(name) for name in targets]
        task = likely_kind([(column.type, distinct(column)) for column in columns if not column.shape], table.rows)
    return Roles(tuple(inputs), targets, task or "regression")


# --- the target, where none is named ------------------------------------------------------------


def _target(table: Table) -> str:
    """The column that is called like a target, or else the last one, or else the last one that has classes."""
    if len(table.columns) < 2:
        raise refuse(
            f"The data have one column, {table.names()[0][:60]!r}; at least two are needed, one to read and one to "
            "predict. In CSV, cells are separated by commas, semicolons or tabs; texts to learn from are UTF-8 files "
            "in a ZIP."
        )
    named = [column for column in table.columns if column.name.lower() in LIKELY_TARGETS]
    able = [column for column in table.columns if _can_be_target(column)]
    for column in reversed(named):
        if column in able:
            return column.name
    last = table.columns[-1]
    meant = next((c for c in (*reversed(named), last) if not c.shape and is_constant(c)), None)
    if able:
        found = last if last in able else next((c for c in reversed(able) if _has_classes(c, table.rows)), able[-1])
        others = [column for column in table.columns if column is not found and column.type not in UNREAD]
        if meant is None or not all(map(is_constant, others)):
            return found.name
    if meant is None:
        raise refuse(
            "No column can be predicted: each is constant, counts or identifies rows, or is text with too many "
            "values. Name the column in `targets`, or add one."
        )
    raise refuse(
        f"The target {meant.name!r} has the same value in every row, so there is nothing to learn, and the other "
        "columns do not offer both a target and something to read: send columns that vary."
    )


def _can_be_target(column: Column) -> bool:
    """Whether a column may be guessed to be the target."""
    if column.shape or column.width > 64 or column.type in ("index", "date"):
        return False
    values = distinct(column)
    if values < 2 or (column.type == "text" and values > min(MAX_CLASSES, len(column.values) // 2)):
        return False
    return column.name.lower() in LIKELY_TARGETS or not _counts(column, values)


def _counts(column: Column, values: int) -> bool:
    """Whether it holds whole numbers that are sorted and are no classes, or that are named like an id."""
    if column.type != "integer":
        return False
    if is_named_like_an_id(column.name):
        return True
    steps = np.diff(column.values if column.missing is None else column.values[~column.missing])
    is_sorted = bool((steps >= 0).all() or (steps <= 0).all())
    return is_sorted and values > max(2, min(FEW_DISTINCT, len(column.values) // 5))


def _has_classes(column: Column, rows: int) -> bool:
    return likely_kind([(column.type, distinct(column))], rows) == "classification"


def _why(table: Table, target: str) -> list[str]:
    """Why the target that was chosen is not the last column, where it is not."""
    last = table.columns[-1]
    same = [c.name for c in table.columns if c.name.lower() in LIKELY_TARGETS and not c.shape and is_constant(c)]
    if same:
        return [f"{same[-1]!r} has the same value in every row, so it is not the target: {target!r} is."]
    if target == last.name:
        return []
    if target.lower() in LIKELY_TARGETS:
        return [f"No target was named, so {target!r} is the target, because of its name."]
    if not last.shape and distinct(last) < 2:
        cannot = "has the same value in every row"
    elif last.shape:
        cannot = "holds arrays"
    elif last.type == "text":
        cannot = "holds text with too many values"
    elif last.type == "date":
        cannot = "holds dates"
    else:
        cannot = "counts or identifies rows"
    return [f"No target was named, and the last column, {last.name!r}, {cannot}: {target!r} is the target."]


# --- columns ------------------------------------------------------------------------------------


def _statistics(column: Column) -> dict[str, Any]:
    """One column as JSON; `missing` stands in it where the column was looked at cell by cell."""
    shown: dict[str, Any] = {"name": column.name, "type": column.type, "distinct": distinct(column)}
    if column.found is not None:
        shown["missing"] = 0 if column.missing is None else int(column.missing.sum())
        shown |= {"notation": column.notation, "notes": list(column.notes)}
    nothing = {"min": None, "max": None, "mean": None, "std": None}
    if column.values.dtype == object:
        there = column.values if column.missing is None else column.values[~column.missing]
        values, counts = np.unique(there.astype(str), return_counts=True)
        order = np.argsort(-counts, kind="stable")[:10]
        return shown | nothing | {"most": [str(values[i])[:200] for i in order]}
    if column.values.dtype.kind == "M":
        there = column.values[~np.isnat(column.values)]
        ends = (str(there.min())[:19], str(there.max())[:19]) if len(there) else (None, None)
        return shown | nothing | {"earliest": ends[0], "latest": ends[1]}
    numbers = column.values
    if column.shape:
        shown["shape"] = list(column.shape)
    elif column.found is not None:
        numbers = numbers[np.isfinite(numbers)]
    if not numbers.size:
        return shown | nothing
    with np.errstate(over="ignore", invalid="ignore"):  # an unused column may hold anything
        return shown | {
            "min": _plain(numbers.min()),
            "max": _plain(numbers.max()),
            "mean": _plain(numbers.mean(dtype=np.float64)),
            "std": _plain(numbers.std(dtype=np.float64)),
        }


def _spread(column: Column, at: int) -> dict[str, Any]:
    """How the values of a column are distributed: the counts of what `most` names, or of equal bins from its least to
    its greatest number or date. Nothing of arrays, of columns beyond HISTOGRAMS, and where a range has no width.
    """
    if column.shape or at >= HISTOGRAMS:
        return {}
    if column.values.dtype == object:
        there = column.values if column.missing is None else column.values[~column.missing]
        counts = np.unique(there.astype(str), return_counts=True)[1]
        return {"counts": np.sort(counts)[::-1][:10].tolist()}
    dates = column.values.dtype.kind == "M"
    there = column.values[~np.isnat(column.values)] if dates else column.values[np.isfinite(column.values)]
    numbers = (there.astype("datetime64[s]").astype(np.int64) if dates else there).astype(np.float64)
    if not len(numbers):
        return {}
    with np.errstate(over="ignore"):  # an unused column may hold anything
        low, width = numbers.min(), numbers.max() - numbers.min()
    if not 0 < width < np.inf:
        return {}
    bins = min(BINS, int(width) + 1 if column.type in ("integer", "boolean") and width < BINS else BINS)
    places = np.minimum((numbers - low) / width * bins, bins - 1).astype(np.int64)
    return {"bins": np.bincount(places, minlength=bins).tolist()}


def _first_rows(table: Table, targets: tuple[str, ...]) -> list[dict[str, Any]]:
    plain = [column for column in table.columns if not column.shape]
    shown = [column for at, column in enumerate(plain) if at < PREVIEW_COLUMNS or column.name in targets]
    return [
        {column.name: _plain(column.values[row]) for column in shown} for row in range(min(PREVIEW_ROWS, table.rows))
    ]


def _plain(value: Any) -> Any:
    """Text, a number, a date as ISO writes it, or None where there is none or an unused column has a fault."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, np.datetime64):
        return None if np.isnat(value) else str(value)[:19].removesuffix("T00:00:00")
    return float(value) if np.isfinite(value) else None


# --- notes --------------------------------------------------------------------------------------


def _notes(table: Table, roles: Roles, apart: list[str]) -> list[str]:
    """What was decided about the columns, in plain words."""
    used = {*(roles.inputs or ()), *roles.targets, *apart}
    unused = [column for column in table.columns if column.name not in used and not column.shape]
    empty = [c for c in unused if c.missing is not None and c.missing.all()]
    text = [c for c in unused if c.type == "text" and c not in empty and not c.notes]
    counting = [c for c in unused if c.type == "index"]
    notes = []
    if counting:
        notes.append(f"Left out, because it only counts or identifies rows: {_names(counting)}.")
    if text:
        samples = [f"{c.name} ({_sample(c)!r}, …)" for c in text[:MANY]]
        more = f" and {len(text) - MANY} more" if len(text) > MANY else ""
        notes.append(f"Text with many different values is not read, so it is left out: {', '.join(samples)}{more}.")
    if empty:
        notes.append(f"Left out, because no row has a value: {_names(empty)}.")
    of_columns = _joined(
        [
            (column.name, note)
            for column in table.columns
            for note in column.notes
            if column.type != "index" and not (column.type == "boolean" and column.name in roles.targets)
        ]
    )
    notes += of_columns[:MANY] + (
        [f"{len(of_columns) - MANY} more columns were read in such ways."] if len(of_columns) > MANY else []
    )
    same = [c for c in table.columns if c.name in (roles.inputs or ()) and not c.shape and is_constant(c)]
    if same:
        notes.append(f"These inputs have the same value in every row and carry no information: {_names(same)}.")
    sparse = [c for c in table.columns if c.name in used and c.missing is not None and 2 * c.missing.sum() > table.rows]
    if sparse:
        notes.append(f"More than half of the cells have no value: {_names(sparse)}.")
    if table.train_rows is not None:
        notes.append(f"The upload says itself which rows are for training: the first {table.train_rows:,}.")
    return notes


def _joined(notes: list[tuple[str, str]]) -> list[str]:
    """Notes on columns, one for all that were read alike; the example is of the first."""
    alike: dict[str, list[tuple[str, str]]] = {}
    for name, note in notes:
        said = note.removeprefix(f"{name!r} is read as ")
        kind = said.partition(", ")[0]  # such as `numbers`, before the example
        apart = said == note or "would read it otherwise" in note
        alike.setdefault(note if apart else kind, []).append((name, said))
    found = []
    for of in alike.values():
        if len(of) == 1:
            found.append(next(note for name, note in notes if name == of[0][0] and note.endswith(of[0][1])))
            continue
        names = ", ".join(repr(name) for name, _ in of[:MANY]) + (f" and {len(of) - MANY} more" * (len(of) > MANY))
        found.append(f"{names} are read as {of[0][1]}")
    return found


def _names(columns: list[Column]) -> str:
    more = f" and {len(columns) - MANY} more" if len(columns) > MANY else ""
    return ", ".join(column.name for column in columns[:MANY]) + more


def _sample(column: Column) -> str:
    return next((str(value)[:20] for value in column.values.tolist() if value is not None), "")


def _understand_cayley(content: bytes | Path) -> dict[str, Any]:
    names, table = read_cayley(content)
    size = len(names)
    if size < 2:
        raise refuse("The group has one element only, so there is nothing to learn; send a larger table.")
    abelian = bool((table == table.T).all())
    column = {"type": "text", "distinct": size, "min": None, "max": None, "mean": None, "std": None}
    pairs = [(a, b) for a in range(size) for b in range(size)][:PREVIEW_ROWS]
    return {
        "rows": size**2,
        "train_rows": None,
        "columns": [{"name": name, **column, "most": list(names[:10])} for name in GROUP_COLUMNS],
        "suggested": {"inputs": ["a", "b"], "targets": ["product"], "task": "classification"},
        "first_rows": [{"a": names[a], "b": names[b], "product": names[table[a, b]]} for a, b in pairs],
        "notes": [f"A group of {size} elements, {'' if abelian else 'not '}commutative."],
    }


def _understand_text(content: bytes | Path, context: int | None = None) -> dict[str, Any]:
    texts = read_texts(content)
    joined = np.frombuffer(b"".join(text for _, text in texts), np.uint8)
    if len(joined) <= MIN_WINDOWS * CONTEXT:
        raise refuse(f"The text has {len(joined):,} bytes; more than {MIN_WINDOWS * CONTEXT} are needed.")
    windows_of(texts, context or CONTEXT)
    chunks = range(0, len(joined), COUNTED_AT_ONCE)  # counting takes eight bytes for each
    counts = np.sum([np.bincount(joined[at : at + COUNTED_AT_ONCE], minlength=BYTES) for at in chunks], axis=0)
    frequent = [int(byte) for byte in np.argsort(-counts, kind="stable")[:10] if counts[byte]]
    most = [BYTE_NAMES[byte] for byte in frequent]
    column = {"type": "text", "distinct": int((counts > 0).sum()), "min": None, "max": None, "mean": None, "std": None}
    held_out = "whole files are held out" if len(texts) >= FEW_FILES else "its end is held out"
    return {
        "rows": len(joined),
        "train_rows": None,
        "columns": [
            {"name": name, **column, "most": most, "counts": [int(counts[byte]) for byte in frequent]}
            for name in TEXT_COLUMNS
        ],
        "suggested": {"inputs": [TEXT_COLUMNS[0]], "targets": [TEXT_COLUMNS[1]], "task": "classification"},
        "first_rows": [
            dict(zip(TEXT_COLUMNS, (BYTE_NAMES[a], BYTE_NAMES[b]), strict=True))
            for a, b in itertools.pairwise(joined[: PREVIEW_ROWS + 1])
        ],
        "notes": [f"{len(texts):,} file{'s' if len(texts) != 1 else ''} of text, {len(joined):,} bytes; {held_out}."],
    }
