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
from bimt_engine.networks.attach import AttachError, attach
from bimt_engine.networks.attach.traced import network_of
from bimt_engine.networks.mlp import MlpNetwork
from bimt_engine.networks.network import build_network
from bimt_engine.spec import CostSpec, EvidenceSpec
from tests.engine.makers import table_data
from tests.engine.networks.attach.zoo import Gpt, LastStep

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


def test_a_small_gpt_with_a_label_for_each_token_is_pruned_and_examined() -> None:
    """Which of three tokens stood one step before: one head that looks back is enough."""
    generator = torch.Generator().manual_seed(100)
    tokens = torch.randint(3, (400, 6), generator=generator)
    rows = TensorDataset(tokens, torch.cat((torch.zeros(400, 1, dtype=torch.long), tokens[:, :-1]), 1))
    torch.manual_seed(100)
    model = Gpt(tokens=3, width=8, heads=2, context=6)
    net = attach(model, tokens[:4])
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for epoch in range(25):
        for x, y in DataLoader(rows, batch_size=50):
            optimiser.zero_grad()
            loss = nn.functional.cross_entropy(model(x).flatten(0, 1), y.flatten())
            (loss + 1e-4 * net.cost()).backward()
            optimiser.step()
        if epoch % 5 == 4:
            net.relocate(optimiser)
    part = [TensorDataset(*rows[first:end]) for first, end in ((0, 300), (300, 350), (350, 400))]
    data = sample_of(net, train=part[0], validation=part[1], test=part[2], target_names=("a", "b", "c"))
    assert data.is_text
    assert data.feature_names == ("token0", "token1", "token2")
    evidence = evidence_of(net, data, evidence=QUICK, nulls=0)
    metrics = evidence.metrics
    assert metrics["trained_test_accuracy"] > 0.9
    assert metrics["test_accuracy"] > 0.85
    assert 0 < metrics["connections"] < metrics["trained_connections"]
    model.eval()
    with torch.no_grad():
        right = (model(part[2].tensors[0]).argmax(-1) == part[2].tensors[1]).double().mean()
    assert metrics["trained_test_accuracy"] == pytest.approx(float(right))
    assert [module["outputs"] for module in evidence.modules] == [["a", "b", "c"]]
    assert np.isfinite(np.array(evidence.effects["matrices"]["mean"])).all()
    assert {"network", "prune-curve", "effects"} <= set(draw_run_figures(evidence, data))
    assert evidence.document()["graph"]["nodes"]


class Tagger(nn.Module):
    """A label for each time step of a sequence of numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.recurrent, self.read_out = nn.GRU(2, 5, batch_first=True), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.read_out(self.recurrent(x)[0])


def test_labels_of_the_steps_of_numbers_are_examined_too() -> None:
    x = torch.randn(200, 5, 2, generator=torch.Generator().manual_seed(100))
    rows = TensorDataset(x, (x[..., 0] > 0).long())
    torch.manual_seed(100)
    model = Tagger()
    net = attach(model, x[:4])
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-2)
    for _ in range(60):
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(x).flatten(0, 1), rows.tensors[1].flatten()).backward()
        optimiser.step()
    data = sample_of(net, train=rows, test=rows)
    evidence = evidence_of(net, data, evidence=QUICK, nulls=0)
    assert evidence.metrics["test_accuracy"] > 0.9
    assert {c.source for c in evidence.graph.connections if c.source.startswith("input")} >= {"input:0"}
    assert {"network", "effects"} <= set(draw_run_figures(evidence, data))


class TwoInputs(nn.Module):
    """One branch for each input, and a sum and a product of what they give."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(3, 5), nn.Linear(2, 4)
        self.read_out = nn.Linear(9, 2)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return self.read_out(torch.cat((torch.tanh(self.left(left)), torch.tanh(self.right(right))), -1))


def test_a_module_with_two_inputs_is_pruned_and_its_two_modules_are_found() -> None:
    generator = torch.Generator().manual_seed(100)
    left, right = torch.randn(300, 3, generator=generator), torch.randn(300, 2, generator=generator)
    y = torch.stack((torch.sin(left[:, 1]), torch.tanh(2 * right[:, 0])), 1)
    torch.manual_seed(100)
    model = TwoInputs()
    net = attach(model, (left[:4], right[:4]))
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-2, weight_decay=0.0)
    for step in range(400):
        optimiser.zero_grad()
        ((model(left, right) - y).square().mean() + 2e-3 * net.cost()).backward()
        optimiser.step()
        if step % 50 == 49:
            net.relocate(optimiser)
    rows = [((a, b), c) for a, b, c in zip(left, right, y, strict=True)]
    batches = DataLoader(rows, batch_size=32)
    data = sample_of(net, train=batches, test=batches)
    assert data.feature_names == ("left1", "left2", "left3", "right1", "right2")
    np.testing.assert_array_equal(data.train_inputs, torch.cat((left, right), 1).double().numpy())
    evidence = evidence_of(net, data, evidence=EvidenceSpec(tolerance=0.02, random_groups=20), nulls=0)
    assert [(m["inputs"], m["outputs"]) for m in evidence.modules] == [(["left2"], ["y1"]), (["right1"], ["y2"])]
    assert evidence.metrics["test_r2"] > 0.9
    assert evidence.metrics["trained_connections"] == 5 * 3 + 4 * 2 + 9 * 2, "there is no connection between branches"
    assert {"network", "prune-curve", "effects"} <= set(draw_run_figures(evidence, data))


