"""The evidence for a user's own module is that of any network, from data as the user feeds it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from bimt_engine.analysis.attached import evidence_of, sample_of
from bimt_engine.analysis.evidence import Questions, gather_evidence
from bimt_engine.errors import DataError
from bimt_engine.figures.registry import draw_run_figures
from bimt_engine.networks.attach import attach
from bimt_engine.networks.mlp import MlpNetwork
from bimt_engine.networks.network import build_network
from bimt_engine.spec import CostSpec, EvidenceSpec
from tests.engine.makers import table_data
from tests.engine.networks.attach.zoo import LastStep

QUICK = EvidenceSpec(tolerance=0.05, random_groups=20)


def test_a_perceptron_of_the_users_has_the_evidence_of_the_built_in_one() -> None:
    data = table_data(3, 1, examples=60)
    network = build_network(MlpNetwork(hidden=[3]), data, generator=torch.Generator().manual_seed(0))
    values = dict(network.named_parameters())
    model = nn.Sequential(nn.Linear(3, 3), nn.SiLU(), nn.Dropout(0.3), nn.Linear(3, 1)).double()
    with torch.no_grad():
        for layer, number in ((model[0], 0), (model[3], 1)):
            layer.weight.copy_(values[f"weights.{number}"])
            layer.bias.copy_(values[f"biases.{number}"])
    net = attach(model, torch.from_numpy(data.train_inputs[:4]))
    own = evidence_of(net, data, evidence=QUICK, nulls=0)
    built_in = gather_evidence(network, data, Questions(QUICK, CostSpec()), seed=0, nulls=0)
    assert own.prune_curve == built_in.prune_curve
    ours, theirs = ({(c.parameter, c.row, c.column): c for c in e.graph.connections} for e in (own, built_in))
    assert ours.keys() == theirs.keys()
    for key, connection in ours.items():
        assert connection.weight == pytest.approx(theirs[key].weight, rel=1e-9)
        assert connection.length == theirs[key].length
        assert connection.effect == pytest.approx(theirs[key].effect, rel=1e-6, abs=1e-12)
    np.testing.assert_allclose(own.effects["matrices"]["mean"], built_in.effects["matrices"]["mean"], rtol=1e-6)
    assert own.readout["outputs"]
    assert own.readout["reading"] == built_in.readout["reading"]


def test_a_recurrent_module_is_pruned_and_examined_from_a_loader() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(300, 4, 3, generator=generator)
    rows = TensorDataset(x, (x[:, -1, 0] > 0).long())
    torch.manual_seed(0)
    model = LastStep(nn.GRU(3, 6, batch_first=True), nn.Identity(), 6)
    net = attach(model, x[:3])
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(15):
        for inputs, labels in DataLoader(rows, batch_size=50):
            optimiser.zero_grad()
            (nn.functional.cross_entropy(model(inputs), labels) + 1e-3 * net.cost()).backward()
            optimiser.step()
        net.relocate(optimiser)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    part = [TensorDataset(*rows[first:end]) for first, end in ((0, 200), (200, 250), (250, 300))]
    data = sample_of(net, train=DataLoader(part[0], batch_size=32), validation=part[1], test=part[2])
    evidence = evidence_of(net, data, evidence=QUICK, nulls=0)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert 0 < evidence.metrics["connections"] <= 20
    assert evidence.metrics["test_accuracy"] > 0.9
    assert [module["outputs"] for module in evidence.modules] == [["0", "1"]]
    assert {c.target.split(":")[0] for c in evidence.graph.connections} >= {"recurrent", "output"}
    assert {"network", "prune-curve", "effects"} <= set(draw_run_figures(evidence, data))
    assert evidence.document()["graph"]["nodes"]


# --- the data -------------------------------------------------------------------------------------


def linear_net(inputs: int = 4, outputs: int = 2):
    model = nn.Sequential(nn.Flatten(), nn.Linear(inputs, outputs))
    return attach(model, torch.randn(3, inputs))


def test_examples_are_drawn_from_a_stream_that_is_gone_through_once() -> None:
    gone_through = 0

    def stream() -> Iterator[tuple[Tensor, Tensor]]:
        nonlocal gone_through
        for number in range(100):
            gone_through += 1
            yield torch.full((7, 4), float(number)), torch.full((7, 2), float(number))

    data = sample_of(linear_net(), train=stream(), test=stream(), examples=60, seed=3)
    assert gone_through == 200
    assert data.train_inputs.shape == (60, 4)
    np.testing.assert_array_equal(data.train_inputs[:, 0], data.train_targets[:, 0])
    assert (np.diff(data.train_inputs[:, 0]) >= 0).all()
    assert np.mean(data.train_inputs) == pytest.approx(49.5, abs=12)
    again = sample_of(linear_net(), train=stream(), test=stream(), examples=60, seed=3)
    np.testing.assert_array_equal(again.train_inputs, data.train_inputs)
    other = sample_of(linear_net(), train=stream(), test=stream(), examples=60, seed=4)
    assert (other.train_inputs != data.train_inputs).any()


def test_images_lie_flat_and_their_pixels_have_names() -> None:
    rows = TensorDataset(torch.rand(10, 1, 2, 2), torch.randint(2, (10,)))
    data = sample_of(linear_net(), train=rows, test=rows)
    assert data.feature_names == ("pixel[0,0]", "pixel[0,1]", "pixel[1,0]", "pixel[1,1]")
    assert data.task == "classification"
    assert data.target_names == ("0", "1")


@pytest.mark.parametrize(
    ("train", "sentence"),
    [
        ([], "The train part has no examples"),
        ([torch.rand(3, 4)], r"must give pairs \(inputs, targets\), but gives Tensor"),
        ([(torch.rand(3, 4), torch.zeros(3, 5, dtype=torch.long))], r"Targets of the shape \(5,\)"),
    ],
)
def test_data_of_another_kind_are_refused_with_a_sentence(train: list[object], sentence: str) -> None:
    with pytest.raises(DataError, match=sentence):
        sample_of(linear_net(), train=train, test=train)


def test_names_must_fit_the_outputs() -> None:
    rows = TensorDataset(torch.rand(10, 4), torch.rand(10, 2))
    with pytest.raises(DataError, match="3 target names were given, but the network has 2 outputs"):
        sample_of(linear_net(), train=rows, test=rows, target_names=("a", "b", "c"))
