"""Numbers recorded from the published code: tests/golden, or the folder of the same form that BIMT_GOLDEN names."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import numpy as np
import pytest
import torch

from bimt_engine.data.dataset import Dataset
from bimt_engine.networks.geometry import place_layers
from bimt_engine.networks.mlp import MlpNetwork
from bimt_engine.networks.mlp import perceptron as perceptron_at
from bimt_engine.networks.network import Draw, Network, build_network
from bimt_engine.networks.transformer import TransformerNetwork
from bimt_engine.spec import CostSpec, OptimiserSpec, Phase, RelocationSpec, TrainingSpec
from bimt_engine.training.backends import STEPPERS, choose_stepper
from bimt_engine.training.backends.kernel import KernelUnavailable, find_compiler
from bimt_engine.training.batches import TensorData
from bimt_engine.training.connection_cost import connection_cost, flat_prices, prices, shapes_of
from bimt_engine.training.relocation import Relocation
from bimt_engine.training.schedule import Schedule
from bimt_engine.training.state import TrainingState
from tests.engine.makers import sequence_data

Case = dict[str, Any]


def cases(golden: pathlib.Path, name: str) -> list[Case]:
    """All cases of one file. A missing file is a failure: the numbers belong to the repository."""
    found = json.loads((golden / name).read_text())
    assert found, f"{name} holds no case"
    return found


def tensor(values: Any) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def perceptron(case: Case, layers: str = "layers", *, embedding: Any = None) -> Network:
    """The network of a case, at float64. Without an embedding a folded one reads its vectors side by side."""
    fold = case.get("in_fold") or 1
    sizes = [case["shape"][0] // fold, *case["shape"][1:]]
    on_grids = case["kind"] == "grid"
    shapes = ["grid"] * (len(sizes) - 1) + ["ring"] if on_grids else ["line"] * len(sizes)
    network = perceptron_at(
        MlpNetwork(activation=case.get("activation") or "silu", move_inputs=not on_grids),
        place_layers(sizes, shapes),
        Draw(torch.float64, torch.Generator()),
        tokens=None if embedding is None else len(embedding),
        copies=fold,
    )
    with torch.no_grad():
        if embedding is not None:
            network.embedding.copy_(tensor(embedding))
        for number, layer in enumerate(case[layers]):
            network.weights[number].copy_(tensor(layer["weight"]))
            network.biases[number].copy_(tensor(layer["bias"]))
    return network


def cost_of(state: TrainingState, cost: CostSpec, *, bias_cost: bool) -> float:
    wiring = state.network.wiring
    priced = prices(wiring, shapes_of(state.layout), cost, bias_cost=bias_cost)
    return float(connection_cost(state.theta, flat_prices(state.layout, priced, dtype=torch.float64))[0])


def test_the_connection_cost_is_the_published_one(golden: pathlib.Path) -> None:
    for number, case in enumerate(cases(golden, "connection_cost.json")):
        state = TrainingState.of(perceptron(case, embedding=case.get("embedding")))
        for flags in case["expected"]:
            cost = CostSpec(
                locality=flags["weight_factor"],
                layer_spacing=case["l0"],
                reduction=case["reduction"],
                last_layer_locality=not flags["no_penalize_last"],
            )
            found = cost_of(state, cost, bias_cost=flags["bias_penalize"])
            assert found == pytest.approx(flags["cost"], rel=1e-9), f"case {number} ({case['kind']}), {flags}"


def relocated(case: Case, method: str, compiled: bool) -> tuple[TrainingState, float, float]:
    """The state after one pass, and its cost before and after as the case counts it."""
    state = TrainingState.of(perceptron(case))
    cost = CostSpec(locality=case["cost_weight_factor"], layer_spacing=case["l0"], reduction=case["reduction"])
    spec = RelocationSpec(method=method, relocation_candidates=case["top_k"])
    embedding = case.get("embedding")
    fixed = (
        0.0
        if embedding is None
        else case["l0"]
        * float(tensor(embedding).abs().mean() if case["reduction"] == "mean" else tensor(embedding).abs().sum())
    )
    before = cost_of(state, cost, bias_cost=case["cost_bias_penalize"]) + fixed
    Relocation(state.network.wiring, state.layout, cost, spec, compiled=compiled).relocate(state)
    return state, before, cost_of(state, cost, bias_cost=case["cost_bias_penalize"]) + fixed


COMPILED = pytest.mark.parametrize("compiled", [True, False], ids=["kernel", "numpy"])


@COMPILED
def test_greedy_relocation_takes_the_published_decisions(golden: pathlib.Path, compiled: bool) -> None:
    for number, case in enumerate(cases(golden, "relocation.json")):
        told = f"case {number} ({case['kind']})"
        state, before, after = relocated(case, "greedy", compiled)
        assert before == pytest.approx(case["cost_before"], rel=1e-9), told
        assert after == pytest.approx(case["cost_after"], rel=1e-9), told
        assert state.orders["input"][0].tolist() == case["in_perm"], told
        assert state.orders["output"][0].tolist() == case["out_perm"], told
        for weight, bias, layer in zip(state.network.weights, state.network.biases, case["layers_after"], strict=True):
            assert torch.equal(weight, tensor(layer["weight"])), told
            assert torch.equal(bias, tensor(layer["bias"])), told
        outputs = state.network(tensor(case["inputs"]))
        torch.testing.assert_close(outputs, tensor(case["outputs"]), rtol=0, atol=1e-12, msg=told)


@COMPILED
def test_optimal_relocation_ends_no_higher_and_keeps_the_outputs(golden: pathlib.Path, compiled: bool) -> None:
    for number, case in enumerate(cases(golden, "relocation.json")):
        told = f"case {number} ({case['kind']})"
        state, _, after = relocated(case, "optimal", compiled)
        assert after <= case["cost_after"] * (1 + 1e-12), told
        outputs = state.network(tensor(case["inputs"]))
        torch.testing.assert_close(outputs, tensor(case["outputs"]), rtol=0, atol=1e-12, msg=told)


def trajectory_spec(case: Case, stepper: str) -> TrainingSpec:
    schedule, optimiser = case["schedule"], case["optimizer"]
    steps, strength, start, phases = schedule["steps"], schedule["lamb0"], 0, []
    changes = sorted(schedule["multiply"])
    for step, factor in changes:
        if step > start:
            phases.append(Phase(until=step / steps, cost_strength=strength))
        strength, start = strength * factor, step
    phases.append(Phase(until=1.0, cost_strength=strength))
    bias_from = schedule["bias_penalized_from_step"]
    return TrainingSpec(
        steps=steps,
        stepper=stepper,
        loss=case["loss"],
        optimiser=OptimiserSpec(
            learning_rate=optimiser["lr"],
            beta1=optimiser["betas"][0],
            beta2=optimiser["betas"][1],
            epsilon=optimiser["eps"],
            weight_decay=optimiser["weight_decay"],
        ),
        phases=phases,
        cost=CostSpec(
            locality=case["weight_factor"],
            layer_spacing=case["l0"],
            reduction=case["reduction"],
            bias_cost_from=None if bias_from is None else bias_from / steps,
        ),
        relocation=RelocationSpec(
            method="greedy",
            relocate_every=schedule["relocate_every"],
            relocation_candidates=schedule["relocate_top_k"],
            judged_by_locality=1.0 if case["kind"] == "line" else 2.0,  # the published classes' own flags
            carry_moments=schedule["optimizer_moments_follow_swaps"],
        ),
    )


def trajectory_data(case: Case) -> Dataset:
    told = case["data"]
    classes = case["loss"] == "cross_entropy"
    inputs = np.asarray(told.get("token_pairs", told.get("inputs")))
    targets = np.asarray(told["labels"])
    outputs = case["shape"][-1]
    return Dataset(
        inputs,
        targets,
        inputs,
        targets,
        task="classification" if classes else "regression",
        feature_names=tuple(f"x{n}" for n in range(inputs.shape[1])),
        target_names=tuple(f"y{n}" for n in range(outputs)),
        tokens=None if case.get("init_embedding") is None else len(case["init_embedding"]),
    )


def has_compiler() -> bool:
    """Whether this machine can build the compiled kernel."""
    try:
        find_compiler()
    except KernelUnavailable:
        return False
    return True


def test_our_trajectories_include_inputs_of_an_embedding_that_exchange_places(repository: pathlib.Path) -> None:
    moved = [
        case
        for case in cases(repository / "tests" / "golden", "trajectory.json")
        if case.get("init_embedding") is not None and case["in_perm"] != sorted(case["in_perm"])
    ]
    assert moved, "no case shows whether an embedding's moments follow its columns"


@pytest.mark.parametrize("stepper", list(STEPPERS))
def test_a_training_follows_the_published_trajectory(golden: pathlib.Path, stepper: str) -> None:
    for number, case in enumerate(cases(golden, "trajectory.json")):
        training, data = trajectory_spec(case, stepper), trajectory_data(case)
        state = TrainingState.of(perceptron(case, "init_layers", embedding=case.get("init_embedding")))
        schedule = Schedule.of(training)
        chosen = choose_stepper(state.network, data, training.model_copy(update={"device": "cpu"}))
        if stepper == "kernel" and not has_compiler():
            pytest.skip("the compiled kernel needs a C++ compiler")
        assert chosen.name == stepper, f"the {stepper} stepper does not take case {number}"
        moving = chosen(state, TensorData.of(data, training, seeds=[0]), training)
        wiring, layout = state.network.wiring, state.layout
        relocation = Relocation(wiring, layout, training.cost, training.relocation)
        for expected in case["expected"]:
            while state.step < expected["step"]:
                stage = schedule.stage(state.step)
                priced = prices(wiring, shapes_of(layout), training.cost, bias_cost=stage.bias_cost)
                price = flat_prices(layout, priced, dtype=torch.float64) * stage.cost_strength
                stop = min(schedule.next_stop(state.step), expected["step"])
                moving.advance(stop - state.step, price=price)
                if schedule.due(state.step).relocate:
                    relocation.relocate(state)
            step = expected["step"]
            told = f"case {number} ({case['kind']}), step {step}, stepper {stepper}"
            tolerance = 1e-6 if step <= 200 else 1e-4
            assert schedule.stage(step).cost_strength == pytest.approx(expected["lamb"]), told
            loss = moving.losses()[0]["prediction_loss"]
            assert loss == pytest.approx(expected["loss"], rel=tolerance), told
            cost = cost_of(state, training.cost, bias_cost=schedule.stage(step).bias_cost)
            assert cost == pytest.approx(expected["connection_cost"], rel=tolerance), told
        if case.get("in_perm") is not None:
            assert state.orders["input"][0].tolist() == case["in_perm"]
            assert state.orders["output"][0].tolist() == case["out_perm"]


PUBLISHED_NAMES = {
    "l_i.linear": "read_in",
    "attn.l_attn.linear": "attend",
    "attn.l_proj.linear": "gather",
    "mlp.linears.0.linear": "expand",
    "mlp.linears.1.linear": "contract",
    "l_f.linear": "read_out",
}


def transformer(case: Case) -> Network:
    spec = TransformerNetwork(width=case["n_embed"], blocks=case["n_layer"], heads=case["n_head"])
    network = build_network(spec, sequence_data(case["in_dim"], case["out_dim"]), generator=torch.Generator())
    parameters = dict(network.named_parameters())
    filled = set()
    with torch.no_grad():
        for name, values in case["state_dict"].items():
            if name in ("in_perm", "out_perm"):
                order = network.input_order if name == "in_perm" else network.output_order
                order.copy_(torch.tensor(values).long())
                continue
            stem, part = name.rsplit(".", 1)
            block = ""
            if stem.startswith("blocks."):
                _, block, stem = stem.split(".", 2)
                block = f".{block}"
            if stem in PUBLISHED_NAMES:  # what is left are the layer norms, which are never applied
                ours = f"{PUBLISHED_NAMES[stem]}{block}.{part}"
                parameters[ours].copy_(tensor(values))
                filled.add(ours)
    assert filled == set(parameters)
    return network


def test_the_transformer_computes_and_costs_what_the_published_one_does(golden: pathlib.Path) -> None:
    for number, case in enumerate(cases(golden, "transformer.json")):
        told = f"case {number}"
        network = transformer(case)
        outputs = network(tensor(case["inputs"]))
        torch.testing.assert_close(outputs, tensor(case["outputs"]), rtol=1e-9, atol=1e-9, msg=told)
        state = TrainingState.of(network)
        for flags in case["connection_cost"]:
            cost = CostSpec(locality=flags["weight_factor"], layer_spacing=case["l0"], reduction="mean")
            found = cost_of(state, cost, bias_cost=flags["bias_penalize"])
            assert found == pytest.approx(flags["cost"], rel=1e-9), f"{told}, {flags}"
