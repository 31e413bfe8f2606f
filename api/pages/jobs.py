"""Pages of jobs and data sets: what is running, one job with all its runs, what can be trained on."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

from flask import Blueprint, render_template, request
from sqlalchemy.orm import Session

from api.auth import Access, caller, decide
from api.pages.filters import after, duration, known, nearly, pretty
from api.pages.presenters import headline
from api.recipes import complete_spec
from api.schemas import DatasetId, JobId, NetworkId
from api.services import services
from bimt_engine.analysis.statements.job import pareto_statement
from bimt_engine.analysis.statements.wording import measured, metric_label, number
from bimt_engine.data.registry import KINDS
from bimt_engine.recipes import load_recipe, recipe_names
from bimt_engine.spec import LADDER, Spec
from store import datasets, jobs, networks, runs, teams
from store.jobs.tables import STATES, JobView
from store.tables import Dataset, Run

MAX_PICTURES = 24  # networks that the page of a job shows beside one another
MAX_LOG_LINES = 200  # of a job's log that its page shows, the newest

pages = Blueprint("job_pages", __name__, template_folder="templates")

# --- what can be trained on what ------------------------------------------------------------------------

# What examples of each kind of data are. `formula` is missing: its formulas are what an experiment is about.
EXAMPLES = {
    "digits": "images",
    "mnist": "images",
    "digit_pair": "pairs",
    "two_moons": "table",
    "parities": "table",
    "modular_addition": "group",
    "group": "group",
    "two_memories": "sequences",
    "in_context_regression": "sequences",
    "python_library": "text",
}
EXAMPLES_OF_FORMATS = {"images": "images", "idx": "images", "text": "text", "cayley": "group"}  # the others: tables


@dataclass(frozen=True)
class Choice:
    """An architecture that the form offers.

    recipes   what the examples are → the recipe by whose training such a network learns them.
    """

    kind: str
    label: str
    about: str
    recipes: dict[str, str]


CHOICES = (
    Choice(
        "mlp",
        "Perceptron",
        "Layers of neurons on lines; which inputs reach which outputs can be read off.",
        {"table": "table", "group": "modular_addition", "pairs": "digit_pair"},
    ),
    Choice(
        "grid_mlp",
        "Perceptron on sheets",
        "Every layer is a sheet, as the image is; local wiring finds receptive fields.",
        {"images": "mnist", "pairs": "mnist"},
    ),
    Choice(
        "conv",
        "Convolutional network",
        "Channels are the neurons, with batch norm and residual connections.",
        {"images": "digits_conv"},
    ),
    Choice(
        "recurrent",
        "Recurrent network",
        "One layer that is connected to itself and reads a number at a time.",
        {"sequences": "two_memories"},
    ),
    Choice("gru", "Gated recurrent network", "The same with gates (GRU).", {"sequences": "two_memories"}),
    Choice(
        "transformer",
        "Transformer",
        "Attention and perceptrons on a residual stream.",
        {"sequences": "in_context", "text": "python_text"},
    ),
)


def specs_of(choice: Choice) -> dict[str, dict[str, Any]]:
    """What the examples are → the spec by which such a network learns them, without the data."""
    found = {}
    for examples, name in choice.recipes.items():
        fields = load_recipe(name).spec_fields
        network = fields["network"] if fields["network"]["kind"] == choice.kind else {"kind": choice.kind}
        spec = Spec.model_validate(fields | {"dataset": {"kind": "two_moons"}, "network": network})
        found[examples] = spec.model_dump(mode="json", exclude={"dataset"})
    return found


# --- lists -------------------------------------------------------------------------------------------


@pages.get("/jobs")
@decide(Access.READ)
def job_list() -> str:
    """All jobs, with filters."""
    filters = {name: request.args.get(name, "")[:120] for name in ("state", "tag", "q")}
    state = filters["state"] if filters["state"] in STATES else None
    with services().database.read() as rows:
        page = jobs.page(
            rows,
            caller().team_id,
            state=state,
            tag=filters["tag"] or None,
            q=filters["q"] or None,
            after=after(),
            limit=40,
        )
        return render_template("jobs.html", jobs=page.rows, next_page=page.after, filters=filters, states=STATES)


@pages.get("/datasets")
@decide(Access.READ)
def dataset_list() -> str:
    """All data sets and networks, and the form to upload one."""
    with services().database.read() as rows:
        page = datasets.page(rows, caller().team_id, after=after(), limit=40)
        brought = networks.page(rows, caller().team_id, after=after("networks_after"), limit=40)
        return render_template(
            "datasets.html",
            datasets=page.rows,
            next_page=page.after,
            networks=brought.rows,
            next_network=brought.after,
            limit_bytes=services().settings.max_upload_bytes,
        )


# --- one job, one data set, the form -------------------------------------------------------------------


@pages.get("/jobs/<string:job_id>")
@decide(Access.READ)
def job_page(job_id: str) -> str:
    """One job with its runs; a script keeps it up to date while it runs."""
    team_id = caller().team_id
    with services().database.read() as rows:
        job = jobs.get_view(rows, team_id, known(job_id, JobId))
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
            lines=runs.last_log_lines(rows, team_id, job.id, limit=MAX_LOG_LINES),
            owner=owner,
            dataset=dataset,
            spec=pretty(job.spec),
            headline=headline(job.spec),
            shown=[run for run in found if run.state == "succeeded"][:MAX_PICTURES],
            metric=metric_heading(found),
            summaries=summaries(found),
            columns=COLUMNS,
            comparison=comparison(rows, job, found),
        )


@pages.get("/datasets/<string:dataset_id>")
@decide(Access.READ)
def dataset_page(dataset_id: str) -> str:
    """One data set: its columns, their roles and the first rows."""
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


@pages.get("/networks/<string:network_id>")
@decide(Access.READ)
def network_page(network_id: str) -> str:
    """One uploaded network: its operators, and its tensors."""
    team_id = caller().team_id
    with services().database.read() as rows:
        network = networks.get(rows, team_id, known(network_id, NetworkId))
        owner = teams.get_member(rows, team_id, network.member_id).name
        return render_template("network.html", network=network, owner=owner, header=network.header or {})


@pages.get("/new")
@decide(Access.SUBMIT)
def new_job() -> str:
    """The form that uploads a data set and submits a job."""
    found = [load_recipe(name) for name in recipe_names()]
    experiments = [recipe for recipe in found if not recipe.needs_dataset]
    experiments.sort(key=lambda recipe: (not recipe.figure, recipe.figure))
    team_id = caller().team_id
    with services().database.read() as rows:
        ready = datasets.page(rows, team_id, state="ready", limit=100).rows
        brought = [network for network in networks.page(rows, team_id, limit=100).rows if network.state == "ready"]
    return render_template(
        "new.html",
        recipes=[(recipe, json.dumps(complete_spec(recipe))) for recipe in experiments],
        choices=[(choice, json.dumps(specs_of(choice))) for choice in CHOICES],
        built_in=[(kind, KINDS[kind].label, examples) for kind, examples in EXAMPLES.items()],
        datasets=[(dataset, examples_of(dataset)) for dataset in ready],
        networks=brought,
        chosen={name: request.args.get(name, "") for name in ("dataset", "network")},
        ladder=len(LADDER),
        limit_bytes=services().settings.max_upload_bytes,
        formats=json.dumps(EXAMPLES_OF_FORMATS),
    )


def examples_of(dataset: Dataset) -> str:
    """What the examples of a data set are. Of arrays the script of the form tells by their shape, in the preview."""
    if dataset.maker:
        return EXAMPLES.get(dataset.maker.get("kind", ""), "table")
    return EXAMPLES_OF_FORMATS.get(dataset.format or "", "table")


# --- all runs of a job together ------------------------------------------------------------------------

COLUMNS = ("test_metric", "connections", "modules", "modularity", "training_seconds", "evidence_seconds")


@dataclass(frozen=True)
class Spread:
    """Median, smallest and largest of some numbers, as text."""

    median: str
    least: str
    most: str


@dataclass(frozen=True)
class Summary:
    """The succeeded runs at one cost strength: their number, and the spread of every column that they have."""

    cost_strength: float | None
    runs: int
    columns: dict[str, Spread]


def summaries(found: Sequence[Run]) -> list[Summary]:
    """One for each cost strength at which two or more runs have succeeded, in the order of the runs."""
    ended: dict[float | None, list[Run]] = {}
    for run in found:
        if run.state == "succeeded":
            ended.setdefault(run.cost_strength, []).append(run)
    return [
        Summary(strength, len(group), {name: spread for name in COLUMNS if (spread := _spread(group, name))})
        for strength, group in ended.items()
        if len(group) > 1
    ]


def _spread(group: Sequence[Run], name: str) -> Spread | None:
    values = [float(value) for run in group if (value := getattr(run, name)) is not None and math.isfinite(value)]
    if not values:
        return None
    measure = partial(measured, group[0].test_metric_name)
    in_words: Callable[[float], str] = (
        measure
        if name == "test_metric"
        else duration
        if name.endswith("_seconds")
        else (lambda value: number(nearly(value)))
    )
    return Spread(in_words(median(values)), in_words(min(values)), in_words(max(values)))


def metric_heading(found: Sequence[Run]) -> str:
    """The heading of the column of test metrics; all runs of a job have the same metric."""
    name = metric_label(next((run.test_metric_name for run in found if run.test_metric_name), "test_metric"))
    return name[0].upper() + name[1:]


def comparison(rows: Session, job: JobView, found: Sequence[Run]) -> dict[str, Any] | None:
    """Stability of modules over seeds and loss against wiring; None with fewer than two succeeded runs.

    `missing` names the documents that are not stored yet; the script of the page requests them.
    """
    ids = [run.id for run in found if run.state == "succeeded"]
    if len(ids) < 2 or job.state in ("queued", "running"):
        return None
    kept = {kind: jobs.body(rows, job.id, kind) for kind in ("stability", "pareto")}
    documents = {kind: body["document"] for kind, body in kept.items() if body and body["run_ids"] == ids}
    pareto = documents.get("pareto") or {}
    return {
        "missing": [kind for kind in kept if kind not in documents],
        "stability": documents.get("stability"),
        "pareto": pareto_statement(pareto),
        "drawn": len(pareto.get("points") or []) > 1,
    }
