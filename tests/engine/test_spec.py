"""What a spec refuses before anything is trained, with a sentence that says what to do."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from bimt_engine.data.kinds.synthetic import FormulaData
from bimt_engine.spec import MOST_KEPT, EvidenceSpec, TrainingSpec


@pytest.mark.parametrize("name", MOST_KEPT)
def test_a_run_leaves_no_more_records_than_can_be_kept(name: str) -> None:
    others = dict.fromkeys(MOST_KEPT, 10_000_000)
    with pytest.raises(ValidationError, match=rf"more than the .* raise `{name}` to [\d,]+ or more") as refused:
        TrainingSpec(steps=10_000_000, **(others | {name: 1}))
    raised = int(str(refused.value).split(f"raise `{name}` to ")[1].split(" ")[0].replace(",", ""))
    assert getattr(TrainingSpec(steps=10_000_000, **(others | {name: raised})), name) == raised


def test_phases_rise_to_the_end() -> None:
    with pytest.raises(ValidationError, match="end at 1.0"):
        TrainingSpec(phases=[{"until": 0.5, "cost_strength": 0.1}])


@pytest.mark.parametrize("formula", ["x1 / 0", "log(x1 - 5)", "sqrt(x1)"])
def test_a_formula_without_finite_values_is_refused_before_it_is_trained_on(formula: str) -> None:
    with pytest.raises(ValidationError, match=r"has no finite value at x1 = .* or `low` and `high`"):
        FormulaData(formulas=["x2", formula], inputs=2)


def test_a_formula_that_cannot_be_read_is_pointed_at() -> None:
    with pytest.raises(ValidationError, match="x3") as refused:
        FormulaData(formulas=["x2", "x3"], inputs=2)
    assert refused.value.errors()[0]["loc"] == ("formulas", 1)
    assert FormulaData(formulas=["sqrt(x1)"], inputs=1, low=0.0).formulas == ["sqrt(x1)"]


@pytest.mark.parametrize(("steps", "evaluations"), [(1_000, 60), (61, 60), (60, 60), (10, 10), (0, 0)])
def test_a_spec_of_the_previous_version_keeps_the_refits_that_it_had(steps: int, evaluations: int) -> None:
    assert EvidenceSpec.model_validate({"refit_steps": steps}).refit_evaluations == evaluations
    assert "refit_steps" not in EvidenceSpec.model_validate({"refit_steps": steps}).model_dump()


def test_refit_steps_that_are_no_number_are_refused() -> None:
    with pytest.raises(ValidationError, match="refit_evaluations"):
        EvidenceSpec.model_validate({"refit_steps": "many"})
