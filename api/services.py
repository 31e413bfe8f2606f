"""What every route works with: settings, database, files, clock, and the way to wake the workers."""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from flask import current_app

from api.sse import RevisionPoller
from api.upload_check import CHECK_WAIT_SECONDS, UploadChecker
from store.database import Database
from store.errors import DamagedFile
from store.files import Files
from store.jobs import mark_sent
from store.settings import Settings

log = logging.getLogger("api")

MAX_CHECKED = 100_000  # remembered hashes of checked files, about 10 MB


def utc_now() -> datetime:
    """The time now."""
    return datetime.now(UTC)


@dataclass(frozen=True)
class Services:
    """Made with the app, so that tests pass their own.

    announce            (job id, queue, priority) → sends the Celery message; may fail, because the row is the truth.
    check_wait_seconds  how long an upload's request waits for its check before it is answered with 202.
    stopping            set when the process stops accepting; open streams end.
    """

    settings: Settings
    database: Database
    files: Files
    announce: Callable[[str, str, int], None]
    now: Callable[[], datetime] = utc_now
    check_wait_seconds: float = CHECK_WAIT_SECONDS
    stopping: threading.Event = field(default_factory=threading.Event)
    revision_poller: RevisionPoller = field(init=False)
    upload_checker: UploadChecker = field(init=False)
    _checked: set[str] = field(default_factory=set, init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "revision_poller", RevisionPoller(self.database))
        checker = UploadChecker(
            self.settings, self.database, self.files, self.now, wait_seconds=self.check_wait_seconds
        )
        object.__setattr__(self, "upload_checker", checker)

    def check_stored(self, sha256: str) -> None:
        """Compare a stored file with its hash, once per process and file. Raises NotFound, DamagedFile."""
        if sha256 in self._checked:
            self.files.size(sha256)
            return
        digest = hashlib.sha256()
        for chunk in self.files.stream(sha256):
            digest.update(chunk)
        if digest.hexdigest() != sha256:
            raise DamagedFile(f"The stored file {sha256} is damaged: its bytes have another SHA-256.")
        if len(self._checked) >= MAX_CHECKED:
            self._checked.clear()
        self._checked.add(sha256)

    def enqueue(self, job_id: str, queue: str, priority: int, *, marked: bool = False) -> None:
        """Send the message of a committed job. While the broker is away, the scheduler sends it later.

        marked   its row is marked as sent already, which saves a transaction
        """
        try:
            self.announce(job_id, queue, priority)
            sent = True
        except Exception:
            log.warning("the message of job %s could not be sent; the scheduler will send it", job_id, exc_info=True)
            sent = False
        if sent != marked:
            with self.database.write() as rows:
                mark_sent(rows, [job_id], at=self.now() if sent else None)


def services() -> Services:
    """The services of the app that answers this request."""
    found: Services = current_app.extensions["bimt"]
    return found
