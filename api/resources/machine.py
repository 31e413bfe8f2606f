"""Addresses for those who run the service: health, readiness, numbers."""

from __future__ import annotations

import os
import time

from flask import Flask, Response, g, request
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from api.auth import Access
from api.door import Noun, answer, text
from api.readiness import look
from api.schemas.machine import HealthOut, ReadyOut
from api.services import services

api = Noun("machine", "Health and numbers, for those who run the service.", prefix="")

REQUESTS = Counter("bimt_http_requests", "Requests answered.", ["address", "method", "status"])
SECONDS = Histogram(
    "bimt_http_seconds",
    "Time to an answer.",
    ["address"],
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 30),
)


@api.at("get", "/healthz", needs=Access.ANYONE, answers={200: HealthOut})
def healthz() -> Response:
    """The process lives. It looks at nothing else."""
    return answer(HealthOut())


@api.at("get", "/readyz", needs=Access.ANYONE, answers={200: ReadyOut, 503: ReadyOut})
def readyz() -> Response:
    """Whether database, broker and files answer, and a worker is there to claim work."""
    ready = look(services())
    return answer(ready, 200 if ready.ready else 503)


@api.at("get", "/metrics", needs=Access.ADMIN, answers={200: text("text/plain", "Prometheus' text format.")})
def metrics() -> Response:
    """Numbers in Prometheus' text format, of all processes together."""
    registry = REGISTRY
    if os.environ.get("PROMETHEUS_MULTIPROC_DIR"):
        registry = CollectorRegistry()
        MultiProcessCollector(registry)
    return Response(generate_latest(registry), content_type=CONTENT_TYPE_LATEST)


def install(app: Flask) -> None:
    """Count and time every request of the app, by address and not by path, so that ids make no new series."""

    def begin() -> None:
        g.began = time.perf_counter()

    def end(response: Response) -> Response:
        address = request.url_rule.rule if request.url_rule else "none"
        REQUESTS.labels(address, request.method, response.status_code).inc()
        SECONDS.labels(address).observe(time.perf_counter() - getattr(g, "began", time.perf_counter()))
        return response

    app.before_request(begin)
    app.after_request(end)
