"""What templates and routes of the pages share: values as text, Markdown as HTML, parameters, lists with filters."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any, ClassVar, TypeVar, get_args
from urllib.parse import urlencode

from flask import Response, request
from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token
from markupsafe import Markup
from pydantic import TypeAdapter, ValidationError
from sqlalchemy.orm import Session

from api.problems import Problem
from bimt_engine.analysis.statements import wording
from bimt_engine.analysis.statements.network import FIGURE_LABELS
from bimt_engine.analysis.statements.wording import counted, number
from bimt_engine.data.registry import KINDS
from bimt_engine.spec import Method
from store import datasets

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


def typeset(text: str, *, formula: bool = False) -> Markup:
    """A name, a formula or a sentence with indices lowered and powers raised, as figures have it.

    Its text, for a search or a screen reader, stays as people write it: x4.
    """
    tags = {"": "{}", "sub": "<sub>{}</sub>", "sup": "<sup>{}</sup>"}
    return Markup().join(Markup(tags[how]).format(part) for part, how in wording.typeset(text, formula=formula))


def mathematics(text: str) -> Markup:
    """`(x1 + x3)**3*sin(pi*x4)` with raised powers, lowered indices, a dot for times, π and √."""
    return typeset(text, formula=True)


def code(text: str) -> Markup:
    """Escaped text in which `backticks` mark code. (`sentence` in api.js does the same.)"""
    return _coded(text, Markup.escape)


def said(text: str) -> Markup:
    """A sentence of the evidence: typeset, and `backticks` mark code."""
    return _coded(text, typeset)


def _coded(text: str, plain: Callable[[str], Markup]) -> Markup:
    pieces = enumerate(re.split(r"`([^`]+)`", text))
    return Markup().join(Markup("<code>{}</code>").format(part) if at % 2 else plain(part) for at, part in pieces)


def figure_name(name: str) -> str:
    """The name of a figure file as a title: `prune-curve.svg` is Prune curve."""
    stem = name.rpartition(".")[0] or name
    return stem.replace("-", " ").replace("_", " ").capitalize()


def data_label(kind: str | None) -> str:
    """The label of a kind of data set; of one that is no longer made, its name."""
    return KINDS[kind].label if kind in KINDS else (kind or "–").replace("_", " ")


def method_name(method: str | None) -> str:
    """A method of training as it is written."""
    return (method or "–").upper().replace("_", " ")


METHODS = {method: method_name(method) for method in get_args(Method)}


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


# --- lists that are filtered, sorted, grouped and saved as a file ---------------------------------------

MOST_LISTED = 100  # rows on one page of jobs or models
MOST_ROWS = 10_000  # of a file
Row = TypeVar("Row")


@dataclass(frozen=True, kw_only=True)
class View:
    """What the address of a list asks for; what it asks for in vain is as if it had not been asked.

    A field that has its default is left out of the address, so a view can be sent and returned to.

    q        words that are searched for
    sort     name of the column that it is sorted by; empty: the newest first
    falling  whether the greatest stand first
    group    what stands together
    path     of the page
    as_what  fields that say how rows are shown, not which
    """

    path: ClassVar[str]
    as_what: ClassVar[frozenset[str]] = frozenset({"sort", "falling", "group"})

    q: str = ""
    sort: str = ""
    falling: bool = False
    group: str = "none"

    def address(self, path: str = "", **other: Any) -> str:
        """The address of this view, with these fields changed."""
        plain = {field.name: field.default for field in fields(self)}
        kept = {
            name: "1" if value is True else value
            for name, value in {**vars(self), **other}.items()
            if value not in (plain.get(name), "", False, ())
        }
        return (path or self.path) + (f"?{urlencode(kept, doseq=True)}" if kept else "")

    @property
    def is_narrowed(self) -> bool:
        """Whether it shows another choice of rows than it would without being asked."""
        which = (field for field in fields(self) if field.name not in self.as_what)
        return any(getattr(self, field.name) != field.default for field in which)


def one_of(name: str, words: Iterable[str], otherwise: str = "") -> str:
    """A parameter of the request that is one of some words."""
    return given if (given := request.args.get(name, "")) in words else otherwise


def arranged(sorts: Iterable[str], groups: Iterable[str], group: str = "none") -> dict[str, Any]:
    """The fields of a View that every list has, from the request."""
    return {
        "q": request.args.get("q", "")[:120].strip(),
        "sort": one_of("sort", sorts),
        "falling": request.args.get("falling") == "1",
        "group": one_of("group", groups, group),
    }


def together(found: Iterable[Row], by: Callable[[Row], str] | str) -> dict[str, list[Row]]:
    """The rows by what they share, in the order in which these begin; all without a name where that is `none`.

    by   tells it of a row, or the name of the attribute that does
    """
    groups: dict[str, list[Row]] = {}
    for row in found:
        shared = by(row) if callable(by) else "" if by == "none" else getattr(row, by)
        groups.setdefault(shared, []).append(row)
    return groups


def data_choices(rows: Session, team_id: str) -> dict[str, str]:
    """What lists can be narrowed to: the team's data sets by id, and the kinds that are made, each with its name.

    Without those that were refused, or are not checked yet: nothing was trained on them.
    """
    ours = {dataset.id: dataset.name for dataset in datasets.page(rows, team_id, state="ready", limit=100).rows}
    return ours | {name: kind.label for name, kind in KINDS.items() if not kind.uploaded}


def csv_file(name: str, columns: Mapping[str, Callable[[Any], Any]], found: Iterable[Any]) -> Response:
    """Rows as a CSV file to be saved; `columns`: heading → what stands below it."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_cell(of(row)) for of in columns.values()] for row in found)
    response = Response(text.getvalue(), content_type="text/csv; charset=utf-8")
    response.headers["Content-Disposition"] = f'attachment; filename="{name}"'
    return response


def _cell(value: Any) -> Any:
    """As it stands in the file. A name that a spreadsheet would compute is quoted: it is the word of a person."""
    if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")):
        return f"'{value}"
    return value.isoformat() if hasattr(value, "isoformat") else value
