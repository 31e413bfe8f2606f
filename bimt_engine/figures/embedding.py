"""What the network has learned about its tokens, by the irreducible representations of their group.

Rings for two-dimensional representations, which of a cyclic group are its frequencies, lines for one-dimensional ones,
views in space for three-dimensional ones, and a strip for each dimension of the embedding.
(arXiv 2305.08746, the figures of modular addition and of the permutation group)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from bimt_engine.analysis.representations import Group, Representation, matrices, representations, shares
from bimt_engine.analysis.statements.representations import WORTH_NAMING
from bimt_engine.analysis.statements.wording import percent
from bimt_engine.figures.style import FAINT, QUIET, figure_style, letter_colour, pale, pretty

PANEL = 2.35  # inches
MOST_PANELS = 3
STRIP_HEIGHT, WIDTH = 0.62, 6.8  # inches
MOST_STRIPS = 12
TALLEST = 12  # tokens in a stack, half of the 24 of S4; of higher ones the number is written
SAME = 0.045  # of a strip's length; tokens closer than this stand above one another
SAME_IN_PANEL = 0.15  # the same for a panel, where there is room for fewer
MANY_TOKENS = 130  # beyond, names are left out
MOST_LINES = 5  # of a list of names beside a cluster
LONG_NAME = 18  # letters; a longer title takes two lines
CARRIED = 0.4  # of the variance; noise over 59 tokens gives its three strongest frequencies a fifth
ROUND = colormaps["twilight_shifted"]  # ends in the colour it begins with, as a circle does
ROW = colormaps["viridis"]
# From where a part in space is seen: the three directions as they point in the picture, and towards the eye.
VIEW = np.array([[0.80, 0.60, 0.0], [-0.30, 0.40, 0.87], [0.52, -0.69, 0.50]])


@dataclass(frozen=True)
class Part:
    """The part of an embedding that lies in one representation, or along some of its principal directions.

    points          the tokens along the directions that hold the most of the part.
    share           of the embedding's variance, in the part. shown: along the directions.
    alike           a number for each token: the representation does not distinguish tokens of equal numbers.
    representation  None: the directions are those of the whole embedding.
    """

    name: str
    points: Float[np.ndarray, "tokens directions"]
    share: float
    shown: float
    alike: Int[np.ndarray, " tokens"]
    representation: Representation | None = None

    @property
    def frequency(self) -> int | None:
        """Of a cyclic group: the frequency of the representation; otherwise None."""
        frequency = () if self.representation is None else self.representation.frequency
        return frequency[0] if len(frequency) == 1 else None


def draw_embedding(
    embedding: Float[np.ndarray, "tokens width"],
    names: Sequence[str],
    table: Int[np.ndarray, "tokens tokens"] | None = None,
    *,
    title: str = "",
) -> Figure:
    """Tokens along the directions of their embedding that matter most.

    embedding   of the dimensions that the network reads.
    table       the Cayley table of their group. Where a few of its representations carry the embedding, each panel is
                one of them; otherwise, and without a group, panels are spanned by pairs of principal directions.
    """
    parts = representation_parts(embedding, table) if table is not None else []
    parts = parts or principal_parts(embedding)
    coloured = [token_colours(len(embedding), table, part) for part in parts]
    meaning = coloured[0][1]
    with figure_style():
        size = (PANEL * len(parts) + 0.3, PANEL + (0.8 if meaning else 0.6))
        figure = Figure(figsize=size, layout="constrained")
        panels = figure.subplots(1, len(parts), squeeze=False)[0]
        for axes, part, (colours, _) in zip(panels, parts, coloured, strict=True):
            draw = {1: _draw_line, 3: _draw_space}.get(part.points.shape[1], _draw_plane)
            draw(axes, part, [pretty(str(name)) for name in names], colours)
            axes.set_xticks([])
            axes.set_yticks([])
            axes.spines[:].set_visible(False)
            end = "\n" if len(part.name) > LONG_NAME else " "
            axes.set_title(f"{part.name}:{end}{percent(part.share)} of the variance", fontsize=8, loc="center")
            if part.share - part.shown > WORTH_NAMING:
                axes.set_xlabel(f"drawn: directions that hold {percent(part.shown)}", fontsize=6.5, color=QUIET)
        if meaning:
            figure.supxlabel(meaning, fontsize=6.5, color=QUIET)
        if title:
            figure.suptitle(title, fontsize=11, x=0.01, ha="left")
    return figure


def representation_parts(
    embedding: Float[np.ndarray, "tokens width"], table: Int[np.ndarray, "tokens tokens"]
) -> list[Part]:
    """The parts in the representations that hold the most; none where a few hold no more than noise does.

    The directions of a part are found in its representation alone. Along them the whole embedding is shown, so what
    other representations have there shows too: of noise, no ring appears.
    """
    centred = embedding - embedding.mean(axis=0)
    total = float((centred**2).sum())
    if total == 0:
        return []
    group, of_group = Group.of(table), representations(table)
    held = (centred**2).sum(axis=0) @ shares(embedding, of_group) / total
    order = [int(i) for i in np.argsort(-held, kind="stable")[:MOST_PANELS] if held[i] >= WORTH_NAMING]
    if held[order].sum() < CARRIED:
        return []
    parts = []
    for number in order:
        representation = of_group[number]
        directions = np.linalg.svd(representation.basis.T @ centred, full_matrices=False)[2].T
        points = centred @ directions[:, : min(representation.dimension, 3)]
        points = np.pad(points, ((0, 0), (0, min(representation.dimension, 3) - points.shape[1])))
        shown, alike = float((points**2).sum()) / total, group.cosets(representation.kernel)
        parts.append(Part(representation.name, points, float(held[number]), shown, alike, representation))
    return parts


def principal_parts(embedding: Float[np.ndarray, "tokens width"]) -> list[Part]:
    """Planes spanned by pairs of principal directions, as many as hold anything; at least one."""
    centred = embedding - embedding.mean(axis=0)
    directions, sizes, _ = np.linalg.svd(np.pad(centred, ((0, 0), (0, 2))), full_matrices=False)
    points = directions * sizes
    share = sizes**2 / max(float((sizes**2).sum()), 1e-300)
    count = max(min(MOST_PANELS, (int((share > 0.01).sum()) + 1) // 2), 1)
    points = np.pad(points, ((0, 0), (0, max(2 * count - points.shape[1], 0))))
    held = [float(share[2 * i : 2 * i + 2].sum()) for i in range(count)]
    return [
        Part(f"directions {2 * i + 1} and {2 * i + 2}", points[:, 2 * i : 2 * i + 2], of, of, np.arange(len(points)))
        for i, of in enumerate(held)
    ]


def token_colours(
    tokens: int, table: Int[np.ndarray, "tokens tokens"] | None, part: Part | None = None
) -> tuple[Float[np.ndarray, "tokens 4"], str]:
    """A colour for each token, and what equal colours mean, in words.

    Of an abelian group the colour goes once round as the part's frequency does. Of any other it is the coset of the
    smallest kernel of a representation, so that a token has one colour in every panel; where all are faithful, it is
    the class of conjugate elements. Without a group it goes by number.
    """
    numbers = np.arange(tokens)
    if table is None:
        return ROUND(numbers / tokens), ""
    group = Group.of(table)
    if group.abelian:
        turning = part.representation if part is not None else None
        if turning is None:
            return ROUND(numbers / tokens), ""
        if turning.dimension == 1:
            return ROW(np.where(turning.character > 0, 0.15, 0.75)), ""
        turned = matrices(table, turning)
        turns = np.round(np.arctan2(turned[:, 1, 0], turned[:, 0, 0]) / (2 * np.pi), 6)
        return ROUND(turns % 1.0), ""
    kernels = [each for each in representations(table) if 1 < each.kernel.sum() < tokens]
    if not kernels:
        return _spread(group.class_of), "Equal colours: conjugate elements."
    smallest = min(kernels, key=lambda each: int(each.kernel.sum()))
    cosets = group.cosets(smallest.kernel)
    size = int(smallest.kernel.sum())
    return _spread(cosets), f"Equal colours: the same coset of the kernel of “{smallest.name}”, {size} elements."


def _spread(numbers: Int[np.ndarray, " tokens"]) -> Float[np.ndarray, "tokens 4"]:
    return np.asarray(ROW(0.95 * numbers / max(int(numbers.max()), 1)))


def _draw_plane(axes: Axes, part: Part, names: Sequence[str], colours: Float[np.ndarray, "tokens 4"]) -> None:
    x, y = part.points.T
    axes.scatter(x, y, s=26 if len(names) <= MANY_TOKENS else 8, c=colours, linewidth=0)
    _name_points(axes, part.points, names, part.alike, 5.5)


def _draw_space(axes: Axes, part: Part, names: Sequence[str], colours: Float[np.ndarray, "tokens 4"]) -> None:
    """A view of points in space: the nearer the larger, and in front; lines mark the three directions."""
    seen = part.points @ VIEW.T
    edge = float(np.abs(part.points).max(initial=1e-12))
    for direction in VIEW.T:
        axes.plot(*np.outer(direction[:2], [-edge, edge]), color=FAINT, linewidth=0.8, zorder=0)
    order = np.argsort(seen[:, 2], kind="stable")
    near = (seen[order, 2] / (2 * max(float(np.abs(seen[:, 2]).max()), 1e-12))) + 0.5
    sizes = 10 + 26 * near if len(names) <= MANY_TOKENS else np.full(len(names), 8)
    axes.scatter(seen[order, 0], seen[order, 1], s=sizes, c=colours[order], linewidth=0.4, edgecolor="white")
    _name_points(axes, seen[:, :2], names, part.alike, 8.0)


def _draw_line(axes: Axes, part: Part, names: Sequence[str], colours: Float[np.ndarray, "tokens 4"]) -> None:
    """Tokens at their values, those that are not distinguished above one another, equal colours together."""
    values = part.points[:, 0]
    order = np.lexsort(colours.T)
    places, levels = np.empty(len(values)), np.empty(len(values))
    places[order], levels[order] = stacked(values[order], near=SAME_IN_PANEL)
    axes.axhline(-0.7, color=pale(QUIET, 0.4), linewidth=0.8)
    axes.scatter(places, levels, s=26 if len(names) <= MANY_TOKENS else 8, c=colours, linewidth=0)
    for place, level, name in zip(places, levels, names, strict=True) if len(names) <= MANY_TOKENS else ():
        axes.annotate(name, (place, level), xytext=(6, 0), textcoords="offset points", fontsize=5.5, va="center",
                      color=QUIET)  # fmt: skip
    axes.margins(x=0.35)
    axes.set_ylim(-1.5, max(float(levels.max(initial=0)), 1.0) + 1)
    axes.set_box_aspect(1)


def _name_points(
    axes: Axes,
    points: Float[np.ndarray, "tokens 2"],
    names: Sequence[str],
    alike: Int[np.ndarray, " tokens"],
    away: float,
) -> None:
    """Names beside the points, so many typographic points away, and limits that leave room for them.

    Points that lie together and are not distinguished have their names in one list.
    """
    edge = float(np.abs(points).max(initial=1e-12))
    named, longest = np.full(len(points), len(names) > MANY_TOKENS), 1
    for token, point in enumerate(points):
        if named[token]:
            continue
        together = (np.hypot(*(points - point).T) < SAME_IN_PANEL * edge) & (alike == alike[token]) & ~named
        named |= together
        lines = [names[i] for i in np.flatnonzero(together).tolist()]
        if len(lines) > MOST_LINES:
            lines = [*lines[: MOST_LINES - 1], f"and {len(lines) - MOST_LINES + 1} more"]
        longest = max(longest, len(lines))
        middle = points[together].mean(axis=0)
        beside = middle / max(float(np.hypot(*middle)), 1e-12) * (away if len(lines) == 1 else 13 + 2 * len(lines))
        axes.annotate("\n".join(lines), tuple(middle), xytext=tuple(beside), textcoords="offset points", fontsize=5.5,
                      ha="center", va="center", color=QUIET, linespacing=1.0)  # fmt: skip
    edge *= 1.15 if longest == 1 else 1.15 + 0.07 * longest
    axes.set_xlim(-edge, edge)
    axes.set_ylim(-edge, edge)
    axes.set_aspect("equal")


def draw_strips(
    embedding: Float[np.ndarray, "tokens width"],
    names: Sequence[str],
    table: Int[np.ndarray, "tokens tokens"] | None = None,
    *,
    title: str = "",
) -> Figure:
    """One strip for each embedding dimension that separates tokens, widest first; tokens stand at their values.

    embedding   of the dimensions that the network reads.
    table       the Cayley table of their group: each strip is labelled with the representation that holds the most.
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
        colours, meaning = token_colours(len(names), table)
        labels = dimension_labels(embedding, table)
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
            axes.set_ylabel(labels[dimension], fontsize=7, rotation=0, ha="right", va="center")
        if meaning:
            figure.supxlabel(meaning, fontsize=6.5, color=QUIET)
        if title:
            figure.suptitle(title, fontsize=11, x=0.01, ha="left")
    return figure


