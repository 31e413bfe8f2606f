"""Data sets: list, look at, change, delete, or make one by a generator of the catalogue."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, Union, get_args

from flask import Response, request
from pydantic import BeforeValidator, Field, ValidationError, model_validator
from sqlalchemy.orm import Session

from api.auth import Access, audit, caller
from api.evidence import stored_download
from api.problems import Problem, field_errors, fields_problem, invalid
from api.routing import Resource, answer, binary, cursor, key_of
from api.schemas import Body, DatasetId, InPath, Label, MemberId, Page, Query, RequestModel, ResponseModel
from api.services import services
from bimt_engine.data.roles import (
    CONTEXT,
    MAX_CONTEXT,
    ColumnSpec,
    ImpossibleRoles,
    has_types,
    resolve_roles,
    updated_roles,
)
from bimt_engine.data.roles import Format as Format
from bimt_engine.spec import DatasetSpec, SplitSpec, UploadedData
from store import datasets, operations
from store.files import StoredFile, free
from store.jobs import JobView
from store.tables import Dataset, Network

Column = Annotated[str, Field(min_length=1, max_length=200)]
DatasetState = Literal["checking", "ready", "refused"]

# Every kind of data that a spec may name but an upload: bimt_engine/spec.py has the one list.
if TYPE_CHECKING:
    MakerSpec = DatasetSpec
else:
    _KINDS = tuple(kind for kind in get_args(get_args(DatasetSpec)[0]) if kind is not UploadedData)
    MakerSpec = Annotated[Union[_KINDS], Field(discriminator="kind")]  # noqa: UP007


class MadeDataset(Body):
    """A data set that a maker of the catalogue computes."""

    name: Label
    maker: MakerSpec


def _object(like: str) -> BeforeValidator:
    """Reads an object that came as JSON in the field of a form; `like` is shown where it is something else."""

    def parsed(value: Any) -> Any:
        if not isinstance(value, str):
            return value
        try:
            found = json.loads(value)
        except ValueError:
            found = value
        if found is not None and not isinstance(found, dict):
            shown = value if len(value) <= 40 else value[:40] + "…"
            raise ValueError(f"This must be an object such as {like}, not {shown!r}.")
        return found

    return BeforeValidator(parsed)


class Roles(RequestModel):
    """The roles of the columns of an uploaded table. What is left out stays as the upload was understood."""

    inputs: list[Column] | None = Field(
        default=None, min_length=1, max_length=10_000, description="Columns to read; null: all that are not targets."
    )
    targets: list[Column] | None = Field(default=None, min_length=1, max_length=256)
    task: Literal["regression", "classification"] | None = None
    validation_fraction: float = Field(
        default=0.15, gt=0, lt=1, description="Share of the rows by which everything is chosen that is not trained."
    )
    test_fraction: float = Field(
        default=0.15, gt=0, lt=1, description="Share of the rows that is kept for the test, and only measured."
    )
    standardise: bool = Field(
        default=True,
        description="Scale inputs and regression targets to mean 0, variance 1. Left out: yes, but not for an uploaded "
        "network, which reads the numbers as they are.",
    )
    context: int | None = Field(
        default=None, ge=2, le=MAX_CONTEXT, description=f"For text: bytes of one example; null: {CONTEXT}."
    )
    columns: Annotated[dict[Column, ColumnSpec], _object('{"when": {"type": "date"}}')] = Field(
        default={},
        max_length=1_000,
        description="What columns are and how they are read, where that is to differ from what was found: "
        '`{"when": {"type": "date", "notation": "31/12/2024"}}`.',
    )
    split: Annotated[SplitSpec, _object('{"by": "group", "column": "grp"}')] | None = Field(
        default=None, description="How rows come into the three parts; null: by chance."
    )
    weight: Column | None = Field(default=None, description="Column that says how much each row counts.")

    @model_validator(mode="after")
    def _nothing_is_both(self) -> Roles:
        for name in ("inputs", "targets"):
            given = getattr(self, name) or []
            if len(set(given)) < len(given):
                raise ValueError(f"`{name}` names a column twice.")
        both = sorted(set(self.inputs or []) & set(self.targets or []))
        if both:
            raise ValueError(f"{', '.join(both)} cannot be input and target at once.")
        if self.validation_fraction + self.test_fraction >= 1:
            raise ValueError("`validation_fraction` and `test_fraction` leave no rows for training: make them smaller.")
        return self


class DatasetChange(Roles):
    """What to change of a data set; what is left out stays. New targets make inputs and task follow, unless named.

    Of `columns`, each field of each column.
    """

    name: Label | None = None


class DatasetPath(InPath):
    """Which data set."""

    dataset_id: DatasetId


class DatasetsQuery(Query):
    """Which data sets."""

    q: Annotated[str, Field(max_length=120)] | None = Field(default=None, description="Part of the name.")
    state: DatasetState | None = None
    after: str | None = Field(default=None, max_length=300, description="The `next` of the page before.")
    limit: int = Field(default=50, ge=1, le=200)


class DatasetItem(ResponseModel):
    """A data set in a list."""

    id: DatasetId
    name: str
    kind: Literal["uploaded", "made"]
    state: DatasetState = Field(description="`checking` becomes `ready` or `refused`.")
    format: str | None = None
    bytes: int
    rows: int | None = None
    columns: int | None = None
    task: str | None = None
    sha256: str | None = None
    member_id: MemberId
    created_at: datetime
    checked_at: datetime | None = None


class DatasetOut(DatasetItem):
    """A data set."""

    maker: dict[str, Any] | None = Field(default=None, description="For a made one: what makes it.")
    roles: dict[str, Any] | None = Field(default=None, description="For an uploaded one: what its columns are for.")
    notes: list[str] = Field(default=[], description="What was decided for you: columns left out, the target chosen.")
    errors: list[dict[str, Any]] = Field(default=[], description="For a refused one: why.")


class DatasetPage(Page):
    """A part of the list of data sets, newest first."""

    items: list[DatasetItem]


class PreviewColumn(ResponseModel):
    """One column as it was understood."""

    name: str
    type: str = Field(description="number, integer, boolean, category, date, text or index.")
    missing: int | None = Field(
        default=None, description="Cells without a value; null: for arrays and in old previews."
    )
    notation: str | None = Field(default=None, description="How its numbers or dates are written, by an example.")
    notes: list[str] = Field(default=[], description="How it was read, where that is not obvious.")
    min: float | None = None
    max: float | None = None
    mean: float | None = None
    std: float | None = None
    distinct: int | None = None
    shape: list[int] | None = Field(default=None, description="Of one example, for arrays.")
    most: list[str] | None = Field(default=None, description="The most frequent words, for text and categories.")
    counts: list[int] | None = Field(
        default=None, description="How often each of `most` stands there; null: old previews."
    )
    bins: list[int] | None = Field(
        default=None,
        description="For numbers and dates: how many lie in each of up to 20 equal parts of their range; "
        "null for one value only, arrays, columns beyond the first 300, old previews.",
    )
    earliest: str | None = Field(default=None, description="Of dates.")
    latest: str | None = None


class PreviewOut(ResponseModel):
    """What was understood of a data set."""

    rows: int | None = None
    train_rows: int | None = Field(default=None, description="Where the upload itself says which rows to train on.")
    columns: list[PreviewColumn] = Field(default=[])
    suggested: dict[str, Any] = Field(default={}, description="Roles that would fit.")
    first_rows: list[dict[str, Any]] = Field(default=[], description="The first rows, each by column.")
    notes: list[str] = Field(default=[], description="What else is worth knowing.")
    missing_notes: list[str] = Field(
        default=[], description="Those of `notes` that say what the suggested roles do with cells that have no value."
    )


api = Resource("datasets", "Data to learn from: uploaded by you, or made by the catalogue.")

# Roles by which a file is read; another test part needs no second look at the columns.
READ_BY = ("inputs", "targets", "task", "columns", "split", "weight", "context")

# What a check writes to the row.
CHECKED_COLUMNS = ("roles", "state", "preview", "task", "rows", "columns", "errors", "checked_at")


@api.route("get", "/datasets", requires=Access.READ, answers={200: DatasetPage})
def list_datasets(query: DatasetsQuery) -> Response:
    """The team's data sets, newest first."""
    here = services()
    with here.database.read() as rows:
        page = datasets.page(
            rows, caller().team_id, state=query.state, q=query.q, after=key_of(query.after), limit=query.limit
        )
        items = [DatasetItem.model_validate(row) for row in page.rows]
        return answer(DatasetPage(items=items, next=cursor(page.after)))


