"""A network from an ONNX file computes what a runtime computes, and goes back into the file; what cannot is refused."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from sklearn.neural_network import MLPClassifier, MLPRegressor
from torch import Tensor

from bimt_engine.exports.onnx import onnx_file
from bimt_engine.networks.files import onnx_file as reading
from bimt_engine.networks.files.onnx_file import NetworkFileError, before_probabilities, read_onnx
from bimt_engine.networks.files.onnx_network import OnnxNetwork
from bimt_engine.networks.files.reading import engine_network, with_numbers_of
from tests.engine.makers import ARCHITECTURES, build
from tests.engine.networks.files.makers import NETWORKS, exported, model, said_by


def assert_same_numbers(network: OnnxNetwork, content: bytes, x: Tensor) -> None:
    with torch.no_grad():
        mine = network.eval()(x).numpy()
    np.testing.assert_allclose(mine, said_by(content, x), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_file_of_torch_computes_the_same_here_and_back_in_its_file(name: str) -> None:
    torch.manual_seed(3)
    original, x = NETWORKS[name]()
    content = exported(original, x)
    network = OnnxNetwork(read_onnx(content))
    for rows in (1, 5):
        assert_same_numbers(network, content, network.example(rows))
    before = said_by(content, x)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(1.2).add_(0.01)
    changed = network.onnx(content)
    assert_same_numbers(network, changed, x)
    assert np.abs(said_by(changed, x) - before).max() > 1e-3


@pytest.mark.filterwarnings("ignore:The tensor attributes:UserWarning")  # torch's recurrent layers cause it
@pytest.mark.parametrize("name", NETWORKS)
def test_torch_can_export_the_module_with_a_free_batch(name: str) -> None:
    original, x = NETWORKS[name]()
    network = OnnxNetwork(read_onnx(exported(original, x))).eval()
    batch = torch.export.Dim("batch")
    program = torch.export.export(network, (x,), dynamic_shapes=({0: batch},), strict=False)
    example = network.example(4)
    torch.testing.assert_close(program.module()(example), network(example))


def test_every_weight_of_the_module_is_a_parameter_and_statistics_are_buffers() -> None:
    original, x = NETWORKS["residual cnn"]()
    content = exported(original, x)
    network = OnnxNetwork(read_onnx(content))
    assert network.graph.operators["BatchNormalization"] == 2
    assert sum(value.numel() for value in network.parameters()) == sum(value.numel() for value in original.parameters())
    network.train()(network.example(8))
    statistics = {name: value for name, value in network.named_buffers() if "running" in name}
    assert len(statistics) == 4
    kept = {
        tensor.name: numpy_helper.to_array(tensor)
        for tensor in onnx.load_from_string(network.onnx(content)).graph.initializer
    }
    for name in (name for name in kept if "running" in name):
        np.testing.assert_array_equal(kept[name], statistics[network.called[name]].numpy())


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_export_of_every_architecture_is_read(name: str) -> None:
    built, data = build(name, seed=3)
    content = onnx_file(built, data)
    network = OnnxNetwork(read_onnx(content))
    x = torch.from_numpy(data.test_inputs[:5])
    with torch.no_grad():
        mine = network.eval()(x).numpy()
    np.testing.assert_allclose(mine, said_by(content, x), rtol=0, atol=1e-5)
    named = {
        key.removesuffix(".transposed")
        for key, mine in network.called.items()
        if mine in dict(network.named_parameters())
    }
    assert {key for key, value in built.named_parameters() if value.dim() == 2} <= named


@pytest.mark.parametrize("kind", ["three classes", "two classes", "one number", "two numbers"])
def test_networks_of_scikit_learn_give_their_scores(kind: str) -> None:
    skl2onnx = pytest.importorskip("skl2onnx", reason="skl2onnx writes scikit-learn's networks as ONNX")
    x = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)
    targets: dict[str, Any] = {
        "three classes": np.arange(60) % 3,
        "two classes": np.array(["no", "yes"])[np.arange(60) % 2],
        "one number": x[:, 0],
        "two numbers": x[:, :2],
    }
    maker = MLPClassifier if "classes" in kind else MLPRegressor
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trained = maker(hidden_layer_sizes=(6,), max_iter=20, random_state=0).fit(x, targets[kind])
        content = skl2onnx.to_onnx(trained, x[:1]).SerializeToString()
    network = OnnxNetwork(read_onnx(content))
    expected = trained.predict_proba(x) if "classes" in kind else trained.predict(x).reshape(60, -1)
    with torch.no_grad():
        np.testing.assert_allclose(network(torch.from_numpy(x)).numpy(), expected, rtol=0, atol=1e-5)
    assert sum(value.numel() for value in network.parameters()) == sum(
        value.size for value in trained.coefs_ + trained.intercepts_
    )
    assert ("likeliest class" in " ".join(network.graph.notes)) == ("classes" in kind)
    np.testing.assert_array_equal(said_by(network.onnx(content), x), said_by(content, x))
    if "classes" in kind:
        scores = OnnxNetwork(before_probabilities(read_onnx(content)))
        with torch.no_grad():
            probabilities = torch.softmax(scores(torch.from_numpy(x)), -1).numpy()
        np.testing.assert_allclose(probabilities, expected, rtol=0, atol=1e-5)
        np.testing.assert_array_equal(said_by(scores.onnx(content), x), said_by(content, x))


# --- what is refused ---


def _external(path: str) -> onnx.ModelProto:
    file = model()
    tensor = file.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=path)
    return file


def _declares(*dims: int) -> onnx.ModelProto:
    file = model()
    file.graph.initializer[0].dims[:] = dims
    return file


def _with_graph(kind: str) -> onnx.ModelProto:
    inner = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["z"])], "inner", [], [helper.make_tensor_value_info("z", 1, None)]
    )
    names = {"If": ("then_branch", "else_branch"), "Loop": ("body",), "Scan": ("body",)}[kind]
    return model([helper.make_node(kind, ["x"], ["y"], **dict.fromkeys(names, inner))])


def _with_function() -> onnx.ModelProto:
    file = model()
    file.functions.append(
        helper.make_function(
            "own", "F", ["a"], ["b"], [helper.make_node("Relu", ["a"], ["b"])], [helper.make_opsetid("", 20)]
        )
    )
    return file


def _twice(name: str) -> onnx.ModelProto:
    file = model()
    file.graph.initializer.append(numpy_helper.from_array(np.ones(2, np.float32), name))
    return file


REFUSED: dict[str, tuple[Callable[[], onnx.ModelProto | bytes], str]] = {
    "noise": (lambda: b"\x00\xff not a message" * 40, "not ONNX, or damaged"),
    "nothing": (lambda: b"", "no graph"),
    "cut off": (lambda: model().SerializeToString()[:-30], "damaged"),
    "external data": (lambda: _external("weights.bin"), "lie in another file"),
    "a path in external data": (lambda: _external("../../etc/passwd"), "lie in another file"),
    "a custom domain": (
        lambda: model([helper.make_node("MatMul", ["x", "w"], ["y"], domain="com.own")], domain="com.own"),
        "of the domain `com.own`",
    ),
    "a function": (_with_function, "functions of its own"),
    **{kind: (lambda kind=kind: _with_graph(kind), "a graph of its own") for kind in ("If", "Loop", "Scan")},
    "an unknown operator": (lambda: model([helper.make_node("NonZero", ["x"], ["y"])]), "not known here: `NonZero`"),
    "10⁹ parameters": (lambda: _declares(1_000_000_000), "at most 100000000"),
    "a size beyond 64 bits": (lambda: _declares(2**40, 2**40), "at most"),
    "a negative size": (lambda: _declares(-3, 2), "impossible shape"),
    "fewer numbers than declared": (lambda: _declares(3, 3), "it is damaged"),
    "an open axis": (lambda: model(shape=("batch", 1, "high", 3)), "leaves axis 2 open"),
    "a size that the data decide": (
        lambda: model(
            [helper.make_node("Cast", ["x"], ["n"], to=7), helper.make_node("Expand", ["w", "n"], ["y"])],
            shape=("batch", 2),
        ),
        "from the data",
    ),
    "an index into channels that the data decide": (
        lambda: model([helper.make_node("GatherND", ["x", "w"], ["y"])]),
        "not known here: `GatherND`",
    ),
    "a cycle": (
        lambda: model([helper.make_node("Add", ["x", "b"], ["a"]), helper.make_node("Relu", ["a"], ["b"])]),
        "a cycle",
    ),
    "a tensor from nowhere": (lambda: model([helper.make_node("Add", ["x", "q"], ["y"])]), "computed nowhere"),
    "two initialisers of one name": (lambda: _twice("w"), "a name of its own"),
    "two tensors of one name": (
        lambda: model([helper.make_node("Relu", ["x"], ["w"]), helper.make_node("Relu", ["w"], ["y"])]),
        "a name of its own",
    ),
    "an old opset": (lambda: model(opset=9), "version 9"),
    "two inputs": (
        lambda: model([helper.make_node("MatMul", ["x", "v"], ["y"])], constants={}),
        "computed nowhere",
    ),
    "sizes that do not fit": (lambda: model(shape=("batch", 7)), "`MatMul`, which computes `y`, does not fit"),
    "a product without the input": (lambda: model([helper.make_node("Relu", ["w"], ["y"])]), "does not depend on"),
    "rows that meet": (
        lambda: model([helper.make_node("Softmax", ["x"], ["y"], axis=0)]),
        "One row of the batch changes",
    ),
    "an output that is not made of rows": (
        lambda: model([helper.make_node("ReduceSum", ["x"], ["y"], keepdims=0)]),
        "not the batch",
    ),
    "a tensor beyond all memory": (
        lambda: model(
            [helper.make_node("Expand", ["x", "n"], ["y"])], constants={"n": np.array([1 << 40, 1, 1], np.int64)}
        ),
        "too large",
    ),
    "a text in place of numbers": (
        lambda: model([helper.make_node("Relu", ["x"], ["y"], kernel_shape="3")] * 2),
        "a name of its own",
    ),
    "quantised weights": (lambda: model(constants={"w": np.ones((3, 2), np.int8)}), "holds int8"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_read_is_refused_with_a_sentence(name: str) -> None:
    made, sentence = REFUSED[name]
    content = made()
    content = content if isinstance(content, bytes) else content.SerializeToString()
    with pytest.raises(NetworkFileError, match="(?s).*".join(sentence.split("…"))) as caught:
        OnnxNetwork(read_onnx(content))
    said = str(caught.value)
    assert said.endswith(".")
    assert len(said) < 500
    assert "etc/passwd" not in said


def test_a_batch_of_fixed_length_that_matters_is_named() -> None:
    with pytest.raises(NetworkFileError, match="batches of 2 rows; export it with a free batch axis"):
        OnnxNetwork(read_onnx(exported(*NETWORKS["causal block"](), free=False)))
    fixed = exported(*NETWORKS["perceptron"](), free=False)  # nothing in it depends on the length
    assert OnnxNetwork(read_onnx(fixed))(torch.zeros(7, 5)).shape == (7, 3)


def test_a_large_file_is_not_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "MAX_BYTES", 10)
    with pytest.raises(NetworkFileError, match="at most 10 are read"):
        read_onnx(model().SerializeToString())


def test_any_change_of_one_byte_is_read_or_refused() -> None:
    content = exported(*NETWORKS["gru"]())
    draw = np.random.default_rng(5)
    for place in draw.choice(len(content), 60, replace=False):
        damaged = bytearray(content)
        damaged[place] ^= 1 << int(draw.integers(8))
        with contextlib.suppress(NetworkFileError):
            OnnxNetwork(read_onnx(bytes(damaged)))


# --- as a network of the engine ---


@pytest.mark.filterwarnings("ignore:The tensor attributes:UserWarning")
@pytest.mark.parametrize("name", ["perceptron", "residual cnn", "gru", "causal block"])
def test_the_wiring_is_derived_and_the_file_comes_back_with_other_numbers(name: str) -> None:
    original, x = NETWORKS[name]()
    content = exported(original, x)
    network = engine_network(content, "onnx", None)
    example = OnnxNetwork(read_onnx(content)).example(4)
    given = example.double() if example.is_floating_point() else example
    np.testing.assert_allclose(network(given).detach().numpy(), said_by(content, example), rtol=0, atol=1e-5)
    movable = [layer for layer in network.wiring.neuron_layers[1:-1] if layer.movable]
    assert movable, "the hidden neurons move"
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(1.1 if parameter.requires_grad else 1.0)
    back = with_numbers_of(network, content, "onnx", None)
    np.testing.assert_allclose(network(given).detach().numpy(), said_by(back, example), rtol=0, atol=1e-5)


def test_two_classes_of_scikit_learn_become_a_network_of_the_engine() -> None:
    skl2onnx = pytest.importorskip("skl2onnx", reason="skl2onnx writes scikit-learn's networks as ONNX")
    x = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trained = MLPClassifier(hidden_layer_sizes=(6,), max_iter=20, random_state=0).fit(x, np.arange(60) % 2)
        content = skl2onnx.to_onnx(trained, x[:1]).SerializeToString()
    network = engine_network(content, "onnx", None)
    probabilities = torch.softmax(network(torch.from_numpy(x).double()), -1).detach().numpy()
    np.testing.assert_allclose(probabilities, trained.predict_proba(x), rtol=0, atol=1e-5)
    assert [layer.neurons for layer in network.wiring.neuron_layers] == [4, 6, 2]
