"""What the picture of a network shows: places, widths, signs, modules, names."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.collections import LineCollection
from matplotlib.colors import to_hex

from bimt_engine.analysis.context import AnalysisContext
from bimt_engine.analysis.extraction import extract_graph
from bimt_engine.analysis.graph import Connection, Graph, Neuron, part_numbers
from bimt_engine.figures.layout import lay_out, lay_out_wiring
from bimt_engine.figures.network import MOST, draw_network
from bimt_engine.figures.style import MODULE_COLOURS, NEGATIVE, POSITIVE, letter_colour, module_colour, to_png, to_svg
from tests.engine.figures.makers import (
    GRAPHS,
    gated_graph,
    line_graph,
    sheet_graph,
    token_graph,
    transformer_graph,
)
from tests.engine.makers import build


def strands_of(figure) -> LineCollection:
    (found,) = [c for c in figure.axes[0].collections if isinstance(c, LineCollection) and c.get_zorder() == 2]
    return found


def said(figure) -> list[str]:
    axes = figure.axes[0]
    return [text.get_text() for text in axes.texts] + [t.get_text() for legend in figure.legends for t in legend.texts]


@pytest.mark.parametrize("name", list(GRAPHS))
def test_every_kind_of_graph_is_drawn_in_both_formats(name):
    assert to_png(draw_network(GRAPHS[name], title=name)).startswith(b"\x89PNG")
    assert b"</svg>" in to_svg(draw_network(GRAPHS[name]))


def test_neurons_stand_where_their_slots_lie():
    layout = lay_out(line_graph())
    for neuron in line_graph().neurons:
        row = [r.layer for r in layout.rows].index(neuron.layer)
        at = layout.spots.get((neuron.id, row, 0))
        if at is not None:
            assert (at.x, at.y) == (neuron.position[0], row)
    assert ("input:1", 0, 0) in layout.spots  # an input without connections is shown all the same


def test_sign_is_told_by_colour_and_by_dash():
    strands = strands_of(draw_network(line_graph()))
    for colour, (_, dashes) in zip(strands.get_colors(), strands.get_linestyle(), strict=True):
        assert to_hex(colour[:3]) == (NEGATIVE if dashes else POSITIVE)
    assert sum(bool(dashes) for _, dashes in strands.get_linestyle()) == 2


def test_within_a_row_a_heavier_connection_is_a_wider_line():
    graph = line_graph()
    drawn = strands_of(draw_network(graph))
    width = {
        tuple(np.round(ends.reshape(-1), 6)): w
        for ends, w in zip(drawn.get_segments(), drawn.get_linewidth(), strict=True)
    }
    layout = lay_out(graph)
    by_row: dict[int, list[tuple[float, float]]] = {}
    for strand in layout.strands:
        ends = tuple(np.round(np.array(layout.line(strand)).reshape(-1), 6))
        by_row.setdefault(strand.target[1], []).append((abs(strand.connection.weight), width[ends]))
    for pairs in by_row.values():
        assert [w for _, w in sorted(pairs)] == sorted(w for _, w in pairs)
        assert max(w for _, w in pairs) == pytest.approx(max(drawn.get_linewidth()))


def test_circles_of_close_neurons_do_not_overlap_and_hold_no_letter():
    graph = line_graph()
    close = {"hidden1:1": (0.5,), "hidden1:4": (0.508,)}
    graph = replace(graph, neurons=tuple(replace(n, position=close.get(n.id, n.position)) for n in graph.neurons))
    figure = draw_network(graph)
    figure.draw_without_rendering()
    axes = figure.axes[0]
    (alive,) = [c for c in axes.collections if c.get_zorder() == 3]
    diameter = {
        (round(x, 3), y): size**0.5 for (x, y), size in zip(alive.get_offsets(), alive.get_sizes(), strict=True)
    }
    left, right = (axes.transData.transform((x, 1)) for x in (0.5, 0.508))
    distance = (right[0] - left[0]) * 72 / figure.dpi
    assert diameter[0.5, 1] == diameter[0.508, 1] <= distance
    assert diameter[0.25, 2] == max(diameter.values()) > 2 * distance, "all others are as large as ever"
    assert sum(text in ("A", "B") for text in said(figure)) == len(diameter) - 2


def test_modules_have_a_colour_a_letter_and_a_line_in_the_legend():
    texts = said(draw_network(line_graph()))
    assert texts.count("A") == 5  # x1, x3, two hidden neurons, y1
    assert texts.count("B") == 4
    assert "A: $x_{1}$, $x_{3}$ → $y_{1}$" in texts
    assert "B: $x_{4}$ → $y_{2}$" in texts


def test_names_stand_at_the_ends_and_tokens_under_a_bracket():
    assert {"$x_{1}$", "$x_{2}$", "$y_{2}$"} <= set(said(draw_network(line_graph())))
    texts = said(draw_network(token_graph()))
    assert {"token a", "token b", "0", "29"} <= set(texts)
    assert {str(i) for i in range(2)} <= set(said(draw_network(sheet_graph())))


def test_a_name_may_hold_anything():
    graph = line_graph()
    odd = "a$b_{^\\frac<&>'\"" + "x" * 90
    neurons = tuple(replace(n, name=odd) if n.name == "x1" else n for n in graph.neurons)
    figure = draw_network(Graph(neurons, graph.connections, graph.meta))
    assert to_svg(figure)
    assert any(text.endswith("…") for text in said(figure))


def test_a_residual_stream_is_unrolled_and_each_role_keeps_its_line():
    layout = lay_out(transformer_graph())
    layers = [row.layer for row in layout.rows]
    assert layers == ["input", "residual", "attention1", "residual", "hidden1", "residual", "output"]
    assert all(strand.source[1] < strand.target[1] for strand in layout.strands)
    assert layout.rows[2].roles == 3
    entered = {s.target[2] for s in layout.strands if s.target[1] == 2}
    left = {s.source[2] for s in layout.strands if s.source[1] == 2}
    assert entered == {0, 2}  # query and value
    assert left == {2}  # what leaves attention is made of its values
    assert {"query", "key", "value"} <= set(said(draw_network(transformer_graph())))


def test_folds_that_are_not_attention_have_their_own_number_of_lines_and_names():
    layout = lay_out(gated_graph())
    assert [(row.layer, row.roles, row.role_names) for row in layout.rows[1:3]] == [("hidden1", 2, ())] * 2
    texts = said(draw_network(gated_graph()))
    assert not {"query", "key", "value"} & set(texts)
    assert (
        "hidden 1\n2 of 6" in texts
    )  # three neurons with two gates each, as the wiring says, not as pruning left them
    named = said(draw_network(gated_graph(("keep", "write"))))
    assert (named.count("keep"), named.count("write")) == (2, 2)


def test_a_graph_without_names_of_folds_has_those_of_attention_for_layers_of_attention_only():
    old = transformer_graph()
    assert "folds" not in old.meta
    assert lay_out(old).rows[2].role_names == ("query", "key", "value")
    gated = gated_graph()
    unnamed = Graph(gated.neurons, gated.connections, {"layers": gated.meta["layers"]})
    assert [(row.roles, row.role_names) for row in lay_out(unnamed).rows] == [(1, ()), (1, ()), (2, ()), (1, ())]


def test_the_graph_of_a_network_carries_the_names_of_its_folds():
    network, data = build("transformer")
    subject = AnalysisContext.of(network, data)
    values = subject.values()
    masks = {w.parameter: values[w.parameter] != 0 for w in network.wiring.weight_layers}
    graph = Graph.from_json(json.loads(json.dumps(extract_graph(subject, values, masks).to_json())))
    roles = ["query", "key", "value"]
    assert graph.meta["folds"] == {"attend.0.weight": roles, "attend.1.weight": roles}
    texts = said(draw_network(graph))
    assert [texts.count(role) for role in roles] == [2, 2, 2]
    assert "attention 1\n24" in texts


def test_a_wiring_is_laid_out_with_the_roles_that_it_names():
    layout, _ = lay_out_wiring(build("transformer")[0].wiring)
    roles = {row.layer: row.role_names for row in layout.rows}
    assert roles["attention1"] == roles["attention2"] == ("query", "key", "value")
    assert roles["residual"] == roles["hidden1"] == ()


def test_a_recurrent_sheet_is_drawn_once_for_each_side_of_its_loop():
    layout = lay_out(GRAPHS["recurrent"])
    assert [row.layer for row in layout.rows] == ["input", "hidden1", "hidden1", "output"]


def test_the_top_of_an_image_is_the_far_edge_of_its_sheet():
    layout = lay_out(sheet_graph())
    first, last = layout.spots["input:0", 0, 0], layout.spots["input:35", 0, 0]
    assert first.y > last.y
    row = [layout.spots[f"input:{i}", 0, 0] for i in range(6)]
    assert len({place.y for place in row}) == 1
    assert [place.x for place in row] == sorted(place.x for place in row)


def test_of_too_many_connections_the_heaviest_are_drawn_and_that_is_said():
    count = 80
    neurons = [
        Neuron(f"{layer}:{i}", layer, i, i, ((i + 0.5) / count,)) for layer in ("input", "output") for i in range(count)
    ]
    weights = np.random.default_rng(0).normal(size=(count, count))
    connections = [Connection(f"input:{j}", f"output:{i}", weights[i, j]) for i in range(count) for j in range(count)]
    figure = draw_network(Graph(tuple(neurons), tuple(connections)))
    assert len(strands_of(figure).get_segments()) == MOST
    assert "the heaviest 4,000 of 6,400 connections" in said(figure)


@pytest.mark.parametrize("module", [*"ABCDEFGHIJZ", "AA", "AZ"])
def test_every_module_has_a_colour_that_its_letter_can_be_read_on(module):
    colour = module_colour(part_numbers([module])[module])
    assert colour in MODULE_COLOURS
    assert letter_colour(colour) != colour
    assert module_colour(None) not in MODULE_COLOURS


def test_no_two_parts_that_are_shown_together_have_one_colour_and_a_whole_module_keeps_its_own():
    modules = part_numbers(["A", "B", "C"])
    assert modules == {"A": 0, "B": 1, "C": 2}
    shown = part_numbers(["A1", "A2", "B", "C1", "C2", "A10", "A3"])
    assert shown["B"] == modules["B"]
    names = ["A1", "B", "C1", "A2", "A3", "A10", "C2"]
    assert [shown[name] for name in names] == [0, 1, 2, 3, 4, 5, 6]
    assert part_numbers(["A1", "A2", "A3"]) == {"A": 0, "A1": 0, "A2": 1, "A3": 2}


@st.composite
def documents(draw):
    """Any layered graph as plain data, with loops back to earlier layers now and then."""
    sizes = draw(st.lists(st.integers(1, 5), min_size=1, max_size=5))
    axes = draw(st.integers(0, 3))
    neurons = [
        {
            "id": f"l{layer}:{i}",
            "layer": f"l{layer}",
            "slot": i,
            "neuron": i,
            "position": draw(st.lists(st.floats(0, 1), min_size=axes, max_size=axes)),
            "name": draw(st.sampled_from(["", "x1", "a b", "ž$", "class"])),
            "module": draw(st.sampled_from([None, "A", "B", "AB"])),
        }
        for layer, size in enumerate(sizes)
        for i in range(size)
    ]
    ids = st.sampled_from([neuron["id"] for neuron in neurons])
    connection = st.fixed_dictionaries(
        {
            "source": ids,
            "target": ids,
            "weight": st.floats(-1e6, 1e6, allow_subnormal=False),
            "parameter": st.sampled_from("pq"),
            "row": st.integers(0, 9),
        }
    )
    layers = [{"name": f"l{i}", "neurons": size} for i, size in enumerate(sizes)]
    meta = {"layers": layers} if draw(st.booleans()) else {}
    return {"nodes": neurons, "edges": draw(st.lists(connection, max_size=12)), "graph": meta}


@given(documents())
@settings(max_examples=25, deadline=None)
def test_any_graph_is_laid_out_upwards_and_drawn(document):
    graph = Graph.from_json(document)
    layout = lay_out(graph)
    assert len(layout.strands) == len(graph.connections)
    assert all(strand.source[1] < strand.target[1] for strand in layout.strands)
    assert all(spot in layout.spots for strand in layout.strands for spot in (strand.source, strand.target))
    assert draw_network(graph).axes
