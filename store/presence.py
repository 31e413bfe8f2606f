"""Which workers are there: each says so every few seconds, and whoever is silent is not."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from store.database import insert_into
from store.tables import Worker


def beat(session: Session, name: str, *, queues: Iterable[str], device: str, doing: str | None, now: datetime) -> None:
    """A worker says that it is there, what it serves, and what it does (a job's id, or nothing)."""
    for queue in queues:
        row = insert_into(session, Worker).values(
            name=name, queue=queue, device=device, doing=doing, started_at=now, seen_at=now
        )
        seen = {"device": device, "doing": doing, "seen_at": now}
        session.execute(row.on_conflict_do_update(index_elements=[Worker.name, Worker.queue], set_=seen))


def leave(session: Session, name: str) -> None:
    """A worker says that it is gone."""
    session.execute(delete(Worker).where(Worker.name == name))


def workers(session: Session, *, seen_since: datetime) -> list[Worker]:
    """Who was there since then."""
    query = select(Worker).where(Worker.seen_at >= seen_since)
    return list(session.scalars(query.order_by(Worker.queue, Worker.name)))


def forget(session: Session, *, silent_since: datetime) -> None:
    """Drop workers that were not seen since then."""
    session.execute(delete(Worker).where(Worker.seen_at < silent_since))
