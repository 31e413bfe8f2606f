"""The pages: what a person meets in a browser. They read the same rows as the addresses under /api do."""

from __future__ import annotations

import json
import re
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from flask import Blueprint, Flask, Response, g, make_response, redirect, render_template, request
from flask_wtf.csrf import generate_csrf
from markupsafe import Markup, escape
from pydantic import TypeAdapter, ValidationError
from sqlalchemy import func, select

from api.auth import Access, caller, decide, may, signed_in
from api.evidence import stored_bytes
from api.problems import Problem
from api.resources.recipes import complete_spec
from api.schemas.base import DatasetId, JobId, RunId
from api.services import services
from api.web import explaining, reading, shared, signing_in
from api.web.charts import number
from api.web.picture import module_tones, network_picture, picture_file
from bimt_engine.analysis.graph import Graph
from bimt_engine.recipes.shelf import load_recipe, recipe_names
from store import datasets, jobs, progress, runs, teams
from store.tables import Job, Run

pages = Blueprint("pages", __name__, template_folder="templates")
STATIC = Path(__file__).parent / "static"
ACTIVE = ("queued", "running")


def install(app: Flask) -> None:
    """Put the pages into the app."""
    app.register_blueprint(pages)
    app.register_blueprint(signing_in.pages)
    app.register_blueprint(explaining.pages)
    app.register_blueprint(shared.pages)
    app.context_processor(_common)
    app.jinja_env.filters.update(
        number=number, metric=reading.metric_name, moment=moment, age=age, size=size, duration=duration, code=code
    )
    app.jinja_env.trim_blocks = app.jinja_env.lstrip_blocks = True


# --- lists -------------------------------------------------------------------------------------------


@pages.get("/")
@decide(Access.READ)
def overview() -> str:
    """What is at work, and what was found."""
    team_id = caller().team_id
    after = _after()
    with services().database.read() as rows:
        active = [
            job for state in ("running", "queued") for job in jobs.page(rows, team_id, state=state, limit=20).rows
        ]
        page = runs.page(rows, team_id, state="succeeded", after=after, limit=24)
        names = _job_names(rows, team_id, {run.job_id for run in page.rows})
        failed = jobs.page(rows, team_id, state="failed", limit=3).rows if after is None else []
        return render_template(
            "overview.html",
            active=active,
            runs=page.rows,
            names=names,
            following=page.after,
            first=after is None,
            failed=failed,
        )


@pages.get("/jobs")
@decide(Access.READ)
def job_list() -> str:
    """All jobs, with filters."""
    asked = {name: request.args.get(name, "")[:120] for name in ("state", "tag", "q")}
    state = asked["state"] if asked["state"] in reading.STATES else None
    with services().database.read() as rows:
        page = jobs.page(
            rows,
            caller().team_id,
            state=state,
            tag=asked["tag"] or None,
            q=asked["q"] or None,
            after=_after(),
            limit=40,
        )
        return render_template("jobs.html", jobs=page.rows, following=page.after, asked=asked, states=reading.STATES)


@pages.get("/datasets")
@decide(Access.READ)
def dataset_list() -> str:
    """All data sets, and the place to upload one."""
    with services().database.read() as rows:
        page = datasets.page(rows, caller().team_id, after=_after(), limit=40)
        return render_template(
            "datasets.html", datasets=page.rows, following=page.after, limit_bytes=services().settings.max_upload_bytes
        )


# --- single things -----------------------------------------------------------------------------------


@pages.get("/jobs/<string:job_id>")
@decide(Access.READ)
def job_page(job_id: str) -> str:
    """One job, live while it runs."""
    team_id = caller().team_id
    with services().database.read() as rows:
        job = jobs.get(rows, team_id, _known(job_id, JobId))
        found = runs.of_job(rows, team_id, job.id)
        position = jobs.queue_position(rows, job)
        tries = jobs.attempts(rows, team_id, job.id)
        lines = [line for chunk in progress.log_chunks(rows, team_id, job.id, limit=100) for line in chunk.lines][-200:]
        owner = teams.get_member(rows, team_id, job.member_id).name
        dataset = datasets.get(rows, team_id, job.dataset_id) if job.dataset_id else None
        return render_template(
            "job.html",
            job=job,
            runs=found,
            position=position,
            tries=tries,
            lines=lines,
            owner=owner,
            dataset=dataset,
            spec=_pretty(job.spec),
            headline=reading.headline(job.spec),
            best=reading.best_run(found),
        )


