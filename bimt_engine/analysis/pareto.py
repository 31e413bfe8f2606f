"""A sweep of cost strengths: what is bought and what is paid, where the knee is, and how large λ may be. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from bimt_engine.analysis.statements import empty_runs


def pareto(points: Sequence[Mapping[str, Any]], *, tolerance: float = 0.01, rows: str = "held-out") -> dict[str, Any]:
    """Which runs of a sweep no other run betters, the knee among them, and the largest harmless cost strength.

    points      {"run", "cost_strength", "seed", "loss", "test_loss", "wiring", "connections", "modularity", "scale"};
                modularity may be null, test_loss and scale (the loss of a constant answer) may be left out. Everything
                is chosen by `loss`; see `selection_loss`.
    tolerance   share of `scale` (or of the best loss) that the median loss may be above the best one's.
    rows        which rows `loss` is of, for the sentence: validation or held-out ones.

    Where splits are drawn, each seed's loss is of rows of its own: runs of one seed are compared on the same rows, runs
    of different seeds are not. A run that kept no connection is a point like any other, with a constant answer, but no
    knee; `reading` says how many there are. `strengths` has the medians at each cost strength.
    """
    usable = [p for p in points if _finite(p.get("loss")) and _finite(p.get("wiring"))]
    if not usable:
        return {"points": [], "knee": None, "suggested_cost_strength": None, "reading": None}
    values = np.array([[float(p["loss"]), float(p["wiring"])] for p in usable])
    best = non_dominated(values)
    marked = [{**p, "efficient": bool(b)} for p, b in zip(usable, best, strict=True)]
    empty = np.array([_empty(p) for p in usable])
    front = np.flatnonzero(best & ~empty)  # on a log scale nothing is infinitely far from everything
    bend = knee(values[front])
    return {
        "points": marked,
        "knee": None if bend is None else marked[int(front[bend])],
        "suggested_cost_strength": largest_harmless(usable, tolerance=tolerance),
        "tolerance": tolerance,
        "rows": rows,
        "strengths": by_strength(usable),
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


def largest_harmless(points: Sequence[Mapping[str, Any]], *, tolerance: float) -> float | None:
    """The largest cost strength whose median loss over its seeds stays within tolerance of the best one."""
    medians = by_strength(points)
    if not medians:
        return None
    best = min(row["loss"] for row in medians)
    scales = [float(p["scale"]) for p in points if _finite(p.get("scale"))]
    limit = best + tolerance * (float(np.median(scales)) if scales else abs(best))
    return float(max(row["cost_strength"] for row in medians if row["loss"] <= limit))


def by_strength(points: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """For each cost strength, smallest first: how many runs there are, and their medians; None where a run has none."""
    found = []
    for strength in sorted({float(p["cost_strength"]) for p in points if p.get("cost_strength") is not None}):
        group = [p for p in points if p.get("cost_strength") == strength]
        values = {name: [p.get(name) for p in group] for name in ("loss", "test_loss", "wiring", "connections")}
        medians: dict[str, Any] = {name: _median(of) for name, of in values.items()}
        found.append(medians | {"cost_strength": strength, "runs": len(group)})
    return found


def _median(values: Sequence[Any]) -> float | None:
    return float(np.median(values)) if all(map(_finite, values)) else None


def selection_loss(metrics: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    """By which loss the runs of a sweep are compared: its name among their metrics, and the rows that it is of.

    On validation rows, which are there to choose by. Runs of before had held-out rows for both choice and report.
    """
    name = "validation_prediction_loss"
    if metrics and all(name in of_run for of_run in metrics):
        return name, "validation"
    return "test_prediction_loss", "held-out"


def _empty(point: Mapping[str, Any]) -> bool:
    return point.get("connections") == 0 or float(point["wiring"]) == 0


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and bool(np.isfinite(value))
