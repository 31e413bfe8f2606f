"""What the runs of a job say together: their medians and spread, which modules come back, what wiring costs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

from markupsafe import Markup
from sqlalchemy.orm import Session

from api.web.charts import Axis, Series, line_chart, number
from api.web.reading import measured, metric_name
from api.web.words import duration
from store import jobs
from store.job_now import JobNow
from store.tables import Run

Words = Callable[[float], str]
COLUMNS = ("test_metric", "connections", "modules", "modularity", "training_seconds", "evidence_seconds")


@dataclass(frozen=True)
class Spread:
    """The middle and the ends of some numbers, as a person reads them."""

    median: str
    least: str
    most: str


@dataclass(frozen=True)
class Summary:
    """The runs at one cost strength that have succeeded: how many, and the spread of every column that they have."""

    cost_strength: float | None
    runs: int
    columns: dict[str, Spread]


def summaries(found: Sequence[Run]) -> list[Summary]:
    """One for each cost strength at which two runs or more have succeeded, in the order of the runs."""
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
    in_words: Words = measure if name == "test_metric" else duration if name.endswith("_seconds") else number
    return Spread(in_words(median(values)), in_words(min(values)), in_words(max(values)))


def metric_heading(found: Sequence[Run]) -> str:
    """What the test metric of these runs is called; they are of one job, so they share it."""
    name = metric_name(next((run.test_metric_name for run in found if run.test_metric_name), "test_metric"))
    return name[0].upper() + name[1:]


def said_together(rows: Session, job: JobNow, found: Sequence[Run]) -> dict[str, Any] | None:
    """Which modules come back, and what wiring costs; None where there is but one run.

    What nobody has asked for yet is left out; `missing` says that it has to be asked for.
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
        "pareto": pareto,
        "chart": pareto_chart(pareto.get("points") or []),
    }


def pareto_chart(points: Sequence[Mapping[str, Any]]) -> Markup | None:
    """Loss against wiring, a dot for each run; those that no other betters are joined."""

    def places(kept: Sequence[Mapping[str, Any]]) -> list[tuple[float, float]]:
        pairs = [(point.get("wiring"), point.get("loss")) for point in kept]
        return sorted((a, b) for a, b in pairs if a is not None and b is not None and math.isfinite(a + b))

    efficient = [point for point in points if point.get("efficient")]
    lines = [
        Series("no other run is better in one and as good in the other", places(efficient), tone=1, dots=True),
        Series("bettered", places([p for p in points if not p.get("efficient")]), tone=2, dots=True, joined=False),
    ]
    lines = [line for line in lines if line.points]
    return line_chart("Loss against wiring", lines, x=Axis("wiring"), y=Axis("loss", log=True)) if lines else None
