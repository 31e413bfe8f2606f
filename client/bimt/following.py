"""A job while it changes: by a stream of events, by long polls where streams do not pass, over lines that break."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx

from .errors import BimtError, Refused, Unreachable
from .wire import Wire, said, worth_repeating

ENDED = ("succeeded", "failed", "cancelled")
SILENCE = 40.0  # seconds; the service says something every 15
FIRST_WORD = 10.0  # seconds; the service speaks at once, so a longer silence is a proxy that holds the stream back
POLL_SECONDS = 25.0  # of one long poll; proxies give up after 30 or 60


@dataclass(frozen=True)
class Moment:
    """A job at one moment.

    revision        rises with every change
    progress        from 0 to 1
    eta_seconds     to the end, at the pace of the present attempt; None while there is none
    queue_position  0: next; None when it no longer waits
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
        return self.state in ENDED

    @classmethod
    def of(cls, document: dict[str, Any]) -> Moment:
        known = {name: document.get(name) for name in cls.__dataclass_fields__ if name != "document"}
        return cls(**known, document=document)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Event:
    """One server-sent event."""

    kind: str
    data: str
    ident: str


def parse_events(pieces: Iterable[bytes]) -> Iterator[Event | None]:
    """Server-sent events as their bytes come; None for a sign of life that says nothing.

    Lines end with LF, CR LF or CR, and with nothing else: JSON may hold other characters that end lines elsewhere.
    """
    kind, ident = "message", ""
    data: list[str] = []
    for line in _lines(pieces):
        if not line:
            if data:
                yield Event(kind, "\n".join(data), ident)
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
        # A CR at the very end may be half of a CR LF: it waits for what comes next.
        held = b"\r" if rest.endswith(b"\r") else b""
        whole = rest[: len(rest) - len(held)].replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        *lines, rest = whole.split(b"\n")
        rest += held
        for line in lines:
            yield line.decode("utf-8", "replace")


def follow(wire: Wire, job_id: str, *, timeout: float | None = None) -> Iterator[Moment]:
    """Every change of a job until it has ended, each once, whatever the line does.

    timeout   seconds after which TimeoutError is raised; the job goes on
    Raises Refused for a job that is not there, and Unreachable after `patience.contact` seconds without an answer.
    """
    watch = _Watch(wire, job_id, deadline=None if timeout is None else time.monotonic() + timeout)
    while True:
        for moment in watch.streamed() if watch.streams else watch.polled():
            yield moment
            if moment.ended:
                return
        watch.check_the_time()


class _Watch:
    """What is known of a job that is watched, and how well the line holds.

    streams   whether events are still tried; a proxy that holds them back ends that
    """

    def __init__(self, wire: Wire, job_id: str, *, deadline: float | None) -> None:
        self.wire = wire
        self.path = f"/jobs/{job_id}/events"
        self.deadline = deadline
        self.streams = True
        self.seen: int | None = None
        self.failures = 0
        self.last_contact = time.monotonic()

    def streamed(self) -> Iterator[Moment]:
        """What one stream tells, until it ends or breaks."""
        headers = {"Accept": "text/event-stream"} | ({} if self.seen is None else {"Last-Event-ID": str(self.seen)})
        heard = False
        silence = min(FIRST_WORD if self.seen is None else SILENCE, self._seconds_left())
        try:
            with self.wire.stream("GET", self.path, headers=headers, read_timeout=silence) as response:
                if not response.headers.get("Content-Type", "").startswith("text/event-stream"):
                    self.streams = False
                    return
                for event in parse_events(response.iter_bytes()):
                    heard = True
                    self._heard()
                    if event is not None and (moment := self._new(json.loads(event.data))) is not None:
                        yield moment
                    self.check_the_time()
        except httpx.ReadTimeout:
            # The line is open and nothing comes through: something on the way keeps the events until they are many.
            self.streams = heard
        except (httpx.TransportError, Refused) as error:
            self._endure(error)
        else:
            if not heard:
                self._endure(httpx.RemoteProtocolError("the stream ended before it began"))

    def polled(self) -> Iterator[Moment]:
        """What one long poll tells."""
        wait = max(0.0, min(POLL_SECONDS, self._seconds_left()))
        query = {"wait": wait} | ({} if self.seen is None else {"since": self.seen})
        try:
            with self.wire.stream("GET", self.path, query=query, read_timeout=wait + 15) as response:
                document = json.loads(response.read())
        except (httpx.TransportError, Refused) as error:
            self._endure(error)
            return
        self._heard()
        if (moment := self._new(document)) is not None:
            yield moment

    def check_the_time(self) -> None:
        if self._seconds_left() <= 0:
            raise TimeoutError("The job has not ended in the time that was given for it; it goes on.")

    def _seconds_left(self) -> float:
        return float("inf") if self.deadline is None else self.deadline - time.monotonic()

    def _heard(self) -> None:
        self.failures = 0
        self.last_contact = time.monotonic()

    def _new(self, document: dict[str, Any]) -> Moment | None:
        """The moment, if it is another than the last."""
        moment = Moment.of(document)
        if moment.revision == self.seen:
            return None
        self.seen = moment.revision
        return moment

    def _endure(self, error: Exception) -> None:
        """A pause after a failure, or the error where waiting helps nothing."""
        asked = None
        if isinstance(error, Refused):
            if not worth_repeating(error, True):
                raise error
            asked = error.retry_after
            if error.status != 429:
                self.failures += 1
        else:
            self.failures += 1
        silent = time.monotonic() - self.last_contact
        if silent > self.wire.patience.contact:
            raise _lost(self.wire.url, silent, error) from error
        self.check_the_time()
        self.wire.patience.rest(max(1, self.failures), asked=asked)


def _lost(url: str, seconds: float, error: Exception) -> BimtError:
    return Unreachable(
        f"{url} has not answered for {seconds:.0f} s ({said(error)}). The job goes on there; watch it again later."
    )
