"""Interventions do what doing it by hand does, side by side or alone, and change nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bimt_engine.analysis.context import AnalysisContext
from bimt_engine.analysis.hooked_network import as_tensor
from bimt_engine.analysis.intervention_request import InterventionError
from bimt_engine.analysis.modules.effects import Ablator
from bimt_engine.analysis.modules.interventions import Change, Intervention
from bimt_engine.analysis.numpy_mlp import NumpyMlp
from tests.engine.analysis.teachers import data_of, teacher
from tests.engine.makers import build

DOS = ("set", "scale", "zero", "mean", "resample")


def value_for(do: str) -> float | None:
    return {"set": 0.7, "scale": -1.5}.get(do)


@pytest.mark.parametrize("do", DOS)
def test_a_changed_neuron_flows_on_as_by_hand(architecture: str, do: str) -> None:
    network, data = build(architecture)
    subject = AnalysisContext.of(network, data)
    if architecture in ("transformer", "normed transformer"):
        layer = "attention1"
    else:
        layer = subject.wiring.neuron_layers[min(1, len(subject.wiring.neuron_layers) - 2)].name
    done = Intervention(subject, subject.values())
    (outcome,) = done.run([[Change("neuron", f"{layer}:1", do, value_for(do))]])

    x = as_tensor(done.inputs)
    plain: list[torch.Tensor] = []

    def keep(name: str, activation: torch.Tensor) -> torch.Tensor:
        if name == layer:
            plain.append(activation)
        return activation

    with torch.no_grad():
        network.forward_with_hooks(x, keep)
    steps = iter(plain)

    def by_hand(name: str, activation: torch.Tensor) -> torch.Tensor:
        if name != layer:
            return activation
        before, changed = next(steps), activation.clone()
        of = subject.wiring.layer(layer)
        flat, old = changed.select(of.axis, 1), before.select(of.axis, 1)
        if of.copies > 1:  # place 1 is in the first copy
            flat, old = flat[:, 0], old[:, 0]
        new = {
            "set": lambda: torch.full_like(flat, 0.7),
            "scale": lambda: flat * -1.5,
            "zero": lambda: torch.zeros_like(flat),
            "mean": lambda: old.mean().expand_as(flat),
            "resample": lambda: old[torch.from_numpy(done.partner)],
        }[do]()
        flat.copy_(new)
        return changed

    with torch.no_grad():
        outputs = subject.general.rows(network.forward_with_hooks(x, by_hand)[0])
    expected = subject.losses(outputs[: len(data.train_inputs)], subject.train).mean()
    assert outcome.metrics["prediction_loss"] == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("do", ["set", "scale", "zero"])
def test_a_changed_connection_is_a_changed_weight(architecture: str, do: str) -> None:
    network, data = build(architecture)
    subject = AnalysisContext.of(network, data)
    name = subject.wiring.weight_layers[0].parameter
    done = Intervention(subject, subject.values())
    (outcome,) = done.run([[Change("connection", f"{name}[2,1]", do, value_for(do))]])
    values = subject.values()
    values[name][2, 1] = {"set": 0.7, "scale": -1.5 * values[name][2, 1], "zero": 0.0}[do]
    expected = subject.losses(subject.outputs(values, subject.validation), subject.validation).mean()
    assert outcome.metrics["validation_prediction_loss"] == pytest.approx(expected, rel=1e-9)


def test_replacing_all_that_a_neuron_sends_is_replacing_the_neuron() -> None:
    subject = AnalysisContext.of(*build("mlp"))
    done = Intervention(subject, subject.values())
    for do in ("zero", "mean", "resample"):
        sent = [Change("connection", f"weights.1[{row},3]", do) for row in range(5)]
        through, direct = done.run([sent, [Change("neuron", "hidden1:3", do)]])
        assert through.metrics == pytest.approx(direct.metrics)
        assert through.effects == pytest.approx(direct.effects)


def test_a_module_is_its_inner_neurons_and_agrees_with_its_effect() -> None:
    network = teacher()
    subject = AnalysisContext.of(network, data_of(network))
    modules = {"A": ["input:0", "input:2", "hidden1:0", "hidden1:1", "hidden2:0", "hidden2:1", "output:0"]}
    done = Intervention(subject, subject.values(), modules=modules)
    (outcome,) = done.run([[Change("module", "A", "mean")]])
    group = {"hidden1": np.arange(8) < 2, "hidden2": np.arange(8) < 2}
    effects = Ablator(subject, subject.network, seed=0).effects([group], "mean").matrix[0]
    assert outcome.effects == pytest.approx({"y1": effects[0], "y2": effects[1]})
    assert outcome.effects["y2"] == 0.0


def test_an_embedding_dimension_is_one_neuron_for_all_tokens() -> None:
    network, data = build("embedded mlp")
    network.adopt_orders({"input": torch.tensor([2, 0, 3, 1])})
    subject = AnalysisContext.of(network, data)
    done = Intervention(subject, subject.values())
    (outcome,) = done.run([[Change("embedding", "3")]])  # index 3 before relocation, slot 2 now
    values = subject.values()
    values["embedding"][:, 2] = 0.0
    expected = subject.losses(subject.outputs(values, subject.train), subject.train).mean()
    assert outcome.metrics["prediction_loss"] == pytest.approx(expected, rel=1e-9)
    assert set(outcome.metrics) == {"prediction_loss", "validation_prediction_loss", "accuracy", "validation_accuracy"}


def test_trials_side_by_side_are_the_same_as_one_by_one() -> None:
    subject = AnalysisContext.of(*build("deep mlp"))
    done = Intervention(subject, subject.values())
    trials = [
        [],
        [Change("connection", "weights.0[0,0]", "resample"), Change("connection", "weights.2[1,1]", "mean")],
        [Change("neuron", "hidden2:1", "set", 2.0), Change("neuron", "hidden3:0", "resample")],
        [Change("neuron", "output:0", "scale", 0.5)],
        [Change("neuron", "input:2", "mean")],
    ]
    together = done.run(trials)
    for outcome, trial in zip(together, trials, strict=True):
        (alone,) = done.run([trial])
        assert outcome.metrics == pytest.approx(alone.metrics, rel=1e-12)
    assert together[0].metrics == pytest.approx(done.before)
    assert together[0].document()["change"] == pytest.approx(dict.fromkeys(done.before, 0.0), abs=1e-15)


def test_of_what_cannot_be_computed_nothing_is_said(architecture: str) -> None:
    network, data = build(architecture)
    done = Intervention(AnalysisContext.of(network, data), AnalysisContext.of(network, data).values())
    huge, twice = Change("neuron", "output:0", "set", 1e308), Change("neuron", "output:0", "scale", 1e308)
    beyond, far, after = done.run([[huge, twice], [huge], []])
    assert np.isnan([*beyond.metrics.values(), *beyond.effects.values()]).all()
    assert far.metrics.keys() == done.before.keys()
    assert after.metrics == done.before


def test_nothing_is_modified(architecture: str) -> None:
    network, data = build(architecture)
    subject = AnalysisContext.of(network, data)
    values = subject.values()
    kept = {name: value.copy() for name, value in values.items()}
    parameter = subject.wiring.weight_layers[-1].parameter
    done = Intervention(subject, values)
    before = done.run([[]])[0].metrics
    done.run([[Change("connection", f"{parameter}[0,0]", "set", 9.0), Change("neuron", "output:0", "scale", 3.0)]])
    assert done.run([[]])[0].metrics == before
    assert all((values[name] == kept[name]).all() for name in kept)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (Change("connection", "weights.9[0,0]"), "no connection 'weights.9"),
        (Change("connection", "weights.0[99,0]"), "outside of weights.0"),
        (Change("neuron", "hidden1:99"), "no neuron 'hidden1:99'"),
        (Change("neuron", "hidden1"), "no neuron 'hidden1'"),
        (Change("module", "Z"), "no module 'Z'; this network has none"),
        (Change("embedding", "0"), "has no embedding"),
        (Change("neuron", "hidden1:0", "set"), "takes a finite `value`"),
        (Change("neuron", "hidden1:0", "scale", float("nan")), "takes a finite `value`"),
        (Change("neuron", "hidden1:0", "zero", 1.0), "takes none"),
    ],
)
def test_a_change_that_cannot_be_made_is_refused_with_a_sentence(change: Change, sentence: str) -> None:
    subject = AnalysisContext.of(*build("mlp"))
    with pytest.raises(InterventionError, match=sentence):
        Intervention(subject, subject.values()).run([[change]])


def test_a_thousand_ablations_of_a_perceptron_run_in_five_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    network = teacher(hidden=20)
    subject = AnalysisContext.of(network, data_of(network))
    done = Intervention(subject, subject.values())
    keys = [f"weights.1[{row},{column}]" for row in range(20) for column in range(20)]
    keys += [f"weights.0[{row},{column}]" for row in range(20) for column in range(4)]
    keys += [f"weights.2[{row},{column}]" for row in range(2) for column in range(20)]
    trials = [[Change("connection", key)] for key in (keys * 2)[:1000]]
    passes: list[int] = []
    one_pass = NumpyMlp._from_layer

    def counted(self: NumpyMlp, start: int, trials: list, *rest: object) -> np.ndarray:
        passes.append(len(trials))
        return one_pass(self, start, trials, *rest)

    monkeypatch.setattr(NumpyMlp, "_from_layer", counted)
    assert len(done.run(trials)) == sum(passes) == 1000
    assert len(passes) <= 5
