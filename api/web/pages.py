"""The pages: what a person meets in a browser. They read the same rows as the addresses under /api do."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

from flask import Blueprint, Flask, Response, g, make_response, redirect, render_template, request
from flask_wtf.csrf import generate_csrf
from sqlalchemy import func, select

from api.auth import Access, caller, decide, may, signed_in
from api.problems import Problem
from api.resources.recipes import complete_spec
from api.schemas.base import DatasetId, JobId
from api.services import services
from api.web import explaining, markdown, people, reading, shared, signing_in, together, words
from api.web import models as model_pages
from api.web import runs as run_pages
from api.web.asking import after, known, pretty
from api.web.charts import number
from bimt_engine.recipes.shelf import load_recipe, recipe_names
from store import datasets, jobs, progress, runs, teams
from store.tables import Job, Run

MOST_PICTURES = 24  # networks that the page of a job shows beside one another
MOST_LINES = 200  # of a job's log that its page shows, the newest

pages = Blueprint("pages", __name__, template_folder="templates")


def install(app: Flask) -> None:
    """Put the pages into the app."""
    for blueprint in (
        pages,
        run_pages.pages,
        model_pages.pages,
        people.pages,
        shared.pages,
        signing_in.pages,
        explaining.pages,
    ):
        app.register_blueprint(blueprint)
    app.context_processor(_common)
    app.jinja_env.filters.update(
        number=number,
        metric=reading.metric_name,
        moment=words.moment,
        age=words.age,
        size=words.size,
        duration=words.duration,
        code=words.code,
        listed=words.listed,
        figure=words.figure,
        brief=words.brief,
        measured=reading.measured,
        markdown=markdown.written,
    )
    app.jinja_env.trim_blocks = app.jinja_env.lstrip_blocks = True


# --- lists -------------------------------------------------------------------------------------------


@pages.get("/")
@decide(Access.READ)
def overview() -> str:
    """What is at work, and what was found."""
    team_id = caller().team_id
    older = after()
    with services().database.read() as rows:
        active = [
            job for state in ("running", "queued") for job in jobs.page(rows, team_id, state=state, limit=20).rows
        ]
        page = runs.page(rows, team_id, state="succeeded", after=older, limit=24)
        names = _job_names(rows, team_id, {run.job_id for run in page.rows})
        failed = jobs.page(rows, team_id, state="failed", limit=3).rows if older is None else []
        return render_template(
            "overview.html",
            active=active,
            runs=page.rows,
            names=names,
            following=page.after,
            first=older is None,
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
            after=after(),
            limit=40,
        )
        return render_template("jobs.html", jobs=page.rows, following=page.after, asked=asked, states=reading.STATES)


@pages.get("/datasets")
@decide(Access.READ)
def dataset_list() -> str:
    """All data sets, and the place to upload one."""
    with services().database.read() as rows:
        page = datasets.page(rows, caller().team_id, after=after(), limit=40)
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
        job = jobs.look(rows, team_id, known(job_id, JobId))
        found = runs.of_job(rows, team_id, job.id)
        tries = jobs.attempts(rows, job)
        owner = teams.get_member(rows, team_id, job.member_id).name
        dataset = datasets.get(rows, team_id, job.dataset_id) if job.dataset_id else None
        return render_template(
            "job.html",
            job=job,
            runs=found,
            position=job.queue_position,
            tries=tries,
            lines=progress.last_log_lines(rows, team_id, job.id, limit=MOST_LINES),
            owner=owner,
            dataset=dataset,
            spec=pretty(job.spec),
            headline=reading.headline(job.spec),
            shown=[run for run in found if run.state == "succeeded"][:MOST_PICTURES],
            metric=together.metric_heading(found),
            summaries=together.summaries(found),
            columns=together.COLUMNS,
            together=together.said_together(rows, job, found),
        )


@pages.get("/datasets/<string:dataset_id>")
@decide(Access.READ)
def dataset_page(dataset_id: str) -> str:
    """One data set: what was understood of it."""
    team_id = caller().team_id
    with services().database.read() as rows:
        dataset = datasets.get(rows, team_id, known(dataset_id, DatasetId))
        owner = teams.get_member(rows, team_id, dataset.member_id).name
        used = jobs.page(rows, team_id, dataset_id=dataset.id, limit=10).rows
        return render_template(
            "dataset.html",
            dataset=dataset,
            owner=owner,
            preview=dataset.preview or {},
            roles=dataset.roles or {},
            maker=pretty(dataset.maker) if dataset.maker else None,
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
        ready = datasets.page(rows, caller().team_id, state="ready", limit=100).rows
    chosen = request.args.get("dataset", "")
    return render_template(
        "new.html", recipes=recipes, datasets=ready, chosen=chosen, limit_bytes=services().settings.max_upload_bytes
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
        "may_share": who is not None and may(who, Access.SHARE),
        "may_rule": who is not None and may(who, Access.ADMIN),
        "csrf_token": generate_csrf,
        "version": explaining.version(),
        "sheets": explaining.SHEETS,
        "now": services().now(),
        "path": request.path,
    }


def _quietly_signed_in() -> Any:
    """Who is signed in; nobody when the database is away, so that the page that says so can be shown."""
    try:
        return signed_in()
    except Exception:
        return None


def _job_names(rows: Any, team_id: str, ids: set[str]) -> dict[str, tuple[str, int]]:
    """Job id → its name and how many runs it has."""
    query = select(Job.id, Job.name, func.count(Run.id)).join(Run, Run.job_id == Job.id)
    found = rows.execute(query.where(Job.team_id == team_id, Job.id.in_(ids)).group_by(Job.id, Job.name))
    return {job_id: (name, count) for job_id, name, count in found}
