"""Errands: work for a worker that somebody waits for, such as a question to a network.

An errand is a job of another kind than `training`: its order is the job's spec, its answer a body of the job. It is
claimed, leased and fenced like any job, but waits in queues of its own, so that no training holds it up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import delete as delete_rows
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from store import jobs
from store.errors import NotFound, QuotaExceeded
from store.job_now import JobNow
from store.job_tables import ERRAND_QUEUES, FINAL_STATES
from store.leases import Claim, finish
from store.tables import Job

MOST_WAITING = 64  # errands of one team that wait or run; a page or a script asks for a few at a time
ANSWER, REFUSAL = "answer", "refusal"  # bodies of the job

_AT_WORK = (Job.kind != "training", Job.state.in_(("queued", "running")))


@dataclass(frozen=True)
class Outcome:
    """An errand at one moment.

    answer    its document, once it has succeeded; null before, and for one whose answer is a file.
    refusal   {"detail", "problems": [[JSON Pointer, sentence]]} where it failed by what was asked.
    """

    id: str
    kind: str
    state: str
    progress: float
    note: str | None
    reason: str | None
    created_at: datetime
    ended_at: datetime | None
    answer: Any = None
    refusal: dict[str, Any] | None = None

    @property
    def is_final(self) -> bool:
        """Whether it has ended."""
        return self.state in FINAL_STATES


def send(
    session: Session,
    *,
    team_id: str,
    member_id: str,
    kind: str,
    about: str,
    order: Mapping[str, Any],
    queue: str,
    now: datetime,
    once: bool = False,
    priority: int = 5,
) -> JobNow:
    """A new errand, `queued`. Announce it right after the commit.

    about   the id of the thing that it is about, and perhaps a word more; people read it in the worker's log
    once    what comes of it is kept: where the team waits for the very same already, that one is given back

    Raises QuotaExceeded where the team waits for too many.
    """
    if queue not in ERRAND_QUEUES:
        raise ValueError(f"`{queue}` is no queue for errands; those are {' and '.join(ERRAND_QUEUES)}.")
    name = f"{kind} {about}"[:200]
    if once:
        same = select(Job.id).where(*_AT_WORK, Job.team_id == team_id, Job.name == name).order_by(Job.id).limit(1)
        if (job_id := session.scalar(same)) is not None:
            return jobs.look(session, team_id, job_id)
    waiting = session.scalar(select(func.count()).select_from(Job).where(*_AT_WORK, Job.team_id == team_id)) or 0
    if waiting >= MOST_WAITING:
        raise QuotaExceeded(
            "errands", f"The team waits for {waiting} answers already, which is as many as it may; wait for some first."
        )
    return jobs.submit(
        session,
        team_id=team_id,
        member_id=member_id,
        kind=kind,
        name=name,
        spec=dict(order),
        runs=(),
        queue=queue,
        priority=priority,
        now=now,
        announced_at=now,
    )


def outcome(session: Session, team_id: str, errand_id: str) -> Outcome:
    """The errand at this moment. Raises NotFound."""
    query = select(Job).where(Job.id == errand_id, Job.team_id == team_id, Job.kind != "training")
    job = session.scalar(query.execution_options(populate_existing=True))
    if job is None:
        raise NotFound("errand", errand_id)
    succeeded, failed = job.state == "succeeded", job.state == "failed"
    return Outcome(
        id=job.id,
        kind=job.kind,
        state=job.state,
        progress=job.progress,
        note=job.note,
        reason=job.reason,
        created_at=job.created_at,
        ended_at=job.ended_at,
        answer=jobs.body(session, job.id, ANSWER) if succeeded else None,
        refusal=jobs.body(session, job.id, REFUSAL) if failed else None,
    )


def state_of(session: Session, errand_id: str) -> str | None:
    """Its state and no more, for whoever looks often; None where it is gone."""
    return session.scalar(select(Job.state).where(Job.id == errand_id))


def answered(session: Session, claim: Claim, document: Any, *, now: datetime) -> None:
    """The errand has succeeded with this answer, which may be null. Raises LostLease."""
    finish(session, claim, state="succeeded", now=now)
    if document is not None:
        jobs.add_body(session, claim.job_id, ANSWER, document)


def refused(session: Session, claim: Claim, sentence: str, *, problems: Sequence[Any], now: datetime) -> None:
    """What was asked cannot be answered, by no fault of ours; `problems` as in Outcome. Raises LostLease."""
    finish(session, claim, state="failed", reason=sentence, now=now)
    jobs.add_body(session, claim.job_id, REFUSAL, {"detail": sentence, "problems": list(problems)})


def forget(session: Session, *, ended_before: datetime, limit: int = 1000) -> int:
    """Drop errands that ended before that time, with their answers; how many."""
    old = select(Job.id).where(Job.kind != "training", Job.ended_at < ended_before).limit(limit)
    ids = list(session.scalars(old.with_for_update(skip_locked=True)))
    if ids:
        session.execute(delete_rows(Job).where(Job.id.in_(ids)), execution_options={"synchronize_session": False})
    return len(ids)
