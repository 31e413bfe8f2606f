"""The graph says the same in every format, and other programs read what it writes."""

from __future__ import annotations

import io
import json
import subprocess
import sys

import igraph
import networkx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bimt_engine.analysis.graph import Connection, Graph, GraphError, Neuron

numbers = st.floats(allow_nan=False, allow_infinity=False, width=32)
texts = st.text(max_size=12)


@st.composite
def parts(draw: st.DrawFn) -> tuple[list[dict[str, object]], list[tuple[object, ...]], str]:
    """Layered graphs with any names, positions of any dimension, and parallel connections, as plain values."""
    neurons = [
        {
            "id": f"layer{depth}:{slot}",
            "layer": f"layer{depth}",
            "slot": slot,
            "neuron": draw(st.integers(0, 99)),
            "position": tuple(draw(st.lists(numbers, max_size=3))),
            "name": draw(texts),
            "bias": draw(st.none() | numbers),
            "mean": draw(numbers),
            "std": draw(numbers),
            "module": draw(st.none() | st.sampled_from("AB")),
        }
        for depth in range(draw(st.integers(1, 3)))
        for slot in range(draw(st.integers(1, 4)))
    ]
    ids = st.sampled_from([n["id"] for n in neurons])
    connections = [
        (draw(ids), draw(ids), draw(numbers), draw(numbers), draw(st.none() | numbers), "weights.0", number, number)
        for number in range(draw(st.integers(0, 6)))
    ]
    return neurons, connections, draw(texts)


def graph_of(drawn) -> Graph:
    """Built outside the strategy: the checks of types draw at random, which a strategy may not."""
    neurons, connections, name = drawn
    meta = {"inputs": [name], "task": "regression"}
    return Graph(tuple(Neuron(**n) for n in neurons), tuple(Connection(*c) for c in connections), meta)


@given(parts())
def test_json_gives_back_the_very_graph(drawn) -> None:
    graph = graph_of(drawn)
    assert Graph.from_json(json.loads(json.dumps(graph.to_json(), allow_nan=False))) == graph


@given(parts())
def test_networkx_reads_the_node_link_document(drawn) -> None:
    graph = graph_of(drawn)
    read = networkx.node_link_graph(graph.to_json(), edges="edges")
    assert read.is_directed()
    assert set(read.nodes) == {n.id for n in graph.neurons}
    assert sorted(w for _, _, w in read.edges(data="weight")) == sorted(c.weight for c in graph.connections)


@given(parts())
def test_networkx_reads_the_graphml_without_none_or_lists(drawn) -> None:
    graph = graph_of(drawn)
    read = networkx.read_graphml(io.BytesIO(graph.to_graphml().encode()), force_multigraph=True)
    assert set(read.nodes) == {n.id for n in graph.neurons}
    for neuron in graph.neurons:
        row = read.nodes[neuron.id]
        assert ("bias" in row) == (neuron.bias is not None)
        assert [row[axis] for axis, _ in zip("xyz", neuron.position, strict=False)] == list(neuron.position)
    assert sorted(w for _, _, w in read.edges(data="weight")) == sorted(c.weight for c in graph.connections)


def test_igraph_reads_the_graphml(tmp_path) -> None:
    graph = small_graph()
    path = tmp_path / "network.graphml"
    path.write_text(graph.to_graphml())
    read = igraph.Graph.Read_GraphML(str(path))
    assert read.es["weight"] == [c.weight for c in graph.connections]
    assert read.vs["module"] == ["A", "A"]


def test_dot_quotes_names_that_hold_quotes() -> None:
    dot = small_graph(name='5" \\ pipe').to_dot()
    assert 'label="5\\" \\\\ pipe"' in dot
    assert '"input:0" -> "output:0"' in dot


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda d: d.pop("nodes"), "needs the lists"),
        (lambda d: d.update(format="other/2"), "other/2"),
        (lambda d: d["nodes"][0].update(colour="red"), "nodes/0"),
        (lambda d: d["nodes"].append(d["nodes"][0]), "stands twice"),
        (lambda d: d["edges"][0].update(source="input:9"), "input:9"),
        (lambda d: d["edges"][0].update(weight=float("nan")), "edges/0/weight"),
        (lambda d: d["edges"].append(7), "edges/1"),
    ],
)
def test_a_document_that_is_no_graph_is_refused_with_a_sentence(change, sentence: str) -> None:
    document = json.loads(json.dumps(small_graph().to_json()))
    change(document)
    with pytest.raises(GraphError, match=sentence):
        Graph.from_json(document)


def test_an_unknown_neuron_is_named() -> None:
    assert small_graph().neuron("input:0").name == "x1"
    with pytest.raises(GraphError, match="hidden9:1"):
        small_graph().neuron("hidden9:1")


def test_modules_are_given_by_letter_and_taken_from_all_others() -> None:
    graph = small_graph().with_modules({"output:0": "B"})
    assert [n.module for n in graph.neurons] == [None, "B"]


def test_the_graph_loads_without_torch() -> None:
    code = "import sys, bimt_engine.analysis.graph; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def small_graph(name: str = "x1") -> Graph:
    neurons = (
        Neuron("input:0", "input", 0, 3, (0.5,), name, module="A"),
        Neuron("output:0", "output", 0, 0, (0.25, 0.5), "y1", 0.5, module="A"),
    )
    meta = {"layers": [{"name": "input", "neurons": 1, "depth": 0}, {"name": "output", "neurons": 1, "depth": 1}]}
    return Graph(neurons, (Connection("input:0", "output:0", -1.5, 0.25, 0.1, "weights.0"),), meta)
