"""The state of one worker process: settings, store, name, queues, and whether it is shutting down."""

from __future__ import annotations

import logging
import os
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache, cached_property
from pathlib import Path

from store import jobs
from store.database import Database
from store.files import Files
from store.jobs import leases
from store.jobs.leases import Claim
from store.settings import OPERATION_QUEUES, Settings, job_memory
from worker.engine_process import TrainingProcesses
from worker.lease import Lease, Progress

log = logging.getLogger("worker")
HEARTBEAT_SECONDS = 5.0  # the API calls a worker absent after some of these


def queues_of(queue: str) -> tuple[str, ...]:
    """The queues that a worker of this queue serves: one worker serves both queues of operations."""
    return OPERATION_QUEUES if queue in OPERATION_QUEUES else (queue,)


@dataclass
class WorkerContext:
    """What the jobs of one worker process share.

    shutting_down       set when the process is to end: the running job is released.
    active_job          the id of the running job.
    training_command    starts a training process; gets its folder and the worker's process id as its last arguments.
    operation_command   starts an operation process, likewise.
    keep_waiting        keep a training process waiting for the next job (BIMT_WAITING_PROCESS; never for a GPU).
    """

    settings: Settings
    database: Database
    files: Files
    name: str
    shutting_down: threading.Event = field(default_factory=threading.Event)
    active_job: str | None = None
    training_command: tuple[str, ...] = (sys.executable, "-m", "worker.training_process")
    operation_command: tuple[str, ...] = (sys.executable, "-m", "worker.operation_process")
    keep_waiting: bool = False

    @property
    def queues(self) -> tuple[str, ...]:
        """The queues that it serves."""
        return queues_of(self.settings.queue)

    @property
    def serves_operations(self) -> bool:
        """Whether it serves operations rather than trainings."""
        return self.queues == OPERATION_QUEUES

    @property
    def spool(self) -> Path:
        """The folder for files of running jobs."""
        return Path(self.settings.spool)

    @cached_property
    def job_memory_bytes(self) -> int:
        """Memory that one engine process may hold."""
        return job_memory(self.settings.job_memory_bytes)

    @cached_property
    def training_processes(self) -> TrainingProcesses:
        """The training processes of this worker."""
        return TrainingProcesses(spool=self.spool, command=self.training_command, keep_waiting=self.keep_waiting)

    @staticmethod
    def now() -> datetime:
        """The time that is written into rows."""
        return datetime.now(UTC)

    def claim(self, queue: str | None = None) -> Claim | None:
        """Claim the next job of a queue, the first of ours by default; None where nothing waits."""
        with self.database.write() as session:
            return jobs.claim_next(
                session,
                queue or self.queues[0],
                worker=self.name,
                now=self.now(),
                lease_seconds=self.settings.lease_seconds,
            )

    def lease(self, claim: Claim) -> Lease:
        """The lease that keeps the claim valid."""

        def renew(progress: Progress) -> bool:
            now, left = self.now(), progress.seconds_left
            with self.database.write() as session:
                return jobs.renew(
                    session,
                    claim,
                    now=now,
                    lease_seconds=self.settings.lease_seconds,
                    progress=progress.fraction,
                    due_at=None if left is None else now + timedelta(seconds=left),
                    losses=progress.losses or None,
                    note=progress.note or None,
                )

        return Lease(renew, seconds=self.settings.lease_seconds, reached=claim.progress)

    @contextmanager
    def busy(self, job_id: str) -> Iterator[None]:
        """Heartbeats name this job meanwhile."""
        self.active_job = job_id
        try:
            yield
        finally:
            self.active_job = None

    def start_heartbeat(self) -> None:
        """Report every few seconds, on a thread, that this worker is alive; retry while the store is unavailable."""

        def keep_reporting() -> None:
            while True:
                try:
                    with self.database.write() as session:
                        leases.heartbeat(
                            session,
                            self.name,
                            queues=self.queues,
                            device=_device(self.settings.queue),
                            doing=self.active_job,
                            now=self.now(),
                        )
                except Exception as error:
                    log.debug("the heartbeat could not be written: %s", error)
                if self.shutting_down.wait(HEARTBEAT_SECONDS):
                    return

        threading.Thread(target=keep_reporting, name="heartbeat", daemon=True).start()

    def end_heartbeat(self) -> None:
        """Report that this worker has ended."""
        try:
            with self.database.write() as session:
                leases.delete_worker(session, self.name)
        except Exception as error:
            log.debug("the end of this worker could not be written: %s", error)


@cache
def worker_context() -> WorkerContext:
    """The context of this process, made at the first call."""
    settings = Settings.from_env(os.environ)
    name = os.environ.get("BIMT_WORKER_NAME") or f"{settings.queue}-{os.getpid()}"
    return WorkerContext(
        settings=settings,
        database=Database(settings.database_url, pool=settings.database_pool),
        files=Files(settings.files_url, spool=settings.spool),
        name=f"{name}@{socket.gethostname()}",
        keep_waiting=settings.waiting_process and settings.queue == "cpu",
    )


def _device(queue: str) -> str:
    """What the queue's jobs run on; torch, which would say more, is never loaded in this process."""
    return f"cuda {os.environ.get('CUDA_VISIBLE_DEVICES', '0')}" if queue == "gpu" else "cpu"
