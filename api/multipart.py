"""A multipart body with one file, read piece by piece: the file goes to a sink while it arrives."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import IO, Any, Generic, TypeVar

from flask import Request, request
from pydantic import BaseModel, ValidationError
from sqlalchemy.exc import SQLAlchemyError
from werkzeug.exceptions import RequestEntityTooLarge
from werkzeug.http import parse_options_header
from werkzeug.sansio import multipart

from api.problems import Problem, field_errors, fields_problem, invalid, too_large, wrong
from api.services import services
from store.errors import TooLarge
from store.files import StoredFile, free

log = logging.getLogger("api")

CHUNK = 256 * 1024  # bytes read from the connection at once
OVERHEAD = 2 * 1024 * 1024  # bytes of a multipart body that are not the file
MAX_FIELD_BYTES = 1024 * 1024  # of all text fields together
MAX_PARTS = 12_000  # ten thousand column names and some more
MAX_BUFFER = 2 * CHUNK + 64 * 1024  # a part's headers must end within this

T = TypeVar("T")
Fields = TypeVar("Fields", bound=BaseModel)
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
            text = _decoded(event.name, bytes(content))
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


def _decoded(name: str, content: bytes) -> str:
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


def fields_of(model: type[Fields], document: dict[str, Any]) -> Fields:
    """The text fields of a form as a model. Raises the problem of every wrong field."""
    try:
        return model.model_validate(document)
    except ValidationError as error:
        raise fields_problem(field_errors(error, document)) from None


def free_refused(stored: Sequence[StoredFile]) -> None:
    """Delete files that nothing came to refer to. What cannot be written now, the scheduler deletes later."""
    here = services()
    try:
        with here.database.write() as rows:
            free(rows, here.files, [file.sha256 for file in stored])
    except (SQLAlchemyError, TimeoutError) as error:
        log.warning("%d refused files are left to the scheduler: %s", len(stored), error)


def store_file(make: Callable[[Form[StoredFile], StoredFile], T]) -> T:
    """Store the file of the present request, and what `make` makes of the form and the file.

    The file is freed again where it is too large, or where `make` raises.
    """
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
        return make(form, form.file)
    except Exception as error:
        free_refused(stored)
        if isinstance(error, TooLarge):
            raise too_large("The upload", error.limit, pointer="/file") from None
        raise
