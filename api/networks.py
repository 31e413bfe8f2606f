"""Networks of users: ONNX files, or weights as safetensors with a config that says which network they are of."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Annotated, Any, Literal

from flask import Response, request
from pydantic import Field
from sqlalchemy.orm import Session

from api.auth import Access, audit, caller
from api.datasets import check_stored
from api.evidence import stored_download
from api.multipart import Form, fields_of, flat_fields, store_file
from api.problems import Problem, invalid
from api.routing import Resource, answer, binary, cursor, key_of
from api.schemas import InPath, Label, MemberId, NetworkId, Page, PageQuery, RequestModel, ResponseModel
from api.services import services
from bimt_engine.spec import NetworkConfig, NetworkFormat
from store import networks, operations
from store.files import StoredFile, free
from store.jobs import JobView
from store.tables import Network

NetworkState = Literal["checking", "ready", "refused"]
ENDINGS = {".onnx": "onnx", ".safetensors": "safetensors"}


def format_of_network(file_name: str) -> str | None:
    """The format of a network that the ending of a file's name stands for."""
    return next((form for ending, form in ENDINGS.items() if file_name.lower().endswith(ending)), None)


class NetworkFields(RequestModel):
    """What may accompany the file of a network."""

    name: Label | None = Field(default=None, description="Null: as the file is called.")
    format: NetworkFormat | None = Field(default=None, description="Null: as the file's name ends.")
    config: NetworkConfig | None = Field(
        default=None,
        description="As JSON: what the weights in a safetensors file are of. Null: it is in the file's metadata, under "
        "`config`, or the file is a weights file of this service.",
    )


class NetworkPath(InPath):
    """Which network."""

    network_id: NetworkId


class NetworksQuery(PageQuery):
    """Which networks."""

    q: Annotated[str, Field(max_length=120)] | None = Field(default=None, description="Part of the name.")
    state: NetworkState | None = None


class NetworkItem(ResponseModel):
    """A network in a list."""

    id: NetworkId
    name: str
    state: NetworkState = Field(description="`checking` becomes `ready` or `refused`.")
    format: NetworkFormat
    bytes: int
    parameters: int | None = Field(default=None, description="Numbers that can be trained.")
    sha256: str
    member_id: MemberId
    created_at: datetime
    checked_at: datetime | None = None


class NetworkEnd(ResponseModel):
    """The input or output of a network; null in `shape` is an axis of free length, the batch first."""

    name: str
    type: str | None = None
    shape: list[int | None]


class NetworkOut(NetworkItem):
    """A network."""

    kind: str | None = Field(default=None, description="For a safetensors file: the architecture.")
    config: dict[str, Any] | None = Field(default=None, description="As it was sent with a safetensors file.")
    operators: dict[str, int] | None = Field(default=None, description="For an ONNX file: how often each is used.")
    opset: int | None = None
    producer: str | None = Field(default=None, description="What wrote an ONNX file.")
    input: NetworkEnd | None = None
    output: NetworkEnd | None = None
    tensors: list[tuple[str, list[int]]] = Field(default=[], description="Names and shapes of what can be trained.")
    notes: list[str] = Field(default=[], description="What was left out, such as the name of the likeliest class.")
    errors: list[dict[str, Any]] = Field(default=[], description="For a refused one: why.")


class NetworkPage(Page):
    """A part of the list of networks, newest first."""

    items: list[NetworkItem]


api = Resource("networks", "Networks of yours: ONNX files, or weights with a config.")

UPLOAD_BODY = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["file"],
                "properties": {
                    "file": {"type": "string", "format": "binary", "description": "ONNX or safetensors."},
                    "name": {"type": "string", "minLength": 1, "maxLength": 120},
                    "format": {"type": "string", "enum": list(ENDINGS.values())},
                    "config": {"$ref": "#/components/schemas/NetworkConfig"},
                },
                "additionalProperties": False,
            },
            "encoding": {"config": {"contentType": "application/json"}},
        },
    },
}


@api.route(
    "post",
    "/networks",
    requires=Access.SUBMIT,
    answers={201: NetworkOut, 202: NetworkOut},
    extensions={"requestBody": UPLOAD_BODY},
    models=(NetworkConfig,),
)
def create_network() -> Response:
    """Upload a network; a large file goes in parts, to /uploads.

    Nothing in it is executed. Operators are those of a list, weights lie in the file itself, and only the batch and the
    time of a sequence may be of free length; a file that is not so is refused with a sentence. A small file is checked
    at once: 201, or 422. A large one, or one whose check takes longer, is answered with 202 and the state `checking`.
    """
    if request.mimetype != "multipart/form-data":
        raise Problem("media-type", "Send the network as multipart/form-data, in a part that is called `file`.")
    row = store_file(_network_of)
    with services().database.write() as rows:
        audit(rows, "network.upload", row.id)
    return network_answer(row)


