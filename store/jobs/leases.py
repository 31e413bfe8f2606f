"""Claims, leases and heartbeats of workers. Every transition of a job is one conditional UPDATE: it succeeded if it
returns a row.

A claim carries a fence, a number that rises whenever the job changes its owner. What an attempt writes names its
fence; an attempt that lost its lease without noticing finds another number and gets LostLease.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Select, bindparam, case, delete, func, select, update
from sqlalchemy.orm import Session, undefer

from store import datasets, networks, webhooks
from store.columns import new_id
from store.database import insert_into
from store.errors import LostLease
from store.jobs.tables import (
    CHECK_NETWORK,
    CHECK_UPLOAD,
    CHECKS,
    IS_QUEUED,
    IS_RUNNING,
    Attempt,
    Job,
    Worker,
    canonical_queue,
)
from store.runs.tables import Run
from store.settings import QUEUES
from store.teams import Team

GIVEN_UP = "The job lost {} workers one after another, so it was given up; its log says what each did last."
_EVENT_COLUMNS = (
    Job.id.label("job_id"),
    Job.team_id,
    Job.kind,
    Job.name,
    Job.state,
    Job.reason,
    Job.dataset_id,
    Job.network_id,
)
CLAIM_TRIES = 50  # a try fails if another worker claims the same job first


def _next_job_query() -> Select[str]:
    """The id of the job that is claimed next, found by a few index lookups for each team.

    The team comes first, its weighted number of running jobs, then whose turn it is; priority decides within a team.
    """
    waiting = (IS_QUEUED, Job.queue == bindparam("queue"), Job.team_id == Team.id)
    most_urgent = select(func.max(Job.priority)).where(*waiting).correlate(Team).scalar_subquery()
    oldest = select(func.min(Job.id)).where(*waiting, Job.priority == most_urgent).correlate(Team).scalar_subquery()
    busy = select(func.count()).where(IS_RUNNING, Job.team_id == Team.id).correlate(Team).scalar_subquery()
    share = (busy / Team.weight).label("share")
    firsts = select(oldest.label("job_id"), share, Team.served_at).select_from(Team).subquery("firsts")
    turn = firsts.c.served_at
    return (
        select(Job.id)
        .join(firsts, firsts.c.job_id == Job.id)
        .order_by(firsts.c.share, turn.is_not(None), turn, Job.priority.desc(), Job.id)
        .limit(1)
    )


_NEXT_JOB = _next_job_query()


@dataclass(frozen=True)
class Claim:
    """The right to work on a job, as long as the lease is renewed.

    attempt    number of the attempt, from 1; the fence counts losses too
    progress   fraction that earlier attempts reached
    runs       all runs of the job in their order, with their specs; finished ones too, see `state`
    """

    job_id: str
    kind: str
    team_id: str
    attempt_id: str
    attempt: int
    fence: int
    worker: str
    spec: dict[str, Any]
    dataset_id: str | None
    progress: float
    runs: tuple[Run, ...]


def claim(session: Session, job_id: str, *, worker: str, now: datetime, lease_seconds: float) -> Claim | None:
    """Claim a queued job; None if it is not queued (any more)."""
    return _claim(session, Job.id == job_id, worker=worker, now=now, lease_seconds=lease_seconds)


def claim_next(session: Session, queue: str, *, worker: str, now: datetime, lease_seconds: float) -> Claim | None:
    """Claim the next job of a queue; None if none is queued.

    Of the team with the fewest running jobs for its weight, so that no team starves another; among equals, of the one
    that has waited longest for its turn. Within a team the most urgent, then the oldest. A message says that there is
    work; this decides which.
    """
    for _ in range(CLAIM_TRIES):
        job_id = session.scalar(_NEXT_JOB, {"queue": canonical_queue(queue)})
        if job_id is None:
            return None
        got = claim(session, job_id, worker=worker, now=now, lease_seconds=lease_seconds)
        if got is not None:
            return got
    return None


def assert_held(session: Session, claim: Claim) -> None:
    """Lock the job until this transaction ends. Raises LostLease if another attempt, or none, owns it."""
    query = select(Job.id).where(*_is_held(claim)).with_for_update()
    if session.scalar(query) is None:
        raise LostLease(claim.job_id, claim.fence)


def renew(
    session: Session,
    claim: Claim,
    *,
    now: datetime,
    lease_seconds: float,
    progress: float | None = None,
    due_at: datetime | None = None,
    losses: dict[str, Any] | None = None,
    note: str | None = None,
) -> bool:
    """Renew the lease and store the progress; returns whether cancel was requested.

    due_at   stored with the progress: estimated end of the job, None while there is no estimate
    Raises LostLease.
    """
    values: dict[str, Any] = {"lease_until": now + timedelta(seconds=lease_seconds)}
    if progress is not None:
        values |= {"progress": min(max(progress, 0.0), 1.0), "due_at": due_at}
    if losses is not None:
        values["losses"] = losses
    if note is not None:
        values["note"] = note[:500]
    if len(values) > 1:
        values["revision"] = Job.revision + 1
    row = _change(session, _is_held(claim), values, Job.cancel_requested_at)
    if row is None:
        raise LostLease(claim.job_id, claim.fence)
    return row[0] is not None


def finish(session: Session, claim: Claim, *, state: str, reason: str | None = None, now: datetime) -> None:
    """End the job as `succeeded`, `failed` or `cancelled`; runs that have not ended end the same way.

    A job may succeed only when all its runs have ended. Raises LostLease.
    """
    if state not in ("succeeded", "failed", "cancelled"):
        raise ValueError(f"A job cannot end as `{state}`; it ends as succeeded, failed or cancelled.")
    values: dict[str, Any] = {
        "state": state,
        "reason": reason,
        "ended_at": now,
        "lease_until": None,
        "due_at": None,
        "worker": None,
        "note": None,
        "revision": Job.revision + 1,
    }
    if state == "succeeded":
        values["progress"] = 1.0
    row = _change(session, _is_held(claim), values, *_EVENT_COLUMNS)
    if row is None:
        raise LostLease(claim.job_id, claim.fence)
    left = "failed" if state == "succeeded" else state
    end_runs(session, [claim.job_id], state=left, reason=reason or "The job ended without this run.", now=now)
    _end_attempts(session, Attempt.id == claim.attempt_id, how=state, reason=reason, now=now)
    job_ended(session, **row._asdict(), now=now)


def release(session: Session, claim: Claim, *, reason: str, now: datetime) -> None:
    """Return the job to the queue, for instance because this worker shuts down; it ends if cancel was requested.

    Raises LostLease.
    """
    is_cancelled = Job.cancel_requested_at.is_not(None)
    values = _requeued(now) | {
        "state": case((is_cancelled, "cancelled"), else_="queued"),
        "ended_at": case((is_cancelled, now)),
    }
    row = _change(session, _is_held(claim), values, *_EVENT_COLUMNS)
    if row is None:
        raise LostLease(claim.job_id, claim.fence)
    if row.state == "cancelled":
        end_runs(session, [claim.job_id], state="cancelled", reason="The job was cancelled.", now=now)
        job_ended(session, **row._asdict(), now=now)
    else:
        _requeue_runs(session, [claim.job_id])
    _end_attempts(session, Attempt.id == claim.attempt_id, how="handed_back", reason=reason, now=now)


def reap(session: Session, *, now: datetime, max_attempts: int = 5) -> list[str]:
    """Return jobs whose lease has expired to the queue; returns their ids.

    A job of which cancel was requested is cancelled; one that has lost `max_attempts` workers has failed.
    """
    is_cancelled = Job.cancel_requested_at.is_not(None)
    spent = Job.lost_attempts + 1 >= max_attempts
    values = _requeued(now) | {
        "state": case((is_cancelled, "cancelled"), (spent, "failed"), else_="queued"),
        "reason": case((is_cancelled, None), (spent, GIVEN_UP.format(max_attempts))),
        "ended_at": case((is_cancelled, now), (spent, now)),
        "lost_attempts": Job.lost_attempts + 1,
    }
    overdue = (
        update(Job)
        .where(IS_RUNNING, Job.lease_until < now)
        .values(values)
        .returning(*_EVENT_COLUMNS)
        .execution_options(synchronize_session=False)
    )
    rows = session.execute(overdue).all()
    ids = [row.job_id for row in rows]
    if not ids:
        return []
    _requeue_runs(session, [row.job_id for row in rows if row.state == "queued"])
    for row in rows:
        if row.state != "queued":
            end_runs(session, [row.job_id], state=row.state, reason=row.reason or "The job was cancelled.", now=now)
            job_ended(session, **row._asdict(), now=now)
    _end_attempts(
        session, Attempt.job_id.in_(ids), how="lease_lost", reason="The worker stopped renewing its lease.", now=now
    )
    return ids


def expire(session: Session, worker: str, *, died_at: datetime, now: datetime) -> list[str]:
    """Let the leases of a worker whose processes are known to be gone end now, so that `reap` returns its jobs at the
    next tick instead of after a lease; the ids of the jobs.

    Jobs that were claimed after `died_at` are those of its successor, which has the same name.
    """
    begun = select(Attempt.started_at).where(Attempt.job_id == Job.id, Attempt.number == Job.attempts)
    ending = (
        update(Job)
        .where(IS_RUNNING, Job.worker == worker, Job.lease_until > now, begun.scalar_subquery() <= died_at)
        .values(lease_until=now)
        .returning(Job.id)
        .execution_options(synchronize_session=False)
    )
    return list(session.scalars(ending))


def job_ended(
    session: Session,
    *,
    job_id: str,
    team_id: str,
    kind: str,
    name: str,
    state: str,
    reason: str | None,
    dataset_id: str | None,
    network_id: str | None,
    now: datetime,
) -> None:
    """What follows the end of a job: the event of a training; what was checked without success is refused."""
    if kind == "training":
        body = {"job_id": job_id, "name": name, "state": state, "reason": reason}
        webhooks.enqueue(session, team_id=team_id, event=f"job.{state}", body=body, now=now)
    if kind not in CHECKS or state == "succeeded":
        return
    sentence = reason or f"The check of the upload was {state}; upload the file again."
    errors = [{"in": "file", "pointer": "/file", "detail": sentence}]
    if kind == CHECK_UPLOAD and dataset_id is not None:
        datasets.set_check_result(session, dataset_id, now=now, errors=errors)
    if kind == CHECK_NETWORK and network_id is not None:
        networks.set_check_result(session, network_id, now=now, errors=errors)


def end_runs(session: Session, job_ids: Sequence[str], *, state: str, reason: str | None, now: datetime) -> None:
    """End the runs of these jobs that have not ended."""
    session.execute(
        update(Run)
        .where(Run.job_id.in_(job_ids), Run.state.in_(("queued", "running")))
        .values(state=state, reason=reason, ended_at=now)
        .execution_options(synchronize_session=False)
    )


def _claim(
    session: Session, which: ColumnElement[bool], *, worker: str, now: datetime, lease_seconds: float
) -> Claim | None:
    values = {
        "state": "running",
        "attempts": Job.attempts + 1,
        "fence": Job.fence + 1,
        "worker": worker,
        "lease_until": now + timedelta(seconds=lease_seconds),
        "started_at": func.coalesce(Job.started_at, now),
        "note": None,  # it may say that there was no worker
        "revision": Job.revision + 1,
    }
    columns = (Job.id, Job.kind, Job.team_id, Job.fence, Job.attempts, Job.spec, Job.dataset_id, Job.progress)
    row = _change(session, (which, Job.state == "queued"), values, *columns)
    if row is None:
        return None
    job_id, kind, team_id, fence, number, spec, dataset_id, progress = row
    session.execute(update(Team).where(Team.id == team_id).values(served_at=now))
    attempt = Attempt(id=new_id("attempt"), job_id=job_id, number=number, worker=worker, started_at=now)
    session.add(attempt)
    session.flush()
    query = select(Run).where(Run.job_id == job_id).order_by(Run.number).options(undefer(Run.spec))
    runs = tuple(session.scalars(query.execution_options(populate_existing=True)))
    for run in runs:
        session.expunge(run)  # a snapshot: later changes of the rows do not reach the claim
    return Claim(job_id, kind, team_id, attempt.id, number, fence, worker, spec, dataset_id, progress, runs)


def _is_held(claim: Claim) -> tuple[ColumnElement[bool], ...]:
    return Job.id == claim.job_id, Job.fence == claim.fence, Job.state == "running"


def _change(session: Session, where: Sequence[ColumnElement[bool]], values: dict[str, Any], *columns: Any) -> Any:
    """One conditional UPDATE of one job; these columns of it, or None if the condition did not hold."""
    statement = update(Job).where(*where).values(values).returning(*columns)
    return session.execute(statement.execution_options(synchronize_session=False)).one_or_none()


def _requeued(now: datetime) -> dict[str, Any]:
    return {
        "fence": Job.fence + 1,
        "revision": Job.revision + 1,
        "worker": None,
        "lease_until": None,
        "due_at": None,
        "announced_at": None,
        "note": None,
        "queued_at": now,
    }


def _requeue_runs(session: Session, job_ids: Sequence[str]) -> None:
    session.execute(
        update(Run)
        .where(Run.job_id.in_(job_ids), Run.state == "running")
        .values(state="queued")
        .execution_options(synchronize_session=False)
    )


def _end_attempts(session: Session, which: ColumnElement[bool], *, how: str, reason: str | None, now: datetime) -> None:
    session.execute(
        update(Attempt)
        .where(which, Attempt.ended_at.is_(None))
        .values(ended_at=now, ended_how=how, reason=reason)
        .execution_options(synchronize_session=False)
    )


# --- heartbeats ---


def heartbeat(
    session: Session, name: str, *, queues: Iterable[str], device: str, doing: str | None, now: datetime
) -> None:
    """Record that a worker is alive, which queues it serves, and the id of the job that it works on."""
    for queue in queues:
        row = insert_into(session, Worker).values(
            name=name, queue=queue, device=device, doing=doing, started_at=now, seen_at=now
        )
        seen = {"device": device, "doing": doing, "seen_at": now}
        session.execute(row.on_conflict_do_update(index_elements=[Worker.name, Worker.queue], set_=seen))


def delete_worker(session: Session, name: str) -> None:
    """Remove a worker that shuts down."""
    session.execute(delete(Worker).where(Worker.name == name))


def workers(session: Session, *, seen_since: datetime) -> list[Worker]:
    """Workers with a heartbeat since then."""
    query = select(Worker).where(Worker.seen_at >= seen_since)
    return list(session.scalars(query.order_by(Worker.queue, Worker.name)))


def note_missing_workers(session: Session, *, seen_since: datetime) -> None:
    """Say in the notes of queued jobs that no worker serves their queue; take that back where one does again."""
    served = set(session.scalars(select(Worker.queue).where(Worker.seen_at >= seen_since)))
    for queue in QUEUES:
        sentence = f"No worker of the queue {queue} is running; the job waits for one."
        if queue in served:
            found, note = Job.note == sentence, None
        else:
            found, note = Job.note.is_(None), sentence
        session.execute(
            update(Job)
            .where(IS_QUEUED, Job.queue == queue, found)
            .values(note=note, revision=Job.revision + 1)
            .execution_options(synchronize_session=False)
        )


def delete_silent_workers(session: Session, *, silent_since: datetime) -> None:
    """Remove workers without a heartbeat since then."""
    session.execute(delete(Worker).where(Worker.seen_at < silent_since))
