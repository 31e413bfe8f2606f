"""Graphs to draw."""

from __future__ import annotations

from bimt_engine.analysis.graph import Connection, Graph, Neuron


def line_graph() -> Graph:
    """4-6-6-2 with two modules; the second input has no connection."""
    layers = {"input": 4, "hidden1": 6, "hidden2": 6, "output": 2}
    kept = {
        "input": {0: ("x1", "A"), 1: ("x2", None), 2: ("x3", "A"), 3: ("x4", "B")},
        "hidden1": {1: ("", "A"), 4: ("", "B")},
        "hidden2": {1: ("", "A"), 4: ("", "B")},
        "output": {0: ("y1", "A"), 1: ("y2", "B")},
    }
    neurons = [
        Neuron(f"{layer}:{slot}", layer, slot, slot, ((slot + 0.5) / layers[layer],), name=name, module=module)
        for layer, slots in kept.items()
        for slot, (name, module) in slots.items()
    ]
    joined = [
        ("input:0", "hidden1:1", 2.0),
        ("input:2", "hidden1:1", -1.0),
        ("hidden1:1", "hidden2:1", 0.5),
        ("hidden2:1", "output:0", 1.0),
        ("input:3", "hidden1:4", 1.5),
        ("hidden1:4", "hidden2:4", -0.25),
        ("hidden2:4", "output:1", 1.0),
    ]
    connections = [
        Connection(source, target, weight, parameter=source.split(":")[0]) for source, target, weight in joined
    ]
    return Graph(
        tuple(neurons),
        tuple(connections),
        {
            "layers": [{"name": name, "neurons": count, "depth": i} for i, (name, count) in enumerate(layers.items())],
            "inputs": ["x1", "x2", "x3", "x4"],
            "outputs": ["y1", "y2"],
        },
    )


def token_graph() -> Graph:
    """Two tokens of three numbers each, side by side, on three neurons and thirty named classes."""
    neurons = [
        Neuron(
            f"input:{3 * copy + slot}",
            "input",
            3 * copy + slot,
            slot,
            ((slot + 0.5) / 3,),
            f"{token}[{slot}]",
            copy=copy,
        )
        for copy, token in enumerate("ab")
        for slot in range(3)
    ]
    neurons += [Neuron(f"hidden1:{i}", "hidden1", i, i, ((i + 0.5) / 3,)) for i in range(3)]
    neurons += [Neuron(f"output:{i}", "output", i, i, ((i + 0.5) / 30,), name=str(i)) for i in range(30)]
    connections = [Connection(f"input:{i}", f"hidden1:{i % 3}", 1.0, parameter="weights.0") for i in range(6)]
    connections += [Connection(f"hidden1:{i % 3}", f"output:{i}", -1.0, parameter="weights.1") for i in range(30)]
    layers = [{"name": name, "neurons": count} for name, count in (("input", 6), ("hidden1", 3), ("output", 30))]
    return Graph(tuple(neurons), tuple(connections), {"layers": layers, "inputs": ["a", "b"]})


def transformer_graph() -> Graph:
    """One block over a residual stream of four: read in, query and value, gather, expand, contract, read out."""
    sizes = {"input": 2, "residual": 4, "attention1": 4, "hidden1": 8, "output": 1}
    neurons = [
        Neuron(
            f"{layer}:{slot}", layer, slot, slot, ((slot + 0.5) / count,), name="xy"[slot] if layer == "input" else ""
        )
        for layer, count in sizes.items()
        for slot in range(count)
    ]
    connections = [
        Connection("input:0", "residual:0", 1.0, parameter="read_in"),
        Connection("residual:0", "attention1:1", 1.0, parameter="attend", row=1),
        Connection("residual:0", "attention1:1", -1.0, parameter="attend", row=9),
        Connection("attention1:1", "residual:2", 1.0, parameter="gather"),
        Connection("residual:2", "hidden1:5", 1.0, parameter="expand", row=5),
        Connection("hidden1:5", "residual:2", 1.0, parameter="contract"),
        Connection("residual:2", "output:0", 1.0, parameter="read_out"),
    ]
    layers = [{"name": name, "neurons": count} for name, count in sizes.items()]
    return Graph(tuple(neurons), tuple(connections), {"layers": layers})


def recurrent_graph() -> Graph:
    neurons = [Neuron("input:0", "input", 0, 0, (0.5,)), Neuron("output:0", "output", 0, 0, (0.5,))]
    neurons += [Neuron(f"hidden1:{i}", "hidden1", i, i, (0.25 + 0.5 * i,)) for i in range(2)]
    connections = [
        Connection("input:0", "hidden1:0", 1.0, parameter="read_in"),
        Connection("hidden1:0", "hidden1:1", 1.0, parameter="recur", row=1),
        Connection("hidden1:1", "output:0", 1.0, parameter="read_out"),
    ]
    layers = [{"name": "input", "neurons": 1}, {"name": "hidden1", "neurons": 2}, {"name": "output", "neurons": 1}]
    return Graph(tuple(neurons), tuple(connections), {"layers": layers})


def gated_graph(roles: tuple[str, ...] = ("", "")) -> Graph:
    """A recurrent layer of three neurons with two gates each; what they read is the first gate's alone."""
    neurons = [Neuron("input:0", "input", 0, 0, (0.5,)), Neuron("output:0", "output", 0, 0, (0.5,))]
    neurons += [Neuron(f"hidden1:{i}", "hidden1", i, i, ((i + 0.5) / 3,)) for i in range(3)]
    connections = [
        Connection("input:0", "hidden1:0", 1.0, parameter="read"),
        Connection("hidden1:0", "hidden1:1", 1.0, parameter="recur", row=1),
        Connection("hidden1:0", "hidden1:1", 1.0, parameter="recur", row=4),
        Connection("hidden1:1", "output:0", 1.0, parameter="write"),
    ]
    layers = [{"name": "input", "neurons": 1}, {"name": "hidden1", "neurons": 3}, {"name": "output", "neurons": 1}]
    folds = {"read": list(roles), "recur": list(roles)}
    return Graph(tuple(neurons), tuple(connections), {"layers": layers, "folds": folds})


def sheet_graph(side: int = 6) -> Graph:
    """A grid of inputs, a grid of four, a ring of two."""
    neurons = [
        Neuron(f"input:{i}", "input", i, i, ((i % side + 0.5) / side, (i // side + 0.5) / side), f"pixel[{i}]")
        for i in range(side**2)
    ]
    neurons += [
        Neuron(f"hidden1:{i}", "hidden1", i, i, (0.25 + 0.5 * (i % 2), 0.25 + 0.5 * (i // 2))) for i in range(4)
    ]
    neurons += [Neuron(f"output:{i}", "output", i, i, (0.25 + 0.5 * i, 0.5), str(i)) for i in range(2)]
    connections = [
        Connection(f"input:{i}", f"hidden1:{i % 4}", (-1.0) ** i * (i + 1) / side**2, parameter="a")
        for i in range(side**2)
    ]
    connections += [Connection(f"hidden1:{i}", f"output:{i % 2}", 1.0, parameter="b") for i in range(4)]
    layers = [{"name": n, "neurons": c} for n, c in (("input", side**2), ("hidden1", 4), ("output", 2))]
    return Graph(tuple(neurons), tuple(connections), {"layers": layers})


GRAPHS = {
    "line": line_graph(),
    "token": token_graph(),
    "transformer": transformer_graph(),
    "recurrent": recurrent_graph(),
    "sheet": sheet_graph(),
    "nothing left": Graph(line_graph().neurons, (), line_graph().meta),
    "no neurons": Graph((), ()),
}
