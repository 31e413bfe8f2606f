"""Uploads: one multipart request, or a resumable upload in parts; both become a data set."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import IO, Annotated, Any, Generic, TypeVar

from flask import Request, Response, request
from pydantic import Field, ValidationError
from sqlalchemy.orm import Session
from werkzeug.datastructures import Headers
from werkzeug.exceptions import ClientDisconnected, RequestEntityTooLarge
from werkzeug.http import parse_options_header
from werkzeug.sansio import multipart

from api.auth import Access, audit, caller
from api.datasets import DatasetOut, Format, MadeDataset, Roles, address, checked, make_dataset
from api.datasets import api as datasets_api
from api.datasets import shown as shown_dataset
from api.problems import Problem, field_errors, fields_problem, invalid, too_large, wrong
from api.routing import Resource, answer
from api.schemas import Body, DatasetId, InPath, Label, ResponseModel, identifier
from api.services import services
from bimt_engine.data.roles import FORMATS
from store import datasets, operations
from store.errors import QuotaExceeded, TooLarge
from store.files import StoredFile, free
from store.tables import Dataset, Upload


class UploadFields(Roles):
    """What may accompany the file of an upload."""

    name: Label | None = None
    format: Format | None = Field(default=None, description="Null: as the file's name ends.")


SHA256 = r"^[0-9a-f]{64}$"


class UploadIn(Body):
    """A file that will be sent in parts."""

    name: Label = Field(description="As the file is called; its ending says the format unless `format` does.")
    bytes: int = Field(ge=1, le=2**50, description="How long the whole file is.")
    format: Format | None = Field(default=None, description="Null: as the name ends.")
    roles: Roles | None = Field(default=None, description="Other column roles than those that will be understood.")
    sha256: Annotated[str, Field(pattern=SHA256)] | None = Field(
        default=None, description="Of the whole file, in hex: bytes that your team has already need not be sent again."
    )


class UploadPath(InPath):
    """Which upload."""

    upload_id: identifier("upload")  # type: ignore[valid-type]


class PartPath(UploadPath):
    """Which part of it: the one that begins at this byte."""

    start: int = Field(ge=0, le=2**50)


class UploadOut(ResponseModel):
    """How far an upload is. The next part begins at `received`."""

    id: str
    name: str
    bytes: int
    received: int
    largest_part: int = Field(description="Bytes that one part may have.")
    dataset_id: DatasetId | None = Field(default=None, description="What it became; null until it is completed.")
    created_at: datetime
    expires_at: datetime


ENDINGS = {
    ".csv": "csv",
    ".tsv": "csv",
    ".txt": "csv",
    ".npz": "npz",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".idx": "idx",
    ".idx.gz": "idx",
    "-ubyte": "idx",
    "-ubyte.gz": "idx",
    ".cayley": "cayley",
    ".json": "cayley",
}


def or_list(names: Sequence[str]) -> str:
    """`a, b or c`."""
    return f"{', '.join(names[:-1])} or {names[-1]}"


def format_of(file_name: str) -> str | None:
    """The format that the ending of a file's name stands for."""
    return next((form for ending, form in ENDINGS.items() if file_name.lower().endswith(ending)), None)


CHUNK = 256 * 1024  # bytes read from the connection at once
OVERHEAD = 2 * 1024 * 1024  # bytes of a multipart body that are not the file
MAX_FIELD_BYTES = 1024 * 1024  # of all text fields together
MAX_PARTS = 12_000  # ten thousand column names and some more
MAX_BUFFER = 2 * CHUNK + 64 * 1024  # a part's headers must end within this

T = TypeVar("T")
Sink = Callable[[str, Iterator[bytes]], T]


@dataclass
class Form(Generic[T]):
    """A received form: text fields by name, and the result of the sink for the file."""

    fields: dict[str, list[str]] = field(default_factory=dict)
    file_name: str = ""
    file: T | None = None


def receive(request: Request, sink: Sink[T], *, limit: int) -> Form[T]:
    """Read a multipart body whose one file part is called `file`.

    sink    gets the file's name and its bytes piece by piece, and must use them up.
    limit   bytes of the file. Raises the problem `too-large` as soon as it is passed, or at once when the
            header Content-Length already says so.
    """
    kind, options = parse_options_header(request.headers.get("Content-Type"))
    boundary = options.get("boundary", "")
    if kind != "multipart/form-data" or not boundary:
        raise Problem("media-type", "An upload is sent as multipart/form-data with a boundary.")
    request.max_content_length = limit + OVERHEAD
    received: Form[T] = Form()
    try:
        _read(_Events(request.stream, boundary), sink, received)
    except RequestEntityTooLarge:
        raise too_large("The upload", limit, pointer="/file") from None
    except ValueError as error:
        raise Problem("malformed-request", f"The multipart body cannot be read: {error}.") from None
    return received


