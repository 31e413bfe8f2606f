"""A network for other programs: ONNX, from inputs in the order of the data to outputs in the order of the targets."""

from __future__ import annotations

from copy import deepcopy

import numpy as np
import torch

from bimt_engine.datasets.dataset import Dataset
from bimt_engine.networks.build import Network


def onnx_file(network: Network, dataset: Dataset) -> bytes:
    """The network as ONNX at float32, with a free batch axis; input `x`, output `y`.

    Parameters keep their names. The order of neurons and the pruned zeros are folded into the graph, so masks are
    lost: the safetensors file stays the source. Raises CannotBeWritten for a network of other operations.
    """
    from bimt_engine.exports.sketch import BATCH, Sketch

    shape = dataset.train_inputs.shape[1:]
    x = torch.from_numpy(np.zeros((BATCH, *shape), dataset.train_inputs.dtype))
    x = x if dataset.tokens is not None else x.float()
    twin = deepcopy(network).cpu().float().eval()
    with torch.no_grad(), Sketch(twin, x) as sketch:
        outputs = twin(x)
    return sketch.whole(outputs).SerializeToString()
