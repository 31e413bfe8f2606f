"""A sweep of cost strengths: what is bought and what is paid, where the knee is, and how large λ may be. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from bimt_engine.analysis.statements.job import empty_runs

TOLERANCE = 5e-4  # of the scale; what pruning is allowed where a spec says nothing else


def pareto(
    points: Sequence[Mapping[str, Any]], *, tolerance: float | None = None, rows: str = "held-out"
) -> dict[str, Any]:
    """Which runs of a sweep no other run betters, the knee among them, and what each cost strength costs.

    points      {"run", "cost_strength", "seed", "loss", "test_loss", "wiring", "connections", "modularity", "scale",
                "tolerance"}; modularity may be null, test_loss, scale (the loss of a constant answer) and tolerance (of
                the run's pruning) may be left out. Everything is chosen by `loss`; see `selection_loss`.
    tolerance   share of `scale` by which the median loss of a cost strength may lie above the best one's and be
                harmless. None: the share by which pruning was allowed to raise the loss.
    rows        which rows `loss` is of, for the statement: validation or held-out ones.

    Where splits are drawn, each seed's loss is of rows of its own: runs of one seed are compared on the same rows, runs
    of different seeds are not. A run that kept no connection is a point like any other, with a constant
    answer, but no knee; `reading` says how many there are.
    """
    usable = [p for p in points if _finite(p.get("loss")) and _finite(p.get("wiring"))]
    if not usable:
        return {"points": [], "knee": None, "suggested_cost_strength": None, "cost_strengths": [], "reading": None}
    if tolerance is None:
        tolerance = _median([p.get("tolerance") for p in usable], default=TOLERANCE)
    values = np.array([[float(p["loss"]), float(p["wiring"])] for p in usable])
    best = non_dominated(values)
    marked = [{**p, "efficient": bool(b)} for p, b in zip(usable, best, strict=True)]
    empty = np.array([_empty(p) for p in usable])
    front = np.flatnonzero(best & ~empty)  # on a log scale nothing is infinitely far from everything
    bend = knee(values[front])
    strengths = by_cost_strength(usable, tolerance=tolerance)
    return {
        "points": marked,
        "knee": None if bend is None else marked[int(front[bend])],
        "suggested_cost_strength": max((s["cost_strength"] for s in strengths if s["harmless"]), default=None),
        "cost_strengths": strengths,
        "tolerance": tolerance,
        "rows": rows,
        "reading": empty_runs(int(empty.sum()), len(usable)),
    }


def non_dominated(values: Float[np.ndarray, "points measures"]) -> Bool[np.ndarray, " points"]:
    """For each row, whether no other row is at least as low in every column and lower in one."""
    return np.array(
        [not ((values <= row).all(axis=1) & (values < row).any(axis=1)).any() for row in values], dtype=bool
    )


def knee(front: Float[np.ndarray, "points 2"]) -> int | None:
    """The point of a front (loss, wiring) that lies farthest below the chord between its ends, both on log scales.

    None for fewer than three points or a front without a bend.
    """
    if len(front) < 3:
        return None
    logs = np.log(np.maximum(front, 1e-300))
    low, span = logs.min(axis=0), np.ptp(logs, axis=0)
    if (span == 0).any():
        return None
    scaled = (logs - low) / span  # the chord runs from (0, 1) to (1, 0)
    below = 1.0 - scaled.sum(axis=1)
    bend = int(np.argmax(below))
    return bend if below[bend] > 1e-9 else None


def by_cost_strength(points: Sequence[Mapping[str, Any]], *, tolerance: float) -> list[dict[str, Any]]:
    """What each cost strength comes to over its seeds, from the smallest on.

    loss, test_loss, wiring, connections   medians; lowest_loss and highest_loss: over the seeds.
    times_best   the median loss over the best one; None where that is 0.
    empty        runs that kept no connection.
    harmless     whether the median loss is within the tolerance of the best one.
    """
    strengths = sorted({float(p["cost_strength"]) for p in points if p.get("cost_strength") is not None})
    groups = {s: [p for p in points if p.get("cost_strength") == s] for s in strengths}
    losses = {s: np.array([float(p["loss"]) for p in group]) for s, group in groups.items()}
    best = min((float(np.median(of)) for of in losses.values()), default=0.0)
    limit = best + tolerance * _median([p.get("scale") for p in points], default=abs(best))
    found = []
    for strength, group in groups.items():
        loss = float(np.median(losses[strength]))
        found.append(
            {
                "cost_strength": strength,
                "runs": len(group),
                "empty": sum(_empty(p) for p in group),
                "loss": loss,
                "lowest_loss": float(losses[strength].min()),
                "highest_loss": float(losses[strength].max()),
                "times_best": loss / best if best > 0 else None,
                "test_loss": _median([p.get("test_loss") for p in group], default=None),
                "wiring": _median([p["wiring"] for p in group], default=0.0),
                "connections": _median([p.get("connections") for p in group], default=None),
                "harmless": loss <= limit,
            }
        )
    return found


def selection_loss(metrics: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    """By which loss the runs of a sweep are compared: its name among their metrics, and the rows that it is of.

    On validation rows, which are there to choose by. Runs of before had held-out rows for both choice and report.
    """
    name = "validation_prediction_loss"
    if metrics and all(name in of_run for of_run in metrics):
        return name, "validation"
    return "test_prediction_loss", "held-out"


def _median(values: Sequence[Any], *, default: Any) -> Any:
    """The median of those that are numbers; the default where none is."""
    numbers = [float(value) for value in values if _finite(value)]
    return float(np.median(numbers)) if numbers else default


def _empty(point: Mapping[str, Any]) -> bool:
    return point.get("connections") == 0 or float(point["wiring"]) == 0


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and bool(np.isfinite(value))
