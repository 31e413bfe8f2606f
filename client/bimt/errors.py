"""The exceptions of the client, each with a sentence that says what to do.

BimtError
  Refused          the service refused: its sentence, and every wrong field
    NotAllowed, NotFound, Conflict, TooLarge, InvalidFields
    TooMany        too many requests
      QuotaExceeded        the team holds as much as it may
    ServiceFault   a fault of the service, or a part of it is down
      InsufficientStorage  the service has no room left
  Unreachable      no answer, after every retry
    UploadBroken   the same in the middle of a large upload, which can be resumed
  OperationFailed  a worker could not compute what was asked of a network
  JobEnded         a job that was waited for failed or was cancelled
  InvalidSignature a message to a webhook is not signed by the service
  NotLoggedIn      no address or no token was given
  NotInstalled     a package of an optional extra is missing
  WeightsError     bytes that are no network of the service
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


class BimtError(Exception):
    """The base of all exceptions here; its text says what went wrong and what to do."""


@dataclass(frozen=True)
class WrongField:
    """One field that the service could not use.

    place      body, query, path, header or file
    pointer    JSON Pointer (RFC 6901) inside it, such as /seeds/0
    row        of a table, counted from 1 without the header
    """

    pointer: str
    detail: str
    place: str = "body"
    row: int | None = None
    column: str | None = None

    def __str__(self) -> str:
        where = self.pointer or self.place
        cell = [f"row {self.row}" if self.row is not None else "", f"column {self.column}" if self.column else ""]
        place = ", ".join(part for part in (where, *cell) if part)
        return f"{place}: {self.detail}"


class Refused(BimtError):
    """The service refused the request.

    status       of HTTP
    slug         the type of problem, such as `invalid-fields`; the service explains it at /problems/<slug>
    title        the kind in words
    detail       the sentence about this very request
    retryable    whether the same request may succeed later
    fields       every wrong field, not only the first
    request_id   names the request in the service's log
    retry_after  seconds to wait before the next try, where the service says so
    """

    def __init__(
        self,
        status: int,
        *,
        slug: str = "",
        title: str = "",
        detail: str = "",
        retryable: bool | None = None,
        fields: tuple[WrongField, ...] = (),
        request_id: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        self.status = status
        self.slug = slug
        self.title = title
        self.detail = detail
        self.retryable = retryable
        self.fields = fields
        self.request_id = request_id
        self.retry_after = retry_after
        super().__init__(str(self))

    def __str__(self) -> str:
        sentence = self.detail or self.title or f"The service answered with status {self.status}."
        if [field.detail for field in self.fields] == [self.detail]:
            # The sentence is that of the only wrong field; only its place is missing.
            return f"{sentence} ({self.fields[0].pointer or self.fields[0].place})"
        return "\n".join([sentence, *(f"  {field}" for field in self.fields)])


class NotAllowed(Refused):
    """401 or 403: the token is unknown, or may not do this."""


class NotFound(Refused):
    """404: your team has nothing with this id."""


class Conflict(Refused):
    """409: not possible in the present state."""


class TooLarge(Refused):
    """413: more bytes than are allowed."""


class InvalidFields(Refused):
    """422: fields are wrong, or a file is no usable data; `fields` names each."""


class TooMany(Refused):
    """429: too many requests, or a quota is used up."""


class QuotaExceeded(TooMany):
    """429 of the kind `quota`: your team holds as much as it may; the sentence says of what.

    It is not sent again by itself: jobs have to end, something has to be deleted, or an admin grants more.
    """


class ServiceFault(Refused):
    """5xx: a fault of the service, or a part of it is down."""


class InsufficientStorage(ServiceFault):
    """507: the disk, the database or the object store of the service is full, whatever your team's quota is.

    Nothing was kept of what was sent, and reads are answered as always. `retry_after` says in how many seconds to look
    again; it is not sent again by itself, since operators have to make room first.
    """


class Unreachable(BimtError):
    """The service did not answer, after every retry."""


class UploadBroken(Unreachable):
    """The upload of a large file stopped. `upload` is its id, to resume it within two days."""

    def __init__(self, sentence: str, *, upload: str) -> None:
        self.upload = upload
        super().__init__(sentence)


class InvalidSignature(BimtError):
    """A webhook message is not signed by the service, or is old: ignore it."""


class NotLoggedIn(BimtError):
    """The address of the service or the token is missing."""


class NotInstalled(BimtError, ImportError):
    """A package is missing that only an extra of this client brings."""


class OperationFailed(BimtError):
    """A worker could not compute what was asked of a network."""


class WeightsError(BimtError):
    """These bytes are no network that this client can read."""


class JobEnded(BimtError):
    """The job that was waited for did not succeed: `state` is `failed` or `cancelled`."""

    def __init__(self, job_id: str, state: str, reason: str | None) -> None:
        self.job_id = job_id
        self.state = state
        self.reason = reason
        super().__init__(f"The job {job_id} was cancelled." if state == "cancelled" else self._sentence())

    def _sentence(self) -> str:
        return f"The job {self.job_id} failed: {self.reason or 'no reason was given'}"


BY_STATUS: dict[int, type[Refused]] = {
    401: NotAllowed,
    403: NotAllowed,
    404: NotFound,
    409: Conflict,
    413: TooLarge,
    422: InvalidFields,
    429: TooMany,
    507: InsufficientStorage,
}
BY_SLUG: dict[str, type[Refused]] = {"quota": QuotaExceeded}


def refusal(status: int, document: Any, headers: Mapping[str, str]) -> Refused:
    """The exception for an answer of 4xx or 5xx. `document` is its JSON, or anything else where a proxy answered."""
    problem = document if isinstance(document, dict) else {}
    slug = str(problem.get("type", "")).rpartition("/")[2]
    kind = BY_SLUG.get(slug) or BY_STATUS.get(status, ServiceFault if status >= 500 else Refused)
    return kind(
        status,
        slug=slug,
        title=str(problem.get("title", "")),
        detail=str(problem.get("detail", "")),
        retryable=problem.get("retryable"),
        fields=wrong_fields(problem.get("errors")),
        request_id=headers.get("X-Request-Id"),
        retry_after=_seconds(headers.get("Retry-After")),
    )


def wrong_fields(entries: Any) -> tuple[WrongField, ...]:
    """The wrong fields that a problem lists."""
    return tuple(_field(entry) for entry in entries or [] if isinstance(entry, dict))


def _field(entry: dict[str, Any]) -> WrongField:
    return WrongField(
        pointer=str(entry.get("pointer", "")),
        detail=str(entry.get("detail", "")),
        place=str(entry.get("in", "body")),
        row=entry.get("row"),
        column=entry.get("column"),
    )


def _seconds(text: str | None) -> float | None:
    """Retry-After in seconds. Its other form, a date, needs clocks that agree: it counts as absent."""
    try:
        return max(0.0, float(text)) if text is not None else None
    except ValueError:
        return None
