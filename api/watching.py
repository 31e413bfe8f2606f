"""Jobs as they change: for streams of events and for long polls."""

from __future__ import annotations

import time
from collections.abc import Iterator

from api.board import LOOK_EVERY
from api.schemas.jobs import JobEvent
from api.services import Services
from store import jobs
from store.errors import NotFound
from store.job_now import JobNow
from store.job_tables import FINAL_STATES

BEAT_EVERY = 15.0  # seconds; proxies drop a line that is silent for longer than a minute
STREAM_SHARE = 0.75  # of the threads of a process; the rest answers everything else
LONGEST_STREAM = 3600.0  # seconds; the client comes back with Last-Event-ID


def event_of(here: Services, job: JobNow) -> JobEvent:
    """What a listener hears of a job."""
    return JobEvent(
        revision=job.revision,
        id=job.id,
        state=job.state,
        progress=job.progress,
        eta_seconds=eta(here, job),
        queue_position=job.queue_position,
        losses=job.losses,
        note=job.note,
        reason=job.reason,
    )


def wait_for_change(here: Services, team_id: str, job_id: str, *, since: int | None, seconds: float) -> JobEvent:
    """The job as soon as its revision is another than `since`, or after so many seconds."""
    end = time.monotonic() + seconds
    while True:
        with here.database.read() as rows:
            event = event_of(here, jobs.look(rows, team_id, job_id))
        if since is None or event.revision != since or event.state in FINAL_STATES or time.monotonic() >= end:
            return event
        time.sleep(min(LOOK_EVERY, max(0.0, end - time.monotonic())))


def events(here: Services, team_id: str, job_id: str, *, first: JobEvent, seen: int | None) -> Iterator[str]:
    """Server-sent events until the job has ended. `seen`: the revision that the client knows already.

    Each stream holds a thread. When streams hold most of them, a further one tells what is new, ends, and has its
    client come back: to another process, or as in a poll until there is room.
    """
    room = here.board.listeners < here.settings.api_threads * STREAM_SHARE
    yield f"retry: {2000 if room else 1000}\n\n"
    event, last = first, seen
    beat = end = time.monotonic()
    end += LONGEST_STREAM
    with here.board.watching(job_id):
        while True:
            if event.revision != last:
                last = event.revision
                beat = time.monotonic()
                word = "end" if event.state in FINAL_STATES else "job"
                yield f"id: {event.revision}\nevent: {word}\ndata: {event.model_dump_json()}\n\n"
            if event.state in FINAL_STATES or time.monotonic() > end or not room:
                return
            if time.monotonic() - beat > BEAT_EVERY:
                beat = time.monotonic()
                yield ": still here\n\n"
            time.sleep(LOOK_EVERY)
            if here.board.revision(job_id) == event.revision:
                continue
            try:
                with here.database.read() as rows:
                    event = event_of(here, jobs.look(rows, team_id, job_id))
            except NotFound:
                return  # deleted meanwhile


def eta(here: Services, job: JobNow) -> float | None:
    """Seconds to the end if it goes on as it does; None before there is a pace."""
    if job.due_at is None:
        return None
    return round(max(0.0, (job.due_at - here.now()).total_seconds()), 1)
