"""gunicorn's worker as the service has it: lines spread evenly, few requests at work, nothing waits for long."""

from __future__ import annotations

import contextlib
import http.client
import threading
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any

import psutil
import pytest

from api import lines
from api.lines import AT_WORK, LONG, FairWorker
from tests.api.makers import House, serving


def workers(port: int) -> list[psutil.Process]:
    """The processes that answer at the port: they listen, as their parent does, who made them."""
    listening = {}
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if any(line.status == "LISTEN" and line.laddr.port == port for line in process.net_connections("tcp")):
                listening[process.pid] = process
    return [process for process in listening.values() if process.ppid() in listening]


@contextlib.contextmanager
def crowd(port: int, size: int) -> Iterator[list[int]]:
    """So many lines that come at once, had an answer and are kept; how many of them each process holds."""
    held: list[http.client.HTTPConnection] = []

    def come() -> None:
        line = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        line.request("GET", "/healthz")
        line.getresponse().read()
        held.append(line)

    threads = [threading.Thread(target=come) for _ in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(held) == size, "each is answered"
    try:
        yield [
            sum(line.status == "ESTABLISHED" and line.laddr.port == port for line in process.net_connections("tcp"))
            for process in workers(port)
        ]
    finally:
        for line in held:
            line.close()


def wait_until_all_answer(port: int, processes: int) -> None:
    """Until each of so many processes holds a line of a crowd: one that has just begun takes none."""
    end = time.monotonic() + 60
    while True:
        with crowd(port, 12) as spread:
            if len(spread) == processes and min(spread) > 0:
                return
        assert time.monotonic() < end, f"of {processes} processes, {spread} lines"
        time.sleep(0.2)


def test_lines_that_come_at_once_are_spread_evenly_also_after_a_process_was_killed(house: House) -> None:
    with serving(house, processes=3) as port:
        for _ in range(2):
            wait_until_all_answer(port, 3)
            for _ in range(4):
                time.sleep(0.1)  # the lines of the crowd before are gone
                with crowd(port, 24) as spread:
                    assert (sum(spread), len(spread)) == (24, 3)
                    assert max(spread) - min(spread) <= 4, spread
            workers(port)[0].kill()


class Pool:
    """Threads that never begin; what they were given."""

    def __init__(self) -> None:
        self.given: list[Any] = []

    def submit(self, _handle: Any, line: Any) -> Future[bool]:
        self.given.append(line)
        return Future()


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> FairWorker:
    """A worker without lines, threads and parents; time is in the hand of the test."""
    made = FairWorker.__new__(FairWorker)
    made.tpool, made.nr_conns, made._accepting, made.slot = Pool(), 10, False, 0
    made._waiting, made._at_work = deque(), {}
    made.now = 100.0
    monkeypatch.setattr(lines.time, "monotonic", lambda: made.now)
    return made


def ended() -> Future[bool]:
    """The end of a request, after which the line is closed."""
    future: Future[bool] = Future()
    future.set_result(False)
    return future


class Line:
    """A line that can be closed."""

    def close(self, graceful: bool = False) -> None:
        pass


def test_a_few_requests_are_at_work_and_the_others_wait_in_the_order_of_asking(worker: FairWorker) -> None:
    asked = [Line() for _ in range(AT_WORK + 3)]
    for line in asked:
        worker.enqueue_req(line)
    assert worker.tpool.given == asked[:AT_WORK]
    worker.finish_request(asked[1], ended())
    assert worker.tpool.given == asked[: AT_WORK + 1]
    worker.finish_request(asked[0], ended())
    assert worker.tpool.given == asked[: AT_WORK + 2]


def test_a_request_that_takes_long_makes_room_and_its_end_makes_none_twice(worker: FairWorker) -> None:
    asked = [Line() for _ in range(4 * AT_WORK)]
    for line in asked:
        worker.enqueue_req(line)
    worker.now += 2 * LONG
    worker._go_on()
    assert worker.tpool.given == asked[: 2 * AT_WORK], "the first ones no longer count"
    worker.finish_request(asked[0], ended())
    assert worker.tpool.given == asked[: 2 * AT_WORK], "it had made room before"
    worker.finish_request(asked[AT_WORK], ended())
    assert worker.tpool.given == asked[: 2 * AT_WORK + 1]
