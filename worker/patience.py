"""Waiting for a store that is away: again and again, with growing pauses, but not for ever."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TypeVar

from obstore.exceptions import BaseError as FileStoreError
from sqlalchemy.exc import DBAPIError, IntegrityError, ProgrammingError
from sqlalchemy.exc import TimeoutError as PoolTimeout

log = logging.getLogger("worker")
Result = TypeVar("Result")
FIRST_PAUSE, LONGEST_PAUSE = 0.2, 10.0  # seconds; doubles in between


class GaveUp(Exception):
    """The store did not come back in time."""


class Patience:
    """How long we try.

    limit_seconds   after so long of vain tries GaveUp is raised; the lease lapses and another worker goes on
    give_up         asked between tries; an exception that it raises ends the waiting
    """

    def __init__(self, *, limit_seconds: float, give_up: Callable[[], None] = lambda: None) -> None:
        self.limit_seconds = limit_seconds
        self._give_up = give_up

    @staticmethod
    def is_about_the_store(error: Exception) -> bool:
        """Whether trying again later may help."""
        if isinstance(error, IntegrityError | ProgrammingError | FileNotFoundError):
            return False  # the store is there, and says no; or it is a file of ours that is not there
        return isinstance(error, DBAPIError | PoolTimeout | FileStoreError | OSError)

    def until_done(self, deed: Callable[[], Result]) -> Result:
        """Do it until it succeeds. Raises GaveUp, and whatever is not about an absent store."""
        pause, deadline = FIRST_PAUSE, time.monotonic() + self.limit_seconds
        while True:
            try:
                return deed()
            except Exception as error:
                if not self.is_about_the_store(error):
                    raise
                if time.monotonic() > deadline:
                    raise GaveUp(f"The store was away for {self.limit_seconds:.0f} s: {error}") from error
                log.warning("the store is away (%s); trying again in %.1f s", type(error).__name__, pause)
            self._give_up()
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)
