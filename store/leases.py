"""Who works on a job. Every step is one conditional UPDATE: whoever gets a row back has done it, nobody else.

A claim carries a fence, a number that rises whenever the job changes hands. What an attempt writes names its fence;
an attempt that was thought dead and wakes up finds another number and gets LostLease.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Select, bindparam, case, func, select, update
from sqlalchemy.orm import Session, undefer

from store import webhooks
from store.errors import LostLease
from store.identifiers import new_id
from store.job_tables import WAITS, WORKED_ON
from store.tables import Attempt, Job, Run, Team

GIVEN_UP = "The job lost {} workers one after another, so it was given up; its log says what each did last."
_TOLD = (Job.id.label("job_id"), Job.team_id, Job.kind, Job.name, Job.state, Job.reason)  # what webhooks are told
CLAIM_TRIES = 50  # each in vain means that somebody else got a job meanwhile


def _whose_turn_it_is() -> Select[str]:
    """The id of the job of a queue that is next, found by a few looks into an index for each team."""
    waiting = (WAITS, Job.queue == bindparam("queue"), Job.team_id == Team.id)
    most_urgent = select(func.max(Job.priority)).where(*waiting).correlate(Team).scalar_subquery()
    oldest = select(func.min(Job.id)).where(*waiting, Job.priority == most_urgent).correlate(Team).scalar_subquery()
    busy = select(func.count()).where(WORKED_ON, Job.team_id == Team.id).correlate(Team).scalar_subquery()
    firsts = select(oldest.label("job_id"), busy.label("busy")).select_from(Team).subquery("firsts")
    return (
        select(Job.id)
        .join(firsts, firsts.c.job_id == Job.id)
        .order_by(Job.priority.desc(), firsts.c.busy, Job.id)
        .limit(1)
    )


_TURN = _whose_turn_it_is()


@dataclass(frozen=True)
class ClaimedRun:
    """One run of a claimed job. A checkpoint, where there is one, is where to go on from."""

    id: str
    number: int
    seed: int
    cost_strength: float | None
    spec: dict[str, Any]
    state: str
    reason: str | None
    checkpoint_sha256: str | None
    checkpoint_step: int | None


@dataclass(frozen=True)
class Claim:
    """The right to work on a job, as long as the lease is renewed. `runs` holds the finished ones too: see `state`.

    attempt    as people count them, from 1; the fence counts losses too.
    progress   how far the attempts before came.
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
    runs: tuple[ClaimedRun, ...]


def claim(session: Session, job_id: str, *, worker: str, now: datetime, lease_seconds: float) -> Claim | None:
    """Take a waiting job; None where it does not wait (any more)."""
    return _claim(session, Job.id == job_id, worker=worker, now=now, lease_seconds=lease_seconds)


def claim_next(session: Session, queue: str, *, worker: str, now: datetime, lease_seconds: float) -> Claim | None:
    """Take the job of a queue whose turn it is; None where nothing waits.

    Most urgent first; among those, of the team that has the fewest jobs running, so that no team starves another;
    then the oldest. A message says that there is work; this says which.
    """
    for _ in range(CLAIM_TRIES):
        job_id = session.scalar(_TURN, {"queue": queue})
        if job_id is None:
            return None
        got = claim(session, job_id, worker=worker, now=now, lease_seconds=lease_seconds)
        if got is not None:
            return got
    return None


