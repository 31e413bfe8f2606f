"""Pages of jobs and data sets: what is running, one job with all its runs, what can be trained on."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

from flask import Blueprint, Response, render_template, request
from sqlalchemy.orm import Session

from api.auth import Access, caller, decide
from api.pages.charts import histogram
from api.pages.filters import (
    METHODS,
    MOST_LISTED,
    MOST_ROWS,
    View,
    after,
    arranged,
    csv_file,
    data_choices,
    data_label,
    duration,
    known,
    method_name,
    nearly,
    one_of,
    pretty,
    together,
)
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
from store.columns import is_id
from store.database import Page
from store.datasets import DATASET_STATES
from store.jobs.tables import STATES, JobView
from store.tables import Dataset, Job, Network, Run

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


JOB_GROUPS = {"none": "nothing", "data": "data", "method": "method", "owner": "owner", "state": "state"}


@dataclass(frozen=True, kw_only=True)
class JobList(View):
    """Which jobs are asked for. `owner`: the id of a member; `data`: a kind, or the id of a data set."""

    path = "/jobs"

    state: str = ""
    tag: str = ""
    data: str = ""
    method: str = ""
    owner: str = ""

    @classmethod
    def asked(cls) -> JobList:
        """That of the request."""
        data, owner = (request.args.get(name, "") for name in ("data", "owner"))
        return cls(
            **arranged(jobs.SORTED_BY, JOB_GROUPS),
            state=one_of("state", STATES),
            tag=request.args.get("tag", "")[:40].strip(),
            data=data if data in KINDS or is_id(data, "dataset") else "",
            method=one_of("method", METHODS),
            owner=owner if is_id(owner, "member") else "",
        )

    def found(self, rows: Session, team_id: str, *, limit: int, after: str | None = None) -> Page[JobRow]:
        """The jobs, with who submitted them and what they train on what."""
        page = jobs.page(
            rows,
            team_id,
            state=self.state or None,
            tag=self.tag or None,
            q=self.q or None,
            owner=self.owner or None,
            method=self.method or None,
            dataset_kind=self.data if self.data in KINDS else None,
            dataset_id=self.data if self.data and self.data not in KINDS else None,
            sort=self.sort or None,
            falling=self.falling,
            after=after,
            limit=limit,
        )
        owners = teams.names(rows, {job.member_id for job in page.rows})
        trained = jobs.trained_on(rows, [job.id for job in page.rows])
        places = jobs.queue_positions(rows, page.rows)
        listed = []
        for job in page.rows:
            method, kind, name = trained[job.id]
            owner, data = owners.get(job.member_id, "–"), name or data_label(kind)
            listed.append(JobRow(job, owner, data, method_name(method), places.get(job.id)))
        return Page(listed, page.after)


@dataclass(frozen=True)
class JobRow:
    """A job of a list; what it can be grouped by has the names of JOB_GROUPS.

    place   how many jobs are claimed before it in its queue; None: it does not wait.
    """

    job: Job
    owner: str
    data: str
    method: str
    place: int | None

    @property
    def state(self) -> str:
        """That of the job."""
        return self.job.state


JOB_FILE: dict[str, Callable[[JobRow], Any]] = {
    "job": lambda row: row.job.name,
    "job_id": lambda row: row.job.id,
    "tags": lambda row: " ".join(row.job.tags),
    "owner": lambda row: row.owner,
    "data": lambda row: row.data,
    "method": lambda row: row.method,
    **{
        name: (lambda row, name=name: getattr(row.job, name))  # type: ignore[misc]
        for name in ("state", "progress", "runs", "steps", "created_at", "started_at", "ended_at", "reason")
    },
}


@pages.get("/jobs")
@decide(Access.READ)
def job_list() -> str:
    """All jobs: filtered, sorted, grouped."""
    team_id, view = caller().team_id, JobList.asked()
    with services().database.read() as rows:
        page = view.found(rows, team_id, limit=MOST_LISTED, after=after())
        return render_template(
            "jobs.html",
            view=view,
            groups=together(page.rows, view.group),
            next_page=view.address(after=page.after) if page.after else None,
            is_cut=bool(view.sort) and len(page.rows) == MOST_LISTED,
            most=MOST_LISTED,
            states={state: state for state in STATES},
            grouping=JOB_GROUPS,
            methods=METHODS,
            data=data_choices(rows, team_id),
            owners={member.id: member.name for member in teams.page_members(rows, team_id, limit=100).rows},
        )


@pages.get("/jobs.csv")
@decide(Access.READ)
def job_file() -> Response:
    """The jobs of a view as CSV, the first 10 000."""
    with services().database.read() as rows:
        return csv_file("jobs.csv", JOB_FILE, JobList.asked().found(rows, caller().team_id, limit=MOST_ROWS).rows)


UPLOADS_LISTED = 40  # data sets, and networks, of one page


@dataclass(frozen=True, kw_only=True)
class UploadList(View):
    """Which data sets and networks are asked for."""

    path = "/datasets"

    state: str = ""

    @classmethod
    def asked(cls) -> UploadList:
        """That of the request."""
        return cls(**arranged((), ()), state=one_of("state", DATASET_STATES))


@pages.get("/datasets")
@decide(Access.READ)
def dataset_list() -> str:
    """All data sets and networks, those that were refused with the reason, and the form to upload one."""
    team_id, view = caller().team_id, UploadList.asked()
    asked: dict[str, Any] = {"q": view.q or None, "state": view.state or None, "explained": True}
    with services().database.read() as rows:
        page = datasets.page(rows, team_id, after=after(), limit=UPLOADS_LISTED, **asked)
        brought = networks.page(rows, team_id, after=after("networks_after"), limit=UPLOADS_LISTED, **asked)
        return render_template(
            "datasets.html",
            view=view,
            states={state: state for state in DATASET_STATES},
            datasets=page.rows,
            next_page=view.address(after=page.after) if page.after else None,
            networks=brought.rows,
            next_network=view.address(networks_after=brought.after) if brought.after else None,
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
            histogram=histogram,
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
        return render_template(
            "network.html", network=network, owner=owner, header=network.header or {}, ends=ends_of(network)
        )


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
        brought = networks.page(rows, team_id, state="ready", with_headers=True, limit=100).rows
    return render_template(
        "new.html",
        recipes=[(recipe, json.dumps(complete_spec(recipe))) for recipe in experiments],
        choices=[(choice, json.dumps(specs_of(choice))) for choice in CHOICES],
        built_in=[(kind, KINDS[kind].label, examples) for kind, examples in EXAMPLES.items()],
        datasets=[(dataset, examples_of(dataset)) for dataset in ready],
        networks=[(network, ends_of(network)) for network in brought],
        chosen={name: request.args.get(name, "") for name in ("dataset", "network")},
        ladder=len(LADDER),
        limit_bytes=services().settings.max_upload_bytes,
        formats=json.dumps(EXAMPLES_OF_FORMATS),
    )


def ends_of(network: Network) -> str:
    """How many numbers of an example an uploaded network reads and gives, as the script of the form writes it."""
    ends = []
    for end in ("input", "output"):
        shape = ((network.header or {}).get(end) or {}).get("shape")
        if not shape:
            return ""
        lengths = " × ".join("any" if length is None else f"{length:,}" for length in shape[1:]) or "1"
        ends.append(f"{lengths} {end}s")
    return " → ".join(ends)


def examples_of(dataset: Dataset) -> str:
    """What the examples of a data set are. For arrays the script of the form decides by their shape, in the preview."""
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
