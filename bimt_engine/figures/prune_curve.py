"""The loss as connections are taken away, the cliff, and where the network was cut."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from bimt_engine.figures.style import INK, NEGATIVE, POSITIVE, QUIET, our_style

WIDTH, HEIGHT = 6.4, 3.9  # inches
MANY = 200  # connections; beyond, the axis is logarithmic


def draw_prune_curve(
    curve: Sequence[Mapping[str, Any]],
    *,
    chosen: int | None = None,
    limits: Mapping[str, float] | None = None,
    title: str = "",
) -> Figure:
    """Training and held-out loss against the number of kept connections, dense on the left; modules below.

    curve    points with connections, train_loss, held_out_loss, modules, refitted.
    chosen   k*, the number of connections of the pruned network.
    limits   {"train_loss", "held_out_loss"}: what the losses were allowed to be at k*.
    """
    points = sorted((p for p in curve if p.get("refitted", True)), key=lambda p: -p["connections"])
    trained = next((p for p in curve if not p.get("refitted", True)), None)
    with our_style():
        figure = Figure(figsize=(WIDTH, HEIGHT), layout="constrained")
        above, below = figure.subplots(2, sharex=True, height_ratios=(3, 1))
        kept = np.array([p["connections"] for p in points], dtype=float)
        for key, label, colour, line in (
            ("train_loss", "training", POSITIVE, "-"),
            ("held_out_loss", "held out", NEGATIVE, "--"),
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
        everything = [float(p[key]) for p in curve for key in ("train_loss", "held_out_loss")]
        if everything and min(everything) > 0:
            above.set_yscale("log")
        above.set_ylabel("prediction loss")
        below.step(kept, [p["modules"] for p in points], where="mid", color=INK, linewidth=1.2)
        below.set_ylabel("modules")
        below.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=4))
        below.set_ylim(bottom=0)
        below.set_xlabel("connections kept")
        if len(kept) and kept.max() > MANY and kept.max() > 8 * kept.min() > 0:
            below.set_xscale("log")
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
