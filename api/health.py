"""Health, readiness and metrics, for the operators of the service."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Literal

from flask import Flask, Response, g, request
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
from pydantic import Field

from api.aliases import READINESS_PARTS, with_old_keys
from api.auth import Access
from api.routing import Resource, answer, text
from api.schemas import ResponseModel
from api.services import Services, services
from store.files import damaged_files
from store.jobs import leases, outbox
from store.settings import OPERATION_QUEUES, TRAINING_QUEUES


class HealthOut(ResponseModel):
    """The process is running."""

    status: Literal["ok"] = "ok"


class Part(ResponseModel):
    """One part of the service."""

    ok: bool
    detail: str


class ReadyOut(ResponseModel):
    """Whether the whole service works, part by part."""

    ready: bool
    parts: dict[str, Part] = Field(
        description="database, files, broker, worker (of jobs) and operations (their worker); deprecated older "
        f"names: {', '.join(f'`{old}` of `{new}`' for new, old in READINESS_PARTS.items())}."
    )
    damaged_files: int = Field(
        default=0, description="Stored files that the scheduler found damaged or gone; the service works without them."
    )


access = logging.getLogger("api.access")  # `python -m api --access-log`

WORKER_SILENCE = timedelta(seconds=60)  # workers write a heartbeat every few seconds


def readiness(here: Services) -> ReadyOut:
    """Check every part. Without a worker the service is not ready: jobs or questions would wait."""
    parts = {
        "database": _try(lambda: _database(here)),
        "files": _try(lambda: _files(here)),
        "broker": _try(lambda: _broker(here)),
        "worker": _try(lambda: _worker(here, TRAINING_QUEUES, "jobs will wait")),
        "operations": _try(lambda: _worker(here, OPERATION_QUEUES, "questions to networks will wait")),
    }
    ready = all(part.ok for part in parts.values())
    damaged = _damaged_files(here) if parts["database"].ok else 0
    return ReadyOut(ready=ready, parts=with_old_keys(parts, READINESS_PARTS), damaged_files=damaged)


def _damaged_files(here: Services) -> int:
    with here.database.read() as rows:
        return len(damaged_files(rows, limit=1000))


def _try(check: Callable[[], str]) -> Part:
    try:
        return Part(ok=True, detail=check())
    except Exception as error:
        # Only the class of the error: its text may hold internal addresses and names.
        return Part(ok=False, detail=str(error) if isinstance(error, NotReady) else type(error).__name__)


class NotReady(Exception):
    """A part answers, but cannot be used."""


def _database(here: Services) -> str:
    return _must(here.database.answers(), "The database does not answer.")


def _files(here: Services) -> str:
    return _must(here.files.answers(), "The file store cannot be written to and read from.")


def _broker(here: Services) -> str:
    return _must(
        outbox.answers(here.settings.broker_url), "The broker does not answer; jobs are accepted and will wait."
    )


def _must(answers: bool, sentence: str) -> str:
    if not answers:
        raise NotReady(sentence)
    return "answers"


def _worker(here: Services, queues: tuple[str, ...], consequence: str) -> str:
    with here.database.read() as rows:
        seen = leases.workers(rows, seen_since=here.now() - WORKER_SILENCE)
    names = {worker.name for worker in seen if worker.queue in queues}
    if not names:
        raise NotReady(f"No worker of {' or '.join(queues)} has sent a heartbeat for a minute; {consequence}.")
    return f"{len(names)} running"


api = Resource("health", "Health and metrics, for the operators of the service.", prefix="")

REQUESTS = Counter("bimt_http_requests", "Requests answered.", ["address", "method", "status"])
SECONDS = Histogram(
    "bimt_http_seconds",
    "Time to an answer.",
    ["address"],
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 30),
)


@api.route("get", "/healthz", requires=Access.ANYONE, answers={200: HealthOut})
def healthz() -> Response:
    """The process is running. Nothing else is checked."""
    return answer(HealthOut())


@api.route("get", "/readyz", requires=Access.ANYONE, answers={200: ReadyOut, 503: ReadyOut})
def readyz() -> Response:
    """Whether database, broker and files answer, and a worker is there to claim work."""
    ready = readiness(services())
    return answer(ready, 200 if ready.ready else 503)


@api.route("get", "/metrics", requires=Access.ADMIN, answers={200: text("text/plain", "Prometheus' text format.")})
def metrics() -> Response:
    """Metrics in Prometheus' text format, of all processes together where PROMETHEUS_MULTIPROC_DIR is set."""
    registry = REGISTRY
    if os.environ.get("PROMETHEUS_MULTIPROC_DIR"):
        registry = CollectorRegistry()
        MultiProcessCollector(registry)
    return Response(generate_latest(registry), content_type=CONTENT_TYPE_LATEST)


def install_metrics(app: Flask) -> None:
    """Count and time every request of the app, by address and not by path, so that ids make no new series."""

    def begin() -> None:
        g.began = time.perf_counter()

    def end(response: Response) -> Response:
        address = request.url_rule.rule if request.url_rule else "none"
        REQUESTS.labels(address, request.method, response.status_code).inc()
        seconds = time.perf_counter() - getattr(g, "began", time.perf_counter())
        SECONDS.labels(address).observe(seconds)
        fields = {"status": response.status_code, "seconds": round(seconds, 4), "address": request.remote_addr}
        access.info("answered", extra={"fields": fields})
        return response

    app.before_request(begin)
    app.after_request(end)
