"""`python -m measurements chaos`: random faults over many jobs, on the whole service; and what must hold afterwards.
Faults, service and verdict are one file, since each is read with the others.

PostgreSQL, Valkey, an S3 service, two API processes, a scheduler, three training workers and one for operations run on
this machine. Some specs are trained first without a fault. Then jobs of these specs are submitted over HTTP, as a
client sends them that has to try again, while faults are drawn from FAULTS: processes are killed or stopped for longer
than their lease, servers restarted with and without their data, messages sent twice, the object store is full or away
for a while, a checkpoint is damaged. Afterwards every job has ended once, with the bits of the undisturbed run, and
nothing is left over: no file, no lease, no process, nothing in the spool. Which faults come in which order follows from
the seed; when they strike depends on the machine. Writes reports/chaos.json.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import random
import re
import shutil
import socketserver
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from signal import SIGCONT, SIGKILL, SIGSTOP
from typing import Any
from urllib.parse import urlsplit

import obstore
import psutil
from rich.console import Console
from sqlalchemy import func, select

from bimt_engine.spec import Spec
from standalone.broker import Broker
from standalone.database import PostgresServer
from standalone.process import Process
from store import migrate
from store.files import collect_garbage, collect_orphans
from store.jobs import outbox
from store.tables import Attempt, File, Job, Run
from tests.end_to_end.processes import Service, tiny_spec
from tests.servers import make_bucket, s3_service

WORKERS, APIS = 3, 2
LEASE_SECONDS = 4.0
RESTART_SECONDS = 0.5  # after which a killed process is started again, as the supervisor does
OUTAGE_SECONDS = (1.0, 5.0)  # of the object store
SUSPENDED_SECONDS = (1.0, 2.5 * LEASE_SECONDS)
PATIENCE_SECONDS = 5.0  # that a fault waits for something to disturb
MAX_KILLS = 2  # of the training process in one job: a third at one checkpoint gives the run up, as it should
TRIES = 3  # for each fault, since some find nothing to disturb
NOTHING = "nothing to disturb"
ENDED = ("succeeded", "failed", "cancelled")
# What an address that is asked meanwhile may answer: it works, it is away for a while, or it has no room.
EXPECTED = {200, 202, 429, 503, 507}


class ObjectStore:
    """A proxy before the S3 service that can pretend to be full, or away.

    state   `up`; `full`: what is put is refused with 507; `away`: connections are cut.
    """

    def __init__(self, behind: str) -> None:
        self.state = "up"
        parts = urlsplit(behind)
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _pass_on(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                if outer.state == "away":
                    self.close_connection = True
                    return
                if outer.state == "full" and self.command in ("PUT", "POST"):
                    self._answer(507, [], b"<Error><Code>XMinioStorageFull</Code></Error>")
                    return
                line = http.client.HTTPConnection(parts.hostname or "", parts.port or 80, timeout=60)
                with contextlib.closing(line):
                    line.request(self.command, self.path, body, dict(self.headers))
                    answer = line.getresponse()
                    self._answer(answer.status, answer.getheaders(), answer.read())

            def _answer(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
                self.send_response(status)
                length = str(len(body))
                for name, value in headers:
                    if self.command == "HEAD" and name.lower() == "content-length":
                        length = value
                    elif name.lower() not in ("content-length", "transfer-encoding", "connection"):
                        self.send_header(name, value)
                self.send_header("Content-Length", length)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _pass_on

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        class Server(socketserver.ThreadingTCPServer):
            daemon_threads = True
            request_queue_size = 128

            def handle_error(self, *_: object) -> None:
                """A client that was killed has closed its line."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        """Serve no more."""
        self._server.shutdown()
        self._server.server_close()


@dataclass
class Stack:
    """The running service, and what must be put right again later.

    parts     process name → how to start it anew
    due       (when, what) of restorations, in seconds of a monotonic clock
    """

    house: Service
    postgres: PostgresServer
    objects: ObjectStore
    rng: random.Random
    due: list[tuple[float, Callable[[], object]]] = field(default_factory=list)
    kills: Counter[str] = field(default_factory=Counter)
    dead_since: dict[str, float] = field(default_factory=dict)
    log: list[dict[str, Any]] = field(default_factory=list)

    def named(self, beginning: str) -> list[Process]:
        """The processes whose names begin so."""
        return [process for process in self.house.processes if process.name.startswith(beginning)]

    def later(self, seconds: float, what: Callable[[], object]) -> None:
        """Do this after so many seconds."""
        self.due.append((time.monotonic() + seconds, what))

    def tend(self, *, everything: bool = False) -> None:
        """Start again what has ended, and put right what is due; or all of it at once."""
        now = time.monotonic()
        for one in [one for one in self.due if everything or one[0] <= now]:
            self.due.remove(one)
            one[1]()
        for process in self.house.processes:
            if process.alive:
                continue
            since = self.dead_since.setdefault(process.name, now)
            if everything or now - since >= RESTART_SECONDS:
                del self.dead_since[process.name]
                process.kill()  # what it left in its group
                process.start()

    def wait(self, seconds: float) -> None:
        """Tend for so long."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self.tend()
            time.sleep(min(0.05, left))

    def active(self, column: Any) -> list[Any]:
        """Values of this column of the runs that train or have trained in part."""
        with contextlib.suppress(Exception), self.house.database.read() as rows:
            query = select(column).join(Job, Job.id == Run.job_id).where(Run.state.in_(("queued", "running")))
            return [value for value in rows.scalars(query.order_by(Run.id)) if value is not None]
        return []


