"""A job as it is shown: the columns of its row and its position in the queue, in one query."""

from __future__ import annotations

from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import case, func, literal, null, select, union_all
from sqlalchemy.orm import Session, aliased

from store.errors import NotFound
from store.jobs.tables import IS_QUEUED, Job

MAX_COUNTED = 200  # jobs before one; positions further back are all shown as this one


class JobView(NamedTuple):
    """Columns of a job, as table Job describes them.

    queue_position   number of jobs that are claimed before this one in its queue, up to MAX_COUNTED; None if it does
                     not wait
    """

    id: str
    team_id: str
    member_id: str
    dataset_id: str | None
    network_id: str | None
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


def get_view(session: Session, team_id: str, job_id: str, *, at_most: int = MAX_COUNTED) -> JobView:
    """A job of the team; the jobs before it are counted up to `at_most`. Raises NotFound."""
    other = aliased(Job)
    is_queued = other.state == literal("queued", literal_execute=True)
    in_queue = select(other.id).where(is_queued, other.queue == Job.queue).correlate(Job)
    more_urgent = in_queue.where(other.priority > Job.priority)
    older = in_queue.where(other.priority == Job.priority, other.id < Job.id)
    # The order makes the planner choose ix_job_waiting, also while the table is small.
    some = [select(jobs.order_by(other.priority, other.id).limit(at_most).subquery()) for jobs in (more_urgent, older)]
    count = select(func.count()).select_from(union_all(*some).limit(at_most).subquery()).scalar_subquery()
    columns = [getattr(Job, name) for name in JobView._fields[:-1]]
    query = select(*columns, case((IS_QUEUED, count), else_=null()))
    row = session.execute(query.where(Job.id == job_id, Job.team_id == team_id)).one_or_none()
    if row is None:
        raise NotFound("job", job_id)
    return JobView._make(row)
