"""What a spec refuses before anything is trained, with a sentence that says what to do."""

from __future__ import annotations

import hashlib
import json

import pytest
from pydantic import ValidationError

from bimt_engine.data.kinds.synthetic import FormulaData
from bimt_engine.recipes import load_recipe, recipe_names
from bimt_engine.spec import MOST_KEPT, EvidenceSpec, Phase, Spec, TrainingSpec
from bimt_engine.training.state import fingerprint


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


def test_auto_is_half_decades_around_the_spec_s_cost_strength() -> None:
    dataset = FormulaData(inputs=1, formulas=["x1"])
    assert Spec(dataset=dataset).ladder() == [3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2]
    free_at_first = [Phase(until=0.5, cost_strength=0.0), Phase(until=1.0, cost_strength=0.7)]
    assert Spec(dataset=dataset, training=TrainingSpec(phases=free_at_first)).ladder()[3] == 0.7


@pytest.mark.parametrize(
    "training",
    [TrainingSpec(method="vanilla"), TrainingSpec(phases=[Phase(until=1.0, cost_strength=0.0)])],
    ids=["vanilla", "free"],
)
def test_auto_needs_a_phase_that_costs(training: TrainingSpec) -> None:
    with pytest.raises(ValueError, match="here no phase costs anything"):
        Spec(dataset=FormulaData(inputs=1, formulas=["x1"]), training=training).ladder()


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


def tables(targets: int, task: str = "regression") -> dict[str, object]:
    names = [f"y{number}" for number in range(targets)]
    whole = {"kind": "uploaded", "dataset_id": "dat_" + "0" * 26, "sha256": "0" * 64, "format": "csv"}
    return whole | {"targets": names, "task": task}


@pytest.mark.parametrize(
    ("dataset", "balanced"),
    [
        ({"kind": "formula", "inputs": 2, "formulas": ["x1", "x2"]}, True),
        ({"kind": "formula", "inputs": 2, "formulas": ["x1"]}, False),
        (tables(2), True),
        (tables(1), False),
        (tables(1, "classification"), False),
        ({"kind": "two_memories"}, False),
    ],
)
def test_several_targets_of_a_users_own_are_balanced_unless_the_spec_says_otherwise(dataset, balanced) -> None:
    def stored(asked: bool | None) -> object:
        spec = Spec.model_validate({"dataset": dataset, "training": {"balance_outputs": asked}})
        return spec.expanded().model_dump()["training"]["balance_outputs"]

    assert stored(None) is balanced
    assert (stored(True), stored(False)) == (True, False)


def test_a_stored_spec_without_the_field_was_trained_without_balance() -> None:
    document = Spec.model_validate({"dataset": {"kind": "formula", "inputs": 2, "formulas": ["x1", "x2"]}}).model_dump()
    del document["training"]["balance_outputs"]
    assert not Spec.from_stored(document).expanded().training.balance_outputs
    assert not Spec.from_stored({"dataset": document["dataset"]}).expanded().training.balance_outputs
    assert Spec.from_stored(document | {"training": {"balance_outputs": None}}).expanded().training.balance_outputs


def test_published_recipes_are_not_balanced() -> None:
    recipes = [load_recipe(name) for name in recipe_names()]
    assert not any(recipe.spec.balances_outputs for recipe in recipes if not recipe.needs_dataset)


def test_a_cross_entropy_cannot_be_balanced() -> None:
    with pytest.raises(ValidationError, match="this loss is the cross entropy"):
        TrainingSpec(balance_outputs=True, loss="cross_entropy")


OLD = {"dataset": {"kind": "two_moons", "noise": 0.1, "train": 200, "test": 200, "seed": None}}


def test_a_stored_spec_without_versions_means_the_old_ones_and_a_new_one_gets_todays() -> None:
    stored = Spec.from_stored(OLD)
    assert (stored.dataset.split_version, stored.evidence.evidence_version) == (1, 1)
    new = Spec.model_validate(OLD)
    assert (new.dataset.split_version, new.evidence.evidence_version) == (2, 4)
    written = new.expanded().model_dump(mode="json")
    assert (written["dataset"]["split_version"], written["evidence"]["evidence_version"]) == (2, 4)
    assert Spec.from_stored(written) == new.expanded()
    assert Spec.from_stored(stored.model_dump(mode="json")) == stored


def test_what_is_new_of_a_transformer_is_written_only_where_it_is_used() -> None:
    old = {"kind": "transformer", "width": 32, "blocks": 2, "heads": 1, "layer_norm": False, "activation": "gelu_tanh"}
    spec = Spec.model_validate({"dataset": {"kind": "in_context_regression"}, "network": {"kind": "transformer"}})
    assert spec.model_dump(mode="json")["network"] == old
    new = {"layer_norm": True, "norm": "rms", "positions": True}
    written = Spec.model_validate({"dataset": {"kind": "python_library"}, "network": old | new}).model_dump(mode="json")
    assert written["network"] == old | new
    assert Spec.from_stored(written).model_dump(mode="json") == written


def test_a_checkpoint_of_the_version_before_still_fits_its_spec() -> None:
    def as_before(spec: Spec, *more: str) -> str:
        free = {
            "training": {"stepper", "device", "log_every", "snapshot_every", "checkpoint_every", "balance_outputs"},
            "evidence": True,
            "dataset": {"split_version", *more},
        }
        identity = [[spec.model_dump(mode="json", exclude=free), 3]]
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()

    table = {"kind": "uploaded", "dataset_id": f"dataset_{0:026d}", "sha256": "0" * 64, "format": "csv"}
    table |= {"targets": ["y"], "task": "regression", "test_fraction": 0.2}
    for fields in (OLD, {"dataset": table}):
        stored, new = Spec.from_stored(fields), Spec.model_validate(fields)
        assert fingerprint([stored], [3]) == as_before(stored, "validation_fraction", "split")
        assert fingerprint([new], [3]) != fingerprint([stored], [3])


def test_shares_of_a_table_leave_rows_to_train_on() -> None:
    table = {"kind": "uploaded", "dataset_id": f"dataset_{0:026d}", "sha256": "0" * 64, "format": "csv"}
    table |= {"targets": ["y"], "task": "regression", "test_fraction": 0.9}
    with pytest.raises(ValueError, match="leave no rows for training"):
        Spec.model_validate({"dataset": table})
    assert Spec.from_stored({"dataset": table}).dataset.shares == (pytest.approx(0.1), 0.0)
