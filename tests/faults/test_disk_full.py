"""A full disk is an outage: uploads are answered 507, reads 200, a running job waits, and nothing half is left.

Everything of the service, or PostgreSQL with its data, is on a file system of its own with a few megabytes, which needs
the right to mount one.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from bimt import Client, InsufficientStorage
from standalone.broker import Broker
from standalone.database import PostgresServer
from tests.end_to_end.processes import Service, tiny_spec
from tests.faults.conftest import migrated_postgres
from tests.servers import on_sqlite_or_folder, short_folder, sqlite_in

pytestmark = pytest.mark.faults

MEGABYTES = 24
POSTGRES_MEGABYTES = 160  # of which an empty cluster takes a third, and copies of its programs another
TABLE = b"a,b\n" + b"".join(b"%d,%d\n" % (number, number * number % 7) for number in range(200))
BYTES = "application/octet-stream"
BOUNDARY = "part-of-a-form"


@contextlib.contextmanager
def file_system(megabytes: int) -> Iterator[Path]:
    """A file system in memory that is soon full."""
    with short_folder() as folder:
        command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)]
        if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode != 0:
            pytest.skip("a small file system cannot be mounted here; as root it can")
        folder.chmod(0o755)  # PostgreSQL's own user must reach its data
        try:
            yield folder
        finally:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture
def small_disk() -> Iterator[Path]:
    with file_system(MEGABYTES) as folder:
        yield folder


@pytest.fixture
def small_postgres() -> Iterator[PostgresServer]:
    """A migrated PostgreSQL whose data, log and programs are on a file system of their own."""
    with file_system(POSTGRES_MEGABYTES) as folder, migrated_postgres(folder) as server:
        yield server


@contextlib.contextmanager
def filled(folder: Path) -> Iterator[None]:
    """Not one block of the file system is free meanwhile; what others release is taken at once."""
    over = threading.Event()
    began = threading.Event()
    filler = folder / "filler"

    def fill() -> None:
        with filler.open("wb", buffering=0) as file:
            while not over.is_set():
                try:
                    file.write(bytes(1 << 16))
                except OSError:
                    began.set()
                    over.wait(0.002)

    thread = threading.Thread(target=fill)
    thread.start()
    try:
        assert began.wait(30)
        yield
    finally:
        over.set()
        thread.join()
        filler.unlink()


def form(content: bytes, name: str = "table.csv") -> bytes:
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n\r\n'
    return head.encode() + content + f"\r\n--{BOUNDARY}--\r\n".encode()


def upload(house: Service, content: bytes) -> tuple[int, bytes]:
    return house.ask("POST", "/datasets", form(content), content_type=f"multipart/form-data; boundary={BOUNDARY}")


@on_sqlite_or_folder  # the disk that is full holds them
def test_a_full_disk_is_waited_for(small_disk, sqlite_template, tmp_path, undisturbed):
    home = small_disk / "home"
    home.mkdir()
    with Broker(home / "broker") as broker:
        house = Service(home, sqlite_in(home, sqlite_template), broker, logs=tmp_path / "logs")
        try:
            house.api()
            house.scheduler()
            worker = house.worker()
            house.worker("operations", queue="interactive")
            whole_outage(house, small_disk, worker, undisturbed)
        finally:
            house.close()


def whole_outage(house, small_disk, worker, undisturbed):
    early = house.submit(tiny_spec(steps=200))
    assert house.until_ended(early).state == "succeeded"
    status, body = upload(house, TABLE)
    assert status in (201, 202), body
    dataset = json.loads(body)["id"]
    house.until(lambda: b'"ready"' in house.ask("GET", f"/datasets/{dataset}")[1], "the table is checked")
    begun = json.loads(house.ask("POST", "/uploads", {"name": "large.csv", "bytes": 60_000})[1])["id"]
    run = house.runs(early)[0].id
    addresses = [
        "/me",
        "/jobs",
        f"/jobs/{early}",
        f"/runs/{run}/history",
        f"/runs/{run}/modules",
        f"/runs/{run}/weights.safetensors",
        f"/runs/{run}/figures/network.svg",
        f"/datasets/{dataset}/content",
        f"/datasets/{dataset}/preview",
    ]
    job = house.submit(seeds=(0, 1))
    house.until_checkpoint(job)
    with filled(small_disk):
        house.until(lambda: "the store is unavailable" in worker.last_lines(40), "the worker meets the full disk")
        refused = [
            # In memory, so that the app stores it; then too long for that, so that the server in front meets the disk.
            lambda: house.ask(
                "PUT", f"/uploads/{begun}/parts/0", b"x" * 60_000, content_type="application/octet-stream"
            ),
            lambda: upload(house, TABLE * 30),
            lambda: upload(house, TABLE * 3000),
        ]
        for send in refused:
            found = house.until(lambda send=send: answer if (answer := send())[0] == 507 else None, "a refusal")
            problem = json.loads(found[1])
            assert problem["type"] == "/problems/disk-full"
            assert problem["retryable"] is True
            assert "no room left" in problem["detail"]
        host, port = house.listener.getsockname()[:2]
        with Client(f"http://{host}:{port}", house.token) as client:
            table = small_disk.parent / f"{small_disk.name}.csv"  # on another disk
            table.write_bytes(TABLE * 30)
            try:
                with pytest.raises(InsufficientStorage, match="no room left") as full:
                    client.datasets.upload(table)
            finally:
                table.unlink()
            assert full.value.retry_after == 60
        for address in addresses:
            status, body = house.ask("GET", address)
            assert status == 200, (address, body[:300])
        assert house.job(job).state == "running"
    ended = house.until_ended(job)
    assert (ended.state, ended.reason) == ("succeeded", None)
    assert house.weights(job) == undisturbed
    assert [attempt.ended_how for attempt in house.attempts(job)] == ["succeeded"]
    assert house.until(lambda: upload(house, TABLE + b"1,1\n")[0] in (201, 202), "uploads are taken again")
    assert all(process.alive for process in house.processes)
    nothing_half_is_left(house)


def test_a_full_disk_under_the_database_is_waited_for(small_postgres, tmp_path, broker, undisturbed):
    """The server goes on and refuses what needs another page (53100), so what is stored can be read meanwhile."""
    house = Service(tmp_path / "home", small_postgres.url, broker)
    try:
        house.api()
        house.scheduler()
        worker = house.worker()
        job = house.submit(seeds=(0, 1))
        house.until_checkpoint(job)
        with filled(small_postgres.directory):
            house.until(
                lambda: "the store is unavailable" in worker.last_lines(40), "the worker meets the full database"
            )
            found = house.until(lambda: answer if (answer := submit(house))[0] == 507 else None, "a refusal")
            assert json.loads(found[1])["type"] == "/problems/disk-full"
            for address in ("/me", "/jobs", f"/jobs/{job}"):
                assert house.ask("GET", address)[0] == 200, address
            assert small_postgres.alive
        ended = house.until_ended(job)
        assert (ended.state, ended.reason) == ("succeeded", None)
        assert house.weights(job) == undisturbed
        assert house.until(lambda: submit(house)[0] == 202, "jobs are taken again")
    finally:
        house.close()


def submit(house: Service) -> tuple[int, bytes]:
    """One job of a hundred runs: more rows than fit into what is left of a page."""
    spec = tiny_spec().model_dump(mode="json")
    return house.ask("POST", "/jobs", {"spec": spec, "seeds": list(range(100)), "priority": 0})


def nothing_half_is_left(house: Service) -> None:
    """Every stored file is whole; the spool holds nothing but the folders of processes that run."""
    assert list((house.home / "files").glob("cas/*/*#*")) == []
    for name, _, _ in house.files.each():
        house.files.verify(name, again=True)
    house.until(
        lambda: (
            {path.name.rpartition("-")[0] for path in Path(house.settings.spool).iterdir()}
            <= {"job_training", "job_operations-interactive"}
        ),
        "the spool is empty",
    )
