"""Jobs: submit, watch, cancel, retry."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from flask import Response, request
from pydantic import Field
from sqlalchemy.orm import Session

from api.auth import Access, audit, caller
from api.routing import Resource, answer, cursor, key_of
from api.schemas import (
    Body,
    DatasetId,
    Headers,
    InPath,
    JobId,
    Label,
    MemberId,
    NetworkId,
    Page,
    Query,
    ResponseModel,
    Tag,
)
from api.services import Services, services
from api.sse import STREAM_SHARE, stream, wait_for_change
from api.submission import JobIn, plan, refuse_bad_data, submit
from store import jobs, runs
from store.jobs.tables import FINAL_STATES, MAX_COUNTED, JobView

JobState = Literal["queued", "running", "succeeded", "failed", "cancelled"]


class JobChange(Body):
    """What to change of a job; what is left out stays."""

    name: Label | None = None
    tags: list[Tag] | None = Field(default=None, max_length=20)
    priority: int | None = Field(default=None, ge=0, le=9, description="Only while the job waits.")
    pinned: bool | None = Field(default=None, description="True: it never expires.")


class JobHeaders(Headers):
    """Headers of a submission."""

    idempotency_key: Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[\x21-\x7e]+$")] | None = Field(
        default=None,
        alias="Idempotency-Key",
        description="Any text; the same request with the same key gives the same job again.",
    )


class JobPath(InPath):
    """Which job."""

    job_id: JobId


class JobsQuery(Query):
    """Which jobs."""

    state: JobState | None = None
    tag: Annotated[str, Field(max_length=40)] | None = None
    q: Annotated[str, Field(max_length=120)] | None = Field(default=None, description="Part of the name.")
    owner: MemberId | None = Field(default=None, description="Who submitted it; see /me for your own id.")
    after: str | None = Field(default=None, max_length=300, description="The `next` of the page before.")
    limit: int = Field(default=50, ge=1, le=200)


class JobItem(ResponseModel):
    """A job in a list."""

    id: JobId
    name: str
    state: JobState
    tags: list[str]
    priority: int
    pinned: bool = Field(description="One that is pinned never expires.")
    queue: str
    dataset_id: DatasetId | None
    network_id: NetworkId | None = Field(default=None, description="The uploaded network that it starts from.")
    member_id: MemberId
    runs: int = Field(description="How many networks it trains.")
    steps: int = Field(description="Optimiser steps of all runs together.")
    progress: float = Field(ge=0, le=1)
    losses: dict[str, Any] | None = None
    note: str | None = None
    reason: str | None = Field(default=None, description="Why it ended as it did.")
    attempts: int
    eta_seconds: float | None = Field(
        default=None, description="Seconds to the end, at the pace of the present attempt; null: unknown."
    )
    queue_position: int | None = Field(
        default=None, description=f"0: next. Counted up to {MAX_COUNTED}; null when it no longer waits."
    )
    created_at: datetime
    started_at: datetime | None = None
    ended_at: datetime | None = None


class PlanOut(ResponseModel):
    """What a request would do, were it submitted."""

    runs: int = Field(description="How many networks it would train.")
    steps: int = Field(description="Optimiser steps of all runs together.")
    seconds: float | None = Field(
        description="Time of one worker for all of them, by the pace of similar runs of yours; null: no similar run "
        "has ended."
    )
    like: int = Field(description="How many such runs there are.")
    memory_bytes: int | None = Field(
        description="About how much memory the training process needs at most; null: not known before the rows are "
        "made."
    )
    notes: list[str] = Field(
        default=[],
        description="What becomes of the table's cells that have no value; whether its columns are scaled for an "
        "uploaded network.",
    )


class AttemptOut(ResponseModel):
    """One worker's try at the job."""

    number: int
    worker: str
    started_at: datetime
    ended_at: datetime | None = None
    ended_how: str | None = None
    reason: str | None = None


class JobOut(JobItem):
    """A job."""

    cancel_requested_at: datetime | None = None
    spec: dict[str, Any]
    tries: list[AttemptOut] = Field(default=[], description="Every attempt: by whom, when, and why it ended.")


class JobPage(Page):
    """A part of the list of jobs, newest first."""

    items: list[JobItem]