@api.route("get", "/networks", requires=Access.READ, answers={200: NetworkPage})
def list_networks(query: NetworksQuery) -> Response:
    """The team's networks, newest first."""
    here = services()
    with here.database.read() as rows:
        page = networks.page(
            rows, caller().team_id, state=query.state, q=query.q, after=key_of(query.after), limit=query.limit
        )
        items = [NetworkItem.model_validate(row) for row in page.rows]
        return answer(NetworkPage(items=items, next=cursor(page.after)))


@api.route("get", "/networks/<string:network_id>", requires=Access.READ, answers={200: NetworkOut})
def get_network(path: NetworkPath) -> Response:
    """One network: its operators or its kind, tensors, shapes."""
    with services().database.read() as rows:
        return answer(shown(networks.get(rows, caller().team_id, path.network_id)))


@api.route(
    "get",
    "/networks/<string:network_id>/file",
    requires=Access.READ,
    answers={200: binary("application/octet-stream", "The bytes as they were uploaded.")},
)
def network_file(path: NetworkPath) -> Response:
    """The bytes as they were uploaded."""
    with services().database.read() as rows:
        row = networks.get(rows, caller().team_id, path.network_id)
        sha256, form, name = row.sha256, row.format, row.name
    return stored_download(sha256, name, f"{path.network_id}.{form}")


@api.route("delete", "/networks/<string:network_id>", requires=Access.SUBMIT, answers={204: None}, problems=(409,))
def delete_network(path: NetworkPath) -> Response:
    """Delete it. Jobs that used it keep their results; bytes that nothing else needs are freed."""
    here = services()
    with here.database.write() as rows:
        sha256 = networks.delete(rows, caller().team_id, path.network_id)
        audit(rows, "network.delete", path.network_id)
    with here.database.write() as rows:
        free(rows, here.files, [sha256])
    return Response(status=204)


def check_stored_network(
    file: StoredFile, name: str, form: str, config: dict[str, Any] | None, *, reserved: int = 0
) -> Network:
    """The network of a stored file: see `check_stored`.

    reserved   bytes that the team's quota counts for it already
    """
    here, who = services(), caller()

    def insert(rows: Session) -> tuple[Network, JobView]:
        row = networks.register(
            rows,
            team_id=who.team_id,
            member_id=who.member_id,
            name=name,
            format=form,
            file=file,
            config=config,
            reserved=reserved,
            now=here.now(),
        )
        return row, operations.submit_network_check(rows, row, now=here.now())

    return check_stored(file, insert, get=networks.get, delete=networks.delete, slug="unusable-network")


def network_answer(row: Network) -> Response:
    """201 for a network that is ready, 202 while it is checked."""
    status = 202 if row.state == "checking" else 201
    return answer(shown(row), status, Location=f"/api/v1/networks/{row.id}")


def shown(row: Network) -> NetworkOut:
    """The response for a network."""
    item = NetworkItem.model_validate(row)
    known = {name: value for name, value in (row.header or {}).items() if name in NetworkOut.model_fields}
    errors = (row.errors or []) if row.state == "refused" else []
    return NetworkOut.model_validate(known | item.model_dump() | {"config": row.config, "errors": errors})


def _network_of(form: Form[StoredFile], file: StoredFile) -> Network:
    document = flat_fields(form.fields, lists=())
    if "config" in document:
        try:
            document["config"] = json.loads(document["config"])
        except (ValueError, RecursionError):
            raise invalid("/config", "The config is no JSON.") from None
    fields = fields_of(NetworkFields, document)
    format = fields.format or format_of_network(form.file_name)
    if format is None:
        raise invalid("/format", f"What format is `{form.file_name[:80]}`? Say onnx or safetensors.")
    if fields.config is not None and format != "safetensors":
        raise invalid("/config", f"Only weights in a safetensors file need a config, and this is {format}.")
    config = None if fields.config is None else fields.config.model_dump(mode="json")
    return check_stored_network(file, fields.name or form.file_name[:120] or "upload", format, config)
