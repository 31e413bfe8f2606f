"""A convolutional network is trained, relocated, pruned, examined, drawn, exported and loaded again."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
import torch

from bimt_engine.analysis.communities import NULL_KINDS, layered
from bimt_engine.analysis.context import AnalysisContext
from bimt_engine.analysis.evidence import gather_evidence
from bimt_engine.analysis.extraction import extract_graph
from bimt_engine.data.kinds.synthetic import FormulaData
from bimt_engine.exports.onnx import onnx_file
from bimt_engine.exports.weights import load_weights, weights_file
from bimt_engine.figures.registry import draw_run_figures
from bimt_engine.figures.style import to_png
from bimt_engine.networks.conv import ConvNetwork
from bimt_engine.networks.network import Network, build_network, in_units_of_data
from bimt_engine.recipes import load_recipe
from bimt_engine.spec import CostSpec, EvidenceSpec, Phase, RelocationSpec, Spec, TrainingSpec
from bimt_engine.training.connection_cost import prices
from bimt_engine.training.loop import Training
from bimt_engine.training.relocation import Relocation
from bimt_engine.training.state import TrainingState
from tests.engine.makers import image_data

DATA = image_data(examples=60)
SPEC = Spec(
    dataset=FormulaData(formulas=["x1"], inputs=1),  # a placeholder: the data are handed in
    network=ConvNetwork(channels=[4, 5]),
    training=TrainingSpec(
        steps=200,
        batch_size=20,
        phases=[Phase(until=1.0, cost_strength=1e-3)],
        relocation=RelocationSpec(relocate_every=50),
        log_every=100,
        snapshot_every=None,
        checkpoint_every=100,
    ),
    evidence=EvidenceSpec(tolerance=0.02, refit_evaluations=10, random_groups=10, leiden_seeds=2),
)


def trained(steps: int = 200) -> Training:
    spec = SPEC.model_copy(update={"training": SPEC.training.model_copy(update={"steps": steps})})
    training = Training.begin(spec, DATA, seed=0)
    for _ in training.updates():
        pass
    return training


@pytest.fixture(scope="module")
def network() -> Network:
    return trained().network


def test_training_learns_and_keeps_running_statistics(network: Network) -> None:
    x = torch.from_numpy(DATA.test_inputs)
    accuracy = (network(x).argmax(-1).numpy() == DATA.test_targets).mean()
    assert accuracy > 0.9
    assert not network.training
    variance = dict(network.named_parameters())["enter.0.variance"]
    assert (variance != 1).all()
    assert not variance.requires_grad


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_relocation_changes_no_output(network: Network, training: bool) -> None:
    state = TrainingState.of(build_network(SPEC.network, DATA, generator=torch.Generator()))
    state.theta[0] = torch.cat([parameter.detach().reshape(-1) for parameter in network.parameters()])
    x = torch.from_numpy(DATA.train_inputs)
    start = state.theta.clone()

    def outputs() -> torch.Tensor:
        state.network.train(training)
        with torch.no_grad():
            return state.network(x).clone()

    before, after_statistics = outputs(), state.theta.clone()
    assert torch.equal(start, after_statistics) is not training  # a training pass moves the running statistics
    relocation = Relocation(
        state.network.wiring, state.layout, CostSpec(), RelocationSpec(method="optimal", final_restarts=4)
    )
    relocation.apply(
        state, 0, [np.arange(layer.neurons)[:: -1 if layer.movable else 1].copy() for layer in relocation.layers]
    )
    assert not torch.equal(state.theta, after_statistics)
    torch.testing.assert_close(outputs(), before, rtol=0, atol=1e-10)
    relocation.relocate_with_restarts(state, np.random.default_rng(0))
    torch.testing.assert_close(outputs(), before, rtol=0, atol=1e-10)


def test_gradients_move_with_the_neurons(network: Network) -> None:
    x, y = torch.from_numpy(DATA.train_inputs), torch.from_numpy(DATA.train_targets)
    gradients = []
    for turned in (False, True):
        state = TrainingState.of(build_network(SPEC.network, DATA, generator=torch.Generator().manual_seed(1)))
        relocation = Relocation(state.network.wiring, state.layout, CostSpec(), RelocationSpec())
        orders = [np.arange(layer.neurons)[:: -1 if layer.movable else 1].copy() for layer in relocation.layers]
        if turned:
            relocation.apply(state, 0, orders)
        state.network.train()
        torch.nn.functional.cross_entropy(state.network(x), y).backward()
        zero = torch.zeros(())
        flat = torch.cat(
            [(p.grad if p.grad is not None else zero.expand_as(p)).reshape(-1) for p in state.network.parameters()]
        )
        gradients.append(flat if turned else flat[torch.from_numpy(relocation.exchange_index(orders))])
    torch.testing.assert_close(gradients[0], gradients[1], rtol=0, atol=1e-10)


def test_no_optimiser_decays_a_running_statistic() -> None:
    heavy = SPEC.training.optimiser.model_copy(update={"weight_decay": 50.0})
    training = SPEC.training.model_copy(update={"optimiser": heavy, "steps": 3, "checkpoint_every": 3, "log_every": 3})
    ran = Training.begin(SPEC.model_copy(update={"training": training}), DATA, seed=0)
    before = dict(build_network(SPEC.network, DATA, generator=torch.Generator()).named_parameters())
    for _ in ran.updates():
        pass
    after = dict(ran.network.named_parameters())["enter.0.variance"]
    assert (after > 0.5 * 0.9**3 * before["enter.0.variance"]).all()  # momentum alone: three times a tenth of the way


def test_a_resumed_training_has_the_same_bits() -> None:
    whole = trained()
    half = Training.begin(SPEC, DATA, seed=0)
    content = next(half.checkpoint() for update in half.updates() if update.checkpoint_due and update.step == 100)
    resumed = Training.resume(SPEC, DATA, content)
    for _ in resumed.updates():
        pass
    assert torch.equal(whole.state.theta, resumed.state.theta)


def test_a_connection_pays_once_for_all_its_taps() -> None:
    network = build_network(SPEC.network, DATA, generator=torch.Generator())
    shapes = {name: tuple(parameter.shape) for name, parameter in network.named_parameters()}
    cost = CostSpec(locality=2.0, layer_spacing=0.5)
    priced = prices(network.wiring, shapes, cost, bias_cost=False)
    weights = network.wiring.weight_layers[1]  # stage1 -> block1
    kernel = dict(network.named_parameters())[weights.parameter].detach().view(4, 9, 4)
    expected = sum(
        kernel[target, :, source].abs().sum()
        * (2.0 * abs(float(network.wiring.distances(weights)[target, source])) + 0.5)
        for target in range(4)
        for source in range(4)
    )
    paid = (priced[weights.parameter] * dict(network.named_parameters())[weights.parameter].abs()).sum()
    torch.testing.assert_close(paid, expected)


def test_it_computes_what_torch_modules_do(network: Network) -> None:
    x = torch.from_numpy(DATA.test_inputs)
    values = dict(network.named_parameters())

    def block(name: str, image: torch.Tensor) -> torch.Tensor:
        weight = values[f"{name}.weight"]
        source = image.shape[1]
        convolution = torch.nn.Conv2d(source, len(weight), 3, padding=1, bias=False).double()
        norm = torch.nn.BatchNorm2d(len(weight)).double().eval()
        with torch.no_grad():
            convolution.weight.copy_(weight.view(-1, 3, 3, source).permute(0, 3, 1, 2))
            targets = {"gain": norm.weight, "bias": norm.bias, "mean": norm.running_mean, "variance": norm.running_var}
            for ours, theirs in targets.items():
                theirs.copy_(values[f"{name}.{ours}"])
        return norm(convolution(image))

    here = x.view(-1, 1, 4, 4)
    for stage in range(2):
        stream = torch.relu(block(f"enter.{stage}", here))
        stream = stream + block(f"back.{stage}", torch.relu(block(f"inner.{stage}", stream)))
        here = torch.nn.functional.max_pool2d(stream, 2)
    flat = here.permute(0, 2, 3, 1).flatten(1)
    expected = torch.nn.functional.linear(flat, values["read_out.weight"], values["read_out.bias"])
    expected = expected[:, torch.argsort(network.output_order)]
    torch.testing.assert_close(network(x), expected)


def test_the_whole_evidence_and_every_figure_and_export(network: Network) -> None:
    evidence = gather_evidence(network, DATA, SPEC, seed=0, nulls=2)
    assert evidence.document()["graph"]["nodes"][0]["name"] == "pixel[0,0] … pixel[3,3]"
    context = AnalysisContext.of(network, DATA)
    assert context.features(0) == tuple(range(16))
    assert all(to_png(figure) for figure in draw_run_figures(evidence, DATA).values())
    content = weights_file(network, evidence.network, spec=SPEC, seed=0, dataset=DATA)
    loaded = load_weights(content)
    x = torch.from_numpy(DATA.test_inputs)
    assert torch.equal(loaded.network(x), evidence.network(x))
    assert torch.equal(loaded.trained(x), network(x))
    session = onnxruntime.InferenceSession(onnx_file(evidence.network, DATA))
    (answers,) = session.run(None, {"x": DATA.test_inputs})
    np.testing.assert_allclose(answers, in_units_of_data(evidence.network, DATA, x).detach().numpy(), atol=1e-5)


def test_the_recipe_is_a_conv_network_on_real_digits() -> None:
    spec = load_recipe("digits_conv").spec
    assert spec.network.kind == "conv"
    assert spec.dataset.kind == "digits"


def test_taps_between_the_same_two_channels_stay_as_many_in_every_null() -> None:
    network = build_network(SPEC.network, DATA, generator=torch.Generator())
    context = AnalysisContext.of(network, DATA)
    values = context.values()
    net, _ = layered(extract_graph(context, values, context.evaluator.full_masks(values)))
    for null in NULL_KINDS.values():
        shuffled = null(net, np.random.default_rng(0))
        assert [s.source.size for s in shuffled.slices] == [s.weight.size for s in net.slices]
