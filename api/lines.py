"""gunicorn's threaded worker, made fair: lines are shared evenly, few requests are at work at a time.

Two things make answers late where more is asked than two cores can bear, and neither is work:

- All processes listen on one socket, and the one that wakes first takes what comes: of 32 lines one process has held 23
  and another 2. Here a process leaves a new line to those that hold fewer.
- Threads of one process take turns at the interpreter, and who gets it next is chance: a request that waits for the
  database a dozen times draws a dozen lots, and some draw badly. Here a few requests are at work and the others wait in
  the order in which they came. A request that takes longer, a stream above all, no longer counts after a while, so
  nothing waits for its end.
"""

from __future__ import annotations

import mmap
import time
from collections import deque
from typing import Any

from gunicorn.workers.gthread import ThreadWorker

AT_WORK = 2  # requests of one process
LONG = 0.025  # seconds; a request that takes longer makes room for the next

SLOTS = 256  # processes at one time
FREE, CLOSED = 255, 254  # in a slot: it is nobody's; its process takes no lines, for it begins, ends, or is full
GLANCE = 0.001  # seconds between two looks whether somebody else has taken the line
GLANCES = 20  # then it is taken by whoever sees it

# One byte for each process: how many lines it holds. Made before the processes are, which all see the same memory;
# each writes its own byte only, so nothing is locked.
_held = mmap.mmap(-1, SLOTS)
_held[:] = bytes([FREE]) * SLOTS


class FairWorker(ThreadWorker):
    """Takes a new line where no other process holds fewer, and answers in the order of asking.

    All of this happens in the main thread, which waits for the lines; other threads do the requests.
    """

    def __init__(self, *given: Any, **more: Any) -> None:
        super().__init__(*given, **more)  # in the parent, so that no two take the same slot
        self.slot = max(0, _held.find(bytes([FREE])))
        _held[self.slot] = CLOSED
        self._glances = 0
        self._waiting: deque[Any] = deque()
        self._at_work: dict[Any, float] = {}  # line → since when; the oldest comes first

    def accept(self, listener: Any) -> None:
        """Take the line that waits, or leave it to others for now."""
        if self.nr_conns > min(_held[:]) and self._glances < GLANCES:
            self._glances += 1
            time.sleep(GLANCE)
            return
        self._glances = 0
        super().accept(listener)
        self._tell()

    def enqueue_req(self, conn: Any) -> None:
        """A request has begun to arrive on this line: it gets a thread when its turn comes."""
        self._waiting.append(conn)
        self._go_on()

    def finish_request(self, conn: Any, fs: Any) -> None:
        """The request on this line is answered."""
        self._at_work.pop(conn, None)
        super().finish_request(conn, fs)
        self._go_on()

    def set_accept_enabled(self, enabled: bool) -> None:
        """Listen, or no longer: where the process is full and where it ends."""
        super().set_accept_enabled(enabled)
        self._tell()

    def wait_for_and_dispatch_events(self, timeout: float) -> None:
        """One round of the main thread."""
        super().wait_for_and_dispatch_events(min(timeout, LONG) if self._waiting else timeout)
        self._go_on()
        self._tell()

    def _go_on(self) -> None:
        """Give threads to as many of those that wait as may be at work."""
        now = time.monotonic()
        while self._at_work and now - next(iter(self._at_work.values())) > LONG:
            del self._at_work[next(iter(self._at_work))]
        while self._waiting and len(self._at_work) < AT_WORK:
            conn = self._waiting.popleft()
            self._at_work[conn] = now
            super().enqueue_req(conn)

    def _tell(self) -> None:
        """Say to the other processes how many lines this one holds."""
        _held[self.slot] = min(self.nr_conns, CLOSED - 1) if self._accepting else CLOSED


def free(worker: FairWorker) -> None:
    """A process has ended: nobody waits for it to take a line. Called in the parent."""
    _held[worker.slot] = FREE
