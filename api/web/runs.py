"""The page of a run: its network, its modules and the tests that they passed, its formulas, how it came to be."""

from __future__ import annotations

import itertools
from typing import Any

from flask import Blueprint, Response, render_template, request
from sqlalchemy.orm import Session

from api.auth import Access, caller, decide
from api.evidence import heaviest, stored_bytes
from api.problems import Problem
from api.resources.models import reader
from api.schemas.base import RunId
from api.services import services
from api.web import reading
from api.web.asking import known, pretty
from api.web.formulas import formulas
from api.web.picture import in_words, module_tones, network_picture, picture_file
from bimt_engine.analysis.graph import Graph
from store import jobs, models, progress, runs
from store.tables import Job, Run

pages = Blueprint("run_pages", __name__, template_folder="templates")

DRAWN_BY_THE_PAGE = ("network.svg", "effects.svg", "prune-curve.svg")
MOST_SWITCHES = 200  # connections that are listed to be switched off one by one; the heaviest
DRAWN_BY_THE_BROWSER = ("mlp", "grid_mlp")  # kinds of networks whose training a page draws by itself …
MOST_WEIGHTS = 60_000  # … and how large they may be; of others the service makes a film


@pages.get("/runs/<string:run_id>")
@decide(Access.READ)
def run_page(run_id: str) -> str:
    """One run."""
    team_id = caller().team_id
    with services().database.read() as rows:
        run = runs.get(rows, team_id, known(run_id, RunId))
        job = jobs.get(rows, team_id, run.job_id)
        siblings = [(other.id, other.number) for other in runs.of_job(rows, team_id, job.id)]
        shown_as = models.showing(rows, reader(), run.id)
        found = evidence(rows, run, title=f"The network of {job.name}, seed {run.seed}")
        files = {file.name: file.bytes for file in runs.published_files(rows, run.id)}
        history = progress.history(rows, run.id)
        filmed = run.state == "succeeded" and len(progress.snapshots(rows, run.id, limit=2)) > 1
    return render_template(
        "run.html",
        run=run,
        job=job,
        shown_as=shown_as,
        name=_model_name(job),
        siblings=siblings,
        learning=reading.learning_chart(history, run.spec),
        accuracy=reading.accuracy_chart(history),
        cost=reading.cost_chart(history),
        weights_bytes=files.get("weights.safetensors"),
        filmed=filmed,
        switchable=run.state == "succeeded",
        spec=pretty(run.spec),
        headline=reading.headline(run.spec),
        **found,
    )


def evidence(rows: Session, run: Run, *, title: str, connections: int | None = None) -> dict[str, Any]:
    """What was found in a run, as its page, the page of a version and the page of a link show it.

    connections   of the picture; only so many, the heaviest
    """
    stored = runs.graph(rows, run.id)
    whole = None if stored is None else Graph.from_json(stored.body)
    graph = None if whole is None else heaviest(whole, connections)
    documents = runs.bodies(rows, run.id)
    found = [module.body for module in runs.modules(rows, run.id)]
    figures = [figure.name for figure in runs.figures(rows, run.id)]
    metrics, effects = documents.get("metrics") or {}, documents.get("effects") or {}
    return {
        "picture": network_picture(graph, title=title) if graph else None,
        "left_out": len(whole.connections) - len(graph.connections) if whole and graph else 0,
        "in_words": in_words(graph) if graph else "",
        "drawn_here": graph is not None and _is_drawn_here(run, graph),
        "switches": switches(graph) if graph else [],
        "modules": reading.modules(found, module_tones(whole) if whole else {}),
        "verdict": metrics.get("verdict"),
        "random_groups": effects.get("random_groups"),
        "matrices": reading.effect_matrices(found, str(effects.get("judged_by") or "mean")),
        "metrics": reading.metrics(metrics, run),
        "outputs": reading.outputs(metrics.get("outputs") or []),
        "formulas": formulas(documents.get("readout") or {}),
        "no_formula": (documents.get("readout") or {}).get("reading"),
        "pruning": reading.prune_chart(documents.get("prune_curve") or [], run.connections),
        "figures": figures,
        "pictures": [name for name in figures if name.endswith(".svg") and name not in DRAWN_BY_THE_PAGE],
    }


def switches(graph: Graph) -> list[dict[str, Any]]:
    """The connections that can be switched off one by one, the most harmful first, with what each does by itself."""
    called = {n.id: n.name or n.id.replace(":", " ") for n in graph.neurons}
    ranked = sorted(graph.connections, key=lambda c: (-(c.effect or 0.0), -abs(c.weight), c.key))[:MOST_SWITCHES]
    return [
        {"key": c.key, "what": f"{called[c.source]} → {called[c.target]}", "weight": c.weight, "effect": c.effect}
        for c in ranked
    ]


def _is_drawn_here(run: Run, graph: Graph) -> bool:
    """Whether a browser can draw the training of this network step by step."""
    sizes = [int(layer["neurons"]) for layer in graph.meta.get("layers", ())]
    weights = sum(a * b for a, b in itertools.pairwise(sizes))
    return run.spec.get("network", {}).get("kind") in DRAWN_BY_THE_BROWSER and 0 < weights <= MOST_WEIGHTS


def _model_name(job: Job) -> str:
    """The job's name as a model's name may be, to begin with."""
    kept = "".join(letter if letter.isascii() and (letter.isalnum() or letter in "._-") else "-" for letter in job.name)
    return kept.strip("-._")[:60]


@pages.get("/runs/<string:run_id>/thumbnail.svg")
@decide(Access.READ)
def thumbnail(run_id: str) -> Response:
    """The network, small. It follows the theme by itself, and never changes once it is there."""
    with services().database.read() as rows:
        run = runs.get(rows, caller().team_id, known(run_id, RunId))
        etag = f"thumbnail-4-{run.id}"
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
