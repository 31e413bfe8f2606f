"""Signing in and out: a form that takes a token and gives a session."""

from __future__ import annotations

from flask import Blueprint, Response, make_response, redirect, render_template, request, session

from api.auth import SESSION_TOKEN, Access, check_csrf, decide
from api.services import services
from store.teams import authenticate

pages = Blueprint("signing_in", __name__, template_folder="templates")


@pages.get("/login")
@decide(Access.ANYONE)
def login_form() -> Response:
    """The form."""
    return make_response(render_template("login.html", wrong=False, target=_target()))


@pages.post("/login")
@decide(Access.ANYONE)
def login() -> Response:
    """Look at the token and begin a session that remembers which one it was."""
    check_csrf()
    here = services()
    text = request.form.get("token", "").strip()
    with here.database.read() as rows:
        who = authenticate(rows, text, here.now()) if text.isascii() else None
    if who is None:
        return make_response(render_template("login.html", wrong=True, target=_target()), 401)
    session.clear()
    session[SESSION_TOKEN] = who.token_id
    return redirect(_target(), 303)  # type: ignore[return-value]


@pages.post("/logout")
@decide(Access.ANYONE)
def logout() -> Response:
    """Forget the session."""
    check_csrf()
    session.clear()
    return redirect("/login", 303)  # type: ignore[return-value]


def _target() -> str:
    """Where to go afterwards: a path of ours, never another site's address."""
    asked = request.values.get("next", "/")
    ours = asked.startswith("/") and not asked.startswith(("//", "/\\")) and asked.isprintable() and "\\" not in asked
    return asked if ours and not asked.startswith(("/login", "/logout")) else "/"
