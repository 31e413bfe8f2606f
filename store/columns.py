"""Column types that behave alike on SQLite and PostgreSQL, the base class of all tables, and the ids of rows."""

from __future__ import annotations

import base64
import json
import math
import os
import re
import threading
import time
import zlib
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import JSON, CheckConstraint, DateTime, Dialect, LargeBinary, MetaData, String
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase
from sqlalchemy.types import TypeDecorator, TypeEngine

NAMING_CONVENTION = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}

Identifier = String(40)
Sha256 = String(64)


class Base(DeclarativeBase):
    """All tables of the service, with predictable names for every constraint."""

    metadata = MetaData(naming_convention=NAMING_CONVENTION)


class Utc(TypeDecorator[datetime]):
    """An aware time, always UTC. SQLite stores no zone, so it is added again when a row is read."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """The time in UTC. Raises ValueError for a naive time: it would mean something else on every machine."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"{value!r} has no time zone; pass an aware time, for instance datetime.now(UTC).")
        value = value.astimezone(UTC)
        return value.replace(tzinfo=None) if dialect.name == "sqlite" else value

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """The same time, aware again."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class CompressedJson(TypeDecorator[Any]):
    """A JSON document as deflated bytes: for documents that are read whole and never searched."""

    impl = LargeBinary
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> bytes | None:
        """The deflated text; None stays NULL."""
        return None if value is None else zlib.compress(to_json(value).encode(), 6)

    def process_result_value(self, value: bytes | None, dialect: Dialect) -> Any:
        """The document as it was written."""
        return None if value is None else json.loads(zlib.decompress(value))


def small_json() -> TypeEngine[Any]:
    """The type of a JSON value of a few hundred bytes that is stored uncompressed."""
    return JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")


def to_json(value: Any) -> str:
    """JSON text in which numbers that are not finite have become null: JSON has no NaN, and a loss can be one."""
    try:
        return json.dumps(value, allow_nan=False, separators=(",", ":"), ensure_ascii=False)
    except ValueError:
        return json.dumps(_finite(value), allow_nan=False, separators=(",", ":"), ensure_ascii=False)


def one_of(column: str, values: tuple[str, ...]) -> CheckConstraint:
    """The CHECK constraint that a text column holds one of these values."""
    words = ", ".join(f"'{value}'" for value in values)
    return CheckConstraint(f"{column} IN ({words})", name=column)


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return value


# --- ids: a prefix that names the kind of row, then a ULID, which sorts by the time it was made ---

ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base 32: no i, l, o, u; sorts as ASCII does
# fmt: off
PREFIXES = frozenset((
    "team", "member", "token", "dataset", "network", "upload", "job", "attempt", "run", "graph", "model",
    "version", "alias", "annotation", "share", "webhook", "delivery", "audit", "log", "file",
))
# fmt: on

_CROCKFORD = bytes.maketrans(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567", ALPHABET.encode())  # from RFC 4648's base 32
_ID = re.compile(r"^([a-z]+)_([0-9a-hjkmnp-tv-z]{26})\Z")

_lock = threading.Lock()
_last = 0  # the number inside the last id of this process; the next one is always greater


def new_id(prefix: str) -> str:
    """A new id such as `job_01jd…`: 48 bits of milliseconds, 80 random bits.

    Ids made by one process rise strictly, even within one millisecond or when the clock steps back.
    """
    if prefix not in PREFIXES:
        raise ValueError(f"`{prefix}` is not a known prefix of ids; known are {', '.join(sorted(PREFIXES))}.")
    global _last
    number = (time.time_ns() // 1_000_000) << 80 | int.from_bytes(os.urandom(10), "big")
    with _lock:
        if number >> 80 <= _last >> 80:
            number = _last + 1 + int.from_bytes(os.urandom(4), "big")
        _last = number
    digits = base64.b32encode(number.to_bytes(20, "big"))[-26:].translate(_CROCKFORD).decode()
    return f"{prefix}_{digits}"


def is_id(text: str, prefix: str) -> bool:
    """Whether the text has the form of an id with this prefix."""
    found = _ID.match(text)
    return found is not None and found.group(1) == prefix