def dimension_labels(
    embedding: Float[np.ndarray, "tokens width"], table: Int[np.ndarray, "tokens tokens"] | None
) -> list[str]:
    """The number of each dimension, and below it the representation that holds the most of it, with its share."""
    if table is None:
        return [f"[{dimension}]" for dimension in range(embedding.shape[1])]
    of_group = representations(table)
    held = shares(embedding, of_group)
    most = held.argmax(axis=1)
    return [
        f"[{dimension}] {of_group[number].name}\n{percent(float(held[dimension, number]))}"
        for dimension, number in enumerate(most.tolist())
    ]


def stacked(
    values: Float[np.ndarray, " tokens"], *, near: float = SAME
) -> tuple[Float[np.ndarray, " tokens"], Float[np.ndarray, " tokens"]]:
    """Where each value is shown, and how high: values that lie close together form one stack at their mean.

    near   how close, as a share of their range.
    """
    order = np.argsort(values, kind="stable")
    near *= float(np.ptp(values))
    places, levels = np.zeros(len(values)), np.zeros(len(values))
    start = 0
    for position in range(1, len(order) + 1):
        if position == len(order) or values[order[position]] - values[order[start]] > near:
            members = order[start:position]
            places[members] = values[members].mean()
            levels[np.sort(members)] = np.arange(len(members))
            start = position
    return places, levels


def _too_high(
    places: Float[np.ndarray, " tokens"], levels: Float[np.ndarray, " tokens"]
) -> Bool[np.ndarray, " tokens"]:
    """The tokens in stacks of more than TALLEST."""
    return np.isin(places, np.unique(places[levels >= TALLEST]))
