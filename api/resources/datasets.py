"""Addresses of data sets: upload, make, look at, delete."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flask import Response, request
from pydantic import ValidationError

from api.auditing import note
from api.auth import Access, caller
from api.checks import amended_roles, format_of, settle_roles, understand
from api.door import Noun, answer, binary
from api.paging import cursor, key_of
from api.problems import Problem, field_errors, fields_problem, invalid, too_large
from api.schemas.datasets import (
    DatasetChange,
    DatasetItem,
    DatasetOut,
    DatasetPage,
    DatasetPath,
    DatasetsQuery,
    MadeDataset,
    PreviewOut,
    UploadFields,
)
from api.services import services
from api.uploads import Spooled, flat_fields, receive, spool
from store import datasets
from store.errors import TooLarge
from store.files import free
from store.tables import Dataset

api = Noun("datasets", "Data to learn from: uploaded by you, or made by the catalogue.")

CONTENT_TYPES = {"csv": "text/csv", "parquet": "application/vnd.apache.parquet", "cayley": "application/json"}

UPLOAD_BODY = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["file"],
                "properties": {
                    "file": {
                        "type": "string",
                        "format": "binary",
                        "description": "CSV, NPZ, Parquet, IDX(.gz) or a Cayley table.",
                    },
                    **{name: schema for name, schema in UploadFields.model_json_schema()["properties"].items()},
                },
                "additionalProperties": False,
            },
            "encoding": {"inputs": {"style": "form", "explode": True}, "targets": {"style": "form", "explode": True}},
        },
        "application/json": {"schema": {"$ref": "#/components/schemas/MadeDataset"}},
    },
}


@api.at(
    "post",
    "/datasets",
    needs=Access.SUBMIT,
    answers={201: DatasetOut, 202: DatasetOut},
    extensions={"requestBody": UPLOAD_BODY},
    models=(MadeDataset,),
)
def create_dataset() -> Response:
    """Upload a file, or name a maker of the catalogue.

    A small file is checked at once: 201, or 422 that names row and column. A large one is answered with 202 and the
    state `checking`; ask again until it is `ready` or `refused`.
    """
    if request.mimetype == "multipart/form-data":
        return _upload()
    if request.is_json:
        return _make()
    raise Problem("media-type", "Send the file as multipart/form-data, or a maker as application/json.")


@api.at("get", "/datasets", needs=Access.READ, answers={200: DatasetPage})
def list_datasets(query: DatasetsQuery) -> Response:
    """The team's data sets, newest first."""
    here = services()
    with here.database.read() as rows:
        page = datasets.page(
            rows, caller().team_id, state=query.state, q=query.q, after=key_of(query.after), limit=query.limit
        )
        items = [DatasetItem.model_validate(row) for row in page.rows]
        return answer(DatasetPage(items=items, next=cursor(page.after)))


@api.at("get", "/datasets/<string:dataset_id>", needs=Access.READ, answers={200: DatasetOut})
def get_dataset(path: DatasetPath) -> Response:
    """One data set."""
    here = services()
    with here.database.read() as rows:
        row = datasets.get(rows, caller().team_id, path.dataset_id)
    if row.state == "checking":
        here.checker.look()
    return answer(shown(row))


@api.at("get", "/datasets/<string:dataset_id>/preview", needs=Access.READ, answers={200: PreviewOut}, problems=(409,))
def preview_dataset(path: DatasetPath) -> Response:
    """What was understood of it: columns, their types and ranges, the first rows."""
    with services().database.read() as rows:
        row = datasets.get(rows, caller().team_id, path.dataset_id)
        if row.state != "ready":
            raise Problem("conflict", f"The data set is {row.state}; there is no preview of it.")
        return answer(PreviewOut.model_validate(row.preview or {}))


@api.at(
    "get",
    "/datasets/<string:dataset_id>/content",
    needs=Access.READ,
    answers={200: binary("application/octet-stream", "The bytes as they were uploaded.")},
    problems=(409,),
)
def dataset_content(path: DatasetPath) -> Response:
    """The bytes as they were uploaded."""
    here = services()
    with here.database.read() as rows:
        row = datasets.get(rows, caller().team_id, path.dataset_id)
        if row.sha256 is None:
            raise Problem("conflict", f"`{row.name}` was not uploaded; its maker computes it anew in every run.")
        sha256, size, form = row.sha256, row.bytes, row.format or "bin"
    response = Response(here.files.stream(sha256), content_type="application/octet-stream", direct_passthrough=True)
    response.content_length = size
    response.headers["Content-Disposition"] = f'attachment; filename="{path.dataset_id}.{form}"'
    response.set_etag(sha256)
    return response


