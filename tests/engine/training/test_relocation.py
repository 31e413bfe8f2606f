"""Relocation never changes an answer, never lengthens the wiring, and finds what trying everything would find."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bimt_engine.networks.mlp import MlpNetwork
from bimt_engine.networks.network import build_network
from bimt_engine.spec import CostSpec, RelocationSpec
from bimt_engine.training.connection_cost import connection_cost, flat_prices, prices, shapes_of
from bimt_engine.training.relocation import Relocation, best_assignment, repeated
from bimt_engine.training.state import TrainingState
from tests.engine.makers import ARCHITECTURES, build, table_data

NAMES = st.sampled_from(list(ARCHITECTURES))
SEEDS = st.integers(0, 10_000)
COSTS = st.builds(
    CostSpec,
    locality=st.sampled_from([0.5, 1.0, 2.0]),
    layer_spacing=st.sampled_from([0.0, 0.1, 0.5]),
    reduction=st.sampled_from(["sum", "mean"]),
    last_layer_locality=st.booleans(),
)
METHODS = st.sampled_from(["greedy", "optimal"])


def prepared(name: str, seed: int, *, pruned: float = 0.0) -> tuple[TrainingState, torch.Tensor]:
    """A state with drawn weights and moments, a share of the weights pruned, and inputs that fit it."""
    network, data = build(name, seed=seed)
    state = TrainingState.of(network)
    draw = torch.Generator().manual_seed(seed)
    for flat in (state.theta, state.first_moment, state.second_moment):
        flat.copy_(torch.randn(flat.shape, generator=draw, dtype=torch.float64))
    for name, parameter in network.named_parameters():
        if name.endswith("variance"):  # of a batch norm: never negative
            parameter.data.abs_()
    if pruned:
        state.mask = torch.rand(state.theta.shape, generator=draw) >= pruned
        state.apply_mask()
    inputs = torch.as_tensor(data.train_inputs)
    return state, inputs if inputs.dtype == torch.int64 else inputs.double()


def full_cost(state: TrainingState, cost: CostSpec) -> float:
    wiring = state.network.wiring
    priced = prices(wiring, shapes_of(state.layout), cost, bias_cost=True)
    return float(connection_cost(state.theta, flat_prices(state.layout, priced, dtype=torch.float64))[0])


def plan(state: TrainingState, cost: CostSpec, *, compiled: bool = True, **spec: object) -> Relocation:
    return Relocation(state.network.wiring, state.layout, cost, RelocationSpec(**spec), compiled=compiled)


@settings(deadline=None, max_examples=60)
@given(NAMES, SEEDS, COSTS, METHODS, st.sampled_from([0.0, 0.6, 0.95, 1.0]), st.booleans())
def test_relocation_never_changes_an_answer_and_never_lengthens_the_wiring(
    name, seed, cost, method, pruned, compiled
) -> None:
    state, inputs = prepared(name, seed, pruned=pruned)
    before, answers = full_cost(state, cost), state.network(inputs).detach()
    saved = plan(state, cost, method=method, compiled=compiled).relocate(state)
    after = full_cost(state, cost)
    torch.testing.assert_close(state.network(inputs).detach(), answers, rtol=1e-12, atol=1e-12)
    assert after <= before * (1 + 1e-12)
    assert before - after == pytest.approx(saved, abs=1e-9 * max(before, 1))
    for layer in state.network.wiring.neuron_layers:
        order = state.orders[layer.name][0]
        assert order.sort().values.tolist() == list(range(layer.neurons))
        if not layer.movable:
            assert order.tolist() == list(range(layer.neurons))
        size = layer.neurons // layer.blocks
        runs = (order // size).view(layer.blocks, size)
        assert (runs == runs[:, :1]).all(), "heads stay whole"


@settings(deadline=None, max_examples=40)
@given(NAMES, SEEDS, METHODS, st.booleans())
def test_weights_moments_mask_and_orders_move_together(name, seed, method, compiled) -> None:
    state, _ = prepared(name, seed, pruned=0.3)
    # Every weight carries its own number, so that one can see where it went.
    state.theta.copy_(state.theta.abs() + 1.0)
    state.first_moment.copy_(state.theta * 2)
    state.second_moment.copy_(state.theta * 3)
    state.mask = state.theta > 1.5
    plan(state, CostSpec(), method=method, compiled=compiled).relocate(state)
    assert torch.equal(state.first_moment, state.theta * 2)
    assert torch.equal(state.second_moment, state.theta * 3)
    assert torch.equal(state.mask, state.theta > 1.5)


def test_the_published_way_leaves_the_moments_behind() -> None:
    state, _ = prepared("mlp", 0)
    before = state.first_moment.clone()
    assert plan(state, CostSpec(), carry_moments=False).relocate(state) > 0
    assert torch.equal(state.first_moment, before)


def test_the_published_way_lets_the_moments_of_an_embedding_follow_its_columns() -> None:
    state, _ = prepared("embedded mlp", 0)
    state.first_moment.copy_(state.theta * 2)
    before = state.first_moment.clone()
    assert plan(state, CostSpec(), carry_moments=False).relocate(state) > 0
    embedding = state.place("embedding").slice
    assert not torch.equal(state.first_moment[:, embedding], before[:, embedding])
    assert torch.equal(state.first_moment[:, embedding], state.theta[:, embedding] * 2)
    state.first_moment[:, embedding] = before[:, embedding]
    assert torch.equal(state.first_moment, before)


@settings(deadline=None, max_examples=30)
@given(NAMES, SEEDS, COSTS)
def test_the_table_agrees_with_trying_every_swap(name, seed, cost) -> None:
    state, _ = prepared(name, seed)
    relocation = plan(state, cost)
    layers = state.network.wiring.neuron_layers
    for number, layer in enumerate(layers):
        changes = relocation.arrangement(state.theta[0].numpy()).exchange_changes(number)
        before = full_cost(state, cost)
        for slot, other in itertools.combinations(range(min(layer.neurons, 6)), 2):
            swap = [np.arange(each.neurons) for each in layers]
            swap[number][[slot, other]] = other, slot
            relocation.apply(state, 0, swap)
            assert full_cost(state, cost) - before == pytest.approx(changes[slot, other], abs=1e-10 * before)
            relocation.apply(state, 0, swap)


@settings(deadline=None, max_examples=60)
@given(NAMES, SEEDS, COSTS, st.integers(1, 12), st.sampled_from([0.0, 0.8]), st.booleans())
def test_optimal_never_ends_above_greedy_from_the_same_start(name, seed, cost, candidates, pruned, compiled) -> None:
    ends = {}
    for method in ("greedy", "optimal"):
        state, _ = prepared(name, seed, pruned=pruned)
        plan(state, cost, method=method, relocation_candidates=candidates, compiled=compiled).relocate(state)
        ends[method] = full_cost(state, cost)
    assert ends["optimal"] <= ends["greedy"] * (1 + 1e-12)


@settings(deadline=None, max_examples=10)
@given(SEEDS, st.sampled_from([[6], [3, 4], [3, 3, 3], [7]]), st.sampled_from([0.0, 0.7]), st.booleans())
def test_restarts_reach_the_brute_force_optimum_of_small_layers(seed, hidden, pruned, compiled) -> None:
    network = build_network(
        MlpNetwork(hidden=hidden, move_inputs=False, move_outputs=False),
        table_data(3, 2),
        generator=torch.Generator().manual_seed(seed),
    )
    state = TrainingState.of(network)
    draw = torch.Generator().manual_seed(seed)
    state.theta.mul_(torch.rand(state.theta.shape, generator=draw) >= pruned)
    cost = CostSpec(layer_spacing=0.0)
    relocation = plan(state, cost, final_restarts=64, compiled=compiled)
    arrangement = relocation.arrangement(state.theta[0].numpy())
    best = np.inf
    for orders in itertools.product(*(list(itertools.permutations(range(n))) for n in hidden)):
        tried = arrangement.copy()
        for number, order in enumerate(orders):
            tried.permute(number + 1, np.array(order))
        best = min(best, tried.cost())
    relocation.relocate_with_restarts(state, np.random.default_rng(0))
    assert relocation.arrangement(state.theta[0].numpy()).cost() == pytest.approx(best, rel=1e-9, abs=1e-12)


@settings(deadline=None, max_examples=60)
@given(NAMES, SEEDS, COSTS, METHODS, st.integers(1, 12), st.sampled_from(["float32", "float64"]))
def test_the_kernel_decides_as_numpy_does(name, seed, cost, method, candidates, precision) -> None:
    ends = []
    for compiled in (True, False):
        state = TrainingState.of(build(name, seed=seed, precision=precision)[0])
        relocation = plan(state, cost, compiled=compiled, method=method, relocation_candidates=candidates)
        saved = relocation.relocate(state)
        again = relocation.relocate_with_restarts(state, np.random.default_rng(seed))
        ends.append((state.theta.clone(), saved, again))
    assert torch.equal(ends[0][0], ends[1][0])
    assert ends[0][1:] == pytest.approx(ends[1][1:], rel=1e-9, abs=1e-12)


def test_the_order_says_who_sits_where() -> None:
    state, _ = prepared("mlp", 1)
    start = state.theta.clone()
    plan(state, CostSpec()).relocate(state)
    first, second = state.orders["hidden1"][0], state.orders["hidden2"][0]
    weights = state.views(start[0])["weights.1"]
    assert torch.equal(state.network.weights[1].detach(), weights[second][:, first])


def test_a_layer_that_is_already_best_stays_as_it_is() -> None:
    for name in ARCHITECTURES:
        state, _ = prepared(name, 2)
        relocation = plan(state, CostSpec())
        relocation.relocate(state)
        version = state.orders_version
        assert relocation.relocate(state) == pytest.approx(0, abs=1e-12)
        assert state.orders_version == version


def test_neurons_without_connections_keep_their_rank() -> None:
    table = np.zeros((5, 5))
    table[2] = [0, 1, 2, 3, 4]
    assert best_assignment(table).tolist() == [2, 0, 1, 3, 4]


def test_the_best_assignment_of_blocks_is_the_best_of_all_that_keep_them_whole() -> None:
    draw = np.random.default_rng(0)
    for _ in range(20):
        table = draw.random((6, 6))
        found = table[best_assignment(table, 3), np.arange(6)].sum()
        best = np.inf
        for runs in itertools.permutations(range(3)):
            for flips in itertools.product([(0, 1), (1, 0)], repeat=3):
                order = [2 * run + part for run, flip in zip(runs, flips, strict=True) for part in flip]
                best = min(best, table[order, np.arange(6)].sum())
        assert found == pytest.approx(best)


def test_a_folded_order_moves_every_copy() -> None:
    assert repeated(np.array([1, 0, 2]), 2).tolist() == [1, 0, 2, 4, 3, 5]


def test_replicas_are_relocated_apart() -> None:
    networks = [build("mlp", seed=seed)[0] for seed in range(3)]
    together = TrainingState.of(networks)
    relocation = plan(together, CostSpec())
    for replica in range(3):
        relocation.relocate(together, replica)
        alone = TrainingState.of(build("mlp", seed=replica)[0])
        plan(alone, CostSpec()).relocate(alone)
        assert torch.equal(together.theta[replica], alone.theta[0])
        for name, order in alone.orders.items():
            assert torch.equal(together.orders[name][replica], order[0])


# --- layers that move in part ---------------------------------------------------------------------


def _in_parts(moves: str, tied: bool):
    """Two layers of three blocks of two between an input and an output; the blocks of both may be tied."""
    from bimt_engine.networks.geometry import line
    from bimt_engine.networks.wiring import NeuronLayer, Port, WeightLayer, Wiring
    from bimt_engine.training.state import Place

    def layer(name: str, *ports: Port, other: str) -> NeuronLayer:
        return NeuronLayer(name, line(6), ports, blocks=3, moves=moves, tied=(other,) if tied else ())

    wiring = Wiring(
        (
            NeuronLayer("input", line(3), (Port("a", 1),), movable=False),
            layer("first", Port("a", 0), Port("b", 1), other="second"),
            layer("second", Port("b", 0), Port("c", 1), other="first"),
            NeuronLayer("output", line(3), (Port("c", 0),), movable=False),
        ),
        (
            WeightLayer("a", "input", "first"),
            WeightLayer("b", "first", "second"),
            WeightLayer("c", "second", "output"),
        ),
    )
    return wiring, (Place("a", 0, (6, 3)), Place("b", 18, (6, 6)), Place("c", 54, (3, 6)))


@pytest.mark.parametrize("moves", ["all", "blocks", "within"])
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_what_moves_in_part_keeps_to_it_and_never_costs_more(moves: str, tied: bool, seed: int) -> None:
    wiring, layout = _in_parts(moves, tied and moves != "within")
    plan = Relocation(wiring, layout, CostSpec(), RelocationSpec())
    theta = np.random.default_rng(seed).exponential(size=72)
    orders, before, after = plan.decide(theta, plan.unmoved, greedy=False)
    assert after <= before
    arrangement = plan.arrangement(theta)
    for number, order in enumerate(orders):
        arrangement.permute(number, order)
    assert arrangement.cost() == pytest.approx(after)
    runs = [order.reshape(3, 2) // 2 for order in orders[1:3]]
    for order, run in zip(orders[1:3], runs, strict=True):
        assert (run[:, 0] == run[:, 1]).all()  # no neuron leaves its block
        if moves == "blocks":
            assert (order.reshape(3, 2) % 2 == [0, 1]).all()
        if moves == "within":
            assert (run[:, 0] == [0, 1, 2]).all()
    if tied and moves != "within":
        assert (runs[0] == runs[1]).all()
    if tied or moves == "within":
        return
    for number in (1, 2):  # no exchange of two blocks would have helped
        for one, other in ((0, 1), (0, 2), (1, 2)):
            block = np.arange(6).reshape(3, 2)
            block[[one, other]] = block[[other, one]]
            tried = arrangement.copy()
            tried.permute(number, block.reshape(-1))
            assert tried.cost() >= after - 1e-9