class _Events:
    """The multipart parts of a stream, with memory for one piece only."""

    def __init__(self, stream: IO[bytes], boundary: str) -> None:
        self.stream = stream
        self.decoder = multipart.MultipartDecoder(boundary.encode("latin-1"), MAX_BUFFER, max_parts=MAX_PARTS)

    def next(self) -> multipart.Event:
        while True:
            event = self.decoder.next_event()
            if not isinstance(event, multipart.NeedData):
                return event
            self.decoder.receive_data(self.stream.read(CHUNK) or None)


def _read(events: _Events, sink: Sink[T], received: Form[T]) -> None:
    used = 0
    while True:
        event = events.next()
        if isinstance(event, multipart.Epilogue):
            return
        if isinstance(event, multipart.File):
            if event.name != "file" or received.file is not None:
                sentence = "Send exactly one file, in a part that is called `file`."
                raise Problem("invalid-fields", sentence, [wrong(f"/{event.name}", sentence, place="file")])
            received.file_name = event.filename
            received.file = sink(event.filename, _data(events))
        elif isinstance(event, multipart.Field):
            content = bytearray()
            for piece in _data(events):
                used += len(piece)
                if used > MAX_FIELD_BYTES:
                    raise too_large("The text of all fields together", MAX_FIELD_BYTES)
                content += piece
            text = _decoded(event.name, bytes(content), event.headers)
            received.fields.setdefault(event.name, []).append(text)


def _data(events: _Events) -> Iterator[bytes]:
    more = True
    while more:
        event = events.next()
        if not isinstance(event, multipart.Data):
            raise ValueError("a part ends unexpectedly")
        more = event.more_data
        if event.data:
            yield bytes(event.data)


def _decoded(name: str, content: bytes, headers: Headers) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        raise invalid(f"/{name}", "This field is not UTF-8 text.") from None


def flat_fields(fields: dict[str, list[str]], *, lists: tuple[str, ...]) -> dict[str, Any]:
    """Form fields as a document: those in `lists` may repeat, all others may not."""
    document: dict[str, Any] = {}
    for name, values in fields.items():
        if name in lists:
            document[name] = values
        elif len(values) > 1:
            raise invalid(f"/{name}", "This field may be given only once.")
        else:
            document[name] = values[0]
    return document


api = Resource("uploads", "Large files in parts, one after another.")

KEPT = timedelta(days=2)  # an upload that is not completed by then is forgotten

PART_BODY = {
    "required": True,
    "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
}


