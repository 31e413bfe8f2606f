"""Pages that explain: every address, every kind of problem; and the files that all pages use."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from flask import Blueprint, Response, current_app, render_template, request, send_from_directory

from api.auth import Access, decide
from api.problems import KINDS, Problem
from api.web import reading

pages = Blueprint("help", __name__, template_folder="templates")
STATIC = Path(__file__).parent / "static"
# In this order: what comes later counts more.
SHEETS = [
    f"{noun}.css"
    for noun in (
        *("colours", "text", "frame", "forms", "states", "tables"),
        *("runs", "network", "modules", "charts", "addresses"),
    )
]


@pages.get("/docs")
@decide(Access.ANYONE)
def docs() -> str:
    """Every address, from the OpenAPI document."""
    return render_template("docs.html", groups=reading.addresses(_document()), document=_document())


@pages.get("/openapi.json")
@decide(Access.ANYONE)
def openapi() -> Response:
    """The OpenAPI document."""
    return Response(json.dumps(_document(), ensure_ascii=False), content_type="application/json")


@pages.get("/problems")
@decide(Access.ANYONE)
def problem_list() -> str:
    """Every kind of problem."""
    return render_template("problems.html", kinds=KINDS.values())


@pages.get("/problems/<string:slug>")
@decide(Access.ANYONE)
def problem_kind(slug: str) -> str:
    """One kind of problem, explained. This is where `type` leads."""
    if slug not in KINDS:
        raise Problem("not-found", f"There is no kind of problem called {slug[:60]}.")
    return render_template("problems.html", kinds=[KINDS[slug]], single=True)


@pages.get("/static/<path:name>")
@decide(Access.ANYONE)
def static(name: str) -> Response:
    """Style and scripts. Their address carries their version, so they may be kept for long."""
    response = send_from_directory(STATIC, name)
    response.headers["Cache-Control"] = "public, max-age=604800" if request.args.get("v") else "public, max-age=60"
    return response


@pages.get("/favicon.ico")
@decide(Access.ANYONE)
def favicon() -> Response:
    """The sign in the tab."""
    return static("icon.svg")


@cache
def version() -> str:
    """Changes when any style or script changes, so that browsers fetch it anew."""
    return f"{max(int(p.stat().st_mtime) for p in STATIC.rglob('*') if p.is_file()):x}"


def _document() -> dict[str, Any]:
    document: dict[str, Any] = current_app.spec_json  # type: ignore[attr-defined]
    return document
