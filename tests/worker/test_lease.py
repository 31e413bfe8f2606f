"""A lease is renewed in time, tells what it hears, and outlives a store that is away."""

from __future__ import annotations

import threading
import time

import pytest

from store.errors import LostLease
from worker import pace
from worker.lease import Lease, Progress


class Renewals:
    """Takes renewals down; answers or raises what it is told to."""

    def __init__(self) -> None:
        self.heard: list[tuple[float, Progress]] = []
        self.cancel = False
        self.error: Exception | None = None

    def __call__(self, progress: Progress) -> bool:
        self.heard.append((time.monotonic(), progress))
        if self.error is not None:
            raise self.error
        return self.cancel


def wait_for(look) -> None:
    deadline = time.monotonic() + 5
    while not look():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_it_is_renewed_at_a_quarter_of_its_length():
    renewals = Renewals()
    with Lease(renewals, seconds=0.4):
        time.sleep(0.65)
    assert 3 <= len(renewals.heard) <= 7


def test_every_beat_tells_the_newest_progress():
    renewals = Renewals()
    with Lease(renewals, seconds=0.2) as lease:
        lease.tell(fraction=0.25, note="pruning")
        lease.tell(losses={"prediction_loss": 1.5})
        wait_for(lambda: renewals.heard)
    assert renewals.heard[0][1] == Progress(0.25, {"prediction_loss": 1.5}, "pruning")


def test_a_beat_before_there_is_progress_leaves_it_where_it_was():
    renewals = Renewals()
    with Lease(renewals, seconds=0.2, reached=0.12) as lease:
        lease.tell(note="the engine starts")
        wait_for(lambda: renewals.heard)
    assert renewals.heard[0][1] == Progress(None, {}, "the engine starts", None)


def test_the_bar_waits_while_lost_work_is_done_again_and_the_pace_is_that_of_the_work(monkeypatch):
    monkeypatch.setattr(pace, "SHORTEST_LOOK", 0.0)
    renewals = Renewals()
    with Lease(renewals, seconds=0.2, reached=0.5) as lease:
        lease.tell(fraction=0.25)
        lease.tell(fraction=0.4)
        wait_for(lambda: renewals.heard)
        lease.tell(fraction=0.75)
        wait_for(lambda: renewals.heard[-1][1].fraction == 0.75)
    assert renewals.heard[0][1].fraction == 0.5
    left = renewals.heard[0][1].seconds_left
    assert left is not None
    assert 0 < left < 20


def test_cancel_is_heard():
    renewals = Renewals()
    renewals.cancel = True
    with Lease(renewals, seconds=0.2) as lease:
        assert lease.cancel.wait(2)
        lease.check()


def test_a_lost_lease_is_known_and_never_renewed_again():
    renewals = Renewals()
    renewals.error = LostLease("job_1", 3)
    with Lease(renewals, seconds=0.2) as lease:
        assert lease.lost.wait(2)
        time.sleep(0.2)
        with pytest.raises(LostLease, match="fence 3"):
            lease.check()
    assert len(renewals.heard) == 1


def test_an_absent_store_is_asked_again_until_it_is_back(caplog):
    renewals = Renewals()
    renewals.error = ConnectionError("nobody there")
    with Lease(renewals, seconds=0.1) as lease:
        wait_for(lambda: len(renewals.heard) >= 2)
        renewals.error, renewals.cancel = None, True
        assert lease.cancel.wait(5)
        lease.check()
    assert caplog.text.count("cannot be renewed") == 1


def test_no_thread_is_left_behind():
    before = threading.active_count()
    with Lease(Renewals(), seconds=0.2):
        assert threading.active_count() == before + 1
    assert threading.active_count() == before
