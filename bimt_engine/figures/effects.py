"""What each module does to each output: the matrix of causal effects, with its numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.colors import LinearSegmentedColormap, to_hex
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from bimt_engine.figures.style import INK, figure_style, letter_colour, module_colour, pretty

CELL = 0.62  # inches
FEW = 12  # columns; beyond, numbers would not fit their cells
SIGNIFICANT = 0.05
MOVES = 1e-3  # of an output's variance, where the document does not say what counts
GROUND = LinearSegmentedColormap.from_list("effect", ["#ffffff", "#f3c9a8", "#c8501e", "#5c1d06"])


def draw_effects(effects: Mapping[str, Any], *, title: str = "") -> Figure:
    """One row for each module, one column for each output; dark where switching the module off changes the output.

    effects   the evidence's document: modules, outputs, judged_by, matrices {zero, mean, resample}, p_holm, measure.
    A cell whose p (Holm) is below 0.05 has a frame, where the module moves the output at all: there p says that hardly
    a random group does as much. Where it does not, p is about leaving alone, and a frame would be misread.
    """
    modules, outputs = list(effects["modules"]), list(effects["outputs"])
    chosen = effects.get("judged_by", "mean")
    if not modules or not outputs:
        return _nothing(title)
    moves = float((effects.get("limits") or {}).get("exclusive", MOVES))
    matrix = _numbers(effects["matrices"][chosen], len(modules), len(outputs))
    p_values = _numbers(effects.get("p_holm") or [[None] * len(outputs)] * len(modules), len(modules), len(outputs))
    with figure_style():
        few = len(outputs) <= FEW
        cell = CELL if few else max(6.5 / len(outputs), 0.11)
        height = CELL * max(len(modules), 1)
        figure = Figure(figsize=(max(2.6 + cell * len(outputs), 3.6), 1.75 + height), layout="constrained")
        axes = figure.add_subplot()
        top = max(1.0, float(np.nanmax(matrix, initial=0.0)))
        image = axes.imshow(np.nan_to_num(matrix), cmap=GROUND, vmin=0, vmax=top, aspect="auto")
        for row, column in np.ndindex(*matrix.shape):
            value = matrix[row, column]
            if few:
                ground = to_hex(image.cmap(image.norm(value)))
                said = "–" if math.isnan(value) else _short(float(value))
                colour = letter_colour(ground)
                axes.text(column, row, said, ha="center", va="center", fontsize=8.5, color=colour)
            if p_values[row, column] < SIGNIFICANT and value >= moves:
                axes.add_patch(
                    Rectangle((column - 0.46, row - 0.46), 0.92, 0.92, fill=False, edgecolor=INK, linewidth=1.2)
                )
        _label(axes, modules, outputs, few=few)
        axes.set_xticks(np.arange(len(outputs) + 1) - 0.5, minor=True)
        axes.set_yticks(np.arange(len(modules) + 1) - 0.5, minor=True)
        axes.grid(which="minor", color="white", linewidth=1.5 if few else 0.4)
        axes.tick_params(which="both", length=0)
        axes.spines[:].set_visible(False)
        figure.colorbar(image, ax=axes, shrink=0.9, pad=0.02)
        did = {"zero": "zero", "mean": "its mean", "resample": "values of other examples"}.get(chosen, chosen)
        lines = [f"each module set to {did}", str(effects.get("measure", ""))]
        if ((p_values < SIGNIFICANT) & (matrix >= moves)).any():
            lines.append("framed: moved more than by random groups, p < 0.05 (Holm)")
        figure.supxlabel("\n".join(line for line in lines if line), fontsize=7.5)
        if title:
            figure.suptitle(title, fontsize=11, x=0.01, ha="left")
    return figure


def _nothing(title: str) -> Figure:
    with figure_style():
        figure = Figure(figsize=(3.6, 1.2), layout="constrained")
        figure.text(0.5, 0.4, "no module is left to test", ha="center", fontsize=9)
        figure.suptitle(title, fontsize=11, x=0.01, ha="left")
    return figure


def _label(axes: Any, modules: Sequence[str], outputs: Sequence[str], *, few: bool) -> None:
    size = 9 if few else float(np.clip(72 * 6.5 / len(outputs) * 0.75, 4, 8))
    axes.xaxis.set_ticks_position("top")
    axes.set_xticks(range(len(outputs)), [pretty(name) for name in outputs], fontsize=size, rotation=0 if few else 90)
    axes.set_yticks(range(len(modules)), modules, fontsize=10, fontweight="bold")
    for tick, module in zip(axes.get_yticklabels(), modules, strict=True):
        tick.set_color(module_colour(module))
    axes.set_ylabel("module")


def _numbers(rows: Sequence[Sequence[float | None]], height: int, width: int) -> np.ndarray:
    matrix = np.full((height, width), np.nan)
    for i, row in enumerate(rows):
        for j, value in enumerate(row):
            matrix[i, j] = np.nan if value is None else value
    return matrix


def _short(value: float) -> str:
    if abs(value) < 0.005:
        return "0" if abs(value) < 1e-12 else f"{value:.0e}".replace("e-0", "e-")
    return f"{value:.2f}".replace("-", "−") if abs(value) < 10 else f"{value:.0f}"