class LogLine(ResponseModel):
    """One line of a job's log."""

    at: str
    level: str
    text: str
    run_id: str | None = None


class LogsQuery(Query):
    """Which part of the log."""

    after: str | None = Field(default=None, max_length=300, description="The `next` of the page before.")
    limit: int = Field(default=200, ge=1, le=1000, description="Pieces of the log, each of some lines.")


class LogPage(Page):
    """A part of a job's log, oldest first."""

    items: list[LogLine]


class EventsQuery(Query):
    """A long poll instead of a stream."""

    wait: float | None = Field(
        default=None,
        ge=0,
        le=60,
        description="Long poll: one JSON answer as soon as something changed, or after so many seconds.",
    )
    since: int | None = Field(default=None, ge=0, description="The revision you know; with `wait`.")


class JobEvent(ResponseModel):
    """The state of a job. `revision` rises with every change."""

    revision: int
    id: JobId
    state: JobState
    progress: float
    eta_seconds: float | None = None
    queue_position: int | None = None
    losses: dict[str, Any] | None = None
    note: str | None = None
    reason: str | None = None

    @property
    def ended(self) -> bool:
        """Whether the job is in a final state."""
        return self.state in FINAL_STATES


api = Resource("jobs", "What is queued: one spec, trained for every seed and cost strength.")


@api.route(
    "post",
    "/jobs",
    requires=Access.SUBMIT,
    answers={202: JobOut},
    problems=(404, 409),
)
def create_job(header: JobHeaders, body: JobIn) -> Response:
    """Submit a job.

    Uploaded data in roles of its own are looked at first; 422 says what keeps them from being trained on. With an
    Idempotency-Key the same request can be sent again after a broken connection: it gives the same job.
    """
    here, who, now = services(), caller(), services().now()
    refuse_bad_data(who, body)
    with here.database.write() as rows:
        job = submit(
            rows,
            who,
            body,
            settings=here.settings,
            idempotency_key=header.idempotency_key,
            now=now,
        )
        audit(rows, "job.submit", job.id)
        shown_job = shown(here, rows, job)
        is_new = job.announced_at in (now, None)  # otherwise the key has found a job whose message was sent before
    if is_new and job.state == "queued":
        here.enqueue(job.id, job.queue, job.priority, marked=True)
    return answer(shown_job, 202, Location=f"/api/v1/jobs/{job.id}")


@api.route("post", "/jobs/plan", requires=Access.SUBMIT, answers={200: PlanOut}, problems=(404, 409))
def plan_job(body: JobIn) -> Response:
    """What a request would do: how many networks, how long, how much memory. Nothing is stored.

    A request that would be refused is refused here, too, with every wrong field.
    """
    here, who = services(), caller()
    with here.database.read() as rows:
        return answer(PlanOut.model_validate(plan(rows, who, body, settings=here.settings)))


@api.route("get", "/jobs", requires=Access.READ, answers={200: JobPage})
def list_jobs(query: JobsQuery) -> Response:
    """The team's jobs, newest first."""
    here = services()
    with here.database.read() as rows:
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
        places = jobs.queue_positions(rows, page.rows)
        items = [
            JobItem.model_validate(job).model_copy(
                update={"eta_seconds": eta(job.due_at, here.now()), "queue_position": places.get(job.id)}
            )
            for job in page.rows
        ]
        return answer(JobPage(items=items, next=cursor(page.after)))


@api.route("get", "/jobs/<string:job_id>", requires=Access.READ, answers={200: JobOut})
def get_job(path: JobPath) -> Response:
    """One job: state, progress, time to the end, place in the queue, current losses."""
    here = services()
    with here.database.read() as rows:
        return answer(shown(here, rows, jobs.get_view(rows, caller().team_id, path.job_id)))


@api.route("patch", "/jobs/<string:job_id>", requires=Access.SUBMIT, answers={200: JobOut}, problems=(409,))
def change_job(path: JobPath, body: JobChange) -> Response:
    """Change its name, tags or priority, or pin it.

    Ended jobs are deleted after `BIMT_DRAFT_DAYS` days unless they are pinned or a run of them is published.
    """
    here = services()
    asked = body.model_dump(exclude_none=True)
    with here.database.write() as rows:
        jobs.change(rows, caller().team_id, path.job_id, **asked)
        if asked:
            audit(rows, "job.change", path.job_id, **asked)
        return answer(shown(here, rows, jobs.get_view(rows, caller().team_id, path.job_id)))


