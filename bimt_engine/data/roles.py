"""What an upload holds, and which roles its columns may have: input or target, of a regression or a classification."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from bimt_engine.data.kinds.groups import read_cayley
from bimt_engine.data.kinds.text import BYTE_NAMES, BYTES, FEW_FILES, MIN_WINDOWS
from bimt_engine.data.kinds.text import CONTEXT as CONTEXT
from bimt_engine.data.kinds.text import MAX_CONTEXT as MAX_CONTEXT
from bimt_engine.data.readers import MAX_PIXELS, MIN_ROWS, Column, Problem, RefusedData, Table, refuse
from bimt_engine.data.readers.arrays import read_idx, read_npz
from bimt_engine.data.readers.files import read_images, read_texts
from bimt_engine.data.readers.tables import read_csv, read_parquet
from bimt_engine.errors import DataError

Format = Literal["csv", "npz", "parquet", "idx", "images", "cayley", "text"]
FORMATS: tuple[Format, ...] = ("csv", "npz", "parquet", "idx", "images", "cayley", "text")

MAX_CLASSES = 1_000
FEW_DISTINCT = 20  # whole numbers with at most so many values are taken for classes, until the user says otherwise
LIKELY_TARGETS = frozenset(["labels", "label", "target", "targets", "y", "class"])  # names that say what a column is
LARGEST = 1e100  # magnitude of a number; the square of a larger one may not be finite
TEXT_COLUMNS = ("byte", "next byte")
COUNTED_AT_ONCE = 1 << 24  # bytes of a text
PREVIEW_ROWS = 8
REST = {"validation_fraction": 0.15, "test_fraction": 0.15, "standardise": True}  # roles that the file says nothing of
PREVIEW_COLUMNS = 50


@dataclass(frozen=True)
class Roles:
    """Which columns are read, which are predicted, and how."""

    inputs: tuple[str, ...] | None
    targets: tuple[str, ...]
    task: Literal["regression", "classification"]


def read_table(
    content: bytes | Path, format: Format, *, used: frozenset[str] | None = None, whole: bool = True
) -> Table:
    """The typed columns of an upload in one of FORMATS but `cayley` and `text`, which are no tables of examples.

    used    the columns whose faults matter; None: all.
    whole   False: the others may be left out where that saves time and memory.
    Raises RefusedData.
    """
    if format == "csv":
        table = read_csv(content, used=used)
    elif format == "parquet":
        table = read_parquet(content, used=used, whole=whole)
    elif format == "npz":
        table = read_npz(content)
    elif format == "idx":
        table = read_idx(content)
    elif format == "images":
        table = read_images(content)
    else:
        raise refuse(f"The format {format!r} is not known; send one of {', '.join(FORMATS)}.")
    watched = [column for column in table.columns if used is None or column.shape or column.name in used]
    if problems := [problem for column in watched for problem in _beyond_reach(column)]:
        raise RefusedData(problems)
    return table


def _beyond_reach(column: Column) -> list[Problem]:
    """Numbers so large that not even their variance can be computed. What is no number is a fault of another kind."""
    if column.values.dtype.kind != "f":
        return []
    largest = float(np.abs(column.values).max(initial=0.0, where=np.isfinite(column.values)))
    if largest <= LARGEST:
        return []
    detail = f"Column {column.name!r} holds numbers as large as {largest:.3g}; rescale it to stay within {LARGEST:g}."
    return [Problem(detail, column=column.name)]


# --- the preview --------------------------------------------------------------------------------


def understand(content: bytes | Path, format: Format, roles: Roles | None = None) -> dict[str, Any]:
    """The preview of an upload: rows, columns with statistics, suggested roles, first rows, notes.

    roles   when given, they are checked and returned instead of a suggestion.
    Raises DataError; RefusedData names rows and columns.
    """
    if format == "cayley":
        return _understand_cayley(content)
    if format == "text":
        return _understand_text(content)
    used = None if roles is None or roles.inputs is None else frozenset([*roles.inputs, *roles.targets])
    table = read_table(content, format, used=used)
    if table.rows < MIN_ROWS:
        said = f"{table.rows} row{'s' if table.rows != 1 else ''}"
        raise refuse(f"The data have {said}; at least {MIN_ROWS} are needed to train and to test.")
    chosen = roles or _suggest(table)
    problems = check_roles(table, chosen)
    if problems:
        raise RefusedData(problems)
    notes = [*table.notes, *([] if roles else _why(table, chosen)), *_notes(table, chosen)]
    return {
        "rows": table.rows,
        "train_rows": table.train_rows,
        "columns": [_statistics(column) for column in table.columns],
        "suggested": {
            "inputs": list(chosen.inputs if chosen.inputs is not None else all_but(table, chosen.targets)),
            "targets": list(chosen.targets),
            "task": chosen.task,
        },
        "first_rows": _first_rows(table),
        "notes": notes,
    }


def _suggest(table: Table) -> Roles:
    """The last column that can be predicted is the target, unless one is called like a target; numbers are inputs."""
    if len(table.columns) < 2:
        raise refuse(
            f"The data have one column, {table.names()[0]!r}; at least two are needed, one to read and one to predict. "
            "In CSV, cells are separated by commas, semicolons or tabs."
        )
    ranked = sorted(
        (column for column in table.columns if _can_be_target(column)),
        key=lambda column: (column.name.lower() in LIKELY_TARGETS, table.columns.index(column)),
    )
    if not ranked:
        raise refuse("No column can be predicted: each is constant, or text with too many values. Add a target column.")
    target = ranked[-1]
    inputs = tuple(c.name for c in table.columns if c is not target and c.type != "text")
    if not inputs:
        raise refuse("Every column but the target is text; inputs must be numbers. Add columns of numbers.")
    if all(np.ptp(table.column(name).values) == 0 for name in inputs):
        # Whichever of them is meant as the target: it was named before its task was known, or it comes last.
        same = ", ".join(map(repr, inputs[:10])) + (", …" if len(inputs) > 10 else "")
        verb, they = ("have", "they") if len(inputs) > 1 else ("has", "it")
        raise refuse(
            f"{same} {verb} the same value in every row, so {they} can neither be predicted nor predict anything, and "
            f"only {target.name!r} is left. Send a target and at least one input that vary."
        )
    return Roles(
        inputs=inputs, targets=(target.name,), task="classification" if _like_classes(column=target) else "regression"
    )


def _why(table: Table, suggested: Roles) -> list[str]:
    """Why the target that was suggested is not the last column, where it is not."""
    target, last = suggested.targets[0], table.columns[-1]
    if target == last.name:
        return []
    if target.lower() in LIKELY_TARGETS:
        return [f"No target was named, so {target!r} is the target, because of its name."]
    if _distinct(last) < 2:
        cannot = "has the same value in every row"
    else:
        cannot = "holds text with too many values" if last.type == "text" else "holds arrays"
    return [f"No target was named, and the last column, {last.name!r}, {cannot}: {target!r} is the target."]


def _can_be_target(column: Column) -> bool:
    if column.shape or column.width > 64:
        return False
    distinct = _distinct(column)
    return distinct >= 2 and (column.type != "text" or distinct <= min(MAX_CLASSES, len(column.values) // 2))


def _like_classes(column: Column) -> bool:
    if column.type == "text":
        return True
    return column.type == "integer" and _distinct(column) <= max(2, min(FEW_DISTINCT, len(column.values) // 5))


def all_but(table: Table, targets: Sequence[str]) -> tuple[str, ...]:
    """The columns that are read when none are named: all numbers that are not targets."""
    return tuple(column.name for column in table.columns if column.name not in targets and column.type != "text")


def _statistics(column: Column) -> dict[str, Any]:
    shown: dict[str, Any] = {"name": column.name, "type": column.type, "distinct": _distinct(column)}
    if column.type == "text":
        values, counts = np.unique(column.values.astype(str), return_counts=True)
        order = np.argsort(-counts, kind="stable")[:10]
        return shown | {"min": None, "max": None, "mean": None, "std": None, "most": [str(values[i]) for i in order]}
    numbers = column.values
    if column.shape:
        shown["shape"] = list(column.shape)
    with np.errstate(over="ignore", invalid="ignore"):  # an unused column may hold anything
        return shown | {
            "min": _plain(numbers.min()),
            "max": _plain(numbers.max()),
            "mean": _plain(numbers.mean(dtype=np.float64)),
            "std": _plain(numbers.std(dtype=np.float64)),
        }


def _distinct(column: Column) -> int:
    """How many different values there are; of arrays, in the first hundred thousand numbers."""
    if column.type == "text":
        return len(set(column.values.tolist()))
    return len(np.unique(column.values.reshape(-1)[:100_000] if column.shape else column.values))


def _first_rows(table: Table) -> list[dict[str, Any]]:
    shown = [column for column in table.columns if not column.shape][:PREVIEW_COLUMNS]
    return [
        {column.name: _plain(column.values[row]) for column in shown} for row in range(min(PREVIEW_ROWS, table.rows))
    ]


def _plain(value: Any) -> Any:
    """Text, a number, or None where an unused column has a fault."""
    return value if isinstance(value, str) else float(value) if np.isfinite(value) else None


def _notes(table: Table, roles: Roles) -> list[str]:
    notes = []
    text = [c for c in table.columns if c.type == "text" and c.name not in roles.targets]
    if text:
        named = ", ".join(f"{column.name} ({str(column.values[0])[:20]!r}, …)" for column in text[:10])
        more = f" and {len(text) - 10} more" if len(text) > 10 else ""
        notes.append(f"Text is not read as input, so these columns are left out: {named}{more}.")
    inputs = roles.inputs if roles.inputs is not None else all_but(table, roles.targets)
    same = [c.name for c in table.columns if c.name in inputs and not c.shape and np.ptp(c.values) == 0]
    if same:
        notes.append(f"These inputs have the same value in every row and carry no information: {', '.join(same[:10])}.")
    if table.train_rows is not None:
        notes.append(f"The upload says itself which rows are for training: the first {table.train_rows:,}.")
    return notes


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
        "columns": [{"name": name, **column, "most": list(names[:10])} for name in ("a", "b", "product")],
        "suggested": {"inputs": ["a", "b"], "targets": ["product"], "task": "classification"},
        "first_rows": [{"a": names[a], "b": names[b], "product": names[table[a, b]]} for a, b in pairs],
        "notes": [f"A group of {size} elements, {'' if abelian else 'not '}commutative."],
    }


def _understand_text(content: bytes | Path) -> dict[str, Any]:
    texts = read_texts(content)
    joined = np.frombuffer(b"".join(text for _, text in texts), np.uint8)
    if len(joined) <= MIN_WINDOWS * CONTEXT:
        raise refuse(f"The text has {len(joined):,} bytes; more than {MIN_WINDOWS * CONTEXT} are needed.")
    chunks = range(0, len(joined), COUNTED_AT_ONCE)  # counting takes eight bytes for each
    counts = np.sum([np.bincount(joined[at : at + COUNTED_AT_ONCE], minlength=BYTES) for at in chunks], axis=0)
    most = [BYTE_NAMES[byte] for byte in np.argsort(-counts, kind="stable")[:10] if counts[byte]]
    column = {"type": "text", "distinct": int((counts > 0).sum()), "min": None, "max": None, "mean": None, "std": None}
    held_out = "whole files are held out" if len(texts) >= FEW_FILES else "its end is held out"
    return {
        "rows": len(joined),
        "train_rows": None,
        "columns": [{"name": name, **column, "most": most} for name in TEXT_COLUMNS],
        "suggested": {"inputs": [TEXT_COLUMNS[0]], "targets": [TEXT_COLUMNS[1]], "task": "classification"},
        "first_rows": [
            dict(zip(TEXT_COLUMNS, (BYTE_NAMES[a], BYTE_NAMES[b]), strict=True))
            for a, b in itertools.pairwise(joined[: PREVIEW_ROWS + 1])
        ],
        "notes": [f"{len(texts):,} file{'s' if len(texts) != 1 else ''} of text, {len(joined):,} bytes; {held_out}."],
    }


# --- roles --------------------------------------------------------------------------------------


def check_roles(table: Table, roles: Roles) -> list[Problem]:
    """What keeps the columns from having these roles, if anything."""
    problems: list[Problem] = []
    for name in dict.fromkeys([*(roles.inputs or ()), *roles.targets]):
        try:
            table.column(name)
        except RefusedData as error:
            problems += error.problems
    if problems:
        return problems
    inputs = roles.inputs if roles.inputs is not None else all_but(table, roles.targets)
    both = [name for name in inputs if name in roles.targets]
    problems += [Problem(f"Column {n!r} is both an input and a target; choose one.", column=n) for n in both]
    for kind, names in (("inputs", inputs), ("targets", roles.targets)):
        twice = sorted({name for name in names if list(names).count(name) > 1})
        problems += [Problem(f"Column {n!r} is named twice among the {kind}.", column=n) for n in twice]
    if not inputs:
        problems.append(Problem("There is no input: no column of numbers is left beside the targets."))
    wide = sum(table.column(name).width for name in inputs)
    if wide > MAX_PIXELS:
        problems.append(Problem(f"The inputs are {wide:,} numbers wide; a network reads at most {MAX_PIXELS:,}."))
    for name in inputs:
        if table.column(name).type == "text":
            detail = f"Column {name!r} holds text and cannot be an input; write it as numbers or leave it out."
            problems.append(Problem(detail, column=name))
    if not problems and all(np.ptp(table.column(name).values) == 0 for name in inputs):
        said = ", ".join(list(inputs)[:10])
        problems.append(Problem(f"Every input has the same value in every row ({said}); there is nothing to read."))
    if roles.task == "classification":
        problems += _check_classes(table, roles.targets)
    else:
        problems += [p for name in roles.targets for p in _check_regression(table.column(name))]
    return problems


def _check_regression(column: Column) -> list[Problem]:
    name = column.name
    if column.type == "text":
        detail = f"The target {name!r} holds text; choose the task `classification`, or a column of numbers."
        return [Problem(detail, column=name)]
    if column.width > 256:
        return [Problem(f"The target {name!r} is {column.width} numbers wide; at most 256 are predicted.", column=name)]
    same = [part for part, at in zip(column.parts, np.ptp(column.as_matrix(), axis=0) == 0, strict=True) if at]
    return [
        Problem(f"The target {n!r} has the same value in every row; there is nothing to learn.", column=n) for n in same
    ]


def _check_classes(table: Table, targets: tuple[str, ...]) -> list[Problem]:
    if len(targets) != 1:
        return [Problem(f"Classification has one target column; {len(targets)} are named: {', '.join(targets)}.")]
    column = table.column(targets[0])
    name = column.name
    if column.width > 1:
        return [Problem(f"The target {name!r} is an array; classes are one label for each row.", column=name)]
    if column.type == "number":
        detail = (
            f"The target {name!r} holds numbers that are not whole; choose the task `regression`, or another column."
        )
        return [Problem(detail, column=name)]
    distinct = _distinct(column)
    if distinct < 2:
        return [Problem(f"The target {name!r} has one class only; there is nothing to learn.", column=name)]
    if distinct > MAX_CLASSES or 2 * distinct > table.rows + 2:
        return [
            Problem(
                f"The target {name!r} has {distinct:,} different values in {table.rows:,} rows, too many for classes; "
                "choose the task `regression`, or another column.",
                column=name,
            )
        ]
    return []


# --- roles of a preview: what API and worker settle without the file -----------------------------------------


class ImpossibleRoles(DataError):
    """Roles that the columns cannot have.

    errors   one {"in": "body", "pointer", "detail"} for each, with the `column` where there is one.
    """

    def __init__(self, errors: list[dict[str, Any]]) -> None:
        super().__init__(errors[0]["detail"] if len(errors) == 1 else f"{len(errors)} roles are not possible.")
        self.errors = errors


def amended_roles(settled: dict[str, Any], declared: dict[str, Any]) -> dict[str, Any]:
    """Roles with some of them changed. Where targets change, inputs and task follow unless they are named too."""
    follow = ("inputs", "task") if declared.get("targets") else ()
    return {name: value for name, value in settled.items() if name not in follow} | declared


def settle_roles(preview: dict[str, Any], declared: dict[str, Any], *, under: str = "") -> dict[str, Any]:
    """The roles of an uploaded table's columns: the declared ones, completed by what the preview suggests.

    under   where the roles stand in a request, for the pointers of the errors.
    Raises ImpossibleRoles, which names every role that is not possible.
    """
    suggested = preview.get("suggested") or {}
    columns = {column["name"]: column for column in preview.get("columns", [])}
    targets = list(declared.get("targets") or suggested.get("targets") or [])
    inputs = declared.get("inputs")
    if inputs is None:
        inputs = suggested.get("inputs") or []
        if declared.get("targets") is not None:  # other targets than suggested: all other columns of numbers are inputs
            inputs = [name for name, column in columns.items() if column.get("type") != "text"]
        inputs = [name for name in inputs if name not in targets]
    task = declared.get("task")
    if task is None:
        same = targets == suggested.get("targets")
        task = suggested.get("task") if same else _classes_or_numbers(targets, columns, preview.get("rows"))
    errors = [*_role_errors("inputs", inputs, columns, under), *_role_errors("targets", targets, columns, under)]
    for index, name in enumerate(targets):
        text = columns.get(name, {}).get("type") == "text"
        if text and task == "regression":
            detail = f"The target `{name}` holds text; choose the task `classification`, or a column of numbers."
            errors.append(_wrong(f"{under}/targets/{index}", detail, column=name))
    for name in sorted(set(inputs) & set(targets)):
        detail = f"`{name}` cannot be input and target at once."
        errors.append(_wrong(f"{under}/targets/{targets.index(name)}", detail, column=name))
    if task == "classification" and len(targets) > 1:
        errors.append(_wrong(f"{under}/targets", f"Classification has one target; {len(targets)} are named."))
    if not targets:
        errors.append(_wrong(f"{under}/targets", "Say which columns are to be predicted."))
    if not inputs:
        errors.append(_wrong(f"{under}/inputs", "No column of numbers is left to be read beside the targets."))
    if errors:
        raise ImpossibleRoles(errors)
    rest = {name: declared.get(name, default) for name, default in REST.items()}
    if declared.get("context") is not None:
        if set(columns) != set(TEXT_COLUMNS):
            raise ImpossibleRoles([_wrong(f"{under}/context", "Only text is read in windows: leave `context` out.")])
        rest["context"] = declared["context"]
    return {"inputs": list(inputs), "targets": targets, "task": task} | rest


def _role_errors(role: str, names: list[str], columns: dict[str, Any], under: str) -> list[dict[str, Any]]:
    """What is wrong with the columns of one role."""
    errors = []
    # The words of a group table, and the bytes of a text, are tokens, which are read.
    tokens = set(columns) in ({"a", "b", "product"}, set(TEXT_COLUMNS))
    for index, name in enumerate(names):
        whole = name.partition("[")[0]  # one number of an array column, such as pixels[3]
        if columns and name not in columns and whole not in columns:
            known = ", ".join(list(columns)[:12]) + (", …" if len(columns) > 12 else "")
            detail = f"There is no column `{name}`; there are {known}."
        elif role == "inputs" and not tokens and columns.get(name, {}).get("type") == "text":
            detail = f"The column `{name}` holds text and cannot be an input; write it as numbers or leave it out."
        else:
            continue
        errors.append(_wrong(f"{under}/{role}/{index}", detail, column=name))
    return errors


def _wrong(pointer: str, detail: str, **more: Any) -> dict[str, Any]:
    return {"in": "body", "pointer": pointer, "detail": detail, **more}


def _classes_or_numbers(targets: list[str], columns: dict[str, Any], rows: int | None) -> str:
    """Whether targets look like classes: text, or a few whole numbers."""
    column = columns.get(targets[0], {}) if len(targets) == 1 else {}
    few = (column.get("distinct") or 0) <= max(2, min(FEW_DISTINCT, (rows or 0) // 5))
    return (
        "classification" if column.get("type") == "text" or (column.get("type") == "integer" and few) else "regression"
    )
