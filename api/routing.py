"""How a route is declared: rule, required access, responses, problems; and the cursors of paged lists."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable
from functools import wraps
from http import HTTPStatus
from typing import Any, TypeVar

from flask import Response
from flask_openapi3 import APIBlueprint, Tag
from pydantic import BaseModel

from api.aliases import ADDRESSES, mark_deprecated
from api.auth import Access, decide
from api.problems import MEDIA_TYPE, Problem, wrong

PREFIX = "/api/v1"
View = TypeVar("View", bound=Callable[..., Any])

SECURITY_SCHEMES: dict[str, Any] = {
    "token": {"type": "http", "scheme": "bearer", "description": "A token of yours, `bimt_…`."},
}


def problem_answers(*statuses: int) -> dict[int, Any]:
    """Documentation of the problems that an address can answer with."""
    schema = {"$ref": "#/components/schemas/Problem"}
    return {
        status: {"description": HTTPStatus(status).phrase, "content": {MEDIA_TYPE: {"schema": schema}}}
        for status in sorted(statuses)
    }


def binary(media_type: str, description: str) -> dict[str, Any]:
    """Documentation of an answer that is a file."""
    return {"description": description, "content": {media_type: {"schema": {"type": "string", "format": "binary"}}}}


def text(media_type: str, description: str) -> dict[str, Any]:
    """Documentation of an answer that is text."""
    return {"description": description, "content": {media_type: {"schema": {"type": "string"}}}}


def markdown(content: str) -> Response:
    """An answer that is a Markdown text."""
    return Response(content, content_type="text/markdown; charset=utf-8")


class Resource(APIBlueprint):
    """The routes of one resource. Every route names the access that it requires; without it none can be declared."""

    def __init__(self, name: str, about: str, *, prefix: str = PREFIX) -> None:
        super().__init__(
            name,
            __name__,
            url_prefix=prefix or None,
            abp_tags=[Tag(name=name, description=about)],
            operation_id_callback=_operation_id,
        )

    def route(  # type: ignore[override]
        self,
        method: str,
        rule: str,
        *,
        requires: Access,
        answers: dict[int, Any],
        problems: tuple[int, ...] = (),
        extensions: dict[str, Any] | None = None,
        models: tuple[type[BaseModel], ...] = (),
    ) -> Callable[[View], View]:
        """The decorator of one route.

        answers   status → model of the body, None (no body) or a documentation made by `binary` or `text`
        problems  statuses beyond those that every address of its kind has
        models    models that the documentation refers to by name only

        A rule with an old spelling in api/aliases.py is declared under both.
        """
        usual = {500, 503}
        if requires is not Access.ANYONE:
            usual |= {401, 403, 429}
        if "<" in rule:
            usual |= {404}
        if method in ("post", "put", "patch"):
            usual |= {400, 413, 415, 507}
        for model in models:
            schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
            self.components_schemas.update(schema.pop("$defs", {}))
            self.components_schemas[model.__name__] = schema
        responses = problem_answers(*(usual | {422} | set(problems))) | answers
        security: list[dict[str, list[str]]] | None = None if requires is Access.ANYONE else [{"token": []}]

        def declare(rule: str, view: View, *, deprecated: bool = False) -> View:
            view.reads_json = "body" in view.__annotations__  # type: ignore[attr-defined]
            view.streams = "octet-stream" in str(extensions)  # type: ignore[attr-defined]
            register = getattr(super(Resource, self), method)(
                rule,
                responses=responses,
                security=security,
                deprecated=deprecated or None,
                openapi_extensions={"x-needs": requires.value} | (extensions or {}),
            )
            declared: View = register(decide(requires)(view))
            return declared

        def decorate(view: View) -> View:
            if rule in ADDRESSES:
                declare(ADDRESSES[rule], _alias(view, rule), deprecated=True)
            return declare(rule, view)

        return decorate


def _alias(view: Callable[..., Response], new_rule: str) -> Callable[..., Response]:
    """The view of an old address."""

    @wraps(view)
    def old_address(*args: Any, **kwargs: Any) -> Response:
        return mark_deprecated(view(*args, **kwargs), new_rule)

    old_address.__name__ = f"{view.__name__}_old_address"
    return old_address


def _operation_id(*, name: str, path: str, method: str) -> str:
    return name


def answer(body: BaseModel, status: int = 200, **headers: str) -> Response:
    """The model as a JSON answer; header names are written with underscores."""
    response = Response(body.model_dump_json(by_alias=True), status, content_type="application/json")
    for name, value in headers.items():
        response.headers[name.replace("_", "-")] = value
    return response


def cursor(key: str | None) -> str | None:
    """The cursor that leads to what comes after this key; None: there is nothing more."""
    if key is None:
        return None
    return base64.urlsafe_b64encode(json.dumps(key).encode()).decode().rstrip("=")


def key_of(text: str | None) -> str | None:
    """The key inside a cursor. Raises the problem of a wrong `after`."""
    if text is None:
        return None
    try:
        padded = text.encode("ascii") + b"=" * (-len(text) % 4)
        key = json.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
    except (ValueError, binascii.Error, UnicodeError):
        key = None
    if not isinstance(key, str) or not key.isascii() or not key.isprintable() or len(key) > 80:
        sentence = "This is no cursor of ours; send the `next` of the page before, or leave `after` out."
        raise Problem("invalid-fields", sentence, [wrong("/after", sentence, place="query")])
    return key
