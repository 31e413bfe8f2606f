"""What can go wrong, each with a sentence that says what to do.

BimtError
  Refused          the service answered, and said no: its sentence, and every wrong field
    NotAllowed, NotFound, Conflict, TooLarge, InvalidFields, TooMany, ServiceFault
  Unreachable      nobody answered
  AnswerFailed     a question to a network found no answer
  JobEnded         a job that was waited for failed or was cancelled
  InvalidSignature a message to a webhook is not the service's
  NotLoggedIn      no address or no token was given
  NotInstalled     something that is optional is needed now
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


class BimtError(Exception):
    """A sentence for people: what went wrong, and what to do."""


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
        said = ", ".join(part for part in (where, *cell) if part)
        return f"{said}: {self.detail}"


class Refused(BimtError):
    """The service said no.

    status       of HTTP
    slug         the kind of problem, such as `invalid-fields`; the service explains it at /problems/<slug>
    title        the kind in words
    detail       the sentence about this very request
    retryable    whether the same request may succeed later
    fields       every wrong field, not only the first
    request_id   under which the service's own log knows the request
    retry_after  seconds after which to come back, where the service says so
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
            # The sentence is that of the only wrong field: where it is wrong is all there is to add.
            return f"{sentence} ({self.fields[0].pointer or self.fields[0].place})"
        return "\n".join([sentence, *(f"  {field}" for field in self.fields)])


class NotAllowed(Refused):
    """401 or 403: the token is unknown, or may not do this."""


class NotFound(Refused):
    """404: nothing of this id belongs to your team."""


class Conflict(Refused):
    """409: not possible in the present state."""


class TooLarge(Refused):
    """413: more bytes than are allowed."""


class InvalidFields(Refused):
    """422: fields are wrong, or a file is no usable data; `fields` names each."""


class TooMany(Refused):
    """429: too many requests, or a quota is used up."""


class ServiceFault(Refused):
    """5xx: the service made a mistake, or a part of it is away."""


class Unreachable(BimtError):
    """Nobody answered, again and again."""


class UploadBroken(Unreachable):
    """A large file got stuck on its way. `upload` is the id to go on with: what has arrived stays for two days."""

    def __init__(self, sentence: str, *, upload: str) -> None:
        self.upload = upload
        super().__init__(sentence)


class InvalidSignature(BimtError):
    """A message that says to come from the service does not, or is old: do nothing that it says."""


class NotLoggedIn(BimtError):
    """It is not said where the service is, or who asks."""


class NotInstalled(BimtError, ImportError):
    """A package that only some need is needed now."""


class AnswerFailed(BimtError):
    """A question to a network that no worker could answer."""


class JobEnded(BimtError):
    """The job that was waited for did not succeed. `state` is `failed` or `cancelled`."""

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
}


def refusal(status: int, document: Any, headers: Mapping[str, str]) -> Refused:
    """The error that an answer means. `document` is its JSON, or anything else where a proxy answered."""
    kind = BY_STATUS.get(status, ServiceFault if status >= 500 else Refused)
    said = document if isinstance(document, dict) else {}
    return kind(
        status,
        slug=str(said.get("type", "")).rpartition("/")[2],
        title=str(said.get("title", "")),
        detail=str(said.get("detail", "")),
        retryable=said.get("retryable"),
        fields=wrong_fields(said.get("errors")),
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
