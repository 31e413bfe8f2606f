"""Tables of jobs: the job, its tags, documents and attempts; the workers; and idempotency keys of submissions.

And a job as it is shown (`JobView`): the columns of its row and its position in the queue, in one query.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from functools import cache
from typing import Any, NamedTuple

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    ForeignKey,
    Index,
    LargeBinary,
    ScalarSelect,
    Select,
    String,
    Text,
    UniqueConstraint,
    bindparam,
    case,
    func,
    literal,
    null,
    select,
    text,
    union_all,
)
from sqlalchemy.orm import Mapped, Session, aliased, mapped_column

from store import aliases
from store.columns import Base, CompressedJson, Identifier, Utc, one_of, small_json
from store.errors import NotFound
from store.settings import QUEUES

STATES = ("queued", "running", "succeeded", "failed", "cancelled")
FINAL_STATES = ("succeeded", "failed", "cancelled")
CHECK_UPLOAD = "check_upload"  # the kind of operation that checks an uploaded data set
CHECK_NETWORK = "check_network"  # that which checks an uploaded network
CHECKS = (CHECK_UPLOAD, CHECK_NETWORK)
ATTEMPT_ENDS = ("succeeded", "failed", "cancelled", "handed_back", "lease_lost")
MAX_COUNTED = 200  # jobs before one; positions further back are all shown as this one

_QUEUED = text("state = 'queued'")
_RUNNING = text("state = 'running'")
_ENDED = text("ended_at IS NOT NULL")


class Job(Base):
    """A spec to be trained once for each of its runs, or an operation. The row is the truth; messages are hints.

    fence      rises with every claim and every loss of a lease; a worker's writes must name the current value.
    revision   rises with every change, so that clients can wait for the next one.
    due_at     estimated end of a running job; None while there is no estimate.
    """

    __tablename__ = "job"
    __table_args__ = (
        one_of("state", STATES),
        one_of("queue", QUEUES),
        CheckConstraint("priority BETWEEN 0 AND 9", name="priority"),
        CheckConstraint("progress BETWEEN 0 AND 1", name="progress"),
        CheckConstraint("(state = 'running') = (lease_until IS NOT NULL)", name="running_has_a_lease"),
        CheckConstraint(
            "(state IN ('succeeded', 'failed', 'cancelled')) = (ended_at IS NOT NULL)", name="ended_has_a_time"
        ),
        Index(None, "team_id", "id"),
        Index(None, "team_id", "kind", "id"),
        Index(None, "team_id", "state", "id"),
        Index(None, "team_id", "member_id", "id"),
        Index("ix_job_waiting", "queue", "priority", "id", sqlite_where=_QUEUED, postgresql_where=_QUEUED),
        Index("ix_job_turn", "queue", "team_id", "priority", "id", sqlite_where=_QUEUED, postgresql_where=_QUEUED),
        Index("ix_job_unannounced", "announced_at", "id", sqlite_where=_QUEUED, postgresql_where=_QUEUED),
        Index("ix_job_leased", "lease_until", sqlite_where=_RUNNING, postgresql_where=_RUNNING),
        Index("ix_job_ended", "ended_at", sqlite_where=_ENDED, postgresql_where=_ENDED),
    )

    id: Mapped[str] = mapped_column(Identifier, primary_key=True)
    team_id: Mapped[str] = mapped_column(ForeignKey("team.id", ondelete="RESTRICT"))
    member_id: Mapped[str] = mapped_column(ForeignKey("member.id", ondelete="RESTRICT"))
    dataset_id: Mapped[str | None] = mapped_column(ForeignKey("dataset.id", ondelete="SET NULL"), index=True)
    kind: Mapped[str] = mapped_column(String(32))  # `training`, or the kind of an operation
    name: Mapped[str] = mapped_column(String(200))
    tags: Mapped[list[str]] = mapped_column(small_json())  # for reading; job_tag holds the same for searching
    queue: Mapped[str] = mapped_column(String(16))
    priority: Mapped[int]
    steps: Mapped[int] = mapped_column(BigInteger)  # of all runs together
    runs: Mapped[int]
    spec: Mapped[dict[str, Any]] = mapped_column(CompressedJson, deferred=True)
    pinned: Mapped[bool]
    state: Mapped[str] = mapped_column(String(16))
    reason: Mapped[str | None] = mapped_column(Text)
    progress: Mapped[float]
    losses: Mapped[dict[str, Any] | None] = mapped_column(small_json())
    note: Mapped[str | None] = mapped_column(String(500))
    revision: Mapped[int]
    attempts: Mapped[int]
    lost_attempts: Mapped[int]
    fence: Mapped[int]
    worker: Mapped[str | None] = mapped_column(String(200))
    lease_until: Mapped[datetime | None] = mapped_column(Utc)
    announced_at: Mapped[datetime | None] = mapped_column(Utc)
    cancel_requested_at: Mapped[datetime | None] = mapped_column(Utc)
    created_at: Mapped[datetime] = mapped_column(Utc)
    queued_at: Mapped[datetime] = mapped_column(Utc)
    started_at: Mapped[datetime | None] = mapped_column(Utc)
    ended_at: Mapped[datetime | None] = mapped_column(Utc)
    due_at: Mapped[datetime | None] = mapped_column(Utc)
    network_id: Mapped[str | None] = mapped_column(ForeignKey("network.id", ondelete="SET NULL"), index=True)


class JobBody(Base):
    """A named document of a job that is read whole: the answer of an operation, or a summary over all runs."""

    __tablename__ = "job_body"

    job_id: Mapped[str] = mapped_column(ForeignKey("job.id", ondelete="CASCADE"), primary_key=True)
    name: Mapped[str] = mapped_column(String(32), primary_key=True)
    body: Mapped[Any] = mapped_column(CompressedJson)


# Conditions that use the partial indexes above. The value is rendered into the SQL text: SQLite's planner cannot match
# a bound parameter with the index's condition, and PostgreSQL's generic plans do not either.
IS_QUEUED = Job.state == literal("queued", literal_execute=True)
IS_RUNNING = Job.state == literal("running", literal_execute=True)


class JobTag(Base):
    """A tag of a job, for searching."""

    __tablename__ = "job_tag"
    __table_args__ = (Index(None, "team_id", "tag", "job_id"),)

    job_id: Mapped[str] = mapped_column(ForeignKey("job.id", ondelete="CASCADE"), primary_key=True)
    tag: Mapped[str] = mapped_column(String(64), primary_key=True)
    team_id: Mapped[str] = mapped_column(ForeignKey("team.id", ondelete="RESTRICT"))


class Attempt(Base):
    """One attempt of a worker at a job: when it started and ended, and why."""

    __tablename__ = "attempt"
    __table_args__ = (
        UniqueConstraint("job_id", "number"),
        one_of("ended_how", ATTEMPT_ENDS),
        CheckConstraint("(ended_how IS NULL) = (ended_at IS NULL)", name="ended_has_a_time"),
    )

    id: Mapped[str] = mapped_column(Identifier, primary_key=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("job.id", ondelete="CASCADE"))
    number: Mapped[int]
    worker: Mapped[str] = mapped_column(String(200))
    started_at: Mapped[datetime] = mapped_column(Utc)
    ended_at: Mapped[datetime | None] = mapped_column(Utc)
    ended_how: Mapped[str | None] = mapped_column(String(16))
    reason: Mapped[str | None] = mapped_column(Text)


class Worker(Base):
    """A worker process and the last heartbeat of it, one row for each queue that it serves."""

    __tablename__ = "worker"
    __table_args__ = (one_of("queue", QUEUES),)

    name: Mapped[str] = mapped_column(String(200), primary_key=True)
    queue: Mapped[str] = mapped_column(String(16), primary_key=True)
    device: Mapped[str] = mapped_column(String(64))
    doing: Mapped[str | None] = mapped_column(String(200))
    started_at: Mapped[datetime] = mapped_column(Utc)
    seen_at: Mapped[datetime] = mapped_column(Utc)


class IdempotencyKey(Base):
    """A request that a member may repeat, and the id of what it created."""

    __tablename__ = "idempotency_key"
    __table_args__ = (Index(None, "created_at"),)

    member_id: Mapped[str] = mapped_column(ForeignKey("member.id", ondelete="CASCADE"), primary_key=True)
    key: Mapped[str] = mapped_column(String(200), primary_key=True)
    request_sha256: Mapped[bytes] = mapped_column(LargeBinary(32))
    thing_id: Mapped[str] = mapped_column(Identifier)
    created_at: Mapped[datetime] = mapped_column(Utc)


def canonical_queue(name: str) -> str:
    """The queue's name; for a deprecated name the present one."""
    return aliases.QUEUES.get(name, name)


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


