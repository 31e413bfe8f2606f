"""How often one may ask: limits per token, counted in the broker so that all processes count together.

When the broker is away each process counts for itself, so that a limit never becomes an outage.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qs, urlsplit

from flask import Flask, request
from flask_limiter import Limiter
from flask_limiter.util import get_remote_address

from store.settings import NO_LIMIT, Settings

LOGIN = "signing_in.login"
# The addresses that a load balancer asks every few seconds, and files of pages, are not worth a count.
FREE = ("/healthz", "/readyz", "/static/", "/favicon.ico")


def install(app: Flask, settings: Settings) -> None:
    """Put the limits of the settings before every view of the app. Call it when all views are known."""
    if settings.rate_limit == settings.login_rate_limit == NO_LIMIT:
        return
    general = [] if settings.rate_limit == NO_LIMIT else [settings.rate_limit]
    app.config.update(
        RATELIMIT_HEADER_LIMIT="RateLimit-Limit",
        RATELIMIT_HEADER_REMAINING="RateLimit-Remaining",
        RATELIMIT_HEADER_RESET="RateLimit-Reset",
        RATELIMIT_HEADER_RETRY_AFTER="Retry-After",
        RATELIMIT_HEADER_RETRY_AFTER_VALUE="delta-seconds",
    )
    limiter = Limiter(
        _who,
        app=app,
        application_limits=general,  # type: ignore[arg-type]  # texts are taken too
        storage_uri=storage_address(settings.broker_url),
        storage_options={"socket_connect_timeout": 1, "socket_timeout": 1},
        strategy="sliding-window-counter",
        headers_enabled=True,
        swallow_errors=True,
        in_memory_fallback_enabled=True,
        key_prefix="bimt",
    )
    limiter.request_filter(lambda: request.path.startswith(FREE))
    if settings.login_rate_limit != NO_LIMIT:
        views: dict[str, Any] = app.view_functions
        limited = limiter.limit(settings.login_rate_limit, key_func=get_remote_address)
        views[LOGIN] = limited(views[LOGIN])


def storage_address(broker_url: str) -> str:
    """The broker's address as the counting library spells it: `redis+socket://PATH` is `redis+unix://PATH` there."""
    parts = urlsplit(broker_url)
    if parts.scheme == "redis+socket":
        number = parse_qs(parts.query).get("virtual_host", ["0"])[0]
        return f"redis+unix://{parts.path}?db={number}"
    if parts.scheme in ("redis", "rediss"):
        return broker_url
    return "memory://"


def _who() -> str:
    """Whose requests are counted together: those of one token, else of one session, else of one address."""
    header = request.headers.get("Authorization", "")
    if header.startswith("Bearer bimt_"):
        return f"token:{header[12:24]}"  # the public part of the token
    return f"address:{get_remote_address()}"