class Parts(nn.Module):
    """One input whose first and last entries are read separately, and one entry is not read."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last, self.read_out = nn.Linear(2, 4), nn.Linear(2, 4), nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.read_out(torch.tanh(self.first(x[:, :2]) + self.last(x[:, 3:])))


def test_parts_of_one_input_are_one_layer() -> None:
    x = torch.randn(40, 5, generator=torch.Generator().manual_seed(100), dtype=torch.float64)
    torch.manual_seed(100)
    model = Parts().double()
    net = attach(model, x[:4])
    assert [(layer.name, layer.neurons) for layer in net.wiring.neuron_layers] == [
        ("input", 5), ("first", 4), ("output", 1),
    ]  # fmt: skip
    rows = TensorDataset(x, model(x).detach())
    evidence = evidence_of(net, sample_of(net, train=rows, test=rows), evidence=QUICK, nulls=0)
    read = {c.source for c in evidence.graph.connections if c.source.startswith("input")}
    assert read
    assert read <= {"input:0", "input:1", "input:3", "input:4"}


def test_a_category_that_the_user_encoded_is_one_neuron() -> None:
    generator = torch.Generator().manual_seed(100)
    port = torch.randint(3, (200,), generator=generator)
    x = torch.cat((torch.randn(200, 1, generator=generator), torch.eye(3)[port]), 1)
    y = x[:, :1] + torch.tensor([-1.0, 0.0, 1.5])[port][:, None]
    torch.manual_seed(100)
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 1))
    net = attach(model, x[:4])
    optimiser = torch.optim.Adam(model.parameters(), 0.03)
    for _ in range(200):
        optimiser.zero_grad()
        (model(x) - y).square().mean().backward()
        optimiser.step()
    rows = TensorDataset(x, y)
    columns = {"size": (), "port": ("C", "Q", "S")}
    data = sample_of(net, train=rows, test=rows, columns=columns)
    assert data.feature_names == ("size", "port[C]", "port[Q]", "port[S]")
    evidence = evidence_of(net, data, evidence=QUICK, nulls=0)
    named = [neuron.name for neuron in evidence.graph.neurons if neuron.layer == "input"]
    assert named == ["size", "port"]
    assert evidence.modules[0]["inputs"] == ["size", "port"]
    assert net.wiring.input_layer.runs == (), "the module's own wiring is as it was"
    with pytest.raises(DataError, match="name 2 inputs, but an example has the shape"):
        sample_of(net, train=rows, test=rows, columns={"size": (), "port": ()})
    with pytest.raises(DataError, match="feature_names` or `columns`"):
        sample_of(net, train=rows, test=rows, columns=columns, feature_names="abcd")


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
        ([(torch.rand(3, 4), torch.zeros(3, 5, dtype=torch.long))], r"Targets of the shape \(5,\).* each example, as"),
        ([(torch.rand(3, 4), torch.zeros(3, 5, 2))], r"Targets of the shape \(5, 2\).*give numbers for each example"),
        (
            [(torch.rand(3, 4), torch.tensor([0, 1, -100]))],
            r"has the class -100, and the network has the outputs 0 to 1",
        ),
        ([((torch.rand(3, 4), torch.zeros(3, 1).long()), torch.rand(3, 2))], "not all rows of numbers"),
    ],
)
def test_data_of_another_kind_are_refused_with_a_sentence(train: list[object], sentence: str) -> None:
    with pytest.raises(DataError, match=sentence):
        sample_of(linear_net(), train=train, test=train)


@pytest.mark.parametrize(
    ("targets", "sentence"),
    [
        (torch.zeros(6, dtype=torch.long), "one class for each time step"),
        (torch.zeros(6, 4, dtype=torch.long), "targets for 4 time steps, and an example has 5"),
        (torch.full((6, 5), 2), "has the class 2"),
        (torch.rand(6, 2), "numbers for each time step"),
    ],
)
def test_a_network_that_answers_at_every_step_needs_a_target_for_each(targets: Tensor, sentence: str) -> None:
    net = attach(Tagger(), torch.randn(3, 5, 2))
    rows = TensorDataset(torch.rand(6, 5, 2), targets)
    with pytest.raises(DataError, match=sentence):
        sample_of(net, train=rows, test=rows)


def test_inputs_of_several_shapes_have_cost_and_relocation_but_no_evidence() -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.steps, self.row, self.read_out = nn.Linear(2, 4), nn.Linear(3, 4), nn.Linear(4, 1)

        def forward(self, steps: Tensor, row: Tensor) -> Tensor:
            return self.read_out(torch.tanh(self.steps(steps).mean(1) + self.row(row)))

    model = Mixed().double()
    given = torch.randn(4, 5, 2).double(), torch.randn(4, 3).double()
    net, y = attach(model, given), model(*given)
    assert net.relocate() >= 0
    torch.testing.assert_close(model(*given), y)
    with pytest.raises(AttachError, match="2 inputs, and an analysis follows one, or several that are each a row"):
        network_of(net)


def test_names_must_fit_the_outputs() -> None:
    rows = TensorDataset(torch.rand(10, 4), torch.rand(10, 2))
    with pytest.raises(DataError, match="3 target names were given, but the network has 2 outputs"):
        sample_of(linear_net(), train=rows, test=rows, target_names=("a", "b", "c"))
