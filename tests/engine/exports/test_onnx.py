"""Another program that reads the ONNX file gives the same numbers."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import onnx
import pytest
import torch

from bimt_engine.exports.onnx import onnx_file
from bimt_engine.exports.sketch import CannotBeWritten
from bimt_engine.networks.network import ACTIVATIONS
from tests.engine.makers import ARCHITECTURES, build

onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is an extra")


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_onnxruntime_gives_the_same_outputs(name: str) -> None:
    network, dataset = build(name, seed=3)
    turned = network.wiring.layer("hidden1") if name != "shallow mlp" else network.wiring.input_layer
    if turned.movable:
        network.adopt_orders({turned.name: torch.arange(turned.neurons).roll(1)})
    session = onnxruntime.InferenceSession(onnx_file(network, dataset), providers=["CPUExecutionProvider"])
    for rows in (1, 5, 16):  # the batch axis is free
        inputs = dataset.test_inputs[:rows]
        (theirs,) = session.run(None, {"x": inputs if dataset.tokens else inputs.astype(np.float32)})
        with torch.no_grad():
            ours = network(torch.from_numpy(inputs)).numpy()
        np.testing.assert_allclose(theirs, ours, atol=1e-5)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_every_activation_is_written(name: str) -> None:
    network, dataset = build("mlp", seed=3)
    network.activation = name
    session = onnxruntime.InferenceSession(onnx_file(network, dataset), providers=["CPUExecutionProvider"])
    (theirs,) = session.run(None, {"x": dataset.test_inputs.astype(np.float32)})
    with torch.no_grad():
        ours = network(torch.from_numpy(dataset.test_inputs)).numpy()
    np.testing.assert_allclose(theirs, ours, atol=1e-5)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_file_is_whole_says_its_shapes_and_names_the_parameters(name: str) -> None:
    network, dataset = build(name)
    model = onnx.load_from_string(onnx_file(network, dataset))
    onnx.checker.check_model(model, full_check=True)
    [x], [y] = model.graph.input, model.graph.output
    axes = [dimension.dim_param or dimension.dim_value for dimension in x.type.tensor_type.shape.dim]
    assert (x.name, y.name, axes) == ("x", "y", ["batch", *dataset.train_inputs.shape[1:]])
    named = {constant.name.removesuffix(".transposed") for constant in model.graph.initializer}
    assert {parameter for parameter, _ in network.named_parameters()} <= named


def test_what_cannot_be_written_is_named() -> None:
    network, dataset = build("mlp")
    for strange, said in ((lambda x: x.cumsum(-1), "uses `cumsum`"), (lambda x: x.reshape(-1, 1), "joins the batch")):
        network.forward = lambda x, strange=strange: strange(x)
        with pytest.raises(CannotBeWritten, match=said):
            onnx_file(network, dataset)


def test_no_compiler_is_imported_for_it() -> None:
    """They are three seconds of the first file, and a hundred megabytes of every bench."""
    look = (
        "import sys; from tests.engine.makers import build; from bimt_engine.exports.onnx import onnx_file;"
        "onnx_file(*build('transformer'));"
        "print([name for name in ('torch._dynamo', 'torch.onnx', 'onnxscript', 'sympy') if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
