"""Two runs side by side: where their specs differ, their numbers, and which module of one is which of the other."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from sqlalchemy.orm import Session

from api.auth import caller
from api.evidence import or_not_yet
from api.resources.models import reader
from api.schemas.models import CompareOut, Difference, MetricPair, ModulePair, Side
from store import models, runs
from store.identifiers import is_id
from store.tables import Run


@dataclass(frozen=True)
class Subject:
    """One of the two: what it is called, and its run."""

    what: str
    run: Run


def side_of(rows: Session, text: str) -> Subject:
    """The run that is meant by a run's id, or by a model's name or id with `@VERSION` or without. Raises NotFound."""
    if is_id(text, "run"):
        return Subject(text, runs.get(rows, caller().team_id, text))
    name, _, word = text.partition("@")
    model = models.get(rows, reader(), name)
    version = models.find_version(rows, model, word or models.NEWEST)
    return Subject(f"{model.name}@{version.number}", models.run_of(rows, version))


def compare(rows: Session, a: Subject, b: Subject) -> CompareOut:
    """The two side by side. Raises the problem that one has not come that far."""
    metrics_a, metrics_b = (_metrics(rows, side.run) for side in (a, b))
    return CompareOut(
        a=_side(a),
        b=_side(b),
        spec=differences(a.run.spec, b.run.spec),
        metrics=[_pair(name, metrics_a, metrics_b) for name in dict.fromkeys([*metrics_a, *metrics_b])],
        modules=matched(_modules(rows, a.run), _modules(rows, b.run)),
    )


def differences(a: Any, b: Any, pointer: str = "") -> list[Difference]:
    """Every field that is not the same in two JSON documents, lists compared entry by entry."""
    if isinstance(a, dict) and isinstance(b, dict):
        keys = dict.fromkeys([*a, *b])
        steps = [(str(key).replace("~", "~0").replace("/", "~1"), a.get(key), b.get(key)) for key in keys]
    elif isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        steps = [(str(i), *pair) for i, pair in enumerate(zip(a, b, strict=True))]
    else:
        return [] if a == b else [Difference(pointer=pointer, a=a, b=b)]
    return [found for step, x, y in steps for found in differences(x, y, f"{pointer}/{step}")]


def matched(a: list[dict[str, Any]], b: list[dict[str, Any]]) -> list[ModulePair]:
    """Modules that read and decide the same, the best match first; those without a counterpart come last."""
    scored = sorted(
        ((overlap(x, y), i, j) for i, x in enumerate(a) for j, y in enumerate(b)),
        key=lambda entry: (-entry[0], entry[1], entry[2]),
    )
    pairs, left, right = [], dict(enumerate(a)), dict(enumerate(b))
    for score, i, j in scored:
        if score > 0 and i in left and j in right:
            pairs.append(ModulePair(a=left.pop(i), b=right.pop(j), overlap=score))
    pairs += [ModulePair(a=module, overlap=0.0) for module in left.values()]
    return pairs + [ModulePair(b=module, overlap=0.0) for module in right.values()]


def overlap(a: dict[str, Any], b: dict[str, Any]) -> float:
    """Of all inputs and outputs that the two touch, the share that both touch."""
    ends_a, ends_b = (
        {(role, name) for role in ("inputs", "outputs") for name in one.get(role) or []} for one in (a, b)
    )
    together = ends_a | ends_b
    return round(len(ends_a & ends_b) / len(together), 6) if together else 0.0


def _side(side: Subject) -> Side:
    run = side.run
    return Side(what=side.what, run_id=run.id, seed=run.seed, connections=run.connections, modules=run.modules)


def _metrics(rows: Session, run: Run) -> dict[str, float]:
    """All numbers of a run by name: those that it is listed by, then the others."""
    listed = {name: getattr(run, name) for name in runs.SUMMARY if name not in ("test_metric_name", "test_metric")}
    everything = listed | dict(or_not_yet(runs.body(rows, run.id, "metrics"), run))
    return {
        name: float(value)
        for name, value in everything.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    }


def _pair(name: str, a: dict[str, float], b: dict[str, float]) -> MetricPair:
    x, y = a.get(name), b.get(name)
    return MetricPair(name=name, a=x, b=y, difference=None if x is None or y is None else y - x)


def _modules(rows: Session, run: Run) -> list[dict[str, Any]]:
    shown = ("name", "inputs", "outputs", "connections", "selectivity", "sufficiency", "reading")
    return [
        {name: row.body.get(name) for name in shown} | {"neurons": row.neurons} for row in runs.modules(rows, run.id)
    ]
