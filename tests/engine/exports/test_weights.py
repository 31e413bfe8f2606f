"""A weights file restores exactly the network that was saved, or is refused with a sentence."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bimt_engine.data.dataset import Dataset, Scaling
from bimt_engine.exports.weights import WeightsError, load_weights, weights_file
from bimt_engine.networks.mlp import MlpNetwork
from bimt_engine.networks.network import Network, build_network
from bimt_engine.spec import Spec


@pytest.fixture
def dataset() -> Dataset:
    inputs = np.random.default_rng(0).uniform(-1, 1, (6, 4))
    scaling = Scaling.of(inputs)
    targets = inputs[:, :2].copy()
    names = ("x1", "x2", "x3", "x4")
    return Dataset(inputs, targets, inputs, targets, "regression", names, ("y1", "y2"), input_scaling=scaling)


@pytest.fixture
def spec() -> Spec:
    data = {"kind": "formula", "inputs": 4, "formulas": ["x1", "x2"]}
    return Spec.model_validate({"dataset": data, "network": {"kind": "mlp", "hidden": [5]}})


def drawn(dataset: Dataset, seed: int) -> Network:
    generator = torch.Generator().manual_seed(seed)
    network = build_network(MlpNetwork(hidden=[5]), dataset, precision="float64", generator=generator)
    network.adopt_orders({"input": torch.tensor([2, 0, 3, 1]), "output": torch.tensor([1, 0])})
    return network


def test_the_loaded_network_gives_the_saved_network_s_outputs_bit_for_bit(dataset: Dataset, spec: Spec) -> None:
    trained, pruned = drawn(dataset, 1), drawn(dataset, 2)
    saved = load_weights(weights_file(trained, pruned, spec=spec, seed=7, dataset=dataset))
    x = torch.from_numpy(dataset.test_inputs)
    assert torch.equal(saved.network(x), pruned(x))
    assert torch.equal(saved.trained(x), trained(x))
    assert saved.seed == 7
    assert saved.spec == spec
    assert saved.data.feature_names == dataset.feature_names
    assert np.array_equal(saved.data.input_scaling.mean, dataset.input_scaling.mean)


def test_the_same_networks_give_the_same_bytes(dataset: Dataset, spec: Spec) -> None:
    first, second = (
        weights_file(drawn(dataset, 1), drawn(dataset, 2), spec=spec, seed=0, dataset=dataset) for _ in range(2)
    )
    assert first == second


def test_masks_say_what_was_kept(dataset: Dataset, spec: Spec) -> None:
    pruned = drawn(dataset, 2)
    with torch.no_grad():
        pruned.weights[0][1, 2] = 0
    saved = load_weights(weights_file(drawn(dataset, 1), pruned, spec=spec, seed=0, dataset=dataset))
    assert not saved.masks["weights.0"][1, 2]
    assert saved.masks["weights.0"].sum() == pruned.weights[0].numel() - 1


@pytest.mark.parametrize("content", [b"", b"not a network", b"\x08\0\0\0\0\0\0\0{}      ", bytes(100)])
def test_other_bytes_are_refused_with_a_sentence(content: bytes) -> None:
    with pytest.raises(WeightsError, match="not a safetensors file|this version reads"):
        load_weights(content)
