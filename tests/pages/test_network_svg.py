"""The network as a picture and as text."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable
from dataclasses import replace
from xml.etree import ElementTree

import pytest
from markupsafe import escape

from api.pages.network_svg import MARGIN, WIDTH, network_picture, picture_file
from bimt_engine.analysis.graph import Connection, Graph, Neuron
from bimt_engine.analysis.statements.network import network_statement
from bimt_engine.figures.layout import lay_out
from tests.api.makers import two_modules
from tests.pages.conftest import Site, Visitor


def test_a_network_that_is_one_piece_is_told_as_one() -> None:
    graph = two_modules()
    assert "It falls into 2 modules" in network_statement(graph)
    assert "falls into" not in network_statement(graph.with_modules({neuron.id: "A" for neuron in graph.neurons}))


def test_names_with_punctuation_stay_whole_in_the_picture_and_in_its_text() -> None:
    names = ("Temp: inside", "a; b", "x, y", '"q"', "<b>", "long-name-with-hyphens")
    neurons = [
        Neuron(f"input:{i}", "input", i, i, position=(float(i),), name=name, module="A") for i, name in enumerate(names)
    ]
    neurons.append(Neuron("output:0", "output", 0, 0, position=(0.0,), name="-y", module="A"))
    graph = Graph(tuple(neurons), tuple(Connection(n.id, "output:0", -0.5) for n in neurons[:-1]))
    shown = str(network_picture(graph, title="Net"))
    for name in names:
        assert f"<title>{escape(name)}, module A</title>" in shown
        assert f"<title>{escape(name)} → -y: weight −0.5</title>" in shown
    assert escape(network_statement(graph)) in shown


def test_the_picture_of_the_page_has_the_layout_of_the_figures() -> None:
    graph = two_modules()
    layout = lay_out(graph)
    shown = ElementTree.fromstring(str(network_picture(graph, title="Net")))
    drawn = {
        each.get("data-neuron"): (float(circle.get("cx", 0)), float(circle.get("cy", 0)))
        for each in shown.iter("g")
        for circle in each.iter("circle")
    }
    assert {spot[0] for spot in layout.spots} <= drawn.keys()
    for (neuron, _, _), place in layout.spots.items():
        (x, y), row = drawn[neuron], drawn["hidden1:0"][1] - drawn["input:0"][1]
        assert x == pytest.approx(MARGIN + (WIDTH - 2 * MARGIN) * place.x, abs=0.1)
        assert y == pytest.approx(drawn["input:0"][1] + place.y * row, abs=0.2)


def test_a_thumbnail_is_a_document_that_an_xml_parser_reads_whatever_the_names_are() -> None:
    graph = two_modules()
    named = tuple(replace(n, name=f'<{n.name} "&"> --') if n.name else n for n in graph.neurons)
    for each in (graph, replace(graph, neurons=named)):
        drawn = picture_file(each)
        assert drawn is not None
        svg = ElementTree.fromstring(drawn)
        assert len(svg.findall(".//{*}line")) == len(graph.connections)
        assert "prefers-color-scheme:dark" in drawn


def folded(layers: dict[str, int], ends: list[tuple[str, str, float]], names: dict[str, str] | None = None) -> Graph:
    """A graph with neurons `layer:slot` of these layers, and a connection for each (source, target, weight)."""
    named = names or {}
    neurons = tuple(
        Neuron(f"{layer}:{i}", layer, i, i, position=((i + 0.5) / size,), name=named.get(f"{layer}:{i}", ""))
        for layer, size in layers.items()
        for i in range(size)
    )
    connections = tuple(
        Connection(source, target, weight, parameter="w", row=number)
        for number, (source, target, weight) in enumerate(ends)
    )
    return Graph(neurons, connections, {"layers": [{"name": n, "neurons": s} for n, s in layers.items()]})


def test_what_stays_in_a_layer_is_bent_and_has_an_arrow_and_several_between_two_neurons_lie_apart() -> None:
    layers = {"input": 1, "hidden1": 3, "output": 1}
    ends = [
        ("input:0", "hidden1:0", 1.0),
        ("input:0", "hidden1:0", 0.5),  # two gates
        ("hidden1:0", "hidden1:0", 1.0),
        ("hidden1:0", "hidden1:2", 1.0),
        ("hidden1:2", "hidden1:0", 1.0),
        ("hidden1:2", "output:0", 1.0),
    ]
    drawn = ElementTree.fromstring(str(network_picture(folded(layers, ends), title="Net", grips=False)))
    paths = [path.get("d", "") for path in drawn.iter("path")]
    assert len(list(drawn.iter("line"))) == 1
    assert len(set(paths)) == len(paths) == 5
    assert sum(path.count("M") == 2 for path in paths) == 3  # with an arrow
    assert sum("C" in path for path in paths) == 1  # the loop


def test_two_neurons_are_not_called_alike() -> None:
    layers = {"input": 2, "output": 1}
    names = {"input:0": "x", "input:1": "y", "output:0": "y"}
    shown = str(network_picture(folded(layers, [("input:0", "output:0", 1.0)], names), title="Net"))
    assert "<title>y (output)</title>" in shown
    assert "<title>x → y (output): weight 1</title>" in shown
    assert ">y</text>" in shown


def test_the_lightest_connection_can_be_seen_in_a_thumbnail() -> None:
    graph = folded({"input": 2, "output": 1}, [("input:0", "output:0", 5.0), ("input:1", "output:0", 0.001)])
    drawn = ElementTree.fromstring(str(picture_file(graph)))
    lines = list(drawn.iter("{http://www.w3.org/2000/svg}line"))
    assert min(float(line.get("stroke-width", 0)) for line in lines) >= 2.5  # of 900: a pixel at 350
    assert min(float(line.get("stroke-opacity", 0)) for line in lines) >= 0.65


def test_of_a_large_network_the_heaviest_connections_are_drawn_and_its_words_are_about_all() -> None:
    layers = {"input": 60, "output": 50}
    ends = [(f"input:{i}", f"output:{j}", (1 + 7 * i + j) / 500) for i in range(60) for j in range(50)]
    graph = folded(layers, ends)
    for picture in map(str, (picture_file(graph), network_picture(graph, title="wide", max_connections=1_000))):
        assert len(re.findall('class="connection', picture)) == 1_000
        assert 'class="neuron unused' not in picture  # one whose connections are all left out is still in use
        assert "3000 connections" in picture
        assert " data-painted=" not in picture  # few enough for elements
    whole = str(network_picture(graph, title="wide"))
    assert " data-painted=" in whole
    widths = [float(width) for width in re.findall('stroke-width="([0-9.]+)"', whole)]
    assert min(widths) < 0.6 < 2.4 < max(widths)  # where many lie over one another, the lightest hide nothing


def test_a_long_name_stands_on_several_lines_and_keeps_its_unit() -> None:
    long = "Mean outside air temperature at the roof weather station [°C]"
    names = {f"input:{i}": long for i in range(5)}  # neither takes the room of another
    graph = folded({"input": 5, "output": 1}, [(f"input:{i}", "output:0", 1.0) for i in range(5)], names)
    drawn = ElementTree.fromstring(str(network_picture(graph, title="Net")))
    found = [each for each in drawn.iter("text") if each.get("class", "").endswith("lines")]
    for name in found:
        lines = [str(span.text) for span in name]
        assert (len(lines), lines[0][:12], lines[2][:2], lines[2][-4:]) == (3, "Mean outside", "… ", "[°C]")
    assert len(found) == 5
    assert long in [title.text for title in drawn.findall(".//{*}circle/{*}title")]
    assert "tspan" not in str(picture_file(graph))


def test_neurons_of_a_sheet_do_not_touch() -> None:
    spots = [((i + 0.5) / 10, (j + 0.5) / 10) for j in range(10) for i in range(10)]
    sheet = tuple(Neuron(f"input:{n}", "input", n, n, position=at) for n, at in enumerate(spots))
    graph = Graph(sheet, (), {"layers": [{"name": "input", "neurons": 100}]})
    drawn = ElementTree.fromstring(str(picture_file(graph)))
    circles = [[float(each.get(name, 0)) for name in ("cx", "cy", "r")] for each in drawn.findall(".//{*}circle")]
    assert all(math.dist(a[:2], b[:2]) > a[2] + b[2] for a, b in itertools.combinations(circles, 2))


def test_sheets_lie_within_the_picture_and_a_wall_of_names_is_left_out() -> None:
    side = 8
    places = [(column / (side - 1), row / (side - 1)) for row in range(side) for column in range(side)]
    neurons = tuple(
        Neuron(f"{layer}:{i}", layer, i, i, position=place, name=f"pixel[{i}]" if layer == "input" else "")
        for layer in ("input", "hidden1", "output")
        for i, place in enumerate(places)
    )
    connections = tuple(Connection(f"input:{i}", f"hidden1:{i}", 1.0, parameter="w", row=i) for i in range(side**2))
    drawn = ElementTree.fromstring(str(network_picture(Graph(neurons, connections), title="Net")))
    _, _, width, height = map(float, drawn.get("viewBox", "").split())
    for circle in drawn.iter("circle"):
        assert 0 < float(circle.get("cx", 0)) < width
        assert 0 < float(circle.get("cy", 0)) < height
    assert [text for text in drawn.iter("text") if "label" in text.get("class", "")] == []


NAMES = (
    "a very long name of a column",
    "MWMWMWMWMWMWMWMW",
    "illicit",
    "Temp: inside, °C",
    "x12",
    "日本語の長い列の名前です",
)


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("live", [40, 8, 3])
def test_no_name_lies_over_another_however_long_they_are(
    visit: Callable[..., Visitor], site: Site, width: int, live: int
) -> None:
    """`live`: how many of 40 inputs are connected; the names of the others give way to theirs."""
    names = {f"input:{i}": f"{NAMES[i % len(NAMES)]} {i}"[-20:] for i in range(40)} | {
        f"output:{i}": f"{NAMES[i % len(NAMES)]} {i}" for i in range(6)
    }
    spread = [round(i * 39 / (live - 1)) for i in range(live)]
    ends = [(f"input:{i}", f"output:{i % 6}", 1.0) for i in spread]
    drawn = network_picture(folded({"input": 40, "output": 6}, ends, names), title="Net")
    visitor = visit("reader", viewport={"width": width, "height": 900})
    visitor.go(f"/runs/{site.runs[0]}")
    boxes = visitor.page.evaluate(
        """(svg) => {
        document.querySelector("svg.network").outerHTML = svg;
        const labels = [...document.querySelectorAll("svg.network .label")];
        const sides = ["left", "right", "top", "bottom"];
        return labels
            .filter((each) => getComputedStyle(each).display !== "none")
            .map((each) => [each.textContent, ...sides.map((side) => each.getBoundingClientRect()[side])]);
    }""",
        str(drawn),
    )
    assert len(boxes) >= 3
    for (one, left, right, top, bottom), (other, *edges) in itertools.combinations(boxes, 2):
        across = min(right, edges[1]) - max(left, edges[0])
        down = min(bottom, edges[3]) - max(top, edges[2])
        assert across <= 0.5 or down <= 2, f"{one} lies over {other}"


def test_used_inputs_and_outputs_have_names_before_unused_inputs() -> None:
    used = (18, 19, 20, 41)
    names = {f"input:{i}": f"column {i}" for i in range(49)} | {f"output:{i}": f"class {i}" for i in range(10)}
    ends = [(f"input:{i}", f"output:{n}", 1.0) for i in used for n in range(10)]
    drawn = ElementTree.fromstring(str(network_picture(folded({"input": 49, "output": 10}, ends, names), title="Net")))
    shown = {each.text for each in drawn.iter("text") if each.get("class", "").startswith("label")}
    assert {f"column {i}" for i in used} <= shown
    assert {f"class {i}" for i in range(10)} <= shown


def test_a_thumbnail_tells_what_people_call_its_parts() -> None:
    names = {"B": {"name": "sine of x4"}, "A": {"name": "cube <b>"}, "A1": {"name": ""}}
    plain, named = (ElementTree.fromstring(str(picture_file(two_modules(), given))) for given in ({}, names))
    assert [text.text for text in named.findall(".//{*}text")][-1] == "A: cube <b>, B: sine of x₄"
    assert len(plain.findall(".//{*}text")) == len(named.findall(".//{*}text")) - 1
    height, high = (float(each.get("viewBox", "").split()[3]) for each in (plain, named))
    assert height < float(named.findall(".//{*}text")[-1].get("y", 0)) < high