@api.route("post", "/uploads", requires=Access.SUBMIT, answers={201: UploadOut}, problems=(413,))
def begin_upload(body: UploadIn) -> Response:
    """Announce a file. Send its parts to /uploads/{id}/parts/{offset}, in order, then complete it.

    Bytes that the team has already, recognised by their SHA-256, need no parts: complete it at once.
    """
    here, who = services(), caller()
    if body.bytes > here.settings.max_upload_bytes:
        raise too_large("The upload", here.settings.max_upload_bytes)
    form = body.format or format_of(body.name)
    if form is None:
        raise invalid("/format", f"What format is `{body.name[:80]}`? Say {or_list(FORMATS)}.")
    now = here.now()
    with here.database.write() as rows:
        upload = datasets.begin_upload(
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
            datasets.add_part(rows, who.team_id, upload.id, start=0, file=file, now=now)
        audit(rows, "upload.begin", upload.id, name=body.name, bytes=body.bytes)
        return answer(_shown(rows, upload), 201, Location=f"/api/v1/uploads/{upload.id}")


@api.route("get", "/uploads/<string:upload_id>", requires=Access.SUBMIT, answers={200: UploadOut})
def get_upload(path: UploadPath) -> Response:
    """How far it is: after a cut, go on from `received`."""
    with services().database.read() as rows:
        return answer(_shown(rows, datasets.get_upload(rows, caller().team_id, path.upload_id)))


@api.route(
    "put",
    "/uploads/<string:upload_id>/parts/<int:start>",
    requires=Access.SUBMIT,
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
        upload = datasets.get_upload(rows, team_id, path.upload_id)
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
        datasets.add_part(rows, team_id, path.upload_id, start=path.start, file=file, now=here.now())
        shown = _shown(rows, datasets.get_upload(rows, team_id, path.upload_id))
    if not here.files.exists(file.sha256):  # freed by another upload that has ended meanwhile
        with here.database.write() as rows:
            datasets.drop_part(rows, path.upload_id, path.start)
        raise Problem("unavailable", "The part was lost on its way to the store; send it again.")
    return answer(shown)


@api.route(
    "post",
    "/uploads/<string:upload_id>/complete",
    requires=Access.SUBMIT,
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
        upload = datasets.get_upload(rows, who.team_id, path.upload_id)
        if upload.dataset_id is not None:
            return _became(datasets.get(rows, who.team_id, upload.dataset_id))
        parts = datasets.upload_parts(rows, upload)
        content = datasets.upload_content(rows, upload, here.files)
    # One part is the whole file already: nothing is copied.
    file = parts[0] if len(parts) == 1 else here.files.put_stream(content)
    row = _check_stored(file, upload.name, upload.format or "", dict(upload.roles or {}), reserved=upload.bytes)
    with here.database.write() as rows:
        upload = datasets.get_upload(rows, who.team_id, path.upload_id, lock=True)
        if upload.dataset_id is not None:  # another request has completed it meanwhile
            datasets.delete(rows, who.team_id, row.id)
            return _became(datasets.get(rows, who.team_id, upload.dataset_id))
        datasets.complete_upload(rows, upload, row.id)
        audit(rows, "dataset.upload", row.id, upload=upload.id)
        response = _became(row)
    with here.database.write() as rows:
        free(rows, here.files, [part.sha256 for part in parts])
    return response


@api.route("delete", "/uploads/<string:upload_id>", requires=Access.SUBMIT, answers={204: None})
def give_up_upload(path: UploadPath) -> Response:
    """Give it up; what had arrived is freed. What it became stays."""
    here = services()
    with here.database.write() as rows:
        upload = datasets.get_upload(rows, caller().team_id, path.upload_id)
        names = [part.sha256 for part in datasets.upload_parts(rows, upload)]
        datasets.delete_upload(rows, caller().team_id, path.upload_id)
        audit(rows, "upload.delete", path.upload_id)
    with here.database.write() as rows:
        free(rows, here.files, names)
    return Response(status=204)


def _shown(rows: Session, upload: Upload) -> UploadOut:
    received = upload.bytes if upload.dataset_id is not None else datasets.received_bytes(rows, upload)
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
    return answer(shown_dataset(row), status, Location=address(row))


# --- one request ----------------------------------------------------------------------------------------------

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


@datasets_api.route(
    "post",
    "/datasets",
    requires=Access.SUBMIT,
    answers={201: DatasetOut, 202: DatasetOut},
    extensions={"requestBody": UPLOAD_BODY},
    models=(MadeDataset,),
)
def create_dataset() -> Response:
    """Upload a file, or name a maker of the catalogue.

    A small file is checked at once: 201, or 422 that names row and column. A large one, or one whose check takes
    longer than two seconds, is answered with 202 and the state `checking`; ask again until it is `ready` or `refused`.
    """
    if request.mimetype == "multipart/form-data":
        return _upload()
    if request.is_json:
        return make_dataset()
    raise Problem("media-type", "Send the file as multipart/form-data, or a maker as application/json.")


def _upload() -> Response:
    here = services()
    limit = min(here.settings.max_upload_bytes, here.settings.max_part_bytes)
    stored: list[StoredFile] = []

    def sink(_: str, chunks: Iterator[bytes]) -> StoredFile:
        stored.append(here.files.put_stream(chunks, limit=limit))
        return stored[0]

    try:
        form = receive(request, sink, limit=limit)
        if form.file is None:
            raise invalid("/file", "The file is missing; send it in a part that is called `file`.")
        fields = _fields(form.fields)
        format = fields.format or format_of(form.file_name)
        if format is None:
            sentence = f"What format is `{form.file_name[:80]}`? Say {or_list(FORMATS)}."
            raise invalid("/format", sentence)
        roles = fields.model_dump(exclude_unset=True, exclude={"name", "format"})
        row = _check_stored(form.file, fields.name or form.file_name[:120] or "upload", format, roles)
    except (TooLarge, QuotaExceeded, Problem) as error:
        with here.database.write() as rows:
            free(rows, here.files, [file.sha256 for file in stored])
        if isinstance(error, TooLarge):
            raise too_large("The upload", error.limit, pointer="/file") from None
        raise
    with here.database.write() as rows:
        audit(rows, "dataset.upload", row.id)
    return _became(row)


def _fields(sent: dict[str, list[str]]) -> UploadFields:
    document = flat_fields(sent, lists=("inputs", "targets"))
    try:
        return UploadFields.model_validate(document)
    except ValidationError as error:
        raise fields_problem(field_errors(error, document)) from None


def _check_stored(file: StoredFile, name: str, format: str, roles: dict[str, Any], *, reserved: int = 0) -> Dataset:
    """The data set of a stored file, `ready` or `checking`. Raises the problem of a refused file, which is freed.

    reserved   bytes that the team's quota counts for it already
    """
    here, who = services(), caller()
    with here.database.write() as rows:
        row = datasets.register(
            rows,
            team_id=who.team_id,
            member_id=who.member_id,
            name=name,
            kind="uploaded",
            sha256=file.sha256,
            bytes=file.bytes,
            reserved=reserved,
            format=format,
            roles=roles,
            state="checking",
            now=here.now(),
        )
        check = operations.submit_check(rows, row, now=here.now())
    if not here.files.exists(file.sha256):  # freed by another request between its arrival and its row
        with here.database.write() as rows:
            datasets.delete(rows, who.team_id, row.id)
        raise Problem("unavailable", "The file was lost on its way to the store; send it again.")

    def undo(rows: Session) -> None:
        datasets.delete(rows, who.team_id, row.id)
        free(rows, here.files, [file.sha256])

    return checked(row, check, undo=undo)
