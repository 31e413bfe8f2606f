"""Pages of models: found by their evidence, looked at one version at a time, laid side by side."""

from __future__ import annotations

from typing import Any, get_args

from flask import Blueprint, redirect, render_template, request
from pydantic import ValidationError
from sqlalchemy.orm import Session
from werkzeug.wrappers import Response

from api.auth import Access, caller, decide, may
from api.comparing import compare, side_of
from api.problems import field_errors
from api.resources.models import reader
from api.schemas.models import CompareQuery, ModelName, ModelsQuery, VersionWord
from api.services import services
from api.web import reading
from api.web.asking import after, known, pretty
from api.web.picture import network_picture
from api.web.runs import evidence
from bimt_engine.analysis.graph import Graph
from bimt_engine.spec import Method
from store import annotations as written_notes
from store import datasets, models, runs, shares, teams
from store.tables import Run

pages = Blueprint("model_pages", __name__, template_folder="templates")

# What a list is narrowed by: (field, what a person calls it).
NARROWED_BY = (
    ("min_modules", "Modules, at least"),
    ("max_modules", "Modules, at most"),
    ("max_connections", "Connections, at most"),
    ("min_modularity", "Modularity Q, at least"),
    ("min_selectivity", "Selectivity, at least"),
)
KINDS = ("formula", "two_moons", "modular_addition", "group", "in_context", "mnist", "two_memories", "uploaded")
VISIBILITIES = {"private": "only its author", "team": "the team", "unlisted": "whoever knows its id", "public": "all"}


@pages.get("/models")
@decide(Access.READ)
def model_list() -> str:
    """All models, narrowed by what was found in their newest version."""
    asked = {name: text for name, text in request.args.items() if text.strip() and name != "after"}
    try:
        query, wrong = ModelsQuery.model_validate(asked), []
    except ValidationError as error:
        query, wrong = ModelsQuery(), field_errors(error, asked, place="query")
    evidence_asked = query.model_dump(exclude={"q", "everybody", "dataset", "after", "limit"})
    with services().database.read() as rows:
        found = models.page(
            rows,
            reader(),
            q=query.q,
            everybody=query.everybody,
            dataset_id=query.dataset,
            after=after(),
            limit=40,
            **evidence_asked,
        )
        newest = models.newest(rows, found.rows)
        names = teams.names(rows, {model.member_id for model in found.rows})
        ready = datasets.page(rows, caller().team_id, limit=100).rows
    return render_template(
        "models.html",
        found=[(model, *newest[model.id]) for model in found.rows],
        following=found.after,
        asked=request.args,
        narrowed_by=NARROWED_BY,
        methods=get_args(Method),
        kinds=KINDS,
        datasets=ready,
        authors=names,
        team=caller().team_id,
        wrong=wrong,
    )


@pages.get("/models/<string:name>")
@decide(Access.READ)
def model_page(name: str) -> str:
    """One version of a model: its evidence, its card, notes and links, and what can be done with it."""
    word = known(request.args.get("version") or models.NEWEST, VersionWord)
    with services().database.read() as rows:
        model = models.get(rows, reader(), known(name, ModelName))
        version = models.find_version(rows, model, word)
        run = models.run_of(rows, version)
        ours = model.team_id == caller().team_id
        all_versions = models.versions(rows, model, limit=200).rows
        words = models.aliases(rows, model)
        notes = written_notes.current(rows, version)
        links = shares.page(rows, caller().team_id, model_id=model.id, limit=50).rows if _may_change(ours) else []
        people = {model.member_id, version.member_id, *(note.member_id for note in notes)}
        return render_template(
            "model.html",
            model=model,
            model_version=version,
            run=run,
            ours=ours,
            may_change=_may_change(ours),
            address=f"/api/v1/models/{model.id}/versions/{version.number}",
            all_versions=all_versions,
            words=words,
            history={each: models.alias_history(rows, model, each).rows for each in words},
            notes=notes,
            note_numbers={f"{note.about}:{note.target}": note.number for note in notes},
            links=links,
            verification=version.verification,
            authors=teams.names(rows, people),
            visibilities=VISIBILITIES,
            headline=reading.headline(run.spec),
            spec=pretty(run.spec),
            **evidence(rows, run, title=f"The network of {model.name}, version {version.number}"),
        )


@pages.get("/models/<string:name>/versions/<string:word>")
@decide(Access.READ)
def version_page(name: str, word: str) -> Response:
    """The same, where somebody wrote the address as the API has it."""
    return redirect(f"/models/{known(name, ModelName)}?version={known(word, VersionWord)}")


@pages.get("/compare")
@decide(Access.READ)
def compare_page() -> str:
    """Two runs or versions side by side; without both, the form that asks for them."""
    asked = {side: request.args.get(side, "").strip() for side in ("a", "b")}
    wrong: list[dict[str, Any]] = []
    both = None
    if all(asked.values()):
        try:
            both = CompareQuery.model_validate(asked)
        except ValidationError as error:
            wrong = field_errors(error, asked, place="query")
    with services().database.read() as rows:
        offered = [f"{model.name}@{model.versions}" for model in models.page(rows, reader(), limit=100).rows]
        if both is None:
            return render_template("compare.html", asked=asked, wrong=wrong, offered=offered, found=None)
        a, b = side_of(rows, both.a), side_of(rows, both.b)
        return render_template(
            "compare.html",
            asked=asked,
            wrong=[],
            offered=offered,
            found=compare(rows, a, b),
            pictures=[_picture(rows, side.run, side.what) for side in (a, b)],
        )


def _may_change(ours: bool) -> bool:
    return ours and may(caller(), Access.SHARE)


def _picture(rows: Session, run: Run, title: str) -> Any:
    stored = runs.graph(rows, run.id)
    graph = None if stored is None else Graph.from_json(stored.body)
    return network_picture(graph, title=f"The network of {title}", grips=False) if graph else None