@api.route("get", "/datasets/<string:dataset_id>", requires=Access.READ, answers={200: DatasetOut})
def get_dataset(path: DatasetPath) -> Response:
    """One data set."""
    with services().database.read() as rows:
        return answer(shown(datasets.get(rows, caller().team_id, path.dataset_id)))


@api.route(
    "get", "/datasets/<string:dataset_id>/preview", requires=Access.READ, answers={200: PreviewOut}, problems=(409,)
)
def preview_dataset(path: DatasetPath) -> Response:
    """What was understood of it: columns, their types and ranges, the first rows."""
    with services().database.read() as rows:
        row = datasets.get(rows, caller().team_id, path.dataset_id)
        if row.state != "ready":
            raise Problem("conflict", f"The data set is {row.state}; there is no preview of it.")
        return answer(PreviewOut.model_validate(row.preview or {}))


@api.route(
    "get",
    "/datasets/<string:dataset_id>/content",
    requires=Access.READ,
    answers={200: binary("application/octet-stream", "The bytes as they were uploaded.")},
    problems=(409,),
)
def dataset_content(path: DatasetPath) -> Response:
    """The bytes as they were uploaded."""
    with services().database.read() as rows:
        row = datasets.get(rows, caller().team_id, path.dataset_id)
        if row.sha256 is None:
            raise Problem("conflict", f"`{row.name}` was not uploaded; its maker computes it again in every run.")
        sha256, form = row.sha256, row.format or "bin"
    return stored_download(sha256, row.name, f"{path.dataset_id}.{form}")


