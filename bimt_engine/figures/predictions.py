"""What the network predicts: true against predicted numbers, and the plane of a classifier of two inputs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float, Int
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from bimt_engine.figures.style import INK, MODULE_COLOURS, POSITIVE, QUIET, figure_style, pale, pretty

PANEL = 2.2  # inches
COLUMNS = 4
MAX_POINTS = 2_000  # per panel; more hide one another and fill the SVG
WIDTH, HEIGHT = 5.2, 4.0  # inches
FINENESS = 200  # points along each axis
MARKS = "osD^v<>"


def draw_fit(
    true: Float[np.ndarray, "examples targets"],
    predicted: Float[np.ndarray, "examples targets"],
    names: Sequence[str],
    *,
    title: str = "",
) -> Figure:
    """One square panel for each target, with the line where both agree, and R²."""
    targets = true.shape[1]
    columns = min(targets, COLUMNS)
    rows = math.ceil(targets / columns)
    with figure_style():
        figure = Figure(figsize=(PANEL * columns + 0.6, PANEL * rows + 0.5), layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False).reshape(-1)
        for axes in grid[targets:]:
            axes.set_axis_off()
        for number, axes in enumerate(grid[:targets]):
            x, y = true[:MAX_POINTS, number], predicted[:MAX_POINTS, number]
            low, high = float(min(x.min(), y.min())), float(max(x.max(), y.max()))
            edge = 0.05 * (high - low) or 1.0
            axes.plot([low, high], [low, high], color=QUIET, linewidth=0.8, zorder=1)
            axes.scatter(x, y, s=9, color=POSITIVE, alpha=0.6, linewidth=0, zorder=2)
            axes.set_xlim(low - edge, high + edge)
            axes.set_ylim(low - edge, high + edge)
            axes.set_aspect("equal")
            axes.set_title(
                f"{pretty(str(names[number]))}   R² = {r_squared(true[:, number], predicted[:, number]):.4f}"
            )
            axes.set_xlabel("true")
            axes.set_ylabel("predicted")
        if title:
            figure.suptitle(title, fontsize=11, x=0.01, ha="left")
    return figure


def r_squared(true: Float[np.ndarray, " examples"], predicted: Float[np.ndarray, " examples"]) -> float:
    """1 − squared error over variance."""
    spread = float(((true - true.mean()) ** 2).sum())
    return 1 - float(((true - predicted) ** 2).sum()) / spread if spread else math.nan


def draw_decision(
    predict: Callable[[Float[np.ndarray, "points 2"]], Float[np.ndarray, "points classes"]],
    inputs: Float[np.ndarray, "examples 2"],
    labels: Int[np.ndarray, " examples"],
    *,
    feature_names: Sequence[str],
    class_names: Sequence[str],
    title: str = "",
) -> Figure:
    """The plane of two inputs in the colour of the class that wins, paler where it wins by little; the examples on top.

    predict   points -> a score for each class: logits, or one-hot values.
    """
    edge = 0.12 * np.ptp(inputs, axis=0)
    low, high = inputs.min(axis=0) - edge, inputs.max(axis=0) + edge
    across, up = (np.linspace(low[i], high[i], FINENESS) for i in (0, 1))
    points = np.stack(np.meshgrid(across, up), axis=-1).reshape(-1, 2)
    scores = np.asarray(predict(points), dtype=np.float64)
    winner = scores.argmax(axis=1).reshape(FINENESS, FINENESS)
    first_two = np.sort(scores, axis=1)[:, -2:]
    margin = (first_two[:, 1] - first_two[:, 0]).reshape(FINENESS, FINENESS)
    sure = np.tanh(margin / max(float(np.median(margin)), 1e-12))
    with figure_style():
        figure = Figure(figsize=(WIDTH, HEIGHT), layout="constrained")
        axes = figure.add_subplot()
        extent = (low[0], high[0], low[1], high[1])
        for number in range(len(class_names)):
            colour = MODULE_COLOURS[number % len(MODULE_COLOURS)]
            ground = LinearSegmentedColormap.from_list("ground", ["white", pale(colour, 0.45)])
            shown = np.ma.masked_where(winner != number, sure)
            axes.imshow(shown, origin="lower", extent=extent, cmap=ground, vmin=0, vmax=1, aspect="auto", zorder=0)
        if len(class_names) == 2:
            axes.contour(across, up, scores[:, 0].reshape(winner.shape) - scores[:, 1].reshape(winner.shape),
                         levels=[0], colors=INK, linewidths=1.2)  # fmt: skip
        for number, name in enumerate(class_names):
            mine = inputs[labels == number]
            colour, mark = MODULE_COLOURS[number % len(MODULE_COLOURS)], MARKS[number % len(MARKS)]
            axes.scatter(mine[:, 0], mine[:, 1], s=14, color=colour, marker=mark, edgecolor="white", linewidth=0.4,
                         label=pretty(str(name)), zorder=3)  # fmt: skip
        axes.set_xlabel(pretty(feature_names[0]))
        axes.set_ylabel(pretty(feature_names[1]))
        axes.legend(loc="best", frameon=True, framealpha=0.9, edgecolor="none")
        if title:
            axes.set_title(title)
    return figure