@pages.get("/runs/<string:run_id>")
@decide(Access.READ)
def run_page(run_id: str) -> str:
    """One run: its network, its modules, how it was learnt and pruned."""
    team_id = caller().team_id
    with services().database.read() as rows:
        run = runs.get(rows, team_id, _known(run_id, RunId))
        job = jobs.get(rows, team_id, run.job_id)
        stored = runs.graph(rows, run.id)
        graph = None if stored is None else Graph.from_json(stored.body)
        documents = runs.bodies(rows, run.id)
        found = [module.body for module in runs.modules(rows, run.id)]
        figures = [figure.name for figure in runs.figures(rows, run.id)]
        files = runs.published_files(rows, run.id)
        history = progress.history(rows, run.id)
        siblings = [(other.id, other.number) for other in runs.of_job(rows, team_id, job.id)]
    title = f"The network of {job.name}, seed {run.seed}"
    tones = module_tones(graph) if graph else {}
    return render_template(
        "run.html",
        run=run,
        job=job,
        picture=network_picture(graph, title=title) if graph else None,
        modules=reading.modules(found, tones),
        matrix=reading.effect_matrix(found),
        metrics=reading.metrics(documents.get("metrics") or {}, run),
        learning=reading.learning_chart(history, run.spec),
        accuracy=reading.accuracy_chart(history),
        cost=reading.cost_chart(history),
        pruning=reading.prune_chart(documents.get("prune_curve") or [], run.connections),
        figures=figures,
        files=files,
        siblings=siblings,
        spec=_pretty(run.spec),
        headline=reading.headline(run.spec),
    )


@pages.get("/runs/<string:run_id>/thumbnail.svg")
@decide(Access.READ)
def thumbnail(run_id: str) -> Response:
    """The network, small. It follows the theme by itself, and never changes once it is there."""
    with services().database.read() as rows:
        run = runs.get(rows, caller().team_id, _known(run_id, RunId))
        etag = f"thumbnail-1-{run.id}"
        if etag in request.if_none_match:
            response = Response(status=304)
            response.set_etag(etag)
            return response
        stored = runs.graph(rows, run.id)
        if stored is None:
            raise Problem("not-found", "There is no picture of this run yet.")
        figures = {figure.name: figure.sha256 for figure in runs.figures(rows, run.id)}
        drawn = picture_file(Graph.from_json(stored.body))
    if drawn is None:
        if "network.png" not in figures:
            raise Problem("not-found", "This network is too large for a small picture.")
        return stored_bytes(figures["network.png"], "image/png")
    response = Response(drawn, content_type="image/svg+xml")
    response.set_etag(etag)
    response.headers["Cache-Control"] = "private, max-age=86400"
    response.headers["Content-Security-Policy"] = "default-src 'none'; style-src 'unsafe-inline'; sandbox"
    return response


@pages.get("/datasets/<string:dataset_id>")
@decide(Access.READ)
def dataset_page(dataset_id: str) -> str:
    """One data set: what was understood of it."""
    team_id = caller().team_id
    with services().database.read() as rows:
        dataset = datasets.get(rows, team_id, _known(dataset_id, DatasetId))
        owner = teams.get_member(rows, team_id, dataset.member_id).name
        used = jobs.page(rows, team_id, dataset_id=dataset.id, limit=10).rows
        return render_template(
            "dataset.html",
            dataset=dataset,
            owner=owner,
            preview=dataset.preview or {},
            roles=dataset.roles or {},
            maker=_pretty(dataset.maker) if dataset.maker else None,
            used=used,
        )


