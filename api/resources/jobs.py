"""Addresses of jobs: submit, watch, cancel, retry."""

from __future__ import annotations

from flask import Response, request
from sqlalchemy.orm import Session

from api.auditing import note
from api.auth import Access, caller
from api.door import Noun, answer
from api.paging import cursor, key_of
from api.schemas.jobs import (
    EventsQuery,
    JobChange,
    JobEvent,
    JobHeaders,
    JobIn,
    JobItem,
    JobOut,
    JobPage,
    JobPath,
    JobsQuery,
    LogLine,
    LogPage,
    LogsQuery,
)
from api.services import Services, services
from api.submission import submit
from api.watching import eta, event_of, events, wait_for_change
from store import jobs, progress
from store.job_now import JobNow

api = Noun("jobs", "What is queued: one spec, trained for every seed and cost strength.")


@api.at(
    "post",
    "/jobs",
    needs=Access.SUBMIT,
    answers={202: JobOut},
    problems=(404, 409),
)
def create_job(header: JobHeaders, body: JobIn) -> Response:
    """Submit a job.

    With an Idempotency-Key the same request can be sent again after a cut line: it gives the same job.
    """
    here, who, now = services(), caller(), services().now()
    with here.database.write() as rows:
        job = submit(rows, who, body, idempotency_key=header.idempotency_key, now=now)
        note(rows, "job.submit", job.id)
        shown_job = shown(here, rows, job)
        is_new = job.announced_at in (now, None)  # otherwise the key has found one that was announced before
    if is_new and job.state == "queued":
        here.tell(job.id, job.queue, job.priority, marked=True)
    return answer(shown_job, 202, Location=f"/api/v1/jobs/{job.id}")


@api.at("get", "/jobs", needs=Access.READ, answers={200: JobPage})
def list_jobs(query: JobsQuery) -> Response:
    """The team's jobs, newest first."""
    with services().database.read() as rows:
        page = jobs.page(
            rows,
            caller().team_id,
            state=query.state,
            tag=query.tag,
            q=query.q,
            owner=query.owner,
            after=key_of(query.after),
            limit=query.limit,
        )
        return answer(JobPage(items=[JobItem.model_validate(row) for row in page.rows], next=cursor(page.after)))


@api.at("get", "/jobs/<string:job_id>", needs=Access.READ, answers={200: JobOut})
def get_job(path: JobPath) -> Response:
    """One job: state, progress, time to the end, place in the queue, current losses."""
    here = services()
    with here.database.read() as rows:
        return answer(shown(here, rows, jobs.look(rows, caller().team_id, path.job_id)))


@api.at("patch", "/jobs/<string:job_id>", needs=Access.SUBMIT, answers={200: JobOut}, problems=(409,))
def change_job(path: JobPath, body: JobChange) -> Response:
    """Change its name, tags or priority, or pin it: drafts expire after a while, pinned and published jobs never."""
    here = services()
    asked = body.model_dump(exclude_none=True)
    with here.database.write() as rows:
        jobs.change(rows, caller().team_id, path.job_id, **asked)
        if asked:
            note(rows, "job.change", path.job_id, **asked)
        return answer(shown(here, rows, jobs.look(rows, caller().team_id, path.job_id)))


@api.at("delete", "/jobs/<string:job_id>", needs=Access.SUBMIT, answers={204: None}, problems=(409,))
def delete_job(path: JobPath) -> Response:
    """Forget an ended job with all that its runs found; bytes that nothing else needs are freed.

    A job with a published run is kept: delete the model first.
    """
    with services().database.write() as rows:
        jobs.delete(rows, caller().team_id, path.job_id)
        note(rows, "job.delete", path.job_id)
    return Response(status=204)


@api.at("post", "/jobs/<string:job_id>/cancel", needs=Access.SUBMIT, answers={202: JobOut}, problems=(409,))
def cancel_job(path: JobPath) -> Response:
    """Ask for its end. A waiting job ends at once, a running one within a second or two."""
    here = services()
    with here.database.write() as rows:
        jobs.request_cancel(rows, caller().team_id, path.job_id, now=here.now())
        note(rows, "job.cancel", path.job_id)
        return answer(shown(here, rows, jobs.look(rows, caller().team_id, path.job_id)), 202)


@api.at("post", "/jobs/<string:job_id>/retry", needs=Access.SUBMIT, answers={202: JobOut}, problems=(409,))
def retry_job(path: JobPath) -> Response:
    """Queue a failed or cancelled job again; runs that succeeded stay as they are."""
    here = services()
    with here.database.write() as rows:
        jobs.retry(rows, caller().team_id, path.job_id, now=here.now())
        note(rows, "job.retry", path.job_id)
        job = jobs.look(rows, caller().team_id, path.job_id)
        shown_job = shown(here, rows, job)
    here.tell(job.id, job.queue, job.priority)
    return answer(shown_job, 202)


@api.at("get", "/jobs/<string:job_id>/logs", needs=Access.READ, answers={200: LogPage})
def job_logs(path: JobPath, query: LogsQuery) -> Response:
    """What the worker said, oldest first."""
    with services().database.read() as rows:
        after = key_of(query.after) or ""
        chunks = progress.log_chunks(rows, caller().team_id, path.job_id, after=after, limit=query.limit)
        lines = [LogLine.model_validate(line) for chunk in chunks for line in chunk.lines]
        return answer(LogPage(items=lines, next=cursor(chunks[-1].id if len(chunks) == query.limit else None)))


@api.at(
    "get",
    "/jobs/<string:job_id>/events",
    needs=Access.READ,
    answers={
        200: {
            "description": "OK",
            "content": {
                "text/event-stream": {"schema": {"type": "string"}},
                "application/json": {"schema": {"$ref": "#/components/schemas/JobEvent"}},
            },
        }
    },
    models=(JobEvent,),
)
def job_events(path: JobPath, query: EventsQuery) -> Response:
    """Everything that changes, as it changes.

    Server-sent events whose ids are revisions: a client that comes back with Last-Event-ID misses nothing that counts.
    With `?wait=` one JSON answer instead, as soon as the revision is another than `since`.
    """
    here = services()
    team_id = caller().team_id
    with here.database.read() as rows:
        first = event_of(here, jobs.look(rows, team_id, path.job_id))
    if query.wait is not None:
        return answer(wait_for_change(here, team_id, path.job_id, since=query.since, seconds=query.wait))
    last = request.headers.get("Last-Event-ID", "")
    seen = int(last) if last.isdecimal() and len(last) < 18 else None
    stream = Response(events(here, team_id, path.job_id, first=first, seen=seen), content_type="text/event-stream")
    stream.headers["X-Accel-Buffering"] = "no"
    return stream


def shown(here: Services, rows: Session, job: JobNow) -> JobOut:
    """A job as it goes over the wire."""
    return JobOut.model_validate(
        job._asdict() | {"eta_seconds": eta(here, job), "tries": jobs.attempts(rows, job)},
    )
