"""What people asked for: jobs, from `queued` to an end. What workers do with them stands in leases, named here too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, NotRequired, TypedDict, cast

from sqlalchemy import Integer, Table, bindparam, exists, func, insert, or_, select, update
from sqlalchemy import delete as delete_rows
from sqlalchemy.orm import Session, undefer

from store import datasets, idempotency, progress, webhooks
from store.errors import Conflict, NotFound, QuotaExceeded
from store.identifiers import new_id
from store.job_tables import WAITS
from store.leases import Claim, ClaimedRun, claim, claim_next, end_runs, finish, hand_back, hold, reap, renew
from store.pages import Page, matches, newest_first
from store.tables import Attempt, Job, JobBody, JobTag, ModelVersion, Run, Team
from store.usage import waiting

__all__ = [
    "Announcement",
    "Claim",
    "ClaimedRun",
    "NewRun",
    "add_body",
    "attempts",
    "body",
    "change",
    "claim",
    "claim_next",
    "delete",
    "delete_drafts",
    "finish",
    "get",
    "hand_back",
    "hold",
    "mark_announced",
    "page",
    "queue_position",
    "reap",
    "renew",
    "request_cancel",
    "retry",
    "revisions",
    "submit",
    "to_announce",
]


# Built once: a busy service asks these at every request, and putting a query together costs as much as asking it.
_ONE_JOB = (
    select(Job)
    .where(Job.id == bindparam("job_id"), Job.team_id == bindparam("team_id"))
    .options(undefer(Job.spec))
    .execution_options(populate_existing=True)
)
_IN_QUEUE = select(Job.id).where(WAITS, Job.queue == bindparam("queue"))
_MORE_URGENT = _IN_QUEUE.where(Job.priority > bindparam("priority"))
_OLDER = _IN_QUEUE.where(Job.priority == bindparam("priority"), Job.id < bindparam("job_id"))
_BEFORE = select(
    *(
        select(func.count())
        .select_from(before.limit(bindparam("at_most", type_=Integer)).subquery())
        .scalar_subquery()
        .label(name)
        for name, before in (("more_urgent", _MORE_URGENT), ("older", _OLDER))
    )
)
_NEW_JOB = insert(cast(Table, Job.__table__))
_NEW_RUN = insert(cast(Table, Run.__table__))
_QUOTAS = select(Team.max_queued_jobs, Team.max_queued_steps).where(Team.id == bindparam("team_id"))


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


@dataclass(frozen=True)
class Announcement:
    """A waiting job that the workers should hear of."""

    id: str
    queue: str
    priority: int


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
) -> Job:
    """A new job with its runs, all `queued`; the row as it was written. Announce it after the commit.

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
            return get(session, team_id, before)
    if dataset_id is not None:
        _usable_dataset(session, team_id, dataset_id)
    steps = sum(run.get("steps", 0) for run in runs)
    if kind == "training":
        _check_quota(session, team_id, steps)
    values = {
        "id": job_id,
        "team_id": team_id,
        "member_id": member_id,
        "dataset_id": dataset_id,
        "kind": kind,
        "name": name,
        "tags": tags,
        "queue": queue,
        "priority": priority,
        "steps": steps,
        "runs": len(runs),
        "spec": spec,
        "pinned": False,
        "state": "queued",
        "progress": 0.0,
        "revision": 1,
        "attempts": 0,
        "lost_attempts": 0,
        "fence": 0,
        "announced_at": announced_at,
        "created_at": now,
        "queued_at": now,
    }
    session.execute(_NEW_JOB, values)
    if runs:
        session.execute(_NEW_RUN, [_run_row(team_id, job_id, number, run, now) for number, run in enumerate(runs)])
    _tag(session, team_id, job_id, tags)
    return Job(**values)


def _tag(session: Session, team_id: str, job_id: str, tags: Sequence[str]) -> None:
    if tags:
        session.execute(insert(JobTag), [{"job_id": job_id, "tag": tag, "team_id": team_id} for tag in tags])


def get(session: Session, team_id: str, job_id: str) -> Job:
    """A job of the team, with its spec. Raises NotFound."""
    job = session.scalar(_ONE_JOB, {"job_id": job_id, "team_id": team_id})
    if job is None:
        raise NotFound("job", job_id)
    return job


def page(
    session: Session,
    team_id: str,
    *,
    kind: str | None = "training",
    state: str | None = None,
    tag: str | None = None,
    q: str | None = None,
    owner: str | None = None,
    dataset_id: str | None = None,
    after: str | None = None,
    limit: int = 50,
) -> Page[Job]:
    """The team's jobs, newest first, without specs. `q` is looked for in names and tags; `owner` is a member's id."""
    query = select(Job).where(Job.team_id == team_id)
    if kind is not None:
        query = query.where(Job.kind == kind)
    if state is not None:
        query = query.where(Job.state == state)
    if owner is not None:
        query = query.where(Job.member_id == owner)
    if dataset_id is not None:
        query = query.where(Job.dataset_id == dataset_id)
    if tag is not None:
        query = query.where(Job.id.in_(select(JobTag.job_id).where(JobTag.team_id == team_id, JobTag.tag == tag)))
    if q:
        tagged = select(JobTag.job_id).where(JobTag.team_id == team_id, matches(JobTag.tag, q))
        query = query.where(or_(matches(Job.name, q), Job.id.in_(tagged)))
    return newest_first(session, query, Job.id, after=after, limit=limit)


