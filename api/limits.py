"""How often one may ask: limits per token, counted in the broker so that all processes count together.

Every answer tells where its limit stands, in the headers of the IETF (draft-ietf-httpapi-ratelimit-headers-10):
`RateLimit-Policy: "token";q=6000;w=60` and `RateLimit: "token";r=5999;t=12`. When the broker is away each process
counts for itself, so that a limit never becomes an outage.
"""

from __future__ import annotations

import logging
import time
from typing import Any
from urllib.parse import parse_qs, urlsplit

from flask import Flask, Response, request, session
from flask_limiter import Limiter
from flask_limiter.util import get_remote_address

from api.auth import SESSION_TOKEN
from store.settings import NO_LIMIT, Settings

log = logging.getLogger("api")

LOGIN = "signing_in.login"
# The addresses that a load balancer asks every few seconds, and files of pages, are not worth a count.
FREE = ("/healthz", "/readyz", "/static/", "/favicon.ico")


def install(app: Flask, settings: Settings) -> None:
    """Put the limits of the settings before every view of the app. Call it when all views are known."""
    if settings.rate_limit == settings.login_rate_limit == NO_LIMIT:
        return
    general = [] if settings.rate_limit == NO_LIMIT else [settings.rate_limit]
    limiter = Limiter(
        _who,
        app=app,
        application_limits=general,  # type: ignore[arg-type]  # texts are taken too
        storage_uri=storage_address(settings.broker_url),
        storage_options={"socket_connect_timeout": 1, "socket_timeout": 1},
        strategy="sliding-window-counter",
        swallow_errors=True,
        in_memory_fallback_enabled=True,
        key_prefix="bimt",
    )
    limiter.request_filter(lambda: request.path.startswith(FREE))
    if settings.login_rate_limit != NO_LIMIT:
        views: dict[str, Any] = app.view_functions
        limited = limiter.limit(settings.login_rate_limit, key_func=get_remote_address)
        views[LOGIN] = limited(views[LOGIN])
    app.after_request(lambda response: _tell(limiter, response))


def _tell(limiter: Limiter, response: Response) -> Response:
    """The answer, with the limits that it counted against. Where nobody can say how they stand, nothing is said."""
    policies, states, wait = [], [], 0
    try:
        for one in limiter.current_limits:
            name = "token" if one.shared else "sign-in"
            left = max(0, one.reset_at - int(time.time()))
            policies.append(f'"{name}";q={one.limit.amount};w={one.limit.get_expiry()}')
            states.append(f'"{name}";r={max(0, one.remaining)};t={left}')
            wait = max(wait, left) if one.breached else wait
    except Exception as error:
        log.debug("the limits could not be read: %s", error)
        return response
    if policies:
        response.headers["RateLimit-Policy"] = ", ".join(policies)
        response.headers["RateLimit"] = ", ".join(states)
    if wait and response.status_code == 429:
        response.headers["Retry-After"] = str(wait)
    return response


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
    if isinstance(token_id := session.get(SESSION_TOKEN), str):
        return f"session:{token_id}"
    return f"address:{get_remote_address()}"
