"""Sheets of neurons on 2-D grids: the input grid stays where the pixels are, the outputs lie on a ring."""

from __future__ import annotations

import torch

from bimt_engine.datasets.dataset import Dataset
from bimt_engine.errors import SpecError
from bimt_engine.networks.geometry import place_layers
from bimt_engine.networks.mlp import Mlp
from bimt_engine.spec import GridMlpNetwork


def build_grid_mlp(spec: GridMlpNetwork, dataset: Dataset, *, dtype: torch.dtype, generator: torch.Generator) -> Mlp:
    """A perceptron whose inputs and hidden layers are grids. Raises SpecError for sequences and tokens."""
    if dataset.is_sequence or dataset.tokens is not None:
        raise SpecError("A `grid_mlp` reads images or tables of numbers: ask for another network.")
    sizes = [dataset.inputs, *spec.hidden, dataset.targets]
    shapes = ["grid"] * (len(sizes) - 1) + ["ring"]
    return Mlp(
        place_layers(sizes, shapes),
        activation=spec.activation,
        dtype=dtype,
        generator=generator,
        move_inputs=spec.move_inputs,
        move_outputs=spec.move_outputs,
    )
