"""Where a classifier of two inputs draws its line."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from numpy.typing import NDArray

from bimt_engine.figures.style import INK, MODULE_COLOURS, our_style, pale, pretty

WIDTH, HEIGHT = 5.2, 4.0  # inches
FINENESS = 200  # points along each axis
MARKS = "osD^v<>"


def draw_decision(
    predict: Callable[[NDArray[np.float64]], NDArray[np.floating]],
    inputs: NDArray[np.floating],
    labels: NDArray[np.integer],
    *,
    feature_names: Sequence[str],
    class_names: Sequence[str],
    title: str = "",
) -> Figure:
    """The plane of two inputs in the colour of the class that wins, paler where it wins by little; the examples on top.

    predict   (points, 2) -> a score for each class (points, classes): logits, or one-hot values.
    inputs    (examples, 2); labels (examples,)
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
    with our_style():
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
