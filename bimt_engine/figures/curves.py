"""Curves: losses, cost and accuracy over the training, the loss as connections are pruned, and a sweep of λ."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from jaxtyping import Int, Real
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from bimt_engine.analysis.statements.wording import held_out_part, validation_loss
from bimt_engine.figures.style import INK, NEGATIVE, POSITIVE, QUIET, figure_style, log_scale, pale

WIDTH, PANEL_HEIGHT = 6.4, 1.9  # inches
SHADE = "#8c8470"
PRUNE_HEIGHT = 3.9  # inches
MANY_CONNECTIONS = 200  # connections; beyond, the axis is logarithmic


def draw_curves(history: Iterable[Mapping[str, Any]], *, title: str = "") -> Figure:
    """Losses above, connection cost below, accuracy between them where there is one; phases of λ are shaded.

    history   rows with step, cost_strength, prediction_loss, validation_prediction_loss, connection_cost and, for
              classes, train_accuracy and validation_accuracy; in older runs test_… instead. What a row lacks is left
              out of its curve.
    """
    rows = sorted(history, key=lambda row: row["step"])
    part = held_out_part(rows, "prediction_loss")
    panels = ["loss", *(["accuracy"] if any("train_accuracy" in row for row in rows) else []), "cost"]
    with figure_style():
        figure = Figure(figsize=(WIDTH, PANEL_HEIGHT * len(panels)), layout="constrained")
        all_axes: list[Axes] = list(figure.subplots(len(panels), sharex=True))
        for axes, panel in zip(all_axes, panels, strict=True):
            shade_phases(axes, rows, labelled=axes is all_axes[0])
            if panel == "loss":
                _curve(axes, rows, "prediction_loss", "training", POSITIVE, "-")
                _curve(axes, rows, f"{part}_prediction_loss", part, NEGATIVE, "--")
                axes.set_ylabel("prediction loss")
                _log_where_positive(axes, rows, "prediction_loss")
            elif panel == "accuracy":
                _curve(axes, rows, "train_accuracy", "training", POSITIVE, "-")
                _curve(axes, rows, f"{part}_accuracy", part, NEGATIVE, "--")
                axes.set_ylabel("accuracy")
            else:
                _curve(axes, rows, "connection_cost", "connection cost", "#3d4653", "-")
                axes.set_ylabel("connection cost")
                axes.set_xlabel("step")
                _log_where_positive(axes, rows, "connection_cost")
            if panel != "cost" and axes.lines:
                axes.legend(loc="best")
        if len(rows) > 1:
            all_axes[-1].set_xlim(rows[0]["step"], rows[-1]["step"])
        if title:
            figure.suptitle(title, fontsize=11, x=0.01, ha="left")
    return figure


def phases_of(rows: Sequence[Mapping[str, Any]]) -> list[tuple[int, int, float]]:
    """(first step, last step, λ) of each stretch with the same λ; a row has the λ of the steps that follow it."""
    phases: list[tuple[int, int, float]] = []
    for row, after in pairwise(rows):
        strength = float(row.get("cost_strength", 0.0))
        if phases and phases[-1][2] == strength:
            phases[-1] = (phases[-1][0], after["step"], strength)
        else:
            phases.append((row["step"], after["step"], strength))
    return phases


def shade_phases(axes: Axes, rows: Sequence[Mapping[str, Any]], *, labelled: bool) -> None:
    """The stronger λ, the darker the ground; the value stands on top of each phase."""
    phases = phases_of(rows)
    strengths = sorted({strength for *_, strength in phases})
    for start, end, strength in phases:
        share = 0.06 + 0.22 * (strengths.index(strength) / max(len(strengths) - 1, 1)) if len(strengths) > 1 else 0.06
        axes.axvspan(start, end, facecolor=pale(SHADE, share), linewidth=0, zorder=0)
        if labelled and len(phases) <= 8:
            axes.annotate(
                f"λ = {strength:g}",
                ((start + end) / 2, 1),
                xycoords=("data", "axes fraction"),
                xytext=(0, 3),
                textcoords="offset points",
                ha="center",
                va="bottom",
                fontsize=7.5,
                color=QUIET,
            )


def _curve(axes: Axes, rows: Sequence[Mapping[str, Any]], key: str, label: str, colour: str, line: str) -> None:
    there = [(row["step"], row[key]) for row in rows if row.get(key) is not None]
    if there:
        steps, values = zip(*there, strict=True)
        axes.plot(steps, values, line, color=colour, linewidth=1.4, label=label)


def _log_where_positive(axes: Axes, rows: Sequence[Mapping[str, Any]], key: str) -> None:
    values = [row[key] for row in rows if row.get(key) is not None]
    if values and min(values) > 0 and max(values) > 3 * min(values):
        log_scale(axes, "y", np.array(values))


# --- pruning ----------------------------------------------------------------------------------------


def draw_prune_curve(
    curve: Sequence[Mapping[str, Any]],
    *,
    chosen: int | None = None,
    limits: Mapping[str, float] | None = None,
    title: str = "",
) -> Figure:
    """Training and validation loss against the number of kept connections, dense on the left; modules below.

    curve    points with connections, train_loss, validation_loss (in older runs held_out_loss), modules, refitted.
    chosen   k*, the number of connections of the pruned network.
    limits   {"train_loss", "validation_loss"}: what the losses were allowed to be at k*.
    """
    curve = [{**point, "validation_loss": validation_loss(point)} for point in curve]
    points = sorted((p for p in curve if p.get("refitted", True)), key=lambda p: -p["connections"])
    trained = next((p for p in curve if not p.get("refitted", True)), None)
    with figure_style():
        figure = Figure(figsize=(WIDTH, PRUNE_HEIGHT), layout="constrained")
        above, below = figure.subplots(2, sharex=True, height_ratios=(3, 1))
        kept = np.array([p["connections"] for p in points], dtype=float)
        for key, label, colour, line in (
            ("train_loss", "training", POSITIVE, "-"),
            ("validation_loss", "validation", NEGATIVE, "--"),
        ):
            losses = np.array([p[key] for p in points], dtype=float)
            style: dict[str, Any] = {"color": colour, "linewidth": 1.4, "markersize": 2.6, "marker": "o"}
            above.plot(kept, losses, line, label=f"{label}, refitted", **style)
            if trained is not None and len(kept):
                said = f"{label}, as trained with {trained['connections']:,}"
                above.plot(1.06 * kept.max(), trained[key], marker="D", color=colour, markersize=4.5,
                           markerfacecolor="white", linewidth=0, label=said, clip_on=False)  # fmt: skip
            if limits and key in limits:
                above.axhline(limits[key], color=colour, linewidth=0.7, linestyle=":")
        everything = [float(p[key]) for p in curve for key in ("train_loss", "validation_loss")]
        if everything and min(everything) > 0:
            log_scale(above, "y", np.array(everything))
        above.set_ylabel("prediction loss")
        below.step(kept, [p["modules"] for p in points], where="mid", color=INK, linewidth=1.2)
        below.set_ylabel("modules")
        below.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=4))
        below.set_ylim(bottom=0)
        below.set_xlabel("connections kept")
        if len(kept) and kept.max() > MANY_CONNECTIONS and kept.max() > 8 * kept.min() > 0:
            log_scale(below, "x", kept)
        below.invert_xaxis()
        if chosen is not None:
            for axes in (above, below):
                axes.axvline(chosen, color=INK, linewidth=0.8, zorder=1)
            above.annotate(
                f"k* = {chosen:,}",
                (chosen, 1),
                xycoords=("data", "axes fraction"),
                xytext=(0, 3),
                textcoords="offset points",
                ha="center",
                fontsize=8.5,
                fontweight="bold",
            )
        if limits:
            above.plot([], [], ":", color=QUIET, linewidth=0.9, label="allowed")
        above.legend(loc="best", fontsize=7.5)
        if title:
            figure.suptitle(title, fontsize=11, x=0.01, ha="left")
    return figure


# --- a sweep ----------------------------------------------------------------------------------------


PARETO_WIDTH, PARETO_HEIGHT = 5.6, 3.8  # inches


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
        figure = Figure(figsize=(PARETO_WIDTH, PARETO_HEIGHT), layout="constrained")
        axes = figure.add_subplot()
        x, y = (np.array([float(run[key]) for run in whole]) for key in (wiring, loss))
        strengths = np.array([float(run.get("cost_strength") or 0.0) for run in whole])
        front = unbettered(x, y)
        axes.step(x[front], y[front], where="post", color=QUIET, linewidth=1.0, zorder=1)
        norm = LogNorm() if len(strengths) and strengths.min() > 0 and np.ptp(strengths) > 0 else Normalize()
        points = axes.scatter(x, y, c=strengths, cmap="cividis", norm=norm, s=34, edgecolor="white", linewidth=0.6)
        if len(whole) and np.ptp(strengths) > 0:
            figure.colorbar(points, ax=axes, label="λ")
        if len(x) and x.min() > 0 and x.max() > 10 * x.min():
            log_scale(axes, "x", x)
        if len(y) and y.min() > 0 and y.max() > 10 * y.min():
            log_scale(axes, "y", y)
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
