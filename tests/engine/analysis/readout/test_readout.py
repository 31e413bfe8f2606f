"""What is read out is the network: the expression exactly, the formulas only where the network confirms them."""

from __future__ import annotations

import json

import numpy as np
import pytest
import sympy
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bimt_engine.analysis.context import AnalysisContext
from bimt_engine.analysis.reachability import full_masks
from bimt_engine.analysis.readout.formula_library import forms
from bimt_engine.analysis.readout.formula_search import Examples, best_form, with_plain_constants
from bimt_engine.analysis.readout.formulas import (
    ReadoutError,
    compose,
    find_formula,
    layers_apart,
    readout,
    symbols_for,
)
from bimt_engine.analysis.readout.function_search import Budget
from bimt_engine.analysis.readout.symmetry import (
    additive_blocks,
    combined_inputs,
    gradients,
    interactions,
    snapped,
)
from bimt_engine.analysis.readout.verdicts import evaluated, r_squared
from bimt_engine.analysis.statements.formulas import combination
from bimt_engine.networks.mlp import MlpNetwork
from bimt_engine.networks.network import build_network
from tests.engine.analysis.teachers import data_of, teacher
from tests.engine.makers import build, table_data

u, v = sympy.symbols("u v", real=True)


@pytest.mark.parametrize("activation", ["silu", "relu", "tanh", "gelu", "gelu_tanh"])
def test_the_expression_is_the_network(activation: str) -> None:
    data = table_data(3, 2)
    network = build_network(
        MlpNetwork(hidden=[2, 2], activation=activation), data, generator=torch.Generator().manual_seed(0)
    )
    network.adopt_orders({"input": torch.tensor([2, 0, 1]), "output": torch.tensor([1, 0])})
    subject = AnalysisContext.of(network, data)
    values = subject.values()
    expressions = compose(subject, values, full_masks(subject.wiring, values))
    theirs = subject.outputs(values, subject.validation)
    for output, expression in enumerate(expressions):
        ours = np.array(
            [
                float(expression.subs(dict(zip(symbols_for(data.feature_names), map(float, row), strict=True))))
                for row in data.test_inputs[:3]
            ]
        )
        np.testing.assert_allclose(ours, theirs[:3, output], atol=1e-12)


def test_masked_connections_are_not_in_the_expression() -> None:
    network = teacher()
    subject = AnalysisContext.of(network, data_of(network))
    values = subject.values()
    masks = {name: value != 0 for name, value in values.items() if name.startswith("weights")}
    one, two = compose(subject, values, masks)
    assert {str(s) for s in one.free_symbols} == {"x1", "x3"}
    assert {str(s) for s in two.free_symbols} == {"x2", "x4"}


@pytest.mark.parametrize("name", ["embedded mlp", "transformer"])
def test_what_cannot_be_written_down_says_so(name: str) -> None:
    network, data = build(name)
    subject = AnalysisContext.of(network, data)
    values = subject.values()
    with pytest.raises(ReadoutError, match="Only perceptrons"):
        compose(subject, values, full_masks(subject.wiring, values))
    found = readout(subject, values, full_masks(subject.wiring, values), tolerance=1e-3, seed=0, searches=0)
    assert found["outputs"] == []
    assert "more than a perceptron" in found["reading"]


def test_a_large_network_is_not_composed_but_still_read() -> None:
    network = teacher(residue=0.1, hidden=10)
    subject = AnalysisContext.of(network, data_of(network))
    values = subject.values()
    masks = full_masks(subject.wiring, values)
    with pytest.raises(ReadoutError, match="160 connections"):
        compose(subject, values, masks)
    found = readout(subject, values, masks, tolerance=1e-3, seed=0, searches=0)
    assert found["outputs"][0]["expression"] is None
    json.dumps(found, allow_nan=False)


def test_gradients_are_those_of_autograd() -> None:
    network, data = build("deep mlp")
    network.adopt_orders({"input": torch.tensor([1, 2, 0]), "output": torch.tensor([2, 0, 1])})
    subject = AnalysisContext.of(network, data)
    x = torch.from_numpy(data.train_inputs).requires_grad_()
    ours = gradients(subject.plain, subject.values(), data.train_inputs)
    for output in range(3):
        (theirs,) = torch.autograd.grad(network(x)[:, output].sum(), x)
        np.testing.assert_allclose(ours[:, output], theirs.numpy(), atol=1e-12)


def test_interactions_are_zero_for_sums_and_one_for_products() -> None:
    draw = np.random.default_rng(0)
    x = draw.normal(size=(4000, 3))
    found = interactions(lambda x: x[:, 0] ** 2 + np.sin(x[:, 1]) + x[:, 2], x, generator=draw)
    np.testing.assert_allclose(found, 0.0, atol=1e-12)
    found = interactions(lambda x: x[:, 0] * x[:, 1], x, generator=draw)
    assert found[0, 1] == pytest.approx(1.0, abs=0.2)
    assert found[0, 2] == found[1, 2] == 0.0
    assert additive_blocks(found, [0, 1, 2]) == [[0, 1], [2]]


def test_inputs_that_act_as_one_number_are_found_with_their_coefficients() -> None:
    x = np.random.default_rng(0).uniform(-1, 1, (300, 5))
    # f = sqrt((x1 - x2)² + (x3 - x4)²) + exp(x5), its gradient by hand
    a, b = x[:, 0] - x[:, 1], x[:, 2] - x[:, 3]
    size = np.hypot(a, b)
    gradient = np.column_stack((a / size, -a / size, b / size, -b / size, np.exp(x[:, 4])))
    found = combined_inputs(gradient, [0, 1, 2, 3, 4])
    assert [(c.inputs, c.coefficients) for c in found] == [
        ((0, 1), (1.0, -1.0)),
        ((2, 3), (1.0, -1.0)),
        ((4,), (1.0,)),
    ]
    assert max(c.asymmetry for c in found) < 1e-6
    tilted = gradient + 0.3 * np.random.default_rng(1).normal(size=gradient.shape)
    assert len(combined_inputs(tilted, [0, 1, 2, 3, 4])) == 5


