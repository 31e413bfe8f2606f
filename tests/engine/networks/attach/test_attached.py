"""What `attach` gives: cost, relocation and the optimiser, and the places where networks hide their neurons."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from bimt_engine.networks.attach import AttachError, attach
from bimt_engine.networks.attach.proof import Proof, prove
from bimt_engine.networks.attach.traced import network_of
from bimt_engine.networks.attach.views import permuted
from bimt_engine.networks.geometry import line
from bimt_engine.networks.wiring import NeuronLayer, Port, WeightLayer, Wiring
from bimt_engine.spec import CostSpec
from tests.engine.networks.attach.zoo import GptBlock, made, perceptron


def distances(targets: int, sources: int) -> Tensor:
    return (line(targets)[:, None, 0] - line(sources)[None, :, 0]).abs()


def rearranged(name: str, layer: str, order: list[int]) -> tuple[nn.Module, nn.Module, Tensor]:
    """A module, and the same with one neuron layer in another order."""
    model, x = made(name)
    net = attach(model, x)
    moved = copy.deepcopy(model)
    shapes = {n: t.shape for n, t in moved.state_dict().items()}
    axes = net.views.axis_orders({layer: torch.tensor(order)}, shapes)
    with torch.no_grad():
        for n, t in moved.state_dict().items():
            t.copy_(permuted(t, axes.get(n, {})))
    return model.eval(), moved.eval(), x


# --- cost -----------------------------------------------------------------------------------------


def test_the_cost_of_a_kernel_is_the_sum_over_its_taps() -> None:
    model = nn.Sequential(nn.Conv2d(2, 3, 3, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(3 * 4, 2)).double()
    net = attach(model, torch.randn(3, 2, 4, 4, dtype=torch.float64), cost=CostSpec(locality=2.0, layer_spacing=0.3))
    kernel, matrix, bias = model[0].weight, model[3].weight, model[3].bias
    expected = (kernel.abs().sum((2, 3)) * (2 * distances(3, 2) + 0.3)).sum()
    expected = (
        expected + (matrix.abs().view(2, 3, 4).sum(2) * (2 * distances(2, 3) + 0.3)).sum() + 0.3 * bias.abs().sum()
    )
    torch.testing.assert_close(net.cost(), expected)
    mean = torch.autograd.grad(net.cost(), kernel)[0]
    torch.testing.assert_close(mean, torch.autograd.grad(expected, kernel)[0])


def test_a_tied_embedding_pays_once_and_a_shared_matrix_too() -> None:
    model, x = made("gpt")
    net = attach(model, x)
    assert [w.parameter for w in net.wiring.weight_layers].count("wte.weight") == 1
    assert net.wiring.embeddings == ()  # it pays as the read-out; positions pay nothing
    shared, x = made("shared twice")
    assert [w.parameter for w in attach(shared, x).wiring.weight_layers].count("shared.weight") == 1


def test_of_a_weight_that_is_computed_the_computed_one_pays() -> None:
    model, x = made("weight norm")
    net = attach(model, x)
    first, second, last = (model[n].weight for n in (0, 2, 4))
    cost = sum(
        (w.abs() * (distances(*w.shape) + 0.1)).sum() + 0.1 * b.abs().sum()
        for w, b in ((first, model[0].bias), (second, model[2].bias), (last, model[4].bias))
    )
    torch.testing.assert_close(net.cost(), cost)
    length = model[0].parametrizations.weight.original0
    assert torch.autograd.grad(net.cost(), length)[0].abs().sum() > 0


# --- relocation -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["AdamW", "SGD", "RMSprop", "NAdam"])
def test_state_tensors_shaped_like_their_parameters_move_with_them(name: str) -> None:
    torch.manual_seed(0)
    model = perceptron().double()
    x = torch.randn(6, 4, dtype=torch.float64)
    net = attach(model, x)
    optimiser = getattr(torch.optim, name)(model.parameters(), lr=0.01, **{"SGD": {"momentum": 0.9}}.get(name, {}))
    model(x).square().sum().backward()
    optimiser.step()
    before = {p: {k: v.clone() for k, v in s.items() if isinstance(v, Tensor)} for p, s in optimiser.state.items()}
    gradients = {p: p.grad.clone() for p in model.parameters()}
    assert net.relocate(optimiser) > 0
    axes = net.views.axis_orders(net.orders, {n: p.shape for n, p in model.named_parameters()})
    for n, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, permuted(gradients[parameter], axes[n]))
        for key, value in before[parameter].items():
            moved = permuted(value, axes[n]) if value.shape == parameter.shape else value
            torch.testing.assert_close(optimiser.state[parameter][key], moved)


def test_an_optimiser_whose_state_cannot_follow_is_refused_before_anything_moves() -> None:
    torch.manual_seed(0)
    model = perceptron().double()
    x = torch.randn(6, 4, dtype=torch.float64)
    net = attach(model, x)
    optimiser = torch.optim.Adafactor(model.parameters())
    model(x).square().sum().backward()
    optimiser.step()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(AttachError, match=r"'row_var' of '0.weight' with the shape"):
        net.relocate(optimiser)
    assert all(torch.equal(value, before[n]) for n, value in model.state_dict().items())


def test_wide_layers_are_arranged_nearly_as_well_by_exchanges() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 60), nn.Tanh(), nn.Linear(60, 50), nn.Tanh(), nn.Linear(50, 4)).double()
    x = torch.randn(3, 8, dtype=torch.float64)
    exact, quick = attach(copy.deepcopy(model), x), attach(copy.deepcopy(model), x)
    saved, nearly = exact.relocate(), quick.relocate(exact_up_to=16)
    assert 0.85 * saved < nearly < 1.02 * saved
    torch.testing.assert_close(quick.model(x), model(x))


# --- where neurons hide ---------------------------------------------------------------------------


def test_a_residual_stream_is_one_layer_over_all_blocks() -> None:
    class Stream(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.read, self.out = nn.Linear(3, 8), nn.Linear(8, 2)
            self.blocks = nn.ModuleList(GptBlock(8, 2) for _ in range(3))

        def forward(self, x: Tensor) -> Tensor:
            x = self.read(x)
            for block in self.blocks:
                x = block(x)
            return self.out(x)

    net = attach(Stream().double(), torch.randn(3, 4, 3, dtype=torch.float64))
    assert net.wiring.streams == {"read"}
    assert len(net.wiring.out_of("read")) == 3 + 3 + 1
    assert len(net.wiring.into("read")) == 1 + 3 + 3


def test_whole_heads_trade_places_and_neurons_within_one_but_no_neuron_leaves_its_head() -> None:
    model, moved, x = rearranged("gpt", "block_c_attn", [5, 4, 7, 6, 0, 2, 1, 3])
    torch.testing.assert_close(moved(x), model(x), rtol=0, atol=1e-12)
    model, moved, x = rearranged("gpt", "block_c_attn", [4, 1, 2, 3, 0, 5, 6, 7])
    assert (moved(x) - model(x)).abs().max() > 1e-3


def test_with_grouped_queries_and_rotary_positions_whole_groups_trade_places() -> None:
    model, moved, x = rearranged("llama", "q_proj", [4, 5, 6, 7, 0, 1, 2, 3])
    torch.testing.assert_close(moved(x), model(x), rtol=0, atol=1e-12)
    model, moved, x = rearranged("llama", "q_proj", [1, 0, 2, 3, 4, 5, 6, 7])
    assert (moved(x) - model(x)).abs().max() > 1e-6


def test_groups_of_a_convolution_trade_places_on_both_sides_together() -> None:
    model, x = made("grouped convolution")
    net = attach(model, x)
    by_name = {layer.name: layer for layer in net.wiring.neuron_layers}
    assert by_name["layer_0"].tied == ("layer_2",)
    assert by_name["layer_2"].tied == ("layer_0",)
    with torch.no_grad():  # group 0 is read from the far end and group 2 from the near one
        model[0].weight.zero_()
        model[0].weight[:2, 1] = model[0].weight[4:, 0] = 5.0
        model[4].weight.zero_()
        model[4].weight[4, :3] = model[4].weight[0, 6:] = 5.0
    y = model(x)
    assert net.relocate() > 0
    assert net.orders["layer_0"].tolist() == [4, 5, 2, 3, 0, 1]
    assert [run // 3 for run in net.orders["layer_2"].tolist()] == [2, 2, 2, 1, 1, 1, 0, 0, 0]
    torch.testing.assert_close(model(x), y)


def test_a_parameter_of_every_head_moves_with_the_heads() -> None:
    class Tempered(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.qkv, self.out = nn.Linear(4, 24), nn.Linear(8, 2)
            self.temperature = nn.Parameter(torch.rand(2, 1, 1) + 0.5)

        def forward(self, x: Tensor) -> Tensor:
            q, k, v = (t.unflatten(-1, (2, 4)).transpose(1, 2) for t in self.qkv(x).chunk(3, -1))
            weights = (q @ k.transpose(-2, -1) * self.temperature).softmax(-1)
            return self.out((weights @ v).transpose(1, 2).flatten(2))

    torch.manual_seed(0)
    model = Tempered().double()
    x = torch.randn(3, 5, 4, dtype=torch.float64)
    net = attach(model, x)
    assert {layer.name: layer.moves for layer in net.wiring.hidden_layers} == {"qkv": "all"}
    before = model.temperature.detach().clone()
    with torch.no_grad():
        model.out.weight.zero_()
        model.out.weight[1, :4] = model.out.weight[0, 4:] = 3.0
    y = model(x)
    assert net.relocate() > 0
    torch.testing.assert_close(model.temperature.detach(), before.flip(0))
    torch.testing.assert_close(model(x), y)


def test_channels_that_are_shuffled_between_groups_are_followed() -> None:
    class Shuffled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(1, 6, 1), nn.Conv2d(6, 4, 1)
            self.out = nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = functional.relu(self.first(x))
            x = x.unflatten(1, (2, 3)).transpose(1, 2).flatten(1, 2)
            return self.out(functional.relu(self.second(x)).mean((2, 3)))

    model = Shuffled().double()
    x = torch.randn(3, 1, 3, 3, dtype=torch.float64)
    net = attach(model, x)
    y = model(x)
    assert net.relocate() > 0
    torch.testing.assert_close(model(x), y)


def test_a_frozen_parameter_moves_and_is_no_unknown_of_a_refit() -> None:
    model = perceptron().double()
    model[0].weight.requires_grad_(False)
    net = attach(model, torch.randn(3, 4, dtype=torch.float64))
    assert "0.weight" in net.wiring.buffers
    assert net.wiring.layer("layer_0").movable
    assert not network_of(net).get_parameter("0.weight").requires_grad


# --- the proof ------------------------------------------------------------------------------------


def test_the_proof_finds_a_port_that_is_missing() -> None:
    model, x = made("residual cnn")
    net = attach(model, x)
    along = dict(net.views.along)
    along["block1_conv1"] = tuple(a for a in along["block1_conv1"] if not a.tensor.endswith("running_var"))
    from dataclasses import replace

    failed = prove(Proof(model, (x,), replace(net.views, along=along)))
    assert list(failed) == ["block1_conv1"]
    assert "differs in" in failed["block1_conv1"]


def test_a_wiring_by_hand_reads_kernels_as_they_are() -> None:
    model = nn.Sequential(nn.Conv2d(2, 5, 3, padding=1), nn.ReLU(), nn.Conv2d(5, 3, 3, padding=1)).double()
    x = torch.randn(3, 2, 4, 4, dtype=torch.float64)
    hidden = NeuronLayer("hidden", line(5), (Port("0.weight", 0), Port("0.bias", 0), Port("2.weight", 1)))
    wiring = Wiring(
        (
            NeuronLayer("input", line(2), (Port("0.weight", 1),), movable=False),
            hidden,
            NeuronLayer("output", line(3), (Port("2.weight", 0), Port("2.bias", 0)), movable=False),
        ),
        (
            WeightLayer("0.weight", "input", "hidden", bias="0.bias"),
            WeightLayer("2.weight", "hidden", "output", bias="2.bias"),
        ),
    )
    by_hand, derived = attach(model, x, wiring=wiring), attach(model, x)
    assert by_hand.pinned == ()
    torch.testing.assert_close(by_hand.cost(), derived.cost())
    y = model(x)
    assert by_hand.relocate() > 0
    torch.testing.assert_close(model(x), y)
    with pytest.raises(AttachError, match="given by hand"):
        network_of(by_hand)
