"""Weights as pictures: those of the first hidden layer as small images, and all of them from heavy to light."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from bimt_engine.figures.style import FAINT, MODULE_COLOURS, NEGATIVE, POSITIVE, figure_style, log_scale

TILE = 0.72  # inches
COLUMNS = 10
MOST_TILES = 60
SIGNED = LinearSegmentedColormap.from_list("signed", [NEGATIVE, "#ffffff", POSITIVE])


def draw_features(
    weights: Float[np.ndarray, "neurons pixels"],
    shape: tuple[int, int],
    *,
    importance: Float[np.ndarray, " neurons"] | None = None,
    names: Sequence[str] | None = None,
    title: str = "",
) -> Figure:
    """The neurons with the greatest importance first; blue where ink excites a neuron, orange where it inhibits.

    weights      pixels in the order of the image, row by row
    shape        rows and columns of the image
    importance   of each neuron; None: the sum of its incoming |w|. Neurons of none are left out.
    """
    importance = np.abs(weights).sum(axis=1) if importance is None else importance
    chosen = [int(i) for i in np.argsort(-importance, kind="stable") if importance[i] > 0][:MOST_TILES]
    columns = max(min(COLUMNS, len(chosen)), 1)
    rows = max(math.ceil(len(chosen) / columns), 1)
    with figure_style():
        figure = Figure(figsize=(TILE * columns + 0.2, TILE * 1.12 * rows + 0.4), layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False).reshape(-1)
        for axes in grid:
            axes.set_xticks([])
            axes.set_yticks([])
            axes.spines[:].set_visible(False)
        for axes, neuron in zip(grid, chosen, strict=False):
            image = weights[neuron].reshape(shape)
            top = float(np.abs(image).max()) or 1.0
            axes.imshow(image, cmap=SIGNED, vmin=-top, vmax=top, interpolation="nearest")
            axes.spines[:].set(visible=True, color=FAINT, linewidth=0.8)
            axes.set_title(names[neuron] if names else str(neuron), fontsize=6, loc="center", pad=1.5)
        if title:
            figure.suptitle(title, fontsize=11, x=0.01, ha="left")
    return figure


# --- ranks ------------------------------------------------------------------------------------------


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
        log_scale(axes, "x", np.arange(1, len(everything) + 1))
        log_scale(axes, "y", np.maximum(everything, floor))
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
