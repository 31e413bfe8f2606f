"""The way to the rows: one writing and one reading session, alike on SQLite and PostgreSQL.

SQLite   WAL, and every writing transaction begins IMMEDIATE: with the driver's default two processes that read,
         then write, lose updates in silence.
Postgres writes in READ COMMITTED; reads commit by themselves on connections that refuse to write, so that a read
         is one trip to the server.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DBAPIError, DisconnectionError
from sqlalchemy.orm import Session

from store.columns import Base, to_json

BUSY_SECONDS = 30.0  # a SQLite writer waits this long for the others
IDLE_SECONDS = 5.0  # a connection that rested longer is asked whether it still lives


class Database:
    """Sessions on one database. Connects when first used, never at import; make it after a fork, not before."""

    def __init__(self, url: str, *, pool: int = 10) -> None:
        self.url = url
        self.is_sqlite = make_url(url).get_backend_name() == "sqlite"
        if self.is_sqlite:
            self._writer, self._reader = _sqlite_engines(url, pool)
            # Threads of one process queue here, in turn; SQLite itself would let them poll against one another.
            self._turn: AbstractContextManager[Any] = _Turn()
        else:
            self._writer, self._reader = _postgres_engines(url, pool)
            self._turn = nullcontext()

    @contextmanager
    def write(self) -> Iterator[Session]:
        """A session whose changes are committed together at the end, or not at all. Rows stay readable afterwards."""
        with self._turn, Session(self._writer, expire_on_commit=False, autoflush=False) as session, session.begin():
            yield session

    @contextmanager
    def read(self) -> Iterator[Session]:
        """A session that cannot write. It never waits for a writer."""
        with Session(self._reader, expire_on_commit=False, autoflush=False) as session:
            yield session

    def answers(self) -> bool:
        """Whether the database can be reached just now."""
        try:
            with self._reader.connect() as connection:
                connection.execute(text("SELECT 1"))
        except DBAPIError:
            return False
        return True

    def close(self) -> None:
        """Let go of all connections."""
        self._writer.dispose()
        self._reader.dispose()

    def __enter__(self) -> Database:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def insert_into(session: Session, table: type[Base]) -> Any:
    """An INSERT that may say what happens on a conflict. The two databases word it alike, SQLAlchemy in two classes."""
    return sqlite.insert(table) if session.get_bind().dialect.name == "sqlite" else postgresql.insert(table)


class _Turn:
    """A lock that gives up with a sentence instead of hanging."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        if not self._lock.acquire(timeout=BUSY_SECONDS):
            raise TimeoutError("Another thread has held the writing session for 30 s; end it before opening another.")

    def __exit__(self, *_: object) -> None:
        self._lock.release()


def _sqlite_engines(url: str, pool: int) -> tuple[Engine, Engine]:
    """Two engines on one file. A database in memory is refused: the two would see different ones."""
    file = make_url(url).database
    if not file or file == ":memory:":
        raise ValueError("A SQLite database needs a file, for instance sqlite:////tmp/bimt.sqlite.")
    Path(file).parent.mkdir(parents=True, exist_ok=True)
    engines = []
    for writes in (True, False):
        engine = create_engine(url, json_serializer=to_json, pool_size=pool, max_overflow=64)
        event.listen(engine, "connect", _prepare_sqlite_writer if writes else _prepare_sqlite_reader)
        event.listen(engine, "begin", _begin_immediate if writes else _begin_deferred)
        engines.append(engine)
    return engines[0], engines[1]


def _prepare_sqlite_writer(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # the driver begins nothing by itself
    for pragma in (
        "journal_mode=WAL",
        "synchronous=NORMAL",
        f"busy_timeout={BUSY_SECONDS * 1000:.0f}",
        "foreign_keys=ON",
    ):
        connection.execute(f"PRAGMA {pragma}")


def _prepare_sqlite_reader(connection: Any, record: object) -> None:
    _prepare_sqlite_writer(connection, record)
    connection.execute("PRAGMA query_only=ON")


def _begin_immediate(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def _begin_deferred(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN DEFERRED")


def _postgres_engines(url: str, pool: int) -> tuple[Engine, Engine]:
    options: dict[str, Any] = {
        "json_serializer": to_json,
        "pool_size": pool,
        "max_overflow": 2 * pool,
        "pool_timeout": 30,
        "pool_use_lifo": True,
    }
    writer = create_engine(url, connect_args={"application_name": "bimt", "connect_timeout": 10}, **options)
    reader = create_engine(
        url,
        isolation_level="AUTOCOMMIT",
        connect_args={
            "application_name": "bimt-read",
            "connect_timeout": 10,
            "options": "-c default_transaction_read_only=on",
        },
        **options,
    )
    for engine in (writer, reader):
        event.listen(engine, "checkin", _note_rest)
        event.listen(engine, "checkout", _ask_whether_it_lives)
    return writer, reader


def _note_rest(_connection: object, record: Any) -> None:
    record.info["rests_since"] = time.monotonic()


def _ask_whether_it_lives(connection: Any, record: Any, _proxy: object) -> None:
    """After a rest, one cheap question; a dead connection is replaced before anybody uses it."""
    since = record.info.get("rests_since")
    if since is None or time.monotonic() - since < IDLE_SECONDS:
        return
    try:
        connection.execute("")
        if not connection.autocommit:
            connection.rollback()
    except Exception as error:
        raise DisconnectionError(str(error)) from error
