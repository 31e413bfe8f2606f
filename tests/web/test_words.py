"""What pages make of text and numbers, without a browser."""

from __future__ import annotations

import time

import pytest

from api.web.formulas import formulas, mathematics, share
from api.web.markdown import written
from api.web.picture import in_words
from tests.api.makers import two_modules


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("(x1 + x3)**3", "(x<sub>1</sub> + x<sub>3</sub>)<sup>3</sup>"),
        ("-0.5*x2**2 + sin(pi*x4)", "−0.5·x<sub>2</sub><sup>2</sup> + sin(π·x<sub>4</sub>)"),
        ("x1**(-1/2)*sqrt(y)", "x<sub>1</sub><sup>−1/2</sup>·√(y)"),
        ("a<b>", "a&lt;b&gt;"),
    ],
)
def test_a_formula_is_written_as_people_write_it(text: str, shown: str) -> None:
    assert str(mathematics(text)) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (1.0, "1"),
        (0.99995, "0.99995"),
        (0.9999999, "0.9999999"),
        (0.5, "0.5"),
        (-1.7e17, "below 0, worse than a constant"),
        (float("-inf"), "below 0, worse than a constant"),
    ],
)
def test_what_is_nearly_one_is_not_shown_as_one(value: float, shown: str) -> None:
    assert share(value) == shown


@pytest.mark.parametrize(
    "text",
    [
        "<script>alert(1)</script>",
        "[x](javascript:alert(1))",
        '[x](https://a.b/"onmouseover="alert)',
        "```\n</pre><script>\n```",
        "# <b>",
        "- <i>\n> <u>",
    ],
)
def test_nothing_in_a_card_can_run(text: str) -> None:
    shown = str(written(text))
    for tag in ("<script", "<b>", "<i>", "<u>", 'href="javascript', 'onmouseover="'):
        assert tag not in shown


def test_a_card_is_shown_with_headings_lists_code_and_links() -> None:
    shown = str(written("# One\n\nA *b* **c** `d*e*`\nand [f](https://g.org/h).\n\n1. first\n2. second\n\n> said"))
    assert "<h3>One</h3>" in shown
    assert "<p>A <em>b</em> <strong>c</strong> <code>d*e*</code>" in shown
    assert '<a href="https://g.org/h" rel="noopener noreferrer nofollow">f</a>' in shown
    assert "<ol><li>first</li><li>second</li></ol>" in shown
    assert "<blockquote><p>said</p></blockquote>" in shown


@pytest.mark.parametrize(
    "text",
    [
        "*" * 50_000,
        "[" * 50_000,
        "**a" * 16_000,
        "`" * 49_999,
        "- " * 25_000,
        "```\n" * 12_500,
        "[a](https://b" * 3_000,
    ],
)
def test_a_hostile_card_takes_no_time(text: str) -> None:
    began = time.perf_counter()
    written(text)
    assert time.perf_counter() - began < 1.0


def test_a_network_that_is_one_piece_is_told_as_one() -> None:
    graph = two_modules()
    assert "It falls into 2 modules" in in_words(graph)
    assert "falls into" not in in_words(graph.with_modules({neuron.id: "A" for neuron in graph.neurons}))


def test_a_formula_says_in_which_units_it_is() -> None:
    found = {"text": "flow**2 - 0.7*ph", "accepted": True, "r2": 0.9999, "r2_of_targets": -3.0, "reason": None}
    output = {"output": "colour", "formula": found, "symmetry": {}}
    (shown,) = formulas({"outputs": [output], "units": "data"})
    assert "in the units of the data" in shown.evidence
    assert "the data worse than a constant" in shown.evidence
    (old,) = formulas({"outputs": [output]})
    assert "standardised" in old.evidence


def test_of_an_output_that_is_not_predicted_the_page_says_so() -> None:
    reason = "the network does not predict it: whatever the inputs are, it gives the same answer"
    formula = {"text": None, "accepted": False, "reason": reason, "predicted": False}
    (shown,) = formulas({"outputs": [{"output": "noise", "formula": formula, "symmetry": {}}], "units": "data"})
    assert (shown.text, shown.evidence) == (None, f"Nothing is read out: {reason}.")
