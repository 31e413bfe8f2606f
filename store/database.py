"""Database sessions, one that writes and one that reads, alike on SQLite and PostgreSQL; and lists in pages.

SQLite   WAL, and every writing transaction begins IMMEDIATE: with the driver's default two processes that read,
         then write, silently lose updates.
Postgres writes in READ COMMITTED; reads use autocommit on connections that refuse to write, so that a read is one
         round trip.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from sqlalchemy import Connection, Engine, Select, create_engine, event, make_url, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DBAPIError, DisconnectionError
from sqlalchemy.orm import InstrumentedAttribute, Session

from store.columns import Base, to_json

BUSY_SECONDS = 30.0  # a SQLite writer waits this long for the others
IDLE_SECONDS = 5.0  # a pooled connection that was idle for longer is tested before use
LONGEST_NUMBER = 9  # digits that fit an INTEGER of every database

Row = TypeVar("Row")


class Database:
    """Sessions on one database. Connects when first used, never at import; make it after a fork, not before."""

    def __init__(self, url: str, *, pool: int = 10) -> None:
        self.url = url
        self.is_sqlite = make_url(url).get_backend_name() == "sqlite"
        if self.is_sqlite:
            self._writer, self._reader = _sqlite_engines(url, pool)
            # Writing threads of one process wait for this lock; SQLite itself would let them poll.
            self._write_lock: AbstractContextManager[Any] = _WriteLock()
        else:
            self._writer, self._reader = _postgres_engines(url, pool)
            self._write_lock = nullcontext()

    @contextmanager
    def write(self) -> Iterator[Session]:
        """A session whose changes are committed together at the end, or not at all. Rows stay readable afterwards."""
        with (
            self._write_lock,
            Session(self._writer, expire_on_commit=False, autoflush=False) as session,
            session.begin(),
        ):
            yield session

    @contextmanager
    def read(self) -> Iterator[Session]:
        """A session that cannot write. It never waits for a writer."""
        with Session(self._reader, expire_on_commit=False, autoflush=False) as session:
            yield session

    def answers(self) -> bool:
        """Whether the database can be reached now."""
        try:
            with self._reader.connect() as connection:
                connection.execute(text("SELECT 1"))
        except DBAPIError:
            return False
        return True

    def close(self) -> None:
        """Close all connections."""
        self._writer.dispose()
        self._reader.dispose()

    def __enter__(self) -> Database:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def insert_into(session: Session, table: type[Base]) -> Any:
    """An INSERT that accepts ON CONFLICT, which SQLAlchemy offers in one class for each database."""
    return sqlite.insert(table) if session.get_bind().dialect.name == "sqlite" else postgresql.insert(table)


class _WriteLock:
    """A lock that raises TimeoutError after BUSY_SECONDS instead of blocking for ever."""

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
        event.listen(engine, "checkin", _note_checkin)
        event.listen(engine, "checkout", _test_if_idle)
    return writer, reader


def _note_checkin(_connection: object, record: Any) -> None:
    record.info["idle_since"] = time.monotonic()


def _test_if_idle(connection: Any, record: Any, _proxy: object) -> None:
    """Test a connection that was idle; the pool replaces one for which this raises DisconnectionError."""
    since = record.info.get("idle_since")
    if since is None or time.monotonic() - since < IDLE_SECONDS:
        return
    try:
        connection.execute("")
        if not connection.autocommit:
            connection.rollback()
    except Exception as error:
        raise DisconnectionError(str(error)) from error


# --- pages of a list ---


@dataclass(frozen=True)
class Page(Generic[Row]):
    """Some rows of a list. `after` is the key to ask the next page with; None on the last page."""

    rows: list[Row]
    after: str | None


def newest_first(
    session: Session, query: Select[Row], key: InstrumentedAttribute[Any], *, after: str | None, limit: int
) -> Page[Row]:
    """One page of a query by falling keys. Rows inserted meanwhile have greater keys and shift no later page."""
    return _page(session, query.order_by(key.desc()), key, key.__lt__, after=after, limit=limit)


def sorted_page(
    session: Session,
    query: Select[Row],
    key: InstrumentedAttribute[Any],
    *,
    by: Any,
    falling: bool,
    after: str | None,
    limit: int,
) -> Page[Row]:
    """The first rows by an expression, those without a value last; where `by` is None, `newest_first`.

    A sorted list has one page: values change and are not unique, so no cursor could say where it goes on.
    """
    if by is None:
        return newest_first(session, query, key, after=after, limit=limit)
    order = (by.desc() if falling else by.asc()).nulls_last()
    return Page(list(session.scalars(query.order_by(order, key.desc()).limit(limit))), None)


def oldest_first(
    session: Session, query: Select[Row], key: InstrumentedAttribute[Any], *, after: str | None, limit: int
) -> Page[Row]:
    """One page of a query by rising keys. Rows inserted meanwhile have greater keys and come on later pages."""
    return _page(session, query.order_by(key), key, key.__gt__, after=after, limit=limit)


def _page(
    session: Session, query: Select[Row], key: InstrumentedAttribute[Any], beyond: Any, *, after: str | None, limit: int
) -> Page[Row]:
    if after is not None:
        where = _as_key(key, after)
        if where is None:
            return Page([], None)
        query = query.where(beyond(where))
    rows = list(session.scalars(query.limit(limit + 1)))
    more = len(rows) > limit
    rows = rows[:limit]
    return Page(rows, str(getattr(rows[-1], key.key)) if more else None)


def _as_key(key: InstrumentedAttribute[Any], after: str) -> Any:
    """The cursor in the type of the key column; None for text where the key is a number: nothing comes after it."""
    if key.type.python_type is not int:
        return after
    return int(after) if after.isdecimal() and len(after) <= LONGEST_NUMBER else None


def matches(column: InstrumentedAttribute[Any], words: str) -> Any:
    """The condition that a column contains this text, ignoring case; % and _ are taken literally."""
    return column.icontains(words, autoescape=True)
