"""Rows about work: jobs, attempts, runs, what runs leave behind on their way, and who is there to work."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Index, String, Text, UniqueConstraint, literal, text
from sqlalchemy.orm import Mapped, mapped_column

from store.columns import Base, CompressedJson, Identifier, Utc, one_of, small_json

STATES = ("queued", "running", "succeeded", "failed", "cancelled")
FINAL_STATES = ("succeeded", "failed", "cancelled")
TRAINING_QUEUES = ("cpu", "gpu")
ERRAND_QUEUES = ("errands", "chores")  # answers while somebody waits; and what takes longer than one likes to wait
QUEUES = TRAINING_QUEUES + ERRAND_QUEUES
PRIORITIES = range(10)  # 9 is the most urgent
ATTEMPT_ENDS = ("succeeded", "failed", "cancelled", "handed_back", "lease_lost")

_QUEUED = text("state = 'queued'")
_RUNNING = text("state = 'running'")
_ENDED = text("ended_at IS NOT NULL")


class Job(Base):
    """What is queued: one spec, trained for each of its runs. The row is the truth; messages are hints.

    fence      rises with every claim and every loss; whoever writes must name the current one.
    revision   rises with every change, so that a listener can ask for what is new.
    due_at     when a running job will have ended, at the pace of its present attempt; None before there is a pace.
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
    kind: Mapped[str] = mapped_column(String(32))  # `training`, or the name of an errand that a worker runs
    name: Mapped[str] = mapped_column(String(200))
    tags: Mapped[list[str]] = mapped_column(small_json())  # to be read; job_tag is the same, to be searched
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


class JobBody(Base):
    """A document of a job that is read whole, by name: what an errand found, or what its runs show together."""

    __tablename__ = "job_body"

    job_id: Mapped[str] = mapped_column(ForeignKey("job.id", ondelete="CASCADE"), primary_key=True)
    name: Mapped[str] = mapped_column(String(32), primary_key=True)
    body: Mapped[Any] = mapped_column(CompressedJson)


# Conditions that the partial indexes above answer. The word stands in the SQL itself: of a parameter, the planner of
# SQLite cannot know that it is the index's word, and that of PostgreSQL forgets it after a few executions.
WAITS = Job.state == literal("queued", literal_execute=True)
WORKED_ON = Job.state == literal("running", literal_execute=True)


class JobTag(Base):
    """A tag of a job, to search by."""

    __tablename__ = "job_tag"
    __table_args__ = (Index(None, "team_id", "tag", "job_id"),)

    job_id: Mapped[str] = mapped_column(ForeignKey("job.id", ondelete="CASCADE"), primary_key=True)
    tag: Mapped[str] = mapped_column(String(64), primary_key=True)
    team_id: Mapped[str] = mapped_column(ForeignKey("team.id", ondelete="RESTRICT"))


class Attempt(Base):
    """One worker's try at a job: when, and why it ended."""

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


class Run(Base):
    """One network trained in a job: one seed, one cost strength. What begins with test_metric_name sums up evidence.

    replicas   so many trained side by side, this one included; without that nobody gets the same bits again.
    training_seconds, evidence_seconds   spent on its steps, over all attempts (its share, where several trained side
               by side); on its evidence and pictures.
    """

    __tablename__ = "run"
    __table_args__ = (
        UniqueConstraint("job_id", "number"),
        one_of("state", STATES),
        CheckConstraint(
            "(state IN ('succeeded', 'failed', 'cancelled')) = (ended_at IS NOT NULL)", name="ended_has_a_time"
        ),
        Index(None, "team_id", "id"),
        Index(None, "team_id", "state", "id"),
    )

    id: Mapped[str] = mapped_column(Identifier, primary_key=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("job.id", ondelete="CASCADE"))
    team_id: Mapped[str] = mapped_column(ForeignKey("team.id", ondelete="RESTRICT"))
    number: Mapped[int]
    seed: Mapped[int] = mapped_column(BigInteger)
    cost_strength: Mapped[float | None]
    method: Mapped[str | None] = mapped_column(String(32))  # like dataset_kind: to search by, the spec says the same
    dataset_kind: Mapped[str | None] = mapped_column(String(32))
    spec: Mapped[dict[str, Any]] = mapped_column(CompressedJson, deferred=True)
    steps: Mapped[int] = mapped_column(BigInteger)
    step: Mapped[int] = mapped_column(BigInteger)
    state: Mapped[str] = mapped_column(String(16))
    reason: Mapped[str | None] = mapped_column(Text)
    attempts: Mapped[int]
    stepper: Mapped[str | None] = mapped_column(String(32))
    device: Mapped[str | None] = mapped_column(String(64))
    training_seconds: Mapped[float | None]
    bytes: Mapped[int] = mapped_column(BigInteger)  # of its published files
    checkpoint_sha256: Mapped[str | None] = mapped_column(ForeignKey("file.sha256", ondelete="RESTRICT"), index=True)
    checkpoint_step: Mapped[int | None] = mapped_column(BigInteger)
    created_at: Mapped[datetime] = mapped_column(Utc)
    started_at: Mapped[datetime | None] = mapped_column(Utc)
    ended_at: Mapped[datetime | None] = mapped_column(Utc)
    test_metric_name: Mapped[str | None] = mapped_column(String(64))
    test_metric: Mapped[float | None]
    connections: Mapped[int | None]
    modules: Mapped[int | None]
    modularity: Mapped[float | None]
    selectivity: Mapped[float | None]
    connection_cost: Mapped[float | None]
    evidence_seconds: Mapped[float | None]
    replicas: Mapped[int | None]


class HistoryChunk(Base):
    """Some consecutive rows of a run's learning curve."""

    __tablename__ = "history_chunk"

    run_id: Mapped[str] = mapped_column(ForeignKey("run.id", ondelete="CASCADE"), primary_key=True)
    first_step: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    last_step: Mapped[int] = mapped_column(BigInteger)
    rows: Mapped[list[dict[str, Any]]] = mapped_column(CompressedJson)


class Snapshot(Base):
    """The network at one step of its training."""

    __tablename__ = "snapshot"

    run_id: Mapped[str] = mapped_column(ForeignKey("run.id", ondelete="CASCADE"), primary_key=True)
    step: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    sha256: Mapped[str] = mapped_column(ForeignKey("file.sha256", ondelete="RESTRICT"), index=True)


class LogChunk(Base):
    """Some consecutive lines of a job's log: {at, level, text, run_id?}."""

    __tablename__ = "log_chunk"
    __table_args__ = (Index(None, "job_id", "id"),)

    id: Mapped[str] = mapped_column(Identifier, primary_key=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("job.id", ondelete="CASCADE"))
    attempt: Mapped[int]
    at: Mapped[datetime] = mapped_column(Utc)
    lines: Mapped[list[dict[str, Any]]] = mapped_column(CompressedJson)


class Worker(Base):
    """A worker process that says it is there."""

    __tablename__ = "worker"
    __table_args__ = (one_of("queue", QUEUES),)

    name: Mapped[str] = mapped_column(String(200), primary_key=True)
    queue: Mapped[str] = mapped_column(String(16), primary_key=True)
    device: Mapped[str] = mapped_column(String(64))
    doing: Mapped[str | None] = mapped_column(String(200))
    started_at: Mapped[datetime] = mapped_column(Utc)
    seen_at: Mapped[datetime] = mapped_column(Utc)
