"""Jobs, from `queued` to their end: what API, worker and scheduler call.

submissions   creating jobs, quotas, idempotency keys
views         a job as it is shown
outbox        messages to the workers
leases        claims, leases and heartbeats of workers
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import delete as delete_rows
from sqlalchemy import exists, func, or_, select, update
from sqlalchemy.orm import Session, undefer

from store import models, runs
from store.database import Page, matches, sorted_page
from store.errors import Conflict, NotFound
from store.jobs.leases import Claim, assert_held, claim, claim_next, end_runs, finish, job_ended, reap, release, renew
from store.jobs.outbox import Message, mark_sent, unsent
from store.jobs.submissions import NewRun, Usage, check_quota, submit, usage, write_tags
from store.jobs.tables import Attempt, Job, JobBody, JobTag, JobView, get_view, queue_positions
from store.runs.search import dataset_name
from store.runs.tables import Run
from store.teams import Member

__all__ = [
    "SORTED_BY",
    "Claim",
    "JobView",
    "Message",
    "NewRun",
    "Usage",
    "add_body",
    "assert_held",
    "attempts",
    "body",
    "change",
    "claim",
    "claim_next",
    "delete",
    "delete_drafts",
    "finish",
    "get",
    "get_view",
    "mark_sent",
    "page",
    "queue_positions",
    "reap",
    "release",
    "renew",
    "request_cancel",
    "retry",
    "revisions",
    "submit",
    "trained_on",
    "unsent",
    "usage",
]


_METHOD, _KIND = (  # the same in all runs of a job
    select(func.min(of)).where(Run.job_id == Job.id).scalar_subquery() for of in (Run.method, Run.dataset_kind)
)
_DATA = dataset_name(Job.id)
SORTED_BY = {
    "name": func.lower(Job.name),
    "state": Job.state,
    "progress": Job.progress,
    "runs": Job.runs,
    "data": func.lower(func.coalesce(_DATA, _KIND)),
    "method": _METHOD,
    "owner": select(func.lower(Member.name)).where(Member.id == Job.member_id).scalar_subquery(),
    "submitted": Job.created_at,
    "ended": Job.ended_at,
}
"""What a list of jobs may be sorted by; the newest first otherwise."""


def get(session: Session, team_id: str, job_id: str) -> Job:
    """A job of the team, with its spec. Raises NotFound."""
    query = select(Job).where(Job.id == job_id, Job.team_id == team_id).options(undefer(Job.spec))
    job = session.scalar(query.execution_options(populate_existing=True))
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
    dataset_kind: str | None = None,
    method: str | None = None,
    sort: str | None = None,
    falling: bool = False,
    after: str | None = None,
    limit: int = 50,
) -> Page[Job]:
    """The team's jobs, newest first or sorted, without specs.

    q      searched for in names and tags
    owner  a member's id
    sort   one of SORTED_BY. A sorted list has one page.
    """
    query = select(Job).where(Job.team_id == team_id)
    if kind is not None:
        query = query.where(Job.kind == kind)
    if state is not None:
        query = query.where(Job.state == state)
    if owner is not None:
        query = query.where(Job.member_id == owner)
    if dataset_id is not None:
        query = query.where(Job.dataset_id == dataset_id)
    for column_, wanted in ((Run.dataset_kind, dataset_kind), (Run.method, method)):
        if wanted is not None:
            query = query.where(exists().where(Run.job_id == Job.id, column_ == wanted))
    if tag is not None:
        query = query.where(Job.id.in_(select(JobTag.job_id).where(JobTag.team_id == team_id, JobTag.tag == tag)))
    if q:
        tagged = select(JobTag.job_id).where(JobTag.team_id == team_id, matches(JobTag.tag, q))
        query = query.where(or_(matches(Job.name, q), Job.id.in_(tagged)))
    by = SORTED_BY[sort] if sort else None
    return sorted_page(session, query, Job.id, by=by, falling=falling, after=after, limit=limit)


def trained_on(session: Session, job_ids: Sequence[str]) -> dict[str, tuple[str | None, str | None, str | None]]:
    """Job id → (method, kind of data, name of the data set), the same for all runs of a job."""
    query = select(Job.id, _METHOD, _KIND, _DATA).where(Job.id.in_(job_ids))
    return {job_id: (method, kind, data) for job_id, method, kind, data in session.execute(query)}


def revisions(session: Session, job_ids: Sequence[str]) -> dict[str, int]:
    """Job id → revision, without deleted jobs. One query for many listeners."""
    if not job_ids:
        return {}
    return {
        job_id: number for job_id, number in session.execute(select(Job.id, Job.revision).where(Job.id.in_(job_ids)))
    }


def attempts(session: Session, job: Job | JobView) -> list[Attempt]:
    """The attempts at the job, oldest first."""
    if job.fence == 0:  # never claimed: spare the query
        return []
    return list(session.scalars(select(Attempt).where(Attempt.job_id == job.id).order_by(Attempt.number)))


def body(session: Session, job_id: str, name: str) -> Any:
    """A document of a job; None if it has none of that name."""
    return session.scalar(select(JobBody.body).where(JobBody.job_id == job_id, JobBody.name == name))


def add_body(session: Session, job_id: str, name: str, document: Any) -> None:
    """Store a document of a job, replacing one of that name. A worker calls assert_held first."""
    session.merge(JobBody(job_id=job_id, name=name, body=document))
    session.flush()


def request_cancel(session: Session, team_id: str, job_id: str, now: datetime) -> Job:
    """Cancel a job: at once if it is queued; a running one is ended by its worker. Repeating it has no effect.

    Raises NotFound, and Conflict if it has already succeeded or failed.
    """
    at_once = update(Job).where(Job.id == job_id, Job.team_id == team_id, Job.state == "queued")
    at_once = at_once.values(
        state="cancelled", ended_at=now, cancel_requested_at=now, fence=Job.fence + 1, revision=Job.revision + 1
    )
    unsynchronised = {"synchronize_session": False}
    if session.scalar(at_once.returning(Job.id), execution_options=unsynchronised) is not None:
        end_runs(session, [job_id], state="cancelled", reason="The job was cancelled.", now=now)
        job = get(session, team_id, job_id)
        job_ended(
            session,
            job_id=job_id,
            team_id=team_id,
            kind=job.kind,
            name=job.name,
            state=job.state,
            reason=job.reason,
            dataset_id=job.dataset_id,
            network_id=job.network_id,
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
    """Queue a failed or cancelled job again; its runs that succeeded stay, the others resume at their checkpoints.

    Raises NotFound, Conflict in any other state or if its uploaded data were deleted, QuotaExceeded.
    """
    job = get(session, team_id, job_id)
    if job.state not in ("failed", "cancelled"):
        raise Conflict(f"Job `{job_id}` is {job.state}; only a failed or cancelled job can be tried again.")
    if job.dataset_id is None and job.spec.get("dataset", {}).get("kind") == "uploaded":
        raise Conflict(f"The data set of job `{job_id}` was deleted; upload it again and submit a new job.")
    if job.network_id is None and job.spec.get("network", {}).get("kind") == "uploaded":
        raise Conflict(f"The network of job `{job_id}` was deleted; upload it again and submit a new job.")
    check_quota(session, team_id, job.steps)
    again = update(Job).where(Job.id == job_id, Job.state == job.state, Job.fence == job.fence)
    again = again.values(
        state="queued",
        reason=None,
        progress=min(job.progress, runs.saved_fraction(session, job_id)),  # failed runs counted as done
        ended_at=None,
        cancel_requested_at=None,
        announced_at=None,
        lost_attempts=0,
        queued_at=now,
        fence=Job.fence + 1,
        revision=Job.revision + 1,
    )
    if session.scalar(again.returning(Job.id), execution_options={"synchronize_session": False}) is None:
        raise Conflict(f"Job `{job_id}` was changed at the same time by another request; read it and try again.")
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
    """Change what is not None. A pinned job never expires.

    Raises NotFound, and Conflict for the priority of a job that is not queued.
    """
    job = get(session, team_id, job_id)
    tags = None if tags is None else sorted(set(tags))
    asked = {"name": name, "tags": tags, "priority": priority, "pinned": pinned}
    values = {column: value for column, value in asked.items() if value is not None}
    if priority is not None and job.state != "queued":
        raise Conflict(f"Job `{job_id}` is {job.state}; only the priority of a queued job can be changed.")
    if values:
        as_read = (Job.id == job_id, Job.state == job.state) if priority is not None else (Job.id == job_id,)
        changed = update(Job).where(*as_read).values(values | {"revision": Job.revision + 1}).returning(Job.id)
        if session.scalar(changed, execution_options={"synchronize_session": False}) is None:
            raise Conflict(f"Job `{job_id}` was changed at the same time by another request; read it and try again.")
    if tags is not None:
        session.execute(delete_rows(JobTag).where(JobTag.job_id == job_id))
        write_tags(session, team_id, job_id, tags)
    session.expire_all()
    return get(session, team_id, job_id)


def delete(session: Session, team_id: str, job_id: str) -> None:
    """Delete an ended job with all its runs; garbage collection frees their files.

    Raises NotFound, and Conflict if it has not ended or one of its runs is published.
    """
    job = get(session, team_id, job_id)
    if job.state in ("queued", "running"):
        raise Conflict(f"Job `{job_id}` is {job.state}; cancel it before you delete it.")
    published = (
        select(models.ModelVersion.run_id).join(Run, Run.id == models.ModelVersion.run_id).where(Run.job_id == job_id)
    )
    if (run_id := session.scalar(published.limit(1))) is not None:
        raise Conflict(f"Run `{run_id}` of job `{job_id}` is published as a model; delete the model first.")
    session.execute(delete_rows(Job).where(Job.id == job_id), execution_options={"synchronize_session": False})


def delete_drafts(session: Session, *, ended_before: datetime, limit: int = 100) -> list[str]:
    """Delete jobs that ended before that time and are neither published nor pinned; returns their ids."""
    published = exists().where(models.ModelVersion.run_id == Run.id, Run.job_id == Job.id)
    old = select(Job.id).where(Job.ended_at < ended_before, Job.pinned.is_(False), ~published).limit(limit)
    ids = list(session.scalars(old.with_for_update(skip_locked=True)))
    if ids:
        session.execute(delete_rows(Job).where(Job.id.in_(ids)), execution_options={"synchronize_session": False})
    return ids