# --- faults ---------------------------------------------------------------------------------------------------
# Each returns in words what it did, or None where there was nothing to do it to.


def kill(beginning: str) -> Callable[[Stack], str | None]:
    """kill -9 of a process with such a name."""

    def fault(stack: Stack) -> str | None:
        living = [process for process in stack.named(beginning) if process.alive]
        if not living:
            return None
        victim = stack.rng.choice(living)
        victim.send(SIGKILL)
        return victim.name

    return fault


def kill_engine(beginning: str) -> Callable[[Stack], str | None]:
    """kill -9 of the engine process below a worker with such a name."""

    def fault(stack: Stack) -> str | None:
        found: list[tuple[str, psutil.Process]] = []
        for worker in stack.named(beginning):
            for child in stack.house.trainings(worker):
                with contextlib.suppress(psutil.Error):
                    job = re.search(r"job_\w+", " ".join(child.cmdline()))
                    name = job.group() if job else ""
                    if not name or stack.kills[name] < MAX_KILLS:
                        found.append((name, child))
        if not found:
            return None
        busy = [one for one in found if one[0]]
        name, victim = stack.rng.choice(busy or found)
        # One that still calls itself waiting may have been given any of the jobs that are active.
        stack.kills.update([name] if name else set(stack.active(Run.job_id)))
        with contextlib.suppress(psutil.Error):
            victim.kill()
        return name or "a waiting one"

    return fault


def suspend(stack: Stack) -> str | None:
    """SIGSTOP of a worker, for longer than its lease or not; its training goes on meanwhile."""
    living = [process for process in stack.named("worker-w") if process.alive]
    if not living:
        return None
    victim, seconds = stack.rng.choice(living), stack.rng.uniform(*SUSPENDED_SECONDS)
    victim.send(SIGSTOP)
    stack.later(seconds, lambda: victim.send(SIGCONT))
    return f"{victim.name} for {seconds:.1f} s"


def restart_broker(stack: Stack, *, keeps: bool) -> str:
    """The broker dies and is started again, with its data or without."""
    broker = stack.house.broker
    broker.kill()
    if not keeps:
        shutil.rmtree(broker.directory / "broker", ignore_errors=True)
    broker.start()
    return "with its data" if keeps else "without its data"