@api.route(
    "patch",
    "/datasets/<string:dataset_id>",
    requires=Access.SUBMIT,
    answers={200: DatasetOut, 202: DatasetOut},
    problems=(409,),
)
def change_dataset(path: DatasetPath, body: DatasetChange) -> Response:
    """Change its name, or what its columns are for; jobs that are there keep what they were submitted with.

    A large file whose inputs, targets or task change is looked at again: 202 and the state `checking`. One that was
    refused may become usable by roles that leave the faulty columns out.
    """
    here, who = services(), caller()
    asked = body.model_dump(exclude_unset=True)
    name = asked.pop("name", None)
    with here.database.read() as rows:
        row = datasets.get(rows, who.team_id, path.dataset_id)
    before = {column: getattr(row, column) for column in CHECKED_COLUMNS}
    values: dict[str, Any] = {} if name is None else {"name": name}
    if asked:
        values |= _with_roles(row, asked)
    check = None
    if values:
        with here.database.write() as rows:
            row = datasets.change(rows, row, **values)
            audit(rows, "dataset.change", row.id, changed=sorted(body.model_fields_set))
            if row.state == "checking":
                check = operations.submit_check(rows, row, now=here.now())
    if check is not None:

        def undo(rows: Session) -> None:
            datasets.change(rows, datasets.get(rows, who.team_id, row.id), **before)

        row = checked(row, check, undo=undo, get=datasets.get, slug="unusable-data")
    if row.state != "checking":
        return answer(shown(row))
    return answer(shown(row), 202, Location=address(row))


@api.route("delete", "/datasets/<string:dataset_id>", requires=Access.SUBMIT, answers={204: None}, problems=(409,))
def delete_dataset(path: DatasetPath) -> Response:
    """Delete it. Jobs and models that used it keep their results.

    What needs the data again, such as verifying them, is then answered with 409. Bytes that nothing else
    needs are freed.
    """
    here = services()
    with here.database.write() as rows:
        sha256 = datasets.delete(rows, caller().team_id, path.dataset_id)
        audit(rows, "dataset.delete", path.dataset_id)
    if sha256 is not None:
        with here.database.write() as rows:
            free(rows, here.files, [sha256])
    return Response(status=204)


