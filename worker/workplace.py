"""Where a worker works: its name, its queue, the store, and whether it is time to go home."""

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
from functools import cache

from store import jobs, presence
from store.database import Database
from store.files import Files
from store.job_tables import ERRAND_QUEUES
from store.leases import Claim
from store.settings import Settings
from worker.lease import Lease, Progress

log = logging.getLogger("worker")
PRESENCE_SECONDS = 5.0  # the API calls a worker absent after some of these


@dataclass
class Workplace:
    """What one worker process holds while it lives.

    going_home   set when the process is asked to end: the running job is handed back.
    doing        the id of the job at hand.
    training     the command of a training process, which gets its folder as the last word.
    bench        the command of a process that answers questions, likewise.
    """

    settings: Settings
    database: Database
    files: Files
    name: str
    going_home: threading.Event = field(default_factory=threading.Event)
    doing: str | None = None
    training: tuple[str, ...] = (sys.executable, "-m", "worker.child")
    bench: tuple[str, ...] = (sys.executable, "-m", "worker.bench")

    @property
    def queues(self) -> tuple[str, ...]:
        """The queues that it serves."""
        return ERRAND_QUEUES if self.settings.queue in ERRAND_QUEUES else (self.settings.queue,)

    @staticmethod
    def now() -> datetime:
        return datetime.now(UTC)

    def claim(self, queue: str | None = None) -> Claim | None:
        """Take the job whose turn it is in a queue, our first by default; None where nothing waits."""
        with self.database.write() as session:
            return jobs.claim_next(
                session,
                queue or self.queues[0],
                worker=self.name,
                now=self.now(),
                lease_seconds=self.settings.lease_seconds,
            )

    def lease(self, claim: Claim) -> Lease:
        """The thread that keeps the claim alive."""

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
        """Let everybody know what we do."""
        self.doing = job_id
        try:
            yield
        finally:
            self.doing = None

    def be_present(self) -> None:
        """Say every few seconds that we are here, on a thread of its own; while the store is away, keep trying."""

        def keep_saying() -> None:
            while True:
                try:
                    with self.database.write() as session:
                        presence.beat(
                            session,
                            self.name,
                            queues=self.queues,
                            device=_device(self.settings.queue),
                            doing=self.doing,
                            now=self.now(),
                        )
                except Exception as error:
                    log.debug("presence could not be told: %s", error)
                if self.going_home.wait(PRESENCE_SECONDS):
                    return

        threading.Thread(target=keep_saying, name="presence", daemon=True).start()

    def leave(self) -> None:
        """Say that we are gone."""
        try:
            with self.database.write() as session:
                presence.leave(session, self.name)
        except Exception as error:
            log.debug("leaving could not be told: %s", error)


@cache
def workplace() -> Workplace:
    """The one of this process, made when it is first asked for."""
    settings = Settings.from_env(os.environ)
    name = os.environ.get("BIMT_WORKER_NAME") or f"{settings.queue}-{os.getpid()}"
    return Workplace(
        settings=settings,
        database=Database(settings.database_url, pool=settings.database_pool),
        files=Files(settings.files_url, spool=settings.spool),
        name=f"{name}@{socket.gethostname()}",
    )


def _device(queue: str) -> str:
    """What the queue's jobs run on; torch is not asked, for it is never loaded here."""
    return f"cuda {os.environ.get('CUDA_VISIBLE_DEVICES', '0')}" if queue == "gpu" else "cpu"
