"""A formula with open constants is evaluated, differentiated, fitted and written in ways that agree."""

from __future__ import annotations

import numpy as np
import pytest
import sympy

from bimt_engine.analysis.readout.form import (
    Form,
    Through,
    constant,
    number,
    opened,
    plus,
    power,
    summed,
    times,
    variable,
)
from bimt_engine.analysis.readout.formula_library import forms
from bimt_engine.analysis.readout.verdicts import evaluated

X, Y, A, B, C = variable(0), variable(1), constant(0), constant(1), constant(2)
SYMBOLS = sympy.symbols("x y", real=True)
PLACES = np.random.default_rng(0).uniform(0.3, 1.7, (40, 2))
FORMS = [
    Form(plus(times(A, X, Y), times(B, power(X, 3)), C), (1.5, -0.7, 0.2)),
    Form(times(A, ("sin", plus(times(B, X), C))), (0.8, 2.5, 0.4)),
    Form(plus(times(A, ("exp", times(number(-1), power(times(B, Y), 2)))), C), (1.2, 0.9, -0.3)),
    Form(times(A, power(plus(X, B), -1), ("log", plus(Y, C))), (2.0, 0.5, 1.1)),
    Form(("sqrt", plus(times(A, power(X, 2)), times(B, power(Y, 2)), C)), (1.0, 2.0, 0.1)),
    Form(times(A, power(X, B), power(Y, C)), (1.3, 0.6, -1.4)),
    Form(plus(("tanh", times(A, X)), ("abs", plus(Y, B)), times(C, ("cos", X))), (1.3, -0.9, 0.5)),
]


@pytest.mark.parametrize("form", FORMS)
def test_the_expression_has_the_value_of_the_tree(form: Form) -> None:
    written = form.written(SYMBOLS, [sympy.Float(c, 17) for c in form.constants])
    np.testing.assert_allclose(form.at(PLACES), evaluated(written, SYMBOLS, PLACES), rtol=1e-12)


@pytest.mark.parametrize("form", FORMS)
def test_slopes_are_those_of_differences(form: Form) -> None:
    slopes = form.slopes(PLACES, range(3))
    for i in range(3):
        moved = [np.array(form.constants) + sign * 1e-6 * np.eye(3)[i] for sign in (1, -1)]
        differences = (form.at(PLACES, moved[0]) - form.at(PLACES, moved[1])) / 2e-6
        np.testing.assert_allclose(slopes[:, i], differences, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("form", FORMS[:-1])  # a kink is moved from place to place, not along a slope
def test_constants_that_are_nearly_right_are_fitted_exactly(form: Form) -> None:
    off = Form(form.tree, tuple(c * 1.05 for c in form.constants))
    np.testing.assert_allclose(off.refitted(PLACES, form.at(PLACES)).constants, form.constants, rtol=1e-6)
    held = off.refitted(PLACES, form.at(PLACES), [1, 2])
    assert held.constants[0] == off.constants[0]


def test_a_sum_of_formulas_has_one_offset_and_the_value_of_its_parts() -> None:
    one = Form(plus(times(A, X), B), (2.0, 3.0))
    other = Form(plus(C, times(A, ("sin", times(B, X)))), (0.5, 2.0, -1.0))
    whole = summed([(one, [1]), (other, [0])])
    np.testing.assert_allclose(whole.at(PLACES), one.at(PLACES[:, [1]]) + other.at(PLACES[:, [0]]))
    assert len(whole.constants) == 4
    assert whole.constants[-1] == pytest.approx(2.0)
    assert whole.offset == 3


def test_a_formula_of_weighted_sums_is_one_of_the_columns() -> None:
    form = Form(plus(times(A, power(X, 2)), B), (3.0, 1.0))
    through = [Through((0, 1), (1.0, -2.0))]
    whole = opened(form, through)
    np.testing.assert_allclose(whole.at(PLACES), form.at(through[0].of(PLACES)[:, None]))
    assert whole.constants == (-2.0, 3.0, 1.0)


def test_only_phases_and_rates_of_curves_that_turn_are_angles() -> None:
    assert Form(plus(times(A, ("sin", plus(times(B, X), C))), constant(3)), (1.0, 1.0, 0.0, 0.0)).angles == {1, 2}
    assert FORMS[0].angles == frozenset()


def test_every_formula_of_the_library_is_fitted_to_its_values() -> None:
    u = np.random.default_rng(1).uniform(2.0, 5.0, (80, 1))
    values = np.log(u[:, 0] - 1.2) + 2.0
    every = list(forms(u, values))
    assert len({form.tree for form in every}) == len(every) > 30
    for form in every:
        assert np.isfinite(form.at(u)).all()
        assert float(((form.at(u) - values) ** 2).mean()) <= float(values.var()) * (1 + 1e-9)
    assert min(float(((form.at(u) - values) ** 2).mean()) for form in every) < 1e-20


@pytest.mark.parametrize("place", [0.0, -3.0])
def test_where_there_is_no_value_the_tree_still_has_a_number(place: float) -> None:
    """A search may pass through places where a formula is not defined; the expression is not defined there."""
    form = Form(plus(("log", plus(X, A)), power(("sqrt", plus(X, A)), -1)), (place,))
    nowhere = np.array([[-place], [-place - 1.0]])
    assert np.isfinite(form.at(nowhere)).all()
    assert not np.isfinite(evaluated(form.written(SYMBOLS, [sympy.Float(place)]), SYMBOLS[:1], nowhere)).any()
