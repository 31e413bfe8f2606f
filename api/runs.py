"""Runs: one trained network each, and what was found in it."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from flask import Response
from pydantic import Field
from sqlalchemy.orm import Session

from api import bundles, evidence
from api.auth import Access, audit, caller
from api.evidence import EvidenceQuery, OutputOut
from api.jobs import JobPath, JobState
from api.problems import Problem
from api.routing import Resource, answer, binary, cursor, key_of, markdown, text
from api.schemas import (
    PRINTABLE,
    Body,
    InPath,
    JobId,
    MemberId,
    Page,
    PageQuery,
    Query,
    ResponseModel,
    RunId,
)
from api.services import services
from store import runs
from store.tables import Run


class RunPath(InPath):
    """Which run."""

    run_id: RunId


class RunsQuery(EvidenceQuery):
    """Which runs."""

    state: JobState | None = None
    method: str | None = Field(default=None, max_length=32, description="vanilla, l1, l1_local, l1_swap or bimt.")
    dataset_kind: str | None = Field(default=None, max_length=32, description="formula, uploaded, modular_addition …")
    after: str | None = Field(default=None, max_length=300, description="The `next` of the page before.")
    limit: int = Field(default=50, ge=1, le=200)


class PartPath(RunPath):
    """Which module or group of a run."""

    part: Annotated[str, Field(pattern=r"^[A-Z]+[0-9]*$", max_length=20)]


class NameIn(Body):
    """What a part is called, and what is said of it."""

    name: Annotated[str, Field(max_length=60, pattern=PRINTABLE)] = Field(default="", description="Empty: no name.")
    note: Annotated[str, Field(max_length=1_000, pattern=PRINTABLE)] = ""
    replaces: int | None = Field(
        default=None, ge=1, le=10**6, description="The `number` that you have seen; null: it had no name."
    )


class NameOut(ResponseModel):
    """What a part is called; `number` counts how often that was written."""

    name: str
    note: str
    number: int
    member_id: MemberId
    at: datetime


class NamesOut(ResponseModel):
    """What people call the modules and groups of a run, by their letters."""

    names: dict[str, NameOut]


class SnapshotsQuery(Query):
    """Which part of the list."""

    after: int | None = Field(default=None, ge=0, le=2**53, description="Only later steps.")
    limit: int = Field(default=200, ge=1, le=1000)


class RunItem(ResponseModel):
    """A run in a list, with what sums up its evidence."""

    id: RunId
    job_id: JobId
    number: int
    seed: int
    cost_strength: float | None = Field(
        description="λ of the first phase in which it is not 0; null: as the spec says."
    )
    state: JobState
    reason: str | None = None
    step: int
    steps: int
    stepper: str | None = None
    device: str | None = None
    replicas: int | None = Field(
        default=None,
        description="Number of runs of the job that trained side by side, this one included; the last bits depend on "
        "it.",
    )
    training_seconds: float | None = Field(
        default=None,
        description="Spent on its steps, over all attempts; its share where several runs train side by side.",
    )
    evidence_seconds: float | None = Field(
        default=None, description="Spent on what was found afterwards: pruning, tests, pictures."
    )
    created_at: datetime
    started_at: datetime | None = None
    ended_at: datetime | None = None
    test_metric_name: str | None = None
    test_metric: float | None = None
    connections: int | None = None
    modules: int | None = None
    interior_modules: int | None = Field(
        default=None, description="Supported groups of neurons inside the modules; null: it was not examined for them."
    )
    modularity: float | None = None
    selectivity: float | None = None
    connection_cost: float | None = None


class RunOut(RunItem):
    """A run."""

    spec: dict[str, Any] = Field(description="Complete and written out in numbers; submit it to train the same again.")
    metrics: dict[str, Any] = Field(
        default={},
        description="Numbers by name; `verdict` sums the evidence up; for tables, `baselines` has what linear models "
        "and boosted trees reach on the same rows.",
    )
    outputs: list[OutputOut] = Field(
        default=[], description="How well each target is predicted; empty before the end, and for older runs."
    )
    files: list[str] = Field(default=[])
    figures: list[str] = Field(default=[])


class RunPage(Page):
    """A part of the list of a job's runs."""

    items: list[RunItem]


class HistoryOut(ResponseModel):
    """The learning curve: one row for each step that was logged."""

    rows: list[dict[str, Any]]


class SnapshotOut(ResponseModel):
    """The network at one step."""

    step: int
    sha256: str


class SnapshotsOut(ResponseModel):
    """Steps of which the network is kept."""

    items: list[SnapshotOut]
    next: int | None = Field(default=None, description="Send it as `after`; null at the end.")


api = Resource("runs", "One network, trained with one seed and one cost strength, and what was found in it.")

# What runs are searched by, as store.runs.search names it.
EVIDENCE = {*EvidenceQuery.model_fields, "method", "dataset_kind"}


@api.route("get", "/jobs/<string:job_id>/runs", requires=Access.READ, answers={200: RunPage})
def list_runs(path: JobPath, query: PageQuery) -> Response:
    """The runs of a job, in the order of its seeds and cost strengths."""
    with services().database.read() as rows:
        page = runs.page_of_job(rows, caller().team_id, path.job_id, after=key_of(query.after), limit=query.limit)
        return answer(RunPage(items=[RunItem.model_validate(row) for row in page.rows], next=cursor(page.after)))