@pages.get("/new")
@decide(Access.SUBMIT)
def new_job() -> str:
    """The form that uploads and submits."""
    recipes = []
    for name in recipe_names():
        recipe = load_recipe(name)
        recipes.append((recipe, json.dumps(complete_spec(recipe))))
    recipes.sort(key=lambda pair: (not pair[0].needs_dataset, not pair[0].figure, pair[0].figure))
    with services().database.read() as rows:
        known = datasets.page(rows, caller().team_id, state="ready", limit=100).rows
    chosen = request.args.get("dataset", "")
    return render_template(
        "new.html", recipes=recipes, datasets=known, chosen=chosen, limit_bytes=services().settings.max_upload_bytes
    )


# --- what all pages share ------------------------------------------------------------------------------


def problem_page(problem: Problem) -> Response:
    """A problem as a person meets it. A stranger is led to the door instead."""
    if problem.kind.status == 401 and request.method == "GET":
        target = request.full_path.rstrip("?")
        return redirect(f"/login?next={quote(target, safe='')}" if target != "/" else "/login")  # type: ignore[return-value]
    response = make_response(render_template("problem.html", problem=problem), problem.kind.status)
    response.headers.update(problem.headers)
    return response


def _common() -> dict[str, Any]:
    who = getattr(g, "caller", None)
    if who is None and getattr(g, "may_look_up", True):
        who = _quietly_signed_in()
    name = None
    if who is not None:
        with services().database.read() as rows:
            name = teams.get_member(rows, who.team_id, who.member_id).name
    return {
        "who": name,
        "may_submit": who is not None and may(who, Access.SUBMIT),
        "csrf_token": generate_csrf,
        "version": explaining.version(),
        "now": services().now(),
        "path": request.path,
    }


def _quietly_signed_in() -> Any:
    """Who is signed in; nobody when the database is away, so that the page that says so can be shown."""
    try:
        return signed_in()
    except Exception:
        return None


def _known(text: str, form: Any) -> str:
    """An id that has the form of an id; anything else is simply not there."""
    try:
        identifier: str = TypeAdapter(form).validate_python(text)
    except ValidationError:
        raise Problem("not-found", "There is nothing at this address.") from None
    return identifier


def _after() -> str | None:
    after = request.args.get("after", "")
    return after if after.isascii() and after.isprintable() and 0 < len(after) < 60 else None


def _job_names(rows: Any, team_id: str, ids: set[str]) -> dict[str, tuple[str, int]]:
    """Job id → its name and how many runs it has."""
    query = select(Job.id, Job.name, func.count(Run.id)).join(Run, Run.job_id == Job.id)
    found = rows.execute(query.where(Job.team_id == team_id, Job.id.in_(ids)).group_by(Job.id, Job.name))
    return {job_id: (name, count) for job_id, name, count in found}


def _pretty(document: Any) -> str:
    return json.dumps(document, indent=2, ensure_ascii=False)


def code(text: str) -> Markup:
    """Text in which what stands between backticks is code."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))


def moment(when: datetime | None) -> str:
    """A time as a person reads it; the page's script turns it into local time."""
    return "–" if when is None else when.strftime("%-d %b %Y, %H:%M UTC")


def age(when: datetime | None, now: datetime) -> str:
    """How long ago."""
    if when is None:
        return "–"
    seconds = (now - when).total_seconds()
    for unit, length in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= length:
            count = int(seconds // length)
            return f"{count} {unit}{'s' if count > 1 else ''} ago"
    return "just now"


def duration(seconds: float | None) -> str:
    """A length of time in two units at most."""
    if seconds is None:
        return "–"
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(int(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min"


def size(count: int | None) -> str:
    """Bytes as a person reads them."""
    if not count:
        return "–" if count is None else "0 bytes"
    value, unit = float(count), "bytes"
    for unit in ("bytes", "kB", "MB", "GB", "TB"):
        if value < 1000 or unit == "TB":
            break
        value /= 1000
    return f"{value:.0f} {unit}" if unit == "bytes" or value >= 100 else f"{value:.1f} {unit}"
