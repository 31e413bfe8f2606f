"""Weights from heavy to light: how many are needed, and where the rest begins."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from bimt_engine.figures.style import MODULE_COLOURS, figure_style

WIDTH, HEIGHT = 6.4, 3.2  # inches
LINES = ("-", "--", "-.", ":")
MAX_POINTS = 2_000
SMALLEST = 1e-8  # of the heaviest; a true zero cannot stand on a logarithmic axis


def draw_weight_ranks(
    weights: Mapping[str, Float[np.ndarray, "_ _"]], *, kept: int | None = None, title: str = ""
) -> Figure:
    """|w| by rank for each weight matrix, and for all together.

    weights   name -> matrix
    kept      how many connections the pruned network has; marked.
    """
    with figure_style():
        figure = Figure(figsize=(WIDTH, HEIGHT), layout="constrained")
        axes = figure.add_subplot()
        everything = np.concatenate([np.abs(w).reshape(-1) for w in weights.values()]) if weights else np.zeros(1)
        floor = SMALLEST * float(everything.max() or 1.0)
        _ranked(axes, everything, floor, color="#1d2530", linewidth=1.8, label="all")
        for number, (name, matrix) in enumerate(weights.items() if len(weights) > 1 else ()):
            style = {"color": MODULE_COLOURS[number % len(MODULE_COLOURS)], "linestyle": LINES[number % len(LINES)]}
            _ranked(axes, np.abs(matrix).reshape(-1), floor, linewidth=1.1, label=name, **style)
        if kept:
            axes.axvline(kept, color="#1d2530", linewidth=0.8, linestyle=":")
            axes.annotate(f"{kept:,} kept", (kept, 1), xycoords=("data", "axes fraction"), xytext=(3, -2),
                          textcoords="offset points", va="top", fontsize=8)  # fmt: skip
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlabel("rank")
        axes.set_ylabel("|w|")
        axes.legend(loc="lower left", ncols=2)
        if title:
            axes.set_title(title)
    return figure


def _ranked(axes: object, values: Float[np.ndarray, " entries"], floor: float, **style: object) -> None:
    ordered = np.maximum(np.sort(values)[::-1], floor)
    ranks = np.unique(np.geomspace(1, len(ordered), MAX_POINTS).astype(int))
    axes.plot(ranks, ordered[ranks - 1], **style)  # type: ignore[attr-defined]
