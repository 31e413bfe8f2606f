"""The worker is tested on both databases, with a training process that says what the test wants."""

from __future__ import annotations

import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
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
from worker.workplace import Workplace

SAYING = """
import json, os, pathlib, signal, sys, time
folder = pathlib.Path(sys.argv[1])
order = json.loads((folder / "order.json").read_text())
left = [run for run in order["runs"] if run["left"]]
def say(what, **fields):
    print(json.dumps({"say": what, **fields}), flush=True)
def leave(name, content=b"bytes"):
    (folder / name).write_bytes(content)
    return name
"""


@pytest.fixture
def people(database: Database) -> People:  # noqa: F811
    with database.write() as session:
        return make_people(session, datetime.now(UTC))


@pytest.fixture
def workplace(database: Database, files: Files, tmp_path: Path, people: People) -> Iterator[Workplace]:  # noqa: F811
    """A worker's place with a short lease."""
    environ = {"BIMT_DATABASE_URL": database.url, "BIMT_LEASE_SECONDS": "2", "BIMT_CANCEL_SECONDS": "0.5"}
    environ |= {"BIMT_DRAIN_SECONDS": "1", "BIMT_SILENCE_SECONDS": "3"}
    place = Workplace(Settings.from_env(environ, home=tmp_path / "home"), database, files, name="tester@here")
    yield place
    place.going_home.set()


@pytest.fixture
def training_says(workplace: Workplace, tmp_path: Path) -> Callable[[str], None]:
    """Make the training process do these lines of Python, which know `order`, `left`, `say`, `leave` and `folder`."""

    def write(lines: str) -> None:
        script = tmp_path / "training.py"
        script.write_text(SAYING + textwrap.dedent(lines))
        workplace.training = (sys.executable, "-S", str(script))

    return write


def in_the_background(deed: Callable[[], object]) -> threading.Thread:
    """Do something on a thread while the test looks on."""
    thread = threading.Thread(target=deed, daemon=True)
    thread.start()
    return thread
