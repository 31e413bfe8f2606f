"""`python -m standalone up`: one tree that starts in order, restarts what ends, and ends together."""

from __future__ import annotations

import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import httpx
import psutil
import pytest

from standalone.broker import BrokerError, server_binary
from tests.end_to_end.processes import REPOSITORY
from tests.servers import files_of, short_folder

LIMIT_SECONDS = 90.0
MANY_STEPS = {
    "dataset": {"kind": "two_moons"},
    "network": {"kind": "mlp", "hidden": [20, 20]},
    "training": {"steps": 500_000, "snapshot_every": 5_000},
}


class Up:
    """A running `up` in a home of its own."""

    def __init__(self, home: Path, *words: str, **environ: str) -> None:
        self.home = home
        self.said = home.with_name(f"{home.name}-said")
        clean = {name: value for name, value in os.environ.items() if not name.startswith("BIMT_")}
        with self.said.open("w") as said:
            self.popen = subprocess.Popen(
                [sys.executable, "-m", "standalone", "up", "--home", str(home), "--port", "0", *words],
                stdout=said,
                stderr=subprocess.STDOUT,
                env=clean | {"BIMT_LEASE_SECONDS": "4"} | files_of(home) | environ,
                cwd=REPOSITORY,
            )

    def text(self) -> str:
        return self.said.read_text()

    def ready(self) -> Up:
        wait_for(lambda: "address" in self.text() or self.popen.poll() is not None, "`up` is up")
        assert self.popen.poll() is None, self.text()
        return self

    def is_ready(self) -> bool:
        """Whether every part answers; a part that was just killed may not, or not in time."""
        try:
            return httpx.get(f"{self.address}/readyz", timeout=10).status_code == 200
        except httpx.HTTPError:
            return False

    @property
    def address(self) -> str:
        found = re.search(r"^address +(http://[0-9.:]+)", self.text(), re.MULTILINE)  # an S3 service has one, too
        assert found is not None
        return found[1]

    @property
    def token(self) -> str:
        found = re.search(r"bimt_[0-9a-f]{12}_\S+", self.text())
        assert found is not None
        return found[0]

    def tree(self) -> list[psutil.Process]:
        return psutil.Process(self.popen.pid).children(recursive=True)

    def part(self, word: str) -> psutil.Process:
        """The part whose command line holds this word."""
        for part in psutil.Process(self.popen.pid).children():
            with suppress(psutil.NoSuchProcess):  # one may end, and another take its place, while we look
                if part.status() != psutil.STATUS_ZOMBIE and word in " ".join(part.cmdline()):
                    return part
        raise AssertionError(f"no part is called {word}")

    def end(self, number: int = signal.SIGINT) -> int:
        """Signal it; its exit code."""
        if self.popen.poll() is None:
            self.popen.send_signal(number)
        return self.popen.wait(60)


@contextmanager
def served(**environ: str) -> Iterator[Up]:
    """A whole service with its workers, ready for tests that share it; without a broker here they are skipped.

    No worker is killed in them, so the lease is long: on a busy machine a short one lapses while an engine process is
    still importing, and each time that process is ended and another one begins to import.
    """
    try:
        server_binary()
    except BrokerError as error:
        pytest.skip(str(error))
    with short_folder() as folder:
        up = Up(folder / "home", **{"BIMT_RATE_LIMIT": "none", "BIMT_LEASE_SECONDS": "60"} | environ).ready()
        try:
            wait_for(up.is_ready, "the worker is ready")
            yield up
        finally:
            up.end()


