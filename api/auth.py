"""Who asks, and whether they may: bearer tokens for programs, sessions with CSRF for browsers, a decision for each."""

from __future__ import annotations

import logging
from collections.abc import Callable
from enum import Enum
from typing import Any, TypeVar

from flask import Flask, current_app, g, request, session
from flask_wtf.csrf import CSRFError, validate_csrf
from sqlalchemy.exc import SQLAlchemyError

from api.problems import Problem, wrong
from api.services import services
from store.teams import Caller, authenticate, caller_of_token, note_use

log = logging.getLogger("api.auth")
View = TypeVar("View", bound=Callable[..., Any])
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
SESSION_TOKEN = "token_id"  # the session remembers which token signed in, never the token itself


class Access(Enum):
    """What an address asks of its caller. The scopes are those of the tokens; `admin` may do everything."""

    ANYONE = "anyone"
    MEMBER = "member"  # any valid token
    READ = "read"
    SUBMIT = "submit"
    SHARE = "share"
    ADMIN = "admin"


SCOPES = ("read", "submit", "share", "admin")


def decide(access: Access) -> Callable[[View], View]:
    """The decision on one address. An address without one is refused to everybody."""

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
    """Who asks. Only views of addresses that need a token may call this."""
    found: Caller = g.caller
    return found


def guard() -> None:
    """Before every request: let it in or raise the problem."""
    if request.routing_exception is not None:
        return  # there is no such address; the router's own 404 or 405 follows
    access = access_of(current_app, request.endpoint or "")
    if access is None:
        raise Problem("scope", f"Nobody has decided who may use {request.path}; so nobody may.")
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
    """Who is signed in with this browser, if anybody."""
    identifier = session.get(SESSION_TOKEN)
    if not isinstance(identifier, str):
        return None
    here = services()
    with here.database.read() as rows:
        return caller_of_token(rows, identifier, now=here.now())


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
    """Remember that the token is in use; where that cannot be written, the request goes on all the same."""
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
