"""Uploads: one multipart request, or a resumable upload in parts, becomes a data set; one in parts may be a network."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Annotated, Any

from flask import Response, request
from pydantic import Field
from sqlalchemy.orm import Session
from werkzeug.exceptions import ClientDisconnected, RequestEntityTooLarge

from api.auth import Access, audit, caller
from api.datasets import DatasetOut, Format, MadeDataset, Roles, address, check_stored, make_dataset
from api.datasets import api as datasets_api
from api.datasets import shown as shown_dataset
from api.multipart import CHUNK, Form, fields_of, flat_fields, free_refused, store_file
from api.networks import NetworkOut, check_stored_network, format_of_network, network_answer
from api.problems import Problem, invalid, too_large
from api.routing import Resource, answer
from api.schemas import Body, DatasetId, InPath, Label, NetworkId, ResponseModel, identifier
from api.services import services
from bimt_engine.data.roles import FORMATS, format_by_bytes
from bimt_engine.spec import NetworkConfig, NetworkFormat
from store import datasets, networks, operations
from store.errors import TooLarge
from store.files import StoredFile, free
from store.jobs import JobView
from store.networks import NETWORK_FORMATS
from store.tables import Dataset, Network, Upload


class UploadFields(Roles):
    """What may accompany the file of an upload."""

    name: Label | None = None
    format: Format | None = Field(default=None, description="Null: as the file's name ends.")


SHA256 = r"^[0-9a-f]{64}$"


class UploadIn(Body):
    """A file that will be sent in parts."""

    name: Label = Field(description="As the file is called; its ending says the format unless `format` does.")
    bytes: int = Field(ge=1, le=2**50, description="How long the whole file is.")
    format: Format | NetworkFormat | None = Field(
        default=None, description="Null: as the name ends. `onnx` and `safetensors` become a network, all else data."
    )
    config: NetworkConfig | None = Field(default=None, description="What the weights in a safetensors file are of.")
    roles: Roles | None = Field(default=None, description="Column roles that replace those that would be chosen.")
    sha256: Annotated[str, Field(pattern=SHA256)] | None = Field(
        default=None,
        description="SHA-256 of the whole file, in hex: bytes that your team has already need not be sent again.",
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
    network_id: NetworkId | None = Field(default=None, description="The same for a network.")
    created_at: datetime
    expires_at: datetime


ENDINGS = {
    **{f".{text}{packed}": "csv" for text in ("csv", "tsv", "tab", "txt") for packed in ("", ".gz", ".zip")},
    ".xlsx": "xlsx",
    ".xlsm": "xlsx",
    ".arrow": "arrow",
    ".feather": "arrow",
    ".ipc": "arrow",
    ".npy": "npy",
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


api = Resource("uploads", "Large files in parts, one after another.")

KEPT = timedelta(days=2)  # an upload that is not completed by then is forgotten

# What a completed upload is answered with.
COMPLETED: dict[str, Any] = {
    "description": "What it became: a data set, or a network.",
    "content": {
        "application/json": {
            "schema": {
                "oneOf": [{"$ref": "#/components/schemas/DatasetOut"}, {"$ref": "#/components/schemas/NetworkOut"}]
            }
        }
    },
}

PART_BODY = {
    "required": True,
    "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
}


@api.route("post", "/uploads", requires=Access.SUBMIT, answers={201: UploadOut}, problems=(413,))
def begin_upload(body: UploadIn) -> Response:
    """Declare a file. Send its parts to /uploads/{id}/parts/{offset}, in order, then complete it.

    Bytes that the team has already, recognised by their SHA-256, need no parts: complete it at once.
    """
    here, who = services(), caller()
    if body.bytes > here.settings.max_upload_bytes:
        raise too_large("The upload", here.settings.max_upload_bytes)
    form = body.format or format_of(body.name) or format_of_network(body.name)
    if form is None:
        sentence = f"What format is `{body.name[:80]}`? Say {or_list((*FORMATS, *NETWORK_FORMATS))}."
        raise invalid("/format", sentence)
    is_network = form in NETWORK_FORMATS
    if body.roles is not None and is_network:
        raise invalid("/roles", f"A network has no columns; leave `roles` out, or say another format than {form}.")
    if body.config is not None and form != "safetensors":
        raise invalid("/config", f"Only weights in a safetensors file need a config, and this is {form}.")
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
            config=None if body.config is None else body.config.model_dump(mode="json"),
            expires_at=now + KEPT,
            now=now,
        )
        with_content = networks.with_content if is_network else datasets.with_content
        known = with_content(rows, who.team_id, body.sha256) if body.sha256 else None
        if known is not None and known.sha256 is not None and known.bytes == body.bytes:
            file = StoredFile(known.sha256, known.bytes)
            datasets.add_part(rows, who.team_id, upload.id, start=0, file=file, now=now)
        audit(rows, "upload.begin", upload.id, name=body.name, bytes=body.bytes)
        return answer(_shown(rows, upload), 201, Location=f"/api/v1/uploads/{upload.id}")


@api.route("get", "/uploads/<string:upload_id>", requires=Access.SUBMIT, answers={200: UploadOut})
def get_upload(path: UploadPath) -> Response:
    """How far it is: after a broken connection, continue from `received`."""
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
        if (became := upload.dataset_id or upload.network_id) is not None:
            raise Problem("conflict", f"Upload `{upload.id}` is complete; it became `{became}`.")
        so_far = datasets.received_bytes(rows, upload)
    if path.start > so_far:  # before its bytes are stored
        raise Problem("conflict", f"Upload `{upload.id}` has {so_far} bytes; the next part starts there.")
    if (end := path.start + (request.content_length or 0)) > upload.bytes:
        sentence = f"Upload `{upload.id}` was declared with {upload.bytes} bytes; this part goes on to byte {end}."
        raise Problem("conflict", sentence)
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
    try:
        with here.database.write() as rows:
            datasets.add_part(rows, team_id, path.upload_id, start=path.start, file=file, now=here.now())
            shown = _shown(rows, datasets.get_upload(rows, team_id, path.upload_id))
    except Exception:
        free_refused([file])
        raise
    if not here.files.exists(file.sha256):  # freed by another upload that has ended meanwhile
        with here.database.write() as rows:
            datasets.drop_part(rows, path.upload_id, path.start)
        raise Problem("unavailable", "The part was lost on its way to the store; send it again.")
    return answer(shown)


@api.route(
    "post",
    "/uploads/<string:upload_id>/complete",
    requires=Access.SUBMIT,
    answers={201: COMPLETED, 202: COMPLETED},
    problems=(409,),
    models=(DatasetOut, NetworkOut),
)
def complete_upload(path: UploadPath) -> Response:
    """All parts are there: the file becomes a data set or a network, as if it had been sent at once.

    Completing twice is the same.

    A small file is checked at once, 201 or 422; a large one is answered with 202 and the state `checking`. After a 422
    the parts stay until they are deleted or have waited two days.
    """
    here, who = services(), caller()
    with here.database.read() as rows:
        upload = datasets.get_upload(rows, who.team_id, path.upload_id)
        if (response := _completed(rows, upload)) is not None:
            return response
        parts = datasets.upload_parts(rows, upload)
        content = datasets.upload_content(rows, upload, here.files)
    # One part is the whole file already: nothing is copied.
    file = parts[0] if len(parts) == 1 else here.files.put_stream(content)
    form, is_network = upload.format or "", upload.format in NETWORK_FORMATS
    row: Dataset | Network
    if is_network:
        row = check_stored_network(file, upload.name, form, upload.config, reserved=upload.bytes)
    else:
        row = _check_stored(file, upload.name, form, dict(upload.roles or {}), reserved=upload.bytes)
    with here.database.write() as rows:
        upload = datasets.get_upload(rows, who.team_id, path.upload_id, lock=True)
        if (other := _completed(rows, upload)) is not None:  # by another request meanwhile
            (networks if is_network else datasets).delete(rows, who.team_id, row.id)
            return other
        datasets.complete_upload(rows, upload, **{"network_id" if is_network else "dataset_id": row.id})
        audit(rows, f"{'network' if is_network else 'dataset'}.upload", row.id, upload=upload.id)
        response = _became(row)
    with here.database.write() as rows:
        free(rows, here.files, [part.sha256 for part in parts])
    return response


@api.route("delete", "/uploads/<string:upload_id>", requires=Access.SUBMIT, answers={204: None})
def give_up_upload(path: UploadPath) -> Response:
    """Discard it and free what has arrived. A data set or network that it became stays."""
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
    is_complete = upload.dataset_id is not None or upload.network_id is not None
    received = upload.bytes if is_complete else datasets.received_bytes(rows, upload)
    return UploadOut(
        id=upload.id,
        name=upload.name,
        bytes=upload.bytes,
        received=received,
        largest_part=services().settings.max_part_bytes,
        dataset_id=upload.dataset_id,
        network_id=upload.network_id,
        created_at=upload.created_at,
        expires_at=upload.expires_at,
    )


def _completed(rows: Session, upload: Upload) -> Response | None:
    """The answer of an upload that is complete already."""
    if upload.network_id is not None:
        return _became(networks.get(rows, upload.team_id, upload.network_id))
    if upload.dataset_id is not None:
        return _became(datasets.get(rows, upload.team_id, upload.dataset_id))
    return None


def _became(row: Dataset | Network) -> Response:
    if isinstance(row, Network):
        return network_answer(row)
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
                        "description": "CSV or TSV (.gz, .zip), Excel, Parquet, Arrow, NPY, NPZ, IDX(.gz), a Cayley "
                        "table, text, or a ZIP of text or images.",
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
    row = store_file(_dataset_of)
    with services().database.write() as rows:
        audit(rows, "dataset.upload", row.id)
    return _became(row)


def _dataset_of(form: Form[StoredFile], file: StoredFile) -> Dataset:
    fields = fields_of(UploadFields, flat_fields(form.fields, lists=("inputs", "targets")))
    format = fields.format or format_of(form.file_name)
    if format is None:
        with services().files.path(file.sha256) as path:
            format = format_by_bytes(path)
    if format is None:
        sentence = f"What format is `{form.file_name[:80]}`? Say {or_list(FORMATS)}."
        raise invalid("/format", sentence)
    if format in NETWORK_FORMATS:
        raise invalid("/format", f"`{form.file_name[:80]}` is a network, not data: send it to /networks.")
    roles = fields.model_dump(exclude_unset=True, exclude={"name", "format"})
    return _check_stored(file, fields.name or form.file_name[:120] or "upload", format, roles)


def _check_stored(file: StoredFile, name: str, format: str, roles: dict[str, Any], *, reserved: int = 0) -> Dataset:
    """The data set of a stored file: see `check_stored`.

    reserved   bytes that the team's quota counts for it already
    """
    here, who = services(), caller()

    def insert(rows: Session) -> tuple[Dataset, JobView]:
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
        return row, operations.submit_check(rows, row, now=here.now())

    return check_stored(file, insert, get=datasets.get, delete=datasets.delete, slug="unusable-data")
