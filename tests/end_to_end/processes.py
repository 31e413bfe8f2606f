"""A service, each part a process that the test starts: broker, database, API, scheduler, workers."""

from __future__ import annotations

import http.client
import json
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import psutil

from bimt_engine.spec import Spec
from standalone.broker import Broker
from standalone.process import Process
from store import jobs, runs, teams
from store.database import Database
from store.files import Files
from store.jobs import outbox
from store.settings import Settings
from store.tables import Attempt, Job, Run
from tests.servers import files_of, short_folder

REPOSITORY = Path(__file__).resolve().parent.parent.parent
LIMIT_SECONDS = 90.0  # seconds; a loaded machine takes ten to import torch alone
TINY_STEPS = 4000
ENDED = ("succeeded", "failed", "cancelled")
Found = TypeVar("Found")


def tiny_spec(*, steps: int = TINY_STEPS, **training: Any) -> Spec:
    """A training of some seconds, so that it can be cut after its first checkpoint is in the store."""
    return Spec.model_validate(
        {
            "dataset": {"kind": "formula", "formulas": ["x1*x1"], "inputs": 2, "train": 32, "test": 32, "seed": 7},
            "network": {"kind": "mlp", "hidden": [5]},
            "training": {
                "steps": steps,
                "stepper": "autograd",
                "device": "cpu",
                "log_every": 100,
                "snapshot_every": 1000,
                "checkpoint_every": 100,
                "relocation": {"relocate_every": 100, "final_restarts": 1},
            }
            | training,
            "evidence": {"refit_steps": 20, "random_groups": 10, "leiden_seeds": 2, "tolerance": 0.05},
        }
    ).expanded()


def wild_spec(*, steps: int, **training: Any) -> Spec:
    """For 200 steps all weights grow by 1.1 a step, and seeds that began with large ones diverge: 5, but not 4 or 0.

    Then they shrink, and what is left of the steps makes a network of those that have not diverged.
    """
    phases = [
        {"until": 200 / steps, "cost_strength": 1e-3, "learning_rate": 2.1},
        {"until": 1.0, "cost_strength": 1e-3, "learning_rate": 0.02},
    ]
    growing = {"learning_rate": 0.02, "weight_decay": 1.0}
    wild = {"stepper": "batched", "precision": "float32", "phases": phases, "optimiser": growing}
    return tiny_spec(steps=steps, **wild, **training)