def hold(session: Session, claim: Claim) -> None:
    """Make sure that the claim is ours until this transaction ends. Raises LostLease."""
    query = select(Job.id).where(*_is_ours(claim)).with_for_update()
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
    """Hold the job for so long from now, tell how far it is, and hear whether cancel was asked for.

    due_at   told with the progress: when the job will have ended at this pace; None before there is a pace.
    Raises LostLease where another attempt or nobody owns it now.
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
    row = _change(session, _is_ours(claim), values, Job.cancel_requested_at)
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
    row = _change(session, _is_ours(claim), values, *_TOLD)
    if row is None:
        raise LostLease(claim.job_id, claim.fence)
    left = "failed" if state == "succeeded" else state
    end_runs(session, [claim.job_id], state=left, reason=reason or "The job ended without this run.", now=now)
    _end_attempts(session, Attempt.id == claim.attempt_id, how=state, reason=reason, now=now)
    webhooks.job_ended(session, **row._asdict(), now=now)


def hand_back(session: Session, claim: Claim, *, reason: str, now: datetime) -> None:
    """Give the job up unharmed, for instance because this worker shuts down; it waits again, or ends if cancelled.

    Raises LostLease.
    """
    wanted_off = Job.cancel_requested_at.is_not(None)
    values = _back_to_the_queue(now) | {
        "state": case((wanted_off, "cancelled"), else_="queued"),
        "ended_at": case((wanted_off, now)),
    }
    row = _change(session, _is_ours(claim), values, *_TOLD)
    if row is None:
        raise LostLease(claim.job_id, claim.fence)
    if row.state == "cancelled":
        end_runs(session, [claim.job_id], state="cancelled", reason="The job was cancelled.", now=now)
        webhooks.job_ended(session, **row._asdict(), now=now)
    else:
        _runs_wait_again(session, [claim.job_id])
    _end_attempts(session, Attempt.id == claim.attempt_id, how="handed_back", reason=reason, now=now)


def reap(session: Session, *, now: datetime, max_attempts: int = 5) -> list[str]:
    """Take jobs away from workers that have been silent for longer than their lease; their ids.

    Each waits again; or is cancelled, where that was asked for; or has failed, after so many lost workers.
    """
    wanted_off = Job.cancel_requested_at.is_not(None)
    spent = Job.lost_attempts + 1 >= max_attempts
    values = _back_to_the_queue(now) | {
        "state": case((wanted_off, "cancelled"), (spent, "failed"), else_="queued"),
        "reason": case((wanted_off, None), (spent, GIVEN_UP.format(max_attempts))),
        "ended_at": case((wanted_off, now), (spent, now)),
        "lost_attempts": Job.lost_attempts + 1,
    }
    overdue = (
        update(Job)
        .where(WORKED_ON, Job.lease_until < now)
        .values(values)
        .returning(*_TOLD)
        .execution_options(synchronize_session=False)
    )
    rows = session.execute(overdue).all()
    ids = [row.job_id for row in rows]
    if not ids:
        return []
    _runs_wait_again(session, [row.job_id for row in rows if row.state == "queued"])
    for row in rows:
        if row.state != "queued":
            end_runs(session, [row.job_id], state=row.state, reason=row.reason or "The job was cancelled.", now=now)
            webhooks.job_ended(session, **row._asdict(), now=now)
    _end_attempts(session, Attempt.job_id.in_(ids), how="lease_lost", reason="The worker fell silent.", now=now)
    return ids


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
        "revision": Job.revision + 1,
    }
    columns = (Job.id, Job.kind, Job.team_id, Job.fence, Job.attempts, Job.spec, Job.dataset_id, Job.progress)
    row = _change(session, (which, Job.state == "queued"), values, *columns)
    if row is None:
        return None
    job_id, kind, team_id, fence, number, spec, dataset_id, progress = row
    attempt = Attempt(id=new_id("attempt"), job_id=job_id, number=number, worker=worker, started_at=now)
    session.add(attempt)
    session.flush()
    runs = session.scalars(select(Run).where(Run.job_id == job_id).order_by(Run.number).options(undefer(Run.spec)))
    claimed = tuple(_claimed(run) for run in runs)
    return Claim(job_id, kind, team_id, attempt.id, number, fence, worker, spec, dataset_id, progress, claimed)


def _claimed(run: Run) -> ClaimedRun:
    return ClaimedRun(
        id=run.id,
        number=run.number,
        seed=run.seed,
        cost_strength=run.cost_strength,
        spec=run.spec,
        state=run.state,
        reason=run.reason,
        checkpoint_sha256=run.checkpoint_sha256,
        checkpoint_step=run.checkpoint_step,
    )


def _is_ours(claim: Claim) -> tuple[ColumnElement[bool], ...]:
    return Job.id == claim.job_id, Job.fence == claim.fence, Job.state == "running"


def _change(session: Session, where: Sequence[ColumnElement[bool]], values: dict[str, Any], *columns: Any) -> Any:
    """One conditional UPDATE of one job; the asked columns, or None where the condition did not hold."""
    statement = update(Job).where(*where).values(values).returning(*columns)
    return session.execute(statement.execution_options(synchronize_session=False)).one_or_none()


def _back_to_the_queue(now: datetime) -> dict[str, Any]:
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


def _runs_wait_again(session: Session, job_ids: Sequence[str]) -> None:
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
