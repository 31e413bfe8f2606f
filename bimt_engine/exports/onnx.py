"""A network for other programs: ONNX, from inputs in the order of the data to outputs in the order of the targets."""

from __future__ import annotations

import logging
import tempfile
import warnings
from copy import deepcopy
from pathlib import Path

import numpy as np
import torch

from bimt_engine.datasets.dataset import Dataset
from bimt_engine.networks.build import Network


def onnx_file(network: Network, dataset: Dataset) -> bytes:
    """The network as ONNX at float32, with a free batch axis; input `x`, output `y`.

    The order of neurons and the pruned zeros are folded into the graph, so names and masks are lost:
    the safetensors file stays the source.
    """
    # Zeros where the data set has a shape and no rows, as one that was loaded from a file.
    nothing = np.zeros((1, *dataset.train_inputs.shape[1:]), dataset.train_inputs.dtype)
    example = dataset.train_inputs[:1] if len(dataset.train_inputs) else nothing
    x = torch.from_numpy(np.repeat(example, 2, axis=0))  # two rows: the exporter takes an axis of one for a constant
    x = x if dataset.tokens is not None else x.float()
    twin = deepcopy(network).float().eval()
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own deprecations are not our users' concern
        program = torch.onnx.export(
            twin,
            (x,),
            dynamo=True,
            verbose=False,
            dynamic_shapes={"x": {0: torch.export.Dim("batch")}},
            input_names=["x"],
            output_names=["y"],
        )
        assert program is not None  # with dynamo=True it always comes back
        path = Path(folder) / "network.onnx"
        program.save(path)
        return path.read_bytes()
