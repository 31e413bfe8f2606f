"""A claim kept alive: a thread renews it, tells the progress, and hears whether somebody wants the job cancelled."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any

from store.errors import LostLease
from worker.pace import Pace

log = logging.getLogger("worker.lease")
BEAT_SECONDS = 1.0  # cancel is heard and progress is told at every beat
LONGEST_PAUSE_SECONDS = 5.0  # between two tries while the store is away; never more than a quarter of the lease


@dataclass(frozen=True)
class Progress:
    """What the next beat tells about the job."""

    fraction: float | None = None  # None: nothing new, which leaves it where it was
    losses: dict[str, Any] = field(default_factory=dict)
    note: str = ""
    seconds_left: float | None = None


# Renews the claim and returns whether cancel was asked for; raises LostLease where the claim is no longer ours.
Renew = Callable[[Progress], bool]


class Lease:
    """Renews from entry to exit, at least at every quarter of the lease.

    reached  the fraction where the attempts before this one came to; no smaller one is told.
    lost     set once the store says that another attempt owns the job: whatever is done from then on is void.
    cancel   set once somebody asked for cancel.

    While the store is away the thread tries on. A process that was stopped for longer than its lease finds out at
    its first beat.
    """

    def __init__(self, renew: Renew, *, seconds: float, reached: float = 0.0) -> None:
        self._renew = renew
        self._reached = reached
        self._pace = Pace()
        self._beat = min(BEAT_SECONDS, seconds / 4)
        self._longest_pause = min(LONGEST_PAUSE_SECONDS, seconds / 4)
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._progress = Progress()
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)
        self._lost_why: LostLease | None = None
        self.lost = threading.Event()
        self.cancel = threading.Event()

    def tell(self, **changes: Any) -> None:
        """Remember how far the job is (fields of Progress); the next beat tells the store, and how long it will take.

        The bar waits where it is while work is done again that was lost; the pace is that of the work.
        """
        with self._lock:
            if "fraction" in changes:
                self._pace.see(changes["fraction"])
                changes["fraction"] = self._reached = max(self._reached, changes["fraction"])
            self._progress = replace(self._progress, **changes)

    def check(self) -> None:
        """Raise LostLease where the job is no longer ours."""
        if self._lost_why is not None:
            raise self._lost_why

    def _keep(self) -> None:
        pause = self._beat
        away_since: float | None = None
        while not self._over.wait(pause):
            with self._lock:
                progress = replace(self._progress, seconds_left=self._pace.seconds_left())
            try:
                if self._renew(progress):
                    self.cancel.set()
            except LostLease as error:
                self._lost_why = error
                self.lost.set()
                return
            except Exception as error:  # a heartbeat that dies of a surprise would give the job away
                if away_since is None:
                    away_since = time.monotonic()
                    log.warning("The lease cannot be renewed (%s: %s); training goes on.", type(error).__name__, error)
                pause = min(pause * 2, self._longest_pause)
                continue
            if away_since is not None:
                log.info("The lease is renewed again after %.1f s.", time.monotonic() - away_since)
                away_since = None
            pause = self._beat

    def __enter__(self) -> Lease:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._over.set()
        if self._thread.is_alive():
            self._thread.join(timeout=30)
