"""Numbers and times as a person reads them: what templates write behind a bar."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from markupsafe import Markup, escape

from api.web.charts import number

MOST_SHOWN = 120  # characters of a document in a cell


def code(text: str) -> Markup:
    """Text in which what stands between backticks is code."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))


def moment(when: datetime | None) -> str:
    """A time as a person reads it; the page's script turns it into local time."""
    return "–" if when is None else when.strftime("%-d %b %Y, %H:%M UTC")


def age(when: datetime | None, now: datetime) -> str:
    """How long ago."""
    if when is None:
        return "–"
    seconds = (now - when).total_seconds()
    for unit, length in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= length:
            count = int(seconds // length)
            return f"{count} {unit}{'s' if count > 1 else ''} ago"
    return "just now"


def duration(seconds: float | None) -> str:
    """A length of time in two units at most."""
    if seconds is None:
        return "–"
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(int(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min"


def size(count: int | None) -> str:
    """Bytes as a person reads them."""
    if not count:
        return "–" if count is None else "0 bytes"
    value, unit = float(count), "bytes"
    for unit in ("bytes", "kB", "MB", "GB", "TB"):
        if value < 1000 or unit == "TB":
            break
        value /= 1000
    return f"{value:.0f} {unit}" if unit == "bytes" or value >= 100 else f"{value:.1f} {unit}"


def listed(names: Sequence[str], most: int = 8) -> str:
    """a; a and b; a, b and c. A long list is cut short."""
    shown = [str(name) for name in names[:most]]
    if len(names) > most:
        return f"{', '.join(shown)} and {len(names) - most} more"
    return " and ".join([", ".join(shown[:-1]), shown[-1]]) if len(shown) > 1 else "".join(shown)


def brief(value: Any) -> str:
    """Any JSON value in a table's cell: a number with few digits, a long document cut short."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return number(value)
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= MOST_SHOWN else f"{text[: MOST_SHOWN - 1]}…"


def counted(count: int, noun: str) -> str:
    """1 neuron, 2 neurons."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


FIGURES = {
    "network": "The network in layers, inputs below and outputs above; colours are modules, dashes negative weights.",
    "effects": "What each module does to each output, as a matrix.",
    "fit": "True against predicted values on held-out examples: a good network lies on the diagonal.",
    "prune-curve": "The loss as connections are taken away, and where the network was cut.",
    "embedding": "What the network has learned to know of its tokens: their vectors in the planes that carry the most.",
    "features": "What neurons of the first hidden sheet look for in an image: their incoming weights as pictures.",
    "decision": "Where the classifier of two inputs draws its line.",
    "ranks": "Weights from heavy to light: how many are needed, and where the rest begins.",
}


def figure(name: str) -> str:
    """What a figure shows, in words."""
    stem = name.rpartition(".")[0]
    return FIGURES.get(stem, stem.replace("-", " ").replace("_", " ").capitalize())
