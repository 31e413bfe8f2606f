"""All steppers take the same steps: written-out gradients and the compiled kernel against automatic differentiation."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from bimt_engine.data.dataset import Dataset
from bimt_engine.networks.mlp import GridMlpNetwork, MlpNetwork
from bimt_engine.networks.network import Network, build_network
from bimt_engine.networks.transformer import TransformerNetwork
from bimt_engine.spec import OptimiserSpec, TrainingSpec
from bimt_engine.training.backends.autograd import AutogradStepper
from bimt_engine.training.backends.batched import BatchedStepper
from bimt_engine.training.backends.kernel import KernelUnavailable, load_kernel
from bimt_engine.training.backends.kernel.stepper import KernelStepper
from bimt_engine.training.batches import TensorData
from bimt_engine.training.state import TrainingState

STEPS = 200


def numbers(rows: int, inputs: int, outputs: int, *, classes: bool = False, zeros: float = 0.0) -> Dataset:
    """A table drawn from a fixed seed; `zeros` is the share of inputs that are 0."""
    draw = np.random.default_rng(rows + inputs)
    x = draw.uniform(-1, 1, (rows + 31, inputs)) * (draw.uniform(size=(rows + 31, inputs)) >= zeros)
    y = draw.integers(0, outputs, rows + 31) if classes else draw.uniform(-1, 1, (rows + 31, outputs))
    return dataset(x, y, rows, outputs, classes=classes)


def pairs(rows: int, tokens: int, *, positions: int = 2) -> Dataset:
    """Tuples of tokens, each with a token as its class."""
    draw = np.random.default_rng(rows)
    x = draw.integers(0, tokens, (rows + 31, positions))
    return replace(dataset(x, draw.integers(0, tokens, rows + 31), rows, tokens, classes=True), tokens=tokens)


def sequences(rows: int, time: int, channels: int, outputs: int, predicted: tuple[int, ...] | None) -> Dataset:
    draw = np.random.default_rng(rows)
    x, y = draw.uniform(-1, 1, (rows + 31, time, channels)), draw.uniform(-1, 1, (rows + 31, time, outputs))
    return replace(dataset(x, y, rows, outputs, classes=False), predicted_positions=predicted)


def dataset(x: np.ndarray, y: np.ndarray, rows: int, outputs: int, *, classes: bool) -> Dataset:
    return Dataset(
        x[:rows],
        y[:rows],
        x[rows:],
        y[rows:],
        "classification" if classes else "regression",
        tuple(f"x{i + 1}" for i in range(x.shape[-1])),
        tuple(f"y{i + 1}" for i in range(outputs)),
    )


def uneven(data: Dataset) -> Dataset:
    """The same with the second target at a thirtieth of the scale of the others."""
    factor = np.where(np.arange(data.targets) == 1, 1 / 30, 1.0)
    return replace(data, train_targets=data.train_targets * factor, test_targets=data.test_targets * factor)


class Case:
    """A network with its data and the way it is trained, from which every stepper starts alike."""

    def __init__(
        self,
        network: MlpNetwork | GridMlpNetwork | TransformerNetwork,
        data: Dataset,
        *,
        masked: bool = False,
        moved: bool = False,
        replicas: int = 1,
        **training: Any,
    ) -> None:
        self.spec, self.dataset, self.masked, self.moved, self.replicas = network, data, masked, moved, replicas
        self.training = TrainingSpec(**({"device": "cpu"} | training))

    def state(self) -> TrainingState:
        state = TrainingState.of([self.network(seed) for seed in range(self.replicas)])
        draw = torch.Generator().manual_seed(11)
        if self.moved:
            for order in state.orders.values():
                for row in order:
                    row.copy_(torch.randperm(len(row), generator=draw))
            state.orders_version += 1
        if self.masked:
            state.mask = torch.rand(state.theta.shape, generator=draw) < 0.7
            state.apply_mask()
        return state

    def network(self, seed: int = 0) -> Network:
        generator = torch.Generator().manual_seed(seed)
        return build_network(self.spec, self.dataset, precision=self.training.precision, generator=generator)

    def price(self, state: TrainingState) -> torch.Tensor:
        lead = () if self.replicas == 1 else (self.replicas,)
        draw = torch.Generator().manual_seed(3)
        return 2e-3 * torch.rand(*lead, state.size, generator=draw, dtype=torch.float64).to(state.theta.dtype)

    def run(self, stepper: type, pieces: Sequence[int] = (STEPS,)) -> tuple[TrainingState, list[dict[str, float]]]:
        """The state after so many steps, and the losses there."""
        assert stepper.supports(self.network(), self.dataset, self.training) is None
        state = self.state()
        data = TensorData.of(self.dataset, self.training, seeds=range(self.replicas))
        trained = stepper(state, data, self.training)
        for steps in pieces:
            trained.advance(steps, price=self.price(state))
        assert state.step == sum(pieces)
        return state, trained.losses(everything=True)


CASES = {
    "line": lambda: Case(MlpNetwork(hidden=[20, 20]), numbers(100, 4, 2)),
    "odd sizes": lambda: Case(MlpNetwork(hidden=[7, 11, 5]), numbers(101, 3, 3)),
    "no hidden layer": lambda: Case(MlpNetwork(hidden=[]), numbers(33, 5, 2)),
    "many examples": lambda: Case(MlpNetwork(hidden=[40, 30]), numbers(1501, 6, 1)),
    "classes": lambda: Case(MlpNetwork(hidden=[20, 20]), numbers(200, 2, 2, classes=True)),
    "classes as squares": lambda: Case(MlpNetwork(hidden=[9]), numbers(50, 4, 3, classes=True), loss="mse"),
    "tokens": lambda: Case(MlpNetwork(hidden=[13, 10], embedding_width=6), pairs(70, 9)),
    "three tokens in batches": lambda: Case(
        MlpNetwork(hidden=[13], embedding_width=5), pairs(90, 7, positions=3), batch_size=20
    ),
    "batches": lambda: Case(MlpNetwork(hidden=[20, 20]), numbers(100, 4, 2), batch_size=15),
    "sheets": lambda: Case(
        GridMlpNetwork(hidden=[25, 16]), numbers(300, 81, 10, classes=True, zeros=0.8), loss="mse", batch_size=50
    ),
    "sheets, all at once": lambda: Case(GridMlpNetwork(hidden=[30]), numbers(150, 100, 4, zeros=0.8)),
    "sheets too large for the cache": lambda: Case(
        GridMlpNetwork(hidden=[16]), numbers(90, 3600, 3, zeros=0.8), batch_size=30
    ),
    "masked": lambda: Case(MlpNetwork(hidden=[20, 20]), numbers(100, 4, 2), masked=True),
    "masked sheets": lambda: Case(GridMlpNetwork(hidden=[16]), numbers(90, 64, 3, zeros=0.8), masked=True),
    "moved": lambda: Case(MlpNetwork(hidden=[20, 20]), numbers(100, 4, 3), moved=True),
    "moved classes": lambda: Case(MlpNetwork(hidden=[20]), numbers(100, 4, 5, classes=True), moved=True, batch_size=30),
    "moved tokens": lambda: Case(MlpNetwork(hidden=[13, 10], embedding_width=6), pairs(70, 9), moved=True, masked=True),
    "moved sheets": lambda: Case(
        GridMlpNetwork(hidden=[16], move_inputs=True), numbers(90, 64, 3, zeros=0.8), moved=True, batch_size=30
    ),
    "proximal": lambda: Case(MlpNetwork(hidden=[20, 20]), numbers(100, 4, 2), optimiser=OptimiserSpec(kind="proximal")),
    "proximal tokens": lambda: Case(
        MlpNetwork(hidden=[13], embedding_width=6), pairs(70, 9), optimiser=OptimiserSpec(kind="proximal"), masked=True
    ),
    "decay": lambda: Case(
        MlpNetwork(hidden=[20]), numbers(100, 4, 2), optimiser=OptimiserSpec(weight_decay=0.05, beta1=0.8, beta2=0.95)
    ),
    "replicas": lambda: Case(MlpNetwork(hidden=[12, 9]), numbers(60, 4, 2), replicas=3, masked=True, moved=True),
    "replicas in batches": lambda: Case(
        MlpNetwork(hidden=[12]), numbers(60, 4, 3, classes=True), replicas=3, moved=True, batch_size=16
    ),
    "replicas of tokens": lambda: Case(MlpNetwork(hidden=[12, 9], embedding_width=4), pairs(50, 8), replicas=2),
} | {
    name: (lambda name=name: Case(MlpNetwork(hidden=[14, 9], activation=name), numbers(77, 4, 2)))
    for name in ("relu", "tanh", "gelu", "gelu_tanh")
}
CASES |= {
    "balanced": lambda: Case(MlpNetwork(hidden=[12, 9]), uneven(numbers(100, 4, 3)), moved=True, balance_outputs=True),
    "balanced replicas in batches": lambda: Case(
        MlpNetwork(hidden=[12]), uneven(numbers(60, 4, 2)), replicas=3, moved=True, batch_size=16, balance_outputs=True
    ),
    "balanced classes as squares": lambda: Case(
        MlpNetwork(hidden=[9]), numbers(50, 4, 3, classes=True), loss="mse", moved=True, balance_outputs=True
    ),
}
TRANSFORMERS = {
    "in context": lambda: Case(TransformerNetwork(width=8), sequences(100, 2, 2, 1, (1,)), batch_size=30),
    "every time step": lambda: Case(
        TransformerNetwork(width=12, blocks=3, heads=3, activation="silu"), sequences(45, 5, 3, 2, None)
    ),
    "some time steps": lambda: Case(
        TransformerNetwork(width=10, heads=2), sequences(130, 4, 1, 3, (1, 3)), masked=True, moved=True, replicas=2
    ),
    "one block, proximal": lambda: Case(
        TransformerNetwork(width=6, blocks=1), sequences(20, 3, 2, 1, (2,)), optimiser=OptimiserSpec(kind="proximal")
    ),
    "balanced time steps": lambda: Case(
        TransformerNetwork(width=8, blocks=1), uneven(sequences(40, 4, 2, 3, (1, 3))), moved=True, balance_outputs=True
    ),
}
CASES |= TRANSFORMERS


@pytest.fixture(params=["kernel", "batched"])
def stepper(request: pytest.FixtureRequest) -> type:
    if request.param == "kernel":
        needs_a_compiler()
        return KernelStepper
    return BatchedStepper


def needs_a_compiler() -> None:
    try:
        load_kernel("perceptron", "float64")
    except KernelUnavailable as error:
        pytest.skip(f"no kernel here: {error}")


@functools.cache
def by_autograd(name: str) -> tuple[TrainingState, list[dict[str, float]]]:
    return CASES[name]().run(AutogradStepper)


@pytest.mark.parametrize(
    ("kind", "name"),
    [("kernel", name) for name in CASES] + [("batched", name) for name in CASES if name not in TRANSFORMERS],
)
def test_every_stepper_takes_the_steps_of_autograd(kind: str, name: str) -> None:
    if kind == "kernel":
        needs_a_compiler()
    case = CASES[name]()
    expected, expected_losses = by_autograd(name)
    state, losses = case.run(KernelStepper if kind == "kernel" else BatchedStepper)
    for flat in ("theta", "first_moment", "second_moment"):
        here, there = getattr(state, flat), getattr(expected, flat)
        assert (here - there).abs().max() <= 1e-12 * there.abs().max(), flat
    assert losses == [pytest.approx(row, rel=1e-11) for row in expected_losses]
    if case.masked:
        assert state.mask is not None
        assert not state.theta[~state.mask].any()


@pytest.mark.parametrize("precision", ["float32", "float64"])
@pytest.mark.parametrize("name", ["line", "tokens", "batches", "sheets", "replicas in batches"])
def test_the_same_steps_give_the_same_bits(name: str, precision: str, stepper: type) -> None:
    case = CASES[name]()
    case.training = case.training.model_copy(update={"precision": precision})
    (once, losses), (again, losses_again) = case.run(stepper, [50]), case.run(stepper, [50])
    assert torch.equal(once.theta, again.theta)
    assert losses == losses_again


@pytest.mark.parametrize(
    "name", ["line", "many examples", "tokens", "three tokens in batches", "sheets", "masked sheets"]
)
def test_the_bits_do_not_depend_on_how_the_steps_are_cut(name: str, stepper: type) -> None:
    case = CASES[name]()
    whole, _ = case.run(stepper, [80])
    cut, _ = case.run(stepper, [1, 7, 40, 2, 30])
    for flat in ("theta", "first_moment", "second_moment"):
        assert torch.equal(getattr(whole, flat), getattr(cut, flat)), flat


def test_a_look_at_the_losses_changes_nothing(stepper: type) -> None:
    case = CASES["sheets"]()
    state, _ = case.run(stepper, [20, 20])
    looking = case.state()
    trained = stepper(looking, TensorData.of(case.dataset, case.training, seeds=[0]), case.training)
    for _ in range(2):
        trained.losses()
        trained.advance(20, price=case.price(looking))
        trained.losses(everything=True)
    assert torch.equal(looking.theta, state.theta)


def test_an_exchange_in_mid_training_is_followed(stepper: type) -> None:
    case = CASES["moved"]()

    def train(kind: type) -> torch.Tensor:
        state = case.state()
        trained = kind(state, TensorData.of(case.dataset, case.training, seeds=[0]), case.training)
        trained.advance(30, price=case.price(state))
        for name in ("input", "output"):
            state.orders[name].copy_(state.orders[name].flip(1))
        state.orders_version += 1
        trained.advance(30, price=case.price(state))
        return state.theta

    torch.testing.assert_close(train(stepper), train(AutogradStepper), rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("name", ["line", "tokens", "sheets"])
def test_float32_steps_follow_float64_steps_at_first(name: str, stepper: type) -> None:
    case = CASES[name]()
    exact, _ = case.run(AutogradStepper, [20])
    case.training = case.training.model_copy(update={"precision": "float32"})
    rounded, _ = case.run(stepper, [20])
    torch.testing.assert_close(rounded.theta.double(), exact.theta, rtol=1e-3, atol=2e-5)


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_a_transformer_s_bits_do_not_depend_on_how_the_steps_are_cut(name: str) -> None:
    needs_a_compiler()
    case = TRANSFORMERS[name]()
    whole, losses = case.run(KernelStepper, [60])
    cut, losses_again = case.run(KernelStepper, [1, 7, 30, 22])
    assert torch.equal(whole.theta, cut.theta)
    assert losses == losses_again


def test_a_divergence_is_seen_in_the_losses(stepper: type) -> None:
    case = CASES["tokens"]()
    state = case.state()
    state.theta[0, 5] = float("nan")
    trained = stepper(state, TensorData.of(case.dataset, case.training, seeds=[0]), case.training)
    trained.advance(2, price=case.price(state))
    assert not np.isfinite(trained.losses()[0]["prediction_loss"])
