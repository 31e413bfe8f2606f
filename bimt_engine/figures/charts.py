"""The charts of a run beside its network: what each module moves, what is predicted, and the weights themselves."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from matplotlib.colors import LinearSegmentedColormap, to_hex
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from bimt_engine.analysis.graph import part_numbers
from bimt_engine.figures.style import (
    FAINT,
    INK,
    MODULE_COLOURS,
    NEGATIVE,
    POSITIVE,
    QUIET,
    figure_style,
    letter_colour,
    log_scale,
    module_colour,
    pale,
    pretty,
)

# --- effects --------------------------------------------------------------------------------------

CELL, TALLEST = 0.62, 9.0  # inches, of a cell and of all rows
FEW = 12  # columns; beyond, numbers would not fit their cells
SIGNIFICANT = 0.05
MOVES = 1e-3  # of an output's variance, where the document does not say what counts
GROUND = LinearSegmentedColormap.from_list("effect", ["#ffffff", "#f3c9a8", "#c8501e", "#5c1d06"])


def draw_effects(effects: Mapping[str, Any], *, groups: Sequence[Mapping[str, Any]] = (), title: str = "") -> Figure:
    """One row for each module, one column for each output; dark where switching the module off changes the output.

    effects   the evidence's document: modules, outputs, judged_by, matrices {zero, mean, resample}, p_holm, measure.
    groups    inside the modules: {name, effects of holding it at its mean, as a share of each output's variance}. They
              have rows below those of the modules; a module that is the whole network has none, for it would be full.
    A cell whose p (Holm) is below 0.05 has a frame, where the module moves the output at all: there p says that hardly
    a random group does as much. Where it does not, p is about leaving alone, and a frame would be misread.
    """
    modules, outputs = list(effects["modules"]), list(effects["outputs"])
    chosen = effects.get("judged_by", "mean")
    if not modules or not outputs:
        return _nothing(title)
    moves = float((effects.get("limits") or {}).get("exclusive", MOVES))
    groups = [group for group in groups if len(group["effects"]) == len(outputs)]  # a long list is stored cut off
    whole = len(modules) == 1 and bool(groups)
    rows = [] if whole else effects["matrices"][chosen]
    tested = [] if whole else effects.get("p_holm") or []
    modules = ([] if whole else modules) + [group["name"] for group in groups]
    matrix = _numbers([*rows, *(group["effects"] for group in groups)], len(modules), len(outputs))
    p_values = _numbers(tested, len(modules), len(outputs))
    with figure_style():
        few = len(outputs) <= FEW
        cell = CELL if few else max(6.5 / len(outputs), 0.11)
        height = min(CELL * len(modules), TALLEST)
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
        _label(axes, "group" if whole else "module", modules, outputs, few=few)
        axes.set_xticks(np.arange(len(outputs) + 1) - 0.5, minor=True)
        axes.set_yticks(np.arange(len(modules) + 1) - 0.5, minor=True)
        axes.grid(which="minor", color="white", linewidth=1.5 if few else 0.4)
        axes.tick_params(which="both", length=0)
        axes.spines[:].set_visible(False)
        figure.colorbar(image, ax=axes, shrink=0.9, pad=0.02)
        did = {"zero": "zero", "mean": "its mean", "resample": "values of other examples"}.get(chosen, chosen)
        held = [] if whole else [f"each module set to {did}"]
        held += ["each group inside held at its mean"] if groups else []
        lines = [", ".join(held), str(effects.get("measure", ""))]
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


def _label(axes: Any, kind: str, modules: Sequence[str], outputs: Sequence[str], *, few: bool) -> None:
    size = 9 if few else float(np.clip(72 * 6.5 / len(outputs) * 0.75, 4, 8))
    axes.xaxis.set_ticks_position("top")
    axes.set_xticks(range(len(outputs)), [pretty(name) for name in outputs], fontsize=size, rotation=0 if few else 90)
    axes.set_yticks(range(len(modules)), modules, fontsize=10, fontweight="bold")
    numbers = part_numbers(modules)
    for tick, module in zip(axes.get_yticklabels(), modules, strict=True):
        tick.set_color(module_colour(numbers[module]))
    axes.set_ylabel(kind)


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


# --- predictions ----------------------------------------------------------------------------------

PANEL = 2.2  # inches
FIT_COLUMNS = 4
MAX_FIT_POINTS = 2_000  # per panel; more hide one another and fill the SVG
PLANE_WIDTH, PLANE_HEIGHT = 5.2, 4.0  # inches
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
    columns = min(targets, FIT_COLUMNS)
    rows = math.ceil(targets / columns)
    with figure_style():
        figure = Figure(figsize=(PANEL * columns + 0.6, PANEL * rows + 0.5), layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False).reshape(-1)
        for axes in grid[targets:]:
            axes.set_axis_off()
        for number, axes in enumerate(grid[:targets]):
            x, y = true[:MAX_FIT_POINTS, number], predicted[:MAX_FIT_POINTS, number]
            low, high = float(min(x.min(), y.min())), float(max(x.max(), y.max()))
            edge = 0.05 * (high - low) or 1.0
            axes.plot([low, high], [low, high], color=QUIET, linewidth=0.8, zorder=1)
            axes.scatter(x, y, s=9, color=POSITIVE, alpha=0.6, linewidth=0, zorder=2)
            axes.set_xlim(low - edge, high + edge)
            axes.set_ylim(low - edge, high + edge)
            axes.set_aspect("equal")
            lines = textwrap.wrap(str(names[number]), 24)  # wider ones would reach into the next panel
            name = "\n".join(map(pretty, lines))
            agreement = f"R² = {r_squared(true[:, number], predicted[:, number]):.4f}"
            between = "\n" if "\n" in name else "   "
            axes.set_title(f"{name}{between}{agreement}")
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
        figure = Figure(figsize=(PLANE_WIDTH, PLANE_HEIGHT), layout="constrained")
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


# --- weights --------------------------------------------------------------------------------------

TILE = 0.72  # inches
TILE_COLUMNS = 10
MOST_TILES = 60
SIGNED = LinearSegmentedColormap.from_list("signed", [NEGATIVE, "#ffffff", POSITIVE])


def draw_features(
    weights: Float[np.ndarray, "neurons pixels"],
    shape: tuple[int, int],
    *,
    names: Sequence[str] | None = None,
    title: str = "",
) -> Figure:
    """The neurons with the greatest sum of |w| first; blue where ink excites a neuron, orange where it inhibits.

    weights   pixels in the order of the image, row by row; neurons whose weights are all 0 are left out
    shape     rows and columns of the image
    """
    importance = np.abs(weights).sum(axis=1)
    chosen = [int(i) for i in np.argsort(-importance, kind="stable") if importance[i] > 0][:MOST_TILES]
    columns = max(min(TILE_COLUMNS, len(chosen)), 1)
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
MAX_RANKS = 2_000
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
    ranks = np.unique(np.geomspace(1, len(ordered), MAX_RANKS).astype(int))
    axes.plot(ranks, ordered[ranks - 1], **style)  # type: ignore[attr-defined]
