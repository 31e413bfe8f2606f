"""What the addresses work with: settings, database, files, clock, and the way to tell the workers."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from flask import current_app

from api.board import Board
from api.checking import Checker
from store.database import Database
from store.files import Files
from store.jobs import mark_announced
from store.settings import Settings

log = logging.getLogger("api")


def utc_now() -> datetime:
    """The present moment."""
    return datetime.now(UTC)


@dataclass(frozen=True)
class Services:
    """Handed in by whoever makes the app, so that tests hand in their own.

    announce   (job id, queue, priority) → tells the workers; may fail, because the row is the truth.
    """

    settings: Settings
    database: Database
    files: Files
    announce: Callable[[str, str, int], None]
    now: Callable[[], datetime] = utc_now
    board: Board = field(init=False)
    checker: Checker = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "board", Board(self.database))
        object.__setattr__(self, "checker", Checker(self.settings, self.database, self.files, self.now))

    def tell(self, job_id: str, queue: str, priority: int, *, marked: bool = False) -> None:
        """Announce a job that is committed. When the broker is away the sweeper announces it later.

        marked   its row says already that it was announced, which saves a trip to the database
        """
        try:
            self.announce(job_id, queue, priority)
            announced = True
        except Exception:
            log.warning("job %s could not be announced; the sweeper will do it", job_id, exc_info=True)
            announced = False
        if announced != marked:
            with self.database.write() as rows:
                mark_announced(rows, [job_id], at=self.now() if announced else None)


def services() -> Services:
    """The services of the app that answers this request."""
    found: Services = current_app.extensions["bimt"]
    return found
