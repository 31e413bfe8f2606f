"""What templates and routes of the pages share: values written as text, Markdown as HTML, parameters of a request."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from flask import request
from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token
from markupsafe import Markup, escape
from pydantic import TypeAdapter, ValidationError

from api.problems import Problem
from bimt_engine.analysis.statements.network import FIGURE_LABELS
from bimt_engine.analysis.statements.wording import counted, number
from bimt_engine.data.registry import KINDS

MAX_SHOWN = 120  # characters of a JSON document in a table cell

# --- values as text ------------------------------------------------------------------------------------


def timestamp(when: datetime | None) -> str:
    """A time in UTC; page.js adds the reader's local time as a title."""
    return "–" if when is None else when.strftime("%-d %b %Y, %H:%M UTC")


def age(when: datetime | None, now: datetime) -> str:
    """How long ago, in the largest whole unit."""
    if when is None:
        return "–"
    seconds = (now - when).total_seconds()
    for unit, length in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= length:
            return f"{counted(int(seconds // length), unit)} ago"
    return "just now"


def duration(seconds: float | None) -> str:
    """A length of time in at most two units."""
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
    """A number of bytes in decimal units."""
    if not count:
        return "–" if count is None else "0 bytes"
    value, unit = float(count), "bytes"
    for unit in ("bytes", "kB", "MB", "GB", "TB"):
        if value < 1000 or unit == "TB":
            break
        value /= 1000
    return f"{value:.0f} {unit}" if unit == "bytes" or value >= 100 else f"{value:.1f} {unit}"


def brief(value: Any) -> str:
    """Any JSON value in a table cell: numbers with few digits, long documents cut short."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return number(value)
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= MAX_SHOWN else f"{text[: MAX_SHOWN - 1]}…"


def nearly(value: float | None) -> float | None:
    """A share without the rounding errors of its arithmetic: 2e-16 becomes 0."""
    return None if value is None else 0.0 if abs(value) < 1e-9 else round(value, 9)


def pretty(document: Any) -> str:
    """An indented JSON document."""
    return json.dumps(document, indent=2, ensure_ascii=False)


def code(text: str) -> Markup:
    """Escaped text in which `backticks` mark code."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))


def figure_name(name: str) -> str:
    """The name of a figure file as a title: `prune-curve.svg` is Prune curve."""
    stem = name.rpartition(".")[0] or name
    return stem.replace("-", " ").replace("_", " ").capitalize()


def data_label(kind: str | None) -> str:
    """The label of a kind of data set; of one that is no longer made, its name."""
    return KINDS[kind].label if kind in KINDS else (kind or "–").replace("_", " ")


def caption(name: str) -> str:
    """What a figure shows; of a figure without a label, its name."""
    return FIGURE_LABELS.get(name.rpartition(".")[0] or name, figure_name(name))


# --- Markdown ------------------------------------------------------------------------------------------

LINK_SCHEMES = re.compile(r"(https?|mailto):", re.IGNORECASE)
TOP_HEADING = 3  # the largest heading of a card: it stands below an h2 of the page


class _CardMarkdown(MarkdownIt):
    """CommonMark and tables, without HTML and images; links lead to http, https and mailto only."""

    def __init__(self) -> None:
        super().__init__("commonmark", {"html": False, "xhtmlOut": False})
        self.enable("table").disable(["image", "html_block", "html_inline"])
        self.add_render_rule("fence", _code_block)
        self.add_render_rule("code_block", _code_block)

    def validateLink(self, url: str) -> bool:
        """Whether a link may lead there; a link that may not stays text as it was written."""
        return LINK_SCHEMES.match(url) is not None


def _code_block(self: RendererHTML, tokens: Sequence[Token], index: int, *_: object) -> str:
    return str(Markup('<pre tabindex="0" aria-label="Code">{}</pre>\n').format(tokens[index].content.rstrip("\n")))


_MARKDOWN = _CardMarkdown()


def markdown(text: str) -> Markup:
    """A card or a note as HTML in which nothing can run: raw HTML is shown as text, and no address is loaded."""
    tokens = _MARKDOWN.parse(text)
    _shift_headings([token for token in tokens if token.type in ("heading_open", "heading_close")])
    for token in tokens:
        if token.type in ("th_open", "td_open"):
            token.attrs = {"scope": "col"} if token.type == "th_open" else {}  # no inline styles
        for child in token.children or ():
            if child.type == "link_open":
                child.attrSet("rel", "noopener noreferrer nofollow")
    return Markup(_MARKDOWN.renderer.render(tokens, _MARKDOWN.options, {}))


def _shift_headings(tokens: Sequence[Token]) -> None:
    """The levels that a text uses become h3, h4 …, without a level left out on the way down."""
    ranks = {tag: rank for rank, tag in enumerate(sorted({token.tag for token in tokens}))}
    last = TOP_HEADING - 1
    for opening, closing in zip(tokens[::2], tokens[1::2], strict=True):
        last = min(TOP_HEADING + ranks[opening.tag], last + 1, 6)
        opening.tag = closing.tag = f"h{last}"


# --- parameters of a request -----------------------------------------------------------------------------


def known(text: str, form: Any) -> str:
    """An id or name from the path; raises the problem `not-found` where it has not the form of one."""
    try:
        identifier: str = TypeAdapter(form).validate_python(text)
    except ValidationError:
        raise Problem("not-found", "There is nothing at this address.") from None
    return identifier


def after(name: str = "after") -> str | None:
    """The cursor from which a list continues; a value that cannot be a cursor counts as none."""
    text = request.args.get(name, "")
    return text if text.isascii() and text.isprintable() and 0 < len(text) < 60 else None
