"""Who calls, whether they may, how often, how many at once, and the audit line of every change."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from enum import Enum
from typing import Any, TypeVar
from urllib.parse import parse_qs, urlsplit

from flask import Flask, Response, current_app, g, request, session
from flask_limiter import Limiter
from flask_limiter.util import get_remote_address
from flask_wtf.csrf import CSRFError, validate_csrf
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from api.problems import Problem, wrong
from api.services import services
from store import teams as audit_log
from store.settings import NO_LIMIT, Settings
from store.teams import Caller, authenticate, caller_of_session, note_use

log = logging.getLogger("api.auth")
View = TypeVar("View", bound=Callable[..., Any])
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
SESSION_TOKEN = "token_id"  # the session remembers which token signed in, never the token itself


class Access(Enum):
    """What an address requires of its caller. The scopes are those of the tokens; `admin` may do everything."""

    ANYONE = "anyone"
    MEMBER = "member"  # any valid token
    READ = "read"
    SUBMIT = "submit"
    SHARE = "share"
    ADMIN = "admin"


SCOPES = ("read", "submit", "share", "admin")


def decide(access: Access) -> Callable[[View], View]:
    """The decision on one address. An address without one refuses every caller."""

    def decorate(view: View) -> View:
        view.access = access  # type: ignore[attr-defined]
        return view

    return decorate


def access_of(app: Flask, endpoint: str) -> Access | None:
    """What was decided for an endpoint; None: nothing."""
    return getattr(app.view_functions.get(endpoint), "access", None)


def decisions(app: Flask) -> list[tuple[str, str, Access | None]]:
    """(method, rule, decision) of every address of the app: the table that is shown and tested."""
    rows = []
    for rule in app.url_map.iter_rules():
        for method in sorted((rule.methods or set()) - {"HEAD", "OPTIONS"}):
            rows.append((method, rule.rule, access_of(app, rule.endpoint)))
    return sorted(rows, key=lambda row: (row[1], row[0]))


def may(caller: Caller, access: Access) -> bool:
    """Whether the scopes of the caller's token allow this."""
    return access in (Access.ANYONE, Access.MEMBER) or "admin" in caller.scopes or access.value in caller.scopes


def caller() -> Caller:
    """The caller. Only views of addresses that need a token may call this."""
    found: Caller = g.caller
    return found


def guard() -> None:
    """Before every request: let it in or raise the problem."""
    if request.routing_exception is not None:
        return  # there is no such address; the router's own 404 or 405 follows
    access = access_of(current_app, request.endpoint or "")
    if access is None:
        raise Problem("scope", f"No access rule is declared for {request.path}, so it is refused.")
    if access is Access.ANYONE:
        return
    who = _identify()
    g.caller = who
    if who.use_is_stale:
        _note_use(who)
    if not may(who, access):
        raise Problem(
            "scope",
            f"This needs a token with the scope `{access.value}`; yours has {', '.join(sorted(who.scopes)) or 'none'}.",
            [wrong("/Authorization", f"The token lacks the scope `{access.value}`.", place="header")],
        )


def signed_in() -> Caller | None:
    """The member who is signed in with this browser; None: not signed in."""
    identifier = session.get(SESSION_TOKEN)
    if not isinstance(identifier, str):
        return None
    here = services()
    with here.database.read() as rows:
        return caller_of_session(rows, identifier, now=here.now())


def _identify() -> Caller:
    header = request.headers.get("Authorization")
    if header is not None:
        # With this header the cookie counts for nothing, so that a foreign page cannot ride on a session.
        scheme, _, text = header.partition(" ")
        text = text.strip()
        if scheme.lower() != "bearer" or not text or not text.isascii():
            raise _stranger("The header Authorization must read `Bearer bimt_…`.")
        here = services()
        with here.database.read() as rows:
            found = authenticate(rows, text, now=here.now())
        if found is None:
            raise _stranger("This token is unknown, expired or revoked.")
        return found
    found = signed_in()
    if found is None:
        raise _stranger("Send `Authorization: Bearer bimt_…`, or sign in on the page /login.")
    if request.method not in SAFE_METHODS:
        _check_csrf()
    return found


def _note_use(who: Caller) -> None:
    """Remember that the token is in use; where that cannot be written, the request continues."""
    here = services()
    try:
        with here.database.write() as rows:
            note_use(rows, who, here.now())
    except (SQLAlchemyError, TimeoutError) as error:
        log.warning("the use of %s could not be noted: %s", who.token_id, error)


def _stranger(sentence: str) -> Problem:
    return Problem("no-token", sentence, [wrong("/Authorization", sentence, place="header")])


