"""A worker that answers questions, for tests of the whole and of the API: one bench for all tests, since it takes
seconds to start."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from functools import lru_cache

import pytest

from bimt_engine.spec import Spec
from store.database import Database
from store.files import Files
from store.settings import Settings
from worker.desk import Desk
from worker.engine_process import EngineProcess
from worker.workplace import Workplace

BENCH = (sys.executable, "-m", "worker.bench")


class SharedBench:
    """One real bench, started anew only where it died."""

    def __init__(self, folder) -> None:
        self.folder = folder
        self.process: EngineProcess | None = None
        self.lock = threading.Lock()

    def get(self) -> EngineProcess:
        """The bench, ready. Called first from the main thread: it dies with the thread that started it."""
        with self.lock:
            if self.process is None or not self.process.alive:
                self.process = EngineProcess(self.folder, command=BENCH, called="bench")
                assert self.process.hear(240) == {"say": "ready"}
            return self.process

    def end(self) -> None:
        if self.process is not None:
            self.process.end()
            self.process = None


class DeskForTests(Desk):
    """Both queues share the one bench, so one thread serves them."""

    def __init__(self, here: Workplace, shared: SharedBench) -> None:
        super().__init__(here)
        self.shared = shared

    def bench(self, queue: str) -> EngineProcess:
        return self.shared.get()

    def clear(self, queue: str) -> None:
        if queue == "errands":
            self.shared.end()


@pytest.fixture(scope="session")
def shared_bench(tmp_path_factory) -> Iterator[SharedBench]:
    bench = SharedBench(tmp_path_factory.mktemp("bench"))
    bench.get()
    yield bench
    bench.end()


def desk_on(settings: Settings, database: Database, files: Files, bench: SharedBench) -> DeskForTests:
    return DeskForTests(Workplace(settings, database, files, name="desk@here"), bench)


@lru_cache
def untrained_weights(spec: str, seed: int = 0) -> bytes:
    """A weights file of the spec, as JSON, with a network as it is born: enough to be asked."""
    import torch

    from bimt_engine.datasets.catalogue import make_dataset
    from bimt_engine.exports.weights import weights_file
    from bimt_engine.networks.build import build_network

    whole = Spec.model_validate_json(spec)
    dataset = make_dataset(whole.dataset, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    network = build_network(whole.network, dataset, precision="float64", generator=generator)
    return weights_file(network, network, spec=whole, seed=seed, dataset=dataset)
