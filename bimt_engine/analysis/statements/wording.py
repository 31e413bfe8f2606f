"""Names, numbers and labels as they stand in every sentence, and how a sentence is put together."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

Document = Mapping[str, Any]
MAX_NAMED = 8  # names, outputs or modules in one sentence
EXACT_FROM = 0.99  # shares above are given with one more digit
PUNCTUATION = re.compile(r'[;:"“”]|,(?!\d+\])')  # ends a name for a reader; the comma of `pixel[3,4]` does not

METRIC_LABELS = {
    "test_prediction_loss": "test loss",
    "validation_prediction_loss": "validation loss",
    "train_prediction_loss": "train loss",
    "prediction_loss": "train loss",
    "test_accuracy": "test accuracy",
    "validation_accuracy": "validation accuracy",
    "train_accuracy": "train accuracy",
    "test_r2": "test R²",
    "validation_r2": "validation R²",
    "r2": "R²",
}
"""Metric -> its short label."""


def quoted(name: Any) -> str:
    """A name as it stands in a sentence: in quotes where its punctuation would be read as that of the sentence."""
    return f"“{name}”" if PUNCTUATION.search(str(name)) else str(name)


def listed(names: Sequence[Any], most: int = MAX_NAMED) -> str:
    """a; a and b; a, “b, c” and d. A long list is cut short."""
    shown = [quoted(name) for name in names[:most]]
    if len(names) > most:
        return f"{', '.join(shown)} and {len(names) - most} more"
    return " and ".join([", ".join(shown[:-1]), shown[-1]]) if len(shown) > 1 else "".join(shown)


def counted(count: int, noun: str) -> str:
    """1 neuron, 2 neurons."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def every(count: int, noun: str) -> str:
    """Both modules, All 3 modules: of two or more, at the beginning of a sentence."""
    return f"Both {noun}s" if count == 2 else f"All {count} {noun}s"


def sentence(text: str) -> str:
    """A clause as a sentence: its first letter upper-case, a full stop at the end. Empty stays empty."""
    return f"{text[:1].upper()}{text[1:]}{'' if text.endswith(('.', '!', '?')) else '.'}" if text else ""


def share(value: float | int | None) -> str:
    """A share such as R²: 0.99995 is not 1, so it gets as many digits as it takes to say so, up to nine.

    How far below zero R² is says nothing: a constant would be better. (`share` in api.js gives the same text.)
    """
    if value is None:
        return "–"
    if value < 0:
        return "below 0, worse than a constant"
    digits = next((n for n in range(4, 9) if float(f"{value:.{n}f}") != 1.0 or value == 1.0), 9)
    return f"{abs(value):.{digits}f}".rstrip("0").rstrip(".")


def percent(value: float | int) -> str:
    """A share as a percentage that is not rounded up: 0.996 is 99.6%, and 100% only what is all but for rounding."""
    if value >= 1 - 1e-5:
        return "100%"
    return f"{math.floor(1000 * value) / 10:g}%" if value > EXACT_FROM else f"{math.floor(100 * value + 1e-9)}%"


def number(value: float | int | None) -> str:
    """A number as a person reads it: few digits, no needless zeros, a true minus sign, powers of ten raised.

    Thousands are separated by commas, as by `f"{count:,}"` in refusals and figures.
    (`number` in api/pages/static/js/api.js gives the same text.)
    """
    if value is None:
        return "–"
    if isinstance(value, bool) or not math.isfinite(value):
        return str(value)
    if value == 0:
        return "0"
    size = abs(value)
    if size >= 1e6 or size < 1e-4:
        mantissa, exponent = f"{value:.2e}".split("e")
        mantissa = mantissa.rstrip("0").rstrip(".")
        raised = str(int(exponent)).translate(RAISED)
        shown = f"10{raised}" if mantissa == "1" else f"{mantissa}·10{raised}"
        return shown.replace("-", "−")
    if size >= 999.5:  # what rounds to a thousand, too
        return f"{value:,.0f}".replace("-", "−")
    shown = f"{value:.{max(0, 3 - math.ceil(math.log10(size) + 1e-12))}f}"
    if "." in shown:
        shown = shown.rstrip("0").rstrip(".")
    return shown.replace("-", "−")


def short(value: float) -> str:
    """A number of two digits, written as `number` writes it."""
    said = f"{value:.2g}"
    return number(float(said)) if "e" in said else said


