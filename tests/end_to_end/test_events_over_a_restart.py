"""A stream of events over restarts of the server: every moment is told once, and none is lost."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from store import jobs
from tests.api.makers import House, make_house, now, publish_runs, serving_process, submit_job, work_on


class Listener:
    """A browser's EventSource in small: it reads, and when the line breaks it comes back with Last-Event-ID."""

    def __init__(self, url: str, headers: dict[str, str]) -> None:
        self.url, self.headers = url, headers
        self.heard: list[tuple[int, str, dict[str, Any]]] = []
        self.lines_broken = 0
        self.over = threading.Event()
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        while not self.over.is_set() and not (self.heard and self.heard[-1][1] == "end"):
            known = {"Last-Event-ID": str(self.heard[-1][0])} if self.heard else {}
            try:
                with httpx.stream("GET", self.url, headers=self.headers | known, timeout=20, trust_env=False) as answer:
                    self._read(answer.iter_lines())
            except httpx.HTTPError:
                pass
            self.lines_broken += 1
            time.sleep(0.1)

    def _read(self, lines: Iterator[str]) -> None:
        fields: dict[str, str] = {}
        for line in lines:
            if line:
                name, _, value = line.partition(": ")
                fields[name] = value
            elif "data" in fields:  # an event counts when its empty line is there: one that was cut is told again
                self.heard.append((int(fields["id"]), fields["event"], json.loads(fields["data"])))
                fields = {}

    def until(self, revision: int) -> None:
        deadline = time.monotonic() + 60
        while not self.heard or self.heard[-1][0] < revision:
            assert time.monotonic() < deadline, f"revision {revision} was not told: {[r for r, _, _ in self.heard]}"
            time.sleep(0.02)

    def close(self) -> None:
        self.over.set()
        self._thread.join(30)


@contextlib.contextmanager
def served(house: House, port: int | None = None, *, end: int) -> Iterator[int]:
    """The service at this port, or at a free one, ended by this signal with all its streams open."""
    listener = socket.create_server(("127.0.0.1", port or 0), backlog=1024)
    with serving_process(house, listener=listener) as (port, process):
        listener.close()  # from now on the server alone holds the port
        yield port
        process.send_signal(end)
        process.wait(40)


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM], ids=["killed", "asked to stop"])
def test_over_a_restart_of_the_server_no_event_is_lost_or_told_twice(
    tmp_path: Path, service_url: str, end: int
) -> None:
    house = make_house(tmp_path / "home", database_url=service_url)
    job_id = submit_job(house)
    claim = work_on(house, job_id)

    def go_on(progress: float) -> int:
        """The worker tells how far it is; the revision of the job."""
        with house.database.write() as rows:
            jobs.renew(rows, claim, now=now(), lease_seconds=600, progress=progress)
        with house.database.read() as rows:
            return jobs.get(rows, house.teams["ours"], job_id).revision

    told: list[int] = []
    listener = None
    try:
        with served(house, end=end) as port:
            url = f"http://127.0.0.1:{port}/api/v1/jobs/{job_id}/events"
            listener = Listener(url, house.headers("reader"))
            for step in range(1, 4):
                told.append(go_on(step / 10))
                listener.until(told[-1])
        overwritten = go_on(0.4)  # nobody can hear of it
        told.append(go_on(0.5))  # it is told as soon as the server is back
        with served(house, port, end=end):
            listener.until(told[-1])
            told.append(go_on(0.6))
            listener.until(told[-1])
        with served(house, port, end=end):
            with house.database.write() as rows:
                jobs.release(rows, claim, reason="Enough for the test.", now=now())
            publish_runs(house, job_id)
            deadline = time.monotonic() + 60
            while listener.heard[-1][1] != "end":
                assert time.monotonic() < deadline
                time.sleep(0.02)
    finally:
        if listener is not None:
            listener.close()
        house.database.close()
    revisions = [revision for revision, _, _ in listener.heard]
    assert revisions == sorted(set(revisions)), "none is told twice, and none late"
    assert set(told) <= set(revisions), "none is lost"
    assert overwritten not in revisions, "what was overwritten before anybody could ask is no event"
    assert listener.lines_broken >= 3
    progress = {event["revision"]: event["progress"] for _, _, event in listener.heard}
    assert [progress[revision] for revision in told] == [0.1, 0.2, 0.3, 0.5, 0.6]
    assert (listener.heard[-1][2]["state"], listener.heard[-1][2]["progress"]) == ("succeeded", 1.0)
