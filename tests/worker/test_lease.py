"""A lease is renewed in time, reports progress, and outlives a store that is unavailable. The clock is the test's."""

from __future__ import annotations

import queue
import threading

import pytest

from store.errors import LostLease
from worker.lease import Lease, Progress


class Renewals:
    """Takes down renewals, which happen when the test lets time pass; returns or raises what it is told to."""

    def __init__(self) -> None:
        self.received: list[Progress] = []
        self.pauses: list[float] = []
        self.cancel = False
        self.error: Exception | None = None
        self.now = 0.0
        self._passed: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._waiting = threading.Semaphore(0)

    def __call__(self, progress: Progress) -> bool:
        self.received.append(progress)
        if self.error is not None:
            raise self.error
        return self.cancel

    def wait(self, seconds: float) -> bool:
        """What the lease waits with."""
        self.pauses.append(seconds)
        self._waiting.release()
        over = self._passed.get()
        self.now += seconds
        return over

    def lease(self, seconds: float = 60, **more) -> Lease:
        lease = Lease(self, seconds=seconds, clock=lambda: self.now, wait=self.wait, **more)
        lease.__enter__()
        self._waiting.acquire()
        return lease

    def beat(self) -> None:
        """One pause of the lease passes, and its renewal."""
        self._passed.put(False)
        self._waiting.acquire()

    def last_beat(self, lease: Lease) -> None:
        """Likewise, where the lease ends its thread by itself."""
        self._passed.put(False)
        lease._thread.join()

    def end(self, lease: Lease) -> None:
        self._passed.put(True)
        lease.__exit__(None, None, None)


def test_it_is_renewed_every_second_or_at_a_quarter_of_a_short_lease():
    for seconds, pause in ((60, 1.0), (2, 0.5)):
        renewals = Renewals()
        lease = renewals.lease(seconds)
        renewals.beat()
        renewals.beat()
        renewals.end(lease)
        assert renewals.pauses == [pause] * 3
        assert len(renewals.received) == 2


def test_every_renewal_reports_the_newest_progress():
    renewals = Renewals()
    lease = renewals.lease()
    lease.report(fraction=0.25, note="pruning")
    lease.report(losses={"prediction_loss": 1.5})
    renewals.beat()
    renewals.end(lease)
    assert renewals.received == [Progress(0.25, {"prediction_loss": 1.5}, "pruning")]


def test_a_renewal_before_there_is_progress_leaves_it_unchanged():
    renewals = Renewals()
    lease = renewals.lease(reached=0.12)
    lease.report(note="the engine starts")
    renewals.beat()
    renewals.end(lease)
    assert renewals.received == [Progress(None, {}, "the engine starts", None)]


def test_progress_does_not_fall_while_lost_work_is_repeated_and_the_eta_follows_the_work(monkeypatch):
    monkeypatch.setattr("worker.lease.MIN_OBSERVED_SECONDS", 0.0)
    renewals = Renewals()
    lease = renewals.lease(reached=0.5)
    lease.report(fraction=0.25)
    lease.report(fraction=0.4)
    renewals.now = 3.0
    renewals.beat()
    lease.report(fraction=0.75)
    renewals.beat()
    renewals.end(lease)
    assert [progress.fraction for progress in renewals.received] == [0.5, 0.75]
    assert renewals.received[0].seconds_left == pytest.approx(4.0 * 0.6 / 0.15)


def test_cancel_is_noticed():
    renewals = Renewals()
    renewals.cancel = True
    lease = renewals.lease()
    renewals.beat()
    assert lease.cancel.is_set()
    lease.check()
    renewals.end(lease)


def test_a_lost_lease_is_known_and_never_renewed_again():
    renewals = Renewals()
    renewals.error = LostLease("job_1", 3)
    lease = renewals.lease()
    renewals.last_beat(lease)
    assert lease.lost.is_set()
    with pytest.raises(LostLease, match="fence 3"):
        lease.check()
    assert len(renewals.received) == 1


def test_an_absent_store_is_tried_again_until_it_is_back(caplog):
    renewals = Renewals()
    renewals.error = ConnectionError("connection refused")
    lease = renewals.lease()
    for _ in range(4):
        renewals.beat()
    renewals.error, renewals.cancel = None, True
    renewals.beat()
    renewals.end(lease)
    assert lease.cancel.is_set()
    lease.check()
    assert renewals.pauses == [1.0, 2.0, 4.0, 5.0, 5.0, 1.0]
    assert caplog.text.count("cannot be renewed") == 1


def test_the_real_thread_ends_with_the_lease():
    before = threading.active_count()
    with Lease(lambda progress: False, seconds=60):
        assert threading.active_count() == before + 1
    assert threading.active_count() == before
