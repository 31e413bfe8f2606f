"""What the first hidden layer responds to in an image: the incoming weights of its neurons, each as a small image."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from bimt_engine.figures.style import FAINT, NEGATIVE, POSITIVE, figure_style

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
