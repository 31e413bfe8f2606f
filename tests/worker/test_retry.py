"""An outage of the store is waited for; other errors are not."""

from __future__ import annotations

import pytest
from sqlalchemy.exc import IntegrityError, OperationalError

from worker.retry import StoreRetry, StoreUnavailable

AWAY = OperationalError("SELECT 1", {}, Exception("connection refused"))


class Clock:
    """A clock that only sleep moves on."""

    def __init__(self) -> None:
        self.now, self.pauses = 0.0, []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds


def failing(times: int, error: Exception):
    calls = []

    def function() -> int:
        calls.append(1)
        if len(calls) <= times:
            raise error
        return len(calls)

    return function


def retry(clock: Clock, **more) -> StoreRetry:
    return StoreRetry(limit_seconds=60, sleep=clock.sleep, clock=clock, **more)


def test_it_tries_until_the_store_is_back_with_growing_pauses():
    clock = Clock()
    assert retry(clock)(failing(8, AWAY)) == 9
    assert clock.pauses == pytest.approx([0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0, 10.0])


def test_it_gives_up_after_its_limit():
    clock = Clock()
    with pytest.raises(StoreUnavailable, match="unavailable for 60 s.*connection refused"):
        retry(clock)(failing(100, AWAY))
    assert 60 < clock.now <= 70


@pytest.mark.parametrize(
    "error", [ValueError("a bug"), IntegrityError("INSERT", {}, Exception("unique")), FileNotFoundError("gone")]
)
def test_what_waiting_does_not_cure_is_raised_at_once(error):
    clock = Clock()
    with pytest.raises(type(error)):
        retry(clock)(failing(1, error))
    assert clock.pauses == []


def test_the_check_between_two_tries_may_end_the_waiting():
    def check() -> None:
        raise RuntimeError("the lease is lost")

    with pytest.raises(RuntimeError, match="lease is lost"):
        retry(Clock(), check=check)(failing(5, AWAY))
