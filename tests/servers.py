"""Real servers for tests: databases and a broker, from the same wheels that the service uses.

Take them into a folder's conftest.py by name: `from tests.servers import broker, database, database_url, …`.
A test that asks for `database` runs twice, on SQLite and on PostgreSQL; every test has a fresh, migrated one.
A service that a test starts is on `service_url` and keeps its files where `files_of` says: SQLite and a folder, or
with TESTS_ON=postgres+s3 (`make test-stores`) PostgreSQL and a bucket. SQLite is left out there.
"""

from __future__ import annotations

import atexit
import functools
import importlib.util
import itertools
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import obstore
import psycopg
import pytest

from standalone.broker import Broker, BrokerError, server_binary
from standalone.database import DatabaseError, PostgresServer, install_folder
from store import migrate
from store.database import Database
from store.files import Files, _key
from store.tables import Base

FILES_URL = "BIMT_FILES_URL"
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "tests", "AWS_SECRET_ACCESS_KEY": "tests"}
MIGRATED = "migrated"  # the database that all tests use, one after another

STORES = ("sqlite+folder", "postgres+s3")
TESTS_ON = os.environ.get("TESTS_ON", STORES[0])
if TESTS_ON not in STORES:
    raise ValueError(f"TESTS_ON is `{TESTS_ON}`; it must be one of {', '.join(STORES)}")
IN_PRODUCTION = TESTS_ON == "postgres+s3"
DATABASES = ["postgres"] if IN_PRODUCTION else ["sqlite", "postgres"]  # what a test of both databases runs on
on_sqlite_or_folder = pytest.mark.skipif(IN_PRODUCTION, reason="about SQLite or files in a folder: see `make test`")

if IN_PRODUCTION:
    os.environ.update(CREDENTIALS)  # before any test copies the environment for a process

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


def sqlite_in(folder: Path, template: Path) -> str:
    """A fresh SQLite database with all tables in this folder."""
    path = folder / "bimt.sqlite"
    shutil.copy(template, path)
    return f"sqlite:///{path}"


@pytest.fixture
def sqlite_url(sqlite_template: Path, tmp_path: Path) -> str:
    """A fresh SQLite database with all tables, for tests about SQLite."""
    if IN_PRODUCTION:
        pytest.skip("about SQLite: see `make test`")
    return sqlite_in(tmp_path, sqlite_template)


@pytest.fixture
def service_url(request: pytest.FixtureRequest) -> str:
    """The database of the service that a test starts, fresh and with all tables."""
    url: str = request.getfixturevalue(f"{DATABASES[0]}_url")
    return url


@pytest.fixture(scope="session")
def lasting_url(request: pytest.FixtureRequest) -> Callable[[Path], str]:
    """Makes the database of a service in a folder that several tests share; no other test empties it."""

    def make(folder: Path) -> str:
        if not IN_PRODUCTION:
            return sqlite_in(folder, request.getfixturevalue("sqlite_template"))
        server: PostgresServer = request.getfixturevalue("postgres_server")
        name = f"lasting_{next(_numbers)}"
        with psycopg.connect(_plain(server.url), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        migrate.upgrade(server.address(name))
        return server.address(name)

    return make


@pytest.fixture(params=DATABASES)
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
    return Files(files_of(tmp_path).get(FILES_URL, f"file://{tmp_path / 'files'}"), spool=tmp_path / "spool")


def folder_of(files: Files) -> Path:
    """The folder of a file store; a test that needs one is skipped where the files lie in a bucket."""
    if files._folder is None:
        pytest.skip("about files in a folder: see `make test`")
    return files._folder


def peek(files: Files, sha256: str) -> bytes:
    """The bytes that are stored under a name, right or wrong."""
    return bytes(obstore.get(files._store, _key(sha256)).bytes())


def overwrite(files: Files, sha256: str, content: bytes) -> None:
    """Store other bytes under a name, as a failing disk or another program would."""
    if files._folder is None:
        obstore.put(files._store, _key(sha256), content)
    else:
        (files._folder / _key(sha256)).write_bytes(content)  # in place, in the same inode


def flip_a_bit(files: Files, sha256: str) -> bytes:
    """Damage one bit of a stored file; its bytes now."""
    content = bytearray(peek(files, sha256))
    content[len(content) // 2] ^= 1
    overwrite(files, sha256, bytes(content))
    return bytes(content)


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


@functools.cache
def _s3_of_this_process() -> str:
    """The address of one S3 service for all tests of this process."""
    stack = ExitStack()
    atexit.register(stack.close)
    return stack.enter_context(s3_service())


@functools.cache
def files_of(home: Path) -> dict[str, str]:
    """The setting that says where the service in this folder keeps its files: a bucket of its own, or the default."""
    if not IN_PRODUCTION:
        return {}
    return {FILES_URL: _url_of_bucket(_s3_of_this_process())}


def _url_of_bucket(address: str) -> str:
    return f"s3://{make_bucket(address)}/some/folder?endpoint={address}&region=us-east-1"


def make_bucket(address: str) -> str:
    """A fresh bucket of an S3 service; its name."""
    name = f"bucket-{next(_numbers)}"
    urllib.request.urlopen(urllib.request.Request(f"{address}/{name}", method="PUT")).close()
    return name


@pytest.fixture
def bucket_url(object_store: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A fresh bucket, as BIMT_FILES_URL names it."""
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    return _url_of_bucket(object_store)


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