@dataclass
class Service:
    """A service, each part started by the test, so that it can break any of them.

    settings_more   settings beyond the short leases that all these tests have
    logs            where the processes write what they print; the home by default
    listener        the socket that all its API processes serve
    token           of an admin of its one team
    """

    home: Path
    database_url: str
    broker: Broker
    settings_more: dict[str, str] = field(default_factory=dict)
    logs: Path = Path()
    processes: list[Process] = field(default_factory=list)
    listener: socket.socket | None = None

    def __post_init__(self) -> None:
        if self.logs == Path():
            self.logs = self.home
        self.environ = (
            {name: value for name, value in os.environ.items() if not name.startswith("BIMT_")}
            | {
                "BIMT_HOME": str(self.home),
                "BIMT_DATABASE_URL": self.database_url,
                "BIMT_BROKER_URL": self.broker.url,
                "BIMT_LEASE_SECONDS": "4",
                "BIMT_RESEND_SECONDS": "2",
                "BIMT_CANCEL_SECONDS": "2",
                "BIMT_DRAIN_SECONDS": "15",
            }
            | files_of(self.home)
            | self.settings_more
        )
        self.settings = Settings.from_env(self.environ)
        self.database = Database(self.settings.database_url)
        self.files = Files(self.settings.files_url, spool=self.settings.spool)
        now = datetime.now(UTC)
        with self.database.write() as session:
            self.team = teams.create_team(session, "testers", now=now).id
            self.member = teams.create_member(session, self.team, "Ada", role="admin", now=now).id
            scopes = ("read", "submit", "share", "admin")
            self.token, _ = teams.mint_token(session, self.member, scopes=scopes, expires_at=None, now=now)

    # --- processes -------------------------------------------------------------------------------------

    def scheduler(self) -> Process:
        return self._start("scheduler", [sys.executable, "-m", "worker.scheduler"])

    def worker(self, name: str = "one", *, queue: str = "cpu") -> Process:
        return self._start(f"worker-{name}", [sys.executable, "-m", "worker", "--name", name, "--queue", queue])

    def api(self, name: str = "api") -> Process:
        """A process of the API; the first opens the socket, and all answer on it."""
        if self.listener is None:
            self.listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        descriptor = self.listener.fileno()
        return self._start(name, [sys.executable, "-m", "api", "--fd", str(descriptor)], descriptor)

    def _start(self, name: str, command: list[str], *descriptors: int) -> Process:
        log, environ = self.logs / f"{name}.log", self.environ
        process = Process(name, command, log=log, environment=environ, folder=REPOSITORY, pass_fds=descriptors)
        process.start()
        self.processes.append(process)
        return process

    def close(self) -> None:
        for process in self.processes:
            process.kill()
        self.database.close()
        if self.listener is not None:
            self.listener.close()

    # --- requests ----------------------------------------------------------------------------------------

    def ask(
        self, method: str, path: str, body: Any = None, *, content_type: str = "application/json", **headers: str
    ) -> tuple[int, bytes]:
        """(status, body) of one request to the API, on a connection of its own. Raises OSError, HTTPException.

        body   bytes are sent as they are, all else as JSON
        """
        assert self.listener is not None, "no API was started"
        host, port = self.listener.getsockname()[:2]
        connection = http.client.HTTPConnection(host, port, timeout=60)
        sent = {"Authorization": f"Bearer {self.token}", **headers}
        if body is not None:
            sent |= {"Content-Type": content_type}
            body = body if isinstance(body, bytes) else json.dumps(body).encode()
        try:
            connection.request(method, f"/api/v1{path}", body, sent)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    # --- jobs ------------------------------------------------------------------------------------------

    def submit(self, spec: Spec | None = None, *, seeds: tuple[int, ...] = (0,), announced: bool = True) -> str:
        """Queue a job the way the API does; returns its id."""
        written = (spec or tiny_spec()).model_dump(mode="json")
        with self.database.write() as session:
            job = jobs.submit(
                session,
                team_id=self.team,
                member_id=self.member,
                name="test",
                spec=written,
                runs=[{"seed": seed, "cost_strength": None, "spec": written, "steps": 1} for seed in seeds],
                now=datetime.now(UTC),
            )
        if announced:
            self.announce(job.id)
        return job.id

    def announce(self, job_id: str) -> None:
        outbox.enqueue(self.settings.broker_url, job_id, "cpu", 5)

    def cancel(self, job_id: str) -> None:
        with self.database.write() as session:
            jobs.request_cancel(session, self.team, job_id, now=datetime.now(UTC))

    def job(self, job_id: str) -> Job:
        with self.database.read() as session:
            return jobs.get(session, self.team, job_id)

    def runs(self, job_id: str) -> list[Run]:
        with self.database.read() as session:
            return runs.of_job(session, self.team, job_id)

    def attempts(self, job_id: str) -> list[Attempt]:
        with self.database.read() as session:
            return jobs.attempts(session, jobs.get(session, self.team, job_id))

    def weights(self, job_id: str) -> list[str]:
        """The SHA-256 of every run's published weights, whose bytes are checked on the way."""
        with self.database.read() as session:
            names = [
                runs.published_file(session, run.id, "weights.safetensors").sha256
                for run in runs.of_job(session, self.team, job_id)
            ]
        for name in names:
            self.files.read(name)
        return names

    def outcome(self, job_id: str) -> list[Any]:
        """What may not depend on mishaps, run by run: how it ended, its weights, curve and film."""
        found: list[Any] = []
        for run in self.runs(job_id):
            with self.database.read() as session:
                weights = [file.sha256 for file in runs.published_files(session, run.id)]
                curve = [{**row, "seconds": 0} for row in runs.history(session, run.id)]
                film = [(kept.step, kept.sha256) for kept in runs.snapshots(session, run.id)]
            found.append((run.state, run.reason, weights, curve, film))
        return found

    def history(self, job_id: str, *, run: int = 0) -> list[dict[str, Any]]:
        with self.database.read() as session:
            return runs.history(session, self.runs(job_id)[run].id)

    def log(self, job_id: str) -> str:
        """The job's log as people read it."""
        with self.database.read() as session:
            chunks = runs.log_chunks(session, self.team, job_id)
            return "\n".join(line["text"] for chunk in chunks for line in chunk.lines)

    # --- waiting ---------------------------------------------------------------------------------------

    def until(self, look: Callable[[], Found | None], what: str, *, seconds: float = LIMIT_SECONDS) -> Found:
        """What `look` returns once it is true. Fails with the logs of all processes where that takes too long."""
        deadline = time.monotonic() + seconds
        while not (found := look()):
            if time.monotonic() > deadline:
                logs = "\n".join(f"--- {process.name}\n{process.last_lines(30)}" for process in self.processes)
                raise AssertionError(f"Not within {seconds:.0f} s: {what}\n{logs}")
            time.sleep(0.05)
        return found

    def until_ended(self, job_id: str, *, seconds: float = LIMIT_SECONDS) -> Job:
        return self.until(
            lambda: job if (job := self.job(job_id)).state in ENDED else None, f"{job_id} ends", seconds=seconds
        )

    def until_checkpoint(self, job_id: str, *, run: int = 0) -> int:
        """The step of the first checkpoint that can be gone on from; the run is still under way then."""
        return self.until(lambda: self.runs(job_id)[run].checkpoint_step, f"{job_id} has a checkpoint")

    def trainings(self, worker: Process) -> list[psutil.Process]:
        """The training processes below a worker; none where it has ended."""
        if not worker.alive:
            return []
        return psutil.Process(worker.pid).children(recursive=True)

    def training_of(self, worker: Process) -> psutil.Process:
        """The training process below a worker."""
        return self.until(lambda: self.trainings(worker), "a training process")[0]


@contextmanager
def service_in(home: Path, lasting_url: Callable[[Path], str]) -> Iterator[Service]:
    """A service in this folder, with a database and a broker of its own; it ends with the block."""
    with short_folder() as folder, Broker(folder) as broker:
        service = Service(home, lasting_url(home), broker)
        try:
            yield service
        finally:
            service.close()