def revisions(session: Session, job_ids: Sequence[str]) -> dict[str, int]:
    """How far each of these jobs has come; those that are gone are left out. One question for many listeners."""
    if not job_ids:
        return {}
    return {
        job_id: number for job_id, number in session.execute(select(Job.id, Job.revision).where(Job.id.in_(job_ids)))
    }


def queue_position(session: Session, job: Job, *, at_most: int = 1000) -> int | None:
    """How many jobs go before this one in its queue, counted up to `at_most`; None where it does not wait."""
    if job.state != "queued":
        return None
    bounds = {"queue": job.queue, "priority": job.priority, "job_id": job.id, "at_most": at_most}
    more_urgent, older = session.execute(_BEFORE, bounds).one()
    return min(more_urgent + older, at_most)


def attempts(session: Session, job: Job) -> list[Attempt]:
    """Who tried the job, when, and why it ended, oldest first."""
    if job.fence == 0:  # nobody has claimed it yet, which is not worth a question
        return []
    return list(session.scalars(select(Attempt).where(Attempt.job_id == job.id).order_by(Attempt.number)))


def body(session: Session, job_id: str, name: str) -> Any:
    """A document of a job; None where it has none of that name."""
    return session.scalar(select(JobBody.body).where(JobBody.job_id == job_id, JobBody.name == name))


def add_body(session: Session, job_id: str, name: str, document: Any) -> None:
    """Keep a document of a job, in place of an older one of that name. A worker holds its claim first: see hold."""
    session.merge(JobBody(job_id=job_id, name=name, body=document))
    session.flush()


def request_cancel(session: Session, team_id: str, job_id: str, now: datetime) -> Job:
    """Ask for the end of a job: at once where it waits, within seconds where it runs. Asking twice is the same.

    Raises NotFound, and Conflict where it has already succeeded or failed.
    """
    at_once = update(Job).where(Job.id == job_id, Job.team_id == team_id, Job.state == "queued")
    at_once = at_once.values(
        state="cancelled", ended_at=now, cancel_requested_at=now, fence=Job.fence + 1, revision=Job.revision + 1
    )
    unsynchronised = {"synchronize_session": False}
    if session.scalar(at_once.returning(Job.id), execution_options=unsynchronised) is not None:
        end_runs(session, [job_id], state="cancelled", reason="The job was cancelled.", now=now)
        job = get(session, team_id, job_id)
        webhooks.job_ended(
            session,
            job_id=job_id,
            team_id=team_id,
            kind=job.kind,
            name=job.name,
            state=job.state,
            reason=job.reason,
            now=now,
        )
        return job
    soon = update(Job).where(
        Job.id == job_id, Job.team_id == team_id, Job.state == "running", Job.cancel_requested_at.is_(None)
    )
    soon = soon.values(cancel_requested_at=now, revision=Job.revision + 1)
    asked = session.scalar(soon.returning(Job.id), execution_options=unsynchronised)
    job = get(session, team_id, job_id)
    if asked is None and job.state in ("succeeded", "failed"):
        raise Conflict(f"Job `{job_id}` has already {job.state}, so there is nothing to cancel.")
    return job


def retry(session: Session, team_id: str, job_id: str, now: datetime) -> Job:
    """Queue a failed or cancelled job again; runs that succeeded stay, the others go on from their checkpoints.

    Raises NotFound, Conflict in any other state or where its uploaded data are gone, QuotaExceeded.
    """
    job = get(session, team_id, job_id)
    if job.state not in ("failed", "cancelled"):
        raise Conflict(f"Job `{job_id}` is {job.state}; only a failed or cancelled job can be tried again.")
    if job.dataset_id is None and job.spec.get("dataset", {}).get("kind") == "uploaded":
        raise Conflict(f"The data set of job `{job_id}` was deleted; upload it again and submit a new job.")
    _check_quota(session, team_id, job.steps)
    again = update(Job).where(Job.id == job_id, Job.state == job.state, Job.fence == job.fence)
    again = again.values(
        state="queued",
        reason=None,
        progress=min(job.progress, progress.kept(session, job_id)),  # a run that failed was counted as done
        ended_at=None,
        cancel_requested_at=None,
        announced_at=None,
        lost_attempts=0,
        queued_at=now,
        fence=Job.fence + 1,
        revision=Job.revision + 1,
    )
    if session.scalar(again.returning(Job.id), execution_options={"synchronize_session": False}) is None:
        raise Conflict(f"Somebody else changed job `{job_id}` at the same moment; look at it and try again.")
    session.execute(
        update(Run)
        .where(Run.job_id == job_id, Run.state.in_(("failed", "cancelled")))
        .values(state="queued", reason=None, ended_at=None)
        .execution_options(synchronize_session=False)
    )
    return get(session, team_id, job_id)


