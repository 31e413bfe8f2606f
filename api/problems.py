"""Every error as an RFC 9457 problem document.

Resources raise; `answer_problem` is the only place that makes an answer out of what was raised.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from flask import Flask, Response, request
from obstore.exceptions import BaseError as FileStoreError
from pydantic import ValidationError
from sqlalchemy.exc import DataError as DatabaseDataError
from sqlalchemy.exc import SQLAlchemyError
from werkzeug.exceptions import HTTPException

from bimt_engine.data.roles import ImpossibleRoles
from bimt_engine.errors import BimtError
from store.errors import Conflict, DamagedFile, NotFound, QuotaExceeded, StoreError, is_disk_full

log = logging.getLogger("api")

MEDIA_TYPE = "application/problem+json"


@dataclass(frozen=True)
class ProblemType:
    """One type of problem (RFC 9457), explained on its page /problems/<slug>."""

    slug: str
    status: int
    title: str
    retryable: bool
    meaning: str
    remedy: str


PROBLEM_TYPES: dict[str, ProblemType] = {
    each.slug: each
    for each in (
        ProblemType(
            "malformed-request",
            400,
            "Malformed request",
            False,
            "The body is not what its Content-Type says: JSON that does not parse, a multipart body that is cut off, "
            "or a header that cannot be read.",
            "Send valid JSON (UTF-8, no NaN or Infinity), or a whole multipart body.",
        ),
        ProblemType(
            "no-token",
            401,
            "Not authenticated",
            False,
            "The request carries no token, or one that is unknown, expired or revoked.",
            "Send `Authorization: Bearer bimt_…` with a token of yours, or sign in on the page /login.",
        ),
        ProblemType(
            "scope",
            403,
            "The token lacks a scope",
            False,
            "The token is valid, but does not carry the scope that this address needs.",
            "Ask an admin of your team for a token with the scope that the sentence names.",
        ),
        ProblemType(
            "csrf",
            403,
            "The form has expired",
            True,
            "A browser session must send the CSRF token of its page with everything that changes something.",
            "Load the page again and repeat. Scripts should send a bearer token, which needs no CSRF token.",
        ),
        ProblemType(
            "not-found",
            404,
            "Not found",
            False,
            "Nothing of this id belongs to your team. What belongs to another team looks exactly the same.",
            "Check the id; the lists show what there is.",
        ),
        ProblemType(
            "method",
            405,
            "Method not allowed",
            False,
            "The address exists, but not for this HTTP method. The header Allow lists those it knows.",
            "Use one of the methods in Allow; /docs shows every address.",
        ),
        ProblemType(
            "conflict",
            409,
            "Conflict with the present state",
            False,
            "What you ask for contradicts what is stored: a job that has ended cannot be cancelled, a data set in use "
            "cannot be deleted, an Idempotency-Key belongs to another request.",
            "Read the sentence, look at the present state, and decide again.",
        ),
        ProblemType(
            "file-missing",
            410,
            "The stored file is missing",
            False,
            "The database names a file whose bytes are no longer in the file store.",
            "Ask an admin to restore the file from a backup (docs/operations.md), or make it again.",
        ),
        ProblemType(
            "file-damaged",
            500,
            "The stored file is damaged",
            False,
            "The bytes in the file store do not have the SHA-256 under which they were stored, so they are not sent.",
            "Ask an admin to restore the file from a backup (docs/operations.md), or upload or make it again.",
        ),
        ProblemType(
            "too-large",
            413,
            "Content too large",
            False,
            "The limit is enforced while the body arrives, so that the answer comes early. Nothing is kept.",
            "Send a file in parts (POST /api/v1/uploads), or ask the operators of the service to raise the limit "
            "(docs/operations.md).",
        ),
        ProblemType(
            "media-type",
            415,
            "Unsupported media type",
            False,
            "The Content-Type is missing or is none that this address reads.",
            "Send application/json, or multipart/form-data where a file is uploaded.",
        ),
        ProblemType(
            "invalid-fields",
            422,
            "Invalid fields",
            False,
            "The request can be read, but some of its fields cannot be used. `errors` lists every one of them, each "
            "with a JSON Pointer into the body (or the name of the query parameter).",
            "Correct each field that is named. The schema of a spec is at /api/v1/spec-schema.",
        ),
        ProblemType(
            "unusable-network",
            422,
            "The file cannot be used as a network",
            False,
            "The file could not be read as a network: it is damaged, uses an operator that is not known here, keeps "
            "weights in other files, or its sizes do not fit.",
            "Export the network again as the sentence says: one ONNX file for inference with a free batch axis, or "
            "weights in safetensors with their config.",
        ),
        ProblemType(
            "unusable-data",
            422,
            "The file cannot be used as data",
            False,
            "The file was read, but it is not a usable table or set of arrays. `errors` names row and column; rows "
            "count from 1, the header not included. Nothing of the file is kept.",
            "Correct the file at the rows and columns that are named, and upload it again.",
        ),
        ProblemType(
            "rate-limit",
            429,
            "Too many requests",
            True,
            "This token has asked more often than the service allows. The header Retry-After says when to come back.",
            "Wait as long as Retry-After says; for progress use /jobs/{id}/events instead of asking again and again.",
        ),
        ProblemType(
            "quota",
            429,
            "The team's quota is used up",
            True,
            "The team has reached one of its limits, which the sentence names.",
            "Wait until jobs end, delete what is no longer needed, or ask an admin for more.",
        ),
        ProblemType(
            "internal",
            500,
            "Internal error",
            True,
            "An unexpected error. It is in the service's log under the request id of this answer.",
            "Try again; if it persists, report it together with the request id.",
        ),
        ProblemType(
            "disk-full",
            507,
            "The service is out of storage",
            True,
            "The disk, the database or the object store of the service is full. Nothing was kept of what you sent. "
            "What is stored can be read as always, and running jobs wait until there is room.",
            "Tell the operators of the service, who make room (docs/operations.md), and send it again then.",
        ),
        ProblemType(
            "unavailable",
            503,
            "A part of the service is unavailable",
            True,
            "The database or the file store does not answer now, or more requests have come than can be answered.",
            "Try again in a few seconds. What was accepted before is not lost.",
        ),
    )
}

BY_STATUS = {
    400: "malformed-request",
    401: "no-token",
    403: "scope",
    404: "not-found",
    405: "method",
    409: "conflict",
    411: "malformed-request",
    410: "file-missing",
    413: "too-large",
    415: "media-type",
    422: "invalid-fields",
    429: "rate-limit",
    431: "malformed-request",
    500: "internal",
    503: "unavailable",
    507: "disk-full",
}

NO_ROOM = (
    "The service has no room left to store this; nothing of it was kept. Reading goes on. Send it again when the "
    "operators have made room."
)


@dataclass
class Problem(Exception):
    """A refusal in words. `errors` has one entry for each wrong field: see `wrong`."""

    slug: str
    detail: str
    errors: list[dict[str, Any]] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def kind(self) -> ProblemType:
        """Its type, as documented."""
        return PROBLEM_TYPES[self.slug]

    def document(self) -> dict[str, Any]:
        """The problem document."""
        kind = self.kind
        document: dict[str, Any] = {
            "type": f"/problems/{kind.slug}",
            "title": kind.title,
            "status": kind.status,
            "detail": self.detail,
            "retryable": kind.retryable,
        }
        if self.errors:
            document["errors"] = self.errors
        return document


def wrong(pointer: str, detail: str, *, place: str = "body", **more: Any) -> dict[str, Any]:
    """One wrong field. `place` is body, query, path, header or file; `pointer` a JSON Pointer inside it."""
    return {"in": place, "pointer": pointer, "detail": detail} | {k: v for k, v in more.items() if v is not None}


def too_large(what: str, limit: int, *, pointer: str | None = None) -> Problem:
    """The problem of bytes beyond a limit. `what` begins the sentence, such as `The upload`."""
    sentence = f"{what} is larger than the {limit:,} bytes that are allowed. Nothing of it was kept."
    return Problem("too-large", sentence, [] if pointer is None else [wrong(pointer, sentence, place="file")])


def invalid(pointer: str, detail: str, *, place: str = "body") -> Problem:
    """The problem of one wrong field, which has a sentence of its own."""
    return Problem("invalid-fields", detail, [wrong(pointer, detail, place=place)])


def fields_problem(errors: list[dict[str, Any]]) -> Problem:
    """The problem of several wrong fields."""
    if len(errors) == 1:
        where = f"`{errors[0]['pointer']}`: " if errors[0]["pointer"] else ""  # empty: the body as a whole
        return Problem("invalid-fields", where + errors[0]["detail"], errors)
    return Problem("invalid-fields", f"{len(errors)} fields are wrong.", errors)


# --- pydantic -------------------------------------------------------------------------------------


def pointer_into(document: Any, path: Iterable[int | str], *, absent: bool = False) -> str:
    """The JSON Pointer of a pydantic location in the document that was sent.

    Pydantic puts names of union members into its locations; those are no keys of the document and are skipped.
    absent   the last step is the name of a field that is missing, and so is no key either.
    """
    steps: list[str] = []
    rest = list(path)
    for index, step in enumerate(rest):
        last = index == len(rest) - 1
        if isinstance(document, Mapping) and step in document:
            document = document[step]
        elif isinstance(step, int):
            inside = isinstance(document, list) and 0 <= step < len(document)
            document = document[step] if inside else None
        elif absent and last and isinstance(document, Mapping):
            document = None
        else:
            continue
        steps.append(str(step).replace("~", "~0").replace("/", "~1"))
    return "".join(f"/{step}" for step in steps)


def field_errors(
    error: ValidationError, document: Any, *, place: str = "body", under: str = ""
) -> list[dict[str, Any]]:
    """One entry for every wrong field of a pydantic error. `under`: where the document stands in the request."""
    found = []
    for entry in error.errors(include_url=False):
        location = entry["loc"]
        if entry["type"] in ("union_tag_not_found", "union_tag_invalid"):
            # The field that distinguishes the members is the wrong one, and the text of pydantic names it in quotes.
            location = (*location, str(entry["ctx"]["discriminator"]).strip("'"))
        absent = entry["type"] in ("missing", "union_tag_not_found", "union_tag_invalid")
        pointer = under + pointer_into(document, location, absent=absent)
        found.append(wrong(pointer, _sentence(entry), place=place))
    unique = {(entry["pointer"], entry["detail"]): entry for entry in found}
    return list(unique.values())


def _sentence(entry: Mapping[str, Any]) -> str:
    kind, text = entry["type"], entry["msg"]
    if kind == "missing":
        return "This field is required."
    if kind == "extra_forbidden":
        return "There is no field of this name here; check its spelling or leave it out."
    if kind in ("union_tag_not_found", "union_tag_invalid"):
        expected = entry["ctx"].get("expected_tags")
        return f"Name one of the kinds{' ' + expected if expected else ''}."
    text = text.removeprefix("Value error, ").removeprefix("Assertion failed, ")
    given = entry.get("input")
    if isinstance(given, bool | int | float | str) and kind != "value_error":
        shown = json.dumps(given)
        text += f"; it is {shown if len(shown) <= 60 else shown[:57] + '…'}"
    return text if text.endswith((".", "!", "?")) else text + "."


# --- from exceptions to answers ----------------------------------------------------------------------


def as_problem(error: Exception) -> Problem:
    """The problem document for an exception."""
    match error:
        case Problem():
            return error
        case NotFound():
            return Problem("not-found", str(error))
        case QuotaExceeded():
            return Problem("quota", str(error))
        case Conflict():
            return Problem("conflict", str(error))
        case DamagedFile():
            return Problem("file-damaged", str(error))
        case StoreError():
            return Problem("conflict", str(error))
        case ImpossibleRoles():
            return Problem("invalid-fields", str(error), error.errors)
        case BimtError():
            return Problem("invalid-fields", str(error), [wrong("", str(error))])
        case _ if is_disk_full(error):
            log.error("there is no room left: %s", str(error).partition("\n")[0])
            return Problem("disk-full", NO_ROOM, headers={"Retry-After": "60"})
        case DatabaseDataError():
            # The schema allows the value, but the database cannot hold it: an error of the caller.
            return invalid("", "A value is outside what can be stored.")
        case SQLAlchemyError() if _is_away(error):
            log.exception("the database does not answer")
            return Problem(
                "unavailable", "The database does not answer; try again in a few seconds.", headers={"Retry-After": "3"}
            )
        case FileStoreError():
            log.error("the file store does not answer: %s", str(error).partition("\n")[0])
            return Problem(
                "unavailable",
                "The file store does not answer; try again in a few seconds.",
                headers={"Retry-After": "3"},
            )
        case HTTPException():
            return _of_http(error)
        case _:
            log.exception("unforeseen error at %s %s", request.method, request.path)
            return Problem(
                "internal", "An internal error, which has been logged. Try again, or report it with the request id."
            )


def _is_away(error: SQLAlchemyError) -> bool:
    from sqlalchemy.exc import InterfaceError, OperationalError
    from sqlalchemy.exc import TimeoutError as PoolTimeout

    return isinstance(error, OperationalError | InterfaceError | PoolTimeout)


def _of_http(error: HTTPException) -> Problem:
    status = error.code or 500
    slug = BY_STATUS.get(status, "internal" if status >= 500 else "malformed-request")
    headers: dict[str, str] = {}
    detail = error.description or HTTPStatus(status).phrase
    if status == 404:
        detail = f"There is nothing at {request.path}; /docs lists every address."
    if status == 405:
        allowed = ", ".join(sorted(getattr(error, "valid_methods", None) or []))
        detail, headers["Allow"] = f"{request.path} knows {allowed or 'no method'}, not {request.method}.", allowed
    if status == 413 and request.max_content_length is not None:
        return too_large("The body", request.max_content_length)
    if status == 429 and (after := getattr(error, "retry_after", None)):
        headers["Retry-After"] = str(after)
    return Problem(slug, detail, headers=headers)


def answer_problem(problem: Problem) -> Response:
    """The problem as an answer."""
    answer = Response(json.dumps(problem.document(), ensure_ascii=False), problem.kind.status, content_type=MEDIA_TYPE)
    answer.headers.update(problem.headers)
    if problem.kind.status == 401:
        answer.headers["WWW-Authenticate"] = 'Bearer realm="bimt"'
    return answer


def is_for_programs() -> bool:
    """Whether the address is for programs: all but the pages."""
    return request.path.startswith(("/api/", "/healthz", "/readyz", "/metrics", "/openapi.json"))


def install(app: Flask, page: Any = None) -> None:
    """Every exception of the app becomes an answer here. `page(problem)` answers people in a browser."""

    def handle(error: Exception) -> Response:
        if isinstance(error, HTTPException) and error.response is not None:
            return error.get_response()  # type: ignore[return-value]  # a redirect of the router
        if isinstance(error, HTTPException) and (error.code or 500) < 400:
            return error.get_response()  # type: ignore[return-value]
        problem = as_problem(error)
        if page is not None and not is_for_programs():
            return page(problem)
        return answer_problem(problem)

    app.register_error_handler(Exception, handle)
