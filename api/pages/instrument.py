"""The interactive view of a network at the top of the pages of a run, a version and a link: one component."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup
from sqlalchemy.orm import Session

from api.pages.charts import SMALL, heat_map
from api.pages.presenters import Matrix, Names, called, learning_chart, prune_chart
from bimt_engine.analysis.statements.wording import listed, measured, metric_label
from store import datasets
from store.errors import NotFound
from store.tables import Run

TASK_PICTURES = ("decision", "fit", "embedding", "strips", "features")  # the first that a run has stands for its task
PRIVATE_ROWS = (
    "Nothing can be silenced here: the inputs of the examples stay with the team that trained the network. "
    "Figures may show their targets."
)


@dataclass(frozen=True)
class Instrument:
    """The numbers and small pictures around the network.

    address        where its documents are, below /api/v1.
    run            whose snapshots and interventions are asked for; "": the reader may not.
    probe          address of the examples that the browser computes on; "": it gets none, for `why_no_probe`.
    metric         (label, value, on which rows) of the headline; None where there is none.
    parts          (name, what it reads and decides) of the modules, for a page without scripts.
    steps          how many snapshots there are.
    locality, layer_spacing   of the connection cost, for a connection's share of it.
    """

    address: str
    run: str
    probe: str
    why_no_probe: str
    metric: tuple[str, str, str] | None
    parts: list[tuple[str, str]]
    steps: int
    locality: float
    layer_spacing: float
    task_picture: str | None
    learning: Markup | None
    pruning: Markup | None
    effects: Markup | None


MAX_ASKED = 60  # columns of a form


@dataclass(frozen=True)
class Asked:
    """A column of the form that asks for a row.

    kind      number, category, boolean, or another type of a column.
    choices   of a category, the levels that the network knows; of a boolean both; else none.
    example   of the first row of the data; empty: none.
    missing   whether it may be empty.
    """

    name: str
    kind: str
    choices: list[str]
    example: str
    missing: bool


def asked_columns(run: Run, document: Mapping[str, Any] | None, preview: Mapping[str, Any] | None) -> list[Asked]:
    """What the network reads, a column each; none where an example is no short row: texts, images, sequences.

    document  the description of the data as a run keeps it.
    preview   of the table, where it was uploaded by the reader's team.
    """
    names = [str(name) for name in (document or {}).get("features") or ()]
    kind = (run.spec.get("dataset") or {}).get("kind")
    if not 0 < len(names) <= MAX_ASKED or kind not in ("uploaded", "formula", "two_moons", "parities"):
        return []
    encoded = {column["name"]: column for column in (document or {}).get("columns") or ()}
    first = ((preview or {}).get("first_rows") or [{}])[0]
    found = []
    for name in names:
        column = encoded.get(name) or {}
        type_ = column.get("type", "number")
        choices = [*column.get("levels", ()), *column.get("joined", ())] if type_ == "category" else []
        value = first.get(name)
        if type_ == "boolean":
            choices, value = ["true", "false"], None if value is None else "true" if value else "false"
        found.append(Asked(name, type_, choices, "" if value is None else str(value), bool(column.get("allowed"))))
    return found


def preview_of(rows: Session, run: Run) -> dict[str, Any] | None:
    """Of the uploaded table that a run was trained on; None where that is gone."""
    dataset_id = (run.spec.get("dataset") or {}).get("dataset_id")
    try:
        return None if dataset_id is None else datasets.get(rows, run.team_id, dataset_id).preview
    except NotFound:
        return None


PARTED = {"outputs": "between outputs", "inside": "between hidden neurons"}
"""Level of a cut → what it parts."""


@dataclass(frozen=True)
class Cut:
    """The keys of the cheapest connections without which one module becomes several parts.

    between         what they part, in words: outputs, or hidden neurons alone.
    before, after   the held-out loss, with them and without.
    """

    keys: str
    between: str
    before: float
    after: float


def instrument(
    run: Run,
    *,
    address: str,
    own: bool,
    probe: str,
    history: Sequence[Mapping[str, Any]],
    steps: int,
    curve: Sequence[Mapping[str, Any]],
    matrices: Sequence[Matrix],
    bodies: Sequence[Mapping[str, Any]],
    names: Names,
    figures: Sequence[str],
) -> Instrument:
    """What is shown of a run.

    own   whether the reader's team owns it, so that interventions and snapshots may be asked for.
    """
    metric = None
    if run.test_metric is not None:
        value = measured(run.test_metric_name, run.test_metric)
        metric = (metric_label(run.test_metric_name), value, "the pruned network on test examples")
    training = run.spec.get("training") or {}
    cost = training.get("cost") or {}
    pictures = [f"{name}.svg" for name in TASK_PICTURES if f"{name}.svg" in figures]
    return Instrument(
        address=address,
        run=run.id if own and run.state == "succeeded" else "",
        probe=probe if run.state == "succeeded" else "",
        why_no_probe=PRIVATE_ROWS if not probe and run.state == "succeeded" else "",
        metric=metric,
        parts=[
            (
                called(str(body.get("name", "")), names),
                f"{listed(body.get('inputs') or [])} → {listed(body.get('outputs') or [])}",
            )
            for body in bodies
        ],
        steps=steps,
        locality=0.0 if training.get("method") == "l1" else float(cost.get("locality", 1.0)),
        layer_spacing=float(cost.get("layer_spacing", 0.1)),
        task_picture=pictures[0] if pictures else None,
        learning=learning_chart(history, run.spec, frame=SMALL),
        pruning=prune_chart(curve, run.connections, frame=SMALL),
        effects=_effects(matrices),
    )


def cuts(interior: Mapping[str, Any] | None) -> list[Cut]:
    """The cheapest cut of each module that has one, the same connections once."""
    found: dict[str, Cut] = {}
    for cut in (interior or {}).get("cuts") or ():
        keys = " ".join(sorted(connection["key"] for connection in cut["connections"]))
        between, after = PARTED[cut["level"]], float(cut["loss"])
        if keys in found:
            between = PARTED["outputs"]  # where those are parted, the hidden neurons are, too
        found[keys] = Cut(keys, between, after / (1 + float(cut["loss_change"])), after)
    return list(found.values())


def _effects(matrices: Sequence[Matrix]) -> Markup | None:
    if not matrices:
        return None
    letters = [(name.partition(" · ")[0], cells) for name, cells in matrices[0].rows]
    rows = [(name, [(cell.value, cell.shade) for cell in cells]) for name, cells in letters]
    return heat_map(
        f"What each {matrices[0].parts} does to each output, as a share of its variance", rows, matrices[0].targets
    )
