"""Figures to bytes: the same figure gives the same bytes."""

from __future__ import annotations

import io

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from bimt_engine.figures.style import our_style

DOTS_PER_INCH = 160  # sharp on a screen with twice the usual density


def to_svg(figure: Figure) -> bytes:
    """The figure as SVG, letters as outlines so that no font is needed to show it."""
    with our_style():
        canvas, written = FigureCanvasSVG(figure), io.BytesIO()
        canvas.print_svg(written, metadata={"Date": None, "Creator": "BIMT"})
    return written.getvalue()


def to_png(figure: Figure, *, dots_per_inch: int = DOTS_PER_INCH) -> bytes:
    """The figure as PNG on white."""
    with our_style():
        figure.set_dpi(dots_per_inch)
        canvas, written = FigureCanvasAgg(figure), io.BytesIO()
        canvas.print_png(written, metadata={"Software": "BIMT"})
    return written.getvalue()
