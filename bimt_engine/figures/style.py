"""How our pictures look: colours that colour-blind readers tell apart, line ends, sizes; one place for all of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Okabe and Ito's palette, which stays distinct under the common kinds of colour blindness and in grey print.
MODULE_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#8C6D31", "#6B4C9A")
POSITIVE, NEGATIVE = "#2a5d9f", "#c8501e"  # told apart by dashes too
UNUSED = "#c9ced6"
INK = "#1d2530"
FAINT = "#e9ecf1"

SETTINGS = {
    "font.family": "DejaVu Sans",  # ships with matplotlib, so pictures look the same on every machine
    "font.size": 9,
    "axes.edgecolor": "#8a929e",
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": INK,
    "ytick.color": INK,
    "text.color": INK,
    "svg.hashsalt": "bimt",
    "svg.fonttype": "path",
}


@contextmanager
def our_style() -> Iterator[None]:
    """Matplotlib's settings for one picture, put back afterwards."""
    with matplotlib.rc_context(SETTINGS):
        yield


def module_colour(module: str | None) -> str:
    """The colour of a module's letter; modules past the palette start it anew. None is grey."""
    if not module:
        return UNUSED
    return MODULE_COLOURS[(ord(module[0]) - ord("A")) % len(MODULE_COLOURS)]


def blank_figure(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure of so many inches with one plain axis, made without pyplot and its global state."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot()
