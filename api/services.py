"""What every route works with: settings, database, files, clock, and the way to wake the workers."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from flask import current_app
from kombu.exceptions import OperationalError
from sqlalchemy.exc import SQLAlchemyError

from api.sse import RevisionPoller
from store.database import Database
from store.files import Files
from store.jobs import mark_sent
from store.jobs.tables import FINAL_STATES
from store.operations import get_state
from store.settings import Settings

log = logging.getLogger("api")

CHECK_WAIT_SECONDS = 2.0  # then an upload is answered with 202
FIRST_PAUSE, LONGEST_PAUSE = 0.01, 0.25  # seconds between two queries for the row; grows in between


def utc_now() -> datetime:
    """The time now."""
    return datetime.now(UTC)


@dataclass(frozen=True)
class Services:
    """Made with the app, so that tests pass their own.

    send_message        (job id, queue, priority) → sends the Celery message; may fail, because the row is the truth.
    check_wait_seconds  how long an upload's request waits for its check before it is answered with 202.
    stopping            set when the process stops accepting; open streams end.
    """

    settings: Settings
    database: Database
    files: Files
    send_message: Callable[[str, str, int], None]
    now: Callable[[], datetime] = utc_now
    check_wait_seconds: float = CHECK_WAIT_SECONDS
    stopping: threading.Event = field(default_factory=threading.Event)
    revision_poller: RevisionPoller = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "revision_poller", RevisionPoller(self.database))

    def wait_until_ended(self, operation_id: str, *, seconds: float) -> None:
        """Return as soon as an operation has ended, or after so many seconds. Call it outside of database sessions."""
        end, pause = time.monotonic() + seconds, FIRST_PAUSE
        while time.monotonic() < end:
            with self.database.read() as rows:
                if get_state(rows, operation_id) in (None, *FINAL_STATES):
                    return
            time.sleep(min(pause, max(0.0, end - time.monotonic())))
            pause = min(1.4 * pause, LONGEST_PAUSE)

    def enqueue(self, job_id: str, queue: str, priority: int, *, marked: bool = False) -> None:
        """Send the message of a committed job. While the broker is unavailable, the scheduler sends it later.

        marked   its row is marked as sent already, which saves a transaction
        """
        try:
            self.send_message(job_id, queue, priority)
            sent = True
        except Exception as error:
            told = not isinstance(error, OperationalError)  # an unreachable broker needs no traceback
            text = "the message of job %s could not be sent; the scheduler will send it: %s"
            log.warning(text, job_id, error, exc_info=told)
            sent = False
        if sent != marked:
            try:
                with self.database.write() as rows:
                    mark_sent(rows, [job_id], at=self.now() if sent else None)
            except (SQLAlchemyError, TimeoutError):  # the job is committed: it must not be answered as if it were not
                log.warning("that the message of job %s was sent could not be noted", job_id, exc_info=True)


def services() -> Services:
    """The services of the app that answers this request."""
    found: Services = current_app.extensions["bimt"]
    return found
