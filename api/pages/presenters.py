"""What pages show of the evidence: documents of a run turned into cards, tables, sentences and curves.

Sentences come from `bimt_engine.analysis.statements`, whole. Names of columns come from users and may hold any
punctuation, so they are taken from the lists of a document, never out of its sentences.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from markupsafe import Markup

from api.pages.charts import WIDE, Axis, Frame, Series, line_chart
from api.pages.filters import data_label, mathematics, method_name, nearly
from bimt_engine.analysis.statements.formulas import FormulaStatement, formula_statements
from bimt_engine.analysis.statements.network import INTERVENTION_LABELS, module_statement
from bimt_engine.analysis.statements.outputs import baselines_measure, baselines_statement
from bimt_engine.analysis.statements.representations import (
    WORTH_NAMING,
    RepresentationsStatement,
    module_representations,
    neuron_representations,
    representations_statement,
)
from bimt_engine.analysis.statements.wording import (
    METRIC_LABELS,
    held_out_part,
    listed,
    measured,
    metric_label,
    number,
    percent,
    sentence,
    share,
    validation_loss,
)
from store.tables import Run

MAX_POINTS = 1_500  # of a curve: more than a chart has pixels
LONGEST_EXPRESSION = 4_000  # characters of an exact expression that a page shows
SHADES = (0.01, 0.1, 0.3, 0.7)  # of the strongest effect; where the shades of the matrix begin

# --- modules -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ModuleCard:
    """A module as its card shows it.

    inputs, outputs   names of the columns that it reads and of the outputs that it decides.
    statements        the numbers behind it, and why it is not supported, in sentences.
    tone              number of its colour in the picture, 1 … 8; None where the picture has the colours of its groups.
    given, note       what people call it, and say of it; empty: nothing.
    """

    name: str
    tone: int | None
    inputs: list[str]
    outputs: list[str]
    statements: list[str]
    verdict: str | None
    neurons: int
    connections: int
    selectivity: float | None
    sufficiency: float | None
    given: str = ""
    note: str = ""


Names = Mapping[str, Mapping[str, Any]]
"""Part → {name, note}, as people have given them."""


def called(name: str, names: Names) -> str:
    """A part by its letter and by the name that people gave it: `A · adder`."""
    given = (names.get(name) or {}).get("name")
    return f"{name} · {given}" if given else name


def modules(
    bodies: Sequence[Mapping[str, Any]], tones: Mapping[str, int], names: Names = MappingProxyType({})
) -> list[ModuleCard]:
    """The cards of all modules."""
    return [
        ModuleCard(
            name=str(body.get("name", "")),
            tone=tones.get(str(body.get("name", "")), None if tones else index % 8 + 1),
            inputs=list(body.get("inputs") or []),
            outputs=list(body.get("outputs") or []),
            statements=module_sentences(body, len(bodies)),
            verdict=module_statement(body, len(bodies)).verdict,
            neurons=len(body.get("neurons") or []),
            connections=int(body.get("connections") or 0),
            selectivity=nearly(body.get("selectivity")),
            sufficiency=nearly(body.get("sufficiency")),
            given=(names.get(str(body.get("name"))) or {}).get("name", ""),
            note=(names.get(str(body.get("name"))) or {}).get("note", ""),
        )
        for index, body in enumerate(bodies)
    ]


def module_sentences(body: Mapping[str, Any], count: int) -> list[str]:
    """The sentences about one of `count` modules beside what it reads and decides, which its card shows as lists."""
    said = module_statement(body, count)
    if not said.evidence:
        return [sentence(said.text)] if said.text else []  # a run of an older version has this one sentence
    return [sentence(clause) for clause in (*said.evidence, said.reason and f"{said.verdict}: {said.reason}") if clause]


# --- outputs and effects ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cell:
    """One effect.

    value    share of the output's variance.
    shade    0 … 4, how dark the cell is.
    p_holm   p-value after Holm's correction, where the module decides this output.
    """

    value: float | None
    shade: int
    p_holm: float | None


RECOGNISED = (("pruned", "recall"), ("pruned", "mistaken"), ("trained", "recall"))  # columns for a classification


@dataclass(frozen=True)
class OutputTable:
    """How well each output is predicted.

    rows   (output, its cells, whether it was learnt; None: too few rows to tell).
    """

    caption: str
    heads: list[str]
    rows: list[tuple[str, list[str], bool | None]]


def outputs(bodies: Sequence[Mapping[str, Any]]) -> OutputTable | None:
    """The table of outputs; None for runs that were published without one."""
    if not bodies:
        return None
    measure, tested = str(bodies[0].get("measure")), "test" in bodies[0]
    held_out = "validation" if tested else "held-out"
    if measure == "recall":
        heads = ["recognised", "others taken for it", "recognised before pruning", f"{held_out} rows"]
        caption = (
            f"For each class, the share of its {held_out} rows that are predicted as it, and the same of all other "
            "rows."
        )
        cells = [
            [
                *(_share(b, of, what) for of, what in RECOGNISED),
                number(b.get("rows")),
            ]
            for b in bodies
        ]
    else:
        heads = [f"R², {held_out} rows", "before pruning", "before pruning, training rows"]
        caption = "For each output, the share of its variance that is explained."
        cells = [[_share(b, w, "r2") for w in ("pruned", "trained", "trained_on_training_rows")] for b in bodies]
    if tested:
        heads.append("recognised, test rows" if measure == "recall" else "R², test rows")
        cells = [[*of, _share(b, "test", measure)] for b, of in zip(bodies, cells, strict=True)]
    rows = [(str(b.get("output", "")), of, b.get("learnt")) for b, of in zip(bodies, cells, strict=True)]
    return OutputTable(caption, heads, rows)


def _share(body: Mapping[str, Any], which: str, measure: str) -> str:
    value = _float((body.get(which) or {}).get(measure))
    return "–" if value is None else share(value)


def baselines(document: Mapping[str, Any] | None) -> tuple[str, str] | None:
    """What usual methods reach beside the network: the measure, which opens its definition, and all other words."""
    if not document:
        return None
    measure = baselines_measure(document)
    return measure, baselines_statement(document).removeprefix(measure)


@dataclass(frozen=True)
class Matrix:
    """Effects of modules or groups (rows; `parts` says which) on outputs under the intervention of `caption`."""

    parts: str
    targets: list[str]
    rows: list[tuple[str, list[Cell]]]
    kind: str
    caption: str


def effect_matrices(
    bodies: Sequence[Mapping[str, Any]],
    judged_by: str,
    names: Names = MappingProxyType({}),
    inside: Sequence[Mapping[str, Any]] = (),
) -> list[Matrix]:
    """The matrices that were measured, first the one that modules are judged by, which alone has p-values.

    inside   the groups that the picture shows, which were held at their means: their rows stand below those of the
             modules. A module that is the whole network has no row beside them, because it moves every output.
    """
    effects = {str(b.get("name", "")): b.get("effects") or {} for b in bodies}
    targets = list(dict.fromkeys(target for of in effects.values() for target in of))
    found = {kind for of in effects.values() for effect in of.values() for kind in effect or {}}
    kinds = sorted(found & INTERVENTION_LABELS.keys(), key=[judged_by, *INTERVENTION_LABELS].index)
    own = {str(b.get("name", "")): b.get("outputs") or [] for b in bodies}
    if inside and all(len(group["effects"]) == len(targets) for group in inside):  # a long list is stored cut off
        effects = effects if len(effects) > 1 else {}
        for group in inside:
            both = zip(targets, group["effects"], group["trained_effects"], strict=True)
            effects[group["name"]] = {target: {"mean": mean, "trained": trained} for target, mean, trained in both}
    matrices = [_matrix(effects, own, targets, kind, with_p=kind == judged_by) for kind in kinds] if targets else []
    return [replace(of, rows=[(called(name, names), cells) for name, cells in of.rows]) for of in matrices if of.rows]


def _matrix(
    effects: Mapping[str, Mapping[str, Any]],
    own: Mapping[str, Sequence[str]],
    targets: list[str],
    kind: str,
    *,
    with_p: bool,
) -> Matrix:
    """One matrix; `with_p` adds p-values where a module decides the output (`own`)."""
    measured = [part for part, of in effects.items() if any(kind in (effect or {}) for effect in of.values())]
    values = {(m, t): _float((effects[m].get(t) or {}).get(kind)) for m in measured for t in targets}
    strongest = max((abs(v) for v in values.values() if v is not None), default=0.0) or 1.0
    rows = []
    for module in measured:
        cells = []
        for target in targets:
            value = values[module, target]
            part = 0.0 if value is None else max(0.0, value) / strongest
            shade = sum(part > limit for limit in SHADES)
            decides = with_p and target in own.get(module, ())
            p_holm = _float((effects[module].get(target) or {}).get("p_holm")) if decides else None
            cells.append(Cell(value, shade, p_holm))
        rows.append((module, cells))
    of_modules, of_groups = (any((part in own) is module for part in measured) for module in (True, False))
    parts = "module or group" if of_modules and of_groups else "group" if of_groups else "module"
    return Matrix(parts, targets, rows, kind, INTERVENTION_LABELS[kind])


def metrics(document: Mapping[str, Any], run: Run) -> list[tuple[str, str]]:
    """The tiles (label, number) at the top of a page, the test metric first."""
    tiles: list[tuple[str, str]] = []
    if run.test_metric is not None:
        tiles.append((metric_label(run.test_metric_name), measured(run.test_metric_name, run.test_metric)))
    for label, value in (
        ("connections kept", run.connections),
        ("modules", run.modules),
        ("modularity Q", nearly(run.modularity)),
        ("selectivity", nearly(run.selectivity)),
        ("connection cost", run.connection_cost),
    ):
        if value is not None:
            tiles.append((label, number(value)))
    shown = {run.test_metric_name}
    for name, value in document.items():
        if name in METRIC_LABELS and name not in shown and isinstance(value, int | float) and len(tiles) < 8:
            tiles.append((METRIC_LABELS[name], measured(name, value)))
    return tiles


def headline(spec: Mapping[str, Any]) -> list[str]:
    """Data, network, method and steps of a spec, each in a few words."""
    words = []
    data, network, training = (spec.get(part) or {} for part in ("dataset", "network", "training"))
    if data.get("kind") == "uploaded":
        words.append(f"{data.get('task', '')} of {listed(data.get('targets') or [])}".strip())
    elif data.get("kind"):
        words.append(data_label(data["kind"]))
    if network.get("kind"):
        hidden = network.get("hidden")
        shape = " of " + " – ".join(str(w) for w in hidden) if isinstance(hidden, list) and hidden else ""
        words.append(str(network["kind"]).replace("_", " ") + shape)
    if training.get("method"):
        words.append(method_name(training["method"]))
    if training.get("steps"):
        words.append(f"{number(training['steps'])} steps")
    return words


# --- formulas ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FormulaCard:
    """The formula of one output.

    text    the formula as HTML; None where none was found.
    exact   the whole network as one expression, where it is short enough.
    """

    statement: FormulaStatement
    text: Markup | None
    exact: str | None


def formulas(readout: Mapping[str, Any]) -> list[FormulaCard]:
    """The cards of all outputs of a readout."""
    cards = []
    for output, said in zip(readout.get("outputs") or [], formula_statements(readout), strict=True):
        exact = output.get("expression")
        shown = exact if exact is None or len(exact) <= LONGEST_EXPRESSION else None
        cards.append(FormulaCard(said, mathematics(said.formula) if said.formula else None, shown))
    return cards


# --- representations of a group --------------------------------------------------------------------------


@dataclass(frozen=True)
class RepresentationsShown:
    """The representations of a group as a page shows them.

    rows      name, dimension, type, elements in the kernel, share of the embedding, how many neurons lie in it most; of
              those that anything of the network lies in.
    neurons   id, the representation it lies in most, its share, the others, the share of its variance explained.
    modules   sentences, of networks with several modules.
    """

    statement: RepresentationsStatement
    rows: list[tuple[str, int, str, int, str, int]]
    neurons: list[tuple[str, str, str, str, str]]
    modules: list[str]


def representations(
    document: Mapping[str, Any] | None, bodies: Sequence[Mapping[str, Any]] = ()
) -> RepresentationsShown | None:
    """What is shown of a stored document of representations; None where a run has none. `bodies`: of its modules."""
    if not document:
        return None
    said = representations_statement(document)
    found = neuron_representations(document)
    most = [neuron.representation for neuron in found]
    embedding = (document.get("embedding") or {}).get("together", {}).get("shares")
    columns = zip(*(document.get(name) or () for name in ("names", "dimensions", "types", "kernels")), strict=True)
    rows = []
    for which, (name, dimension, kind, kernel) in enumerate(columns):
        held = embedding[which] if embedding else 0.0
        if held >= WORTH_NAMING or name in most:
            rows.append((name, dimension, kind, kernel, percent(held) if embedding else "–", most.count(name)))
    neurons = [
        (
            neuron.neuron.replace(":", " ", 1),
            neuron.representation or "none",
            percent(neuron.share),
            ", ".join(f"{name} {percent(part)}" for name, part in neuron.rest),
            percent(neuron.explained),
        )
        for neuron in found
    ]
    clauses = {str(b.get("name")): module_representations(document, b.get("neurons") or ()) for b in bodies}
    of_modules = [sentence(f"module {name}: {clause}") for name, clause in clauses.items() if clause]
    return RepresentationsShown(said, rows, neurons, of_modules if len(clauses) > 1 else [])


# --- curves ----------------------------------------------------------------------------------------------


def learning_chart(
    history: Sequence[Mapping[str, Any]], spec: Mapping[str, Any], *, frame: Frame = WIDE
) -> Markup | None:
    """Prediction loss over the steps; vertical marks where phases begin."""
    part = held_out_part(history, "prediction_loss")
    lines = [
        Series("train", _column(history, "prediction_loss"), tone=1),
        Series(part, _column(history, f"{part}_prediction_loss"), tone=2),
    ]
    steps = (spec.get("training") or {}).get("steps")  # while it trains there is room for the phases to come
    title, marks = "Prediction loss over training", _phases(spec)
    return _chart(title, lines, "prediction loss", log=True, marks=marks, frame=frame, steps=steps)


def accuracy_chart(history: Sequence[Mapping[str, Any]], steps: int | None = None) -> Markup | None:
    """Accuracy over the steps, all `steps` of the training, where the task is a classification."""
    part = held_out_part(history, "accuracy")
    lines = [
        Series("train", _column(history, "train_accuracy"), tone=1),
        Series(part, _column(history, f"{part}_accuracy"), tone=2),
    ]
    return _chart("Accuracy over training", lines, "accuracy", steps=steps)


def cost_chart(history: Sequence[Mapping[str, Any]], steps: int | None = None) -> Markup | None:
    """Connection cost over the steps, all `steps` of the training."""
    lines = [Series("connection cost", _column(history, "connection_cost"), tone=3)]
    return _chart("Connection cost over training", lines, "connection cost", log=True, steps=steps)


def prune_chart(curve: Sequence[Mapping[str, Any]], kept: int | None, *, frame: Frame = WIDE) -> Markup | None:
    """Loss against the number of connections left; `kept` marks the number that was chosen."""
    # Of one size, the last is the refitted one.
    sizes = {row.get("connections"): {**row, "validation_loss": validation_loss(row)} for row in curve}
    lines = [
        Series("train", _column(list(sizes.values()), "train_loss", x="connections"), tone=1),
        Series("validation", _column(list(sizes.values()), "validation_loss", x="connections"), tone=2),
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
        frame=frame,
    )


def _chart(
    title: str,
    lines: list[Series],
    label: str,
    *,
    log: bool = False,
    marks: Sequence[tuple[float, str]] = (),
    frame: Frame = WIDE,
    steps: int | None = None,
) -> Markup | None:
    lines = [line for line in lines if line.points]
    if not lines:
        return None
    return line_chart(title, lines, x=Axis("step", to=steps), y=Axis(label, log=log), marks=marks, frame=frame)


def _phases(spec: Mapping[str, Any]) -> list[tuple[float, str]]:
    training = spec.get("training") or {}
    steps, phases = training.get("steps") or 0, training.get("phases") or []
    begins = [0.0, *(p["until"] for p in phases[:-1])]
    return [(begin * steps, f"λ {number(p['cost_strength'])}") for begin, p in zip(begins, phases, strict=False)]


def _column(rows: Sequence[Mapping[str, Any]], name: str, *, x: str = "step") -> list[tuple[float, float]]:
    points = [(_float(row.get(x)), _float(row.get(name))) for row in rows]
    kept = [(a, b) for a, b in points if a is not None and b is not None]
    stride = max(1, len(points) // MAX_POINTS)
    return kept[::stride] + (kept[-1:] if stride > 1 else [])


def _float(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)
