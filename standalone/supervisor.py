"""The whole on one machine as one tree of processes: started in order, watched, stopped in the opposite order.

    supervisor ─ broker · API · scheduler · interactive worker · workers, each with its training process

Ctrl-C or SIGTERM to the supervisor stops the tree in order; after SIGKILL the kernel signals every part, each of which
asked for that when it started.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import queue
import shutil
import signal
import socket
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import IO

from sqlalchemy.exc import OperationalError, SQLAlchemyError

from standalone.broker import Broker, BrokerError
from standalone.process import Process
from store import migrate, teams
from store.database import Database
from store.files import Files
from store.jobs import leases
from store.settings import Settings, SettingsError

REPOSITORY = Path(__file__).resolve().parent.parent
DRAIN_MARGIN = 10.0  # seconds on top of BIMT_DRAIN_SECONDS, for a worker to write down what it releases
API_SECONDS = 7.0  # open answers, event streams among them, may go on for five
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 15.0  # seconds before a part that ended is restarted; doubles while it ends early
WATCH_SECONDS = 0.2  # between two looks at all processes
STABLE_SECONDS = 20.0  # a part that ran so long starts again at once
WORKER = "worker-"  # how names of workers' parts begin
RETRY_SECONDS = 1.0  # between two tries to end the leases of a worker, while the database is away
READY_SECONDS = 60.0  # a slow disk may need some seconds to import everything


class CannotStart(Exception):
    """A sentence for people: what is in the way, and what to do."""


class AskedToStop(Exception):
    """A stop was asked for before everything was up."""


@dataclass(frozen=True)
class Plan:
    """What is to be started.

    home         folder of everything that is kept
    port         0: any free one
    workers      worker processes of the CPU queue
    api          API processes
    gpus         devices, each of which gets one worker of the GPU queue
    """

    home: Path
    port: int = 0
    host: str = "127.0.0.1"
    workers: int = 1
    api: int = 1
    gpus: tuple[str, ...] = ()


class Supervisor:
    """Starts, watches and stops the parts. Start it from the main thread, before any other thread is started.

    stopping   set to end everything: see `stop_at_signals`.
    """

    def __init__(
        self,
        plan: Plan,
        *,
        environ: Mapping[str, str],
        say: Callable[[str], None] = print,
        stopping: threading.Event | None = None,
    ) -> None:
        self.plan = plan
        self.say = say
        self.home = plan.home.expanduser().resolve()
        self.settings = Settings.from_env(environ, home=self.home)
        self._environ = dict(environ) | {"BIMT_HOME": str(self.home)}
        self._parts: list[Process] = []
        self._broker: Broker | None = None
        self._lock: IO[str] | None = None
        self._socket: socket.socket | None = None
        self._next_start: dict[str, float] = {}
        self._pause: dict[str, float] = {}
        self._died: queue.SimpleQueue[tuple[str, datetime] | None] = queue.SimpleQueue()  # workers; None: no more
        self.stopping = stopping or threading.Event()

    # --- start -----------------------------------------------------------------------------------------

    def start(self) -> str | None:
        """Start everything in order; returns the first admin token when this is the first start.

        Raises CannotStart or AskedToStop, with nothing left running.
        """
        try:
            return self._start()
        except (BrokerError, SettingsError) as why:
            self.stop()
            raise CannotStart(str(why)) from why
        except OperationalError as why:
            self.stop()
            where = _without_password(self.settings.database_url)
            raise CannotStart(f"The database {where} cannot be reached: {why.orig}") from why
        except BaseException:
            self.stop()
            raise

    def _start(self) -> str | None:
        self._lock_home()
        began = time.monotonic()
        self._listen()
        self._start_broker()
        self.settings = Settings.from_env(self._environ)
        self._raise_if_stopping()
        migrate.upgrade(self.settings.database_url)
        self.say(f"database   {_without_password(self.settings.database_url)}")
        self._check_files()
        parts = self._make_parts()
        answering = [part for part in parts if part.name.startswith("api")]
        self._start_parts(answering)
        self._wait_until_ready()
        # Afterwards, since what workers import would keep the API waiting; jobs wait in the queue meanwhile.
        self._start_parts([part for part in parts if part not in answering])
        self.say(f"ready      after {time.monotonic() - began:.1f} s; logs are in {self.home / 'logs'}")
        token = self._first_token()  # last of all: it is shown once, and a start that fails would lose it
        threading.Thread(target=self._release_jobs, name="release", daemon=True).start()
        return token

    def _check_files(self) -> None:
        """Write into the file store and read from it, before anything that needs it is started."""
        where = _without_password(self.settings.files_url)
        problem = Files(self.settings.files_url, spool=self.settings.spool).problem()
        if problem is None:
            self.say(f"files      {where}")
            return
        advice = ""
        if where.startswith("s3:") and not self._environ.get("AWS_ACCESS_KEY_ID"):
            advice = (
                " AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY are not set; the keys of a bucket are read from them."
            )
        raise CannotStart(f"The file store {where} cannot be written to and read from: {problem}.{advice}")

    def _start_parts(self, parts: list[Process]) -> None:
        for part in parts:
            self._raise_if_stopping()
            part.start()
            self._parts.append(part)

    def _raise_if_stopping(self) -> None:
        if self.stopping.is_set():
            raise AskedToStop

    def _lock_home(self) -> None:
        self.home.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._lock = (self.home / "lock").open("a+")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.seek(0)
            holder = self._lock.read().strip() or "another process"
            self._lock.close()
            self._lock = None
            raise CannotStart(
                f"{self.home} is in use by {holder}. Stop that one first, or name another folder with --home."
            ) from None
        self._lock.truncate(0)
        self._lock.write(f"process {os.getpid()}")
        self._lock.flush()

    def _start_broker(self) -> None:
        if self._environ.get("BIMT_BROKER_URL"):
            self.say(f"broker     {_without_password(self._environ['BIMT_BROKER_URL'])} (given; not started here)")
            return
        self._broker = Broker(self.home)
        self._broker.start()
        self._environ["BIMT_BROKER_URL"] = self._broker.url
        self.say(f"broker     {self._broker.url}")

    def _first_token(self) -> str | None:
        database = Database(self.settings.database_url)
        try:
            with database.write() as session:
                return teams.first_admin(session, now=datetime.now(UTC))
        finally:
            database.close()

    def _listen(self) -> None:
        """Open the port here and pass it on, so that it stays open while the API restarts."""
        self._socket = socket.socket(socket.AF_INET6 if ":" in self.plan.host else socket.AF_INET, socket.SOCK_STREAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            self._socket.bind((self.plan.host, self.plan.port))
        except OSError as error:
            raise CannotStart(
                f"Port {self.plan.port} of {self.plan.host} cannot be opened ({error.strerror}). "
                "Name another with --port, or none for any free one."
            ) from None
        self._socket.listen(512)
        self._environ |= {"BIMT_HOST": self.plan.host, "BIMT_PORT": str(self._socket.getsockname()[1])}

    @property
    def address(self) -> str:
        """Where the API answers, as a URL without a path."""
        assert self._socket is not None
        host = f"[{self.plan.host}]" if ":" in self.plan.host else self.plan.host
        return f"http://{host}:{self._socket.getsockname()[1]}"

    def _make_parts(self) -> list[Process]:
        assert self._socket is not None
        metrics = metrics_folder(self.home)  # prometheus' files of the API processes; empty at every start
        shutil.rmtree(metrics, ignore_errors=True)
        metrics.mkdir(mode=0o700)
        descriptor = self._socket.fileno()
        api = [sys.executable, "-m", "api", "--fd", str(descriptor)]
        metrics_files = {"PROMETHEUS_MULTIPROC_DIR": str(metrics)} if self.plan.api > 1 else {}
        parts = [
            self._part(f"api{number or ''}", api, API_SECONDS, metrics_files, (descriptor,))
            for number in range(self.plan.api)
        ]
        parts.append(self._part("scheduler", [sys.executable, "-m", "worker.scheduler"], 5.0))
        parts.append(self._worker("operations", "interactive", {}))
        for number in range(self.plan.workers):
            parts.append(self._worker(f"cpu{number}", "cpu", {}))
        for number, device in enumerate(self.plan.gpus):
            parts.append(self._worker(f"gpu{number}", "gpu", {"CUDA_VISIBLE_DEVICES": device}))
        return parts

    def _worker(self, name: str, queue: str, extra: dict[str, str]) -> Process:
        command = [sys.executable, "-m", "worker", "--name", name, "--queue", queue]
        return self._part(f"{WORKER}{name}", command, self.settings.drain_seconds + DRAIN_MARGIN, extra)

    def _part(
        self,
        name: str,
        command: list[str],
        grace_seconds: float,
        extra: Mapping[str, str] | None = None,
        pass_fds: tuple[int, ...] = (),
    ) -> Process:
        environment = self._environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"} | dict(extra or {})
        log = self.home / "logs" / f"{name}.log"
        return Process(
            name,
            command,
            log=log,
            environment=environment,
            grace_seconds=grace_seconds,
            pass_fds=pass_fds,
            folder=REPOSITORY,
        )

    def _wait_until_ready(self) -> None:
        """Wait until the API answers. Raises CannotStart with the last lines of a process that ended instead."""
        deadline = time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline:
            self._raise_if_stopping()
            for part in self._parts:
                if not part.alive:
                    raise CannotStart(
                        f"The {part.name} ended while starting. The end of {part.log}:\n{part.last_lines()}"
                    )
            with contextlib.suppress(OSError, urllib.error.URLError):
                urllib.request.urlopen(f"{self.address}/healthz", timeout=2).close()
                return
            time.sleep(0.1)
        raise CannotStart(f"The API did not answer within {READY_SECONDS:.0f} s; see {self.home / 'logs' / 'api.log'}.")

    # --- watch -----------------------------------------------------------------------------------------

    def watch(self) -> None:
        """Restart processes that end, until asked to stop."""
        while not self.stopping.wait(WATCH_SECONDS):
            self.restart_crashed()

    def restart_crashed(self) -> None:
        """Check every process once, and restart those that ended."""
        now = time.monotonic()
        if self._broker is not None and not self._broker.alive and now >= self._next_start.get("broker", 0.0):
            self.say("broker     died; starting it again")
            self._next_start["broker"] = now + LONGEST_PAUSE  # should it not start
            with contextlib.suppress(BrokerError):
                self._broker.start()
                del self._next_start["broker"]
        for part in self._parts:
            if part.alive:
                continue
            if part.name not in self._next_start:
                young = now - part.started_at < STABLE_SECONDS
                pause = min(self._pause.get(part.name, 0) * 2 or FIRST_PAUSE, LONGEST_PAUSE) if young else FIRST_PAUSE
                self._pause[part.name] = pause
                self._next_start[part.name] = now + pause
                part.kill()  # what it left in its group, a training process for instance
                if part.name.startswith(WORKER):
                    self._died.put((part.name, datetime.now(UTC)))
                self.say(f"{part.name:10} died; starting it again in {pause:.1f} s (its log: {part.log})")
            elif now >= self._next_start[part.name]:
                del self._next_start[part.name]
                part.start()

    def _release_jobs(self) -> None:
        """Nothing of a worker that died runs any more: its job goes on without waiting for the end of its lease.

        In a thread of its own, since the database may take any time to answer and the processes are to be watched.
        """
        for part, died_at in iter(self._died.get, None):
            worker = f"{part.removeprefix(WORKER)}@{socket.gethostname()}"
            while not self.stopping.is_set():
                try:
                    with Database(self.settings.database_url) as database, database.write() as session:
                        released = leases.expire(session, worker, died_at=died_at, now=datetime.now(UTC))
                except SQLAlchemyError:
                    self.stopping.wait(RETRY_SECONDS)
                    continue
                for job_id in released:
                    self.say(f"{part:10} had {job_id}, which returns to the queue")
                break

    # --- stop ------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """Stop everything: workers first, for they release their jobs, then scheduler, API and broker."""
        self.stopping.set()
        self._died.put(None)
        workers = [part for part in self._parts if part.name.startswith(WORKER)]
        for part in workers:
            part.ask_to_stop()
        for part in workers + [part for part in reversed(self._parts) if part not in workers]:
            part.stop()
        self._parts.clear()
        if self._broker is not None:
            self._broker.stop()
            self._broker = None
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        if self._lock is not None:  # held: the folder of this home's metrics is ours
            shutil.rmtree(metrics_folder(self.home), ignore_errors=True)
            self._lock.close()
            self._lock = None


def metrics_folder(home: Path) -> Path:
    """Where the API processes map their counters: in memory where the machine has such a folder, else in the home.

    Prometheus maps files of holes, and a process that writes into a hole of a full disk is ended by SIGBUS.
    """
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK):
        return home / "metrics"
    return memory / f"bimt-metrics-{os.getuid()}-{hashlib.sha256(os.fsencode(home)).hexdigest()[:16]}"


def stop_at_signals() -> threading.Event:
    """An event that Ctrl-C, SIGTERM and a closed terminal set. Call it before the first process is started."""
    stopping = threading.Event()

    def ask(number: int, frame: FrameType | None) -> None:
        stopping.set()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, ask)
    return stopping


def _without_password(url: str) -> str:
    before, at, after = url.rpartition("@")
    if not at or "://" not in before:
        return url
    scheme, _, who = before.partition("://")
    return f"{scheme}://{who.partition(':')[0]}@{after}"
