"""Genetic programming finds what the library does not have, the same in every process; it may be missing."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
import sympy

from bimt_engine.analysis.readout.formula_search import Examples, best_form, with_plain_constants
from bimt_engine.analysis.readout.function_search import Budget, Sampled, find, symbols_for
from bimt_engine.analysis.readout.genetic_search import (
    MISSED,
    SYMBOL_SETS,
    evolved_forms,
    expression_of,
    form_of,
)
from bimt_engine.analysis.readout.verdicts import Judge, evaluated

pyoperon = pytest.importorskip("pyoperon", reason="pyoperon has no wheel for this platform")

x, y = symbols_for(("x", "y"))
# Twice in processes of their own, with other hashes: prints trees and constants to the last digit.
SEARCH = """
import numpy as np
from bimt_engine.analysis.readout.genetic_search import SYMBOL_SETS, evolved_forms
x = np.random.default_rng(0).uniform(-1, 1, (60, 2))
print(evolved_forms(x, x[:, 1] * np.sin(3 * x[:, 0]) + x[:, 0], symbols=SYMBOL_SETS["transcendental"], seed=5))
"""


def sampled_product(targets: bool = True) -> tuple[Sampled, Judge]:
    """y·sin(πx) at random places, and other places that decide."""

    def function(places: np.ndarray) -> np.ndarray:
        return places[:, 1] * np.sin(np.pi * places[:, 0])

    draw = np.random.default_rng(2)
    places, deciding = draw.uniform(-1, 1, (100, 2)), draw.uniform(-1, 1, (100, 2))
    angle = np.pi * places[:, 0]
    gradient = np.column_stack((np.pi * places[:, 1] * np.cos(angle), np.sin(angle)))
    values = function(places) if targets else None
    there = function(deciding)
    judge = Judge(
        deciding, there, there if targets else None, lambda raw: raw,
        lambda answer: float(((answer - there) ** 2).mean()), 0.0, 1e-3 * there.var(), 1e-3,
    )  # fmt: skip
    return Sampled(function, places, gradient, places.std(axis=0), values, ("x", "y")), judge


def test_a_product_of_curves_is_found_with_its_constants() -> None:
    sampled, judge = sampled_product()
    found = find(sampled, judge, seed=0).verdict
    assert found is not None
    assert found.expression == y * sympy.sin(sympy.pi * x)
    assert (found.searcher, found.meets_network, found.better_than_network) == ("genetic", True, False)


def test_two_processes_find_the_same_to_the_last_digit() -> None:
    said = [
        subprocess.run(
            [sys.executable, "-c", SEARCH],
            env=os.environ | {"PYTHONHASHSEED": hashes, "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for hashes in ("1", "2")
    ]
    assert said[0] == said[1]
    assert "'sin'" in said[0]


def test_without_operon_the_library_is_searched_and_a_sentence_says_what_is_missing(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "pyoperon", None)  # as where it is not installed
    sampled, judge = sampled_product()
    found = find(sampled, judge, seed=0)
    assert found.skipped == MISSED
    assert found.verdict is None or not found.verdict.accepted
    assert evolved_forms(sampled.inputs, sampled.targets, symbols=SYMBOL_SETS["algebraic"], seed=0) == []


def test_no_search_is_made_beyond_those_that_were_asked_for() -> None:
    sampled, judge = sampled_product()
    budget = Budget(0)
    found = find(sampled, judge, seed=0, budget=budget)
    assert "evidence.formula_searches" in (found.skipped or "")
    classes, judge = sampled_product(targets=False)
    assert find(classes, judge, seed=0, budget=Budget(3)).skipped is None


@pytest.mark.parametrize(
    "text", ["X1 / (X2 - 3 * X1)", "sin(X1 + 2) * sqrt(X2) - exp(X1 * X2)", "tanh(X1) - log(X2) / cos(X1)"]
)
def test_a_tree_of_operon_has_the_value_that_operon_gives_it(text: str) -> None:
    places = np.random.default_rng(0).uniform(0.5, 1.5, (20, 2))
    data = pyoperon.Dataset(np.asfortranarray(places))
    hashes = {variable.Name: variable.Hash for variable in data.Variables}
    tree = pyoperon.InfixParser.Parse(text, hashes)
    theirs = pyoperon.Evaluate(pyoperon.DispatchTable(), tree, data, pyoperon.Range(0, 20))
    ours = expression_of(tree.Nodes, {hashes["X1"]: x, hashes["X2"]: y})
    np.testing.assert_allclose(evaluated(ours, (x, y), places), theirs, rtol=1e-5)
    form = form_of(ours, (x, y))
    assert form is not None
    np.testing.assert_allclose(form.at(places), theirs, rtol=1e-5)


@pytest.mark.parametrize(
    ("expression", "constants"),
    [
        (2.0 * (3.0 * x + 1.5 * y) ** 2, 3),  # scale, weight of y, offset
        (0.3 * sympy.exp(2.0 * x + 0.5), 3),  # scale, rate, offset
        (1653.0 / (1653.0 + 826.5 * x), 3),  # scale, pole, offset
        (sympy.cos(2.0 * x + 40.0), 3),  # rate, phase, offset
        (x * y * 1.5 - 2.5, 2),
    ],
)
def test_no_two_constants_do_the_same(expression: sympy.Expr, constants: int) -> None:
    form = form_of(expression, (x, y))
    assert form is not None
    assert len(form.constants) == constants
    places = np.random.default_rng(0).uniform(0.5, 1.5, (20, 2))
    np.testing.assert_allclose(form.at(places), evaluated(expression, (x, y), places), rtol=1e-9)
    examples = Examples.of_data(places, form.at(places))
    told = evaluated(with_plain_constants(form, examples, (x, y)), (x, y), places)
    np.testing.assert_allclose(told, form.at(places), atol=1e-4)
    assert best_form(examples, [form]) is form


def test_what_has_no_real_value_is_no_formula() -> None:
    assert form_of(sympy.sqrt(-1.0) * x, (x, y)) is None
    assert form_of(sympy.zoo * x, (x, y)) is None
    assert form_of(sympy.Float(3.0), (x, y)) is None
