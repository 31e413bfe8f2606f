"""What `attach` does not understand it pins or refuses, with a sentence that says what is in the way."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bimt_engine.networks.attach import AttachError, attach
from bimt_engine.networks.geometry import line
from bimt_engine.networks.wiring import NeuronLayer, Port, WeightLayer, Wiring

X = torch.randn(5, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


class Between(nn.Module):
    """Two linear layers and something between them."""

    def __init__(self, between: Callable[[Any, Tensor], Tensor], hidden: int = 6) -> None:
        super().__init__()
        self.first, self.last, self.between = nn.Linear(4, hidden), nn.Linear(hidden, 2), between
        self.register_buffer("saved", torch.linspace(1, 2, hidden))
        self.register_buffer("made_anew", torch.linspace(1, 2, hidden), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.between(self, torch.tanh(self.first(x))))


@torch.library.custom_op("bimt_tests::shifted", mutates_args=())
def shifted(x: Tensor) -> Tensor:
    """An operator of a library of its own."""
    return torch.roll(x, 1, -1)


@shifted.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


shifted.register_autograd(lambda context, gradient: torch.roll(gradient, -1, -1))


class OrderedGradient(torch.autograd.Function):
    """The identity, whose gradient depends on the place of a neuron."""

    @staticmethod
    def forward(context: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        return gradient * torch.arange(1, gradient.shape[-1] + 1, dtype=gradient.dtype)


def first_is_zero(module: Any, hidden: Tensor) -> Tensor:
    hidden = hidden.clone()
    hidden[:, 0] = 0.0
    return hidden


PINNED: dict[str, tuple[Callable[[Any, Tensor], Tensor], str]] = {
    "index into channels": (lambda m, h: h[:, [2, 0, 1, 5, 4, 3]], "`index` in the network itself: axis 1 is indexed"),
    "unknown operator": (
        lambda m, h: torch.fft.fft(h).real,
        "`fft_fft` in the network itself is not understood: axis 1",
    ),
    "operator of one's own": (lambda m, h: shifted(h), "`bimt_tests::shifted` in the network itself is not understood"),
    "written in place": (first_is_zero, "`select` in the network itself: one entry of axis 1 is taken"),
    "flipped": (lambda m, h: h + h.flip(-1), "`flip` in the network itself depends on the order along axis 1"),
    "sorted": (lambda m, h: h.sort(-1).values, "`sort` in the network itself depends on the order along axis 1"),
    "running sum": (lambda m, h: h.cumsum(-1), "`cumsum` in the network itself depends on the order along axis 1"),
    "noise": (lambda m, h: h * torch.rand_like(h), "`rand_like` in the network itself is not understood: axis 1"),
    "by position": (lambda m, h: h * torch.arange(6), "`arange` in the network itself makes a constant"),
    "unsaved buffer": (lambda m, h: h * m.made_anew, "buffer made_anew is made anew by the code and not saved"),
    "gradient by position": (lambda m, h: OrderedGradient.apply(h), "the proof failed: after an exchange, gradient of"),
    "another way in training": (lambda m, h: h.flip(-1) * h if m.training else h, "differs in training mode"),
    "convolved along": (
        lambda m, h: nn.functional.avg_pool1d(h[:, None], 3, 1, 1)[:, 0],
        "`avg_pool1d` in the network itself slides along axis 2",
    ),
}


@pytest.mark.parametrize("case", PINNED)
def test_a_layer_that_depends_on_the_order_is_pinned_with_the_reason(case: str) -> None:
    between, reason = PINNED[case]
    net = attach(Between(between).double(), X)
    assert not [layer.name for layer in net.wiring.neuron_layers if layer.movable]
    assert any(reason in pinned.reason for pinned in net.pinned), [pinned.reason for pinned in net.pinned]
    before = copy.deepcopy(net.model.state_dict())
    assert net.relocate() == 0.0
    assert all(torch.equal(value, before[name]) for name, value in net.model.state_dict().items())


def test_a_saved_buffer_that_lies_along_the_neurons_moves_with_them() -> None:
    model = Between(lambda m, h: h * m.saved).double()
    net = attach(model, X)
    y = model(X)
    assert net.relocate() > 0
    assert not torch.equal(model.saved, torch.linspace(1, 2, 6).double())
    torch.testing.assert_close(model(X), y)


def test_parts_of_a_layer_that_are_treated_apart_move_apart() -> None:
    model = Between(lambda m, h: torch.cat((h[:, :2].relu(), h[:, 2:].sin()), -1)).double()
    net = attach(model, X)
    assert sorted(layer.neurons for layer in net.wiring.hidden_layers) == [2, 4]
    assert all(layer.movable for layer in net.wiring.hidden_layers)


class _Branches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.first(x) if x.sum() > 0 else self.first(-x)


class _Selects(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 3), nn.Linear(3, 1)

    def forward(self, x: Tensor) -> Tensor:
        rows = torch.tanh(self.first(x))
        return self.last(rows[rows[:, 0] > 0])


REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "a branch on the data": (_Branches, "torch.export cannot follow this network"),
    "a shape that depends on the data": (_Selects, "depends on the data"),
    "no weights": (lambda: nn.Sequential(nn.ReLU()), "no product of an activation with a parameter"),
    "a stored weight": (lambda: nn.utils.weight_norm(nn.Linear(4, 2)), "parametrizations.weight_norm"),
    "another size of inputs": (lambda: nn.Linear(7, 2), "torch.export cannot follow this network"),
}


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("case", REFUSED)
def test_a_network_that_cannot_be_followed_is_refused_with_a_sentence(case: str) -> None:
    build, sentence = REFUSED[case]
    with pytest.raises(AttachError, match=sentence):
        attach(build().double(), X)


# --- by hand --------------------------------------------------------------------------------------


def by_hand() -> Wiring:
    hidden = NeuronLayer("hidden", line(3), (Port("first.weight", 0), Port("first.bias", 0), Port("last.weight", 1)))
    return Wiring(
        (
            NeuronLayer("input", line(4), (Port("first.weight", 1),), movable=False),
            hidden,
            NeuronLayer("output", line(1), (Port("last.weight", 0), Port("last.bias", 0)), movable=False),
        ),
        (
            WeightLayer("first.weight", "input", "hidden", bias="first.bias"),
            WeightLayer("last.weight", "hidden", "output", bias="last.bias"),
        ),
    )


def test_what_cannot_be_exported_takes_a_wiring_by_hand_with_the_same_proof() -> None:
    model = _Selects().double()
    net = attach(model, X, wiring=by_hand())
    y = model(X)
    assert net.relocate() >= 0
    torch.testing.assert_close(model(X), y)
    # The selection reads neuron 0 alone, so an exchange of it is seen by the proof.
    assert [pinned.what for pinned in net.pinned] == ["hidden"]
    assert "the proof failed" in net.pinned[0].reason


def test_a_wiring_by_hand_that_names_what_is_not_there_is_refused() -> None:
    with pytest.raises(AttachError, match=r"'first.weight', which is no parameter"):
        attach(nn.Linear(4, 2).double(), X, wiring=by_hand())