def _before(at_most: int) -> ScalarSelect[int]:
    """How many jobs are claimed before a queued one in its queue, counted up to `at_most`."""
    other = aliased(Job)
    is_queued = other.state == literal("queued", literal_execute=True)
    in_queue = select(other.id).where(is_queued, other.queue == Job.queue).correlate(Job)
    more_urgent = in_queue.where(other.priority > Job.priority)
    older = in_queue.where(other.priority == Job.priority, other.id < Job.id)
    # The order makes the planner choose ix_job_waiting, also while the table is small.
    some = [select(jobs.order_by(other.priority, other.id).limit(at_most).subquery()) for jobs in (more_urgent, older)]
    return select(func.count()).select_from(union_all(*some).limit(at_most).subquery()).scalar_subquery()


@cache
def _view(at_most: int) -> Select[Any]:
    """The query of `get_view`. It is the most frequent one, and building it takes longer than executing it."""
    columns = [getattr(Job, name) for name in JobView._fields[:-1]]
    query = select(*columns, case((IS_QUEUED, _before(at_most)), else_=null()))
    return query.where(Job.id == bindparam("job_id"), Job.team_id == bindparam("team_id"))


def get_view(session: Session, team_id: str, job_id: str, *, at_most: int = MAX_COUNTED) -> JobView:
    """A job of the team; the jobs before it are counted up to `at_most`. Raises NotFound."""
    row = session.connection().execute(_view(at_most), {"job_id": job_id, "team_id": team_id}).one_or_none()
    if row is None:
        raise NotFound("job", job_id)
    return JobView._make(row)


def queue_positions(session: Session, found: Sequence[Job], *, at_most: int = MAX_COUNTED) -> dict[str, int]:
    """Id → position in its queue of those of some jobs that wait; one query, and none where no job waits."""
    waiting = [job.id for job in found if job.state == "queued"]
    if not waiting:
        return {}
    rows = session.execute(select(Job.id, _before(at_most)).where(IS_QUEUED, Job.id.in_(waiting)))
    return {job_id: position for job_id, position in rows}
