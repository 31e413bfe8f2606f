"""Documents of the evidence as cards, tables and sentences."""

from __future__ import annotations

import json
import re
import subprocess
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

import playwright
import pytest
from matplotlib.figure import Figure

from api.pages.charts import LETTER, SMALL, WIDE, Axis, Frame, Series, Trace, line_chart, parallel_axes
from api.pages.filters import code, mathematics, said, typeset
from api.pages.interior import interior
from api.pages.network_svg import names_given
from api.pages.presenters import effect_matrices, formulas, headline, learning_chart, metrics, modules, outputs
from api.pages.runs import CHART, quantity
from bimt_engine.analysis.statements import wording
from bimt_engine.analysis.statements.interior import cut_statement
from bimt_engine.analysis.statements.wording import share, typeset_plainly
from bimt_engine.figures.style import pretty_words, to_svg
from store.tables import Run
from tests.api.makers import interior_document

API_SCRIPT = Path(__file__).parents[2] / "api/pages/static/js/api.js"
AWKWARD = ("Temp: inside", "a; b", "x, y", '"q"', "<b>")  # names of columns, which may be anything


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("(x1 + x3)**3", "(x<sub>1</sub> + x<sub>3</sub>)³"),
        ("-0.5*x2**2 + sin(pi*x4)", "−0.5·x<sub>2</sub>² + sin(π·x<sub>4</sub>)"),
        ("x1**(-1/2)*sqrt(y)", "x<sub>1</sub><sup>−1/2</sup>·√(y)"),
        ("a<b>", "a&lt;b&gt;"),
    ],
)
def test_a_formula_is_written_as_people_write_it(text: str, shown: str) -> None:
    assert str(mathematics(text)) == shown


# In words, where names come from people: text, as HTML, as letters of the network's picture, as figures have it.
WORDS = [
    ("x4", "x<sub>4</sub>", "x₄", "$x_{4}$"),
    ("computes x2^2", "computes x<sub>2</sub>²", "computes x₂²", "computes $x_{2}$²"),
    ("adds x2**2*x11 to y1", "adds x<sub>2</sub>²·x<sub>11</sub> to y<sub>1</sub>", "adds x₂²·x₁₁ to y₁", None),
    ("sin(pi·x4)", "sin(π·x<sub>4</sub>)", "sin(π·x₄)", "sin(π·$x_{4}$)"),
    ("sqrt(x1)^-1", "√(x<sub>1</sub>)⁻¹", "√(x₁)⁻¹", None),
    ("x1^(-1/2)", "x<sub>1</sub><sup>−1/2</sup>", "x₁^(−1/2)", "$x_{1}$$^{−1/2}$"),
    ("x1_mean, max1, pi, a*b, v1.x2, Temp <1>", "x1_mean, max1, pi, a*b, v1.x2, Temp &lt;1&gt;", None, None),
    ("$x1", "$x<sub>1</sub>", "$x₁", r"\$$x_{1}$"),
]


@pytest.mark.parametrize(("text", "page", "picture", "figure"), WORDS)
def test_the_page_and_its_figures_have_one_rule_for_indices_and_powers(
    text: str, page: str, picture: str | None, figure: str | None
) -> None:
    assert str(typeset(text)) == page
    assert typeset_plainly(text) == (picture or text)
    if figure is not None:
        assert pretty_words(text) == figure
        drawing = Figure()
        drawing.text(0.1, 0.1, pretty_words(text))
        to_svg(drawing)  # it would raise where this is no mathematics


