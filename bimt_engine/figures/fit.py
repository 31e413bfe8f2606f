"""True against predicted: does the network compute what the data say?"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from bimt_engine.figures.style import POSITIVE, QUIET, our_style, pretty

PANEL = 2.2  # inches
COLUMNS = 4
MOST_POINTS = 2_000  # per panel; more hide one another and fill the SVG


def draw_fit(
    true: NDArray[np.floating], predicted: NDArray[np.floating], names: Sequence[str], *, title: str = ""
) -> Figure:
    """One square panel for each target, with the line where both agree, and R².

    true, predicted   (examples, targets)
    """
    targets = true.shape[1]
    columns = min(targets, COLUMNS)
    rows = math.ceil(targets / columns)
    with our_style():
        figure = Figure(figsize=(PANEL * columns + 0.6, PANEL * rows + 0.5), layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False).reshape(-1)
        for axes in grid[targets:]:
            axes.set_axis_off()
        for number, axes in enumerate(grid[:targets]):
            x, y = true[:MOST_POINTS, number], predicted[:MOST_POINTS, number]
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


def r_squared(true: NDArray[np.floating], predicted: NDArray[np.floating]) -> float:
    """1 − squared error over variance."""
    spread = float(((true - true.mean()) ** 2).sum())
    return 1 - float(((true - predicted) ** 2).sum()) / spread if spread else math.nan