def restart_database(stack: Stack) -> str:
    """PostgreSQL is killed and started again."""
    stack.house.database.close()
    stack.postgres.kill()
    stack.postgres.start()
    return "killed and started"


def send_twice(stack: Stack) -> str | None:
    """Messages of jobs that run or wait are sent again."""
    ids = sorted(set(stack.active(Run.job_id)))
    if not ids:
        return None
    chosen = [stack.rng.choice(ids) for _ in range(5)]
    with contextlib.suppress(Exception):
        for job_id in chosen:
            outbox.enqueue(stack.house.settings.broker_url, job_id, "cpu", 5)
    return ", ".join(chosen)


def object_store(state: str) -> Callable[[Stack], str]:
    """The object store is full, or away, for a while."""

    def fault(stack: Stack) -> str:
        seconds = stack.rng.uniform(*OUTAGE_SECONDS)
        stack.objects.state = state
        stack.later(seconds, lambda: setattr(stack.objects, "state", "up"))
        return f"for {seconds:.1f} s"

    return fault


def damage_checkpoint(stack: Stack) -> str | None:
    """One bit of the stored checkpoint of a run that has not ended."""
    names = sorted(set(stack.active(Run.checkpoint_sha256)))
    if not names or stack.objects.state != "up":
        return None
    name = stack.rng.choice(names)
    bucket, key = stack.house.files._store, f"cas/{name[:2]}/{name}"
    try:
        content = bytearray(bytes(obstore.get(bucket, key).bytes()))
    except FileNotFoundError:  # it was replaced by a newer one, and freed
        return None
    content[stack.rng.randrange(len(content))] ^= 1 << stack.rng.randrange(8)
    obstore.put(bucket, key, bytes(content))
    return name[:12]


FAULTS: dict[str, Callable[[Stack], str | None]] = {
    "training process killed": kill_engine("worker-w"),
    "worker killed": kill("worker-w"),
    "API process killed": kill("api"),
    "scheduler killed": kill("scheduler"),
    "worker of operations killed": kill("worker-operations"),
    "inference process killed": kill_engine("worker-operations"),
    "worker suspended": suspend,
    "broker restarted": lambda stack: restart_broker(stack, keeps=True),
    "broker lost its data": lambda stack: restart_broker(stack, keeps=False),
    "database restarted": restart_database,
    "messages sent twice": send_twice,
    "object store full": object_store("full"),
    "object store away": object_store("away"),
    "checkpoint damaged": damage_checkpoint,
}


def strike(stack: Stack, name: str) -> str | None:
    """Let a fault happen, as soon as there is something to do it to; None where there is nothing for too long."""
    end = time.monotonic() + PATIENCE_SECONDS
    while (said := FAULTS[name](stack)) is None and time.monotonic() < end:
        stack.wait(0.1)
    return said


def drawn(rng: random.Random, count: int) -> Iterator[str]:
    """So many names of faults: all kinds in a random order, again and again."""
    names: list[str] = []
    for _ in range(count):
        if not names:
            names = list(FAULTS)
            rng.shuffle(names)
        yield names.pop()


# --- the service --------------------------------------------------------------------------------------------------


