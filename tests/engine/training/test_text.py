"""Text is trained on as bytes, by the loss of each next token, and examined step by step."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional

from bimt_engine.analysis.context import AnalysisContext, loss_per_example
from bimt_engine.analysis.evidence import gather_evidence
from bimt_engine.analysis.modules.effects import Ablator
from bimt_engine.analysis.output_scores import scores
from bimt_engine.analysis.verification import verify
from bimt_engine.data.dataset import Dataset
from bimt_engine.errors import SpecError
from bimt_engine.exports.weights import load_weights, weights_file
from bimt_engine.networks.network import build_network
from bimt_engine.networks.transformer import TransformerNetwork
from bimt_engine.spec import Phase, PruningSpec, Spec, TrainingSpec
from bimt_engine.training import batches
from bimt_engine.training.backends import choose_stepper
from bimt_engine.training.batches import TensorData
from bimt_engine.training.loop import Training
from tests.engine.makers import build, spec_for, text_data


def as_bytes(data: Dataset) -> Dataset:
    """The same text, each token a byte, inputs and targets views of one array."""
    changed = {}
    for part in ("train", "test"):
        inputs, targets = data.part(part)
        windows = np.concatenate([inputs, targets[:, -1:]], axis=1).astype(np.uint8)
        changed |= {f"{part}_inputs": windows[:, :-1], f"{part}_targets": windows[:, 1:]}
    return replace(data, **changed)


def text_spec(**training: object) -> Spec:
    """A spec for the small text transformer."""
    return spec_for("text transformer", **training)[0]


def test_bytes_stay_bytes_and_train_as_whole_numbers_do() -> None:
    data, spec = text_data(), text_spec(steps=20, batch_size=5, log_every=10)
    narrow = TensorData.of(as_bytes(data), spec.training, seeds=[0])
    assert narrow.train_inputs.dtype == narrow.train_targets.dtype == torch.uint8
    ended = []
    for each in (data, as_bytes(data)):
        training = Training.begin(spec, each, seed=3)
        rows = [update.row for update in training.updates() if update.row is not None]
        ended.append((training.state.theta.clone(), [row["prediction_loss"] for row in rows]))
    assert torch.equal(ended[0][0], ended[1][0])
    assert ended[0][1] == ended[1][1]


def test_the_next_token_is_learnt() -> None:
    phases = [Phase(until=1.0, cost_strength=0.0)]
    spec = text_spec(steps=300, batch_size=16, log_every=300, phases=phases, optimiser={"learning_rate": 0.02})
    data = text_data(examples=64)
    training = Training.begin(spec, data, seed=0)
    rows = [update.row for update in training.updates() if update.row is not None]
    assert rows[0]["test_accuracy"] < 0.4
    assert rows[-1]["test_accuracy"] > 0.6, "one step in four has one token before it only, which says nothing"


def test_the_loss_is_the_mean_over_all_steps() -> None:
    network, data = build("text transformer")
    tensors = TensorData.of(data, TrainingSpec(), seeds=[0])
    assert tensors.steps == 4
    inputs, targets = (torch.from_numpy(each) for each in data.part("test"))
    outputs = network(inputs).detach()
    expected = np.mean([float(functional.cross_entropy(outputs[:, t], targets[:, t])) for t in range(4)])
    row = tensors.evaluate(network, everything=True)
    assert row["test_prediction_loss"] == pytest.approx(expected, rel=1e-12)
    assert row["test_accuracy"] == pytest.approx(float((outputs.argmax(-1) == targets).double().mean()))
    by_example = loss_per_example(outputs.numpy().reshape(16, -1), targets.numpy(), "cross_entropy")
    assert by_example.shape == (16,)
    assert by_example.mean() == pytest.approx(expected, rel=1e-12)


def test_a_log_row_looks_at_a_bounded_part(monkeypatch) -> None:
    network, data = build("text transformer")
    tensors = TensorData.of(data, TrainingSpec(), seeds=[0])
    seen: list[int] = []
    forward = network.forward
    monkeypatch.setattr(network, "forward", lambda x: (seen.append(len(x)), forward(x))[1])
    monkeypatch.setattr(batches, "LOGGED_EXAMPLES", 20)
    tensors.evaluate(network)
    assert seen == [4, 4, 4], "16 examples of 4 steps, evenly spaced, for at most 20 predictions"
    seen.clear()
    tensors.evaluate(network, everything=True)
    assert sum(seen) == 48
    assert max(seen) <= 5


def test_text_has_no_squared_error_and_no_kernel() -> None:
    network, data = build("text transformer")
    with pytest.raises(SpecError, match="next token"):
        TensorData.of(data, TrainingSpec(loss="mse"), seeds=[0])
    published = TransformerNetwork(width=4, blocks=1)
    for spec in (published, network.architecture):
        built = build_network(spec, data, generator=torch.Generator())
        assert choose_stepper(built, data, TrainingSpec(device="cpu")).name == "autograd"


def test_text_is_pruned_while_it_trains() -> None:
    spec = text_spec(steps=20, batch_size=5, pruning=PruningSpec(connections=60, begin=0.2, end=0.6, prune_every=4))
    training = Training.begin(spec, as_bytes(text_data()), seed=0)
    list(training.updates())
    weights = [w.parameter for w in training.network.wiring.weight_layers]
    parameters = dict(training.network.named_parameters())
    assert sum(int((parameters[name] != 0).sum()) for name in weights) == 60


def test_an_effect_on_a_class_is_that_on_the_steps_of_this_class() -> None:
    network, data = build("text transformer")
    context = AnalysisContext.of(network, as_bytes(data))
    ablator = Ablator(context, context.network, seed=0)
    hidden = context.wiring.layer("hidden1")
    group = {"hidden1": np.arange(hidden.neurons) < 5}
    found = ablator.effects([group], "zero")

    def outputs(cut: bool) -> torch.Tensor:
        def hook(layer: str, activation: torch.Tensor) -> torch.Tensor:
            mask = torch.from_numpy(~group["hidden1"]).double() if cut and layer == "hidden1" else 1.0
            return activation * mask

        return context.network.forward_with_hooks(ablator.inputs, hook)[0].detach()

    before, after, labels = outputs(False), outputs(True), torch.from_numpy(ablator.targets)
    for number in range(data.targets):
        own = labels == number
        rise = functional.cross_entropy(after[own], labels[own]) - functional.cross_entropy(before[own], labels[own])
        assert found.cross_entropy[0, number] == pytest.approx(float(rise), rel=1e-9)
        called, now = (each.argmax(-1) == number for each in (before, after))
        assert found.accuracy[0, number] == pytest.approx(float(called[own].double().mean() - now[own].double().mean()))
    variance = before.var(dim=0, correction=0).sum(dim=0)
    lost = ((after - before) ** 2).mean(dim=0).sum(dim=0)
    np.testing.assert_allclose(found.matrix[0], (lost / variance).numpy(), rtol=1e-9)


def test_recall_and_accuracy_count_steps() -> None:
    network, data = build("text transformer")
    context = AnalysisContext.of(network, data)
    outputs, labels = network(torch.from_numpy(data.test_inputs)).detach().numpy(), data.test_targets
    for number, score in enumerate(scores(context, context.values(), context.test)):
        own = labels == number
        assert score["rows"] == int(own.sum())
        assert score["recall"] == pytest.approx(float((outputs.argmax(-1) == number)[own].mean()))
    flat = context.outputs(context.values(), context.test)
    assert context.accuracy(flat, context.test.targets) == pytest.approx(float((outputs.argmax(-1) == labels).mean()))


def test_a_tied_read_out_is_trained_relocated_pruned_and_verified() -> None:
    spec, data = spec_for("tied transformer", steps=150, batch_size=8, log_every=50, relocation={"relocate_every": 25})
    spec = spec.model_copy(update={"evidence": spec.evidence.model_copy(update={"random_groups": 19})})
    training = Training.begin(spec, data, seed=100)
    assert training.stepper.name == "autograd"
    rows = [update.row for update in training.updates() if update.row is not None]
    assert rows[-1]["prediction_loss"] < 0.8 * rows[0]["prediction_loss"]
    network = training.network
    wiring = network.wiring
    assert wiring.embeddings == ()
    assert [w.parameter for w in wiring.into("output")] == ["read_out.weight"], "it pays as the read-out, once"
    assert "input" not in {w.source for w in wiring.into("input")}
    assert any((order != torch.arange(len(order))).any() for order in network.orders.values())
    evidence = gather_evidence(network, data, spec, seed=100, nulls=0)
    assert evidence.metrics["connections"] < evidence.metrics["trained_connections"]
    table, order = evidence.network.read_out.weight, evidence.network.output_order.argsort()
    tokens = torch.from_numpy(data.test_inputs)
    seen: list[torch.Tensor] = []
    evidence.network.forward_with_hooks(tokens, lambda name, a: (seen.append(a), a)[1] if name == "input" else a)
    torch.testing.assert_close(seen[0], table[order[tokens]] + evidence.network.positions)
    saved = load_weights(weights_file(network, evidence.network, spec=spec, seed=100, dataset=data))
    assert torch.equal(saved.network(tokens), evidence.network(tokens))
    assert verify(saved, data, evidence.document())["agrees"]


def test_a_tied_read_out_needs_text() -> None:
    tied = TransformerNetwork(width=4, blocks=1, tied=True)
    with pytest.raises(SpecError, match="`tied` is for text"):
        build_network(tied, spec_for("transformer")[1], generator=torch.Generator())
    fewer = replace(text_data(), target_names=("a", "b"))
    with pytest.raises(SpecError, match="as many classes as tokens"):
        build_network(tied, fewer, generator=torch.Generator())
    assert "tied" not in TransformerNetwork().model_dump(), "specs of before are as they were"
