"""Values as text, and Markdown as HTML in which nothing can run."""

from __future__ import annotations

import sys
from html.parser import HTMLParser

import pytest

from api.pages.filters import markdown

# --- Markdown ------------------------------------------------------------------------------------------

TAGS = {"h3", "h4", "h5", "h6", "p", "em", "strong", "code", "pre", "a", "ul", "ol", "li", "blockquote", "hr", "br"}
TAGS |= {"table", "thead", "tbody", "tr", "th", "td"}


class Elements(HTMLParser):
    """Every start tag of a document with its attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


@pytest.mark.parametrize(
    "text",
    [
        "<script>alert(1)</script>",
        "text <script>alert(1)</script> text",
        "[x](javascript:alert(1))",
        "[x](JaVaScRiPt:alert(1))",
        "[x](java&#115;cript:alert(1))",
        "[x](&#x6A;avascript:alert(1))",
        "[x](java\tscript:alert(1))",
        "[x](<javascript:alert(1)>)",
        "[x](data:text/html;base64,PHNjcmlwdD4=)",
        "[x](data:image/png;base64,AAAA)",
        "[x](vbscript:msgbox)",
        "[x](file:///etc/passwd)",
        "[x](//evil.example/)",
        "[x](/login)",
        "[x]\n\n[x]: javascript:alert(1)",
        "<javascript:alert(1)>",
        "<data:text/html,x>",
        "![x](https://evil.example/pixel.png)",
        "![x](javascript:alert(1))",
        "![x][y]\n\n[y]: https://evil.example/pixel.png",
        '[x](https://a.b/"onmouseover="alert)',
        '[x](https://a.b "title" onmouseover="alert")',
        "```\n</pre><script>\n```",
        "```<script>\nx\n```",
        "    </pre><script>",
        "`<script>`",
        "# <b>",
        "- <i>\n> <u>",
        "| a | b |\n|:-:|--:|\n| <img src=x onerror=alert(1)> | [x](javascript:alert(1)) |",
        "*<b>*_<i onclick=alert(1)>_",
        "<!-- --><![CDATA[x]]><?php?>",
    ],
)
def test_nothing_in_a_card_can_run_or_load_or_lead_to_another_scheme(text: str) -> None:
    for tag, attributes in Elements(markdown(text)).found:
        assert tag in TAGS
        assert set(attributes) <= {"href", "title", "rel", "tabindex", "aria-label", "scope", "start"}
        if tag == "a":
            assert str(attributes["href"]).startswith(("http://", "https://", "mailto:"))
            assert attributes["rel"] == "noopener noreferrer nofollow"


def test_a_card_is_shown_with_headings_lists_code_and_links() -> None:
    shown = str(markdown("# One\n\nA *b* **c** `d*e*`\nand [f](https://g.org/h).\n\n1. first\n2. second\n\n> said"))
    assert "<h3>One</h3>" in shown
    assert "<p>A <em>b</em> <strong>c</strong> <code>d*e*</code>" in shown
    assert '<a href="https://g.org/h" rel="noopener noreferrer nofollow">f</a>' in shown
    assert "<ol>\n<li>first</li>\n<li>second</li>\n</ol>" in shown
    assert "<blockquote>\n<p>said</p>\n</blockquote>" in shown


def test_emphasis_can_be_nested_and_code_keeps_its_letters() -> None:
    assert str(markdown("**a *b* c**")) == "<p><strong>a <em>b</em> c</strong></p>\n"
    assert str(markdown("***a***")) == "<p><em><strong>a</strong></em></p>\n"
    assert str(markdown("`**a** <b>`")) == "<p><code>**a** &lt;b&gt;</code></p>\n"
    assert str(markdown("```python\n*a* < b\n```")) == '<pre tabindex="0" aria-label="Code">*a* &lt; b</pre>\n'


def test_an_address_in_angle_brackets_is_a_link_and_a_bare_one_is_text() -> None:
    link = '<a href="https://a.b/c?d=e&amp;f" rel="noopener noreferrer nofollow">https://a.b/c?d=e&amp;f</a>'
    assert str(markdown("<https://a.b/c?d=e&f>")) == f"<p>{link}</p>\n"
    assert "mailto:ada@example.org" in markdown("<ada@example.org>")
    assert str(markdown("https://a.b")) == "<p>https://a.b</p>\n"


def test_a_table_has_named_columns_and_no_inline_style() -> None:
    shown = str(markdown("| a | b |\n|:-:|--:|\n| 1 | *2* |"))
    assert '<th scope="col">a</th>' in shown
    assert "<td><em>2</em></td>" in shown
    assert "style" not in shown


@pytest.mark.parametrize(
    ("text", "levels"),
    [
        ("# a\n## b\n### c", [3, 4, 5]),
        ("## a\n#### b\n## c", [3, 4, 3]),
        ("### a\n# b\n## c", [3, 3, 4]),
        ("# a\n## b\n### c\n#### d\n##### e\n###### f", [3, 4, 5, 6, 6, 6]),
    ],
)
def test_headings_begin_below_those_of_the_page_and_leave_no_level_out(text: str, levels: list[int]) -> None:
    assert [int(tag[1]) for tag, _ in Elements(markdown(text)).found if tag[0] == "h"] == levels


def calls_of_markdown(text: str) -> int:
    """How many functions are called to show this text: a measure of work that does not depend on the machine."""
    calls = 0

    def count(frame: object, event: str, argument: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        markdown(text)
    finally:
        sys.setprofile(before)
    return calls


@pytest.mark.parametrize(
    "piece",
    [
        *("*", "[", "![", "**a", "`", "`a``", "- ", "> ", "1. ", "- a\n", "```\n", "[a](https://b", "](", "<a", "*a_ "),
        *("[a]: b\n", "|a|\n|-|\n|a|\n", "<http://", "&", "\\"),
    ],
)
def test_the_work_for_a_hostile_card_grows_in_proportion_to_its_length(piece: str) -> None:
    count = 4_000 // len(piece)
    assert calls_of_markdown(piece * 2 * count) < 3 * calls_of_markdown(piece * count) + 10_000
