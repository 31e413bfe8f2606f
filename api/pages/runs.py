"""The list of runs: filtered, sorted and grouped, as pictures, a table, a scatter plot or curves, and as CSV.

The address holds the whole view, so it can be shared and bookmarked.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

from flask import Blueprint, Response, render_template, request
from markupsafe import Markup
from sqlalchemy import select
from sqlalchemy.orm import Session

from api.auth import Access, caller, decide
from api.pages.charts import Axis, Dot, Frame, Series, Trace, line_chart, parallel_axes
from api.pages.filters import (
    METHODS,
    MOST_ROWS,
    View,
    after,
    arranged,
    csv_file,
    data_choices,
    data_label,
    method_name,
    one_of,
    together,
)
from api.services import services
from bimt_engine.analysis.statements.wording import held_out_part, measured, metric_label, number
from bimt_engine.data.registry import KINDS
from store import jobs, runs
from store.columns import is_id
from store.jobs.tables import STATES
from store.runs.search import SORTED_BY, bodies_of, listed
from store.tables import Dataset, Job, Run

pages = Blueprint("run_pages", __name__, template_folder="templates")

MOST = 120  # runs on one page
MOST_CURVES = 40  # in one chart; more cannot be distinguished
MOST_POINTS = 300  # of one curve
OF_GROUP = 4  # pictures of a group of which not all are asked for
TONES = 12  # distinguishable groups in a chart: six colours, then the same six dashed; the 13th looks like the first
CHART = Frame(960, 420, 62, 30, 30, 44, ticks=6, name="chart")
SHOWN = {
    "pictures": "pictures",
    "table": "a table",
    "scatter": "a scatter plot",
    "curves": "curves",
    "parallel": "parallel axes",
}
GROUPED = {"job": "job", "data": "data", "method": "method", "none": "nothing"}


@dataclass(frozen=True)
class Quantity:
    """A number of a run that a scatter can show.

    of    from the run and its metrics; None: it has none.
    log   whether its axis is logarithmic.
    """

    label: str
    of: Callable[[Run, Mapping[str, Any]], float | None]
    log: bool = False


def _column(name: str) -> Callable[[Run, Mapping[str, Any]], float | None]:
    return lambda run, metrics: getattr(run, name)


def _metric(name: str) -> Callable[[Run, Mapping[str, Any]], float | None]:
    return lambda run, metrics: metrics.get(name)


QUANTITIES = {
    "connections": Quantity("connections", _column("connections"), log=True),
    "validation_loss": Quantity("validation loss", _metric("validation_prediction_loss"), log=True),
    "test_metric": Quantity("test metric", _column("test_metric")),
    "test_loss": Quantity("test loss", _metric("test_prediction_loss"), log=True),
    "modules": Quantity("modules", _column("modules")),
    "interior_modules": Quantity("groups inside", _column("interior_modules")),
    "modularity": Quantity("modularity Q", _column("modularity")),
    "selectivity": Quantity("selectivity", _column("selectivity")),
    "connection_cost": Quantity("connection cost", _column("connection_cost"), log=True),
    "cost_strength": Quantity("cost strength λ", _column("cost_strength"), log=True),
    "seed": Quantity("seed", _column("seed")),
    "training_seconds": Quantity("seconds of training", _column("training_seconds"), log=True),
}


def quantity(name: str, members: Sequence[Run]) -> Quantity:
    """A quantity as these runs have it: the test metric by its name, where all have the same, a loss logarithmic."""
    of = QUANTITIES[name]
    metrics = {run.test_metric_name for run in members if run.test_metric is not None}
    if name != "test_metric" or len(metrics) != 1:
        return of
    metric = metrics.pop() or ""
    return replace(of, label=metric_label(metric), log=metric.endswith("loss"))


SORTS = {"": "newest first"} | {
    name: {
        "test_metric": "test metric",
        "training_seconds": "time of training",
        "cost_strength": "cost strength λ",
    }.get(name, QUANTITIES[name].label if name in QUANTITIES else name)
    for name in SORTED_BY
}


AXES = (  # of the parallel ones, those that differ among the runs; as many as fit beside one another
    *("cost_strength", "seed", "connections", "validation_loss", "test_metric", "modules", "interior_modules"),
    *("modularity", "selectivity"),
)
MOST_AXES = 8


@dataclass(frozen=True, kw_only=True)
class RunList(View):
    """Which runs are asked for, and as what. Runs of one job stand together unless they are alone."""

    path = "/"
    as_what = View.as_what | {"show", "x", "y"}

    state: str = "succeeded"
    tag: str = ""
    job: str = ""
    data: str = ""
    method: str = ""
    run: tuple[str, ...] = ()
    group: str = "job"
    show: str = "pictures"
    x: str = "connections"
    y: str = "validation_loss"
    within: tuple[str, ...] = ()  # `quantity:least:greatest`

    @classmethod
    def asked(cls) -> RunList:
        """That of the request."""
        given = request.args
        job = given.get("job", "")
        data = given.get("data", "")
        job = job if is_id(job, "job") else ""
        chosen = tuple(each for each in given.getlist("run")[:MOST] if is_id(each, "run"))
        return cls(
            **arranged(SORTED_BY, GROUPED, "none" if job or chosen else "job"),
            state=one_of("state", (*STATES, "any"), "succeeded"),
            tag=given.get("tag", "")[:40],
            job=job,
            data=data if data in KINDS or is_id(data, "dataset") else "",
            method=one_of("method", METHODS),
            run=chosen,
            show=one_of("show", SHOWN, "pictures"),
            x=one_of("x", QUANTITIES, "connections"),
            y=one_of("y", QUANTITIES, "validation_loss"),
            within=tuple(each for each in given.getlist("within")[: len(QUANTITIES)] if limit_of(each)),
        )

    def admits(self, row: Row, metrics: Mapping[str, Any]) -> bool:
        """Whether a run lies within all limits. A run without the number does not."""
        for name, least, greatest in filter(None, map(limit_of, self.within)):
            value = QUANTITIES[name].of(row.run, metrics)
            if value is None or not least <= value <= greatest:
                return False
        return True

    def query(self) -> dict[str, Any]:
        """The same for `listed`."""
        return {
            "state": None if self.state == "any" else self.state,
            "q": self.q or None,
            "tag": self.tag or None,
            "job_id": self.job or None,
            "ids": self.run,
            "method": self.method or None,
            "dataset_kind": self.data if self.data in KINDS else None,
            "dataset_id": self.data if self.data not in KINDS and self.data else None,
            "sort": self.sort or None,
            "falling": self.falling,
        }


@dataclass(frozen=True)
class Row:
    """A run with what its job says of it."""

    run: Run
    job: str
    tags: tuple[str, ...]
    data: str

    @property
    def name(self) -> str:
        """Its job and seed."""
        strength = "" if self.run.cost_strength is None else f", λ {number(self.run.cost_strength)}"
        return f"{self.job}, seed {self.run.seed}{strength}"


@dataclass(frozen=True)
class Group:
    """Runs that stand together.

    address   of all of them; shown: those of which there is a picture.
    summary   medians over those that have succeeded.
    """

    name: str
    address: str
    rows: list[Row]
    shown: list[Row]
    tone: int
    summary: str


def limit_of(text: str) -> tuple[str, float, float] | None:
    """The quantity of a limit with its least and greatest value, both included; None of what is no limit."""
    name, *ends = text[:80].split(":")
    try:
        least, greatest = map(float, ends)
    except ValueError:
        return None
    return (name, least, greatest) if name in QUANTITIES and least <= greatest else None


def rows_of(rows: Session, team_id: str, found: Sequence[Run]) -> list[Row]:
    """The runs with the names of their jobs and data."""
    of = select(Job.id, Job.name, Job.tags, Dataset.name).outerjoin(Dataset, Dataset.id == Job.dataset_id)
    query = of.where(Job.team_id == team_id, Job.id.in_({run.job_id for run in found}))
    jobs_by_id = {job_id: (name, tuple(tags or ()), data) for job_id, name, tags, data in rows.execute(query)}
    return [
        Row(run, job, tags, data or data_label(run.dataset_kind))
        for run in found
        for job, tags, data in [jobs_by_id.get(run.job_id, ("run", (), None))]
    ]


def grouped(view: RunList, found: Sequence[Row]) -> list[Group]:
    """The rows in groups, in the order in which these begin; one without a name where nothing is grouped."""
    keys: dict[str, Callable[[Row], str]] = {
        "job": lambda row: row.run.job_id,
        "method": lambda row: row.run.method or "",
    }
    groups = []
    for number_, (key, members) in enumerate(together(found, keys.get(view.group, view.group)).items()):
        first = members[0]
        name = {"job": first.job, "data": first.data, "method": method_name(key)}.get(view.group, "")
        narrower = {"job": {"job": key, "group": ""}, "method": {"method": key}}.get(view.group)
        address = view.address(**narrower) if narrower and key else ""
        shown = members if view.group == "none" or len(members) <= OF_GROUP or not address else members[:OF_GROUP]
        groups.append(Group(name, address, members, shown, number_ % TONES + 1, _summary(members)))
    return groups


def joined(groups: Sequence[Group]) -> list[Group]:
    """Groups of one run beside one another as one without a name, so that none of them takes a row of its own."""
    together_: list[Group] = []
    for group in groups:
        before = together_[-1] if together_ else None
        if len(group.rows) == 1 and before is not None and (len(before.rows) == 1 or not before.name):
            rows = [*before.rows, *group.rows]
            together_[-1] = Group("", "", rows, rows, before.tone, "")
        else:
            together_.append(group)
    return together_


def _summary(members: Sequence[Row]) -> str:
    ended = [row.run for row in members if row.run.test_metric is not None and math.isfinite(row.run.test_metric)]
    said = []
    alike = len({run.test_metric_name for run in ended}) == 1 and len({row.data for row in members}) == 1
    if alike and len(ended) > 1:
        metric = ended[0].test_metric_name
        said.append(f"{metric_label(metric)} {measured(metric, median(run.test_metric or 0.0 for run in ended))}")
    kept = [run.connections for run in ended if run.connections is not None]
    if len(kept) > 1:
        said.append(f"{number(median(kept))} connections")
    return f"median {', '.join(said)}" if said else ""


@pages.get("/")
@decide(Access.READ)
def overview() -> str:
    """The start page: running jobs, and the networks that were trained."""
    team_id, view, cursor = caller().team_id, RunList.asked(), after()
    is_first = not request.args
    with services().database.read() as rows:
        page = listed(rows, team_id, after=cursor, limit=MOST, **view.query())
        listed_ = rows_of(rows, team_id, page.rows)
        needs_metrics = view.within or view.show in ("scatter", "parallel")
        metrics = bodies_of(rows, [run.id for run in page.rows], "metrics") if needs_metrics else {}
        found = [row for row in listed_ if view.admits(row, metrics.get(row.run.id) or {})]
        # Parallel axes show what lies outside, too, so that the limits can be moved.
        groups = grouped(view, listed_ if view.show == "parallel" else found)
        if view.show == "pictures" and view.group == "job":
            groups = joined(groups)
        active, failed = [], []
        if is_first:
            active = [
                job for state in ("running", "queued") for job in jobs.page(rows, team_id, state=state, limit=20).rows
            ]
            failed = jobs.page(rows, team_id, state="failed", limit=3).rows
        chart = None
        if view.show == "scatter":
            chart = _scatter(view, groups, metrics)
        elif view.show == "parallel":
            chart = _parallel(view, groups, metrics)
        elif view.show == "curves":
            curves = [row.run.id for row in found[:MOST_CURVES]]
            chart = _curves(groups, {run_id: runs.history(rows, run_id) for run_id in curves})
        return render_template(
            "overview.html",
            view=view,
            groups=groups,
            rows=listed_ if view.show == "parallel" else found,
            within={row.run.id for row in found},
            kinds_of_data=len({row.data for row in found}),
            chart=chart,
            active=active,
            places=jobs.queue_positions(rows, active),
            failed=failed,
            first=is_first,
            next_page=view.address(after=page.after) if page.after else None,
            is_cut=bool(view.sort) and len(found) == MOST,
            most=MOST,
            most_curves=MOST_CURVES,
            job=next((row.job for row in found), "") if view.job else "",
            data=data_choices(rows, team_id),
            methods=METHODS,
            states={"any": "any"} | {state: state for state in STATES},
            sorts=SORTS,
            grouping=GROUPED,
            showing=SHOWN,
            quantities={name: of.label for name, of in QUANTITIES.items()},
        )


def _scatter(view: RunList, groups: Sequence[Group], metrics: Mapping[str, Mapping[str, Any]]) -> Markup:
    shown = [row.run for group in groups for row in group.rows]
    across, up = quantity(view.x, shown), quantity(view.y, shown)
    dots: list[Dot] = []
    used: list[tuple[str, int]] = []
    for group in groups:
        before = len(dots)
        for row in group.rows:
            x, y = (of.of(row.run, metrics.get(row.run.id) or {}) for of in (across, up))
            if isinstance(x, int | float) and isinstance(y, int | float):
                title = f"{row.name}: {across.label} {number(x)}, {up.label} {number(y)}"
                dots.append(Dot(float(x), float(y), f"seed {row.run.seed}", title, f"/runs/{row.run.id}", group.tone))
        if len(dots) > before and group.name:
            used.append((group.name, group.tone))
    x_axis = Axis(across.label, _is_log(across, [dot.x for dot in dots]))
    y_axis = Axis(up.label, _is_log(up, [dot.y for dot in dots]))
    title = f"{up.label} against {across.label}, a point for each run"
    return line_chart(title, [], x=x_axis, y=y_axis, dots=dots, legend=used, frame=CHART)


def _parallel(view: RunList, groups: Sequence[Group], metrics: Mapping[str, Mapping[str, Any]]) -> Markup:
    members = [(group, row, metrics.get(row.run.id) or {}) for group in groups for row in group.rows]
    quantities = {name: quantity(name, [row.run for _, row, _ in members]) for name in AXES}
    values = {name: [quantities[name].of(row.run, of) for _, row, of in members] for name in AXES}
    limited = {limit[0] for limit in map(limit_of, view.within) if limit}
    names = [name for name, found in values.items() if len({*found} - {None}) > 1 or name in limited][:MOST_AXES]
    traces = [
        Trace(
            row.run.id,
            row.name,
            f"/runs/{row.run.id}",
            group.tone,
            [values[name][at] for name in names],
            is_out=not view.admits(row, of),
        )
        for at, (group, row, of) in enumerate(members)
    ]
    axes = [(name, Axis(quantities[name].label, _is_log(quantities[name], values[name]))) for name in names]
    legend = [(group.name, group.tone) for group in groups if group.name]
    return parallel_axes("Numbers of the runs on parallel axes, a line for each run", axes, traces, legend=legend)


def _is_log(quantity: Quantity, values: Sequence[float | None]) -> bool:
    """Whether an axis is logarithmic: as its quantity asks for, unless a run would have no place on it."""
    return quantity.log and all(value > 0 for value in values if value is not None)


def _curves(groups: Sequence[Group], histories: Mapping[str, Sequence[Mapping[str, Any]]]) -> Markup:
    lines, used = [], []
    for group in groups:
        for row in group.rows:
            history = histories.get(row.run.id) or ()
            column = f"{held_out_part(history, 'prediction_loss')}_prediction_loss"
            points = [(float(at["step"]), at[column]) for at in history if isinstance(at.get(column), int | float)]
            if points:
                kept = points[:: max(1, len(points) // MOST_POINTS)]
                lines.append(Series(row.name, kept, group.tone, f"/runs/{row.run.id}"))
                if group.name and (group.name, group.tone) not in used:
                    used.append((group.name, group.tone))
    title = "Loss on rows that are not trained on, over the steps, a line for each run"
    return line_chart(title, lines, x=Axis("step"), y=Axis("validation loss", log=True), legend=used, frame=CHART)


# --- as a file -----------------------------------------------------------------------------------------

FILE_COLUMNS: dict[str, Callable[[Row], Any]] = {
    "run": lambda row: row.run.id,
    "job": lambda row: row.job,
    "job_id": lambda row: row.run.job_id,
    "tags": lambda row: " ".join(row.tags),
    "data": lambda row: row.data,
    **{
        name: (lambda row, name=name: getattr(row.run, name))  # type: ignore[misc]
        for name in (
            *("dataset_kind", "method", "seed", "cost_strength", "state", "steps", "test_metric_name", "test_metric"),
            *("connections", "modules", "interior_modules", "modularity", "selectivity", "connection_cost"),
            *("training_seconds", "evidence_seconds", "created_at", "ended_at"),
        )
    },
}


@pages.get("/runs.csv")
@decide(Access.READ)
def wall_file() -> Response:
    """The runs of a view as CSV, the first 10 000."""
    team_id, view = caller().team_id, RunList.asked()
    with services().database.read() as rows:
        found = rows_of(rows, team_id, listed(rows, team_id, limit=MOST_ROWS, **view.query()).rows)
        if view.within:
            metrics = bodies_of(rows, [row.run.id for row in found], "metrics")
            found = [row for row in found if view.admits(row, metrics.get(row.run.id) or {})]
    return csv_file("runs.csv", FILE_COLUMNS, found)
