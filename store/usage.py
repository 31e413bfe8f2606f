"""How much a team has in use, in the units of its quotas."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import bindparam, func, or_, select
from sqlalchemy.orm import Session

from store.statements import Statement
from store.tables import Dataset, Job, Run, Upload


@dataclass(frozen=True)
class Usage:
    """What counts against the quotas of a team."""

    queued_jobs: int
    queued_steps: int
    stored_bytes: int


def usage(session: Session, team_id: str) -> Usage:
    """All three at once."""
    jobs, steps = waiting(session, team_id)
    return Usage(jobs, steps, stored_bytes(session, team_id))


def waiting(session: Session, team_id: str) -> tuple[int, int]:
    """(jobs, steps) of the team's trainings that wait or run; errands have a limit of their own."""
    ((jobs, steps),) = _WAITING.all(session, team_id=team_id)
    return int(jobs), int(steps)


def stored_bytes(session: Session, team_id: str) -> int:
    """Bytes of the team's data, of uploads under way as announced, and of results; what two share counts twice."""
    uploads = select(func.coalesce(func.sum(Dataset.bytes), 0)).where(Dataset.team_id == team_id).scalar_subquery()
    results = select(func.coalesce(func.sum(Run.bytes), 0)).where(Run.team_id == team_id).scalar_subquery()
    under_way = select(func.coalesce(func.sum(Upload.bytes), 0))
    announced = under_way.where(Upload.team_id == team_id, Upload.dataset_id.is_(None)).scalar_subquery()
    return int(session.scalar(select(uploads + results + announced)) or 0)


_WAITING: Statement[tuple[Any, ...]] = Statement(
    select(func.count(), func.coalesce(func.sum(Job.steps), 0)).where(
        Job.team_id == bindparam("team_id"), or_(Job.state == "queued", Job.state == "running"), Job.kind == "training"
    )
)
