"""How jobs come to be: checked against the quota, written with their runs in one transaction."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NotRequired, TypedDict, cast

from sqlalchemy import Table, bindparam, insert, select
from sqlalchemy.orm import Session

from store import datasets, idempotency
from store.errors import Conflict, NotFound, QuotaExceeded
from store.identifiers import new_id
from store.job_now import MOST_COUNTED, JobNow, columns, look
from store.statements import Statement
from store.tables import Job, JobTag, Run, Team
from store.usage import waiting


class NewRun(TypedDict):
    """One run to be: its spec is written out.

    steps                   how long it will be, for quotas and honest bars
    method, dataset_kind    what its spec says of them, to search by
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
    idempotency_key: str | None = None,
    announced_at: datetime | None = None,
) -> JobNow:
    """A new job with its runs, all `queued`, as it now stands. Announce it after the commit.

    kind   `training`, or the name of an errand: see store.errands, which sends those.

    announced_at   given by whoever will announce right after the commit; that saves the write of mark_announced.
                   Where the announcement fails it is taken back, and where nobody lives to do so it is made up for
                   after the usual while.
    With an idempotency key the same request of the same member gives the same job; another request raises Conflict.
    Raises NotFound for the data set, QuotaExceeded.
    """
    if not runs and kind == "training":
        raise ValueError("A training needs at least one run.")
    tags = sorted(set(tags))
    job_id = new_id("job")
    if idempotency_key is not None:
        request = [team_id, kind, name, tags, priority, queue, dataset_id, spec, [dict(run) for run in runs]]
        before = idempotency.remember(
            session, member_id=member_id, key=idempotency_key, request=request, thing_id=job_id, now=now
        )
        if before is not None:
            return look(session, team_id, before)
    if dataset_id is not None:
        _usable_dataset(session, team_id, dataset_id)
    steps = sum(run.get("steps", 0) for run in runs)
    if kind == "training":
        check_quota(session, team_id, steps)
    job = _NEW_JOB.first(
        session,
        id=job_id,
        team_id=team_id,
        member_id=member_id,
        dataset_id=dataset_id,
        kind=kind,
        name=name,
        tags=tags,
        queue=queue,
        priority=priority,
        steps=steps,
        runs=len(runs),
        spec=spec,
        announced_at=announced_at,
        created_at=now,
        queued_at=now,
        at_most=MOST_COUNTED,
        its_queue=queue,
        its_priority=priority,
        its_id=job_id,
    )
    assert job is not None, "INSERT … RETURNING gives the row that it wrote"
    theirs = {"job_id": job_id, "team_id": team_id, "created_at": now}
    _NEW_RUN.run(
        session, *(theirs | _OF_A_RUN | {"id": new_id("run"), "number": n} | run for n, run in enumerate(runs))
    )
    write_tags(session, team_id, job_id, tags)
    return job


def write_tags(session: Session, team_id: str, job_id: str, tags: Sequence[str]) -> None:
    """The rows that a job is found by, for each of its tags."""
    if tags:
        session.execute(insert(JobTag), [{"job_id": job_id, "tag": tag, "team_id": team_id} for tag in tags])


def check_quota(session: Session, team_id: str, steps: int) -> None:
    """Raises QuotaExceeded where one more job of so many steps would be too much."""
    row = _QUOTAS.first(session, team_id=team_id)
    if row is None:
        raise NotFound("team", team_id)
    most_jobs, most_steps = row
    if most_jobs is None and most_steps is None:
        return
    jobs_now, steps_now = waiting(session, team_id)
    if most_jobs is not None and jobs_now + 1 > most_jobs:
        raise QuotaExceeded(
            "queued_jobs", f"The team has {jobs_now} jobs waiting or running and may have {most_jobs}; wait."
        )
    if most_steps is not None and steps_now + steps > most_steps:
        raise QuotaExceeded(
            "queued_steps",
            f"The team has {steps_now} steps waiting and may have {most_steps}; "
            f"{steps} more do not fit. Wait, or ask for fewer.",
        )


def _usable_dataset(session: Session, team_id: str, dataset_id: str) -> None:
    dataset = datasets.get(session, team_id, dataset_id)
    if dataset.state != "ready":
        raise Conflict(f"Data set `{dataset_id}` is {dataset.state}, not ready; wait for its check or upload it anew.")


_NEW_JOB = Statement(
    insert(cast(Table, Job.__table__))
    .values(pinned=False, state="queued", progress=0.0, revision=1, attempts=0, lost_attempts=0, fence=0)
    .returning(*columns(bindparam("its_queue"), bindparam("its_priority"), bindparam("its_id"))),
    JobNow._make,
    columns=(
        "id",
        "team_id",
        "member_id",
        "dataset_id",
        "kind",
        "name",
        "tags",
        "queue",
        "priority",
        "steps",
        "runs",
        "spec",
        "announced_at",
        "created_at",
        "queued_at",
    ),
)
_OF_A_RUN = {"steps": 0, "method": None, "dataset_kind": None}  # unless it says otherwise
_NEW_RUN: Statement[tuple[Any, ...]] = Statement(
    insert(cast(Table, Run.__table__)).values(state="queued", step=0, attempts=0, bytes=0),
    columns=("id", "job_id", "team_id", "number", "created_at", "seed", "cost_strength", "spec", *_OF_A_RUN),
)
_QUOTAS: Statement[tuple[int | None, int | None]] = Statement(
    select(Team.max_queued_jobs, Team.max_queued_steps).where(Team.id == bindparam("team_id"))
)
