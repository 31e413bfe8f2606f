"""A formula has the value that Python would give it, or is refused with a sentence."""

from __future__ import annotations

import math
import string

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bimt_engine.data.formulas import FUNCTIONS, MAX_DEPTH, check_formula, evaluate_formula
from bimt_engine.data.kinds.synthetic import FormulaData
from bimt_engine.errors import DataError, FormulaError

INPUTS = np.random.default_rng(0).uniform(-1, 1, (50, 4))
X1, X2, X3, X4 = INPUTS.T


@pytest.mark.parametrize(
    ("formula", "value"),
    [
        ("(x1 + x3)**3", (X1 + X3) ** 3),
        ("x2**2 + sin(pi*x4)", X2**2 + np.sin(np.pi * X4)),
        ("sqrt((x1-x2)**2 + (x3-x4)**2)", np.hypot(X1 - X2, X3 - X4)),
        ("-x1**2", -(X1**2)),
        ("2**3**2*x1", 512 * X1),
        ("2**-1 * x1", X1 / 2),
        ("x1 - x2 - x3", (X1 - X2) - X3),
        ("x1 / 2 / x2", X1 / 2 / X2),
        ("max(x1, x2, 0) + min(x3, -.5e-1)", np.maximum(np.maximum(X1, X2), 0) + np.minimum(X3, -0.05)),
        ("exp(-abs(x1)) * tanh(2.*x2) + log(e + 0*x1)", np.exp(-np.abs(X1)) * np.tanh(2 * X2) + 1),
    ],
)
def test_a_formula_means_what_its_mathematics_means(formula, value):
    np.testing.assert_allclose(evaluate_formula(formula, INPUTS), value, rtol=1e-14, atol=1e-15)


@pytest.mark.parametrize(
    ("formula", "says"),
    [
        ("__import__('os').system('true')", "`__import__` at character 1, which is not allowed"),
        ("x1.real", "character 3, '.'"),
        ("'x1'", "Text has no place"),
        ("x1 < 2", "compares nothing"),
        ("x1 == 2", "compares nothing"),
        ("9**9**9 + x1", "exponent 3.8742e\\+08"),
        ("x1**(10**10)", "exponent 1e\\+10"),
        ("x1^2", "powers as `\\*\\*`"),
        ("2x1", "products with `\\*`"),
        ("x5", "there are 4 inputs"),
        ("x0 + x1", "`x0`"),
        ("eval(x1)", "`eval`"),
        ("lambda: x1", "`lambda`"),
        ("sin(x1, x2)", "it takes 1"),
        ("max(x1)", "it takes 2 to 16"),
        ("sin x1", "after `sin`"),
        ("", "the formula ends"),
        ("(x1", "`\\)` should be"),
        ("x1 x2", "an operator or the end"),
        ("1/0 + x1", "not a finite number"),
        ("1e999 * x1", "not a finite number"),
        ("1j * x1", "character 1"),
        ("3 + pi", "uses no input"),
        ("\uff581", "character 1"),  # a full-width x, which Python itself would read as x1
        ("x1\x00", "character 3"),
        ("[x1 for x1 in x2]", "'\\['"),
    ],
)
def test_what_is_not_a_formula_is_refused_with_its_place(formula, says):
    with pytest.raises(FormulaError, match=says):
        check_formula(formula, inputs=4)
    with pytest.raises(ValueError, match=says):  # pydantic reports these by field
        check_formula(formula, inputs=4)


@pytest.mark.parametrize("depth", [60, 10_000, 1_000_000])
@pytest.mark.parametrize("shape", ["({})", "-{}", "sin({})", "x1**{}", "+{}"])
def test_any_depth_is_answered_with_a_sentence(shape, depth):
    before, after = shape.split("{}")
    with pytest.raises(FormulaError, match=r"nested more than|at most 500"):
        check_formula(before * depth + "x1" + after * depth, inputs=4)


def test_a_long_flat_sum_is_no_deep_one():
    assert evaluate_formula("+".join(["x1"] * 160), INPUTS) == pytest.approx(160 * X1)


def test_the_depth_limit_is_where_it_says():
    check_formula("(" * (MAX_DEPTH - 1) + "x1" + ")" * (MAX_DEPTH - 1), inputs=1)
    with pytest.raises(FormulaError):
        check_formula("(" * MAX_DEPTH + "x1" + ")" * MAX_DEPTH, inputs=1)


@pytest.mark.parametrize("formula", ["log(x1)", "1/(x1-x1)", "sqrt(x1)", "exp(exp(exp(exp(9+x1))))"])
def test_values_that_are_not_finite_are_refused_with_the_formula_and_an_example(formula):
    with pytest.raises(DataError, match="no finite value at x1 = ") as caught:
        evaluate_formula(formula, INPUTS)
    assert caught.value.where["formula"] == formula


def test_a_spec_names_the_field_of_a_bad_formula():
    with pytest.raises(ValueError, match="__import__"):
        FormulaData(formulas=["x1", "__import__('os')"], inputs=2)


@given(st.text(alphabet=string.printable + "π×²é\u2028", max_size=80))
@settings(max_examples=500)
def test_any_text_is_a_formula_or_a_sentence(text):
    try:
        check_formula(text, inputs=4)
    except FormulaError as error:
        said = str(error)
        assert 20 < len(said) < 500


PIECES = st.sampled_from(
    ["x1", "x4", "2.0", "0.5", "pi", "(", ")", "+", "-", "*", "/", "**", ",", " ", *(f"{f}(" for f in FUNCTIONS)]
)


@given(st.lists(PIECES, max_size=30).map("".join))
@settings(max_examples=500)
def test_any_row_of_pieces_is_evaluated_as_python_would_or_refused(text):
    """Outside truth: Python's own reading of the same text, where both accept it."""
    try:
        check_formula(text, inputs=4)
    except FormulaError:
        return
    names = {name: function for name, (function, _, _) in FUNCTIONS.items()}
    names |= {f"x{i + 1}": INPUTS[:, i] for i in range(4)} | {"pi": np.float64(math.pi)}
    with np.errstate(all="ignore"):
        expected = np.broadcast_to(eval(text, {"__builtins__": {}}, names), len(INPUTS))
    if np.isfinite(expected).all():
        np.testing.assert_allclose(evaluate_formula(text, INPUTS), expected, rtol=1e-12)
    else:
        with pytest.raises(DataError):
            evaluate_formula(text, INPUTS)
