"""The web pages: server-rendered from the same rows as the API, with a few ES modules and no build step."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from flask import Flask, Response, g, make_response, redirect, render_template, request
from flask_wtf.csrf import generate_csrf

from api.auth import Access, Caller, may, signed_in
from api.pages import filters, jobs, networks, runs, site
from api.problems import Problem
from api.services import services
from bimt_engine.analysis.statements import interior, network, wording
from store import teams


def install(app: Flask) -> None:
    """Register all pages, and what their templates need, with the app."""
    for part in (runs.pages, jobs.pages, networks.pages, site.signing_in, site.pages):
        app.register_blueprint(part)
    app.context_processor(_context)
    app.jinja_env.filters.update(
        age=filters.age,
        brief=filters.brief,
        caption=filters.caption,
        code=filters.code,
        data_label=filters.data_label,
        duration=filters.duration,
        figure_name=filters.figure_name,
        listed=wording.listed,
        markdown=filters.markdown,
        measured=wording.measured,
        method=filters.method_name,
        metric=wording.metric_label,
        nearly=filters.nearly,
        number=wording.number,
        said=filters.said,
        size=filters.size,
        timestamp=filters.timestamp,
        typeset=filters.typeset,
    )
    app.jinja_env.globals["supported_means"] = network.SUPPORTED_MEANS
    app.jinja_env.globals["supported_groups_mean"] = interior.SUPPORTED_GROUPS_MEAN
    app.jinja_env.globals["ablated_on"] = network.ABLATED_ON
    app.jinja_env.trim_blocks = app.jinja_env.lstrip_blocks = True


def problem_page(problem: Problem) -> Response:
    """A problem as a page; a caller who is not signed in is sent to the form for it."""
    if problem.kind.status == 401 and request.method == "GET":
        target = request.full_path.rstrip("?")
        return redirect(f"/login?next={quote(target, safe='')}" if target != "/" else "/login")  # type: ignore[return-value]
    response = make_response(render_template("problem.html", problem=problem), problem.kind.status)
    response.headers.update(problem.headers)
    return response


def _context() -> dict[str, Any]:
    """The variables of every template."""
    found = getattr(g, "caller", None)
    if found is None and getattr(g, "may_look_up", True):
        found = _signed_in_or_none()
    name = None
    if found is not None:
        with services().database.read() as rows:
            name = teams.get_member(rows, found.team_id, found.member_id).name
    return {
        "member_name": name,
        "may_submit": found is not None and may(found, Access.SUBMIT),
        "may_share": found is not None and may(found, Access.SHARE),
        "may_admin": found is not None and may(found, Access.ADMIN),
        "csrf_token": generate_csrf,
        "version": site.version(),
        "sheets": site.SHEETS,
        "now": services().now(),
        "path": request.path,
    }


def _signed_in_or_none() -> Caller | None:
    """Who is signed in; None also without a database, so that the page that reports this can be shown."""
    try:
        return signed_in()
    except Exception:
        return None
