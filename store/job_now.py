"""A job as it is shown: its row and its place in the queue, found by one question.

This is asked more than anything else, by whoever watches a job.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Integer, bindparam, case, func, literal_column, null, select, union_all
from sqlalchemy.orm import Session, aliased

from store.errors import NotFound
from store.statements import Statement
from store.tables import Job

MOST_COUNTED = 200  # jobs before one; whoever waits behind more does not care for the number


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
    return found


def columns(queue: Any, priority: Any, job_id: Any) -> list[ColumnElement[Any]]:
    """The columns of JobNow of one row of table Job, which has this queue, priority and id: columns of it, or values.

    The statement is given `at_most`, up to which the jobs before this one are counted.
    """
    other = aliased(Job)
    at_most = bindparam("at_most", type_=Integer)
    queued: ColumnElement[str] = literal_column("'queued'")  # in the text itself, for the index: see WAITS
    in_queue = select(other.id).where(other.state == queued, other.queue == queue).correlate(Job)
    more_urgent = in_queue.where(other.priority > priority)
    older = in_queue.where(other.priority == priority, other.id < job_id)
    # The order says which index is meant: while the table is small, any that holds waiting jobs looks as good.
    some = [select(jobs.order_by(other.priority, other.id).limit(at_most).subquery()) for jobs in (more_urgent, older)]
    count = select(func.count()).select_from(union_all(*some).limit(at_most).subquery()).scalar_subquery()
    return [*(getattr(Job, name) for name in JobNow._fields[:-1]), case((Job.state == queued, count), else_=null())]


_ONE_JOB = Statement(
    select(*columns(Job.queue, Job.priority, Job.id)).where(
        Job.id == bindparam("job_id"), Job.team_id == bindparam("team_id")
    ),
    JobNow._make,
)
