"""Workers that answer operations in tests: one process for all tests, since it takes seconds to start, and a worker
without a process that checks uploads alone."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from functools import lru_cache

import pytest
from sqlalchemy import select

from bimt_engine.spec import Spec
from store import jobs
from store.database import Database
from store.files import Files
from store.jobs.leases import Claim
from store.jobs.tables import CHECKS
from store.settings import Settings
from store.tables import Job
from worker.context import WorkerContext
from worker.engine_process import EngineProcess, operation_process
from worker.operation_queue import INTERACTIVE, OperationQueue
from worker.protocol import OperationMessage, Ready

COMMAND = (sys.executable, "-m", "worker.operation_process")


class SharedProcess:
    """One real operation process, started again only where it died."""

    def __init__(self, folder) -> None:
        self.folder = folder
        self.process: EngineProcess[OperationMessage] | None = None
        self.lock = threading.Lock()

    def get(self) -> EngineProcess[OperationMessage]:
        """The process, ready. Called first from the main thread: it dies with the thread that started it."""
        with self.lock:
            if self.process is None or not self.process.alive:
                self.process = operation_process(self.folder, COMMAND)
                assert self.process.next_message(240) == Ready()
            return self.process

    def end(self) -> None:
        if self.process is not None:
            self.process.end()
            self.process = None


class QueueForTests(OperationQueue):
    """Both queues share the one process, so one thread serves them."""

    def __init__(self, context: WorkerContext, shared: SharedProcess) -> None:
        super().__init__(context)
        self.shared = shared

    def process(self, queue: str) -> EngineProcess[OperationMessage]:
        return self.shared.get()

    def end_process(self, queue: str) -> None:
        if queue == INTERACTIVE:
            self.shared.end()


@pytest.fixture(scope="session")
def shared_process(tmp_path_factory) -> Iterator[SharedProcess]:
    shared = SharedProcess(tmp_path_factory.mktemp("operations"))
    shared.get()
    yield shared
    shared.end()


def operations_on(settings: Settings, database: Database, files: Files, shared: SharedProcess) -> QueueForTests:
    return QueueForTests(WorkerContext(settings, database, files, name="operations@here"), shared)


class ChecksOnly(WorkerContext):
    """A worker that claims checks of uploads and of jobs' data, and leaves other operations queued."""

    def claim(self, queue: str | None = None) -> Claim | None:
        with self.database.read() as session:
            is_check = (Job.kind.in_((*CHECKS, "check_job")), Job.state == "queued")
            job_id = session.scalar(select(Job.id).where(*is_check).order_by(Job.id).limit(1))
        if job_id is None:
            return None
        with self.database.write() as session:
            more = {"worker": self.name, "now": self.now(), "lease_seconds": self.settings.lease_seconds}
            return jobs.claim(session, job_id, **more)


def upload_checks(settings: Settings, database: Database, files: Files) -> OperationQueue:
    """`serve(INTERACTIVE)` runs every check of an upload that waits, in limited children of this process."""
    return OperationQueue(ChecksOnly(settings, database, files, name="checks@here"))


@lru_cache
def untrained_weights(spec: str, seed: int = 0) -> bytes:
    """A weights file of the spec, as JSON, of an untrained network: enough to be asked."""
    import torch

    from bimt_engine.data.registry import make_dataset
    from bimt_engine.exports.weights import weights_file
    from bimt_engine.networks.network import build_network

    whole = Spec.model_validate_json(spec)
    dataset = make_dataset(whole.dataset, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    network = build_network(whole.network, dataset, precision="float64", generator=generator)
    return weights_file(network, network, spec=whole, seed=seed, dataset=dataset)
