"""Cards and notes as people see them: a small part of Markdown, in which nothing can run.

Headings, paragraphs, lists, quotes, code, emphasis, links to http(s). Everything else is shown as it was written.
Reading takes one pass over the lines and a bounded look at each: a hostile text takes no longer than a kind one.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from markupsafe import Markup, escape

LONGEST_LINE = 4_000  # characters in which emphasis and links are looked for; a longer line is plain text
HEADING = 3  # of all headings: a card stands below a heading of its page

_INLINE = re.compile(
    r"`(?P<code>[^`]{1,500})`"
    r"|\*\*(?P<strong>[^*]{1,500})\*\*"
    r"|\*(?P<em>[^*\s][^*]{0,500})\*"
    r"|\[(?P<words>[^\[\]]{1,300})\]\((?P<address>https?://[^\s()<>\"]{1,1000})\)"
)
_ITEM = re.compile(r"\s{0,3}(?:[-*+]|(?P<number>\d{1,4})[.)])\s+(?P<text>.*)")
_HEADING = re.compile(r"(?P<depth>#{1,6})\s+(?P<text>.*?)\s*#*\s*$")


def written(text: str) -> Markup:
    """The text as HTML."""
    out: list[Markup] = []
    lines = text.replace("\r\n", "\n").split("\n")
    at = 0
    while at < len(lines):
        line = lines[at]
        if line.startswith("```"):
            end = next((i for i in range(at + 1, len(lines)) if lines[i].startswith("```")), len(lines))
            code = "\n".join(lines[at + 1 : end])
            out.append(Markup('<pre tabindex="0" aria-label="Code">{}</pre>').format(code))
            at = end + 1
        elif heading := _HEADING.match(line[:LONGEST_LINE]):
            out.append(Markup("<h{0}>{1}</h{0}>").format(HEADING, _inline(heading["text"])))
            at += 1
        elif _ITEM.match(line):
            block, at = _block(lines, at, lambda each: _ITEM.match(each) is not None)
            items = [_ITEM.match(each) for each in block]
            kind = "ol" if items[0] and items[0]["number"] else "ul"
            shown = Markup("").join(Markup("<li>{}</li>").format(_inline(item["text"])) for item in items if item)
            out.append(Markup("<{0}>{1}</{0}>").format(Markup(kind), shown))
        elif line.startswith(">"):
            block, at = _block(lines, at, lambda each: each.startswith(">"))
            quoted = " ".join(each.lstrip("> ") for each in block)
            out.append(Markup("<blockquote><p>{}</p></blockquote>").format(_inline(quoted)))
        elif not line.strip():
            at += 1
        else:
            block, at = _block(lines, at, _continues)
            out.append(Markup("<p>{}</p>").format(_inline("\n".join(block))))
    return Markup("\n").join(out)


def _block(lines: list[str], at: int, belongs: Callable[[str], bool]) -> tuple[list[str], int]:
    """The lines from here on that belong together, at least one, and where the next begins."""
    end = at + 1
    while end < len(lines) and belongs(lines[end]):
        end += 1
    return lines[at:end], end


def _continues(line: str) -> bool:
    """Whether a paragraph goes on in this line."""
    return bool(line.strip()) and not line.startswith(("```", ">", "#")) and _ITEM.match(line) is None


def _inline(text: str) -> Markup:
    if len(text) > LONGEST_LINE:
        return escape(text)
    out, last = Markup(), 0
    for found in _INLINE.finditer(text):
        out += escape(text[last : found.start()])
        if found["code"] is not None:
            out += Markup("<code>{}</code>").format(found["code"])
        elif found["words"] is not None:
            link = Markup('<a href="{}" rel="noopener noreferrer nofollow">{}</a>')
            out += link.format(found["address"], found["words"])
        else:
            tag = "strong" if found["strong"] is not None else "em"
            out += Markup("<{0}>{1}</{0}>").format(Markup(tag), found[tag])
        last = found.end()
    return out + escape(text[last:])