@api.route("get", "/runs", requires=Access.READ, answers={200: RunPage})
def list_all_runs(query: RunsQuery) -> Response:
    """The team's runs, newest first, filtered by what was found in them."""
    with services().database.read() as rows:
        page = runs.page(
            rows,
            caller().team_id,
            state=query.state,
            **query.model_dump(include=EVIDENCE),
            after=key_of(query.after),
            limit=query.limit,
        )
        return answer(RunPage(items=[RunItem.model_validate(row) for row in page.rows], next=cursor(page.after)))


@api.route("get", "/runs/<string:run_id>", requires=Access.READ, answers={200: RunOut})
def get_run(path: RunPath) -> Response:
    """One run: state, what sums up its evidence, its complete spec."""
    with services().database.read() as rows:
        run = runs.get(rows, caller().team_id, path.run_id)
        item = RunItem.model_validate(run)
        return answer(
            RunOut(
                **item.model_dump(),
                **evidence.numbers(rows, run),
                spec=run.spec,
                files=[file.name for file in runs.published_files(rows, run.id)],
                figures=evidence.figure_names(rows, run.id),
            )
        )


@api.route("get", "/runs/<string:run_id>/history", requires=Access.READ, answers={200: HistoryOut})
def run_history(path: RunPath) -> Response:
    """The learning curve, also while it trains."""
    with services().database.read() as rows:
        run = runs.get(rows, caller().team_id, path.run_id)
        return answer(HistoryOut(rows=runs.history(rows, run.id)))


@api.route("get", "/runs/<string:run_id>/snapshots", requires=Access.READ, answers={200: SnapshotsOut})
def run_snapshots(path: RunPath, query: SnapshotsQuery) -> Response:
    """The steps of which the network is kept."""
    with services().database.read() as rows:
        run = runs.get(rows, caller().team_id, path.run_id)
        found = runs.snapshots(rows, run.id, after=-1 if query.after is None else query.after, limit=query.limit + 1)
        items = [SnapshotOut.model_validate(row) for row in found[: query.limit]]
        return answer(SnapshotsOut(items=items, next=items[-1].step if len(found) > query.limit else None))


@api.route(
    "get",
    "/runs/<string:run_id>/card.md",
    requires=Access.READ,
    answers={200: text("text/markdown", "The card, in Markdown.")},
    problems=(409,),
)
def run_card(path: RunPath) -> Response:
    """The card: what was found, in words and numbers, and how it was trained."""
    with services().database.read() as rows:
        return markdown(bundles.card_of_run(rows, runs.get(rows, caller().team_id, path.run_id)))


@api.route(
    "get",
    "/runs/<string:run_id>/bundle.zip",
    requires=Access.READ,
    answers={200: binary("application/zip", "Spec, weights, graph, modules, effects, curves, figures, card.")},
    problems=(409,),
)
def run_bundle(path: RunPath) -> Response:
    """Everything that was found in one file, with the SHA-256 of each part in manifest.json."""
    with services().database.read() as rows:
        run = runs.get(rows, caller().team_id, path.run_id)
        return bundles.send_bundle(bundles.bundle_of_run(rows, run), run.id)


@api.route("get", "/runs/<string:run_id>/names", requires=Access.READ, answers={200: NamesOut})
def run_names(path: RunPath) -> Response:
    """What people call its modules and groups."""
    with services().database.read() as rows:
        run = runs.get(rows, caller().team_id, path.run_id)
        return answer(NamesOut.model_validate({"names": runs.names(rows, run.id)}))


@api.route(
    "put",
    "/runs/<string:run_id>/names/<string:part>",
    requires=Access.SHARE,
    answers={200: NamesOut},
    problems=(409,),
)
def name_part(path: PartPath, body: NameIn) -> Response:
    """Name a module or a group and say something of it; both empty takes the name away.

    The name is shown wherever the part is, in versions and links of the run and in its downloads, too.
    """
    here, who = services(), caller()
    with here.database.write() as rows:
        run = runs.get(rows, who.team_id, path.run_id)
        parts = {module.name for module in runs.modules(rows, run.id)} | {g.name for g in runs.groups(rows, run.id)}
        graph = evidence.graph_of(rows, run)
        if path.part not in parts | {neuron.group for neuron in graph.neurons}:
            raise Problem("not-found", f"This run has no module or group `{path.part}`.")
        given = runs.give_name(
            rows,
            run,
            path.part,
            name=body.name.strip(),
            note=body.note.strip(),
            replaces=body.replaces,
            member_id=who.member_id,
            now=here.now(),
        )
        audit(rows, "run.name", run.id, part=path.part, name=body.name)
        return answer(NamesOut.model_validate({"names": given}))


def _find(rows: Session, path: RunPath) -> tuple[Run, str]:
    """The run, and the name of its downloads. Raises NotFound."""
    return runs.get(rows, caller().team_id, path.run_id), path.run_id


evidence.mount(api, "/runs/<string:run_id>", prefix="run", path=RunPath, requires=Access.READ, find=_find)
