"""Pages about the service: signing in, the team, the API reference, types of problems; and the static files."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from flask import (
    Blueprint,
    Response,
    current_app,
    make_response,
    redirect,
    render_template,
    request,
    send_from_directory,
    session,
)

from api.auth import SESSION_TOKEN, Access, caller, check_csrf, decide, may, signed_in
from api.pages.filters import after
from api.problems import PROBLEM_TYPES, Problem
from api.services import services
from store import teams, webhooks
from store.jobs import usage

pages = Blueprint("site_pages", __name__, template_folder="templates")
signing_in = Blueprint("signing_in", __name__, template_folder="templates")

STATIC = Path(__file__).parent / "static"
GLOSSARY = Path(__file__).parents[2] / "docs" / "glossary.md"
# The order matters: a later sheet overrides an earlier one.
SHEETS = [
    f"{noun}.css"
    for noun in (
        *("colours", "text", "frame", "forms", "states", "tables"),
        *("runs", "network", "modules", "charts", "instrument", "reference"),
    )
]

# --- signing in ----------------------------------------------------------------------------------------


@signing_in.get("/login")
@decide(Access.ANYONE)
def login_form() -> Response:
    """The form that takes a token."""
    return make_response(render_template("login.html", wrong=False, target=_target()))


@signing_in.post("/login")
@decide(Access.ANYONE)
def login() -> Response:
    """Begin a session for the token of the form; 401 and the form again where it is not valid."""
    check_csrf()
    text = request.form.get("token", "").strip()
    now = services().now()
    with services().database.read() as rows:
        who = teams.authenticate(rows, text, now) if text.isascii() else None
    if who is None:
        return make_response(render_template("login.html", wrong=True, target=_target()), 401)
    with services().database.write() as rows:
        begun = teams.begin_session(rows, who, now)
    session.clear()
    session[SESSION_TOKEN] = begun
    return redirect(_target(), 303)  # type: ignore[return-value]


@signing_in.post("/logout")
@decide(Access.ANYONE)
def logout() -> Response:
    """End the session, on the server: its cookie is worth nothing from now on."""
    check_csrf()
    if (who := signed_in()) is not None:
        with services().database.write() as rows:
            teams.revoke_token(rows, who.team_id, who.token_id, services().now())
    session.clear()
    return redirect("/login", 303)  # type: ignore[return-value]


def _target() -> str:
    """The page to go to after signing in: a path of this service, never an address of another site."""
    target = request.values.get("next", "/")
    ours = (
        target.startswith("/") and not target.startswith(("//", "/\\")) and target.isprintable() and "\\" not in target
    )
    return target if ours and not target.startswith(("/login", "/logout")) else "/"


# --- the team -------------------------------------------------------------------------------------------

SCOPES = {
    "read": "read everything of the team",
    "submit": "upload data and train",
    "share": "publish, write notes, make links",
    "admin": "everything, members too",
}
ROLES = {"admin": "everything, members too", "member": "everything but members", "reader": "read only"}


@pages.get("/team")
@decide(Access.READ)
def team_page() -> str:
    """The team: quotas, tokens of the caller, members, webhooks, and the audit log for admins."""
    who = caller()
    with services().database.read() as rows:
        team, used = teams.get_team(rows, who.team_id), usage(rows, who.team_id)
        members = teams.page_members(rows, who.team_id, after=after("members"), limit=100)
        tokens = teams.page_tokens(rows, who.team_id, member_id=who.member_id, limit=100).rows
        log = teams.page_audit(rows, who.team_id, after=after("log"), limit=30) if may(who, Access.ADMIN) else None
        names = teams.names(rows, {line.member_id for line in log.rows if line.member_id}) if log else {}
        hooks = webhooks.page(rows, who.team_id, limit=100).rows if may(who, Access.SHARE) else []
        sent = {hook.id: webhooks.deliveries(rows, who.team_id, hook.id, limit=5).rows for hook in hooks}
        me = teams.get_member(rows, who.team_id, who.member_id)
        return render_template(
            "team.html",
            team=team,
            me=me,
            my_token=who.api_token_id,
            quotas=[
                _quota("Jobs that wait or run", used.queued_jobs, team.max_queued_jobs),
                _quota("Steps of training that wait or run", used.queued_steps, team.max_queued_steps),
                _quota("Stored", used.stored_bytes, team.max_stored_bytes, in_bytes=True),
            ],
            members=members.rows,
            more_members=members.after,
            roles=ROLES,
            tokens=tokens,
            scopes={scope: SCOPES[scope] for scope in SCOPES if scope in who.scopes or "admin" in who.scopes},
            webhooks=hooks,
            sent=sent,
            events=webhooks.EVENTS,
            log=log,
            names=names,
        )


def _quota(what: str, used: int, limit: int | None, *, in_bytes: bool = False) -> dict[str, Any]:
    share = None if limit is None else min(1.0, used / limit) if limit else 1.0
    return {"what": what, "used": used, "limit": limit, "share": share, "in_bytes": in_bytes}


# --- the API reference, problems, static files ------------------------------------------------------------


@pages.get("/docs")
@decide(Access.ANYONE)
def docs() -> str:
    """The API reference, made from the OpenAPI document."""
    return render_template("docs.html", groups=operations(_document()), document=_document())


@pages.get("/openapi.json")
@decide(Access.ANYONE)
def openapi() -> Response:
    """The OpenAPI document."""
    return Response(json.dumps(_document(), ensure_ascii=False), content_type="application/json")


@pages.get("/problems")
@decide(Access.ANYONE)
def problem_list() -> str:
    """Every type of problem."""
    return render_template("problems.html", kinds=PROBLEM_TYPES.values())


@pages.get("/problems/<string:slug>")
@decide(Access.ANYONE)
def problem_kind(slug: str) -> str:
    """One type of problem, explained. The `type` of a problem document leads here."""
    if slug not in PROBLEM_TYPES:
        raise Problem("not-found", f"There is no type of problem called {slug[:60]}.")
    return render_template("problems.html", kinds=[PROBLEM_TYPES[slug]], single=True)


@pages.get("/glossary")
@decide(Access.ANYONE)
def glossary_page() -> str:
    """The glossary, by subject."""
    return render_template("glossary.html", subjects=glossary())


@pages.get("/glossary.json")
@decide(Access.ANYONE)
def glossary_document() -> Response:
    """Word → definition, for the scripts of the pages."""
    found = {word: text for _, words in glossary() for word, text in words}
    response = Response(json.dumps(found, ensure_ascii=False), content_type="application/json")
    response.headers["Cache-Control"] = "public, max-age=3600"
    return response


@cache
def glossary() -> list[tuple[str, list[tuple[str, str]]]]:
    """(subject, (word, definition)) of the glossary; a row that defines several words gives one entry for each."""
    subjects: list[tuple[str, list[tuple[str, str]]]] = []
    for line in GLOSSARY.read_text(encoding="utf-8").splitlines():
        if line.startswith("## "):
            subjects.append((line[3:], []))
        elif line.startswith("| **") and subjects:
            cells = [cell.strip().replace("\\*", "∗") for cell in re.split(r"(?<!\\)\|", line.strip("|"))]
            text = cells[1].replace("`", "").replace("*", "").replace("\\|", "|").replace("∗", "*")
            words = re.findall(r"\*\*(.+?)\*\*", cells[0])
            subjects[-1][1].extend((word.replace("∗", "*"), text) for word in words)
    return subjects


@pages.get("/static/<path:name>")
@decide(Access.ANYONE)
def static(name: str) -> Response:
    """Style sheets and scripts. With the version in their address browsers may keep them for a week."""
    response = send_from_directory(STATIC, name)
    response.headers["Cache-Control"] = "public, max-age=604800" if request.args.get("v") else "public, max-age=60"
    return response


@pages.get("/favicon.ico")
@decide(Access.ANYONE)
def favicon() -> Response:
    """The icon of the browser tab."""
    return static("icon.svg")


@cache
def version() -> str:
    """A version of all static files, which changes when one of them changes."""
    return f"{max(int(p.stat().st_mtime) for p in STATIC.rglob('*') if p.is_file()):x}"


def _document() -> dict[str, Any]:
    document: dict[str, Any] = current_app.spec_json  # type: ignore[attr-defined]
    return document


@dataclass(frozen=True)
class Operation:
    """One operation of the OpenAPI document as the API reference shows it.

    parameters   (name, place, required, description).
    answers      (status, description, media types).
    """

    method: str
    path: str
    summary: str
    description: str
    needs: str
    parameters: list[tuple[str, str, bool, str]]
    body: list[str]
    answers: list[tuple[str, str, str]]


def operations(document: Mapping[str, Any]) -> list[tuple[str, str, list[Operation]]]:
    """(tag, its description, its operations) from the OpenAPI document."""
    groups: dict[str, list[Operation]] = {tag["name"]: [] for tag in document.get("tags", [])}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            groups.setdefault((operation.get("tags") or ["other"])[0], []).append(
                _operation(method, path, operation, document)
            )
    about = {tag["name"]: tag.get("description", "") for tag in document.get("tags", [])}
    return [(name, about.get(name, ""), found) for name, found in groups.items() if found]


def _operation(method: str, path: str, operation: Mapping[str, Any], document: Mapping[str, Any]) -> Operation:
    parameters = [
        (
            p["name"],
            p["in"],
            bool(p.get("required")),
            p.get("description") or p.get("schema", {}).get("description", ""),
        )
        for p in operation.get("parameters", [])
    ]
    answers = []
    for status, found in sorted(operation["responses"].items()):
        if "$ref" in found:
            found = document["components"]["responses"][found["$ref"].rsplit("/", 1)[-1]]
        kinds = ", ".join((found.get("content") or {}).keys())
        answers.append((status, found.get("description", ""), kinds))
    return Operation(
        method=method,
        path=path,
        summary=operation.get("summary", ""),
        description=operation.get("description", ""),
        needs=operation.get("x-needs", ""),
        parameters=parameters,
        body=sorted((operation.get("requestBody") or {}).get("content", {})),
        answers=answers,
    )
