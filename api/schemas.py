"""What all request and response models share: strictness, text that every database can hold, problems, pages."""

from __future__ import annotations

import json
from functools import cache
from typing import Annotated, Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field

# PostgreSQL stores no NUL; other control characters have no use here.
PRINTABLE = r"^[^\x00-\x08\x0b\x0c\x0e-\x1f\x7f]*$"
Text = Annotated[str, Field(max_length=10_000, pattern=PRINTABLE)]
Label = Annotated[str, Field(min_length=1, max_length=120, pattern=PRINTABLE)]
Tag = Annotated[str, Field(min_length=1, max_length=40, pattern=r"^[A-Za-z0-9][A-Za-z0-9._:-]*$")]
ID_CHARACTERS = "[0-9a-hjkmnp-tv-z]{26}"


def identifier(prefix: str) -> Any:
    """The type of an id of one resource, such as `job_` and 26 characters."""
    return Annotated[str, Field(pattern=f"^{prefix}_{ID_CHARACTERS}$")]


DatasetId = identifier("dataset")
NetworkId = identifier("network")
JobId = identifier("job")
RunId = identifier("run")
TokenId = identifier("token")
MemberId = identifier("member")
ShareId = identifier("share")
WebhookId = identifier("webhook")
DeliveryId = identifier("delivery")


class RequestModel(BaseModel):
    """Something that was sent to us. Unknown fields are errors: a misspelt filter would silently find everything."""

    place: ClassVar[str] = "body"  # where in the request it stands; problems name it
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    _places: ClassVar[dict[str, str]] = {}

    @classmethod
    def __pydantic_init_subclass__(cls, **options: Any) -> None:
        RequestModel._places[cls.__name__] = cls.place


def place_of(model_name: str) -> str:
    """Where in the request a model of this name stands."""
    return RequestModel._places.get(model_name, "body")


class Body(RequestModel):
    """A JSON body, read strictly: no number is a text and no `true` is a 1."""

    @classmethod
    def model_validate(cls, obj: Any, **options: Any) -> Self:
        """As JSON, so that strictness is JSON's own: 241.0 is an integer there, and a list may become a tuple."""
        return cls.model_validate_json(json.dumps(whole_numbers(obj)), strict=True)


class Query(RequestModel):
    """Parameters of an address."""

    place: ClassVar[str] = "query"


class PageQuery(Query):
    """Which part of a list."""

    after: str | None = Field(default=None, max_length=300, description="The `next` of the page before.")
    limit: int = Field(default=50, ge=1, le=200)


class InPath(RequestModel):
    """The parts of the address itself."""

    place: ClassVar[str] = "path"


class Headers(RequestModel):
    """Headers that mean something to an address; all others are let pass."""

    place: ClassVar[str] = "header"
    model_config = ConfigDict(extra="ignore")

    @classmethod
    @cache
    def model_json_schema(cls, *how: Any, **more: Any) -> dict[str, Any]:  # type: ignore[override]
        """The same schema every time: the router asks for it at every request, and making it takes a millisecond."""
        return super().model_json_schema(*how, **more)


class ResponseModel(BaseModel):
    """Something that we send."""

    model_config = ConfigDict(from_attributes=True, populate_by_name=True)


class WrongField(ResponseModel):
    """One wrong field."""

    place: str = Field(alias="in", description="body, query, path, header or file.")
    pointer: str = Field(description="JSON Pointer (RFC 6901) inside it.")
    detail: str
    row: int | None = Field(default=None, description="Row of a table, counted from 1 without the header.")
    column: str | None = None


class Problem(ResponseModel):
    """What went wrong, as of RFC 9457. `type` leads to a page that explains it."""

    type: str
    title: str
    status: int
    detail: str
    retryable: bool
    errors: list[WrongField] = Field(default=[], description="Every wrong field; absent where there is none.")


class Page(ResponseModel):
    """A part of a list."""

    next: str | None = Field(default=None, description="Send it as `after` for the next page; null on the last one.")


def whole_numbers(value: Any) -> Any:
    """The same JSON value with 241.0 written as 241, as JSON Schema's `integer` sees it.

    A number field takes either, so nothing is lost; infinities stay and are refused later.
    """
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    if isinstance(value, dict):
        return {key: whole_numbers(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [whole_numbers(entry) for entry in value]
    return value
