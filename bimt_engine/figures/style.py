"""How figures look, and how they become bytes: colours, line ends, sizes, SVG and PNG.

The colours can be distinguished with the common kinds of colour blindness. The same figure gives the same bytes.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, Literal

import matplotlib
import numpy as np
from jaxtyping import Real
from matplotlib import textpath
from matplotlib.axes import Axes
from matplotlib.backends import backend_agg
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font
from matplotlib.mathtext import MathTextParser
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from bimt_engine.analysis.statements.wording import typeset

# One parser for all figures: each renderer would make its own, and parse every tick label again.
backend_agg.MathTextParser = textpath.MathTextParser = cache(MathTextParser)  # type: ignore[assignment, attr-defined]

LONGEST_NAME = 40  # letters of a name in a picture
DOTS_PER_INCH = 160  # sharp on a screen with twice the usual density
# Okabe and Ito's palette, which stays distinct under the common kinds of colour blindness and in grey print.
MODULE_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#8C6D31", "#6B4C9A")
POSITIVE, NEGATIVE = "#2a5d9f", "#c8501e"  # distinguished by dashes too
DASH = (0, (3.0, 1.6))  # in line widths
UNUSED = "#aab1bb"
QUIET = "#6b7480"  # labels of rows and axes
INK = "#1d2530"
FAINT = "#dfe3e9"
SHEET = "#f6f7f9"

SETTINGS: dict[str, Any] = {
    "font.family": "DejaVu Sans",  # ships with matplotlib, so pictures look the same on every machine
    "font.size": 9,
    "axes.edgecolor": "#8a929e",
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "xtick.color": INK,
    "ytick.color": INK,
    "text.color": INK,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "svg.hashsalt": "bimt",
    "svg.fonttype": "path",
}


@contextmanager
def figure_style() -> Iterator[None]:
    """Matplotlib's settings for one picture, put back afterwards."""
    with matplotlib.rc_context(SETTINGS):
        yield


def module_colour(number: int | None) -> str:
    """The colour of a module or group by its number (`part_numbers`), which repeats. None is grey."""
    return UNUSED if number is None else MODULE_COLOURS[number % len(MODULE_COLOURS)]


def letter_colour(background: str) -> str:
    """Ink or white, whichever can be read on the background."""
    red, green, blue = to_rgb(background)
    return INK if 0.299 * red + 0.587 * green + 0.114 * blue > 0.56 else "white"


def pale(colour: str, share: float = 0.2) -> str:
    """The colour thinned with white; unlike a transparent one it does not darken where it overlaps itself."""
    return to_hex(tuple(1 - share + share * part for part in to_rgb(colour)))


def pretty(name: str) -> str:
    """A name as pages show it, x1 as x₁; a long one is cut off, and what the font has no letter for is a box."""
    return pretty_words(name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 1] + "…")


def pretty_words(text: str) -> str:
    """A few words, or a formula, as pages show them (`typeset`), as matplotlib reads it."""
    said = ""
    for part, how in typeset(text):
        if how == "sub":  # a symbol of one letter stands before it
            said = f"{said[:-1]}${said[-1]}_{{{part}}}$"
        else:
            said += f"$^{{{part}}}$" if how else _literal(part)
    return said


def _literal(text: str) -> str:
    """The text with nothing in it that would be read as mathematics, and a box for what the font has no letter for."""
    known = _letters()
    return "".join(letter if ord(letter) in known else "□" for letter in text).replace("$", r"\$")


@cache
def _letters() -> frozenset[int]:
    """The codes of the letters that the font has."""
    return frozenset(get_font(findfont(SETTINGS["font.family"])).get_charmap())


FEW_POWERS = 1_000  # largest over smallest value; below, too few powers of ten would be named on the axis


def log_scale(axes: Axes, which: Literal["x", "y"], values: Real[np.ndarray, " values"]) -> None:
    """A logarithmic axis for these positive values: powers of ten, or 1, 2 and 5 of each where there are few.

    Without ticks between them: they are never read, and laying them out takes a third of a figure's time.
    """
    getattr(axes, f"set_{which}scale")("log")
    axis = axes.xaxis if which == "x" else axes.yaxis
    if len(values) and values.max() < FEW_POWERS * values.min():
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())


def blank_figure(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure of so many inches with one plain axis, made without pyplot and its global state."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot()


# --- bytes ------------------------------------------------------------------------------------------


def to_svg(figure: Figure) -> bytes:
    """The figure as SVG, letters as outlines so that no font is needed to show it."""
    with figure_style():
        canvas, written = FigureCanvasSVG(figure), io.BytesIO()
        canvas.print_svg(written, metadata={"Date": None, "Creator": "BIMT"})
    return written.getvalue()


def to_png(figure: Figure) -> bytes:
    """The figure as PNG on white."""
    with figure_style():
        figure.set_dpi(DOTS_PER_INCH)
        canvas, written = FigureCanvasAgg(figure), io.BytesIO()
        canvas.print_png(written, metadata={"Software": "BIMT"})
    return written.getvalue()
