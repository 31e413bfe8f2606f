"""The network as a picture and as text."""

from __future__ import annotations

from dataclasses import replace
from xml.etree import ElementTree

import pytest
from markupsafe import escape

from api.pages.network_svg import MARGIN, WIDTH, network_picture, picture_file
from bimt_engine.analysis.graph import Connection, Graph, Neuron
from bimt_engine.analysis.statements import network_statement
from bimt_engine.figures.layout import lay_out
from tests.api.makers import two_modules


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