@api.route("delete", "/jobs/<string:job_id>", requires=Access.SUBMIT, answers={204: None}, problems=(409,))
def delete_job(path: JobPath) -> Response:
    """Delete an ended job with all results of its runs; files that nothing else needs are deleted.

    A job with a published run is kept: delete the model first.
    """
    with services().database.write() as rows:
        jobs.delete(rows, caller().team_id, path.job_id)
        audit(rows, "job.delete", path.job_id)
    return Response(status=204)


@api.route("post", "/jobs/<string:job_id>/cancel", requires=Access.SUBMIT, answers={202: JobOut}, problems=(409,))
def cancel_job(path: JobPath) -> Response:
    """Cancel it. A waiting job ends at once, a running one within a second or two."""
    here = services()
    with here.database.write() as rows:
        jobs.request_cancel(rows, caller().team_id, path.job_id, now=here.now())
        audit(rows, "job.cancel", path.job_id)
        return answer(shown(here, rows, jobs.get_view(rows, caller().team_id, path.job_id)), 202)


@api.route("post", "/jobs/<string:job_id>/retry", requires=Access.SUBMIT, answers={202: JobOut}, problems=(409,))
def retry_job(path: JobPath) -> Response:
    """Queue a failed or cancelled job again; runs that succeeded stay as they are."""
    here = services()
    with here.database.write() as rows:
        jobs.retry(rows, caller().team_id, path.job_id, now=here.now())
        audit(rows, "job.retry", path.job_id)
        job = jobs.get_view(rows, caller().team_id, path.job_id)
        shown_job = shown(here, rows, job)
    here.enqueue(job.id, job.queue, job.priority)
    return answer(shown_job, 202)


@api.route("get", "/jobs/<string:job_id>/logs", requires=Access.READ, answers={200: LogPage})
def job_logs(path: JobPath, query: LogsQuery) -> Response:
    """The log lines of its workers, oldest first."""
    with services().database.read() as rows:
        after = key_of(query.after) or ""
        chunks = runs.log_chunks(rows, caller().team_id, path.job_id, after=after, limit=query.limit)
        lines = [LogLine.model_validate(line) for chunk in chunks for line in chunk.lines]
        return answer(LogPage(items=lines, next=cursor(chunks[-1].id if len(chunks) == query.limit else None)))


@api.route(
    "get",
    "/jobs/<string:job_id>/events",
    requires=Access.READ,
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

    def read() -> JobEvent:
        with here.database.read() as rows:
            return event_of(here, jobs.get_view(rows, team_id, path.job_id))

    if query.wait is not None:
        return answer(wait_for_change(read, since=query.since, seconds=query.wait))
    last = request.headers.get("Last-Event-ID", "")
    events = stream(
        here.revision_poller,
        path.job_id,
        read(),
        read,
        seen=int(last) if last.isdecimal() and len(last) < 18 else None,
        max_streams=here.settings.api_threads * STREAM_SHARE,
        stopping=here.stopping,
        disconnected=request.environ.get("waitress.client_disconnected", lambda: False),
    )
    response = Response(events, content_type="text/event-stream")
    response.headers["X-Accel-Buffering"] = "no"
    return response


def shown(here: Services, rows: Session, job: JobView) -> JobOut:
    """The response for a job."""
    return JobOut.model_validate(
        job._asdict() | {"eta_seconds": eta(job.due_at, here.now()), "tries": jobs.attempts(rows, job)},
    )


def event_of(here: Services, job: JobView) -> JobEvent:
    """The event with the present state of a job."""
    return JobEvent(
        revision=job.revision,
        id=job.id,
        state=job.state,
        progress=job.progress,
        eta_seconds=eta(job.due_at, here.now()),
        queue_position=job.queue_position,
        losses=job.losses,
        note=job.note,
        reason=job.reason,
    )


def eta(due_at: datetime | None, now: datetime) -> float | None:
    """Seconds to the end at the present pace; None while the pace is unknown."""
    return None if due_at is None else round(max(0.0, (due_at - now).total_seconds()), 1)
