"""A network for other programs: ONNX, from the columns as they stand in the data to the targets in the same units."""

from __future__ import annotations

import json
from collections.abc import Mapping
from copy import deepcopy

import numpy as np
import torch

from bimt_engine.data.dataset import Dataset
from bimt_engine.networks.network import Network, in_units_of_data


def onnx_file(network: Network, data: Dataset, about: Mapping[str, str] | None = None) -> bytes:
    """The network as ONNX with a free batch axis: input `x`, rows of raw columns; output `y`, what one would predict.

    data    shape, names and scalings; no rows are looked at. The scalings are nodes of the graph.
    about   where the network comes from; written into the metadata beside the names of its columns

    Numbers are float64 at both ends, where they are scaled, and float32 between; tokens are int64. Of a table whose
    columns are encoded, `x` holds a code for each column (of a date in parts, several): a number as it is, 0 or 1, days
    since 1970-01-01, of a category the number of its level; NaN where there is no value. The levels stand in the
    metadata under `columns`, as `EncodedColumn` describes them. Parameters keep their names. The order of neurons and
    the pruned zeros are folded into the graph, so masks are lost: the safetensors file stays the source. Raises
    NotExportable for a network of other operations.
    """
    from onnx import helper

    from bimt_engine.exports.onnx_tracer import BATCH, OnnxTracer

    shape = data.train_inputs.shape[1:] if data.encoding is None else (len(data.encoding.code_names),)
    x = torch.from_numpy(np.zeros((BATCH, *shape), np.int64 if data.tokens else np.float64))
    float32_copy = deepcopy(network).cpu().float().eval()
    with torch.no_grad(), OnnxTracer(float32_copy, x) as tracer:
        y = in_units_of_data(float32_copy, data, x)
    file = tracer.model(y)
    read = data.feature_names if data.encoding is None else data.encoding.code_names
    file.graph.input[0].doc_string = f"as they stand in the data: {', '.join(read)}"
    answers = "the probability of each class" if data.task == "classification" else "the targets"
    file.graph.output[0].doc_string = f"{answers}: {', '.join(data.predicted_names)}"
    helper.set_model_props(file, {**(about or {}), **_columns(data)})
    return file.SerializeToString()


def _columns(data: Dataset) -> dict[str, str]:
    """What the columns of `x` and `y` are. Lists are JSON."""
    read = data.feature_names if data.encoding is None else data.encoding.code_names
    names: dict[str, tuple[str | int, ...]] = {"feature_names": read, "target_names": data.predicted_names}
    if data.task == "classification":
        names["classes"] = data.target_names
    if data.predicted_positions is not None:
        names["predicted_positions"] = data.predicted_positions
    metadata = {"task": data.task} | {name: json.dumps(list(row), ensure_ascii=False) for name, row in names.items()}
    if data.encoding is not None:
        metadata["columns"] = json.dumps(data.encoding.to_json(), ensure_ascii=False)
    return metadata