@api.at(
    "patch",
    "/datasets/<string:dataset_id>",
    needs=Access.SUBMIT,
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
    values: dict[str, Any] = {} if name is None else {"name": name}
    if asked:
        values |= _with_roles(row, asked)
    if values:
        with here.database.write() as rows:
            row = datasets.change(rows, row, **values)
            note(rows, "dataset.change", row.id, changed=sorted(body.model_fields_set))
    if row.state != "checking":
        return answer(shown(row))
    here.checker.look()
    return answer(shown(row), 202, Location=_address(row))


@api.at("delete", "/datasets/<string:dataset_id>", needs=Access.SUBMIT, answers={204: None}, problems=(409,))
def delete_dataset(path: DatasetPath) -> Response:
    """Delete it. Jobs that used it keep their results; bytes that nothing else needs are freed."""
    here = services()
    with here.database.write() as rows:
        sha256 = datasets.delete(rows, caller().team_id, path.dataset_id)
        note(rows, "dataset.delete", path.dataset_id)
    if sha256 is not None:
        with here.database.write() as rows:
            free(rows, here.files, [sha256])
    return Response(status=204)


# --- made ------------------------------------------------------------------------------------------------


def _make() -> Response:
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
        note(rows, "dataset.make", row.id)
        return answer(shown(row), 201, Location=_address(row))


# --- uploaded ----------------------------------------------------------------------------------------------


def _upload() -> Response:
    here = services()
    held: list[Path] = []

    def sink(file_name: str, chunks: Iterator[bytes]) -> Any:
        spooled = spool(chunks, directory=here.files.spool, small=here.settings.check_at_once_bytes)
        held.append(spooled.path)
        if spooled.rest is None:
            return spooled
        return here.files.put_stream(spooled.pieces(), limit=here.settings.max_upload_bytes)

    try:
        received = receive(request, sink, limit=here.settings.max_upload_bytes)
        if received.file is None:
            raise invalid("/file", "The file is missing; send it in a part that is called `file`.")
        fields = _fields(received.fields)
        form = fields.format or format_of(received.file_name)
        if form is None:
            raise invalid(
                "/format", f"What format is `{received.file_name[:80]}`? Say csv, npz, parquet, idx or cayley."
            )
        name = fields.name or received.file_name[:120] or "upload"
        if isinstance(received.file, Spooled):
            return _keep_small(received.file, fields, form, name)
        return _keep_large(received.file, fields, form, name)
    except TooLarge as error:
        raise too_large("The upload", error.limit, pointer="/file") from None
    finally:
        for path in held:
            path.unlink(missing_ok=True)


def _fields(sent: dict[str, list[str]]) -> UploadFields:
    document = flat_fields(sent, lists=("inputs", "targets"))
    try:
        return UploadFields.model_validate(document)
    except ValidationError as error:
        raise fields_problem(field_errors(error, document)) from None


def _keep_small(spooled: Spooled, fields: UploadFields, form: str, name: str) -> Response:
    here, who = services(), caller()
    asked = fields.model_dump(exclude_unset=True, exclude={"name", "format"})
    preview, roles = understand(spooled.path, form=form, settings=here.settings, asked=asked)
    stored = here.files.put_stream(spooled.pieces(), limit=here.settings.max_upload_bytes)
    with here.database.write() as rows:
        row = datasets.register(
            rows,
            team_id=who.team_id,
            member_id=who.member_id,
            name=name,
            kind="uploaded",
            sha256=stored.sha256,
            bytes=stored.bytes,
            format=form,
            preview=preview,
            roles=roles,
            task=roles["task"],
            rows=preview.get("rows"),
            columns=len(preview.get("columns", [])),
            state="ready",
            now=here.now(),
        )
        note(rows, "dataset.upload", row.id)
        response = answer(shown(row), 201, Location=_address(row))
    _still_there(row)
    return response


def _with_roles(row: Dataset, asked: dict[str, Any]) -> dict[str, Any]:
    """The columns of a data set's row when these roles are asked for. Raises the problem of roles that cannot be."""
    here = services()
    if row.sha256 is None:
        sentence = f"`{row.name}` is made, not uploaded: its columns have no roles to change."
        raise invalid(f"/{next(iter(asked))}", sentence)
    if row.state == "checking":
        raise Problem("conflict", "The data set is still being checked; change its roles when it is ready or refused.")
    before = dict(row.roles or {})
    roles = amended_roles(before, asked)
    if row.state == "ready":
        roles = settle_roles(row.preview or {}, roles)
        if all(roles[name] == before.get(name) for name in ("inputs", "targets", "task")):
            return {"roles": roles}  # the same columns: nothing is to be looked at again
    if row.bytes > here.settings.check_at_once_bytes:
        return {"roles": roles, "state": "checking", "checked_at": None, "errors": None}
    with here.files.path(row.sha256) as local:
        preview, roles = understand(local, form=row.format or "", settings=here.settings, asked=roles)
    return {
        "roles": roles,
        "preview": preview,
        "task": roles["task"],
        "rows": preview.get("rows"),
        "columns": len(preview.get("columns", [])),
        "state": "ready",
        "checked_at": here.now(),
        "errors": None,
    }


def _keep_large(stored: Any, fields: UploadFields, form: str, name: str) -> Response:
    here, who = services(), caller()
    with here.database.write() as rows:
        row = datasets.register(
            rows,
            team_id=who.team_id,
            member_id=who.member_id,
            name=name,
            kind="uploaded",
            sha256=stored.sha256,
            bytes=stored.bytes,
            format=form,
            roles=fields.model_dump(exclude_unset=True, exclude={"name", "format"}),
            state="checking",
            now=here.now(),
        )
        note(rows, "dataset.upload", row.id)
        response = answer(shown(row), 202, Location=_address(row))
    _still_there(row)
    here.checker.look()
    return response


def _still_there(row: Dataset) -> None:
    """The same bytes may have been freed between their coming in and their row. Raises the problem that they were."""
    here = services()
    if row.sha256 is not None and not here.files.exists(row.sha256):
        with here.database.write() as rows:
            datasets.delete(rows, row.team_id, row.id)
        raise Problem("unavailable", "The file was lost on its way to the store; send it again.")


def shown(row: Dataset) -> DatasetOut:
    """A data set as it goes over the wire."""
    item = DatasetItem.model_validate(row)
    return DatasetOut(
        **item.model_dump(),
        maker=row.maker,
        roles=row.roles,
        notes=(row.preview or {}).get("notes", []),
        errors=(row.errors or []) if row.state == "refused" else [],
    )


def _address(row: Dataset) -> str:
    return f"/api/v1/datasets/{row.id}"
