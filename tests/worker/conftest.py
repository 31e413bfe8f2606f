"""The worker is tested on both databases, with a training process that sends the messages of the test."""

from __future__ import annotations

import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from store.database import Database
from store.files import Files
from store.settings import Settings
from tests.servers import (  # noqa: F401 - fixtures are found by name
    database,
    database_url,
    files,
    postgres_server,
    postgres_url,
    sqlite_template,
    sqlite_url,
)
from tests.store.makers import People, make_people
from worker.context import WorkerContext
from worker.operation_queue import OperationQueue

# A training process without the engine: it takes one job and then does what the test wrote.
SCRIPT = """
import json, os, pathlib, signal, sys, time
folder = pathlib.Path(json.loads(sys.stdin.readline())["folder"])
request = json.loads((folder / "request.json").read_text())
left = [run for run in request["runs"] if run["left"]]
def send(type, **fields):
    print(json.dumps({"type": type, **fields}), flush=True)
def write(name, content=b"bytes"):
    (folder / name).write_bytes(content)
    return name
def wait_to_be_ended():
    signal.pause()
"""


@pytest.fixture
def people(database: Database) -> People:  # noqa: F811
    with database.write() as session:
        return make_people(session, datetime.now(UTC))


@pytest.fixture
def context(database: Database, files: Files, tmp_path: Path, people: People) -> Iterator[WorkerContext]:  # noqa: F811
    """The context of a worker with a short lease."""
    environ = {"BIMT_DATABASE_URL": database.url, "BIMT_LEASE_SECONDS": "2", "BIMT_CANCEL_SECONDS": "0.5"}
    environ |= {"BIMT_DRAIN_SECONDS": "1", "BIMT_IDLE_SECONDS": "3"}
    made = WorkerContext(Settings.from_env(environ, home=tmp_path / "home"), database, files, name="tester@here")
    yield made
    made.shutting_down.set()


@pytest.fixture
def training_does(context: WorkerContext, tmp_path: Path) -> Callable[[str], None]:
    """Make the training process run these lines of Python, which know the names of SCRIPT."""

    def write(lines: str) -> None:
        script = tmp_path / "training.py"
        script.write_text(SCRIPT + textwrap.dedent(lines))
        context.training_command = (sys.executable, "-S", str(script))

    return write


@pytest.fixture
def operation_queue(context: WorkerContext) -> Iterator[OperationQueue]:
    made = OperationQueue(context)
    yield made
    made.close()


class Clock:
    """The time of rows and of outages, which the test moves on."""

    def __init__(self) -> None:
        self.at = datetime.now(UTC)

    def now(self) -> datetime:
        return self.at

    def monotonic(self) -> float:
        return self.at.timestamp()

    def passes(self, seconds: float) -> None:
        self.at += timedelta(seconds=seconds)


@pytest.fixture
def clock() -> Clock:
    return Clock()


def in_the_background(function: Callable[[], object]) -> threading.Thread:
    """Run a function on a thread."""
    thread = threading.Thread(target=function, daemon=True)
    thread.start()
    return thread


def wait_for(look: Callable[[], object]) -> None:
    """Return once `look` returns something true; a test that hangs is ended by its time limit."""
    while not look():
        time.sleep(0.01)
