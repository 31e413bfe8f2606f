"""Waiting for a store that is unavailable: tenacity's retry, with growing pauses and a limit."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any, TypeVar

from obstore.exceptions import BaseError as FileStoreError
from sqlalchemy.exc import DBAPIError, IntegrityError, ProgrammingError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from tenacity import RetryCallState, Retrying, retry_if_exception, wait_exponential

log = logging.getLogger("worker")
Result = TypeVar("Result")
PAUSES = wait_exponential(multiplier=0.2, max=10.0)  # seconds: 0.2, 0.4, 0.8, …


class StoreUnavailable(Exception):
    """The store was unavailable for longer than the limit."""


def is_outage(error: BaseException) -> bool:
    """Whether the error says that the store is unavailable, so that trying again later may help."""
    if isinstance(error, IntegrityError | ProgrammingError | FileNotFoundError):
        return False  # the store is there, and refuses; or a file of the worker's own is missing
    return isinstance(error, DBAPIError | PoolTimeout | FileStoreError | OSError)


class StoreRetry:
    """Calls functions that need the store until they succeed.

    limit_seconds     length of an outage after which StoreUnavailable is raised; the lease lapses, another worker
                      resumes.
    check             called between two tries; an exception that it raises ends the waiting.
    sleep, clock      for tests.
    """

    def __init__(
        self,
        *,
        limit_seconds: float,
        check: Callable[[], object] = lambda: None,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limit_seconds, self._check, self._sleep, self._clock = limit_seconds, check, sleep, clock

    def __call__(self, function: Callable[[], Result]) -> Result:
        """What the function returns in the end. Raises StoreUnavailable, and any error of it that is no outage."""
        end = self._clock() + self._limit_seconds

        def before_sleep(state: RetryCallState) -> None:
            log.warning(
                "the store is unavailable (%s); trying again in %.1f s",
                type(_error(state)).__name__,
                state.upcoming_sleep,
            )
            self._check()

        def give_up(state: RetryCallState) -> Any:
            error = _error(state)
            raise StoreUnavailable(f"The store was unavailable for {self._limit_seconds:.0f} s: {error}") from error

        return Retrying(
            retry=retry_if_exception(is_outage),
            stop=lambda state: self._clock() > end,
            wait=PAUSES,
            sleep=self._sleep,
            before_sleep=before_sleep,
            retry_error_callback=give_up,
        )(function)


def _error(state: RetryCallState) -> BaseException | None:
    return state.outcome.exception() if state.outcome is not None else None