def wait_for(look: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + LIMIT_SECONDS
    while not look():
        assert time.monotonic() < deadline, f"not within {LIMIT_SECONDS:.0f} s: {what}"
        time.sleep(0.1)


def locked(database: sqlite3.Connection) -> bool:
    """Whether a transaction that writes was begun; no other connection can write until it is closed."""
    with suppress(sqlite3.OperationalError):
        database.execute("BEGIN IMMEDIATE")
        return True
    return False


@pytest.fixture
def home() -> Iterator[Path]:
    try:
        server_binary()
    except BrokerError as error:
        pytest.skip(str(error))
    with short_folder() as folder:
        yield folder / "home"


def test_up_serves_once_mends_itself_and_ends_with_nothing_left(home):
    up = Up(home).ready()
    try:
        answer = httpx.get(f"{up.address}/api/v1/me", headers={"Authorization": f"Bearer {up.token}"})
        assert answer.status_code == 200
        wait_for(up.is_ready, "all parts are ready")

        refused = Up(home.with_name("other"), "--home", str(home))
        assert refused.popen.wait(60) == 1
        assert "is in use by process" in refused.text()

        for word in ("valkey", "worker.scheduler", "--queue", "-m api"):
            up.part(word).kill()
        wait_for(lambda: len(re.findall("died", up.text())) >= 4, "all four deaths are noticed")
        wait_for(up.is_ready, "all parts are ready again")
        tree = up.tree()
        assert up.end() == 0
        assert "stopped" in up.text()
        assert psutil.wait_procs(tree, timeout=5)[1] == []
    finally:
        up.end(signal.SIGKILL)

    again = Up(home).ready()
    try:
        assert "admin" not in again.text()
        tree = again.tree()
        again.end(signal.SIGKILL)
        assert psutil.wait_procs(tree, timeout=15)[1] == []
    finally:
        again.end(signal.SIGKILL)


def test_the_job_of_a_killed_worker_goes_on_without_waiting_for_its_lease(home):
    """While the database is locked, the other processes are watched; once it does, the job is released."""
    up = Up(home, BIMT_LEASE_SECONDS="3600").ready()
    try:
        headers = {"Authorization": f"Bearer {up.token}"}
        with httpx.Client(base_url=f"{up.address}/api/v1", headers=headers, timeout=30) as http:
            sent = http.post("/jobs", json={"seeds": [0], "spec": MANY_STEPS})
            assert sent.status_code == 202, sent.text
            address = f"/jobs/{sent.json()['id']}"
            wait_for(lambda: http.get(address).json()["progress"] > 0, "the training has begun")
            with closing(sqlite3.connect(home / "bimt.sqlite", isolation_level=None)) as database:
                wait_for(lambda: locked(database), "the database is locked")
                up.part("--queue cpu").kill()
                wait_for(lambda: "worker-cpu0 died" in up.text(), "the death of the worker is noticed")
                up.part("worker.scheduler").kill()
                wait_for(lambda: "scheduler  died" in up.text(), "the death of the scheduler is noticed")
                assert "which returns to the queue" not in up.text()
            wait_for(lambda: len(http.get(address).json()["tries"]) == 2, "another attempt has begun")
            assert http.get(address).json()["tries"][0]["ended_how"] == "lease_lost"
            assert "which returns to the queue" in up.text()
            http.post(f"{address}/cancel").raise_for_status()
    finally:
        up.end()


@pytest.mark.parametrize(
    ("environ", "sentence"),
    [
        ({"BIMT_LEASE_SECONDS": "soon"}, "BIMT_LEASE_SECONDS"),
        ({"BIMT_DATABASE_URL": "postgresql+psycopg://nobody:secret@127.0.0.1:9/none"}, "cannot be reached"),
        (
            {"BIMT_FILES_URL": "s3://none?endpoint=http://127.0.0.1:9", "AWS_ACCESS_KEY_ID": ""}
            | {"AWS_SECRET_ACCESS_KEY": "", "AWS_EC2_METADATA_DISABLED": "true"},
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY are not set",
        ),
    ],
    ids=["a setting", "a database", "a bucket"],
)
def test_up_says_what_is_in_the_way_and_leaves_nothing(home, environ, sentence):
    up = Up(home, **environ)
    assert up.popen.wait(60) in (1, 2)
    assert sentence in up.text()
    assert "secret" not in up.text()
    assert "Traceback" not in up.text()
