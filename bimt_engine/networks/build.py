"""From a spec to a network: one table from kind to builder."""

from __future__ import annotations

from typing import Any, Literal, Protocol

import torch

from bimt_engine.datasets.dataset import Dataset
from bimt_engine.networks.grid_mlp import build_grid_mlp
from bimt_engine.networks.mlp import build_mlp
from bimt_engine.networks.network import Edit, Network
from bimt_engine.networks.recurrent import build_recurrent
from bimt_engine.networks.transformer import build_transformer
from bimt_engine.spec import NetworkSpec

__all__ = ["BUILDERS", "DTYPES", "Edit", "Network", "build_network"]

DTYPES = {"float32": torch.float32, "float64": torch.float64}


class Builder(Protocol):
    def __call__(self, spec: Any, dataset: Dataset, *, dtype: torch.dtype, generator: torch.Generator) -> Network: ...


BUILDERS: dict[str, Builder] = {
    "mlp": build_mlp,
    "grid_mlp": build_grid_mlp,
    "transformer": build_transformer,
    "recurrent": build_recurrent,
}


def build_network(
    spec: NetworkSpec,
    dataset: Dataset,
    *,
    precision: Literal["float32", "float64"] = "float64",
    generator: torch.Generator,
) -> Network:
    """A freshly drawn network that fits the data, on the CPU. Raises SpecError when the two do not fit."""
    return BUILDERS[spec.kind](spec, dataset, dtype=DTYPES[precision], generator=generator)
