"""The network as a picture and as text."""

from __future__ import annotations

from dataclasses import replace
from xml.etree import ElementTree

from markupsafe import escape

from api.pages.network_svg import network_picture, picture_file
from bimt_engine.analysis.graph import Connection, Graph, Neuron
from bimt_engine.analysis.statements import network_statement
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


def test_a_thumbnail_is_a_document_that_an_xml_parser_reads_whatever_the_names_are() -> None:
    graph = two_modules()
    named = tuple(replace(n, name=f'<{n.name} "&"> --') if n.name else n for n in graph.neurons)
    for each in (graph, replace(graph, neurons=named)):
        drawn = picture_file(each)
        assert drawn is not None
        svg = ElementTree.fromstring(drawn)
        assert len(svg.findall(".//{*}line")) == len(graph.connections)
        assert "prefers-color-scheme:dark" in drawn
