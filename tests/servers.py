"""Real servers for tests: databases and a broker, from the same wheels that the service uses.

Take them into a folder's conftest.py by name: `from tests.servers import broker, database, database_url, …`.
A test that asks for `database` runs twice, on SQLite and on PostgreSQL; every test has a fresh, migrated one.
"""

from __future__ import annotations

import importlib.util
import itertools
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from standalone.broker import Broker, BrokerError, server_binary
from standalone.database import DatabaseError, PostgresServer, install_folder
from store import migrate
from store.database import Database
from store.files import Files
from store.tables import Base

MIGRATED = "migrated"  # the database that all tests use, one after another

_numbers = itertools.count()


@contextmanager
def short_folder() -> Iterator[Path]:
    """A folder with a short path that every user can reach: pytest's own are closed to the server's user."""
    folder = Path(tempfile.mkdtemp(prefix="bimt-"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """One PostgreSQL for the whole session, below the temporary folder, where its own user can reach it."""
    try:
        install_folder()
    except DatabaseError as error:
        pytest.skip(str(error))
    with short_folder() as folder, PostgresServer(folder / "server") as server:
        with psycopg.connect(_plain(server.url), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {MIGRATED}")
        migrate.upgrade(server.address(MIGRATED))
        yield server


@pytest.fixture
def postgres_url(postgres_server: PostgresServer) -> str:
    """A PostgreSQL database with all tables and not one row. It is emptied, not made anew: that is 30 times faster."""
    url = postgres_server.address(MIGRATED)
    with psycopg.connect(_plain(url), autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s AND pid <> pg_backend_pid()",
            [MIGRATED],
        )
        connection.execute("; ".join(f'DELETE FROM "{table.name}"' for table in reversed(Base.metadata.sorted_tables)))
    return url


@pytest.fixture
def empty_postgres_url(postgres_server: PostgresServer) -> Iterator[str]:
    """A fresh PostgreSQL database without a single table."""
    name = f"empty_{next(_numbers)}"
    with psycopg.connect(_plain(postgres_server.url), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    yield postgres_server.address(name)
    with psycopg.connect(_plain(postgres_server.url), autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite file with all tables, to be copied."""
    path = tmp_path_factory.mktemp("sqlite") / "template.sqlite"
    migrate.upgrade(f"sqlite:///{path}")
    return path


@pytest.fixture
def sqlite_url(sqlite_template: Path, tmp_path: Path) -> str:
    """A fresh SQLite database with all tables."""
    path = tmp_path / "bimt.sqlite"
    shutil.copy(sqlite_template, path)
    return f"sqlite:///{path}"


@pytest.fixture(params=["sqlite", "postgres"])
def database_url(request: pytest.FixtureRequest) -> str:
    """A fresh database of each kind, with all tables."""
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """Sessions on a fresh database of each kind."""
    database = Database(database_url)
    yield database
    database.close()


@pytest.fixture
def files(tmp_path: Path) -> Files:
    """An empty file store."""
    return Files(f"file://{tmp_path / 'files'}")


@pytest.fixture(scope="session")
def object_store() -> Iterator[str]:
    """The address of an S3 service of our own, in a process of its own."""
    if importlib.util.find_spec("moto") is None or importlib.util.find_spec("flask_cors") is None:
        pytest.skip("no S3 service here: pip install 'moto[s3]' flask-cors")
    with s3_service() as address:
        yield address


@contextmanager
def s3_service() -> Iterator[str]:
    """The address of an S3 service that keeps everything in its memory."""
    with socket.socket() as line:
        line.bind(("127.0.0.1", 0))
        port = line.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        _wait_for(port, server)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.kill()
        server.wait()


def make_bucket(address: str) -> str:
    """A fresh bucket of an S3 service; its name."""
    name = f"bucket-{next(_numbers)}"
    urllib.request.urlopen(urllib.request.Request(f"{address}/{name}", method="PUT")).close()
    return name


@pytest.fixture
def bucket_url(object_store: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A fresh bucket, as BIMT_FILES_URL names it."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "tests")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "tests")
    name = make_bucket(object_store)
    return f"s3://{name}/some/folder?endpoint={object_store}&region=us-east-1"


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    """An empty broker of its own, ready to answer."""
    try:
        server_binary()
    except BrokerError as error:
        pytest.skip(str(error))
    with Broker(tmp_path / "broker") as running:
        yield running


def _wait_for(port: int, server: subprocess.Popen[bytes]) -> None:
    """Until somebody listens there."""
    deadline = time.monotonic() + 60
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            assert server.poll() is None, "the S3 service ended at once"
            assert time.monotonic() < deadline, "the S3 service did not start"
            time.sleep(0.1)


def _plain(url: str) -> str:
    """The address as psycopg itself reads it."""
    return url.replace("postgresql+psycopg://", "postgresql://")
