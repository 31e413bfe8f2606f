"""A job as it is shown: its row and its place in the queue, found by one question.

This is asked more than anything else, by whoever watches a job.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Integer, Select, bindparam, case, func, literal_column, null, select
from sqlalchemy.orm import Session, aliased

from store.errors import NotFound
from store.statements import Statement
from store.tables import Job

MOST_COUNTED = 1000  # jobs before one; whoever waits behind more does not care for the number


class JobNow(NamedTuple):
    """Columns of a job at one moment, as table Job describes them.

    queue_position   how many jobs go before this one in its queue, counted up to a bound; None where it does not wait
    """

    id: str
    team_id: str
    member_id: str
    dataset_id: str | None
    kind: str
    name: str
    tags: list[str]
    queue: str
    priority: int
    steps: int
    runs: int
    spec: dict[str, Any]
    pinned: bool
    state: str
    reason: str | None
    progress: float
    losses: dict[str, Any] | None
    note: str | None
    revision: int
    attempts: int
    fence: int
    announced_at: datetime | None
    cancel_requested_at: datetime | None
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    due_at: datetime | None
    queue_position: int | None


def look(session: Session, team_id: str, job_id: str, *, at_most: int = MOST_COUNTED) -> JobNow:
    """A job of the team at this moment; what goes before it is counted up to `at_most`. Raises NotFound."""
    found = _ONE_JOB.first(session, team_id=team_id, job_id=job_id, at_most=at_most)
    if found is None:
        raise NotFound("job", job_id)
    if found.queue_position is not None and found.queue_position > at_most:  # it is the sum of two counts
        return found._replace(queue_position=at_most)
    return found


def _question() -> Select[Any]:
    """The columns of JobNow, of one job of one team."""
    other = aliased(Job)
    queued: ColumnElement[str] = literal_column("'queued'")  # in the text itself, for the index: see WAITS
    in_queue = select(other.id).where(other.state == queued, other.queue == Job.queue)
    more_urgent = in_queue.where(other.priority > Job.priority)
    older = in_queue.where(other.priority == Job.priority, other.id < Job.id)
    before = _count(more_urgent) + _count(older)
    columns = [getattr(Job, name) for name in JobNow._fields[:-1]]
    position = case((Job.state == queued, before), else_=null())
    return select(*columns, position).where(Job.id == bindparam("job_id"), Job.team_id == bindparam("team_id"))


def _count(jobs: Select[Any]) -> Any:
    some = jobs.correlate(Job).limit(bindparam("at_most", type_=Integer)).subquery()
    return select(func.count()).select_from(some).scalar_subquery()


_ONE_JOB = Statement(_question(), JobNow._make)