def in_node(script: str) -> Any:
    """What an expression over names of api.js is."""
    node = Path(playwright.__file__).parent / "driver" / "node"
    code = f"import * as api from {json.dumps(API_SCRIPT.as_uri())}; console.log(JSON.stringify({script}));"
    done = subprocess.run([node, "--input-type=module", "-e", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_scripts_of_a_page_set_texts_as_the_server_does() -> None:
    texts = [text for text, *_ in WORDS]
    for text, pieces in zip(texts, in_node(f"{json.dumps(texts)}.map(api.pieces)"), strict=True):
        assert "".join(part if not how else f"<{how}>{part}" for part, how in pieces) == "".join(
            part if not how else f"<{how}>{part}" for part, how in wording.typeset(text)
        )


def test_the_scripts_of_a_page_write_numbers_as_the_server_does() -> None:
    draw = Random(100)
    values = [0.0, 1.0, 0.1, 10.0, 999.6, 1000.5, 4213.0, 20_000.0, 999_999.4, 1e6, 4.2e7, 1e-4, 9.99e-5, 1e-5, 0.99995]
    values += [10 ** draw.uniform(-9, 9) for _ in range(400)] + [1 - 10 ** draw.uniform(-9, 0) for _ in range(100)]
    values += [-value for value in values]
    found = in_node(f"{json.dumps(values)}.map((value) => [api.number(value), api.measured('test_r2', value)])")
    for value, (as_number, as_share) in zip(values, found, strict=True):
        assert (as_number, as_share) == (wording.number(value), wording.measured("test_r2", value)), value


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


def test_a_formula_says_in_which_units_it_is() -> None:
    found = {"text": "flow**2 - 0.7*ph", "accepted": True, "r2": 0.9999, "r2_of_targets": -3.0, "reason": None}
    output = {"output": "colour", "formula": found, "symmetry": {}}
    (shown,) = formulas({"outputs": [output], "units": "data"})
    assert "in the units of the data" in " ".join(shown.statement.evidence)
    assert "the data worse than a constant" in " ".join(shown.statement.evidence)
    (old,) = formulas({"outputs": [output]})
    assert "standardised" in " ".join(old.statement.evidence)


def test_of_an_output_that_is_not_predicted_the_page_says_so() -> None:
    reason = "the network does not predict it: whatever the inputs are, it gives the same answer"
    formula = {"text": None, "accepted": False, "reason": reason, "predicted": False}
    (shown,) = formulas({"outputs": [{"output": "noise", "formula": formula, "symmetry": {}}], "units": "data"})
    assert (shown.text, shown.statement.evidence) == (None, (f"Nothing is read out: {reason}.",))


def test_names_with_punctuation_stay_whole_in_cards_tables_and_headlines() -> None:
    body = {
        "name": "A",
        "inputs": list(AWKWARD[:4]),
        "outputs": [AWKWARD[4]],
        "neurons": ["input:0", "output:0"],
        "connections": 3,
        "effects": {AWKWARD[4]: {"mean": 0.9, "p_holm": 0.01}, AWKWARD[1]: {"mean": 0.0, "p_holm": 1.0}},
        "trained_effect": 0.8,
        "trained_leak": 0.001,
        "supported": True,
    }
    card, _ = modules([body, {"name": "B"}], {})
    assert (card.inputs, card.outputs) == (list(AWKWARD[:4]), [AWKWARD[4]])
    assert card.statements == [
        "Effect 0.90, others < 10⁻¹², p = 0.01 (Holm) in the pruned network, where it is separate by construction.",
        "In the network as trained its neurons move <b> by 0.80 of its variance, others by 0.001 at most.",
    ]
    (matrix,) = effect_matrices([body], "mean")
    assert matrix.targets == [AWKWARD[4], AWKWARD[1]]
    table = outputs([{"output": name, "learnt": True, "pruned": {"r2": 0.9}} for name in AWKWARD])
    assert table is not None
    assert [name for name, _, _ in table.rows] == list(AWKWARD)
    data = {"kind": "uploaded", "task": "regression", "targets": [AWKWARD[2], AWKWARD[1]]}
    assert headline({"dataset": data}) == ["regression of “x, y” and “a; b”"]


def test_effects_of_groups_stand_for_a_module_that_is_the_whole_network_and_below_several() -> None:
    of = {
        "y": {"mean": 1.0, "trained": 1.0, "zero": 1.0, "p_holm": 0.01},
        "z": {"mean": 1.0, "trained": 1.0, "zero": 1.0},
    }
    bodies = [{"name": name, "outputs": ["y"], "effects": of} for name in "AB"]
    inside = [{"name": "A1", "effects": [0.7, 0.2], "trained_effects": [0.6, 0.3]}]
    whole = effect_matrices(bodies[:1], "mean", inside=inside)
    assert [(m.kind, m.parts, [name for name, _ in m.rows]) for m in whole] == [
        ("mean", "group", ["A1"]),
        ("trained", "group", ["A1"]),
    ]
    assert [[cell.value for cell in cells] for m in whole for _, cells in m.rows] == [[0.7, 0.2], [0.6, 0.3]]
    several = effect_matrices(bodies, "mean", inside=inside)
    assert [(m.kind, m.parts, [name for name, _ in m.rows]) for m in several] == [
        ("mean", "module or group", ["A", "B", "A1"]),
        ("zero", "module", ["A", "B"]),
        ("trained", "module or group", ["A", "B", "A1"]),
    ]
    assert [cell.p_holm for _, cells in several[0].rows for cell in cells] == [0.01, None, 0.01, None, None, None]
    cut_off = effect_matrices(bodies[:1], "mean", inside=[inside[0] | {"effects": [0.7]}])
    assert [m.parts for m in cut_off] == ["module"] * 3


def test_why_a_module_is_not_supported_is_a_sentence_of_its_own() -> None:
    effects = {"y": {"mean": 0.9, "p_holm": 0.01}, "z": {"mean": 0.0, "p_holm": 1.0}}
    body = {"name": "A", "inputs": ["x"], "outputs": ["y"], "effects": effects, "supported": False}
    body |= {"trained_effect": 0.2, "trained_leak": 0.0, "all_groups_tried": False, "random_groups": 20}
    card, _ = modules([body, {"name": "B"}], {})
    assert card.statements[-1].startswith("Not supported: in the network as trained, the neurons of A carry only 0.2")


def test_groups_have_the_colours_of_the_picture_and_the_sentences_of_their_document() -> None:
    document = interior_document()
    shown = interior(document, ["A", "B"])
    assert shown is not None
    [partition] = shown.partitions
    assert [(row.name, row.tone, row.reads, row.moves) for row in partition.rows] == [
        ("A1", 1, "x1", "y1"),
        ("A2", 3, "x3", "y1"),  # 2 is that of B
    ]
    assert (partition.is_drawn, partition.statement.verdict, partition.representations) == (True, "supported", False)
    pruned, trained = partition.matrices
    assert pruned.rows == [("A1", [("", 0), ("10⁻⁹", 0)]), ("A2", [("10⁻⁹", 0), ("", 0)])]
    assert trained.rows[0][1][1] == ("0.002", 0)
    assert [matrix.caption.endswith("darker is more.") for matrix in (pruned, trained)] == [
        False,
        False,
    ]  # none is dark
    document["partitions"][0]["interaction"] = [[0.0, 0.02], [0.02, 0.0]]
    document["partitions"][0]["groups"][0]["effects"] = [0.5, 0.2, 0.3]  # more outputs than are named
    changed = interior(document, ["A", "B"])
    assert changed is not None
    assert [row.moves for row in changed.partitions[0].rows] == ["most of all y1", "y1"]
    assert changed.partitions[0].matrices[0].caption.endswith("darker is more.")
    assert shown.cuts == [cut_statement(document["cuts"][0])]
    assert shown.alone == ["A1", "A2"]
    without_picture = interior(document, [])
    assert without_picture is not None
    assert {row.tone for row in without_picture.partitions[0].rows} == {None}
    assert interior(None, []) is None
    for layers, reading in (
        ([{"layer": "hidden 1", "groups": 1, "trees": 1}], "There are no separate groups inside"),
        ([{"layer": "hidden 1", "groups": 0, "trees": 0}], "There is nothing inside"),
        ([], "There is nothing inside"),
    ):
        empty = interior({"layers": layers, "partitions": [], "primary": None, "cuts": []}, [])
        assert empty is not None
        assert empty.reading.startswith(reading)


def test_a_loss_by_which_runs_are_tested_has_a_logarithmic_axis_and_its_name() -> None:
    loss, accuracy = (
        Run(test_metric=0.1, test_metric_name="test_prediction_loss"),
        Run(test_metric=0.9, test_metric_name="test_accuracy"),
    )
    found = [quantity("test_metric", runs) for runs in ([loss, loss], [accuracy], [loss, accuracy])]
    assert [(of.label, of.log) for of in found] == [
        ("test loss", True),
        ("test accuracy", False),
        ("test metric", False),
    ]


def test_while_a_network_trains_its_phases_are_named_where_they_begin() -> None:
    phases = [{"until": 0.5, "cost_strength": 0.001}, {"until": 1.0, "cost_strength": 0.1}]
    history = [{"step": step, "prediction_loss": 1.0} for step in (0, 500)]
    chart = str(learning_chart(history, {"training": {"steps": 1000, "phases": phases}}))
    assert re.search(r'text-anchor="(\w+)">λ 0.1<', chart)[1] == "start"  # type: ignore[index]


def test_a_name_that_several_parts_have_is_said_once() -> None:
    names = {"B": {"name": "sine"}, "A": {"name": "adder"}, "A1": {"name": "adder"}, "C": {"note": "none"}}
    assert names_given(names) == "A and A1: adder, B: sine"


def test_a_sentence_of_the_evidence_is_typeset_and_its_code_is_code() -> None:
    sentence = "Of x1 <b>: try a smaller `evidence.tolerance<` than x2."
    shown = "&lt;b&gt;: try a smaller <code>evidence.tolerance&lt;</code> than "
    assert str(said(sentence)) == f"Of x<sub>1</sub> {shown}x<sub>2</sub>."
    assert str(code(sentence)) == f"Of x1 {shown}x2."


def test_a_module_whose_groups_are_coloured_has_no_colour_of_its_own() -> None:
    (card,) = modules([{"name": "A"}], {"A1": 1, "A2": 2})
    assert card.tone is None


def test_a_module_of_an_older_version_has_its_one_sentence_or_none() -> None:
    whole = "module A reads Temp: inside, decides y; in one piece"
    (card,) = modules([{"name": "A", "reading": whole}], {"A": 3})
    assert (card.statements, card.tone) == (["Module A reads Temp: inside, decides y; in one piece."], 3)
    assert modules([{"name": "A"}], {})[0].statements == []


def test_what_rounding_leaves_of_a_modularity_is_shown_as_zero() -> None:
    run = Run(modularity=-5.55e-17, modules=1)
    assert ("modularity Q", "0") in metrics({}, run)


@pytest.mark.parametrize("frame", [SMALL, WIDE, CHART], ids=["small", "wide", "runs"])
def test_an_axis_has_three_ticks_or_more_and_none_lies_on_another(frame: Frame) -> None:
    draw = Random(100)
    ranges = [(6, 19), (3, 240), (1, 1e4), (0.009, 1.1), (5, 5), (0.9, 1.1), (1e-12, 1e5), (1e-300, 1e300), (5e-324, 1)]
    ranges += [(low, low * 10 ** draw.uniform(0, 9)) for low in (10 ** draw.uniform(-6, 4) for _ in range(200))]
    for low, high in ranges:
        for log in (True, False):
            points = [(low, low), (high, high)] if log else [(0.0, 0.0), (high, high)]
            drawn = line_chart("A", [Series("a", points)], x=Axis("x", log=log), y=Axis("y", log=log), frame=frame)
            across = re.findall(r'class="tick" x="([\d.]+)" y="[\d.]+" text-anchor="middle">([^<]+)', drawn)
            up = re.findall(r'class="tick" x="[\d.]+" y="([\d.]+)" text-anchor="end">', drawn)
            assert min(len(across), len(up)) >= (2 if frame is SMALL else 3) or not log, (low, high)
            ends = [(float(x) - LETTER * len(text) / 2, float(x) + LETTER * len(text) / 2) for x, text in across]
            assert all(end < start for (_, end), (start, _) in pairwise(ends)), (low, high, log)
            assert all(float(a) - float(b) >= 11.5 for a, b in pairwise(up)), (low, high, log)


def test_what_are_counts_has_no_halves_and_a_name_stands_once_in_a_legend() -> None:
    counts = [Trace(str(n), "", "", 1, (float(n), float(n), n / 3)) for n in (6, 7, 19)]
    axes = [("connections", Axis("connections", log=True)), ("modules", Axis("modules")), ("share", Axis("share"))]
    drawn = parallel_axes("A", axes, counts, legend=[("one", 1), ("two", 2), ("one", 3)])
    ticks = [re.findall(r">([\d.]+)</text>", axis) for axis in drawn.split('class="along"')[1:]]
    assert all(len(of) >= 3 for of in ticks)
    assert [tick for of in ticks[:2] for tick in of if "." in tick] == []
    legend = drawn[drawn.index("<ul") :]
    assert (
        re.sub("<span[^>]*tone-(.)[^>]*></span>", r"\1", legend)
        == '<ul class="legend"><li>13one</li><li>2two</li></ul>'
    )


def test_labels_of_marks_that_would_lie_on_each_other_are_left_out() -> None:
    line = Series("loss", [(0.0, 1.0), (1000.0, 0.1)])
    marks = [(0.0, "λ 0.01"), (20.0, "λ 0.02"), (500.0, "λ 0.03"), (990.0, "λ 0.04")]
    drawn = line_chart("Loss", [line], x=Axis("step"), y=Axis("loss"), marks=marks)
    assert [label in drawn for _, label in marks] == [True, False, True, True]
    assert drawn.count('class="mark"') == 4
    # A label stands where what it names begins, to the right of its line, but for one that would leave the picture.
    anchors = re.findall(r'text-anchor="(start|end)">λ', drawn)
    assert anchors == ["start", "start", "end"]


def test_a_label_of_a_mark_gives_way_on_small_screens_alone_where_there_only_is_no_room_for_it() -> None:
    line = Series("loss", [(0.0, 1.0), (1000.0, 0.1)])
    marks = [(0.0, "λ 0.001"), (250.0, "λ 0.01"), (750.0, "λ 0.001")]  # as phases of a training lie
    drawn = line_chart("Loss", [line], x=Axis("step"), y=Axis("loss"), marks=marks, frame=SMALL)
    labels = re.findall(r'class="([\w ]+)" x="[\d.]+" y="\d+" text-anchor="(\w+)">λ', drawn)
    assert labels == [("tick", "start"), ("tick tight", "start"), ("tick", "start")]
