"""The Flask app: routes, pages, and what every request goes through."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

from flask import Flask, Request, Response, current_app, g, has_request_context, request
from flask.json.provider import DefaultJSONProvider
from flask.sessions import SecureCookieSession, SecureCookieSessionInterface
from flask_openapi3 import Info, OpenAPI
from pydantic import ValidationError
from werkzeug.middleware.proxy_fix import ProxyFix

from api import (
    artifacts,
    auth,
    client_wheel,
    datasets,
    health,
    jobs,
    models,
    networks,
    operations,
    pages,
    people,
    problems,
    recipes,
    runs,
    shares,
    uploads,
    versions,
    webhooks,
)
from api.auth import install_limits
from api.openapi import finished
from api.problems import Problem, field_errors, fields_problem
from api.routing import SECURITY_SCHEMES
from api.schemas import Problem as ProblemSchema
from api.schemas import place_of
from api.services import CHECK_WAIT_SECONDS, Services, utc_now
from store.database import Database
from store.files import Files
from store.jobs.outbox import enqueue as send_to_broker
from store.log import Event
from store.settings import Settings

VERSION = "0.1.0"

RESOURCES = (
    datasets.api,
    networks.api,
    uploads.api,
    recipes.api,
    jobs.api,
    runs.api,
    artifacts.api,
    operations.api,
    models.api,
    versions.api,
    shares.api,
    people.api,
    people.teams_api,
    webhooks.api,
    health.api,
)
MAX_JSON_DEPTH = 64
SECRET_PART = re.compile(r"/s/[^/?]+")  # the secret of a shared link is a part of its path

CONTENT_SECURITY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "worker-src 'self'; font-src 'self'; media-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HARDENING_OF_PAGES = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Content-Security-Policy": CONTENT_SECURITY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
HARDENING = HARDENING_OF_PAGES | {"Cache-Control": "no-store"}  # of answers to programs
ABOUT = """Train neural networks in the brain-inspired modular way, watch them separate into modules, and test what
each module is for. Send a token as `Authorization: Bearer bimt_…`. Everything that goes wrong is answered as
`application/problem+json`; each type of problem has a page."""


class Sessions(SecureCookieSessionInterface):
    """Signed cookies; a request without one, as programs send, gets an empty session at once."""

    def open_session(self, app: Flask, request: Request) -> SecureCookieSession | None:
        """The session of the cookie."""
        return super().open_session(app, request) if "HTTP_COOKIE" in request.environ else self.session_class()


class App(OpenAPI):
    """The web app, without work at each request that no view here needs."""

    session_interface = Sessions()

    def ensure_sync(self, func: Callable[..., Any]) -> Callable[..., Any]:
        """The same function: there are no asynchronous views here."""
        return func


def create_app(
    settings: Settings,
    *,
    database: Database | None = None,
    files: Files | None = None,
    send_message: Callable[[str, str, int], None] | None = None,
    now: Callable[[], datetime] = utc_now,
    check_wait_seconds: float = CHECK_WAIT_SECONDS,
) -> OpenAPI:
    """The web app. What is left out is made from the settings; nothing is connected before the first request.

    send_message        (job id, queue, priority) → sends the Celery message of a committed job
    check_wait_seconds  how long the request of an upload waits for its check
    """
    app = App(
        "api",
        info=Info(title="BIMT", version=VERSION, description=ABOUT),
        security_schemes=SECURITY_SCHEMES,
        validation_error_callback=_refuse_fields,
        doc_ui=False,
        static_folder=None,
    )
    app.json = StrictJson(app)
    app.config.update(
        SECRET_KEY=settings.secret_key or _secret_key(settings.home),
        MAX_CONTENT_LENGTH=settings.max_request_bytes,
        SESSION_COOKIE_SECURE=settings.secure_cookies,
        SESSION_COOKIE_NAME="bimt_session",
        SESSION_COOKIE_HTTPONLY=True,
        SESSION_COOKIE_SAMESITE="Lax",
        WTF_CSRF_TIME_LIMIT=None,  # as long as the session
        TRAP_HTTP_EXCEPTIONS=False,
        PROPAGATE_EXCEPTIONS=False,
    )
    if settings.trusted_proxies:
        hops = settings.trusted_proxies
        app.wsgi_app = ProxyFix(app.wsgi_app, x_for=hops, x_proto=hops, x_host=hops)  # type: ignore[method-assign]
    app.extensions["bimt"] = Services(
        settings=settings,
        database=database or Database(settings.database_url, pool=settings.database_pool),
        files=files or Files(settings.files_url, spool=settings.spool),
        send_message=send_message
        or (lambda job, queue, priority: send_to_broker(settings.broker_url, job, queue, priority)),
        now=now,
        check_wait_seconds=check_wait_seconds,
    )
    app.before_request(_name_request)
    health.install_metrics(app)
    auth.install_concurrency_limit(app)
    app.before_request(auth.guard)
    app.before_request(_read_json)
    app.after_request(_harden)
    for resource in RESOURCES:
        app.register_api(resource)
    client_wheel.install(app)
    pages.install(app)
    install_limits(app, settings)
    problems.install(app, pages.problem_page)
    app.components_schemas["Problem"] = ProblemSchema.model_json_schema(ref_template="#/components/schemas/{model}")
    app.spec_json = finished(app)
    return app


class StrictJson(DefaultJSONProvider):
    """JSON as the standard has it: no NaN, no Infinity, and bounded nesting."""

    sort_keys = False

    def loads(self, s: str | bytes, **options: object) -> object:
        """Raises ValueError for what is not JSON."""
        if _depth(s) > MAX_JSON_DEPTH:
            raise ValueError(f"more than {MAX_JSON_DEPTH} levels of brackets")
        try:
            return super().loads(s, parse_constant=_no_constant)
        except RecursionError:
            raise ValueError("too many levels of brackets") from None


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _depth(text: str | bytes) -> int:
    """An upper bound of how deep brackets are nested; brackets inside texts count too."""
    raw = text.encode("utf-8", "replace") if isinstance(text, str) else text
    deep = most = 0
    for bracket in re.findall(rb"[\[\]{}]", raw):
        deep += 1 if bracket in b"[{" else -1
        most = max(most, deep)
    return most


def _refuse_fields(error: ValidationError) -> None:
    """What flask-openapi3 found wrong, as our problem."""
    place = place_of(error.title)
    if place == "path":
        raise Problem("not-found", f"There is nothing at {request.path}: an id or name in it is wrong.")
    sent = {"body": lambda: request.get_json(silent=True), "header": lambda: dict(request.headers)}
    document = sent.get(place, lambda: dict(request.args))()
    errors = field_errors(error, document, place=place)
    raise fields_problem(errors)


def _name_request() -> None:
    """Every request has an id, which stands in the answer and in the log."""
    given = request.headers.get("X-Request-Id", "")
    g.request_id = given if re.fullmatch(r"[A-Za-z0-9._-]{8,64}", given) else secrets.token_hex(8)


def request_fields(_logger: Any, _method: str, event: Event) -> Event:
    """Add id, method and path of the request that is answered on this thread to a log record."""
    if has_request_context():
        path = shown_path(request.path)
        event.update({"request": getattr(g, "request_id", None), "method": request.method, "path": path})
    return event


def shown_path(path: str) -> str:
    """A path without the secret of a shared link."""
    return SECRET_PART.sub("/s/…", path)


def _read_json() -> None:
    """A JSON body that cannot be read is refused here, so that no view meets a half-read one."""
    if request.method not in ("POST", "PUT", "PATCH") or not problems.is_for_programs():
        return
    view = current_app.view_functions.get(request.endpoint or "")
    if getattr(view, "streams", False):
        return
    if not request.is_json:
        if getattr(view, "reads_json", False):
            raise Problem("media-type", f"{request.path} reads JSON; send it as Content-Type application/json.")
        return
    raw = request.get_data(cache=True)
    try:
        raw.decode("utf-8")
        request.get_json()
    except Exception as error:
        cause = error.__cause__ or error.__context__ or error
        raise Problem("malformed-request", f"The body is not JSON that can be read: {_in_words(cause)}.") from None


def _in_words(error: BaseException) -> str:
    if isinstance(error, UnicodeDecodeError):
        return "it is not UTF-8"
    text = getattr(error, "description", None) or str(error)
    return re.sub(r"^Failed to decode JSON object: ", "", text)[:200].rstrip(".")


def _harden(response: Response) -> Response:
    headers = response.headers
    headers["X-Request-Id"] = getattr(g, "request_id", "-")
    there = {name.lower() for name, _ in headers}
    of_a_member = request.path.startswith("/api/") or "caller" in g  # no browser keeps what only a member may see
    for name, value in (HARDENING if of_a_member else HARDENING_OF_PAGES).items():
        if name.lower() not in there:
            headers.add(name, value)
    return response


def _secret_key(home: Path) -> bytes:
    """The key that signs sessions: made once, readable by its owner only, shared by all processes of this home."""
    home.mkdir(parents=True, exist_ok=True)
    path = home / "secret"
    if not path.exists():
        fresh = home / f".secret.{secrets.token_hex(8)}"
        with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as out:
            out.write(secrets.token_bytes(32))
        with contextlib.suppress(FileExistsError):
            os.link(fresh, path)  # whole or not at all, and the first process wins
        fresh.unlink()
    return path.read_bytes()
