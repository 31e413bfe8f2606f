"""The revisions of jobs that somebody in this process listens to, found by one question for all listeners.

There is no thread behind it: of the listeners that look, the first whose turn it is asks for everybody.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from store import jobs
from store.database import Database

LOOK_EVERY = 0.5  # seconds between two questions; as fast as a person can follow


class Board:
    """What is watched here, and how far it has come.

    look_every   seconds between two questions to the database.
    """

    def __init__(self, database: Database, *, look_every: float = LOOK_EVERY) -> None:
        self._database = database
        self._look_every = look_every
        self._watched: Counter[str] = Counter()
        self._revisions: dict[str, int] = {}
        self._asked_at = float("-inf")
        self._lock = threading.Lock()

    @contextmanager
    def watching(self, job_id: str) -> Iterator[None]:
        """As long as this lasts, the job is among those asked about."""
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
        """How many listen at this moment."""
        with self._lock:
            return self._watched.total()

    def revision(self, job_id: str) -> int | None:
        """The revision of a watched job, at most `look_every` old; None once it is deleted."""
        with self._lock:
            now = time.monotonic()
            if job_id not in self._revisions or now - self._asked_at >= self._look_every:
                with self._database.read() as rows:
                    self._revisions = jobs.revisions(rows, list(self._watched))
                self._asked_at = now
            return self._revisions.get(job_id)
