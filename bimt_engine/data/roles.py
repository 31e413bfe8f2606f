"""Which roles the columns of an upload may have: input, target, weight or split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from pydantic import ValidationError

from bimt_engine.data.encoding import ColumnSpec as ColumnSpec
from bimt_engine.data.kinds.text import CONTEXT as CONTEXT
from bimt_engine.data.kinds.text import MAX_CONTEXT as MAX_CONTEXT
from bimt_engine.data.readers import MAX_PIXELS, Column, Problem, ReadAs, RefusedData, Table, refuse
from bimt_engine.data.readers.files import format_by_bytes as format_by_bytes
from bimt_engine.errors import DataError

Format = Literal["csv", "xlsx", "arrow", "npy", "npz", "parquet", "idx", "images", "cayley", "text"]
FORMATS: tuple[Format, ...] = get_args(Format)

MAX_CLASSES = 1_000
FEW_DISTINCT = 20  # whole numbers with at most so many values are taken for classes, until the user says otherwise
LARGEST = 1e100  # magnitude of a number; the square of a larger one may not be finite
TEXT_COLUMNS = ("byte", "next byte")
GROUP_COLUMNS = ("a", "b", "product")
REST = {"validation_fraction": 0.15, "test_fraction": 0.15}  # roles that the file says nothing of
PARTS = 3  # of the rows: for training, validation and testing
UNREAD = ("text", "index")  # types of columns that are no inputs until the user says so
WORDS = ("text", "category", "boolean")  # types whose values are classes


@dataclass(frozen=True)
class Roles:
    """Which columns are read, which are predicted, and how. `inputs` None: all that can be read."""

    inputs: tuple[str, ...] | None
    targets: tuple[str, ...]
    task: Literal["regression", "classification"]


def read_table(
    content: bytes | Path,
    format: Format,
    *,
    used: frozenset[str] | None = None,
    whole: bool = True,
    read_as: Mapping[str, ReadAs | ColumnSpec] | None = None,
) -> Table:
    """The typed columns of an upload in one of FORMATS but `cayley` and `text`, which are no tables of examples.

    used      the columns whose faults matter; None: all.
    whole     False: the others may be left out where that saves time and memory.
    read_as   what columns are, as the user has it; the others are looked at. None: numbers and text alone, and each
              cell needs a value, as specs without `columns` have it. Arrays and images are read so in any case.
    Raises RefusedData.
    """
    from bimt_engine.data.readers import arrays, delimited, files, frames, workbooks

    wanted = None if read_as is None else {name: ReadAs(as_.type, as_.notation) for name, as_ in read_as.items()}
    if read_as is not None:
        format = _as_it_is(content, format)
    if format == "csv":
        table = delimited.read_csv(files.unpacked(content), used=used, whole=whole, read_as=wanted)
    elif format in ("parquet", "arrow"):
        table = frames.read_frame(content, format, used=used, whole=whole, read_as=wanted)
    elif format == "xlsx":
        table = workbooks.read_workbook(content, used=used, whole=whole, read_as=wanted)
    elif format == "npy":
        table = arrays.read_npy(content, used=used, read_as=wanted)
    elif format == "npz":
        table = arrays.read_npz(content, read_as=wanted)
    elif format == "idx":
        table = arrays.read_idx(content)
    elif format == "images":
        table = files.read_images(content)
    else:
        raise refuse(f"The format {format!r} is not known; send one of {', '.join(FORMATS)}.")
    watched = [column for column in table.columns if used is None or column.shape or column.name in used]
    if problems := [problem for column in watched for problem in _beyond_reach(column)]:
        raise RefusedData(problems)
    return table


def _as_it_is(content: bytes | Path, format: Format) -> Format:
    """The format that the bytes of a table have, where it was sent as CSV and is none. Raises RefusedData."""
    found = format_by_bytes(content)
    if format == "csv" and found not in (None, "csv"):
        raise refuse(f"The file is no CSV but {found}; send it with the format `{found}`.")
    return format


def _beyond_reach(column: Column) -> list[Problem]:
    """Numbers so large that not even their variance can be computed. What is no number is a fault of another kind."""
    if column.values.dtype.kind != "f":
        return []
    largest = float(np.abs(column.values).max(initial=0.0, where=np.isfinite(column.values)))
    if largest <= LARGEST:
        return []
    detail = f"Column {column.name!r} holds numbers as large as {largest:.3g}; rescale it to stay within {LARGEST:g}."
    return [Problem(detail, column=column.name)]


def all_but(table: Table, targets: Sequence[str]) -> tuple[str, ...]:
    """The columns that are read when none are named: all that are not targets, nor text, nor count rows."""
    return tuple(column.name for column in table.columns if column.name not in targets and column.type not in UNREAD)


def distinct(column: Column) -> int:
    """How many different values there are, cells without one not counted; of arrays, in the first 100 000 numbers."""
    if column.values.dtype == object:
        return len({value for value in column.values.tolist() if value is not None})
    values = column.values.reshape(-1)[:100_000] if column.shape else column.values
    return len(np.unique(values[values == values]))


def is_constant(column: Column) -> bool:
    """Whether every row has the same value: there is nothing to read or to predict."""
    if column.shape:
        return bool((np.ptp(column.values, axis=0) == 0).all())
    return distinct(column) < 2 and (column.missing is None or bool(column.missing.all()))


def likely_kind(columns: Sequence[tuple[str, int]], rows: int) -> Literal["regression", "classification"]:
    """Whether targets, each given by its type and how many different values it has, look like classes."""
    if len(columns) != 1:
        return "regression"
    [(kind, values)] = columns
    few = values <= max(2, min(FEW_DISTINCT, rows // 5))
    return "classification" if kind in WORDS or (kind == "integer" and few) else "regression"


# --- roles of a table, by its columns ------------------------------------------------------------------------


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
    if roles.task == "classification":
        problems += _check_classes(table, roles.targets)
    else:
        several = len(roles.targets) > 1
        problems += [p for name in roles.targets for p in _check_regression(table.column(name), several=several)]
    if not inputs:
        problems.append(Problem("There is no input: no column that can be read is left beside the targets."))
    wide = sum(table.column(name).width for name in inputs)
    if wide > MAX_PIXELS:
        problems.append(Problem(f"The inputs are {wide:,} numbers wide; a network reads at most {MAX_PIXELS:,}."))
    for name in inputs:
        if table.column(name).type == "text":
            detail = f"Column {name!r} holds text and cannot be an input; {_INSTEAD_OF_TEXT}"
            problems.append(Problem(detail, column=name))
    if not problems and all(is_constant(table.column(name)) for name in inputs):
        said = ", ".join(list(inputs)[:10])
        problems.append(Problem(f"Every input has the same value in every row ({said}); there is nothing to read."))
    return problems


_INSTEAD_OF_TEXT = "write it as numbers, leave it out, or give it the type `category`."


def _check_regression(column: Column, *, several: bool) -> list[Problem]:
    name = column.name
    if column.type == "text" or (column.type == "category" and not several):
        detail = f"The target {name!r} holds text; choose the task `classification`, or a column of numbers."
        return [Problem(detail, column=name)]
    if column.type == "date":
        return [Problem(f"The target {name!r} holds dates; choose a column of numbers.", column=name)]
    if column.width > 256:
        return [Problem(f"The target {name!r} is {column.width} numbers wide; at most 256 are predicted.", column=name)]
    if column.shape:
        same = [part for part, at in zip(column.parts, np.ptp(column.as_matrix(), axis=0) == 0, strict=True) if at]
    else:
        same = [name] if distinct(column) < 2 else []
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
    if column.type in ("number", "date"):
        held = "dates" if column.type == "date" else "numbers that are not whole"
        detail = f"The target {name!r} holds {held}; choose the task `regression`, or another column."
        return [Problem(detail, column=name)]
    values = distinct(column)
    if values < 2:
        return [Problem(f"The target {name!r} has one class only; there is nothing to learn.", column=name)]
    if values > MAX_CLASSES or 2 * values > table.rows + 2:
        return [
            Problem(
                f"The target {name!r} has {values:,} different values in {table.rows:,} rows, too many for classes; "
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


def has_types(preview: Mapping[str, Any]) -> bool:
    """Whether the columns of a preview were looked at cell by cell: those of arrays, and of old previews, were not."""
    columns = preview.get("columns") or []
    return bool(columns) and all("missing" in column for column in columns)


def updated_roles(resolved: dict[str, Any], declared: dict[str, Any]) -> dict[str, Any]:
    """Roles with some of them changed. Where targets change, inputs and task follow unless they are named too.

    Of `columns` each field that is declared is changed; a column that becomes a target, or was one, is read anew. One
    that was not read and gets a type that can be becomes an input, and the reverse. One that parts or weights the rows
    is no input unless the inputs are named, too.
    """
    targets = declared.get("targets")
    follow = ("inputs", "task") if targets else ()
    kept = {name: value for name, value in resolved.items() if name not in follow}
    moved = set(resolved.get("targets") or []) ^ set(targets) if targets else set()
    columns = {name: fields for name, fields in (resolved.get("columns") or {}).items() if name not in moved}
    for name, fields in (declared.get("columns") or {}).items():
        before = columns.get(name, {})
        if fields.get("type", before.get("type")) != before.get("type"):
            before = {}  # of another type, nothing of what was chosen fits
        columns[name] = before | fields
    if kept.get("inputs") is not None and "inputs" not in declared:
        read = {
            name: fields["type"] not in UNREAD
            for name, fields in (declared.get("columns") or {}).items()
            if fields.get("type")
        }
        apart = _apart(kept | declared)
        others = [name for name in kept["inputs"] if read.get(name, True) and name not in apart]
        used = (*others, *apart, *(kept.get("targets") or []))
        new = [name for name, is_read in read.items() if is_read and name not in used]
        kept["inputs"] = [*others, *new]
    return kept | declared | ({"columns": columns} if columns else {})


def _apart(roles: Mapping[str, Any]) -> list[str]:
    """The columns that split the rows or weight them."""
    return [name for name in ((roles.get("split") or {}).get("column"), roles.get("weight")) if name]


def resolve_roles(preview: dict[str, Any], declared: dict[str, Any], *, under: str = "") -> dict[str, Any]:
    """The roles of an uploaded table's columns: the declared ones, completed by what the preview suggests.

    Where the preview has types, `columns` says of every column that is used what it is and how it is read, in full, so
    that a job stays what it is when defaults change.

    under   where the roles stand in a request, for the pointers of the errors.
    Raises ImpossibleRoles, which names every role that is not possible.
    """
    suggested = preview.get("suggested") or {}
    columns = {column["name"]: column for column in preview.get("columns", [])}
    chosen = declared.get("columns") or {}
    types = {name: (chosen.get(name) or {}).get("type") or column.get("type") for name, column in columns.items()}
    apart = _apart(declared)
    targets = list(declared.get("targets") or suggested.get("targets") or [])
    inputs = declared.get("inputs")
    if inputs is None:
        inputs = suggested.get("inputs") or []
        if declared.get("targets") is not None or any("type" in fields for fields in chosen.values()):
            inputs = [name for name, kind in types.items() if kind not in UNREAD]  # all that can be read now
        inputs = [name for name in inputs if name not in targets and name not in apart]
    task = declared.get("task")
    if task is None:
        same = targets == suggested.get("targets") and targets[0] not in chosen
        known = [(types.get(name) or "", columns.get(name, {}).get("distinct") or 0) for name in targets]
        task = suggested.get("task") if same else likely_kind(known, preview.get("rows") or 0)
    errors = [*_role_errors("inputs", inputs, types, under), *_role_errors("targets", targets, types, under)]
    for index, name in enumerate(targets):
        several = len(targets) > 1 and (chosen.get(name) or {}).get("type", types.get(name)) == "category"
        if types.get(name) in ("text", "category") and task == "regression" and not several:
            detail = f"The target `{name}` holds text; choose the task `classification`, or a column of numbers."
            if len(targets) > 1:
                detail = f"The target `{name}` holds text; beside other targets give it the type `category`."
            errors.append(_wrong(f"{under}/targets/{index}", detail, column=name))
        elif types.get(name) == "date":
            detail = f"The target `{name}` holds dates; choose a column of numbers or of classes."
            errors.append(_wrong(f"{under}/targets/{index}", detail, column=name))
    for name in sorted(set(inputs) & set(targets)):
        detail = f"`{name}` cannot be input and target at once."
        errors.append(_wrong(f"{under}/targets/{targets.index(name)}", detail, column=name))
    for field, name in (
        ("split/column", (declared.get("split") or {}).get("column")),
        ("weight", declared.get("weight")),
    ):
        if name and columns and name not in columns:
            errors.append(_wrong(f"{under}/{field}", _no_such_column(name, types), column=name))
        elif name and name in (*inputs, *targets):
            detail = f"`{name}` cannot be an input or a target and part or weight the rows, too."
            errors.append(_wrong(f"{under}/{field}", detail, column=name))
        elif name and (detail := _unfit(columns.get(name) or {}, types.get(name), field)):
            errors.append(_wrong(f"{under}/{field}", detail, column=name))
    if task == "classification" and len(targets) > 1:
        errors.append(_wrong(f"{under}/targets", f"Classification has one target; {len(targets)} are named."))
    if not targets:
        errors.append(_wrong(f"{under}/targets", "Say which columns are to be predicted."))
    if not inputs:
        errors.append(_wrong(f"{under}/inputs", "No column that can be read is left beside the targets."))
    rest = {name: declared.get(name, default) for name, default in REST.items()}
    # Whether to standardise depends on the network where it was not given.
    rest |= {name: declared[name] for name in ("standardise", "split", "weight") if declared.get(name) is not None}
    if declared.get("context") is not None:
        if set(columns) != set(TEXT_COLUMNS):
            raise ImpossibleRoles([_wrong(f"{under}/context", "Only text is read in windows: leave `context` out.")])
        rest["context"] = declared["context"]
    specs = _column_specs(preview, chosen, inputs=inputs, targets=targets, apart=apart, task=task, under=under)
    if errors or specs.errors:
        raise ImpossibleRoles([*errors, *specs.errors])
    more = {"columns": specs.found} if specs.found else {}
    return {"inputs": list(inputs), "targets": targets, "task": task} | rest | more


def _role_errors(role: str, names: list[str], types: Mapping[str, str | None], under: str) -> list[dict[str, Any]]:
    """What is wrong with the columns of one role."""
    errors = []
    # The words of a group table, and the bytes of a text, are tokens, which are read.
    tokens = set(types) in (set(GROUP_COLUMNS), set(TEXT_COLUMNS))
    for index, name in enumerate(names):
        whole = name.partition("[")[0]  # one number of an array column, such as pixels[3]
        if types and name not in types and whole not in types:
            detail = _no_such_column(name, types)
        elif role == "inputs" and not tokens and types.get(name) == "text":
            detail = f"The column `{name}` holds text and cannot be an input; {_INSTEAD_OF_TEXT}"
        else:
            continue
        errors.append(_wrong(f"{under}/{role}/{index}", detail, column=name))
    return errors


def _unfit(column: Mapping[str, Any], kind: str | None, field: str) -> str:
    """Why a column of a preview cannot weight the rows, or part them; empty where nothing is seen."""
    name, values = column.get("name"), column.get("distinct") or 0
    if field == "weight":
        if column.get("shape") or kind not in ("number", "integer", "boolean", "index", None):
            return f"The weight `{name}` must be a number in every row, and it holds {kind}."
        if (column.get("min") or 0) < 0:
            return f"The weight `{name}` is negative in some row ({column['min']:g}); weights are 0 or more."
        if column.get("max") == 0:
            return f"The weight `{name}` is 0 in every row; it must be above 0 in some row of each part."
        return ""
    if column.get("shape"):
        return f"`{name}` is an array; rows are split by one value for each row."
    if column and values + bool(column.get("missing")) < PARTS:
        one = "value" if values == 1 else "values"
        return f"`{name}` has {values} different {one}, and {PARTS} parts need as many: split by another column."
    return ""


def _no_such_column(name: str, columns: Mapping[str, Any]) -> str:
    known = ", ".join(list(columns)[:12]) + (", …" if len(columns) > 12 else "")
    return f"There is no column `{name}`; there are {known}."


def _wrong(pointer: str, detail: str, **more: Any) -> dict[str, Any]:
    return {"in": "body", "pointer": pointer, "detail": detail, **more}


@dataclass(frozen=True)
class _Specs:
    found: dict[str, dict[str, Any]]
    errors: list[dict[str, Any]]


def _column_specs(
    preview: dict[str, Any],
    chosen: Mapping[str, Mapping[str, Any]],
    *,
    inputs: Sequence[str],
    targets: Sequence[str],
    apart: Sequence[str],
    task: str | None,
    under: str,
) -> _Specs:
    """A full ColumnSpec of every column that is used, as JSON, and what is wrong with those that were chosen."""
    columns = {column["name"]: column for column in preview.get("columns", [])}
    errors = [
        _wrong(f"{under}/columns/{_escaped(name)}", _no_such_column(name, columns), column=name)
        for name in chosen
        if columns and name not in columns
    ]
    if not has_types(preview):
        if chosen:
            detail = (
                "The columns of arrays, images, text and groups have one type, and those of a table that was checked "
                "before tables had types have none yet: change its roles once, and it is checked again."
            )
            errors.append(_wrong(f"{under}/columns", detail))
        return _Specs({}, errors)
    found = {}
    for name in dict.fromkeys([*inputs, *targets, *apart]):
        if name not in columns:
            continue
        fields = _defaults(columns[name], target=name in targets, task=task, apart=name in apart)
        own = {key: value for key, value in (chosen.get(name) or {}).items() if value is not None}
        if "type" in own and own["type"] != fields["type"]:
            fields = _defaults(
                columns[name] | {"type": own["type"]}, target=name in targets, task=None, apart=name in apart
            )
        if name in targets and own.get("missing") in ("mean", "median", "category"):
            own.pop("missing")  # no target is made up; its default drops the row
        try:
            spec = ColumnSpec.model_validate(fields | own)
        except ValidationError as error:
            detail = f"{error.errors()[0]['msg'].removeprefix('Value error, ')}"
            errors.append(_wrong(f"{under}/columns/{_escaped(name)}", detail, column=name))
            continue
        if spec.missing == "refuse" and (gaps := columns[name]["missing"]):
            detail = (
                f"`{name}` has no value in {gaps:,} of {preview.get('rows') or 0:,} rows; choose `missing`: `drop`, "
                "`median`, `mean` or `category`."
            )
            errors.append(_wrong(f"{under}/columns/{_escaped(name)}/missing", detail, column=name))
        found[name] = spec.model_dump(mode="json")
    return _Specs(found, errors)


def _defaults(column: Mapping[str, Any], *, target: bool, task: str | None, apart: bool) -> dict[str, Any]:
    """How a column is read unless the user says otherwise."""
    kind = column["type"]
    if target and task == "classification" and kind in ("boolean", "text"):
        kind = "category"  # so that classes keep their names
    if kind == "index":
        kind = "integer"  # it was named
    missing = "refuse"
    if column["missing"]:
        missing = "drop" if target or apart else "category" if kind in ("category", "text") else "median"
    return {"type": kind, "missing": missing, "notation": column.get("notation")}


def _escaped(name: str) -> str:
    """A name within a JSON Pointer."""
    return name.replace("~", "~0").replace("/", "~1")


def role_notes(preview: Mapping[str, Any], roles: Mapping[str, Any]) -> list[str]:
    """What the roles do with cells that have no value, a sentence for each way."""
    columns = {column["name"]: column for column in preview.get("columns", [])}
    rows = preview.get("rows") or 0
    ways: dict[str, list[str]] = {}
    for name, spec in (roles.get("columns") or {}).items():
        if gaps := columns.get(name, {}).get("missing"):
            ways.setdefault(spec["missing"], []).append(f"{name} ({gaps:,} of {rows:,} rows)")
    said = []
    for way, sentence in _WAYS.items():
        if named := ways.get(way):
            more = f" and {len(named) - 10} more columns" if len(named) > 10 else ""
            said.append(f"No value: {', '.join(named[:10])}{more}. {sentence}")
    return said


_WAYS = {
    "median": "The median of the training rows stands there, and an input of its own says where.",
    "mean": "The mean of the training rows stands there, and an input of its own says where.",
    "category": "That is a level of its own.",
    "drop": "These rows are left out.",
}
