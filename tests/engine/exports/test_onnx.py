"""Another program that reads the ONNX file gives the same numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bimt_engine.datasets.dataset import Dataset
from bimt_engine.networks.build import build_network
from bimt_engine.spec import MlpNetwork

onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is an extra")


def tables(rows: int) -> Dataset:
    inputs = np.random.default_rng(rows).uniform(-1, 1, (rows, 4))
    return Dataset(inputs, inputs[:, :2], inputs, inputs[:, :2], "regression", ("a", "b", "c", "d"), ("y1", "y2"))


def tokens(rows: int) -> Dataset:
    inputs = np.random.default_rng(rows).integers(0, 7, (rows, 2))
    labels = inputs.sum(1) % 7
    names = tuple("0123456")
    return Dataset(inputs, labels, inputs, labels, "classification", ("a", "b"), names, tokens=7)


@pytest.mark.parametrize("rows", [1, 5, 33])
@pytest.mark.parametrize("make", [tables, tokens])
def test_onnxruntime_gives_the_same_outputs(make, rows: int) -> None:
    from bimt_engine.exports.onnx import onnx_file

    dataset = make(rows)
    width = 6 if dataset.tokens else None
    generator = torch.Generator().manual_seed(3)
    network = build_network(MlpNetwork(hidden=[5], embedding_width=width), dataset, generator=generator)
    network.adopt_orders({"hidden1": torch.tensor([1, 0, 3, 2, 4])})
    session = onnxruntime.InferenceSession(onnx_file(network, dataset), providers=["CPUExecutionProvider"])
    given = dataset.test_inputs if dataset.tokens else dataset.test_inputs.astype(np.float32)
    (theirs,) = session.run(None, {"x": given})
    with torch.no_grad():
        ours = network(torch.from_numpy(dataset.test_inputs)).numpy()
    np.testing.assert_allclose(theirs, ours, atol=1e-5)
