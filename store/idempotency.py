"""Requests that may be sent twice: the second time they find what came of the first."""

from __future__ import annotations

import hashlib
from datetime import datetime
from typing import Any

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from store.columns import to_json
from store.database import insert_into
from store.errors import Conflict
from store.tables import IdempotencyKey


def remember(session: Session, *, member_id: str, key: str, request: Any, thing_id: str, now: datetime) -> str | None:
    """Bind the member's key to this request and to what it will make.

    None: the key is new, so make the thing under `thing_id`. An id: the same request came before and made that one.
    Two at the same moment wait for one another. Raises Conflict where the key was used for another request.
    """
    digest = hashlib.sha256(to_json(_sorted(request)).encode()).digest()
    row = insert_into(session, IdempotencyKey).values(
        member_id=member_id, key=key, request_sha256=digest, thing_id=thing_id, created_at=now
    )
    made = row.on_conflict_do_nothing().returning(IdempotencyKey.thing_id)
    if session.scalar(made) is not None:
        return None
    query = select(IdempotencyKey).where(IdempotencyKey.member_id == member_id, IdempotencyKey.key == key)
    before = session.scalars(query).one()
    if before.request_sha256 != digest:
        raise Conflict(f"The idempotency key `{key}` was used for another request; use a fresh key for each request.")
    return before.thing_id


def forget(session: Session, *, before: datetime) -> None:
    """Drop keys from before that time."""
    session.execute(delete(IdempotencyKey).where(IdempotencyKey.created_at < before))


def _sorted(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _sorted(value[key]) for key in sorted(value)}
    if isinstance(value, list | tuple):
        return [_sorted(inner) for inner in value]
    return value
