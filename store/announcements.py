"""What the workers should hear of. The row is the truth: a message that was lost is made up for here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from store.job_tables import WAITS
from store.tables import Job


@dataclass(frozen=True)
class Announcement:
    """A waiting job that the workers should hear of."""

    id: str
    queue: str
    priority: int


def to_announce(session: Session, *, now: datetime, resend_after: float, limit: int = 100) -> list[Announcement]:
    """Waiting jobs that were never announced, then those announced more than `resend_after` seconds ago.

    Which of them is worked on first is decided when a worker claims: see leases.claim_next.
    """
    query = select(Job.id, Job.queue, Job.priority).where(WAITS)
    never = query.where(Job.announced_at.is_(None)).order_by(Job.id).limit(limit)
    found = [Announcement(*row) for row in session.execute(never)]
    if len(found) < limit:
        stale = query.where(Job.announced_at < now - timedelta(seconds=resend_after))
        stale = stale.order_by(Job.announced_at, Job.id).limit(limit - len(found))
        found += [Announcement(*row) for row in session.execute(stale)]
    return found


def mark_announced(session: Session, job_ids: Sequence[str], *, at: datetime | None) -> None:
    """Remember when the workers were told; None: that they were not, after all."""
    session.execute(
        update(Job)
        .where(Job.id.in_(job_ids), Job.state == "queued")
        .values(announced_at=at)
        .execution_options(synchronize_session=False)
    )