@contextmanager
def running(seed: int) -> Iterator[Stack]:
    """The whole service in a folder that is deleted at the end."""
    home = Path(tempfile.mkdtemp(prefix="bimt-chaos-"))
    home.chmod(0o755)  # the database's own user must get through
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, home, ignore_errors=True)
        postgres = stack.enter_context(PostgresServer(home / "postgres"))
        migrate.upgrade(postgres.url)
        broker = stack.enter_context(Broker(home / "broker"))
        objects = ObjectStore(stack.enter_context(s3_service()))
        stack.callback(objects.close)
        more = {
            "BIMT_FILES_URL": f"s3://{make_bucket(objects.address)}?endpoint={objects.address}",
            "BIMT_LEASE_SECONDS": f"{LEASE_SECONDS:g}",
            "BIMT_MAX_ATTEMPTS": "1000",  # by chance a job may lose more workers than one that ends them itself
            "BIMT_RATE_LIMIT": "none",
            "AWS_ACCESS_KEY_ID": "chaos",
            "AWS_SECRET_ACCESS_KEY": "chaos",
        }
        os.environ |= {name: value for name, value in more.items() if name.startswith("AWS_")}
        house = Service(home / "home", postgres.url, broker, more, logs=home / "logs")
        stack.callback(house.close)
        house.scheduler()
        for number in range(APIS):
            house.api(f"api{number}")
        house.worker("operations", queue="interactive")
        for number in range(WORKERS):
            house.worker(f"w{number}")
        yield Stack(house, postgres, objects, random.Random(seed))


def specs(*, small: bool) -> list[tuple[Spec, list[int]]]:
    """What the jobs train: alone, one after another, and side by side."""
    if small:
        return [(tiny_spec(steps=2500), [0]), (tiny_spec(steps=2500, stepper="batched"), [3, 4])]
    return [
        (tiny_spec(steps=4000), [0, 1]),
        (tiny_spec(steps=4000, stepper="batched"), [3, 4, 5]),
        (tiny_spec(steps=8000), [2]),
        (tiny_spec(steps=300), [6]),
    ]


def submit(stack: Stack, spec: Spec, seeds: list[int], key: str) -> str:
    """Submit as a client does that sends the request again until it is answered; the job's id."""
    body = {"spec": spec.model_dump(mode="json"), "seeds": seeds, "name": key}
    headers = {"Idempotency-Key": key}
    while True:
        stack.tend()
        try:
            status, answer = stack.house.ask("POST", "/jobs", body, **headers)
        except (OSError, http.client.HTTPException):
            status, answer = 0, b""
        if status == 202:
            return str(json.loads(answer)["id"])
        if status and status not in EXPECTED:
            raise AssertionError(f"POST /jobs was answered {status}: {answer[:500]!r}")
        stack.wait(0.2)


def wait_until_ended(stack: Stack, ids: list[str], *, seconds: float) -> list[str]:
    """Wait for the end of these jobs; those that have not ended in time."""
    end = time.monotonic() + seconds
    left = list(ids)
    while left and time.monotonic() < end:
        stack.wait(0.5)
        with contextlib.suppress(Exception), stack.house.database.read() as rows:
            done = set(rows.scalars(select(Job.id).where(Job.id.in_(left), Job.state.in_(ENDED))))
            left = [one for one in left if one not in done]
    return left


class Readers:
    """Threads that read, and ask networks questions, while everything breaks; what they were answered."""

    def __init__(self, house: Service, run_id: str) -> None:
        self._house = house
        self._over = threading.Event()
        self.statuses: Counter[str] = Counter()
        self.wrong: list[str] = []
        question = {"inputs": [[0.25, -0.5], [1.0, 0.75]]}
        addresses: list[tuple[str, str, Any]] = [
            ("GET", "/jobs?limit=20", None),
            ("GET", f"/runs/{run_id}/history", None),
            ("GET", f"/runs/{run_id}/weights.safetensors", None),
            ("POST", f"/runs/{run_id}/predict?wait=20", question),
        ]
        self._threads = [threading.Thread(target=self._ask, args=one) for one in addresses]
        for thread in self._threads:
            thread.start()

    def _ask(self, method: str, path: str, body: Any) -> None:
        first: bytes | None = None
        while not self._over.wait(0.3):
            try:
                status, answer = self._house.ask(method, path, body)
            except (OSError, http.client.HTTPException):
                self.statuses["no answer"] += 1
                continue
            self.statuses[str(status)] += 1
            if status not in EXPECTED and not (status == 409 and b"died" in answer):
                self.wrong.append(f"{method} {path} was answered {status}: {answer[:300]!r}")
            if status == 200 and "limit" not in path:  # of a run that has ended: the same bytes each time
                first = first or answer
                if answer != first:
                    self.wrong.append(f"{method} {path} was answered with other bytes than before")

    def stop(self) -> None:
        """End them."""
        self._over.set()
        for thread in self._threads:
            thread.join()


