"""Pruning finds the sparse teacher inside a network, and everything it keeps is alive."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bimt_engine.analysis.context import AnalysisContext, Examples, loss_per_example, loss_scale
from bimt_engine.analysis.modules import effects
from bimt_engine.analysis.modules.effects import ablation_effects
from bimt_engine.analysis.numpy_mlp import ACTIVATIONS, forward, split, without_dead_neurons
from bimt_engine.analysis.pruning.engine import PruningEngine
from bimt_engine.analysis.pruning.refit import (
    CompactMlp,
    GradientProblem,
    LeastSquaresProblem,
    kept_weights,
    refit_by_gradient,
    refit_compact,
    refit_least_squares,
    removal_costs,
)
from bimt_engine.analysis.pruning.search import prune
from bimt_engine.analysis.reachability import drop_dead_ends, full_masks, reached_from_inputs, reaching_outputs
from bimt_engine.networks.mlp import MlpNetwork
from bimt_engine.networks.network import ACTIVATIONS as TORCH_ACTIVATIONS
from bimt_engine.networks.network import build_network
from tests.engine.analysis.teachers import TANGLED, TWO_MODULES, data_of, student_and_data, teacher
from tests.engine.makers import build, table_data


@pytest.mark.parametrize("connections", [TWO_MODULES, TANGLED], ids=["two modules", "tangled"])
@pytest.mark.parametrize("seed", range(3))
def test_the_teacher_s_dependencies_come_back(connections, seed: int) -> None:
    network, data = student_and_data(connections, seed=seed)
    pruned = prune(AnalysisContext.of(network, data), tolerance=5e-4)
    truth = reach(teacher_masks(connections))
    assert (reach(pruned.masks) == truth).all()
    assert pruned.chosen.connections <= len(connections)
    assert pruned.chosen.validation_loss <= 1e-3 * pruned.scale
    assert pruned.within_tolerance


def test_the_curve_runs_from_dense_to_sparse_and_shows_the_cliff() -> None:
    network, data = student_and_data()
    pruned = prune(AnalysisContext.of(network, data), tolerance=5e-4)
    kept = [step.connections for step in pruned.curve]
    assert kept == sorted(kept, reverse=True)
    assert kept[0] == 4 * 8 + 8 * 8 + 8 * 2
    assert not pruned.curve[0].refitted
    beyond = [step.train_loss for step in pruned.curve if step.connections < pruned.chosen.connections]
    assert beyond
    assert min(beyond) > pruned.limits["train_loss"]
    assert max(beyond) > 50 * pruned.chosen.train_loss


def test_the_network_handed_in_is_not_touched() -> None:
    network, data = student_and_data()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    prune(AnalysisContext.of(network, data), tolerance=5e-4)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_pruning_twice_gives_the_same_bits() -> None:
    network, data = student_and_data()
    one, two = (prune(AnalysisContext.of(network, data), tolerance=5e-4, seed=3) for _ in range(2))
    assert one.curve == two.curve
    assert one.random_masks == two.random_masks
    assert all((one.values[name] == two.values[name]).all() for name in one.values)


def test_random_masks_do_much_worse() -> None:
    network, data = student_and_data()
    pruned = prune(AnalysisContext.of(network, data), tolerance=5e-4)
    assert np.median(pruned.random_masks) > 20 * pruned.chosen.train_loss


def test_every_architecture_is_pruned_to_live_paths(architecture: str) -> None:
    network, data = build(architecture)
    subject = AnalysisContext.of(network, data)
    pruned = prune(subject, tolerance=0.05, refit_evaluations=10)
    ahead = reached_from_inputs(subject.wiring, pruned.masks)
    behind = reaching_outputs(subject.wiring, pruned.masks)
    if not pruned.within_tolerance:  # nothing could go; then nothing has gone
        assert all(mask.all() for mask in pruned.masks.values())
        return
    for weights in subject.wiring.weight_layers:
        rows, columns = np.nonzero(pruned.masks[weights.parameter])
        assert ahead[weights.target][rows % ahead[weights.target].size].all()
        assert behind[weights.target][rows % behind[weights.target].size].all() or weights.target_copies > 1
        assert ahead[weights.source][columns % ahead[weights.source].size].all()
        assert (pruned.values[weights.parameter][~pruned.masks[weights.parameter]] == 0).all()


@st.composite
def masked_networks(draw: st.DrawFn):
    """A perceptron of random size with a random mask, some of it dead."""
    sizes = draw(st.lists(st.integers(1, 5), min_size=2, max_size=5))
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    share = draw(st.floats(0.05, 0.95))
    values, masks = {}, {}
    for i, (source, target) in enumerate(itertools.pairwise(sizes)):
        values[f"weights.{i}"] = generator.normal(size=(target, source))
        values[f"biases.{i}"] = generator.normal(size=target)
        masks[f"weights.{i}"] = generator.random((target, source)) < share
        masks[f"biases.{i}"] = np.ones(target, bool)
    return values, masks, generator.normal(size=(7, sizes[0]))


@given(masked_networks())
def test_dropping_dead_ends_never_changes_the_answer(masked) -> None:
    values, masks, inputs = masked
    cut = {name: np.where(masks[name], value, 0.0) for name, value in values.items()}
    settled, live = without_dead_neurons(values, masks, "silu")
    before = forward(*split(cut), inputs, "silu")[0][-1]
    after = forward(*split(settled), inputs, "silu")[0][-1]
    np.testing.assert_allclose(after, before, atol=1e-10)
    layers = len(values) // 2
    for i in range(layers):
        assert not (live[f"weights.{i}"] & ~masks[f"weights.{i}"]).any()  # nothing comes back
        reads = live[f"weights.{i}"].any(axis=1)
        if i + 1 < layers:
            assert (reads == live[f"weights.{i + 1}"].any(axis=0)).all()  # what reads is read, and the other way round


@given(masked_networks(), st.integers(0, 10))
@settings(max_examples=25)
def test_levenberg_marquardt_keeps_the_mask_and_never_raises_the_objective(masked, seed: int) -> None:
    values, masks, inputs = masked
    settled, live = without_dead_neurons(values, masks, "silu")
    targets = np.random.default_rng(seed).normal(size=(len(inputs), settled[f"biases.{len(values) // 2 - 1}"].size))
    problem = LeastSquaresProblem(inputs, targets, "silu", "mse", 1e-6)
    found = refit_least_squares(problem, settled, live)
    for name, value in found.values.items():
        assert (value[~live[name]] == 0).all()
    ridge = sum(0.5e-6 * ((settled[n] ** 2).sum() - (found.values[n] ** 2).sum()) for n in settled)
    assert found.loss <= problem.losses(settled) + ridge + 1e-12
    assert found.loss == pytest.approx(problem.losses(found.values), rel=1e-9, abs=1e-15)


def test_on_a_linear_network_one_refit_is_the_closed_form() -> None:
    draw = np.random.default_rng(0)
    x, y = draw.normal(size=(50, 4)), draw.normal(size=(50, 2))
    values = {"weights.0": draw.normal(size=(2, 4)), "biases.0": draw.normal(size=2)}
    masks = {name: np.ones(value.shape, bool) for name, value in values.items()}
    masks["weights.0"][0, 1] = False
    values["weights.0"][0, 1] = 0.0
    found = refit_least_squares(LeastSquaresProblem(x, y, "silu", "mse", 0.0), values, masks, min_gain=1e-14)
    for output, columns in ((0, [0, 2, 3]), (1, [0, 1, 2, 3])):
        design = np.column_stack((x[:, columns], np.ones(50)))
        exact = np.linalg.lstsq(design, y[:, output], rcond=None)[0]
        np.testing.assert_allclose(found.values["weights.0"][output, columns], exact[:-1], atol=1e-6)


def test_on_a_linear_network_removal_costs_are_what_a_refit_then_loses() -> None:
    draw = np.random.default_rng(1)
    x, y = draw.normal(size=(40, 3)), draw.normal(size=(40, 2))
    values = {"weights.0": np.zeros((2, 3)), "biases.0": np.zeros(2)}
    masks = {name: np.ones(value.shape, bool) for name, value in values.items()}
    problem = LeastSquaresProblem(x, y, "silu", "mse", 0.0)
    full = refit_least_squares(problem, values, masks, min_gain=1e-14)
    for cost, (name, row, column) in zip(removal_costs(full, masks), kept_weights(masks), strict=True):
        without = {n: m.copy() for n, m in masks.items()}
        without[name][row, column] = False
        start = {n: np.where(without[n], v, 0.0) for n, v in full.values.items()}
        refitted = refit_least_squares(problem, start, without, min_gain=1e-14)
        assert cost == pytest.approx((refitted.loss - full.loss) * 80 / 2, rel=1e-4)


@pytest.mark.parametrize("loss", ["mse", "cross_entropy"])
def test_both_roads_of_refitting_lead_to_one_place(loss: str) -> None:
    """On a network without hidden layers, where there is one place only."""
    data = table_data(5, 3, classes=loss == "cross_entropy")
    network = build_network(MlpNetwork(hidden=[]), data, generator=torch.Generator().manual_seed(0))
    subject = AnalysisContext.of(network, data)
    values = subject.values()
    masks = {name: np.ones(value.shape, bool) for name, value in values.items()}
    masks["weights.0"][1, 2] = False
    ridge = 1e-3
    small = LeastSquaresProblem(
        subject.plain.inputs_in_slots(subject.train.inputs),
        subject.plain.targets_in_slots(subject.train.targets),
        subject.plain.activation, loss, ridge,
    )  # fmt: skip
    large = GradientProblem(
        subject.general.with_values(values), subject.train.inputs, subject.train.targets, loss=loss, ridge=ridge
    )
    assert small.losses(values) == pytest.approx(large.losses(values), rel=1e-12)
    one = refit_least_squares(small, values, masks, steps=300, min_gain=1e-14)
    two = refit_by_gradient(large, values, masks, steps=3000)
    assert one.loss == pytest.approx(two.loss, rel=1e-3)
    np.testing.assert_allclose(one.values["weights.0"], two.values["weights.0"], atol=2e-2)


@pytest.mark.parametrize("name", ["mlp", "embedded mlp", "grid mlp", "classifier", "shallow mlp"])
def test_a_narrow_network_computes_and_refits_what_the_whole_one_does(name: str) -> None:
    network, data = build(name)
    subject = AnalysisContext.of(network, data)
    draw = np.random.default_rng(0)
    values = subject.values()
    masks = {n: draw.random(m.shape) < 0.3 for n, m in full_masks(subject.wiring, values).items()}
    masks = drop_dead_ends(subject.wiring, masks)
    values = {n: np.where(masks[n], v, 0.0) if n in masks else v for n, v in values.items()}
    for i in range(len(network.weights) - 1):  # a dead neuron's bias would reach nothing
        values[f"biases.{i}"] = values[f"biases.{i}"] * masks[f"weights.{i}"].any(axis=1)
    problem = GradientProblem(
        subject.general.with_values(values), subject.train.inputs, subject.train.targets, loss=subject.loss, ridge=1e-4
    )
    compact = CompactMlp(problem.network, network.wiring.chain, masks)
    narrow = problem.of(compact, compact.inputs_of(problem.inputs))
    assert narrow.losses({n: values[n][p] for n, p in narrow.network.places.items()}) == pytest.approx(
        problem.losses(values), rel=1e-12
    )
    one, two = (refit(problem, values, masks, steps=15) for refit in (refit_by_gradient, refit_compact))
    assert problem.losses(two.values) == pytest.approx(two.loss, rel=1e-12)
    assert two.loss == pytest.approx(one.loss, rel=0.02)
    assert all((two.values[n][~m] == 0).all() for n, m in masks.items())


def test_a_large_network_is_refitted_on_fewer_examples_but_enough_for_its_parameters(monkeypatch) -> None:
    network, data = build("transformer")
    context = AnalysisContext.of(network, data)
    engine = PruningEngine(context, refit_evaluations=5)
    masks = {
        w.parameter: np.zeros(tuple(network.get_parameter(w.parameter).shape), bool)
        for w in network.wiring.weight_layers
    }
    examples = len(context.train.inputs)
    assert engine.thinning(masks) == 1  # it is small
    monkeypatch.setattr("bimt_engine.analysis.pruning.engine.REFIT_WORK", context.general.work * examples / 5)
    assert engine.thinning(masks) == 5
    next(iter(masks.values())).flat[: context.train.targets.size // 8] = True  # four numbers for each: half of them
    assert engine.thinning(masks) == 2
    problem = engine.gradient_problem()
    np.testing.assert_array_equal(problem.every(5).inputs, problem.inputs[::5])
    assert problem.every(1) is problem


@pytest.mark.parametrize("share", [1.0, 0.3])
def test_ablation_is_what_setting_the_weight_to_zero_does(architecture: str, share: float) -> None:
    network, data = build(architecture)
    draw = np.random.default_rng(0)
    parameters = {w.parameter: network.get_parameter(w.parameter) for w in network.wiring.weight_layers}
    masks = {name: draw.random(tuple(p.shape)) < share for name, p in parameters.items()}
    with torch.no_grad():
        for name, mask in masks.items():
            parameters[name].mul_(torch.from_numpy(mask))
    subject = AnalysisContext.of(network, data)
    values = subject.values()
    effects = ablation_effects(subject, values, masks)
    assert len(effects) == sum(int(mask.sum()) for mask in masks.values())
    base = subject.losses(subject.outputs(values, subject.train), subject.train).mean()
    some = list(effects)[:: max(1, len(effects) // 15)]
    for name, row, column in some:
        with torch.no_grad():
            parameters = dict(subject.network.named_parameters())
            kept = parameters[name][row, column].item()
            parameters[name][row, column] = 0.0
            outputs = subject.general.network_outputs(subject.network, subject.train.inputs)
            parameters[name][row, column] = kept
        brute = subject.losses(outputs, subject.train).mean() - base
        assert effects[name, row, column] == pytest.approx(brute, abs=1e-12)


def test_ablations_that_would_take_hours_are_measured_on_evenly_spaced_examples(monkeypatch) -> None:
    subject = AnalysisContext.of(*build("conv"))
    values = subject.values()
    masks = full_masks(subject.wiring, values)
    masks = {name: mask & (np.arange(mask.size) < 2).reshape(mask.shape) for name, mask in masks.items()}
    kept = sum(int(masks[w.parameter].sum()) for w in subject.wiring.weight_layers)
    monkeypatch.setattr(effects, "ABLATION_WORK", 8 * kept * subject.general.work)
    every_third = Examples(subject.train.inputs[::3], subject.train.targets[::3])
    few = ablation_effects(dataclasses.replace(subject, train=every_third), values, masks)
    assert ablation_effects(subject, values, masks) == few


@pytest.mark.parametrize("name", list(ACTIVATIONS))
def test_activations_and_slopes_agree_with_torch(name: str) -> None:
    z = torch.linspace(-4, 4, 41, dtype=torch.float64, requires_grad=True)
    theirs = TORCH_ACTIVATIONS[name](z)
    theirs.sum().backward()
    ours, slope = ACTIVATIONS[name](z.detach().numpy(), True)
    np.testing.assert_allclose(ours, theirs.detach().numpy(), atol=1e-12)
    away = z.detach().numpy() != 0  # relu has no slope at 0
    np.testing.assert_allclose(slope[away], z.grad.numpy()[away], atol=1e-12)


def test_losses_agree_with_torch() -> None:
    draw = np.random.default_rng(0)
    outputs, rows, labels = draw.normal(size=(9, 3)), draw.normal(size=(9, 3)), draw.integers(3, size=9)
    theirs = torch.nn.functional.cross_entropy(torch.from_numpy(outputs), torch.from_numpy(labels)).item()
    assert loss_per_example(outputs, labels, "cross_entropy").mean() == pytest.approx(theirs)
    assert loss_per_example(outputs, rows, "mse").mean() == pytest.approx(((outputs - rows) ** 2).mean())
    assert loss_scale(rows, 3, "mse") == pytest.approx(rows.var(axis=0).mean())
    assert loss_scale(np.array([0, 1, 0, 1]), 3, "cross_entropy") == pytest.approx(np.log(2))


def test_dead_ends_of_a_residual_stream_are_found() -> None:
    network, _ = build("transformer")
    masks = full_masks(network.wiring, {n: p.detach().numpy() for n, p in network.named_parameters()})
    masks["gather.0.weight"][:] = False  # nothing leaves the first attention layer
    trimmed = drop_dead_ends(network.wiring, masks)
    assert not trimmed["attend.0.weight"].any()
    assert trimmed["attend.1.weight"].all()


def test_a_query_stays_alive_through_the_values_of_its_head() -> None:
    network, _ = build("transformer")
    masks = full_masks(network.wiring, {n: p.detach().numpy() for n, p in network.named_parameters()})
    masks["gather.0.weight"][:, 1:] = False  # of the first head (4 neurons), only neuron 0 is read
    trimmed = drop_dead_ends(network.wiring, masks)
    query_rows = trimmed["attend.0.weight"][:8]
    assert query_rows[:4].all()  # every query of that head shapes what neuron 0 reads
    assert not query_rows[4:].any()


def teacher_masks(connections) -> dict[str, np.ndarray]:
    return {f"weights.{i}": w.detach().numpy() != 0 for i, w in enumerate(teacher(connections).weights)}


def reach(masks: dict[str, np.ndarray]) -> np.ndarray:
    """Which output (rows) depends on which input (columns)."""
    found = masks["weights.0"].astype(int)
    for name in ("weights.1", "weights.2"):
        found = masks[name].astype(int) @ found
    return found > 0


def test_the_makers_teacher_answers_its_own_data() -> None:
    network = teacher()
    data = data_of(network)
    assert np.std(data.train_targets, axis=0).min() > 0.1