def fitted(numbers: np.ndarray, values: np.ndarray, symbols: tuple[sympy.Symbol, ...]) -> sympy.Expr:
    """The best formula of the library."""
    examples = Examples.of_function(numbers, values)
    return with_plain_constants(best_form(examples, forms(numbers, values)), examples, symbols)


@pytest.mark.parametrize(
    ("truth", "low", "high"),
    [
        (u**3, -2, 2),
        (u**2, -1, 1),
        (sympy.sin(sympy.pi * u), -1, 1),
        (2 * u - sympy.Rational(1, 2), -1, 1),
        (sympy.exp(2 * u), -1, 1),
        (sympy.Abs(u), -1, 1),
    ],
)
@pytest.mark.parametrize("noise", [0.0, 3e-3])
def test_formulas_of_one_number_come_back(truth: sympy.Expr, low: float, high: float, noise: float) -> None:
    draw = np.random.default_rng(0)
    numbers = draw.uniform(low, high, (100, 1))
    values = evaluated(truth, (u,), numbers)
    found = fitted(numbers, values + noise * values.std() * draw.normal(size=100), (u,))
    assert sympy.simplify(found - truth) == 0


@pytest.mark.parametrize(
    "truth", [sympy.sqrt(u**2 + v**2), u**2 + 2 * v, u * v, sympy.exp(u - v)], ids=["norm", "sum", "product", "exp"]
)
def test_formulas_of_two_numbers_come_back(truth: sympy.Expr) -> None:
    draw = np.random.default_rng(0)
    numbers = draw.uniform(-1, 1, (150, 2))
    values = evaluated(truth, (u, v), numbers)
    found = fitted(numbers, values + 1e-3 * values.std() * draw.normal(size=150), (u, v))
    assert sympy.simplify(found - truth) == 0


def test_a_formula_is_accepted_only_when_the_network_confirms_it() -> None:
    data = table_data(2, 1)
    network = build_network(MlpNetwork(hidden=[]), data, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        network.weights[0].copy_(torch.tensor([[2.0, -1.0]]))
        network.biases[0].copy_(torch.tensor([0.5]))
    subject = AnalysisContext.of(network, data)
    found = find_formula(subject, subject.values(), 0, tolerance=1e-3, seed=0, budget=Budget(0))
    assert found["accepted"]
    x1, x2 = symbols_for(("x1", "x2"))
    text = sympy.sympify(found["text"], locals={"x1": x1, "x2": x2})
    assert sympy.simplify(text - (2 * x1 - x2 + sympy.Rational(1, 2))) == 0
    assert found["substitution_loss"] == pytest.approx(found["loss"], rel=1e-6)


def test_layers_are_apart_until_a_neuron_hears_of_both_parts() -> None:
    network = teacher()
    subject = AnalysisContext.of(network, data_of(network))
    masks = {name: value != 0 for name, value in subject.values().items() if name.startswith("weights")}
    assert layers_apart(subject, masks, [["x1", "x3"], ["x2", "x4"]]) == 2
    assert layers_apart(subject, masks, [["x1"], ["x3"]]) == 0
    masks["weights.1"][0, 4] = True
    assert layers_apart(subject, masks, [["x1", "x3"], ["x2", "x4"]]) == 1


def test_a_wild_function_is_not_passed_off_as_a_formula() -> None:
    data = table_data(3, 1, examples=100)
    network = build_network(MlpNetwork(hidden=[20]), data, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for weight in network.weights:
            weight *= 12.0
    subject = AnalysisContext.of(network, data)
    found = find_formula(subject, subject.values(), 0, tolerance=1e-4, seed=0, budget=Budget(0))
    assert not found["accepted"]
    assert found["reason"]


def test_a_function_of_too_many_numbers_is_named() -> None:
    data = table_data(5, 1)
    network = build_network(MlpNetwork(hidden=[9]), data, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        network.weights[0] *= 6.0
    subject = AnalysisContext.of(network, data)
    found = find_formula(subject, subject.values(), 0, tolerance=1e-4, seed=0, budget=Budget(0))
    assert (found["text"], found["accepted"]) == (None, False)
    assert "numbers at once" in found["reason"]


@given(st.floats(-7, 7))
@settings(max_examples=50)
def test_snapping_moves_no_further_than_it_may(number: float) -> None:
    near = snapped(number, 0.02)
    assert abs(near - number) <= 0.02 * max(abs(near), 0.1) + 1e-12


def test_numbers_read_as_people_write_them() -> None:
    assert combination(["x1", "x3"], [1.0, 1.0]) == "x1 + x3"
    assert combination(["x1", "x2", "x3"], [1.0, -1.0, 0.5]) == "x1 - x2 + 0.5·x3"
    assert combination(["x2"], [1.0]) == "x2"


def test_r_squared_is_one_less_error_over_variance() -> None:
    y = np.array([1.0, 2.0, 4.0])
    assert r_squared(y, y) == 1.0
    assert r_squared(y, np.full(3, y.mean())) == pytest.approx(0.0)
    assert r_squared(np.ones(3), np.zeros(3)) == -np.inf
