"""How an address is written down: its rule, the scope it needs, what it answers and what can go wrong."""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus
from typing import Any, TypeVar

from flask import Response
from flask_openapi3 import APIBlueprint, Tag
from pydantic import BaseModel

from api.auth import Access, decide
from api.problems import MEDIA_TYPE

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


class Noun(APIBlueprint):
    """The addresses of one noun. Every address names the access it needs; without one it cannot be written down."""

    def __init__(self, name: str, about: str, *, prefix: str = PREFIX) -> None:
        super().__init__(
            name,
            __name__,
            url_prefix=prefix or None,
            abp_tags=[Tag(name=name, description=about)],
            operation_id_callback=_operation_id,
        )

    def at(
        self,
        method: str,
        rule: str,
        *,
        needs: Access,
        answers: dict[int, Any],
        problems: tuple[int, ...] = (),
        extensions: dict[str, Any] | None = None,
        models: tuple[type[BaseModel], ...] = (),
    ) -> Callable[[View], View]:
        """The decorator of one address.

        answers   status → model of the body, None (no body) or a documentation made by `binary` or `text`
        problems  statuses beyond those that every address of its kind has
        models    models that the documentation refers to by name only
        """
        usual = {500, 503}
        if needs is not Access.ANYONE:
            usual |= {401, 403, 429}
        if "<" in rule:
            usual |= {404}
        if method in ("post", "put", "patch"):
            usual |= {400, 413, 415}
        for model in models:
            schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
            self.components_schemas.update(schema.pop("$defs", {}))
            self.components_schemas[model.__name__] = schema
        responses = problem_answers(*(usual | {422} | set(problems))) | answers
        security: list[dict[str, list[str]]] | None = None if needs is Access.ANYONE else [{"token": []}]
        register = getattr(super(), method)(
            rule,
            responses=responses,
            security=security,
            openapi_extensions={"x-needs": needs.value} | (extensions or {}),
        )

        def decorate(view: View) -> View:
            view.reads_json = "body" in view.__annotations__  # type: ignore[attr-defined]
            view.streams = "octet-stream" in str(extensions)  # type: ignore[attr-defined]
            return register(decide(needs)(view))

        return decorate


def _operation_id(*, name: str, path: str, method: str) -> str:
    return name


def answer(body: BaseModel, status: int = 200, **headers: str) -> Response:
    """The model as a JSON answer; header names are written with underscores."""
    response = Response(body.model_dump_json(by_alias=True), status, content_type="application/json")
    for name, value in headers.items():
        response.headers[name.replace("_", "-")] = value
    return response
