"""What is inside modules, for pages: the groups of each partition as rows, and how they interact as matrices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from markupsafe import Markup

from api.pages import presenters
from api.pages.filters import mathematics, typeset
from api.pages.network_svg import TONES
from bimt_engine.analysis.graph import part_numbers
from bimt_engine.analysis.statements.interior import (
    INTERACTS,
    TRAINED_LIMIT,
    PartitionStatement,
    computed,
    cut_statement,
    interior_statement,
    partition_statement,
    terminals,
)
from bimt_engine.analysis.statements.wording import number, percent

MAX_MATRIX = 12  # groups of which the interactions of every two are shown
MOVES = 0.01  # of an output's variance; outputs that a group changes less are not counted
MAX_NAMES = 6  # outputs or representations of a group in a cell
SHADES = (0.1, 1.0, 10.0, 100.0)  # of the limit; where the shades of the matrix begin


@dataclass(frozen=True)
class GroupRow:
    """A group of neurons as a row.

    tone     number of its colour and shape in the picture, 1 … 8; None where the picture does not show it.
    reads, moves, lies_in   names, most first; beyond some they are counted.
    called   with the name that people gave it.
    effect, trained   on the output that it moves most, in the pruned network and as trained.
    computes   the accepted formulas of what it adds to outputs, as HTML.
    """

    name: str
    called: str
    tone: int | None
    neurons: int
    trees: int
    reads: str
    moves: str
    effect: str
    trained: str
    lies_in: str
    computes: Markup


@dataclass(frozen=True)
class InteractionMatrix:
    """The interaction of every two groups: rows of (name, cells of (number, shade 0 … 4)); the diagonal is empty."""

    caption: str
    names: list[str]
    rows: list[tuple[str, list[tuple[str, int]]]]


@dataclass(frozen=True)
class PartitionShown:
    """One partition.

    is_drawn          whether the picture shows its groups, at that level.
    representations   whether its groups lie in irreducible representations.
    formulas          whether some group has an accepted formula.
    """

    statement: PartitionStatement
    is_drawn: bool
    rows: list[GroupRow]
    representations: bool
    formulas: bool
    matrices: list[InteractionMatrix]


@dataclass(frozen=True)
class InteriorShown:
    """The inside of the modules.

    reading   the sentence where there are no partitions; empty where there are.
    cuts      sentences.
    alone     names of the groups that can be exported alone: those that reach the last hidden layer and are added up.
    """

    partitions: list[PartitionShown]
    reading: str
    cuts: list[str]
    alone: list[str]


def interior(
    document: Mapping[str, Any] | None, modules: Sequence[str], names: presenters.Names = MappingProxyType({})
) -> InteriorShown | None:
    """What is shown of a stored document; None where a run has none. `modules`: of the picture, if any."""
    if not document:
        return None
    partitions, primary = document["partitions"], document["primary"]
    order = sorted(range(len(partitions)), key=lambda which: which != primary)
    shown = [_partition(partitions[which], modules if which == primary else [], names) for which in order]
    alone = []
    if primary is not None:
        first, last = partitions[primary], document["layers"][-1]["layer"]
        alone = [group["name"] for group in first["groups"] if (first["kind"], first["layer"]) == ("sum", last)]
    reading = "" if partitions else interior_statement({**document, "cuts": []})
    return InteriorShown(shown, reading, [cut_statement(cut) for cut in document["cuts"]], alone)


def _partition(partition: Mapping[str, Any], modules: Sequence[str], given: presenters.Names) -> PartitionShown:
    groups = partition["groups"]
    names = [group["name"] for group in groups]
    numbers = part_numbers([*modules, *names]) if modules else {}
    tones = {name: number % TONES + 1 for name, number in numbers.items()}
    rows = [_row(group, tones.get(group["name"]), given) for group in groups]
    matrices = []
    if len(groups) <= MAX_MATRIX:
        for which, network, limit in (
            ("interaction", "pruned network", INTERACTS),
            ("trained_interaction", "network as trained", TRAINED_LIMIT),
        ):
            caption = f"Interaction of every two groups in the {network}, as a share of an output’s variance. "
            if partition["kind"] == "sum":
                caption += f"In a sum it may be up to {number(limit)}"
            else:
                caption += "Groups whose work is combined interact"
            cells = _cells(names, partition[which], limit)
            shaded = any(shade for _, of in cells for _, shade in of)
            matrices.append(InteractionMatrix(f"{caption}{'; darker is more' if shaded else ''}.", names, cells))
    said = partition_statement(partition)
    representations, formulas = any(row.lies_in for row in rows), any(row.computes for row in rows)
    return PartitionShown(said, bool(modules), rows, representations, formulas, matrices)


def _row(group: Mapping[str, Any], tone: int | None, names: presenters.Names) -> GroupRow:
    strongest = group["strongest"]
    shown = _named([moved["output"] for moved in strongest])
    moved = sum(effect >= MOVES for effect in group["effects"])
    return GroupRow(
        name=group["name"],
        called=presenters.called(group["name"], names),
        tone=tone,
        neurons=len(group["neurons"]),
        trees=group["trees"],
        reads=terminals(group) or "nothing",
        moves=f"most of all {shown}" if moved > len(strongest) else shown or "no output by 1%",
        effect=number(strongest[0]["effect"]) if strongest else "–",
        trained=number(strongest[0]["trained"]) if strongest else "–",
        lies_in=_named([f"{part['name']} {percent(part['share'])}" for part in group.get("lies_in") or ()]),
        computes=Markup("; ").join(
            Markup("{}: {}").format(typeset(str(one["output"])), mathematics(one["formula"]["text"]))
            for one in computed(group)
        ),
    )


def _cells(
    names: Sequence[str], matrix: Sequence[Sequence[float]], limit: float
) -> list[tuple[str, list[tuple[str, int]]]]:
    def cell(row: int, column: int) -> tuple[str, int]:
        if row == column:
            return "", 0
        value = matrix[row][column]
        return ("0" if value < 1e-12 else number(value)), sum(value > limit * shade for shade in SHADES)

    return [(name, [cell(row, column) for column in range(len(names))]) for row, name in enumerate(names)]


def _named(names: Sequence[str]) -> str:
    more = f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
    return ", ".join(map(str, names[:MAX_NAMES])) + more
