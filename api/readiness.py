"""Whether the whole service works, part by part, each within a second."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

from api.schemas.machine import Part, ReadyOut
from api.services import Services
from store import presence, queue
from store.job_tables import ERRAND_QUEUES, TRAINING_QUEUES

WORKER_SILENCE = timedelta(seconds=60)  # a worker says every few seconds that it is there


def look(here: Services) -> ReadyOut:
    """Look at every part. A worker that is away makes the service not ready: jobs or questions would wait."""
    parts = {
        "database": _try(lambda: _database(here)),
        "files": _try(lambda: _files(here)),
        "broker": _try(lambda: _broker(here)),
        "worker": _try(lambda: _worker(here, TRAINING_QUEUES, "jobs will wait")),
        "errands": _try(lambda: _worker(here, ERRAND_QUEUES, "questions to networks will wait")),
    }
    return ReadyOut(ready=all(part.ok for part in parts.values()), parts=parts)


def _try(check: Callable[[], str]) -> Part:
    try:
        return Part(ok=True, detail=check())
    except Exception as error:
        # The kind of error alone: its text may hold addresses and names that are nobody's business.
        return Part(ok=False, detail=str(error) if isinstance(error, NotThere) else type(error).__name__)


class NotThere(Exception):
    """A part answers, but says no."""


def _database(here: Services) -> str:
    return _must(here.database.answers(), "The database does not answer.")


def _files(here: Services) -> str:
    return _must(here.files.answers(), "The file store cannot be written to and read from.")


def _broker(here: Services) -> str:
    return _must(
        queue.answers(here.settings.broker_url), "The broker does not answer; jobs are accepted and will wait."
    )


def _must(answers: bool, sentence: str) -> str:
    if not answers:
        raise NotThere(sentence)
    return "answers"


def _worker(here: Services, queues: tuple[str, ...], else_what: str) -> str:
    with here.database.read() as rows:
        there = presence.workers(rows, seen_since=here.now() - WORKER_SILENCE)
    names = {worker.name for worker in there if worker.queue in queues}
    if not names:
        raise NotThere(f"No worker of {' or '.join(queues)} has been heard of for a minute; {else_what}.")
    return f"{len(names)} at work or waiting"