def change(
    session: Session,
    team_id: str,
    job_id: str,
    *,
    name: str | None = None,
    tags: Sequence[str] | None = None,
    priority: int | None = None,
    pinned: bool | None = None,
) -> Job:
    """Change what is not None. A job that is pinned never expires.

    Raises NotFound, and Conflict for the priority of a job that no longer waits.
    """
    job = get(session, team_id, job_id)
    tags = None if tags is None else sorted(set(tags))
    asked = {"name": name, "tags": tags, "priority": priority, "pinned": pinned}
    values = {column: value for column, value in asked.items() if value is not None}
    if priority is not None and job.state != "queued":
        raise Conflict(f"Job `{job_id}` is {job.state}; only the priority of a job that waits can be changed.")
    if values:
        as_read = (Job.id == job_id, Job.state == job.state) if priority is not None else (Job.id == job_id,)
        changed = update(Job).where(*as_read).values(values | {"revision": Job.revision + 1}).returning(Job.id)
        if session.scalar(changed, execution_options={"synchronize_session": False}) is None:
            raise Conflict(f"Somebody else changed job `{job_id}` at the same moment; look at it and try again.")
    if tags is not None:
        session.execute(delete_rows(JobTag).where(JobTag.job_id == job_id))
        _tag(session, team_id, job_id, tags)
    session.expire_all()
    return get(session, team_id, job_id)


def delete(session: Session, team_id: str, job_id: str) -> None:
    """Forget an ended job with all its runs; their bytes go with the next collection.

    Raises NotFound, and Conflict where it has not ended or a run of it is published.
    """
    job = get(session, team_id, job_id)
    if job.state in ("queued", "running"):
        raise Conflict(f"Job `{job_id}` is {job.state}; cancel it before you delete it.")
    published = select(ModelVersion.run_id).join(Run, Run.id == ModelVersion.run_id).where(Run.job_id == job_id)
    if (run_id := session.scalar(published.limit(1))) is not None:
        raise Conflict(f"Run `{run_id}` of job `{job_id}` is published as a model; delete the model first.")
    session.execute(delete_rows(Job).where(Job.id == job_id), execution_options={"synchronize_session": False})


def delete_drafts(session: Session, *, ended_before: datetime, limit: int = 100) -> list[str]:
    """Forget jobs that ended long ago and that nobody published or pinned; their ids."""
    published = exists().where(ModelVersion.run_id == Run.id, Run.job_id == Job.id)
    old = select(Job.id).where(Job.ended_at < ended_before, Job.pinned.is_(False), ~published).limit(limit)
    ids = list(session.scalars(old.with_for_update(skip_locked=True)))
    if ids:
        session.execute(delete_rows(Job).where(Job.id.in_(ids)), execution_options={"synchronize_session": False})
    return ids


def to_announce(session: Session, *, now: datetime, resend_after: float, limit: int = 100) -> list[Announcement]:
    """Waiting jobs that were never announced, then those announced more than `resend_after` seconds ago.

    Which of them is worked on first is decided when a worker claims: see leases.claim_next.
    """
    query = select(Job.id, Job.queue, Job.priority).where(WAITS)
    never = query.where(Job.announced_at.is_(None)).order_by(Job.id).limit(limit)
    found = [Announcement(*row) for row in session.execute(never)]
    if len(found) < limit:
        stale = query.where(Job.announced_at < now - timedelta(seconds=resend_after))
        stale = stale.order_by(Job.announced_at, Job.id).limit(limit - len(found))
        found += [Announcement(*row) for row in session.execute(stale)]
    return found


def mark_announced(session: Session, job_ids: Sequence[str], *, at: datetime | None) -> None:
    """Remember when the workers were told; None: that they were not, after all."""
    session.execute(
        update(Job)
        .where(Job.id.in_(job_ids), Job.state == "queued")
        .values(announced_at=at)
        .execution_options(synchronize_session=False)
    )


def _run_row(team_id: str, job_id: str, number: int, run: NewRun, now: datetime) -> dict[str, Any]:
    return {
        "id": new_id("run"),
        "job_id": job_id,
        "team_id": team_id,
        "number": number,
        "seed": run["seed"],
        "cost_strength": run["cost_strength"],
        "spec": run["spec"],
        "method": run.get("method"),
        "dataset_kind": run.get("dataset_kind"),
        "steps": run.get("steps", 0),
        "step": 0,
        "state": "queued",
        "attempts": 0,
        "bytes": 0,
        "created_at": now,
    }


def _usable_dataset(session: Session, team_id: str, dataset_id: str) -> None:
    dataset = datasets.get(session, team_id, dataset_id)
    if dataset.state != "ready":
        raise Conflict(f"Data set `{dataset_id}` is {dataset.state}, not ready; wait for its check or upload it anew.")


def _check_quota(session: Session, team_id: str, steps: int) -> None:
    """Raises QuotaExceeded where one more job of so many steps would be too much."""
    row = session.execute(_QUOTAS, {"team_id": team_id}).one_or_none()
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
