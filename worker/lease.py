"""A claim kept valid: a thread renews it, reports the progress, and learns whether the job is to be cancelled."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any

from store.errors import LostLease

log = logging.getLogger("worker.lease")
BEAT_SECONDS = 1.0  # how soon a cancel is noticed and progress is reported
MAX_PAUSE_SECONDS = 5.0  # between two tries while the store is unavailable; never more than a quarter of the lease
MIN_OBSERVED_SECONDS = 2.0  # a shorter time says nothing about the time that is left


@dataclass(frozen=True)
class Progress:
    """What the next renewal reports about the job."""

    fraction: float | None = None  # None: unchanged
    losses: dict[str, Any] = field(default_factory=dict)
    note: str = ""
    seconds_left: float | None = None


# Renews the claim and returns whether cancel was requested; raises LostLease where another attempt holds the job.
Renew = Callable[[Progress], bool]


class Lease:
    """Renews from entry to exit, at least at every quarter of the lease.

    reached   the fraction that earlier attempts reached; no smaller one is reported.
    lost      set once another attempt holds the job: whatever is done from then on is void.
    cancel    set once the job is to be cancelled.
    wait      waits for so many seconds and returns whether the lease has ended meanwhile; for tests.

    While the store is unavailable the thread keeps trying. A process that was suspended for longer than its lease
    learns it at its next renewal.
    """

    def __init__(
        self,
        renew: Renew,
        *,
        seconds: float,
        reached: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
        wait: Callable[[float], bool] | None = None,
    ) -> None:
        self._renew = renew
        self._reached = reached
        self._eta = Eta(clock)
        self._beat = min(BEAT_SECONDS, seconds / 4)
        self._max_pause = min(MAX_PAUSE_SECONDS, seconds / 4)
        self._over = threading.Event()
        self._wait = wait or self._over.wait
        self._lock = threading.Lock()
        self._progress = Progress()
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)
        self._lost_error: LostLease | None = None
        self.lost = threading.Event()
        self.cancel = threading.Event()

    def report(self, **changes: Any) -> None:
        """Note the job's progress (fields of Progress) for the next renewal, which adds the time that is left.

        The fraction does not fall while lost work is repeated; the time that is left follows the work.
        """
        with self._lock:
            if "fraction" in changes:
                self._eta.observe(changes["fraction"])
                changes["fraction"] = self._reached = max(self._reached, changes["fraction"])
            self._progress = replace(self._progress, **changes)

    def check(self) -> None:
        """Raise LostLease where another attempt holds the job."""
        if self._lost_error is not None:
            raise self._lost_error

    def _keep(self) -> None:
        pause = self._beat
        away = False
        while not self._wait(pause):
            with self._lock:
                progress = replace(self._progress, seconds_left=self._eta.seconds_left())
            try:
                if self._renew(progress):
                    self.cancel.set()
            except LostLease as error:
                self._lost_error = error
                self.lost.set()
                return
            except Exception as error:  # whatever it is: a thread that ended here would lose the job
                if not away:
                    log.warning(
                        "The lease cannot be renewed (%s: %s); training continues.", type(error).__name__, error
                    )
                away, pause = True, min(pause * 2, self._max_pause)
                continue
            if away:
                log.info("The lease is renewed again.")
            away, pause = False, self._beat

    def __enter__(self) -> Lease:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._over.set()
        if self._thread.is_alive():
            self._thread.join(timeout=30)


class Eta:
    """How long the work will take at its present speed, observed from the first fraction on.

    Earlier attempts, the wait in the queue and the start of the engine count neither as time nor as work. Where the
    fraction falls, as after a crash of the training process, observation begins again.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._began: tuple[float, float] | None = None  # when, and at which fraction
        self._fraction = 0.0

    def observe(self, fraction: float) -> None:
        """The fraction that is done now."""
        if self._began is None or fraction < self._fraction:
            self._began = (self._clock(), fraction)
        self._fraction = fraction

    def seconds_left(self) -> float | None:
        """Seconds to the end; None before the speed is known."""
        if self._began is None:
            return None
        at, fraction = self._began
        spent, gained = self._clock() - at, self._fraction - fraction
        if spent < MIN_OBSERVED_SECONDS or gained <= 0:
            return None
        return spent * (1 - self._fraction) / gained
