"""Who did what, when, from where: added to, never changed."""

from __future__ import annotations

from datetime import datetime
from typing import Any, cast

from sqlalchemy import Table, insert, select
from sqlalchemy.orm import Session

from store.identifiers import new_id
from store.pages import Page, newest_first
from store.statements import Statement
from store.tables import AuditEntry


def record(
    session: Session,
    *,
    team_id: str,
    member_id: str | None,
    action: str,
    now: datetime,
    thing_id: str | None = None,
    address: str | None = None,
    detail: dict[str, Any] | None = None,
) -> None:
    """Add one entry, in the same transaction as the deed. `action` reads noun.verb, such as `job.cancel`."""
    _ENTRY.run(
        session,
        {
            "id": new_id("audit"),
            "team_id": team_id,
            "member_id": member_id,
            "at": now,
            "action": action,
            "thing_id": thing_id,
            "address": address,
            "detail": detail,
        },
    )


def page(
    session: Session,
    team_id: str,
    *,
    action: str | None = None,
    member_id: str | None = None,
    thing_id: str | None = None,
    after: str | None = None,
    limit: int = 50,
) -> Page[AuditEntry]:
    """The team's entries, newest first."""
    query = select(AuditEntry).where(AuditEntry.team_id == team_id)
    if action is not None:
        query = query.where(AuditEntry.action == action)
    if member_id is not None:
        query = query.where(AuditEntry.member_id == member_id)
    if thing_id is not None:
        query = query.where(AuditEntry.thing_id == thing_id)
    return newest_first(session, query, AuditEntry.id, after=after, limit=limit)


_ENTRY: Statement[tuple[Any, ...]] = Statement(insert(cast(Table, AuditEntry.__table__)))
