"""What may be cured by waiting is waited for; nothing else is."""

from __future__ import annotations

import pytest
from sqlalchemy.exc import IntegrityError, OperationalError

from worker.patience import GaveUp, Patience

AWAY = OperationalError("SELECT 1", {}, Exception("connection refused"))


def failing(times: int, error: Exception):
    tries = []

    def deed() -> int:
        tries.append(1)
        if len(tries) <= times:
            raise error
        return len(tries)

    return deed


def test_it_tries_until_the_store_is_back():
    assert Patience(limit_seconds=60).until_done(failing(2, AWAY)) == 3


def test_it_gives_up_at_last():
    with pytest.raises(GaveUp, match="connection refused"):
        Patience(limit_seconds=0.1).until_done(failing(100, AWAY))


@pytest.mark.parametrize(
    "error", [ValueError("a bug"), IntegrityError("INSERT", {}, Exception("unique")), FileNotFoundError("gone")]
)
def test_what_waiting_does_not_cure_is_raised_at_once(error):
    with pytest.raises(type(error)):
        Patience(limit_seconds=60).until_done(failing(1, error))


def test_somebody_may_say_that_there_is_no_use():
    def no_use() -> None:
        raise RuntimeError("the lease is lost")

    with pytest.raises(RuntimeError, match="lease is lost"):
        Patience(limit_seconds=60, give_up=no_use).until_done(failing(5, AWAY))
