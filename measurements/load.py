"""`python -m measurements load`: what the service bears on PostgreSQL, with everything on this machine.

The load of a team of fifty with their scripts: 20 job creations and 300 reads a second while 200 event streams are
open, sent at fixed times whether or not earlier requests have been answered, so that a slow answer delays no later
request and waiting in the client counts as the service's time. Then more than it can bear, to see that it refuses
(429 or 503 with Retry-After) and lets no queue of seconds grow. At the end the rows are counted: each job that was
promised with 202 is there, and there once. No worker runs, for training would compete with what is measured.
Writes reports/load.json.
"""

from __future__ import annotations

import argparse
import http.client
import itertools
import json
import os
import shutil
import statistics
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
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
from store.columns import new_id
from store.database import Database
from store.settings import NO_LIMIT
from store.tables import Job, Run, Team

CREATIONS, READS, STREAMS = 20.0, 300.0, 200  # a second, a second, open at once
P95_MS = 250.0
LONGEST_WAIT_MS = 2_000.0  # above its load the service may refuse, but not keep people waiting for longer
CLIENTS = 48  # threads that send; enough that a request at its time finds one free
CROWD = 128  # clients of the overload, each asking again at once
RUNS = 100_000  # in the list that a page of 50 is taken from
ROWS_AT_ONCE = 5_000
JOB = json.dumps({"recipe": "independence", "seeds": [0]}).encode()


@dataclass(frozen=True)
class Answer:
    """One request: when it was due, when its last byte had come (seconds of a monotonic clock), and its status."""

    due: float
    came: float
    status: int
    retry_after: bool


class Connection:
    """One connection that is kept open between requests, as a client's session keeps it."""

    def __init__(self, address: str, token: str) -> None:
        self.address, self.token = address, token
        parts = urlsplit(address)
        self._http = http.client.HTTPConnection(parts.hostname or "", parts.port or 80, timeout=60)
        self._headers = {"Authorization": f"Bearer {token}"}

    def ask(
        self, method: str, path: str, body: bytes | None = None, *, content_type: str = "application/json"
    ) -> tuple[int, bytes, bool]:
        """(status, body, whether Retry-After was sent); a read whose connection the server closed is sent once more."""
        headers = self._headers | ({"Content-Type": content_type} if body else {})
        for last in (False, True):
            try:
                self._http.request(method, f"/api/v1{path}", body, headers)
                response = self._http.getresponse()
                return response.status, response.read(), response.headers.get("Retry-After") is not None
            except (ConnectionError, http.client.BadStatusLine):
                self.close()
                if last or method == "POST":
                    raise
        raise AssertionError

    def stream(self, path: str) -> http.client.HTTPResponse:
        """A response whose body is a stream."""
        self._http.request("GET", f"/api/v1{path}", headers=self._headers)
        return self._http.getresponse()

    def close(self) -> None:
        """Close it; the next request opens it again."""
        self._http.close()


Ask = Callable[[Connection], tuple[int, bytes, bool]]


def send_at_fixed_times(
    connect: Callable[[], Connection], asked: Sequence[tuple[float, Ask]], *, clients: int
) -> list[Answer]:
    """Send each request at its time (seconds from the start), from so many clients; the answers in that order."""
    answers: list[Answer | None] = [None] * len(asked)
    order = itertools.count()
    start = time.monotonic() + 0.2

    def client() -> None:
        connection = connect()
        while (number := next(order)) < len(asked):
            due, ask = start + asked[number][0], asked[number][1]
            time.sleep(max(0.0, due - time.monotonic()))
            status, _, retry_after = ask(connection)
            answers[number] = Answer(due, time.monotonic(), status, retry_after)
        connection.close()

    _in_threads(client, clients)
    return [answer for answer in answers if answer is not None]


def send_without_pause(
    connect: Callable[[], Connection], asks: Sequence[Ask], *, clients: int, seconds: float
) -> list[Answer]:
    """So many clients, each sending its next request once the last was answered, for so long."""
    answers: list[Answer] = []
    turn = itertools.count()
    end = time.monotonic() + seconds

    def client() -> None:
        connection = connect()
        while (due := time.monotonic()) < end:
            status, _, retry_after = asks[next(turn) % len(asks)](connection)
            answers.append(Answer(due, time.monotonic(), status, retry_after))
        connection.close()

    _in_threads(client, clients)
    return answers


