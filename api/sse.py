"""Server-sent events and long polls about rows that carry a revision."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol, TypeVar

from store import jobs
from store.database import Database
from store.errors import NotFound

POLL_SECONDS = 0.5  # between two queries; as fast as a person can follow
KEEPALIVE_SECONDS = 15.0  # proxies close a connection that is silent for longer than a minute
STREAM_SHARE = 0.75  # of the threads of a process; the others answer everything else
MAX_STREAM_SECONDS = 3600.0  # the client reconnects with Last-Event-ID


class Event(Protocol):
    """What is streamed: a document with a revision, which is the last one when `ended`."""

    revision: int

    @property
    def ended(self) -> bool:
        """Whether nothing will change any more."""
        ...

    def model_dump_json(self) -> str:
        """The document as JSON."""
        ...


E = TypeVar("E", bound=Event)


class RevisionPoller:
    """The revisions of all jobs that this process streams, read by one query for all listeners.

    There is no thread behind it: the first listener whose turn it is queries for all.

    poll_seconds   between two queries.
    """

    def __init__(self, database: Database, *, poll_seconds: float = POLL_SECONDS) -> None:
        self._database = database
        self._poll_seconds = poll_seconds
        self._watched: Counter[str] = Counter()
        self._revisions: dict[str, int] = {}
        self._queried_at = float("-inf")
        self._lock = threading.Lock()

    @contextmanager
    def watching(self, job_id: str) -> Iterator[None]:
        """For as long as this lasts, the job is part of the query."""
        with self._lock:
            self._watched[job_id] += 1
        try:
            yield
        finally:
            with self._lock:
                self._watched[job_id] -= 1
                if not self._watched[job_id]:
                    del self._watched[job_id]

    @property
    def listeners(self) -> int:
        """How many streams are open now."""
        with self._lock:
            return self._watched.total()

    def revision(self, job_id: str) -> int | None:
        """The revision of a watched job, at most `poll_seconds` old; None once the job is deleted."""
        with self._lock:
            now = time.monotonic()
            if job_id not in self._revisions or now - self._queried_at >= self._poll_seconds:
                with self._database.read() as rows:
                    self._revisions = jobs.revisions(rows, list(self._watched))
                self._queried_at = now
            return self._revisions.get(job_id)


def wait_for_change(read: Callable[[], E], *, since: int | None, seconds: float) -> E:
    """Long poll: the event as soon as its revision is not `since`, or after this many seconds."""
    end = time.monotonic() + seconds
    while True:
        event = read()
        if since is None or event.revision != since or event.ended or time.monotonic() >= end:
            return event
        time.sleep(min(POLL_SECONDS, max(0.0, end - time.monotonic())))


def stream(
    poller: RevisionPoller,
    job_id: str,
    first: Event,
    read: Callable[[], Event],
    *,
    seen: int | None,
    max_streams: float,
    stopping: threading.Event,
    disconnected: Callable[[], bool],
) -> Iterator[str]:
    """Server-sent events about one job, until it has ended, the client has gone or the process stops.

    seen         revision that the client has already (Last-Event-ID).
    max_streams  each stream holds a thread. Beyond this number a stream sends what is new and ends, and its client
                 reconnects after a second: as a poll, until there is room.
    """
    has_room = poller.listeners < max_streams
    yield f"retry: {2000 if has_room else 1000}\n\n"
    event, last = first, seen
    sent_at = time.monotonic()
    end = sent_at + MAX_STREAM_SECONDS
    with poller.watching(job_id):
        while True:
            if event.revision != last:
                last = event.revision
                sent_at = time.monotonic()
                name = "end" if event.ended else "job"
                yield f"id: {event.revision}\nevent: {name}\ndata: {event.model_dump_json()}\n\n"
            if event.ended or not has_room or disconnected() or time.monotonic() > end:
                return
            if time.monotonic() - sent_at > KEEPALIVE_SECONDS:
                sent_at = time.monotonic()
                yield ": keep-alive\n\n"
            if stopping.wait(POLL_SECONDS):
                return
            if poller.revision(job_id) == event.revision:
                continue
            try:
                event = read()
            except NotFound:
                return  # the job was deleted
