"""A formula is compared with the network and with the data, and each comparison can go either way."""

from __future__ import annotations

import json

import numpy as np
import pytest
import sympy

from bimt_engine.analysis.readout.function_search import Budget, Sampled, find, symbols_for
from bimt_engine.analysis.readout.verdicts import Judge, Verdict, complexity, simplest, surely_more
from bimt_engine.analysis.statements.formulas import formula_statement

(x,) = symbols_for(("x",))
PLACES = np.random.default_rng(0).uniform(-1, 1, (200, 1))
TRUTH = PLACES[:, 0] ** 2


def judge(network: np.ndarray, *, noise: float = 0.0, classes: bool = False, tolerance: float = 1e-3) -> Judge:
    """A network that answers so, and data x² with noise of this many standard deviations."""
    data = TRUTH + noise * TRUTH.std() * np.random.default_rng(1).normal(size=len(TRUTH))
    loss = float(((network - data) ** 2).mean())
    return Judge(
        PLACES, network, None if classes else data, lambda raw: raw,
        lambda answer: float(((answer - data) ** 2).mean()), loss, loss + tolerance * float(data.var()), tolerance,
    )  # fmt: skip


def verdict(expression: sympy.Expr, judge: Judge) -> Verdict:
    found = judge(expression, (x,), "library")
    assert found is not None
    return found


def test_a_formula_that_is_the_network_meets_it_and_the_data_as_the_network_does() -> None:
    off = 1.02 * TRUTH
    exact = verdict(sympy.Float("1.02") * x**2, judge(off))
    assert (exact.meets_network, exact.meets_data, exact.better_than_network, exact.accepted) == (
        True,
        True,
        False,
        True,
    )
    assert exact.reason is None
    assert exact.r2_of_targets == pytest.approx(exact.network_r2_of_targets)


def test_the_truth_fits_the_data_better_than_a_network_that_is_off() -> None:
    wavy = TRUTH + 0.08 * TRUTH.std() * np.sin(9 * PLACES[:, 0])
    found = verdict(x**2, judge(wavy))
    assert (found.meets_network, found.meets_data, found.better_than_network, found.accepted) == (
        False,
        True,
        True,
        True,
    )
    assert "only to R² = 0.99" in (found.reason or "")


def test_a_formula_of_the_data_alone_is_no_formula_of_a_network_that_does_something_else() -> None:
    found = verdict(x**2, judge(-TRUTH))
    assert found.r2_of_targets == 1.0
    assert not found.better_than_network
    assert not found.accepted


def test_a_network_that_noise_hides_is_not_beaten_by_chance() -> None:
    """Beside noise as large as the signal, a formula a hair better than the network is not called better."""
    found = verdict(x**2, judge(TRUTH + 0.01 * TRUTH.std() * np.sin(9 * PLACES[:, 0]), noise=1.0))
    assert found.meets_network
    assert not found.better_than_network


def test_classes_have_no_verdict_of_data() -> None:
    found = verdict(x**2, judge(TRUTH, classes=True))
    assert (found.meets_network, found.meets_data, found.better_than_network) == (True, None, False)
    assert judge(TRUTH, classes=True).document(found, ["x"])["r2_of_targets"] is None


def test_a_formula_without_a_value_somewhere_has_no_verdict() -> None:
    assert judge(TRUTH)(sympy.sqrt(x), (x,), "library") is None


def test_of_formulas_that_are_equally_good_the_simplest_is_told() -> None:
    noisy = judge(TRUTH, noise=0.3)
    plain, bent = verdict(x**2, noisy), verdict(x**2 + sympy.Float("0.001") * sympy.sin(5 * x), noisy)
    line = verdict(sympy.Float("0.33"), noisy)
    assert simplest([line, bent, plain], noisy.negligible) is plain
    exact = judge(TRUTH)
    near = verdict(sympy.Float("1.001") * x**2, exact)
    assert simplest([near, verdict(x**2 + 0 * x, exact)], exact.negligible).expression == x**2
    assert simplest([], exact.negligible) is None


def test_a_longer_formula_that_is_surely_better_is_not_given_up_for_a_simpler_one() -> None:
    truth = TRUTH + 0.05 * PLACES[:, 0]
    data = Judge(PLACES, truth, truth, lambda raw: raw, lambda answer: 0.0, 0.0, 1.0, 0.5)
    rough, full = verdict(x**2, data), verdict(x**2 + sympy.Float("0.05") * x, data)
    assert simplest([rough, full], data.negligible) is full


def test_what_is_surely_more_is_more_by_two_standard_errors() -> None:
    draw = np.random.default_rng(0).normal(size=400)
    assert surely_more(1.0 + draw, draw, negligible=0.0)
    assert not surely_more(0.05 + draw, np.roll(draw, 1), negligible=0.0)
    assert not surely_more(draw + 1e-9, draw, negligible=1e-8)


@pytest.mark.parametrize(
    ("written", "size"),
    [
        (x, 1), (2 * x, 3), (-x, 2), (x**2, 3), (sympy.sqrt(x), 2), (1 / x, 2), (sympy.sin(sympy.pi * x), 4),
        (sympy.Float("0.37") * x, 4), (x + 1, 3), (x - 1, 3), (sympy.Rational(1, 3) * x, 3.5),
    ],
)  # fmt: skip
def test_size_counts_inputs_numbers_and_operations(written: sympy.Expr, size: float) -> None:
    assert complexity(written) == size


def test_the_sine_is_told_and_not_the_polynomial_that_follows_the_network() -> None:
    """A network off by a smooth wave: a polynomial meets it, the sine fits the data, and is the simpler one."""

    def network(places: np.ndarray) -> np.ndarray:
        u = places[:, 0]
        return np.sin(np.pi * u) + 0.03 * u**5 - 0.02 * u**3

    u = np.random.default_rng(3).uniform(-1, 1, (100, 1))
    step = 1e-5
    slope = (network(u + step) - network(u - step))[:, None] / (2 * step)
    sampled = Sampled(network, u, slope, u.std(axis=0), np.sin(np.pi * u[:, 0]), ("x",))
    answers, truth = network(PLACES), np.sin(np.pi * PLACES[:, 0])
    deciding = Judge(
        PLACES, answers, truth, lambda raw: raw, lambda answer: float(((answer - truth) ** 2).mean()),
        float(((answers - truth) ** 2).mean()), 1.0, 1e-3,
    )  # fmt: skip
    told = find(sampled, deciding, seed=0, budget=Budget(0)).verdict
    assert told is not None
    assert told.expression == sympy.sin(sympy.pi * x)
    assert told.better_than_network
    document = deciding.document(told, ["x"])
    json.dumps(document, allow_nan=False)
    said = formula_statement({"output": "y", "formula": document, "symmetry": {}}, "data")
    assert [v.text for v in said.verdicts][1] == "fits the data better than the network"
    assert any("fits the data better than the network" in sentence for sentence in said.evidence)
