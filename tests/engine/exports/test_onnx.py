"""Another program that reads the ONNX file gives the same numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.engine.makers import ARCHITECTURES, build

onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is an extra")


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_onnxruntime_gives_the_same_outputs(name: str) -> None:
    from bimt_engine.exports.onnx import onnx_file

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
