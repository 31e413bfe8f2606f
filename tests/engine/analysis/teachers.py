"""Networks whose truth is known: sparse teachers, and students that know the same with a little residue everywhere."""

from __future__ import annotations

import numpy as np
import torch

from bimt_engine.data.dataset import Dataset
from bimt_engine.data.kinds.synthetic import FormulaData
from bimt_engine.networks.mlp import MlpNetwork
from bimt_engine.networks.network import Network, build_network
from bimt_engine.spec import Spec

RESIDUE = 1e-3  # what AdamW with a |w| subgradient leaves in place of zeros

# (weight layer, target slot, source slot, weight): x1 and x3 decide y1, x2 and x4 decide y2.
TWO_MODULES = (
    (0, 0, 0, 1.5), (0, 0, 2, 1.2), (0, 1, 0, -1.1), (0, 1, 2, -1.4),
    (0, 4, 1, 1.3), (0, 4, 3, -1.6), (0, 5, 1, -1.2), (0, 5, 3, 0.9),
    (1, 0, 0, 1.4), (1, 0, 1, 1.1), (1, 1, 1, -1.3), (1, 4, 4, 1.2), (1, 5, 5, 1.5), (1, 4, 5, -1.0),
    (2, 0, 0, 1.6), (2, 0, 1, -1.2), (2, 1, 4, 1.3), (2, 1, 5, -1.5),
)  # fmt: skip
# The same with one connection across: x1 reaches y2 as well.
TANGLED = (*TWO_MODULES, (1, 4, 0, 1.2))


def teacher(connections=TWO_MODULES, *, hidden: int = 8, residue: float = 0.0, seed: int = 0) -> Network:
    """A 4-h-h-2 perceptron with these connections, and noise of this size on all others."""
    draw = np.random.default_rng(seed)
    network = build_network(
        MlpNetwork(hidden=[hidden, hidden]), data_of(None), generator=torch.Generator().manual_seed(seed)
    )
    with torch.no_grad():
        for weight in network.weights:
            weight.copy_(torch.from_numpy(residue * draw.normal(size=tuple(weight.shape))))
        for bias in network.biases:
            bias.zero_()
        for layer, target, source, value in connections:
            network.weights[layer][target, source] = value
            if layer < 2:
                network.biases[layer][target] = 0.3 * value
    return network


def data_of(network: Network | None, *, examples: int = 100, seed: int = 0) -> Dataset:
    """Random inputs and what the network says to them (or nothing yet)."""
    draw = np.random.default_rng(seed)
    x = draw.uniform(-1, 1, (2 * examples, 4))
    y = np.zeros((2 * examples, 2))
    if network is not None:
        with torch.no_grad():
            y = network(torch.from_numpy(x)).numpy()
    return Dataset(
        x[:examples], y[:examples], x[examples:], y[examples:], "regression",
        ("x1", "x2", "x3", "x4"), ("y1", "y2"),
    )  # fmt: skip


def student_and_data(connections=TWO_MODULES, *, seed: int = 0) -> tuple[Network, Dataset]:
    """A network with residue on every weight, and the data of its sparse teacher."""
    return teacher(connections, residue=RESIDUE, seed=seed), data_of(teacher(connections, seed=seed), seed=seed)


def plain_spec(**evidence: object) -> Spec:
    """A spec whose data part is a placeholder: the data are handed in. No genetic search unless it is asked for."""
    evidence = {"formula_searches": 0} | evidence
    return Spec.model_validate({"dataset": FormulaData(formulas=["x1"], inputs=1), "evidence": evidence})
