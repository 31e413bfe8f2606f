"""What people asked for: jobs, from `queued` to an end.

How they come to be stands in submissions, how they are shown in job_now, how workers hear of them in announcements
and what workers do with them in leases; all of that is named here too.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import bindparam, exists, or_, select, update
from sqlalchemy import delete as delete_rows
from sqlalchemy.orm import Session, undefer

from store import progress, webhooks
from store.announcements import Announcement, mark_announced, to_announce
from store.errors import Conflict, NotFound
from store.job_now import JobNow, look
from store.leases import Claim, ClaimedRun, claim, claim_next, end_runs, finish, hand_back, hold, reap, renew
from store.pages import Page, matches, newest_first
from store.submissions import NewRun, check_quota, submit, write_tags
from store.tables import Attempt, Job, JobBody, JobTag, ModelVersion, Run

__all__ = [
    "Announcement",
    "Claim",
    "ClaimedRun",
    "JobNow",
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
    "look",
    "mark_announced",
    "page",
    "reap",
    "renew",
    "request_cancel",
    "retry",
    "revisions",
    "submit",
    "to_announce",
]


_ONE_JOB = (
    select(Job)
    .where(Job.id == bindparam("job_id"), Job.team_id == bindparam("team_id"))
    .options(undefer(Job.spec))
    .execution_options(populate_existing=True)
)


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


def attempts(session: Session, job: Job | JobNow) -> list[Attempt]:
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
    check_quota(session, team_id, job.steps)
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
        write_tags(session, team_id, job_id, tags)
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
