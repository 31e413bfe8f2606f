"""Submitting a job: checked against the quotas, written with its runs in one transaction, once per idempotency key."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NotRequired, TypedDict

from sqlalchemy import delete, func, insert, select
from sqlalchemy.orm import Session

from store import datasets, teams
from store.columns import new_id, to_json
from store.database import insert_into
from store.errors import Conflict, QuotaExceeded
from store.jobs.tables import IdempotencyKey, Job, JobTag, JobView, get_view
from store.runs.tables import Run


class NewRun(TypedDict):
    """A run to be created, with its complete spec.

    steps                   training steps, for quotas and progress
    method, dataset_kind    what its spec says about them, for searching
    """

    seed: int
    cost_strength: float | None
    spec: dict[str, Any]
    steps: NotRequired[int]
    method: NotRequired[str]
    dataset_kind: NotRequired[str]


def submit(
    session: Session,
    *,
    team_id: str,
    member_id: str,
    name: str,
    spec: dict[str, Any],
    runs: Sequence[NewRun],
    now: datetime,
    kind: str = "training",
    tags: Sequence[str] = (),
    priority: int = 5,
    queue: str = "cpu",
    dataset_id: str | None = None,
    network_id: str | None = None,
    idempotency_key: str | None = None,
    announced_at: datetime | None = None,
) -> JobView:
    """A new job with its runs, all `queued`. Enqueue it after the commit: see outbox.enqueue.

    kind           `training`, or the kind of an operation: see store.operations, which submits those
    announced_at   given by a caller that enqueues right after the commit; saves the UPDATE of outbox.mark_sent. If
                   enqueueing fails, the caller takes it back; if the caller dies, the scheduler sends the message.

    With an idempotency key the same request of the same member gives the same job; another request raises Conflict.
    Raises NotFound for the data set, QuotaExceeded.
    """
    if not runs and kind == "training":
        raise ValueError("A training needs at least one run.")
    tags = sorted(set(tags))
    job_id = new_id("job")
    if idempotency_key is not None:
        request = [team_id, kind, name, tags, priority, queue, dataset_id, spec, [dict(run) for run in runs]]
        request += [] if network_id is None else [network_id]  # requests without one keep their key over an upgrade
        before = upsert_key(
            session, member_id=member_id, key=idempotency_key, request=request, thing_id=job_id, now=now
        )
        if before is not None:
            return get_view(session, team_id, before)
    if dataset_id is not None and kind == "training":
        _check_dataset(session, team_id, dataset_id)
    steps = sum(run.get("steps", 0) for run in runs)
    if kind == "training":
        check_quota(session, team_id, steps)
    job = Job(
        id=job_id,
        team_id=team_id,
        member_id=member_id,
        dataset_id=dataset_id,
        network_id=network_id,
        kind=kind,
        name=name,
        tags=tags,
        queue=queue,
        priority=priority,
        steps=steps,
        runs=len(runs),
        spec=spec,
        pinned=False,
        state="queued",
        progress=0.0,
        revision=1,
        attempts=0,
        lost_attempts=0,
        fence=0,
        announced_at=announced_at,
        created_at=now,
        queued_at=now,
    )
    session.add(job)
    session.flush()
    common = {"job_id": job_id, "team_id": team_id, "state": "queued", "step": 0, "attempts": 0, "bytes": 0}
    optional = {"steps": 0, "method": None, "dataset_kind": None}
    rows = [
        {"id": new_id("run"), "number": number, "created_at": now, **common, **optional, **run}
        for number, run in enumerate(runs)
    ]
    if rows:
        session.execute(insert(Run), rows)
    write_tags(session, team_id, job_id, tags)
    return get_view(session, team_id, job_id)


def write_tags(session: Session, team_id: str, job_id: str, tags: Sequence[str]) -> None:
    """Insert the rows by which a job is found under its tags."""
    if tags:
        session.execute(insert(JobTag), [{"job_id": job_id, "tag": tag, "team_id": team_id} for tag in tags])


def _check_dataset(session: Session, team_id: str, dataset_id: str) -> None:
    dataset = datasets.get(session, team_id, dataset_id)
    if dataset.state != "ready":
        raise Conflict(f"Data set `{dataset_id}` is {dataset.state}, not ready; wait for its check or upload it again.")


# --- quotas ---


@dataclass(frozen=True)
class Usage:
    """What counts against the quotas of a team."""

    queued_jobs: int
    queued_steps: int
    stored_bytes: int


def usage(session: Session, team_id: str) -> Usage:
    """What the team uses now, in the units of its quotas."""
    jobs, steps = waiting(session, team_id)
    return Usage(jobs, steps, datasets.stored_bytes(session, team_id))


def waiting(session: Session, team_id: str) -> tuple[int, int]:
    """(jobs, steps) of the team's queued and running trainings; operations have a limit of their own."""
    query = select(func.count(), func.coalesce(func.sum(Job.steps), 0)).where(
        Job.team_id == team_id, Job.state.in_(("queued", "running")), Job.kind == "training"
    )
    jobs, steps = session.execute(query).one()
    return int(jobs), int(steps)


def check_quota(session: Session, team_id: str, steps: int) -> None:
    """Raises QuotaExceeded if one more job of so many steps exceeds a quota of the team, or its bytes are used up."""
    team = teams.get_team(session, team_id)
    datasets.check_quota(session, team_id, 0)  # what it will store is not known, but nothing fits any more
    if team.max_queued_jobs is None and team.max_queued_steps is None:
        return
    jobs_now, steps_now = waiting(session, team_id)
    if team.max_queued_jobs is not None and jobs_now + 1 > team.max_queued_jobs:
        raise QuotaExceeded(
            "queued_jobs", f"The team has {jobs_now} jobs waiting or running and may have {team.max_queued_jobs}; wait."
        )
    if team.max_queued_steps is not None and steps_now + steps > team.max_queued_steps:
        raise QuotaExceeded(
            "queued_steps",
            f"The team has {steps_now} steps waiting and may have {team.max_queued_steps}; "
            f"{steps} more do not fit. Wait, or ask for fewer.",
        )


# --- idempotency keys ---


def upsert_key(session: Session, *, member_id: str, key: str, request: Any, thing_id: str, now: datetime) -> str | None:
    """Bind the member's idempotency key to this request and to the id of what it will create.

    Returns None if the key is new: create the row under `thing_id`. Otherwise the same request was made before;
    returns the id that it created. Concurrent requests with one key wait for each other in the database.
    Raises Conflict if the key was used for another request.
    """
    digest = hashlib.sha256(to_json(_sorted(request)).encode()).digest()
    row = insert_into(session, IdempotencyKey).values(
        member_id=member_id, key=key, request_sha256=digest, thing_id=thing_id, created_at=now
    )
    made = row.on_conflict_do_nothing().returning(IdempotencyKey.thing_id)
    if session.scalar(made) is not None:
        return None
    query = select(IdempotencyKey).where(IdempotencyKey.member_id == member_id, IdempotencyKey.key == key)
    before = session.scalars(query).one()
    if before.request_sha256 != digest:
        raise Conflict(f"The idempotency key `{key}` was used for another request; use a fresh key for each request.")
    return before.thing_id


def delete_keys(session: Session, *, before: datetime) -> None:
    """Delete idempotency keys from before that time."""
    session.execute(delete(IdempotencyKey).where(IdempotencyKey.created_at < before))


def _sorted(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _sorted(value[key]) for key in sorted(value)}
    if isinstance(value, list | tuple):
        return [_sorted(inner) for inner in value]
    return value
