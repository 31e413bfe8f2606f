"""What a group inside one module computes: in the units of the data, up to a constant, judged in the group's place."""

from __future__ import annotations

import numpy as np
import pytest
import sympy

from bimt_engine.analysis.context import AnalysisContext
from bimt_engine.analysis.modules.effects import Ablator
from bimt_engine.analysis.modules.interior import examine_interior
from bimt_engine.analysis.readout.formulas import places_of, with_group_formulas
from bimt_engine.analysis.readout.verdicts import r_squared
from bimt_engine.analysis.statements.interior import group_label, group_statement
from bimt_engine.data.dataset import Dataset
from tests.engine.analysis.readout.test_readout_units import TABLES, standardised, student


def table(noise: float = 0.0) -> Dataset:
    """flow² − 0.7 ph, of raw columns."""
    return standardised(*TABLES["parabola"], noise=noise)


def examined(data: Dataset):
    """Subject, values and interior of a network whose neurons read one column each."""
    subject = AnalysisContext.of(student(data), data)
    values = subject.values()
    masks = {w.parameter: values[w.parameter] != 0 for w in subject.wiring.weight_layers}
    ablator = Ablator(subject, subject.network, seed=0)
    letters = {f"hidden1:{slot}": "A" for slot in range(16)}
    return subject, values, examine_interior(subject, ablator, ablator, values, masks, module_of=letters, costs={})


@pytest.fixture(scope="module")
def read():
    """The subject, and its interior with formulas."""
    subject, values, interior = examined(table())
    return subject, values, with_group_formulas(subject, values, interior, tolerance=1e-2, seed=0)


def by_column(interior) -> dict[str, dict]:
    return {group["reads"][0]["name"]: group for group in interior["partitions"][interior["primary"]]["groups"]}


def test_each_group_has_the_formula_of_what_it_adds(read):
    _, _, interior = read
    groups = by_column(interior)
    assert set(groups) == {"flow", "ph"}
    raw = dict(zip(("flow", "ph"), np.random.default_rng(1).uniform((2, 4), (6, 9), (200, 2)).T, strict=True))
    for name, truth in (("flow", raw["flow"] ** 2), ("ph", -0.7 * raw["ph"])):
        (one,) = groups[name]["computes"]
        formula = one["formula"]
        assert one["output"] == "y"
        assert formula["accepted"], formula
        assert formula["inputs"] == [name]
        assert formula["test"]["r2"] > 0.999
        given = sympy.lambdify(sympy.Symbol(name), sympy.sympify(formula["text"]))(raw[name])
        assert r_squared(truth - truth.mean(), given - given.mean()) > 0.999, formula["text"]


def test_a_formula_is_told_without_its_constant(read):
    for group in by_column(read[2]).values():
        (one,) = group["computes"]
        assert sympy.sympify(one["formula"]["text"]).as_coeff_Add()[0] == 0


def test_sentence_and_legend_name_the_formula(read):
    groups = by_column(read[2])
    text = groups["ph"]["computes"][0]["formula"]["text"]
    assert f"adds {text} to y, up to a constant (R² = " in group_statement(groups["ph"])
    assert group_label(groups["ph"]) == f"computes {text.replace('*', '·')}"
    assert f"adds {text} to y" in read[2]["reading"]


def test_what_is_not_accepted_is_not_told(read):
    group = by_column(read[2])["ph"]
    refused = group | {"computes": [{"output": "y", "formula": {"text": "ph", "accepted": False}}]}
    assert "adds" not in group_statement(refused)
    assert group_label(refused) == "reads ph"


def test_a_rejected_or_combined_partition_has_no_formulas():
    subject, values, interior = examined(table())
    for change in ({"verdict": "not supported"}, {"kind": "composition"}):
        partitions = [partition | change for partition in interior["partitions"]]
        changed = interior | {"partitions": partitions}
        assert with_group_formulas(subject, values, changed, tolerance=1e-2, seed=0) == changed


def test_the_formula_takes_the_group_s_place(read):
    """The loss with the formula in the group's place is that of the network in which it is computed instead."""
    subject, values, interior = read
    group = by_column(interior)["flow"]
    formula = group["computes"][0]["formula"]
    assert formula["loss"] == pytest.approx(
        float(subject.losses(subject.outputs(values, subject.validation), subject.validation).mean())
    )
    assert formula["substitution_loss"] <= formula["loss_limit"]
    places = places_of(subject, group["neurons"])
    assert places.keys() == {"hidden1"}
    assert places["hidden1"].sum() == len(group["neurons"]) == 8


def test_the_same_seed_gives_the_same_formulas(read):
    subject, values, interior = examined(table())
    again = with_group_formulas(subject, values, interior, tolerance=1e-2, seed=0)
    assert again == read[2]
