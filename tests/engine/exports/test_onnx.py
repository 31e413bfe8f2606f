"""Another program that reads the ONNX file gives the service's numbers, in the units of the data."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch

from bimt_engine.data.dataset import Dataset, Scaling
from bimt_engine.exports.onnx import onnx_file
from bimt_engine.exports.onnx_tracer import NotExportable
from bimt_engine.networks.network import ACTIVATIONS, Network
from tests.engine.makers import ARCHITECTURES, build
from worker.predicting import predict

onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is an extra")


def said_by(file: bytes, rows: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    (y,) = session.run(["y"], {"x": rows})
    return y


def in_other_units(data: Dataset) -> Dataset:
    """The same data, as if they had been standardised from columns such as a date in seconds and a length in nm."""
    if data.tokens:
        return data
    columns, targets = np.arange(data.inputs), np.arange(data.targets)
    given = Scaling(mean=1.7e9 + columns, std=86_400.0 * 10.0 ** -(3 * columns % 9))
    wanted = Scaling(mean=3e5 - targets, std=7e4 * 10.0 ** -(6 * targets % 9))
    return replace(data, input_scaling=given, target_scaling=wanted if data.task == "regression" else None)


def raw_rows(data: Dataset) -> np.ndarray:
    return data.input_scaling.undo(data.test_inputs) if data.input_scaling else data.test_inputs


def as_the_service_says(network: Network, data: Dataset, rows: np.ndarray) -> np.ndarray:
    told = predict(network, data, rows.tolist())
    return np.array(told["probabilities" if data.task == "classification" else "outputs"])


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_raw_columns_in_give_what_the_service_predicts(name: str, scaled: bool) -> None:
    network, data = build(name, seed=3)
    data = in_other_units(data) if scaled else data
    turned = network.wiring.neuron_layers[1] if name != "shallow mlp" else network.wiring.input_layer
    if turned.movable:
        network.adopt_orders({turned.name: torch.arange(turned.neurons).roll(1)})
    file, unit = onnx_file(network, data), data.target_scaling.std if data.target_scaling else 1.0
    for count in (1, 5, 16):  # the batch axis is free
        rows = raw_rows(data)[:count]
        theirs, ours = said_by(file, rows), as_the_service_says(network, data, rows)
        assert theirs.shape == ours.shape
        np.testing.assert_allclose(theirs / unit, ours / unit, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_every_activation_is_written(name: str) -> None:
    network, data = build("mlp", seed=3)
    network.activation = name
    theirs = said_by(onnx_file(network, data), data.test_inputs)
    np.testing.assert_allclose(theirs, as_the_service_says(network, data, data.test_inputs), rtol=0, atol=1e-5)


def test_a_file_says_what_its_columns_are_and_where_it_comes_from() -> None:
    def said(name: str) -> tuple[dict[str, str], Dataset]:
        network, data = build(name)
        model = onnx.load_from_string(onnx_file(network, data, {"run": "run_1", "seed": "4"}))
        return {entry.key: entry.value for entry in model.metadata_props}, data

    told, data = said("classifier")
    names = {"feature_names": data.feature_names, "target_names": data.target_names, "classes": data.target_names}
    assert told == {name: json.dumps(row) for name, row in names.items()} | {
        "task": "classification",
        "run": "run_1",
        "seed": "4",
    }
    told, data = said("recurrent")
    assert told["predicted_positions"] == json.dumps(list(data.predicted_positions))
    assert "classes" not in told


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


OPERATIONS = {
    "sigmoid": torch.sigmoid,
    "sigmoid of torch.Tensor": lambda x: x.sigmoid(),
    "chunk": lambda x: x.chunk(2, -1)[1] + x.chunk(2, -1)[0],
    "uneven split": lambda x: x.split([1, 3], dim=1)[1],
    "split into equal parts": lambda x: torch.split(x, 2, dim=-1)[1],
    "cat": lambda x: torch.cat([x, x[:, 1:3]], dim=-1),
    "1 - x": lambda x: 1 - x,
    "rsub": lambda x: torch.rsub(x, 2.0),
    "-x": lambda x: -x,
    "neg": torch.neg,
    "slice": lambda x: x[:, 1:],
    "slice from the end": lambda x: x[:, -3:-1],
    "slice with a step": lambda x: x[:, ::2],
    "a new axis": lambda x: x[:, None] * x[:, :, None],
    "a new axis and a part": lambda x: x[:, None, 2],
    "all entries": lambda x: x[:],
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_is_written_as_it_computes(name: str) -> None:
    network, dataset = build("shallow mlp")
    network.forward = lambda x: OPERATIONS[name](network.permute_inputs(x)[:, :4])
    rows = dataset.test_inputs
    expected = network.forward(torch.from_numpy(rows)).numpy()
    np.testing.assert_allclose(said_by(onnx_file(network, dataset), rows), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("part", [lambda x: x[:1], lambda x: x[None], lambda x: x.split(1)[0]])
def test_a_part_of_the_batch_cannot_be_written(part: Callable[[torch.Tensor], torch.Tensor]) -> None:
    network, dataset = build("shallow mlp")
    network.forward = lambda x: part(network.permute_inputs(x))
    with pytest.raises(NotExportable, match="takes the (part|batch)"):
        onnx_file(network, dataset)


def test_what_cannot_be_written_is_named() -> None:
    network, dataset = build("mlp")
    for strange, said in ((lambda x: x.cumsum(-1), "uses `cumsum`"), (lambda x: x.reshape(-1, 1), "joins the batch")):
        network.forward = lambda x, strange=strange: strange(x)
        with pytest.raises(NotExportable, match=said):
            onnx_file(network, dataset)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_arguments_may_be_given_by_name(count: int) -> None:
    network, dataset = build("shallow mlp", precision="float32")

    def forward(x: torch.Tensor) -> torch.Tensor:
        linear = torch.nn.functional.linear
        return torch.relu(input=linear(input=x, weight=network.weights[0], bias=network.biases[0]))

    network.forward = forward
    rows = dataset.test_inputs[:count]
    expected = forward(torch.from_numpy(rows).float()).detach().numpy()
    assert expected.any()
    assert np.allclose(said_by(onnx_file(network, dataset), rows), expected, atol=1e-5)


def test_an_argument_that_is_not_known_is_named() -> None:
    network, dataset = build("shallow mlp")
    network.forward = lambda x: torch.add(x, x, alpha=2)
    with pytest.raises(NotExportable, match="call of `add` is unusual: .*alpha"):
        onnx_file(network, dataset)


def test_no_compiler_is_imported_for_it() -> None:
    """They are three seconds of the first file, and a hundred megabytes of every operation process."""
    look = (
        "import sys; from tests.engine.makers import build; from bimt_engine.exports.onnx import onnx_file;"
        "onnx_file(*build('transformer'));"
        "print([name for name in ('torch._dynamo', 'torch.onnx', 'onnxscript', 'sympy') if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