def _in_threads(client: Callable[[], None], count: int) -> None:
    threads = [threading.Thread(target=client) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def summary(answers: list[Answer]) -> dict[str, Any]:
    """Rates, waiting times in milliseconds from the time that a request was due, and what was refused."""
    waits = sorted((answer.came - answer.due) * 1e3 for answer in answers)
    elapsed = max(answer.came for answer in answers) - min(answer.due for answer in answers)
    refused = Counter(answer.status for answer in answers if answer.status >= 400)
    bare = [answer for answer in answers if answer.status in (429, 503) and not answer.retry_after]
    return {
        "answers": len(answers),
        "per_second": len(answers) / elapsed,
        "median_ms": statistics.median(waits),
        "p95_ms": waits[int(0.95 * (len(waits) - 1))],
        "worst_ms": waits[-1],
        "refused": dict(refused),
        "refused_without_retry_after": len(bare),
    }


@contextmanager
def crowded_service(
    *, api: int, durable: bool, console: Console, workers: int = 0
) -> Iterator[tuple[Supervisor, Database, str]]:
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
            Plan(home=home / "home", workers=workers, api=api),
            environ=environ,
            say=lambda said: console.print(f"[dim]{said}[/]", soft_wrap=True),
            stopping=stopping,
        )
        stack.callback(supervisor.stop)
        token = supervisor.start()
        assert token is not None, "a fresh database has no admin yet"
        database = Database(server.url)
        stack.callback(database.close)
        with database.write() as rows:  # the quotas are not what is measured
            rows.execute(update(Team).values(max_queued_jobs=None, max_queued_steps=None))
        yield supervisor, database, token


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
    """How many promised jobs are not in the database, and how many rows stand there that were never promised."""
    with database.read() as rows:
        there = set(rows.scalars(select(Job.id)))
    return len(set(promised) - there), len(there - set(promised)) + len(promised) - len(set(promised))


@contextmanager
def open_streams(connect: Callable[[], Connection], job_id: str, count: int) -> Iterator[int]:
    """So many clients listening to one job; yields how many of them have had its first event."""
    connections = [connect() for _ in range(count)]
    try:
        answers = [connection.stream(f"/jobs/{job_id}/events") for connection in connections]
        yield sum(has_an_event(answer) for answer in answers)
    finally:
        for connection in connections:
            connection.close()


def has_an_event(answer: http.client.HTTPResponse) -> bool:
    """Whether it is a good answer, and an event arrives before it ends."""
    return answer.status == 200 and any(line.startswith(b"data:") for line in iter(answer.readline, b""))


def measure(
    supervisor: Supervisor, database: Database, token: str, given: argparse.Namespace, console: Console
) -> dict[str, Any]:
    """Everything, one after another; returns the report."""
    promised: list[str] = []

    def connect() -> Connection:
        return Connection(supervisor.address, token)

    def create(connection: Connection) -> tuple[int, bytes, bool]:
        status, body, retry_after = connection.ask("POST", "/jobs", JOB)
        if status == 202:
            promised.append(json.loads(body)["id"])  # appending to a list is atomic
        return status, body, retry_after

    def read(connection: Connection) -> tuple[int, bytes, bool]:
        return connection.ask("GET", f"/jobs/{promised[0]}")

    first = connect()
    create(first)
    first.close()
    seconds = given.seconds
    creations = [(number / CREATIONS, create) for number in range(int(CREATIONS * seconds))]
    reads = [(number / READS, read) for number in range(int(READS * seconds))]
    asked = sorted(creations + reads, key=lambda pair: pair[0])
    console.print(f"[dim]{CREATIONS:.0f} creations and {READS:.0f} reads a second beside {given.streams} streams …[/]")
    with open_streams(connect, promised[0], given.streams) as heard:
        team = send_at_fixed_times(connect, asked, clients=given.clients)
    console.print(f"[dim]{CROWD} clients without a pause …[/]")
    crowd = send_without_pause(connect, [create, read, read, read], clients=CROWD, seconds=seconds)
    lost, doubled = lost_and_doubled(database, promised)
    console.print(f"[dim]a page of 50 out of {given.runs:,} runs …[/]")
    fill(database, given.runs)
    pages = send_without_pause(connect, [lambda one: one.ask("GET", "/runs?limit=50")], clients=1, seconds=5)
    return {
        "api_processes": given.api,
        "durable": given.durable,
        "loads": {
            "a team's load": summary(team),
            "more than it bears": summary(crowd),
            "50 of many runs": summary(pages),
        },
        "lost": lost,
        "doubled": doubled,
        "streams": {"asked": given.streams, "heard": heard},
        "runs": given.runs,
    }


