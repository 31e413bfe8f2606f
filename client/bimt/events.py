"""The events of a job: a server-sent stream, long polls where a proxy holds streams back, reconnection for both."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx

from .errors import BimtError, Refused, Unreachable
from .http import HttpClient, describe, worth_repeating

ENDED = ("succeeded", "failed", "cancelled")
READ_TIMEOUT = 40.0  # seconds; the service sends at least a comment every 15
FIRST_EVENT_TIMEOUT = 10.0  # seconds; the first event is sent at once: later means a proxy that buffers the stream
POLL_SECONDS = 25.0  # of one long poll; proxies give up after 30 or 60


@dataclass(frozen=True)
class JobEvent:
    """The state of a job after one change.

    revision        rises with every change
    progress        from 0 to 1
    eta_seconds     to the end, at the speed of the present attempt; None before it has one
    queue_position  0: next; None for a job that has left the queue
    losses, note    of the run that is being trained
    """

    revision: int
    state: str
    progress: float
    eta_seconds: float | None = None
    queue_position: int | None = None
    losses: dict[str, Any] | None = None
    note: str | None = None
    reason: str | None = None
    document: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @property
    def ended(self) -> bool:
        """Whether the job succeeded, failed or was cancelled."""
        return self.state in ENDED

    @classmethod
    def of(cls, document: dict[str, Any]) -> JobEvent:
        """The event that a JSON document describes."""
        known = {name: document.get(name) for name in cls.__dataclass_fields__ if name != "document"}
        return cls(**known, document=document)  # type: ignore[arg-type]


@dataclass(frozen=True)
class ServerSentEvent:
    """One server-sent event."""

    kind: str
    data: str
    ident: str


def parse_events(pieces: Iterable[bytes]) -> Iterator[ServerSentEvent | None]:
    """Server-sent events as their bytes come; None for a comment, which only keeps the connection open.

    Lines end with LF, CR LF or CR only: the other line separators of Unicode may occur inside JSON.
    """
    kind, ident = "message", ""
    data: list[str] = []
    for line in _lines(pieces):
        if not line:
            if data:
                yield ServerSentEvent(kind, "\n".join(data), ident)
            kind, data = "message", []
            continue
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            data.append(value)
        elif name == "event":
            kind = value
        elif name == "id":
            ident = value
        else:
            yield None


def _lines(pieces: Iterable[bytes]) -> Iterator[str]:
    rest = b""
    for piece in pieces:
        rest += piece
        # A CR at the end may be half of a CR LF: it waits for the next piece.
        held = b"\r" if rest.endswith(b"\r") else b""
        whole = rest[: len(rest) - len(held)].replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        *lines, rest = whole.split(b"\n")
        rest += held
        for line in lines:
            yield line.decode("utf-8", "replace")


def follow(http: HttpClient, job_id: str, *, timeout: float | None = None) -> Iterator[JobEvent]:
    """Every change of a job until it has ended, each once, across broken connections.

    timeout   seconds after which TimeoutError is raised; the job goes on
    Raises Refused for an unknown job, and Unreachable after `retry.max_silence` seconds without an answer.
    """
    watch = _Watch(http, job_id, deadline=None if timeout is None else time.monotonic() + timeout)
    while True:
        for event in watch.streamed() if watch.streams else watch.polled():
            yield event
            if event.ended:
                return
        watch.check_deadline()


class _Watch:
    """A job that is watched, and the state of the connection.

    streams        False once a proxy was found to buffer event streams
    seen           revision of the last event
    failures       since the last answer
    last_contact   monotonic time of the last answer
    """

    def __init__(self, http: HttpClient, job_id: str, *, deadline: float | None) -> None:
        self.http = http
        self.path = f"/jobs/{job_id}/events"
        self.deadline = deadline
        self.streams = True
        self.seen: int | None = None
        self.failures = 0
        self.last_contact = time.monotonic()

    def streamed(self) -> Iterator[JobEvent]:
        """The events of one stream, until it ends or breaks."""
        headers = {"Accept": "text/event-stream"} | ({} if self.seen is None else {"Last-Event-ID": str(self.seen)})
        received = False
        limit = min(FIRST_EVENT_TIMEOUT if self.seen is None else READ_TIMEOUT, self._seconds_left())
        try:
            with self.http.stream("GET", self.path, headers=headers, read_timeout=limit) as response:
                if not response.headers.get("Content-Type", "").startswith("text/event-stream"):
                    self.streams = False
                    return
                for message in parse_events(response.iter_bytes()):
                    received = True
                    self._note_contact()
                    if message is not None and (event := self._new(json.loads(message.data))) is not None:
                        yield event
                    self.check_deadline()
        except httpx.ReadTimeout:
            # The connection is open and nothing arrives: a proxy buffers the stream.
            self.streams = received
        except (httpx.TransportError, Refused) as error:
            self._back_off(error)
        else:
            if not received:
                self._back_off(httpx.RemoteProtocolError("the stream ended before it began"))

    def polled(self) -> Iterator[JobEvent]:
        """The event of one long poll, if there was a change."""
        wait = max(0.0, min(POLL_SECONDS, self._seconds_left()))
        query = {"wait": wait} | ({} if self.seen is None else {"since": self.seen})
        try:
            with self.http.stream("GET", self.path, query=query, read_timeout=wait + 15) as response:
                document = json.loads(response.read())
        except (httpx.TransportError, Refused) as error:
            self._back_off(error)
            return
        self._note_contact()
        if (event := self._new(document)) is not None:
            yield event

    def check_deadline(self) -> None:
        """Raise TimeoutError once the deadline has passed."""
        if self._seconds_left() <= 0:
            raise TimeoutError("The job has not ended in the time that was given for it; it goes on.")

    def _seconds_left(self) -> float:
        return float("inf") if self.deadline is None else self.deadline - time.monotonic()

    def _note_contact(self) -> None:
        self.failures = 0
        self.last_contact = time.monotonic()

    def _new(self, document: dict[str, Any]) -> JobEvent | None:
        """The event, if its revision is another than the last."""
        event = JobEvent.of(document)
        if event.revision == self.seen:
            return None
        self.seen = event.revision
        return event

    def _back_off(self, error: Exception) -> None:
        """Wait after a failure, or raise the error where waiting does not help."""
        retry_after = None
        if isinstance(error, Refused):
            if not worth_repeating(error, True):
                raise error
            retry_after = error.retry_after
            if error.status != 429:
                self.failures += 1
        else:
            self.failures += 1
        silent = time.monotonic() - self.last_contact
        if silent > self.http.retry.max_silence:
            raise _lost(self.http.url, silent, error) from error
        self.check_deadline()
        self.http.retry.sleep(self.http.retry.wait(max(1, self.failures), retry_after=retry_after))


def _lost(url: str, seconds: float, error: Exception) -> BimtError:
    return Unreachable(
        f"{url} has not answered for {seconds:.0f} s ({describe(error)}). The job goes on there; watch it again later."
    )
