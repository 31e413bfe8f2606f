"""What a network says in the units of the data: raw columns in, raw answers out, scaled on the way as in training."""

from __future__ import annotations

import torch
from torch import Tensor

from bimt_engine.data.dataset import Dataset, Scaling
from bimt_engine.networks.network import Network


def in_units_of_data(network: Network, data: Dataset, x: Tensor) -> Tensor:
    """The network's answers to rows as they stand in the data: targets, or of classes the probabilities.

    data   shape, names and scalings; no rows are looked at
    x      float64 numbers or int64 tokens. Numbers are scaled at float64 and computed with at the network's precision,
           so that a column such as a date in seconds keeps its digits.
    Gives float64, of sequences the predicted steps only.
    """
    if data.tokens is None:
        x = _to(_standardised(x, data.input_scaling), next(network.parameters()).dtype)
    outputs = network(x)
    if data.predicted_positions is not None:
        outputs = outputs.index_select(1, _steps(data, outputs.shape[1]))
    if data.task == "classification":
        outputs = torch.softmax(outputs, -1)
    outputs = _to(outputs, torch.float64)
    if data.target_scaling is not None:
        mean, std = _tensors(data.target_scaling)
        outputs = outputs * std + mean
    return outputs


def _standardised(x: Tensor, scaling: Scaling | None) -> Tensor:
    if scaling is None:
        return x
    mean, std = _tensors(scaling)
    return (x - mean) / std


def _tensors(scaling: Scaling) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(scaling.mean), torch.from_numpy(scaling.std)


def _steps(data: Dataset, time: int) -> Tensor:
    """Which steps are predicted, counted from the first."""
    return torch.tensor([step % time for step in data.predicted_positions or ()])


def _to(x: Tensor, dtype: torch.dtype) -> Tensor:
    return x if x.dtype == dtype else x.to(dtype)
