"""What the network has learned to know of its tokens: rings for cyclic groups, strips for others.

(arXiv 2305.08746, the figures of modular addition and of the permutation group)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from matplotlib import colormaps
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from bimt_engine.figures.style import QUIET, figure_style, letter_colour, pale, pretty

PANEL = 2.35  # inches
MOST_PANELS = 3
STRIP_HEIGHT, WIDTH = 0.62, 6.8  # inches
MOST_STRIPS = 12
TALLEST = 7  # tokens in a stack; of higher ones the number is written
SAME = 0.035  # of a strip's length; tokens closer than this stand above one another
MANY_TOKENS = 130  # beyond, names are left out
CARRIED = 0.4  # of the variance; noise over 59 tokens gives its three strongest frequencies a fifth
ROUND = colormaps["twilight_shifted"]  # ends in the colour it begins with, as a circle does


def draw_embedding(embedding: Float[np.ndarray, "tokens width"], names: Sequence[str], *, title: str = "") -> Figure:
    """Tokens on the planes of their embedding that matter most; a ring is a cyclic group read by one frequency.

    embedding   of the dimensions that the network reads.
    Where a few frequencies over the tokens' numbers carry the embedding, the planes are theirs, and colour goes once
    round as the wave does. Otherwise they are spanned by pairs of principal directions, coloured by number.
    """
    tokens = len(embedding)
    planes = frequency_planes(embedding) or principal_planes(embedding)
    with figure_style():
        figure = Figure(figsize=(PANEL * len(planes) + 0.3, PANEL + 0.6), layout="constrained")
        for axes, plane in zip(figure.subplots(1, len(planes), squeeze=False)[0], planes, strict=True):
            colours = ROUND((np.arange(tokens) * max(plane.frequency, 1) % tokens) / tokens)
            axes.scatter(*plane.points.T, s=26 if tokens <= MANY_TOKENS else 8, c=colours, linewidth=0)
            for token, name in enumerate(names) if tokens <= MANY_TOKENS else ():
                point = plane.points[token]
                away = 5.5 * point / max(float(np.hypot(*point)), 1e-12)
                axes.annotate(pretty(str(name)), point, xytext=away, textcoords="offset points", fontsize=5.5,
                              ha="center", va="center", color=QUIET)  # fmt: skip
            edge = 1.15 * float(np.abs(plane.points).max(initial=1e-12))
            axes.set_xlim(-edge, edge)
            axes.set_ylim(-edge, edge)
            axes.set_aspect("equal")
            axes.set_xticks([])
            axes.set_yticks([])
            axes.spines[:].set_visible(False)
            axes.set_title(f"{plane.name}: {plane.share:.0%} of the variance", fontsize=8, loc="center")
        if title:
            figure.suptitle(title, fontsize=11, x=0.01, ha="left")
    return figure


@dataclass(frozen=True)
class Plane:
    """A plane through the embedding: where the tokens lie on it, and how much of their variance it holds."""

    name: str
    points: Float[np.ndarray, "tokens 2"]
    share: float
    frequency: int = 0


def frequency_planes(embedding: Float[np.ndarray, "tokens width"]) -> list[Plane]:
    """The planes of the strongest frequencies; none where frequencies carry no more of the embedding than they must.

    The wave of frequency k moves the embedding along two directions, that of its cosine and that of its sine.
    """
    tokens = len(embedding)
    centred = embedding - embedding.mean(axis=0)
    total = float((centred**2).sum())
    if tokens < 8 or total == 0:
        return []
    waves = np.fft.rfft(centred, axis=0)[1:]
    power = (np.abs(waves) ** 2).sum(axis=1)
    order = np.argsort(-power, kind="stable")[:MOST_PANELS]
    if power[order].sum() < CARRIED * power.sum():
        return []
    planes = []
    for k in order.tolist():
        if power[k] < 0.03 * power.sum():
            continue
        directions, _ = np.linalg.qr(np.stack([waves[k].real, waves[k].imag], axis=1))
        points = centred @ directions
        planes.append(Plane(f"frequency {k + 1}", points, float((points**2).sum()) / total, k + 1))
    return planes


def principal_planes(embedding: Float[np.ndarray, "tokens width"]) -> list[Plane]:
    """Planes spanned by pairs of principal directions, as many as hold anything; at least one."""
    centred = embedding - embedding.mean(axis=0)
    directions, sizes, _ = np.linalg.svd(np.pad(centred, ((0, 0), (0, 2))), full_matrices=False)
    points = directions * sizes
    share = sizes**2 / max(float((sizes**2).sum()), 1e-300)
    count = max(min(MOST_PANELS, (int((share > 0.01).sum()) + 1) // 2), 1)
    points = np.pad(points, ((0, 0), (0, max(2 * count - points.shape[1], 0))))
    return [
        Plane(
            f"directions {2 * i + 1} and {2 * i + 2}",
            points[:, 2 * i : 2 * i + 2],
            float(share[2 * i : 2 * i + 2].sum()),
        )
        for i in range(count)
    ]


def draw_strips(embedding: Float[np.ndarray, "tokens width"], names: Sequence[str], *, title: str = "") -> Figure:
    """One strip for each embedding dimension that separates tokens, widest first; tokens stand at their values.

    embedding   of the dimensions that the network reads.
    Tokens that a dimension does not separate stand above one another.
    """
    spread = embedding.std(axis=0)
    chosen = [int(i) for i in np.argsort(-spread, kind="stable") if spread[i] > 1e-3 * max(float(spread.max()), 1e-12)]
    chosen = chosen[:MOST_STRIPS] or [0]
    stacks = [stacked(embedding[:, i]) for i in chosen]
    few = len(names) <= 40
    with figure_style():
        heights = [
            max(2.0, 1 + float(levels[~_too_high(*stack)].max(initial=0))) for stack in stacks for levels in stack[1:]
        ]
        tall = (0.115 if few else 0.06) * sum(heights) + STRIP_HEIGHT * 0.55 * len(chosen) + 0.4
        figure = Figure(figsize=(WIDTH, tall), layout="constrained")
        rows = figure.subplots(len(chosen), 1, squeeze=False, height_ratios=heights)[:, 0]
        colours = colormaps["viridis"](np.arange(len(names)) / max(len(names) - 1, 1) * 0.9)
        for axes, dimension, (places, levels), height in zip(rows, chosen, stacks, heights, strict=True):
            axes.axhline(-0.6, color=pale(QUIET, 0.4), linewidth=0.8)
            hidden = _too_high(places, levels)
            high = {place: int((places == place).sum()) for place in np.unique(places[hidden])}
            for place, count in high.items():
                axes.text(place, 0.3, f"{count} tokens", fontsize=6, ha="center", va="center", color=QUIET)
            shown = np.flatnonzero(~hidden).tolist()
            for token in shown if few else ():
                tag = {"boxstyle": "round,pad=0.18", "facecolor": colours[token], "linewidth": 0}
                axes.text(places[token], levels[token], pretty(str(names[token])), fontsize=6, ha="center", va="center",
                          color=letter_colour(to_hex(colours[token])), bbox=tag)  # fmt: skip
            if not few:
                axes.scatter(places[shown], levels[shown], s=6, c=colours[shown], linewidth=0)
            edge = 0.04 * float(np.ptp(embedding[:, dimension])) or 1.0
            axes.set_xlim(embedding[:, dimension].min() - edge, embedding[:, dimension].max() + edge)
            axes.set_ylim(-0.8, height)
            axes.set_yticks([])
            axes.spines[["left", "bottom"]].set_visible(False)
            axes.tick_params(labelsize=6, length=2)
            axes.set_ylabel(f"[{dimension}]", fontsize=7, rotation=0, ha="right", va="center")
        if title:
            figure.suptitle(title, fontsize=11, x=0.01, ha="left")
    return figure


def stacked(
    values: Float[np.ndarray, " tokens"],
) -> tuple[Float[np.ndarray, " tokens"], Float[np.ndarray, " tokens"]]:
    """Where each value is shown, and how high: values that lie close together form one stack at their mean."""
    order = np.argsort(values, kind="stable")
    near = SAME * float(np.ptp(values))
    places, levels = np.zeros(len(values)), np.zeros(len(values))
    start = 0
    for position in range(1, len(order) + 1):
        if position == len(order) or values[order[position]] - values[order[start]] > near:
            members = order[start:position]
            places[members] = values[members].mean()
            levels[members] = np.arange(len(members))
            start = position
    return places, levels


def _too_high(
    places: Float[np.ndarray, " tokens"], levels: Float[np.ndarray, " tokens"]
) -> Bool[np.ndarray, " tokens"]:
    """The tokens in stacks of more than TALLEST."""
    return np.isin(places, np.unique(places[levels >= TALLEST]))
