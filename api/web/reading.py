"""What the pages say about results: numbers put into words, tables and curves."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from api.web.charts import Axis, Series, line_chart, number
from api.web.formulas import share
from store.tables import Run

STATES = ("queued", "running", "succeeded", "failed", "cancelled")
SHADES = (0.01, 0.1, 0.3, 0.7)  # of the strongest effect; where the shades of the matrix begin

METRIC_NAMES = {
    "test_prediction_loss": "test loss",
    "train_prediction_loss": "train loss",
    "prediction_loss": "train loss",
    "test_accuracy": "test accuracy",
    "train_accuracy": "train accuracy",
    "test_r2": "test R²",
    "r2": "R²",
}


@dataclass(frozen=True)
class ModuleShown:
    """A module as its card shows it."""

    name: str
    tone: int
    reading: str
    evidence: list[str]
    supported: bool | None
    neurons: int
    connections: int
    selectivity: float | None
    sufficiency: float | None
    inputs: list[str]
    outputs: list[str]


def modules(bodies: Sequence[Mapping[str, Any]], tones: Mapping[str, int]) -> list[ModuleShown]:
    """The cards of the modules."""
    return [
        ModuleShown(
            name=str(body.get("name", "")),
            tone=tones.get(str(body.get("name", "")), index % 8 + 1),
            reading=what,
            evidence=[part[:1].upper() + part[1:] for part in numbers.split("; ") if part],
            supported=body.get("supported"),
            neurons=len(body.get("neurons") or []),
            connections=int(body.get("connections") or 0),
            selectivity=_whole(body.get("selectivity")),
            sufficiency=_whole(body.get("sufficiency")),
            inputs=list(body.get("inputs") or []),
            outputs=list(body.get("outputs") or []),
        )
        for index, body in enumerate(bodies)
        for what, numbers in [_said(body)]
    ]


def _said(body: Mapping[str, Any]) -> tuple[str, str]:
    """(what the module does, the numbers behind it), out of the one sentence of the engine."""
    said = str(body.get("reading", "")).removeprefix(f"module {body.get('name', '')} ")
    what, _, numbers = said.partition(": ")
    return what[:1].upper() + what[1:], numbers


@dataclass(frozen=True)
class Cell:
    """One effect: its number, how dark its cell is, and its p-value, corrected for the number of cells."""

    value: float | None
    shade: int
    p_holm: float | None


RECOGNISED = (("pruned", "recall"), ("pruned", "mistaken"), ("trained", "recall"))


@dataclass(frozen=True)
class Outputs:
    """How well each target is predicted: what the columns are called, and for each target its cells and a verdict."""

    caption: str
    heads: list[str]
    rows: list[tuple[str, list[str], bool | None]]


def outputs(bodies: Sequence[Mapping[str, Any]]) -> Outputs | None:
    """The table of outputs; None for runs that were published without one."""
    if not bodies:
        return None
    if bodies[0].get("measure") == "recall":
        heads = ["recognised", "others taken for it", "recognised before pruning", "held-out rows"]
        caption = "Of each class, the share of its held-out rows that are called by its name, and of all other rows."
        cells = [
            [
                *(_share(b, of, what) for of, what in RECOGNISED),
                number(b.get("rows")),
            ]
            for b in bodies
        ]
    else:
        heads = ["R², held out", "before pruning", "before pruning, training rows"]
        caption = "Of each output, the share of its variance that is explained."
        cells = [[_share(b, w, "r2") for w in ("pruned", "trained", "trained_on_training_rows")] for b in bodies]
    rows = [(str(b.get("output", "")), of, b.get("learnt")) for b, of in zip(bodies, cells, strict=True)]
    return Outputs(caption, heads, rows)


def _share(body: Mapping[str, Any], which: str, measure: str) -> str:
    value = _float((body.get(which) or {}).get(measure))
    return "–" if value is None else share(value)


KINDS = {
    "mean": "held at its mean in the pruned network",
    "resample": "given its values from other examples",
    "zero": "set to zero",
    "trained": "held at its mean in the network as trained, before it was pruned",
}


@dataclass(frozen=True)
class Matrix:
    """Effects of modules (rows) on targets (columns), when modules are treated so."""

    targets: list[str]
    rows: list[tuple[str, list[Cell]]]
    kind: str
    words: str


def effect_matrices(bodies: Sequence[Mapping[str, Any]], judged_by: str) -> list[Matrix]:
    """The matrices that were measured, first the one that modules are judged by, which alone has p-values."""
    effects = {str(b.get("name", "")): b.get("effects") or {} for b in bodies}
    targets = list(dict.fromkeys(target for of in effects.values() for target in of))
    there = [kind for kind in KINDS if any(kind in (e or {}) for of in effects.values() for e in of.values())]
    there.sort(key=lambda kind: kind != judged_by)
    own = {str(b.get("name", "")): b.get("outputs") or [] for b in bodies}
    return [_matrix(effects, own, targets, kind, with_p=kind == judged_by) for kind in there] if targets else []


def _matrix(
    effects: Mapping[str, Mapping[str, Any]],
    own: Mapping[str, Sequence[str]],
    targets: list[str],
    kind: str,
    *,
    with_p: bool,
) -> Matrix:
    """A module has a p-value where it decides: what it leaves alone needs none to be read."""
    values = {(m, t): _float((effects[m].get(t) or {}).get(kind)) for m in effects for t in targets}
    strongest = max((abs(v) for v in values.values() if v is not None), default=0.0) or 1.0
    rows = []
    for module in effects:
        cells = []
        for target in targets:
            value = values[module, target]
            part = 0.0 if value is None else max(0.0, value) / strongest
            shade = sum(part > limit for limit in SHADES)
            decides = with_p and target in own[module]
            p_holm = _float((effects[module].get(target) or {}).get("p_holm")) if decides else None
            cells.append(Cell(value, shade, p_holm))
        rows.append((module, cells))
    return Matrix(targets, rows, kind, KINDS[kind])


def metrics(document: Mapping[str, Any], run: Run) -> list[tuple[str, str]]:
    """The tiles of numbers: what sums up the run first."""
    tiles: list[tuple[str, str]] = []
    if run.test_metric is not None:
        tiles.append((metric_name(run.test_metric_name), measured(run.test_metric_name, run.test_metric)))
    for label, value in (
        ("connections kept", run.connections),
        ("modules", run.modules),
        ("modularity Q", run.modularity),
        ("selectivity", _whole(run.selectivity)),
        ("connection cost", run.connection_cost),
    ):
        if value is not None:
            tiles.append((label, number(value)))
    shown = {run.test_metric_name}
    for name, value in document.items():
        if name in METRIC_NAMES and name not in shown and isinstance(value, int | float) and len(tiles) < 8:
            tiles.append((METRIC_NAMES[name], measured(name, value)))
    return tiles


def measured(name: str | None, value: float | None) -> str:
    """A metric as a person reads it; of a share, 0.9998 is not 1."""
    return share(value) if (name or "").endswith(("r2", "accuracy")) else number(value)


def _whole(value: float | None) -> float | None:
    """A share without the dust of its arithmetic: 2e-16 is nothing."""
    return None if value is None else round(value, 9) + 0.0


def metric_name(name: str | None) -> str:
    """The name of a metric in words."""
    return METRIC_NAMES.get(name or "", (name or "metric").replace("_", " "))


def headline(spec: Mapping[str, Any]) -> list[str]:
    """A spec in a few words."""
    words = []
    data, network, training = (spec.get(part) or {} for part in ("dataset", "network", "training"))
    if data.get("kind") == "uploaded":
        words.append(f"{data.get('task', '')} of {', '.join(data.get('targets') or [])}".strip())
    elif data.get("kind"):
        words.append(str(data["kind"]).replace("_", " "))
    if network.get("kind"):
        hidden = network.get("hidden")
        shape = " of " + " – ".join(str(w) for w in hidden) if isinstance(hidden, list) and hidden else ""
        words.append(str(network["kind"]).replace("_", " ") + shape)
    if training.get("method"):
        words.append(str(training["method"]).upper().replace("_", " "))
    if training.get("steps"):
        words.append(f"{number(training['steps'])} steps")
    return words


# --- curves ----------------------------------------------------------------------------------------------


def learning_chart(history: Sequence[Mapping[str, Any]], spec: Mapping[str, Any]) -> Markup | None:
    """Prediction loss over the steps, with the beginnings of the phases marked."""
    lines = [
        Series("train", _column(history, "prediction_loss"), tone=1),
        Series("test", _column(history, "test_prediction_loss"), tone=2),
    ]
    return _chart("Prediction loss over training", lines, "prediction loss", log=True, marks=_phases(spec))


def accuracy_chart(history: Sequence[Mapping[str, Any]]) -> Markup | None:
    """Accuracy over the steps, where the task is a classification."""
    lines = [
        Series("train", _column(history, "train_accuracy"), tone=1),
        Series("test", _column(history, "test_accuracy"), tone=2),
    ]
    return _chart("Accuracy over training", lines, "accuracy")


def cost_chart(history: Sequence[Mapping[str, Any]]) -> Markup | None:
    """Connection cost over the steps."""
    lines = [Series("connection cost", _column(history, "connection_cost"), tone=3)]
    return _chart("Connection cost over training", lines, "connection cost", log=True)


def prune_chart(curve: Sequence[Mapping[str, Any]], kept: int | None) -> Markup | None:
    """Loss against the number of connections that are left; `kept` is the number that was chosen."""
    sizes = {row.get("connections"): row for row in curve}  # of one size, the last is the refitted one
    lines = [
        Series("train", _column(list(sizes.values()), "train_loss", x="connections"), tone=1),
        Series("held out", _column(list(sizes.values()), "held_out_loss", x="connections"), tone=2),
    ]
    marks = [(float(kept), f"{kept} kept")] if kept else []
    if not any(line.points for line in lines):
        return None
    return line_chart(
        "Loss as connections are taken away",
        lines,
        x=Axis("connections left", log=True),
        y=Axis("loss", log=True),
        marks=marks,
    )


def _chart(
    title: str, lines: list[Series], label: str, *, log: bool = False, marks: Sequence[tuple[float, str]] = ()
) -> Markup | None:
    lines = [line for line in lines if line.points]
    if not lines:
        return None
    return line_chart(title, lines, x=Axis("step"), y=Axis(label, log=log), marks=marks)


def _phases(spec: Mapping[str, Any]) -> list[tuple[float, str]]:
    training = spec.get("training") or {}
    steps, phases = training.get("steps") or 0, training.get("phases") or []
    begins = [0.0, *(p["until"] for p in phases[:-1])]
    return [(begin * steps, f"λ {number(p['cost_strength'])}") for begin, p in zip(begins, phases, strict=False)]


def _column(rows: Sequence[Mapping[str, Any]], name: str, *, x: str = "step") -> list[tuple[float, float]]:
    points = [(_float(row.get(x)), _float(row.get(name))) for row in rows]
    thin = max(1, len(points) // 1500)  # more points than pixels help nobody
    kept = [(a, b) for a, b in points if a is not None and b is not None]
    return kept[::thin] + (kept[-1:] if thin > 1 else [])


def _float(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


# --- the OpenAPI document, for people -----------------------------------------------------------------------


@dataclass(frozen=True)
class Address:
    """One operation as the page of all addresses shows it."""

    method: str
    path: str
    summary: str
    description: str
    needs: str
    parameters: list[tuple[str, str, bool, str]]
    body: list[str]
    answers: list[tuple[str, str, str]]


def addresses(document: Mapping[str, Any]) -> list[tuple[str, str, list[Address]]]:
    """(noun, what it is, its addresses) from the OpenAPI document."""
    groups: dict[str, list[Address]] = {tag["name"]: [] for tag in document.get("tags", [])}
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            groups.setdefault((operation.get("tags") or ["other"])[0], []).append(
                _address(method, path, operation, document)
            )
    about = {tag["name"]: tag.get("description", "") for tag in document.get("tags", [])}
    return [(name, about.get(name, ""), found) for name, found in groups.items() if found]


def _address(method: str, path: str, operation: Mapping[str, Any], document: Mapping[str, Any]) -> Address:
    parameters = [
        (
            p["name"],
            p["in"],
            bool(p.get("required")),
            p.get("description") or p.get("schema", {}).get("description", ""),
        )
        for p in operation.get("parameters", [])
    ]
    answers = []
    for status, found in sorted(operation["responses"].items()):
        if "$ref" in found:
            found = document["components"]["responses"][found["$ref"].rsplit("/", 1)[-1]]
        kinds = ", ".join((found.get("content") or {}).keys())
        answers.append((status, found.get("description", ""), kinds))
    return Address(
        method=method,
        path=path,
        summary=operation.get("summary", ""),
        description=operation.get("description", ""),
        needs=operation.get("x-needs", ""),
        parameters=parameters,
        body=sorted((operation.get("requestBody") or {}).get("content", {})),
        answers=answers,
    )
