"""Addresses of uploads in parts: a cut line costs one part only, and everything about them survives a restart."""

from __future__ import annotations

from datetime import timedelta

from flask import Response, request
from sqlalchemy.orm import Session
from werkzeug.exceptions import ClientDisconnected, RequestEntityTooLarge

from api.auditing import note
from api.auth import Access, caller
from api.checks import format_of, understand
from api.door import Noun, answer
from api.problems import Problem, invalid, too_large
from api.resources.datasets import shown as shown_dataset
from api.schemas.datasets import DatasetOut
from api.schemas.uploads import PartPath, UploadIn, UploadOut, UploadPath
from api.services import services
from api.uploads import CHUNK
from store import datasets, uploads
from store.errors import TooLarge
from store.files import StoredFile, free
from store.tables import Dataset, Upload

api = Noun("uploads", "Large files in parts, one after another.")

KEPT = timedelta(days=2)  # an upload that is not completed by then is forgotten

PART_BODY = {
    "required": True,
    "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
}


@api.at("post", "/uploads", needs=Access.SUBMIT, answers={201: UploadOut}, problems=(413,))
def begin_upload(body: UploadIn) -> Response:
    """Announce a file. Send its parts to /uploads/{id}/parts/{offset}, in order, then complete it.

    Bytes that the team has already, told by their SHA-256, need no parts: complete it at once.
    """
    here, who = services(), caller()
    if body.bytes > here.settings.max_upload_bytes:
        raise too_large("The upload", here.settings.max_upload_bytes)
    form = body.format or format_of(body.name)
    if form is None:
        raise invalid("/format", f"What format is `{body.name[:80]}`? Say csv, npz, parquet, idx or cayley.")
    now = here.now()
    with here.database.write() as rows:
        upload = uploads.begin(
            rows,
            team_id=who.team_id,
            member_id=who.member_id,
            name=body.name,
            bytes=body.bytes,
            format=form,
            roles=None if body.roles is None else body.roles.model_dump(exclude_unset=True),
            expires_at=now + KEPT,
            now=now,
        )
        known = datasets.with_content(rows, who.team_id, body.sha256) if body.sha256 else None
        if known is not None and known.sha256 is not None and known.bytes == body.bytes:
            file = StoredFile(known.sha256, known.bytes)
            uploads.add_part(rows, who.team_id, upload.id, start=0, file=file, now=now)
        note(rows, "upload.begin", upload.id, name=body.name, bytes=body.bytes)
        return answer(_shown(rows, upload), 201, Location=f"/api/v1/uploads/{upload.id}")


@api.at("get", "/uploads/<string:upload_id>", needs=Access.SUBMIT, answers={200: UploadOut})
def get_upload(path: UploadPath) -> Response:
    """How far it is: after a cut, go on from `received`."""
    with services().database.read() as rows:
        return answer(_shown(rows, uploads.get(rows, caller().team_id, path.upload_id)))


@api.at(
    "put",
    "/uploads/<string:upload_id>/parts/<int:start>",
    needs=Access.SUBMIT,
    answers={200: UploadOut},
    problems=(409,),
    extensions={"requestBody": PART_BODY},
)
def put_part(path: PartPath) -> Response:
    """One part, beginning at this byte of the file. The same part twice is the same; a gap is a conflict.

    A part counts when it has arrived whole; of one that was cut off nothing is kept.
    """
    here, team_id = services(), caller().team_id
    with here.database.read() as rows:
        upload = uploads.get(rows, team_id, path.upload_id)
        if upload.dataset_id is not None:
            raise Problem("conflict", f"Upload `{upload.id}` is complete; it became `{upload.dataset_id}`.")
    limit = here.settings.max_part_bytes
    request.max_content_length = limit
    try:
        file = here.files.put_stream(iter(lambda: request.stream.read(CHUNK), b""), limit=limit)
    except (RequestEntityTooLarge, TooLarge):
        raise too_large("The part", limit) from None
    except ClientDisconnected:
        raise Problem("malformed-request", "The part was cut off; nothing of it was kept. Send it again.") from None
    if file.bytes == 0:
        raise Problem("malformed-request", "The part is empty; send the bytes as the body.")
    with here.database.write() as rows:
        uploads.add_part(rows, team_id, path.upload_id, start=path.start, file=file, now=here.now())
        shown = _shown(rows, uploads.get(rows, team_id, path.upload_id))
    if not here.files.exists(file.sha256):  # freed at this very moment by another upload that ended
        with here.database.write() as rows:
            uploads.drop_part(rows, path.upload_id, path.start)
        raise Problem("unavailable", "The part was lost on its way to the store; send it again.")
    return answer(shown)