def make_dataset() -> Response:
    """The data set that a request names a generator for. Raises the problem of every wrong field."""
    try:
        body = MadeDataset.model_validate(request.get_json())
    except ValidationError as error:
        raise fields_problem(field_errors(error, request.get_json())) from None
    here, who = services(), caller()
    with here.database.write() as rows:
        row = datasets.register(
            rows,
            team_id=who.team_id,
            member_id=who.member_id,
            name=body.name,
            kind="made",
            maker=body.maker.model_dump(mode="json"),
            state="ready",
            now=here.now(),
        )
        audit(rows, "dataset.make", row.id)
        return answer(shown(row), 201, Location=address(row))


def _with_roles(row: Dataset, asked: dict[str, Any]) -> dict[str, Any]:
    """The columns of a data set's row when these roles are asked for. Raises the problem of impossible roles."""
    if row.sha256 is None:
        sentence = f"`{row.name}` is made, not uploaded: its columns have no roles to change."
        raise invalid(f"/{next(iter(asked))}", sentence)
    if row.state == "checking":
        raise Problem("conflict", "The data set is still being checked; change its roles when it is ready or refused.")
    before = dict(row.roles or {})
    roles = updated_roles(before, asked)
    preview = row.preview or {}
    if row.state == "ready" and (has_types(preview) or not asked.get("columns")):
        roles = resolve_roles(preview, roles)
        if all(roles.get(name) == before.get(name) for name in READ_BY):
            return {"roles": roles}  # the same columns: no second check
    return {"roles": roles, "state": "checking", "checked_at": None, "errors": None}


Checked = TypeVar("Checked", Dataset, Network)


def checked(
    row: Checked,
    check: JobView,
    *,
    undo: Callable[[Session], None],
    get: Callable[[Session, str, str], Checked],
    slug: str,
) -> Checked:
    """Enqueue the committed check of a data set or network; the row as it is then.

    A small file is waited for, up to the seconds of the services. If it is refused by then, `undo` takes back what the
    request has written, and this raises the problem `slug`. What stays `checking` is ready or refused later.

    get   the row by team and id
    """
    here = services()
    here.enqueue(check.id, check.queue, check.priority, marked=True)
    if row.bytes > here.settings.check_at_once_bytes:
        return row
    here.wait_until_ended(check.id, seconds=here.check_wait_seconds)
    with here.database.read() as rows:
        row = get(rows, row.team_id, row.id)
    if row.state != "refused":
        return row
    with here.database.write() as rows:
        undo(rows)
    errors = list(row.errors or [])
    if any(error["in"] != "file" for error in errors):
        raise ImpossibleRoles(errors)
    more = " There are more faults in the file." if len(errors) > 1 else ""
    raise Problem(slug, errors[0]["detail"] + more, errors)


def check_stored(
    file: StoredFile,
    insert: Callable[[Session], tuple[Checked, JobView]],
    *,
    get: Callable[[Session, str, str], Checked],
    delete: Callable[[Session, str, str], object],
    slug: str,
) -> Checked:
    """The data set or network of a stored file, `ready` or `checking`.

    insert   the row, and its check
    Raises the problem `slug` of a refused file, which is freed.
    """
    here, team_id = services(), caller().team_id
    with here.database.write() as rows:
        row, check = insert(rows)
    if not here.files.exists(file.sha256):  # freed by another request between its arrival and its row
        with here.database.write() as rows:
            delete(rows, team_id, row.id)
        raise Problem("unavailable", "The file was lost on its way to the store; send it again.")

    def undo(rows: Session) -> None:
        delete(rows, team_id, row.id)
        free(rows, here.files, [file.sha256])

    return checked(row, check, undo=undo, get=get, slug=slug)


def shown(row: Dataset) -> DatasetOut:
    """The response for a data set."""
    item = DatasetItem.model_validate(row)
    return DatasetOut(
        **item.model_dump(),
        maker=row.maker,
        roles=row.roles,
        notes=(row.preview or {}).get("notes", []),
        errors=(row.errors or []) if row.state == "refused" else [],
    )


def address(row: Dataset) -> str:
    """Where the data set is found."""
    return f"/api/v1/datasets/{row.id}"
