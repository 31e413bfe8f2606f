"""`python -m standalone load`: how much the service bears, on PostgreSQL, with four API processes and 32 clients.

Four questions, one after another: jobs created, jobs read, a page of 50 out of 100 000 runs, and answers while 200
event streams are open. Then the rows are counted: each job that was promised with 202 is there, and there once.
No worker runs, for training would compete with what is measured. The clients run on the same machine, so they take
their share of its cores. PostgreSQL waits for its disk at every commit, unless it is told not to.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import socket
import statistics
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from rich.console import Console
from rich.table import Table
from sqlalchemy import func, insert, select, update

from standalone.database import DatabaseError, PostgresServer
from standalone.supervisor import AskedToStop, CannotStart, Plan, Supervisor, stop_at_signals
from store.database import Database
from store.identifiers import new_id
from store.settings import NO_LIMIT
from store.tables import Job, Run, Team

CLIENTS = 32
API_PROCESSES = 4
STREAMS = 200
RUNS = 100_000
ROWS_AT_ONCE = 5_000
START_SECONDS = 60.0
JOB = {"recipe": "independence", "seeds": [0]}
TARGETS = {  # what a team on a small machine should be able to count on
    "jobs created": (300.0, 100.0),
    "jobs read": (1000.0, 100.0),
    "50 of many runs": (None, 50.0),
    "jobs read beside streams": (None, 100.0),
}


@dataclass(frozen=True)
class Load:
    """What came of one question. Times in milliseconds, from the request's first byte to the answer's last."""

    name: str
    answers: int
    seconds: float
    median_ms: float
    p95_ms: float
    worst_ms: float
    refused: dict[int, int]

    @property
    def per_second(self) -> float:
        return self.answers / self.seconds

    def document(self) -> dict[str, Any]:
        return {**self.__dict__, "per_second": self.per_second}


class Line:
    """One connection that is kept open, as a client's session keeps it.

    It reads no more of an answer than it must: the clients share the cores with the service that they measure.
    """

    def __init__(self, address: str, token: str) -> None:
        parts = urlsplit(address)
        self._place = (parts.hostname or "", parts.port or 80)
        self._head = f"HTTP/1.1\r\nHost: {parts.netloc}\r\nAuthorization: Bearer {token}\r\n"
        self._socket: socket.socket | None = None

    def ask(self, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
        """(status, body); a connection that the server closed is opened again once."""
        for last in (False, True):
            try:
                return self._answer(self._send(method, path, body))
            except ConnectionError:
                self.close()
                if last or method == "POST":
                    raise
        raise AssertionError

    def open(self, path: str) -> Iterator[bytes]:
        """The lines of an answer whose body goes on, headers first."""
        return iter(self._send("GET", path, b"").makefile("rb").readline, b"")

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _send(self, method: str, path: str, body: bytes) -> socket.socket:
        if self._socket is None:
            self._socket = socket.create_connection(self._place, timeout=60)
        kind = "Content-Type: application/json\r\n" if body else ""
        head = f"{method} /api/v1{path} {self._head}{kind}Content-Length: {len(body)}\r\n\r\n"
        self._socket.sendall(head.encode() + body)
        return self._socket

    def _answer(self, line: socket.socket) -> tuple[int, bytes]:
        came = b""
        while b"\r\n\r\n" not in came:
            came += self._more(line)
        head, _, body = came.partition(b"\r\n\r\n")
        length = re.search(rb"(?i)\ncontent-length: *(\d+)", head)
        while length and len(body) < int(length[1]):
            body += self._more(line)
        if b"\nConnection: close" in head:
            self.close()
        return int(head[9:12]), body

    def _more(self, line: socket.socket) -> bytes:
        piece = line.recv(65_536)
        if not piece:
            raise ConnectionResetError("the server closed the line")
        return piece


def press(
    name: str, line: Callable[[], Line], ask: Callable[[Line, int], int], *, clients: int, seconds: float
) -> Load:
    """So many clients ask one after another for so long. `ask(line, number)` returns the status."""
    took: list[list[float]] = [[] for _ in range(clients)]
    statuses: list[Counter[int]] = [Counter() for _ in range(clients)]
    end = time.monotonic() + seconds

    def client(number: int) -> None:
        mine, count = line(), 0
        while time.monotonic() < end:
            began = time.perf_counter()
            status = ask(mine, number * 1_000_000 + count)
            took[number].append((time.perf_counter() - began) * 1e3)
            statuses[number][status] += 1
            count += 1
        mine.close()

    threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    elapsed = time.monotonic() - began
    times = sorted(one for many in took for one in many)
    counted = sum(statuses, Counter())
    refused = {status: count for status, count in counted.items() if status >= 400}
    p95 = times[int(0.95 * (len(times) - 1))]
    return Load(name, sum(counted.values()), elapsed, statistics.median(times), p95, times[-1], refused)


@contextmanager
def crowded_house(*, api: int, durable: bool, console: Console) -> Iterator[tuple[Supervisor, Database, str]]:
    """The service on a PostgreSQL of its own, everything in a folder that is deleted at the end."""
    stopping = stop_at_signals()
    home = Path(tempfile.mkdtemp(prefix="bimt-load-"))
    home.chmod(0o755)  # the database's own user must get through
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, home, ignore_errors=True)
        server = stack.enter_context(PostgresServer(home / "postgres", durable=durable))
        environ = {name: value for name, value in os.environ.items() if not name.startswith("BIMT_")}
        environ |= {"BIMT_DATABASE_URL": server.url, "BIMT_RATE_LIMIT": NO_LIMIT, "BIMT_LOGIN_RATE_LIMIT": NO_LIMIT}
        supervisor = Supervisor(
            Plan(home=home / "home", workers=0, api=api),
            environ=environ,
            say=lambda said: console.print(f"[dim]{said}[/]", soft_wrap=True),
            stopping=stopping,
        )
        stack.callback(supervisor.stop)
        token = supervisor.start()
        assert token is not None, "a fresh database has no admin yet"
        wait_for_all(supervisor, token, api)
        database = Database(server.url)
        stack.callback(database.close)
        with database.write() as rows:  # the quotas are not what is measured
            rows.execute(update(Team).values(max_queued_jobs=None, max_queued_steps=None))
        yield supervisor, database, token


def wait_for_all(supervisor: Supervisor, token: str, processes: int) -> None:
    """Until every API process has answered something: the first is ready seconds before the last.

    Raises CannotStart when one never does. A process that has answered has begun a file of metrics.
    """
    metrics = supervisor.home / "metrics"
    deadline = time.monotonic() + START_SECONDS
    while len(list(metrics.glob("counter_*.db"))) < processes:
        if time.monotonic() > deadline:
            raise CannotStart(f"Not all of {processes} API processes answered within {START_SECONDS:.0f} s.")
        line = Line(supervisor.address, token)
        line.ask("GET", "/me")
        line.close()
        time.sleep(0.01)


def fill(database: Database, runs: int) -> None:
    """Copies of the job and run that are there, ended, until there are so many runs."""
    with database.write() as rows:
        job_columns = [getattr(Job, key) for key in Job.__table__.columns.keys()]  # noqa: SIM118
        run_columns = [getattr(Run, key) for key in Run.__table__.columns.keys()]  # noqa: SIM118
        ended = {"state": "cancelled", "ended_at": datetime.now(UTC)}
        job = dict(rows.execute(select(*job_columns).limit(1)).mappings().one()) | ended
        run = dict(rows.execute(select(*run_columns).limit(1)).mappings().one()) | ended
        there = rows.scalar(select(func.count()).select_from(Run)) or 0
        for start in range(there, runs, ROWS_AT_ONCE):
            ids = [new_id("job") for _ in range(min(ROWS_AT_ONCE, runs - start))]
            rows.execute(insert(Job), [job | {"id": one} for one in ids])
            rows.execute(insert(Run), [run | {"id": new_id("run"), "job_id": one} for one in ids])


def lost_and_doubled(database: Database, promised: list[str]) -> tuple[int, int]:
    """How many promised jobs are not in the database, and how many rows stand there that nobody was promised."""
    with database.read() as rows:
        there = set(rows.scalars(select(Job.id)))
    return len(set(promised) - there), len(there - set(promised)) + len(promised) - len(set(promised))


@contextmanager
def open_streams(line: Callable[[], Line], job_id: str, count: int) -> Iterator[int]:
    """So many clients listening to one job; yields how many of them have heard its first event."""
    lines = [line() for _ in range(count)]
    try:
        answers = [one.open(f"/jobs/{job_id}/events") for one in lines]
        yield sum(heard_an_event(answer) for answer in answers)
    finally:
        for one in lines:
            one.close()


def heard_an_event(answer: Iterator[bytes]) -> bool:
    """Whether it is a good answer, and an event arrives before it ends."""
    return next(answer, b"").startswith(b"HTTP/1.1 200") and any(raw.startswith(b"data:") for raw in answer)


def measure(
    supervisor: Supervisor, database: Database, token: str, given: argparse.Namespace, console: Console
) -> dict[str, Any]:
    """All four questions; returns the report."""
    promised: list[str] = []
    guard = threading.Lock()
    body = json.dumps(JOB).encode()

    def line() -> Line:
        return Line(supervisor.address, token)

    def create(mine: Line, number: int) -> int:
        status, answer = mine.ask("POST", "/jobs", body)
        if status == 202:
            with guard:
                promised.append(json.loads(answer)["id"])
        return status

    loads = []

    def pressed(name: str, ask: Callable[[Line, int], int]) -> None:
        console.print(f"[dim]{name} …[/]")
        loads.append(press(name, line, ask, clients=given.clients, seconds=given.seconds))

    pressed("jobs created", create)
    lost, doubled = lost_and_doubled(database, promised)
    pressed("jobs read", lambda mine, number: mine.ask("GET", f"/jobs/{promised[number % len(promised)]}")[0])
    with open_streams(line, promised[0], given.streams) as heard:
        name = "jobs read beside streams"
        pressed(name, lambda mine, number: mine.ask("GET", f"/jobs/{promised[number % len(promised)]}")[0])
    console.print(f"[dim]filling up to {given.runs:,} runs …[/]")
    fill(database, given.runs)
    console.print("[dim]50 of many runs, one client …[/]")
    loads.append(
        press("50 of many runs", line, lambda mine, _: mine.ask("GET", "/runs?limit=50")[0], clients=1, seconds=5)
    )
    return {
        "clients": given.clients,
        "api_processes": given.api,
        "durable": given.durable,
        "loads": {load.name: load.document() for load in loads},
        "lost": lost,
        "doubled": doubled,
        "streams": {"asked": given.streams, "heard": heard},
        "runs": given.runs,
    }


def shortfalls(report: dict[str, Any]) -> list[str]:
    """In sentences, what fell short of the targets; every refused request and every lost job counts."""
    found = []
    for name, (rate, p95) in TARGETS.items():
        load = report["loads"][name]
        if rate is not None and load["per_second"] < rate:
            found.append(f"{name}: {load['per_second']:.0f} a second, and {rate:.0f} were wanted")
        if load["p95_ms"] > p95:
            found.append(f"{name}: p95 is {load['p95_ms']:.0f} ms, and {p95:.0f} ms were wanted")
        if load["refused"]:
            found.append(f"{name}: refused with {load['refused']}")
    if report["lost"] or report["doubled"]:
        found.append(f"{report['lost']} jobs lost, {report['doubled']} doubled")
    if report["streams"]["heard"] < report["streams"]["asked"]:
        found.append("{heard} of {asked} event streams heard something".format(**report["streams"]))
    return found


def table(report: dict[str, Any]) -> Table:
    """The report as people read it."""
    drawn = Table(title=f"{report['clients']} clients, {report['api_processes']} API processes, PostgreSQL")
    for heading in ("", "answers", "a second", "median ms", "p95 ms", "worst ms"):
        drawn.add_column(heading, justify="right" if heading else "left")
    for name, load in report["loads"].items():
        figures = [f"{load[key]:.1f}" for key in ("median_ms", "p95_ms", "worst_ms")]
        drawn.add_row(name, f"{load['answers']:,}", f"{load['per_second']:.0f}", *figures)
    return drawn


def main(arguments: list[str]) -> int:
    """Measure, print, and write reports/load.json. 1: something fell short; a sentence says what."""
    parser = argparse.ArgumentParser(prog="python -m standalone load", description="How much the service bears.")
    parser.add_argument("--seconds", type=float, default=15.0, help="of each question; default %(default)s")
    parser.add_argument("--clients", type=int, default=CLIENTS, help="client threads; default %(default)s")
    parser.add_argument("--api", type=int, default=API_PROCESSES, help="API processes; default %(default)s")
    parser.add_argument("--streams", type=int, default=STREAMS, help="event streams; default %(default)s")
    parser.add_argument("--runs", type=int, default=RUNS, help="runs to list from; default %(default)s")
    parser.add_argument(
        "--durable", action=argparse.BooleanOptionalAction, default=True, help="PostgreSQL waits for its disk"
    )
    parser.add_argument("--folder", type=Path, default=Path("reports"))
    given = parser.parse_args(arguments)
    console = Console(highlight=False)
    try:
        with crowded_house(api=given.api, durable=given.durable, console=console) as (supervisor, database, token):
            report = measure(supervisor, database, token, given, console)
    except (CannotStart, DatabaseError) as why:
        console.print(f"Not started: {why}")
        return 1
    except AskedToStop:
        return 130
    given.folder.mkdir(parents=True, exist_ok=True)
    (given.folder / "load.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    console.print(table(report))
    console.print("{heard} of {asked} event streams heard their first event".format(**report["streams"]))
    console.print(f"{report['lost']} jobs lost, {report['doubled']} doubled; wrote {given.folder}/load.json")
    missed = shortfalls(report)
    for sentence in missed:
        console.print(f"[bold red]short[/]  {sentence}")
    return 1 if missed else 0