@api.at(
    "post",
    "/uploads/<string:upload_id>/complete",
    needs=Access.SUBMIT,
    answers={201: DatasetOut, 202: DatasetOut},
    problems=(409,),
)
def complete_upload(path: UploadPath) -> Response:
    """All parts are there: the file becomes a data set, as if it had been sent at once. Completing twice is the same.

    A small file is checked at once, 201 or 422; a large one is answered with 202 and the state `checking`. After a 422
    the parts stay until they are deleted or have waited two days.
    """
    here, who = services(), caller()
    with here.database.read() as rows:
        upload = uploads.get(rows, who.team_id, path.upload_id)
        if upload.dataset_id is not None:
            return _became(datasets.get(rows, who.team_id, upload.dataset_id))
        parts = uploads.parts(rows, upload)
        content = uploads.content(rows, upload, here.files)
    # One part is the whole file already: nothing is copied.
    file = parts[0] if len(parts) == 1 else here.files.put_stream(content)
    asked = dict(upload.roles or {})
    small = file.bytes <= here.settings.check_at_once_bytes
    known: dict[str, object] = {"roles": asked, "state": "checking"}
    if small:
        try:
            with here.files.path(file.sha256) as local:
                preview, roles = understand(local, form=upload.format or "", settings=here.settings, asked=asked)
        except Problem:
            with here.database.write() as rows:
                free(rows, here.files, [file.sha256])
            raise
        known = {
            "preview": preview,
            "roles": roles,
            "task": roles["task"],
            "rows": preview.get("rows"),
            "columns": len(preview.get("columns", [])),
            "state": "ready",
        }
    with here.database.write() as rows:
        upload = uploads.get(rows, who.team_id, path.upload_id, lock=True)
        if upload.dataset_id is not None:  # somebody completed it meanwhile
            return _became(datasets.get(rows, who.team_id, upload.dataset_id))
        row = datasets.register(
            rows,
            team_id=who.team_id,
            member_id=who.member_id,
            name=upload.name,
            kind="uploaded",
            sha256=file.sha256,
            bytes=file.bytes,
            reserved=upload.bytes,
            format=upload.format,
            now=here.now(),
            **known,  # type: ignore[arg-type]
        )
        uploads.complete(rows, upload, row.id)
        note(rows, "dataset.upload", row.id, upload=upload.id)
        response = _became(row)
    with here.database.write() as rows:
        free(rows, here.files, [part.sha256 for part in parts])
    if not small:
        here.checker.look()
    return response


@api.at("delete", "/uploads/<string:upload_id>", needs=Access.SUBMIT, answers={204: None})
def give_up_upload(path: UploadPath) -> Response:
    """Give it up; what had arrived is freed. What it became stays."""
    here = services()
    with here.database.write() as rows:
        upload = uploads.get(rows, caller().team_id, path.upload_id)
        names = [part.sha256 for part in uploads.parts(rows, upload)]
        uploads.delete(rows, caller().team_id, path.upload_id)
        note(rows, "upload.delete", path.upload_id)
    with here.database.write() as rows:
        free(rows, here.files, names)
    return Response(status=204)


def _shown(rows: Session, upload: Upload) -> UploadOut:
    received = upload.bytes if upload.dataset_id is not None else uploads.received(rows, upload)
    return UploadOut(
        id=upload.id,
        name=upload.name,
        bytes=upload.bytes,
        received=received,
        largest_part=services().settings.max_part_bytes,
        dataset_id=upload.dataset_id,
        created_at=upload.created_at,
        expires_at=upload.expires_at,
    )


def _became(row: Dataset) -> Response:
    status = 202 if row.state == "checking" else 201
    return answer(shown_dataset(row), status, Location=f"/api/v1/datasets/{row.id}")
