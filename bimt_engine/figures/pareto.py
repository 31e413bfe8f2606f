"""A sweep over cost strengths: what a shorter wiring costs in loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int, Real
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure

from bimt_engine.figures.style import QUIET, figure_style

WIDTH, HEIGHT = 5.6, 3.8  # inches


def draw_pareto(
    runs: Sequence[Mapping[str, Any]],
    *,
    loss: str = "test_prediction_loss",
    wiring: str = "connections",
    title: str = "",
) -> Figure:
    """Each run as a point: wiring across, loss up, its cost strength as colour; undominated runs are joined.

    runs     with `cost_strength` and the two named numbers; those that lack one are left out.
    loss     the number that stands up; lower is better. wiring: the number that stands across, the same.
    """
    whole = [run for run in runs if run.get(loss) is not None and run.get(wiring) is not None]
    with figure_style():
        figure = Figure(figsize=(WIDTH, HEIGHT), layout="constrained")
        axes = figure.add_subplot()
        x, y = (np.array([float(run[key]) for run in whole]) for key in (wiring, loss))
        strengths = np.array([float(run.get("cost_strength") or 0.0) for run in whole])
        front = unbettered(x, y)
        axes.step(x[front], y[front], where="post", color=QUIET, linewidth=1.0, zorder=1)
        norm = LogNorm() if len(strengths) and strengths.min() > 0 and np.ptp(strengths) > 0 else Normalize()
        points = axes.scatter(x, y, c=strengths, cmap="cividis", norm=norm, s=34, edgecolor="white", linewidth=0.6)
        if len(whole) and np.ptp(strengths) > 0:
            figure.colorbar(points, ax=axes, label="λ")
        for axis, values in (("x", x), ("y", y)):
            if len(values) and values.min() > 0 and values.max() > 10 * values.min():
                getattr(axes, f"set_{axis}scale")("log")
        axes.set_xlabel(wiring.replace("_", " "))
        axes.set_ylabel(loss.replace("_", " "))
        if title:
            axes.set_title(title)
    return figure


def unbettered(x: Real[np.ndarray, " runs"], y: Real[np.ndarray, " runs"]) -> Int[np.ndarray, " front"]:
    """Indices of the points that no other beats in both, from left to right."""
    best = np.inf
    front = []
    for i in np.lexsort((y, x)):
        if y[i] < best:
            best = y[i]
            front.append(int(i))
    return np.array(front, dtype=int)