def metric_label(name: str | None) -> str:
    """The short label of a metric; of one that has none, its name with spaces."""
    return METRIC_LABELS.get(name or "", (name or "metric").replace("_", " "))


def measured(name: str | None, value: float | int | None) -> str:
    """A metric as a person reads it: shares by `share`, all others by `number`."""
    return share(value) if (name or "").endswith(("r2", "accuracy")) else number(value)


def validation_loss(point: Document) -> float | None:
    """The validation loss of a point of the stored prune curve.

    Of runs before there was a validation part, the loss on the one part that was held out.
    """
    loss: float | None = point.get("validation_loss", point.get("held_out_loss"))
    return loss


def held_out_part(rows: Sequence[Document], metric: str) -> str:
    """Which part a curve over the training shows beside the training part: validation, in older runs test."""
    return "validation" if any(f"validation_{metric}" in row for row in rows) else "test"


def names_in(document: Document, field: str) -> tuple[str, ...]:
    """The names in a field of a stored document; none where it has no such field."""
    return tuple(str(name) for name in document.get(field) or ())


def stored(stored: float | None) -> float:
    """A stored number; null stands for one that was not finite."""
    return math.nan if stored is None else float(stored)


# --- mathematics in words ------------------------------------------------------------------------------

Piece = tuple[str, str]
"""A piece of a text, and how it stands: "" on the line, `sub` lowered, `sup` raised."""

LOWERED, RAISED = (str.maketrans("-0123456789", digits) for digits in ("₋₀₁₂₃₄₅₆₇₈₉", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
_POWER = r"(?:\*\*|\^)(?:(?P<whole>-?\d+)(?![\w.])|(?P<decimal>-?\d+\.\d+)|\((?P<inner>-?[\d./]+)\))"
# In words only what can be nothing else: names come from users. (api.js has the same expression.)
_IN_WORDS = re.compile(
    r"(?<![\w.])(?P<symbol>[xy])(?P<index>\d+)(?!\w)|(?<=[\w)])" + _POWER + r"|(?P<times>(?<=[\d)])\*(?=[\w(]))"
    r"|(?P<pi>(?<!\w)pi(?=[·*])|(?<=[·*])pi(?!\w))|(?P<root>(?<!\w)sqrt(?=\())"
)
_FORMULA = re.compile(
    r"(?P<symbol>[A-Za-z]+)_?(?P<index>\d+)\b|" + _POWER + r"|(?P<times>\s*\*\s*)"
    r"|(?P<pi>\bpi\b)|(?P<root>\bsqrt\b)|(?P<minus>-)"
)
_SIGNS = {"times": "·", "pi": "π", "root": "√", "minus": "−"}


def typeset(text: str, *, formula: bool = False) -> list[Piece]:
    """The text with `x4` as x₄, `x2^2` and `x2**2` as x₂², `sin(pi·x4)` as sin(π·x₄): of pages and figures alike.

    formula   the text is a formula alone: every name with an index has it lowered, and every - is a minus.
    """
    pieces, last = [], 0
    for found in (_FORMULA if formula else _IN_WORDS).finditer(text):
        pieces.append((text[last : found.start()], ""))
        last = found.end()
        if found["symbol"]:
            pieces += [(found["symbol"], ""), (found["index"], "sub")]
        elif found["whole"]:
            pieces.append((found["whole"].translate(RAISED), ""))
        elif raised := found["inner"] or found["decimal"]:
            pieces.append((raised.replace("-", "−"), "sup"))
        else:
            pieces.append((_SIGNS[str(found.lastgroup)], ""))
    return [piece for piece in (*pieces, (text[last:], "")) if piece[0]]


def typeset_plainly(text: str) -> str:
    """The same where nothing but letters can stand, as in a picture of a page."""
    return "".join(
        part.translate(LOWERED) if how == "sub" else f"^({part})" if how == "sup" else part
        for part, how in typeset(text)
    )


def too_large(what: str, found: int | float, limit: int | float) -> str:
    """The reason why a part of the evidence was not computed: its size, and the size that is computed."""
    return f"too large: {what} would be {number(found)}, and at most {number(limit)} is computed"


def skipped_statement(part: str, reason: str) -> str:
    """One sentence for a part of the evidence that was not computed."""
    return sentence(f"{part} skipped: {reason}")
