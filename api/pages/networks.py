"""Pages of one network: as a run, as a version of a model, behind a link; the list of models; two side by side.

What these pages share is prepared in one place, so that all of them show a network alike.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from types import MappingProxyType
from typing import Any

from flask import Blueprint, Response, make_response, redirect, render_template, request
from markupsafe import Markup
from pydantic import ValidationError
from sqlalchemy.orm import Session
from werkzeug.wrappers import Response as Redirect

from api import shares
from api.auth import Access, caller, decide, may
from api.evidence import figure_names, heaviest
from api.models import ModelName, ModelsQuery, VersionWord, reader
from api.pages import presenters
from api.pages.filters import (
    METHODS,
    MOST_LISTED,
    MOST_ROWS,
    View,
    after,
    arranged,
    csv_file,
    known,
    method_name,
    pretty,
    together,
)
from api.pages.instrument import asked_columns, cuts, instrument, preview_of
from api.pages.interior import interior
from api.pages.network_svg import MAX_CONNECTIONS, module_tones, names_given, network_picture, picture_file
from api.pages.runs import rows_of
from api.problems import Problem, field_errors
from api.schemas import RunId
from api.services import services
from api.versions import CompareQuery, compare, side_of
from bimt_engine.analysis.graph import Connection, Graph
from bimt_engine.analysis.statements.interior import groups_shown
from bimt_engine.analysis.statements.network import network_statement, neuron_label
from bimt_engine.data.registry import KINDS
from store import datasets, jobs, models, runs, teams
from store.database import Page
from store.tables import Job, Run

pages = Blueprint("network_pages", __name__, template_folder="templates")

DRAWN_BY_THE_PAGE = ("network.svg", "effects.svg", "prune-curve.svg")
MAX_SWITCHES = 200  # connections that are listed to be switched off one by one, the most harmful ones
MAX_STEPS = 1_000  # snapshots that a page counts

# Filters of the list of models: (query parameter, label).
MODEL_FILTERS = (
    ("min_modules", "Modules, at least"),
    ("max_modules", "Modules, at most"),
    ("min_interior_modules", "Groups inside, at least"),
    ("max_connections", "Connections, at most"),
    ("min_modularity", "Modularity Q, at least"),
    ("min_selectivity", "Selectivity, at least"),
)
ROLE_FILTERS = (("reads", "A part reads the input"), ("moves", "A part moves the output"))
VISIBILITIES = {
    "private": "only its author",
    "team": "the team",
    "unlisted": "anyone who knows its id",
    "public": "everyone",
}


# --- runs ----------------------------------------------------------------------------------------------


@pages.get("/runs/<string:run_id>")
@decide(Access.READ)
def run_page(run_id: str) -> str:
    """One run: its network, its evidence, how it was trained, its downloads."""
    team_id = caller().team_id
    with services().database.read() as rows:
        run = runs.get(rows, team_id, known(run_id, RunId))
        job = jobs.get(rows, team_id, run.job_id)
        siblings = runs.of_job(rows, team_id, job.id)
        shown_as = models.showing(rows, reader(), run.id)
        found = evidence(
            rows,
            run,
            title=f"The network of {job.name}, seed {run.seed}",
            address=f"/runs/{run.id}",
            own=True,
        )
        files = {file.name: file.bytes for file in runs.published_files(rows, run.id)}
        history = runs.history(rows, run.id)
        filmed = run.state == "succeeded" and len(runs.snapshots(rows, run.id, limit=2)) > 1
    return render_template(
        "run.html",
        run=run,
        job=job,
        shown_as=shown_as,
        name=_model_name(job),
        siblings=siblings,
        learning=None if found["picture"] else presenters.learning_chart(history, run.spec),
        accuracy=presenters.accuracy_chart(history, run.steps),
        cost=presenters.cost_chart(history, run.steps),
        weights_bytes=files.get("weights.safetensors"),
        filmed=filmed,
        spec=pretty(run.spec),
        headline=presenters.headline(run.spec),
        **found,
    )


def evidence(
    rows: Session, run: Run, *, title: str, address: str, own: bool = False, connections: int | None = None
) -> dict[str, Any]:
    """What the templates of a run, a version and a link show of the evidence.

    address       of its documents, below /api/v1.
    own           whether the reader's team owns the run.
    connections   draw only this many connections, the heaviest; None: all.
    """
    stored = runs.graph(rows, run.id)
    whole = None if stored is None else Graph.from_json(stored.body)
    graph = None if whole is None else heaviest(whole, connections)
    documents = runs.bodies(rows, run.id)
    found = [module.body for module in runs.modules(rows, run.id)]
    figures = figure_names(rows, run.id)
    metrics, effects = documents.get("metrics") or {}, documents.get("effects") or {}
    tones = module_tones(whole) if whole else {}
    names = documents.get("names") or {}
    groups = groups_shown(documents.get("interior") or {})
    matrices = presenters.effect_matrices(found, str(effects.get("judged_by") or "mean"), names, groups)
    curve = documents.get("prune_curve") or []
    return {
        "shown": instrument(
            run,
            address=address,
            own=own,
            probe=f"/runs/{run.id}/probe" if own else "",
            history=runs.history(rows, run.id) if own else [],
            steps=len(runs.snapshots(rows, run.id, limit=MAX_STEPS)) if own else 0,
            curve=curve,
            matrices=matrices,
            bodies=found,
            names=names,
            figures=figures,
        ),
        "cuts": cuts(documents.get("interior")),
        "asked": asked_columns(run, documents.get("dataset"), preview_of(rows, run)) if own else [],
        "picture": network_picture(graph, title=title, names=names) if graph else None,
        "left_out": len(whole.connections) - min(len(graph.connections), MAX_CONNECTIONS) if whole and graph else 0,
        "in_words": network_statement(graph) if graph else "",
        "switches": switches(graph, names) if graph else [],
        "modules": presenters.modules(found, tones, names),
        "inside": interior(
            documents.get("interior"), sorted({n.module for n in whole.neurons if n.module}) if whole else [], names
        ),
        "called_so": names_given(names),
        "verdict": metrics.get("verdict"),
        "baselines": presenters.baselines(metrics.get("baselines")),
        "random_groups": effects.get("random_groups"),
        "matrices": matrices,
        "metrics": presenters.metrics(metrics, run),
        "outputs": presenters.outputs(metrics.get("outputs") or []),
        "formulas": presenters.formulas(documents.get("readout") or {}),
        "no_formula": (documents.get("readout") or {}).get("reading"),
        "group": presenters.representations(documents.get("representations"), found),
        "figures": figures,
        "pictures": [name for name in figures if name.endswith(".svg") and name not in DRAWN_BY_THE_PAGE],
    }


def switches(graph: Graph, names: presenters.Names = MappingProxyType({})) -> list[dict[str, Any]]:
    """The connections that can be switched off one by one, the most harmful first, each with its own effect.

    part   the group that holds both ends, else the module; empty: none does.
    """
    called = {n.id: neuron_label(n) for n in graph.neurons}
    inside = {n.id: (n.group, n.module) for n in graph.neurons}

    def part(connection: Connection) -> str:
        ends = zip(inside[connection.source], inside[connection.target], strict=True)
        return next((presenters.called(one, names) for one, other in ends if one and one == other), "")

    ranked = sorted(graph.connections, key=lambda c: (-(c.effect or 0.0), -abs(c.weight), c.key))[:MAX_SWITCHES]
    return [
        {
            "key": c.key,
            "what": f"{called[c.source]} → {called[c.target]}",
            "part": part(c),
            "weight": c.weight,
            "effect": c.effect,
        }
        for c in ranked
    ]


def _model_name(job: Job) -> str:
    """The job's name with every letter replaced that a model's name may not have: the suggestion of the form."""
    kept = "".join(letter if letter.isascii() and (letter.isalnum() or letter in "._-") else "-" for letter in job.name)
    return kept.strip("-._")[:60]


@pages.get("/runs/<string:run_id>/thumbnail.svg")
@decide(Access.READ)
def thumbnail(run_id: str) -> Response:
    """The network as a small picture, which follows the colour theme. Only the names that people give parts change."""
    with services().database.read() as rows:
        run = runs.get(rows, caller().team_id, known(run_id, RunId))
        names = runs.names(rows, run.id)
        etag = f"thumbnail-10-{run.id}-{zlib.crc32(names_given(names).encode()):08x}"
        if etag in request.if_none_match:
            response = Response(status=304)
            response.set_etag(etag)
            return response
        stored = runs.graph(rows, run.id)
    drawn = None if stored is None else picture_file(Graph.from_json(stored.body), names)
    if drawn is None:
        raise Problem("not-found", "There is no picture of this run yet.")
    response = Response(drawn, content_type="image/svg+xml")
    response.set_etag(etag)
    response.headers["Cache-Control"] = "private, no-cache"  # kept, and asked for whether it still is so
    response.headers["Content-Security-Policy"] = "default-src 'none'; style-src 'unsafe-inline'; sandbox"
    return response


# --- models and links ------------------------------------------------------------------------------------


MODEL_GROUPS = {"none": "nothing", "data": "data", "method": "method", "owner": "owner"}


@dataclass(frozen=True, kw_only=True)
class ModelList(View):
    """Which models are asked for; every limit as it was written, to be checked as the API checks it."""

    path = "/models"

    everybody: str = ""
    method: str = ""
    dataset_kind: str = ""
    dataset: str = ""
    min_modules: str = ""
    max_modules: str = ""
    min_interior_modules: str = ""
    max_connections: str = ""
    min_modularity: str = ""
    min_selectivity: str = ""
    reads: str = ""
    moves: str = ""

    @classmethod
    def asked(cls) -> ModelList:
        """That of the request."""
        own = [field.name for field in fields(cls) if field.name not in {"q", *cls.as_what}]
        given: dict[str, Any] = {name: request.args.get(name, "")[:200].strip() for name in own}
        return cls(**arranged(models.SORTED_BY, MODEL_GROUPS), **given)

    def found(
        self, rows: Session, *, limit: int, after: str | None = None
    ) -> tuple[Page[ModelRow], list[dict[str, Any]]]:
        """The models, and what could not be read; then they are not narrowed."""
        asked = {
            name: text for name, text in request.args.items() if text.strip() and name not in {"after", *self.as_what}
        }
        try:
            query, wrong = ModelsQuery.model_validate(asked), []
        except ValidationError as error:
            query, wrong = ModelsQuery(), field_errors(error, asked, place="query")
        page = models.page(
            rows,
            reader(),
            q=query.q,
            everybody=query.everybody,
            dataset_id=query.dataset,
            sort=self.sort or None,
            falling=self.falling,
            after=after,
            limit=limit,
            **query.model_dump(exclude={"q", "everybody", "dataset", "after", "limit"}),
        )
        newest = models.newest(rows, page.rows)
        owners = teams.names(rows, {model.member_id for model in page.rows})
        data = {row.run.id: row.data for row in rows_of(rows, caller().team_id, [run for _, run in newest.values()])}
        listed = []
        for model in page.rows:
            version, run = newest[model.id]
            owner = owners.get(model.member_id, "–")
            listed.append(ModelRow(model, version, run, owner, data[run.id], method_name(run.method)))
        return Page(listed, page.after), wrong


@dataclass(frozen=True)
class ModelRow:
    """A model of a list with its newest version; what it can be grouped by has the names of MODEL_GROUPS."""

    model: models.Model
    version: models.ModelVersion
    run: Run
    owner: str
    data: str
    method: str

    @property
    def agrees(self) -> bool | None:
        """Whether the last verification agreed; None: there was none."""
        return self.version.verification["agrees"] if self.version.verification else None


MODEL_FILE: dict[str, Callable[[ModelRow], Any]] = {
    "model": lambda row: row.model.name,
    "model_id": lambda row: row.model.id,
    "version": lambda row: row.version.number,
    "run": lambda row: row.run.id,
    "owner": lambda row: row.owner,
    "data": lambda row: row.data,
    "method": lambda row: row.method,
    **{
        name: (lambda row, name=name: getattr(row.run, name))  # type: ignore[misc]
        for name in (
            *("seed", "cost_strength", "test_metric_name", "test_metric", "connections", "modules"),
            *("interior_modules", "modularity", "selectivity", "connection_cost"),
        )
    },
    "verified_at": lambda row: row.version.verified_at,
    "agrees": lambda row: row.agrees,
    "visibility": lambda row: row.model.visibility,
    "changed_at": lambda row: row.model.updated_at,
}


@pages.get("/models")
@decide(Access.READ)
def model_list() -> str:
    """All models, filtered by the evidence of their newest version, sorted and grouped."""
    view = ModelList.asked()
    with services().database.read() as rows:
        page, wrong = view.found(rows, limit=MOST_LISTED, after=after())
        ready = datasets.page(rows, caller().team_id, limit=100).rows
    return render_template(
        "models.html",
        view=view,
        groups=together(page.rows, view.group),
        next_page=view.address(after=page.after) if page.after else None,
        is_cut=bool(view.sort) and len(page.rows) == MOST_LISTED,
        most=MOST_LISTED,
        grouping=MODEL_GROUPS,
        model_filters=MODEL_FILTERS,
        role_filters=ROLE_FILTERS,
        limited=any(getattr(view, name) for name, _ in (*MODEL_FILTERS, *ROLE_FILTERS)),
        methods=METHODS,
        kinds={name: kind.label for name, kind in KINDS.items()},
        datasets={dataset.id: dataset.name for dataset in ready},
        team=caller().team_id,
        wrong=wrong,
    )


@pages.get("/models.csv")
@decide(Access.READ)
def model_file() -> Response:
    """The models of a view as CSV, the first 10 000; without narrowing where a limit cannot be read, as the list is."""
    with services().database.read() as rows:
        page, _ = ModelList.asked().found(rows, limit=MOST_ROWS)
    return csv_file("models.csv", MODEL_FILE, page.rows)


@pages.get("/models/<string:name>")
@decide(Access.READ)
def model_page(name: str) -> str:
    """One version of a model: evidence, card, notes, links, downloads, and forms to change it."""
    alias = known(request.args.get("version") or models.NEWEST, VersionWord)
    with services().database.read() as rows:
        model = models.get(rows, reader(), known(name, ModelName))
        version = models.find_version(rows, model, alias)
        run = models.run_of(rows, version)
        ours = model.team_id == caller().team_id
        all_versions = models.versions(rows, model, limit=200).rows
        aliases = models.aliases(rows, model)
        notes = models.current_annotations(rows, version)
        shown_links = (
            models.page_shares(rows, caller().team_id, model_id=model.id, limit=50).rows if _may_change(ours) else []
        )
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
            aliases=aliases,
            history={each: models.alias_history(rows, model, each).rows for each in aliases},
            notes=notes,
            note_numbers={f"{note.about}:{note.target}": note.number for note in notes},
            links=shown_links,
            verification=version.verification,
            authors=teams.names(rows, people),
            visibilities=VISIBILITIES,
            headline=presenters.headline(run.spec),
            spec=pretty(run.spec),
            **evidence(
                rows,
                run,
                title=f"The network of {model.name}, version {version.number}",
                address=f"/models/{model.id}/versions/{version.number}",
                own=ours,
            ),
        )


@pages.get("/models/<string:name>/versions/<string:word>")
@decide(Access.READ)
def version_page(name: str, word: str) -> Redirect:
    """Redirects from the path that the API has for a version."""
    return redirect(f"/models/{known(name, ModelName)}?version={known(word, VersionWord)}")


@pages.get("/compare")
@decide(Access.READ)
def compare_page() -> str:
    """Two runs or versions side by side; the form alone until both are given."""
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
        drawn = [_picture(rows, side.run, side.what) for side in (a, b)]
        return render_template(
            "compare.html",
            asked=asked,
            wrong=[],
            offered=offered,
            found=compare(rows, a, b),
            job_names={side.run.id: jobs.get_view(rows, side.run.team_id, side.run.job_id).name for side in (a, b)},
            pictures=[picture for picture, _ in drawn],
            tones=[tones for _, tones in drawn],
        )


def _may_change(ours: bool) -> bool:
    return ours and may(caller(), Access.SHARE)


def _picture(rows: Session, run: Run, title: str) -> tuple[Markup | None, Mapping[str, int]]:
    """The network in the colours of its modules, of which the page speaks, and module → number of its colour."""
    stored = runs.graph(rows, run.id)
    if stored is None:
        return None, {}
    graph = Graph.from_json(stored.body)
    graph = replace(graph.with_groups({}, {}), meta={n: of for n, of in graph.meta.items() if n != "groups"})
    return network_picture(graph, title=f"The network of {title}", grips=False), module_tones(graph)


@pages.get("/s/<string:token>")
@decide(Access.ANYONE)
def shared_page(token: str) -> Response:
    """The network in the view that was chosen when the link was made."""
    with services().database.read() as rows:
        share, model, version, run = shares.shared(rows, token)
        shown = shares.shown(rows, share, model, version, run)
        found = evidence(
            rows,
            run,
            title=f"The network of {shown.model}",
            address=f"/s/{token}",
            connections=shown.view.connections,
        )
    found["figures"] = sorted(
        (name for name in shown.figures if name.endswith(".svg")),
        key=lambda name: (name != shown.view.figure, name),
    )
    page = render_template("shared.html", link=shown, token=token, address=f"/api/v1/s/{token}", **found)
    return shares.unlisted(make_response(page))
