"""A module cut out of a network gives, alone, exactly what it gave inside."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from bimt.networks import load_network
from bimt_engine.data.dataset import Scaling
from bimt_engine.data.kinds.synthetic import FormulaData
from bimt_engine.exports.module_alone import ModuleAloneError, group_alone, module_alone
from bimt_engine.exports.weights import load_weights
from bimt_engine.networks.mlp import MlpNetwork
from bimt_engine.spec import Spec
from tests.engine.analysis.teachers import TWO_MODULES, data_of, teacher
from tests.engine.makers import build
from worker.predicting import predict

A = ["input:0", "input:2", "hidden1:0", "hidden1:1", "hidden2:0", "hidden2:1", "output:0"]
B = ["input:1", "input:3", "hidden1:4", "hidden1:5", "hidden2:4", "hidden2:5", "output:1"]


def spec() -> Spec:
    return Spec(dataset=FormulaData(formulas=["x1", "x2"], inputs=4), network=MlpNetwork(hidden=[8, 8]))


@pytest.mark.parametrize(
    ("neurons", "reads", "decides"), [(A, ("x1", "x3"), ("y1",)), (B, ("x2", "x4"), ("y2",)), (A + B, None, None)]
)
@pytest.mark.parametrize("turned", [False, True])
def test_alone_it_gives_what_it_gave_inside(neurons, reads, decides, turned: bool) -> None:
    network = teacher()
    if turned:  # other features and targets sit in the slots
        network.adopt_orders({"input": torch.tensor([2, 1, 0, 3]), "output": torch.tensor([1, 0])})
        decides = {("y1",): ("y2",), ("y2",): ("y1",)}.get(decides)
    data = data_of(network)
    alone = module_alone(network, data, spec(), neurons)
    assert alone.data.feature_names == (reads or data.feature_names)
    assert alone.data.target_names == (decides or data.target_names)
    columns = [data.feature_names.index(name) for name in alone.data.feature_names]
    targets = [data.target_names.index(name) for name in alone.data.target_names]
    x = torch.from_numpy(data.test_inputs)
    with torch.no_grad():
        assert torch.allclose(alone.network(x[:, columns]), network(x)[:, targets], rtol=0, atol=1e-12)
    assert sum(p.numel() for p in alone.network.parameters()) < sum(p.numel() for p in network.parameters())


def test_its_weights_file_is_a_network_like_any_other() -> None:
    network, trained = teacher(), teacher(residue=1e-3)
    data = data_of(network)
    alone = module_alone(network, data, spec(), B, trained=trained)
    saved = load_weights(alone.weights(seed=3))
    x = torch.from_numpy(data.test_inputs[:, [1, 3]])
    assert torch.equal(saved.network(x), alone.network(x))
    assert torch.equal(saved.trained(x), alone.trained(x))
    assert not torch.equal(saved.trained(x), saved.network(x))
    assert saved.data.feature_names == ("x2", "x4")
    places = network.wiring.layer("hidden1").positions[[4, 5]]
    assert torch.equal(saved.network.wiring.layer("hidden1").positions, places)


def test_tokens_keep_the_dimensions_that_are_read() -> None:
    network, data = build("embedded mlp")
    read = {"input:1", "input:2", "input:5"}  # dimensions 1 and 2 of a, 1 of b
    with torch.no_grad():
        network.weights[0][:, [0, 3, 4, 6, 7]] = 0
    neurons = [*sorted(read), *(f"hidden{i}:{s}" for i in (1, 2) for s in range(6)), *(f"output:{s}" for s in (0, 2))]
    alone = module_alone(network, data, spec(), neurons)
    assert alone.network.embedding.shape == (6, 2)
    x = torch.from_numpy(data.test_inputs)
    with torch.no_grad():
        assert torch.allclose(alone.network(x), network(x)[:, [0, 2]], rtol=0, atol=1e-12)
    assert alone.data.target_names == ("0", "2")


@pytest.mark.parametrize("turned", [False, True])
def test_a_module_takes_its_own_raw_columns_in_every_form(turned: bool) -> None:
    onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is an extra")
    network = teacher()
    if turned:
        network.adopt_orders({"input": torch.tensor([2, 1, 0, 3]), "output": torch.tensor([1, 0])})
    data = data_of(network)
    given = Scaling(np.array([1e9, 5.0, 0.0, -3e4]), np.array([3600.0, 1e-6, 2.0, 7.0]))
    wanted = Scaling(np.array([3e5, 1.0]), np.array([5e4, 1e-3]))
    data = replace(data, input_scaling=given, target_scaling=wanted)
    rows = given.undo(data.test_inputs)
    whole = np.array(predict(network, data, rows.tolist())["outputs"])
    alone = module_alone(network, data, spec(), B)
    columns = [data.feature_names.index(name) for name in alone.data.feature_names]
    targets = [data.target_names.index(name) for name in alone.data.target_names]
    assert (columns, targets) == ([1, 3], [0] if turned else [1])
    whole, read = whole[:, targets], np.ascontiguousarray(rows[:, columns])
    session = onnxruntime.InferenceSession(alone.onnx(), providers=["CPUExecutionProvider"])
    said = {
        "service": np.array(predict(alone.network, alone.data, read.tolist())["outputs"]),
        "client": load_network(alone.weights(seed=0)).predict(read).numpy(),
        "onnx": session.run(["y"], {"x": read})[0],
    }
    for name, answer in said.items():
        assert np.abs((answer - whole) / wanted.std[targets]).max() < 1e-5, name


def test_what_groups_alone_give_sums_to_what_the_network_gives() -> None:
    """Two groups of one piece, both led to y1: f(x1, x3) + g(x2, x4), each with its own columns."""
    network = teacher((*TWO_MODULES, (2, 0, 4, 1.3), (2, 0, 5, -1.5)))
    with torch.no_grad():
        network.biases[2] += torch.tensor([0.7, -0.4], dtype=torch.float64)
    data = data_of(network)
    wanted = Scaling(np.array([3e5, 1.0]), np.array([5e4, 1e-3]))
    data = replace(data, target_scaling=wanted)
    groups = [[n for n in ids if n.startswith("hidden")] for ids in (A, B)]
    first, second = (group_alone(network, data, spec(), ids, trained=network) for ids in groups)
    assert (first.data.feature_names, first.data.target_names) == (("x1", "x3"), ("y1",))
    assert (second.data.feature_names, second.data.target_names) == (("x2", "x4"), ("y1", "y2"))
    assert np.array_equal(first.data.target_scaling.mean, [0.0])
    x = torch.from_numpy(data.test_inputs)
    with torch.no_grad():
        given = first.network(x[:, [0, 2]])[:, 0] + second.network(x[:, [1, 3]])[:, 0] + network.biases[2][0]
        assert torch.allclose(given, network(x)[:, 0], rtol=0, atol=1e-12)
    assert torch.equal(load_weights(second.weights(seed=0)).network(x[:, [1, 3]]), second.network(x[:, [1, 3]]))


def test_a_group_that_later_layers_combine_cannot_stand_alone() -> None:
    network = teacher()
    with pytest.raises(ModuleAloneError, match="last hidden layer"):
        group_alone(network, data_of(network), spec(), ["hidden1:0", "hidden1:1"])
    with pytest.raises(ModuleAloneError, match="perceptron"):
        group_alone(*build("transformer"), spec(), ["residual:0"])


def test_what_is_no_module_is_refused_with_a_sentence() -> None:
    network = teacher()
    with pytest.raises(ModuleAloneError, match="in every layer"):
        module_alone(network, data_of(network), spec(), ["input:0", "output:0"])
    with pytest.raises(ModuleAloneError, match="no neuron 'hidden7:0'"):
        module_alone(network, data_of(network), spec(), ["hidden7:0"])
    with pytest.raises(ModuleAloneError, match="perceptron"):
        module_alone(*build("transformer"), spec(), ["residual:0"])