# --- what must hold -----------------------------------------------------------------------------------------------


def shortfalls(stack: Stack, promised: dict[str, int], references: list[list[Any]], late: list[str]) -> list[str]:
    """In sentences, what is not as it must be while the service still runs. promised: job → number of its spec."""
    house, found = stack.house, [f"{job_id} has not ended" for job_id in late]
    with house.database.read() as rows:
        there = set(rows.scalars(select(Job.id).where(Job.kind == "training", Job.name.like("chaos-%"))))
        leases = list(rows.scalars(select(Job.id).where(Job.lease_until.is_not(None))))
        open_attempts = list(rows.scalars(select(Attempt.id).where(Attempt.ended_at.is_(None))))
        by_job = select(Attempt.job_id, func.count()).where(Attempt.ended_how == "succeeded").group_by(Attempt.job_id)
        succeeded = {job_id: count for job_id, count in rows.execute(by_job)}
    found += [f"{job_id} was promised and is not there" for job_id in promised.keys() - there]
    found += [f"{job_id} is there and was never promised" for job_id in there - promised.keys()]
    found += [f"{job_id} still has a lease" for job_id in leases]
    found += [f"{attempt} has not ended" for attempt in open_attempts]
    for job_id, number in promised.items():
        job = house.job(job_id)
        if job.state != "succeeded":
            found.append(f"{job_id} is {job.state}: {job.reason}")
        elif succeeded.get(job_id) != 1:
            found.append(f"{job_id} has {succeeded.get(job_id, 0)} attempts that succeeded")
        elif house.outcome(job_id) != references[number]:
            found.append(f"{job_id} has other bits than the undisturbed run of its spec")
    return found + left_over(stack)


def left_over(stack: Stack) -> list[str]:
    """Files that nothing refers to once they are old enough, damaged ones, and what is left in the spool."""
    house, found = stack.house, []
    later = datetime.now(UTC) + timedelta(hours=1)
    with house.database.write() as rows:
        collect_garbage(rows, house.files, now=later, grace=timedelta(seconds=1), limit=100_000)
        collect_orphans(rows, house.files, now=later, grace=timedelta(seconds=1))
        known = set(rows.scalars(select(File.sha256)))
    stored = {name for name, _, _ in house.files.each()}
    found += [f"the file {name} has no row" for name in stored - known]
    found += [f"the row of the file {name} has no bytes" for name in known - stored]
    for name in stored & known:
        try:
            house.files.verify(name, again=True)
        except Exception as error:
            found.append(str(error))
    spool = Path(house.settings.spool)
    allowed = {"job_training": WORKERS, "job_operations-interactive": 1}
    kinds = Counter(path.name.rpartition("-")[0] or path.name for path in spool.iterdir())
    found += [f"{count} of {kind} in the spool" for kind, count in kinds.items() if count > allowed.get(kind, 0)]
    return found