def shortfalls(report: dict[str, Any]) -> list[str]:
    """In sentences, what fell short of the targets; every lost job counts."""
    found = []
    for name in ("a team's load", "50 of many runs"):
        load = report["loads"][name]
        if load["p95_ms"] > P95_MS:
            found.append(f"{name}: p95 is {load['p95_ms']:.0f} ms, and {P95_MS:.0f} ms were wanted")
        if load["refused"]:
            found.append(f"{name}: refused with {load['refused']}")
    crowd = report["loads"]["more than it bears"]
    if crowd["p95_ms"] > LONGEST_WAIT_MS:
        found.append(f"more than it bears: p95 is {crowd['p95_ms']:.0f} ms; requests wait instead of being refused")
    if set(crowd["refused"]) - {429, 503, "429", "503"}:
        found.append(f"more than it bears: refused with {crowd['refused']}")
    if crowd["refused_without_retry_after"]:
        found.append(f"more than it bears: {crowd['refused_without_retry_after']} refusals say no Retry-After")
    if report["lost"] or report["doubled"]:
        found.append(f"{report['lost']} jobs lost, {report['doubled']} doubled")
    if report["streams"]["heard"] < report["streams"]["asked"]:
        found.append("{heard} of {asked} event streams had an event".format(**report["streams"]))
    return found


def table(report: dict[str, Any]) -> Table:
    """The report as people read it."""
    drawn = Table(title=f"{report['api_processes']} API processes, PostgreSQL, {report['streams']['asked']} streams")
    for heading in ("", "answers", "a second", "median ms", "p95 ms", "worst ms", "refused"):
        drawn.add_column(heading, justify="right" if heading else "left")
    for name, load in report["loads"].items():
        figures = [f"{load[key]:.1f}" for key in ("median_ms", "p95_ms", "worst_ms")]
        refused = ", ".join(f"{count} × {status}" for status, count in load["refused"].items()) or "–"
        drawn.add_row(name, f"{load['answers']:,}", f"{load['per_second']:.0f}", *figures, refused)
    return drawn


def main(arguments: list[str]) -> int:
    """Measure, print, and write reports/load.json. 1: something fell short; a sentence says what."""
    parser = argparse.ArgumentParser(prog="python -m measurements load", description="What the service bears.")
    parser.add_argument("--seconds", type=float, default=15.0, help="of each load; default %(default)s")
    parser.add_argument("--clients", type=int, default=CLIENTS, help="client threads; default %(default)s")
    parser.add_argument("--api", type=int, default=1, help="API processes; default %(default)s")
    parser.add_argument("--streams", type=int, default=STREAMS, help="event streams; default %(default)s")
    parser.add_argument("--runs", type=int, default=RUNS, help="runs to list from; default %(default)s")
    parser.add_argument(
        "--durable", action=argparse.BooleanOptionalAction, default=True, help="PostgreSQL waits for its disk"
    )
    parser.add_argument("--folder", type=Path, default=Path("reports"))
    args = parser.parse_args(arguments)
    console = Console(highlight=False)
    try:
        with crowded_service(api=args.api, durable=args.durable, console=console) as (supervisor, database, token):
            report = measure(supervisor, database, token, args, console)
    except (CannotStart, DatabaseError) as why:
        console.print(f"Not started: {why}")
        return 1
    except AskedToStop:
        return 130
    args.folder.mkdir(parents=True, exist_ok=True)
    (args.folder / "load.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    console.print(table(report))
    console.print("{heard} of {asked} event streams had their first event".format(**report["streams"]))
    console.print(f"{report['lost']} jobs lost, {report['doubled']} doubled; wrote {args.folder}/load.json")
    missed = shortfalls(report)
    for sentence in missed:
        console.print(f"[bold red]short[/]  {sentence}")
    return 1 if missed else 0