def _check_csrf() -> None:
    """The CSRF token: in the header for scripts of our pages, in the form for plain forms.

    The form is read only where it is small; an upload must not be swallowed here before its view reads it.
    """
    token = request.headers.get("X-CSRFToken")
    if token is None and request.mimetype == "application/x-www-form-urlencoded":
        token = request.form.get("csrf_token")
    try:
        validate_csrf(token)
    except Exception as error:  # flask-wtf raises ValidationError of wtforms, CSRFError is raised by its own extension
        if not isinstance(error, CSRFError) and type(error).__name__ != "ValidationError":
            raise
        raise Problem(
            "csrf", "The CSRF token of this browser session is missing or old; load the page again."
        ) from None


check_csrf = _check_csrf


log = logging.getLogger("api")

LOGIN = "signing_in.login"
# The addresses that a load balancer asks every few seconds, and files of pages, are not worth a count.
FREE = ("/healthz", "/readyz", "/static/", "/favicon.ico")
BUSY = "The service has more requests than it can answer at the moment; send this one again a little later."


class ConcurrencyLimit:
    """So many requests of a process are worked on at once; the others wait for their turn in the order of arrival.

    Its threads take turns at the interpreter, so beginning a crowd of requests at once makes all of them slower, and
    which is answered next is chance. A request that takes longer than `long_seconds` no longer counts: streams, long
    polls and downloads delay no other request. One that has waited for `longest_wait` seconds is refused.
    docs/decisions/0039-sixteen-requests-at-a-time.md has the measurements.
    """

    def __init__(self, *, at_once: int = 16, long_seconds: float = 0.2, longest_wait: float = 1.0) -> None:
        self._at_once, self._long_seconds, self._longest_wait = at_once, long_seconds, longest_wait
        self._lock = threading.Lock()
        self._began: dict[threading.Event, float] = {}  # of the requests that are worked on and count
        self._waiting: deque[threading.Event] = deque()
        self._some_wait = threading.Event()
        self._watcher: threading.Thread | None = None

    def enter(self) -> threading.Event:
        """Wait for this request's turn. Returns what `leave` is given at its end. Raises Problem."""
        mine = threading.Event()
        with self._lock:
            self._waiting.append(mine)
            self._admit()
            if mine.is_set():
                return mine
            self._some_wait.set()
            if self._watcher is None:  # made here, not before a fork
                self._watcher = threading.Thread(target=self._watch, name="long requests", daemon=True)
                self._watcher.start()
        if not mine.wait(self._longest_wait):
            with self._lock:
                if not mine.is_set():
                    self._waiting.remove(mine)
                    raise Problem("unavailable", BUSY, headers={"Retry-After": "1"})
        return mine

    def leave(self, entered: threading.Event) -> None:
        """The request has been answered, or its answer is streamed from now on."""
        with self._lock:
            self._began.pop(entered, None)
            self._admit()

    def _admit(self) -> None:
        """Let in as many as there is room for. Called with the lock held."""
        now = time.monotonic()
        while self._waiting and (len(self._began) < self._at_once or self._forget_long(now)):
            first = self._waiting.popleft()
            self._began[first] = now
            first.set()

    def _forget_long(self, now: float) -> bool:
        """Whether a request takes so long that it no longer counts."""
        counted = {one: began for one, began in self._began.items() if began > now - self._long_seconds}
        found, self._began = len(counted) < len(self._began), counted
        return found

    def _watch(self) -> None:
        """While requests wait, look now and then whether those that are worked on take long."""
        while self._some_wait.wait():
            time.sleep(self._long_seconds)
            with self._lock:
                self._admit()
                if not self._waiting:
                    self._some_wait.clear()


def install_concurrency_limit(app: Flask) -> None:
    """Put a `ConcurrencyLimit` before every request of the app but those of FREE."""
    limit = ConcurrencyLimit()

    def enter() -> None:
        if not request.path.startswith(FREE):
            g.admitted = limit.enter()

    def leave(_error: BaseException | None) -> None:
        if "admitted" in g:
            limit.leave(g.admitted)

    app.before_request(enter)
    app.teardown_request(leave)


def install_limits(app: Flask, settings: Settings) -> None:
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
    app.after_request(lambda response: _with_limits(limiter, response))


def _with_limits(limiter: Limiter, response: Response) -> Response:
    """The response, with the state of the limits that it counted against; unchanged where that is unknown."""
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


def audit(rows: Session, action: str, thing_id: str | None = None, **detail: Any) -> None:
    """Add a line to the audit log, in the transaction of the change that it is about.

    action   resource.verb, such as `job.cancel`
    detail   JSON values that say more; never a secret
    """
    who = caller()
    audit_log.record_audit(
        rows,
        team_id=who.team_id,
        member_id=who.member_id,
        action=action,
        now=services().now(),
        thing_id=thing_id,
        address=request.remote_addr,
        detail=detail or None,
    )