def processes_left(house: Service) -> list[str]:
    """Processes of the service that outlived it."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get("BIMT_HOME") == str(house.home) or str(house.home) in " ".join(process.cmdline()):
                found.append(f"process {process.pid} is left: {' '.join(process.cmdline())[:120]}")
    return found


# --- the whole ----------------------------------------------------------------------------------------------------


def disturb(jobs: int, faults: int, *, seed: int, pause: float, small: bool, console: Console) -> dict[str, Any]:
    """Run everything; the report. For a fault that finds nothing to disturb another is drawn; it is counted apart."""
    began = time.monotonic()
    with running(seed) as stack:
        house = stack.house
        console.print("[dim]undisturbed runs …[/]")
        chosen = specs(small=small)
        quiet = [submit(stack, spec, seeds, f"quiet-{number}") for number, (spec, seeds) in enumerate(chosen)]
        late = wait_until_ended(stack, quiet, seconds=600)
        assert not late, f"{late} did not end although nothing was disturbed"
        states = [(house.job(job_id).state, house.job(job_id).reason) for job_id in quiet]
        assert {state for state, _ in states} == {"succeeded"}, states
        references = [house.outcome(job_id) for job_id in quiet]
        quiet_seconds = time.monotonic() - began
        readers = Readers(house, house.runs(quiet[0])[0].id)
        promised: dict[str, int] = {}
        counts: Counter[str] = Counter()
        try:
            for name in drawn(stack.rng, TRIES * faults):
                if (struck := counts.total() - counts[NOTHING]) == faults:
                    break
                while len(promised) < jobs * (struck + 1) / faults:  # spread over the faults
                    at = len(promised) % len(chosen)
                    promised[submit(stack, *chosen[at], f"chaos-{len(promised)}")] = at
                stack.wait(stack.rng.expovariate(1 / pause))
                said = strike(stack, name)
                counts[NOTHING if said is None else name] += 1
                stack.log.append({"seconds": round(time.monotonic() - began, 2), "fault": name, "of": said})
                if said is not None and (struck + 1) % 25 == 0:
                    console.print(f"[dim]{struck + 1} faults, {len(promised)} jobs submitted[/]")
            stack.tend(everything=True)
            late = wait_until_ended(stack, list(promised), seconds=120 + 20.0 * jobs)
        finally:
            readers.stop()
        stack.wait(1.0)
        found = shortfalls(stack, promised, references, late) + sorted(set(readers.wrong))
        with house.database.read() as rows:
            attempts = rows.scalar(select(func.count()).select_from(Attempt).where(Attempt.job_id.in_(promised))) or 0
        if found:
            found += [f"--- {process.name}\n{process.last_lines(40)}" for process in house.processes]
    return {
        "seed": seed,
        "jobs": len(promised),
        "runs": sum(len(chosen[at][1]) for at in promised.values()),
        "faults": dict(sorted(counts.items())),
        "attempts": attempts,
        "answers_meanwhile": dict(sorted(readers.statuses.items())),
        "seconds": {"undisturbed": round(quiet_seconds, 1), "in_all": round(time.monotonic() - began, 1)},
        "shortfalls": found + processes_left(house),
        "log": stack.log,
    }


def main(arguments: list[str]) -> int:
    """Disturb, print, and write reports/chaos.json. 1: something was not as it must be."""
    parser = argparse.ArgumentParser(prog="python -m measurements chaos", description="Random faults over many jobs.")
    parser.add_argument("--jobs", type=int, default=100, help="default %(default)s")
    parser.add_argument("--faults", type=int, default=300, help="default %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="of the faults' order; default %(default)s")
    parser.add_argument("--pause", type=float, default=2.0, help="mean seconds between faults; default %(default)s")
    parser.add_argument("--small", action="store_true", help="two small specs instead of four")
    parser.add_argument("--folder", type=Path, default=Path("reports"))
    args = parser.parse_args(arguments)
    console = Console(highlight=False)
    report = disturb(args.jobs, args.faults, seed=args.seed, pause=args.pause, small=args.small, console=console)
    args.folder.mkdir(parents=True, exist_ok=True)
    (args.folder / "chaos.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    struck = sum(report["faults"].values()) - report["faults"].get(NOTHING, 0)
    console.print(
        f"{report['jobs']} jobs, {report['runs']} runs, {struck} faults, {report['attempts']} attempts, "
        f"{report['seconds']['in_all']:.0f} s; wrote {args.folder}/chaos.json"
    )
    for sentence in report["shortfalls"]:
        console.print(f"[red]{sentence}[/]", soft_wrap=True, markup=not sentence.startswith("---"))
    return 1 if report["shortfalls"] else 0
