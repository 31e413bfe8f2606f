"""A formula is in the units of the data: with a row of the table put into it, it gives what the network predicts."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import sympy
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bimt_engine.analysis.context import AnalysisContext, DataUnits
from bimt_engine.analysis.reachability import full_masks
from bimt_engine.analysis.readout.formula_search import plain_numbers
from bimt_engine.analysis.readout.formulas import compose, readout, unpredicted
from bimt_engine.analysis.readout.function_search import Budget, Sampled, find, symbols_for
from bimt_engine.analysis.readout.symmetry import symmetry_report
from bimt_engine.analysis.readout.verdicts import Judge, evaluated, r_squared
from bimt_engine.data.dataset import Dataset, Scaling
from bimt_engine.networks.mlp import MlpNetwork
from bimt_engine.networks.network import Network, build_network
from tests.engine.makers import table_data

EXAMPLES = 400
Truth = Callable[..., np.ndarray]

# name -> (columns and the ranges they are drawn from, the target as a function of them)
TABLES: dict[str, tuple[dict[str, tuple[float, float]], Truth]] = {
    "parabola": ({"flow": (2.0, 6.0), "ph": (4.0, 9.0)}, lambda flow, ph: flow**2 - 0.7 * ph),
    "plane": ({"a": (20.0, 180.0), "b": (-20.0, 50.0)}, lambda a, b: 3 * a - 2 * b + 5),
}


def standardised(
    columns: dict[str, tuple[float, float]], truth: Truth, *, noise: float = 0.0, seed: int = 0
) -> Dataset:
    """A table as an upload becomes one: raw columns, standardised by the training part."""
    draw = np.random.default_rng(seed)
    raw = np.column_stack([draw.uniform(low, high, 2 * EXAMPLES) for low, high in columns.values()])
    exact = truth(*raw.T)[:, None]
    targets = exact + noise * exact.std() * draw.normal(size=exact.shape)
    inputs, outputs = Scaling.of(raw[:EXAMPLES]), Scaling.of(targets[:EXAMPLES])
    x, y = inputs.apply(raw), outputs.apply(targets)
    return Dataset(
        x[:EXAMPLES], y[:EXAMPLES], x[EXAMPLES:], y[EXAMPLES:], "regression", tuple(columns), ("y",),
        input_scaling=inputs, target_scaling=outputs,
    )  # fmt: skip


def student(data: Dataset, *, through: list[list[float]] | None = None, seed: int = 0) -> Network:
    """A network whose neurons read one number each (by default one column each), its last layer fitted to the data."""
    draw = np.random.default_rng(seed)
    directions = np.array(through) if through is not None else np.eye(data.inputs)
    hidden = 8 * len(directions)
    network = build_network(MlpNetwork(hidden=[hidden]), data, generator=torch.Generator().manual_seed(seed))
    weights = np.repeat(directions, 8, axis=0) * draw.uniform(0.4, 1.2, (hidden, 1))
    biases = draw.uniform(-1.5, 1.5, hidden)
    before = data.train_inputs @ weights.T + biases
    heard = np.column_stack((before / (1 + np.exp(-before)), np.ones(len(before))))
    solved = np.linalg.lstsq(heard, data.train_targets[:, 0], rcond=1e-6)[0]
    with torch.no_grad():
        network.weights[0].copy_(torch.from_numpy(weights))
        network.biases[0].copy_(torch.from_numpy(biases))
        network.weights[1].copy_(torch.from_numpy(solved[None, :-1]))
        network.biases[1].copy_(torch.from_numpy(solved[-1:]))
    return network


def read(data: Dataset, network: Network, *, tolerance: float = 1e-2) -> dict[str, Any]:
    subject = AnalysisContext.of(network, data)
    values = subject.values()
    return readout(subject, values, full_masks(subject.wiring, values), tolerance=tolerance, seed=0, searches=0)


def at_raw(text: str, data: Dataset) -> np.ndarray:
    """What a stranger gets who puts the held-out rows of the table into the text."""
    symbols = symbols_for(data.feature_names)
    expression = sympy.sympify(text, locals={str(s): s for s in symbols})
    return evaluated(expression, symbols, data.input_scaling.undo(data.test_inputs))


@pytest.mark.parametrize("name", TABLES)
def test_a_formula_holds_for_the_columns_as_they_were_measured(name: str) -> None:
    columns, truth = TABLES[name]
    data = standardised(columns, truth)
    found = read(data, student(data))
    formula = found["outputs"][0]["formula"]
    assert formula["accepted"], formula
    assert found["units"] == "data"
    raw_target = data.target_scaling.undo(data.test_targets)[:, 0]
    assert r_squared(raw_target, at_raw(formula["text"], data)) >= 0.999999
    symbols = symbols_for(data.feature_names)
    difference = sympy.expand(sympy.sympify(formula["text"], locals=dict(zip(columns, symbols, strict=True))))
    exact = sympy.expand(truth(*symbols))
    assert all(abs(float(c)) < 1e-9 for c in sympy.Poly(difference - exact, *symbols).coeffs())


@pytest.mark.parametrize("name", TABLES)
def test_noise_leaves_the_form_alone_and_the_constants_nearly(name: str) -> None:
    columns, truth = TABLES[name]
    data = standardised(columns, truth, noise=0.1, seed=3)
    formula = read(data, student(data))["outputs"][0]["formula"]
    assert formula["accepted"], formula
    raw = data.input_scaling.undo(data.test_inputs)
    assert r_squared(truth(*raw.T), at_raw(formula["text"], data)) >= 0.99
    symbols = symbols_for(data.feature_names)
    told = sympy.Poly(sympy.sympify(formula["text"], locals=dict(zip(columns, symbols, strict=True))), *symbols)
    true = sympy.Poly(truth(*symbols), *symbols)
    assert set(true.monoms()) - {(0, 0)} == set(told.monoms()) - {(0, 0)}
    for power in set(true.monoms()) - {(0, 0)}:
        assert float(told.coeff_monomial(power)) == pytest.approx(float(true.coeff_monomial(power)), rel=0.15)


def test_a_sum_of_standardised_columns_is_told_with_its_weights() -> None:
    columns = {"x1": (5.0, 15.0), "x2": (-1.0, 1.0), "x3": (2.0, 4.0)}
    data = standardised(columns, lambda x1, x2, x3: np.exp(0.1 * x1 + 0.2 * x3))
    spread = data.input_scaling.std
    network = student(data, through=[[0.1 * spread[0] / 0.5, 0.0, 0.2 * spread[2] / 0.5]])
    (output,) = read(data, network)["outputs"]
    (through,) = output["symmetry"]["through"]
    assert through["inputs"] == ["x1", "x3"]
    assert through["coefficients"] == pytest.approx([1.0, 2.0], rel=1e-3)
    assert through["reading"] == "x1 + 2·x3"
    raw = data.target_scaling.undo(data.test_targets)[:, 0]
    assert r_squared(raw, at_raw(output["formula"]["text"], data)) > 0.9999


@pytest.mark.parametrize("unit", [1e-9, 1e25, 1e90])
def test_units_however_large_or_small_break_nothing(unit: float) -> None:
    columns = {"near": (0.0, 1.0), "far": (unit, 3 * unit)}
    data = standardised(columns, lambda near, far: near + (far / unit) ** 2)
    formula = read(data, student(data))["outputs"][0]["formula"]
    json.dumps(formula, allow_nan=False)
    if unit < 1e30:
        raw = data.target_scaling.undo(data.test_targets)[:, 0]
        assert r_squared(raw, at_raw(formula["text"], data)) > 0.9999
    else:
        assert not formula["accepted"]


def test_a_parabola_far_from_zero_is_told_by_its_vertex() -> None:
    draw = np.random.default_rng(0)
    year = draw.uniform(1950, 2020, (300, 1))
    values = 0.3 * (year[:, 0] - 1985) ** 2 + 100
    (symbol,) = symbols_for(("year",))
    noise = 0.01 * values.std() * draw.normal(size=300)
    told = told_of(lambda year: 0.3 * (year[:, 0] - 1985) ** 2 + 100, year, values + noise, "year")
    assert r_squared(values, evaluated(told, (symbol,), year)) > 0.9999
    (vertex,) = [p.base for p in told.atoms(sympy.Pow)]
    assert float(symbol - vertex) == pytest.approx(1985, abs=0.5)


def test_one_score_may_stand_still_while_the_other_decides() -> None:
    data = table_data(2, 2, classes=True, examples=100)
    network = build_network(MlpNetwork(hidden=[]), data, generator=torch.Generator().manual_seed(0))
    design = np.column_stack((data.train_inputs, np.ones(100)))
    solved = np.linalg.lstsq(design, 2.0 * data.train_targets - 1.0, rcond=None)[0]
    with torch.no_grad():
        network.weights[0].copy_(torch.from_numpy(np.vstack((np.zeros(2), 8 * solved[:2]))))
        network.biases[0].copy_(torch.from_numpy(np.array([0.0, 8 * solved[2]])))
    subject = AnalysisContext.of(network, data)
    reasons = unpredicted(subject, subject.values())
    assert reasons[1] is None
    assert "the other classes decide" in (reasons[0] or "")


def test_columns_may_be_called_anything() -> None:
    columns = {"lambda": (1.0, 3.0), "flow rate (l/min)": (2.0, 6.0)}
    data = standardised(columns, lambda first, second: second**2 - first)
    formula = read(data, student(data))["outputs"][0]["formula"]
    assert formula["accepted"]
    assert "lambda" in formula["text"]
    assert "“flow rate (l/min)”**2" in formula["text"]


def test_what_counts_as_read_does_not_depend_on_the_unit() -> None:
    """Of two columns that matter alike, one in units a billion times smaller: both are read, and apart."""
    columns = {"metres": (0.0, 1.0), "nanometres": (0.0, 1e9)}
    data = standardised(columns, lambda metres, nanometres: metres**2 + 1e-18 * nanometres**2)
    subject = AnalysisContext.of(student(data), data)
    (report,) = symmetry_report(subject, subject.values(), seed=0)
    assert report["reads"] == ["metres", "nanometres"]


scalings = st.tuples(st.floats(-1e3, 1e3), st.floats(1e-3, 1e6)).map(lambda pair: (pair[0] * pair[1], pair[1]))


@given(st.lists(scalings, min_size=5, max_size=5), st.integers(0, 5))
@settings(max_examples=20, deadline=None)
def test_the_expression_gives_raw_predictions_for_raw_inputs(scaled: list[tuple[float, float]], seed: int) -> None:
    mean, std = np.array(scaled).T
    data = replace(
        table_data(3, 2), input_scaling=Scaling(mean[:3], std[:3]), target_scaling=Scaling(mean[3:], std[3:])
    )
    network = build_network(MlpNetwork(hidden=[2, 2]), data, generator=torch.Generator().manual_seed(seed))
    network.adopt_orders({"input": torch.tensor([2, 0, 1]), "output": torch.tensor([1, 0])})
    subject = AnalysisContext.of(network, data)
    values = subject.values()
    raw = data.input_scaling.undo(data.test_inputs)
    told = [str(e) for e in compose(subject, values, full_masks(subject.wiring, values))]
    theirs = data.target_scaling.undo(subject.outputs(values, subject.validation))
    for output, text in enumerate(told):
        symbols = symbols_for(data.feature_names)
        ours = evaluated(sympy.sympify(text, locals={str(s): s for s in symbols}), symbols, raw)
        np.testing.assert_allclose(ours, theirs[:, output], rtol=1e-9, atol=1e-9 * std[3 + output])


def test_scores_of_classes_are_functions_of_raw_columns() -> None:
    data = table_data(2, 2, classes=True)
    data = replace(data, input_scaling=Scaling(np.array([50.0, -3.0]), np.array([10.0, 0.1])))
    network = build_network(MlpNetwork(hidden=[3]), data, generator=torch.Generator().manual_seed(0))
    subject = AnalysisContext.of(network, data)
    values = subject.values()
    raw = data.input_scaling.undo(data.test_inputs)
    for output, expression in enumerate(compose(subject, values, full_masks(subject.wiring, values))):
        scores = subject.outputs(values, subject.validation)[:, output]
        np.testing.assert_allclose(evaluated(expression, symbols_for(data.feature_names), raw), scores, atol=1e-9)
    assert (
        readout(subject, values, full_masks(subject.wiring, values), tolerance=1e-2, seed=0, searches=0)["units"]
        == "scores"
    )


def test_folding_the_scalings_changes_no_answer() -> None:
    data = standardised(*TABLES["parabola"])
    subject = AnalysisContext.of(student(data), data)
    units, values = DataUnits.of(subject), subject.values()
    raw = replace(subject.validation, inputs=units.raw_inputs(subject.validation))
    folded = subject.outputs(units.folded(subject.plain, values), raw)
    np.testing.assert_allclose(folded, units.targets.undo(subject.outputs(values, subject.validation)), atol=1e-9)


def test_nothing_is_read_out_of_an_output_that_is_not_predicted() -> None:
    draw = np.random.default_rng(0)
    data = standardised(*TABLES["parabola"])
    network = student(data)
    with torch.no_grad():
        network.weights[1].zero_()
    (output,) = read(data, network)["outputs"]
    assert (output["formula"]["text"], output["formula"]["predicted"], output["expression"]) == (None, False, None)
    assert "the same answer" in output["formula"]["reason"]
    noise = replace(data, test_targets=draw.normal(size=data.test_targets.shape))
    subject = AnalysisContext.of(student(data), noise)
    (reason,) = unpredicted(subject, subject.values())
    assert reason is not None
    assert "as well by a constant" in reason


def test_a_constant_up_to_rounding_has_no_variance_to_be_shared() -> None:
    truth = np.full(50, 0.1) + 1e-17 * np.arange(50)
    assert r_squared(truth, truth + 1.0) == -np.inf
    assert r_squared(truth, np.full(50, 0.1)) == 1.0


# --- plain numbers and plain formulas ----------------------------------------------------------------


def test_pi_is_no_constant_where_a_plain_number_does_as_well() -> None:
    written = [p.written for p in plain_numbers(-0.785, 0.01)]
    assert not any(w.has(sympy.pi) for w in written)
    angles = {p.written: p.cost for p in plain_numbers(-0.785, 0.01, angle=True)}
    assert -sympy.pi / 4 in angles


@pytest.mark.parametrize("slope", [-0.7, -0.77, -0.8])
def test_a_slope_is_written_as_the_number_that_it_is(slope: float) -> None:
    draw = np.random.default_rng(1)
    u = draw.uniform(4, 9, (300, 1))
    values = slope * u[:, 0]
    data = values + 0.02 * values.std() * draw.normal(size=300)
    told = told_of(lambda u: slope * u[:, 0], u, data, "u")
    assert told == sympy.Float(repr(slope), 6) * symbols_for(("u",))[0]


def test_a_parabola_is_not_told_as_an_exponential_that_follows_the_networks_mistakes() -> None:
    """The network is off by a smooth curve that a bell follows better than a parabola; the data know better."""
    draw = np.random.default_rng(0)
    u = draw.uniform(2, 6, (400, 1))
    truth = u[:, 0] ** 2

    def bell(u: np.ndarray) -> np.ndarray:
        return np.column_stack((120 - 120 * np.exp(-((0.09 * (u[:, 0] - 0.1)) ** 2)), np.ones(len(u))))

    weights = np.linalg.lstsq(bell(u), truth, rcond=None)[0]
    assert r_squared(truth, bell(u) @ weights) > 0.999
    told = told_of(lambda u: bell(u) @ weights, u, truth + 0.01 * truth.std() * draw.normal(size=400), "u")
    assert told == symbols_for(("u",))[0] ** 2


def told_of(function: Truth, columns: np.ndarray, data: np.ndarray, name: str) -> sympy.Expr:
    """The formula that is told of a function of one column, and of data that it was fitted to: a half decides."""
    step = 1e-5 * columns.std()
    slope = (function(columns + step) - function(columns - step))[:, None] / (2 * step)
    half = len(columns) // 2
    sampled = Sampled(function, columns[:half], slope[:half], columns.std(axis=0), data[:half], (name,))
    values = function(columns[half:])
    judge = Judge(
        columns[half:], values, data[half:], lambda raw: raw, lambda answer: 0.0, 0.0, 1e-3 * values.var(), 1e-3
    )
    found = find(sampled, judge, seed=0, budget=Budget(0))
    assert found.verdict is not None
    assert found.verdict.accepted
    return found.verdict.expression
