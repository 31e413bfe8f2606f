"""Each kind of data is what the paper says, the same for the same seed, and another for another."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bimt_engine.data.kinds.groups import GroupData, ModularAdditionData
from bimt_engine.data.kinds.images import DigitPairData, DigitsData, small_digits
from bimt_engine.data.kinds.synthetic import (
    FormulaData,
    InContextRegressionData,
    ParitiesData,
    TwoMemoriesData,
    TwoMoonsData,
)
from bimt_engine.data.registry import KINDS, differs_by_seed, make_dataset
from bimt_engine.errors import DataError
from bimt_engine.recipes import load_recipe, recipe_names
from bimt_engine.spec import Spec, spec_schema

SPECS = [
    FormulaData(formulas=["(x1 + x3)**3", "x2**2 + sin(pi*x4)"], inputs=4),
    TwoMoonsData(),
    ModularAdditionData(modulus=11),
    GroupData(group="S4"),
    GroupData(group="table", cayley_table=[[0, 1, 2], [1, 2, 0], [2, 0, 1]]),
    InContextRegressionData(sequences=50),
    TwoMemoriesData(time=4, train=20, test=10),
    DigitsData(),
    DigitPairData(larger=True, train=50, test=30),
    ParitiesData(sizes=[2, 3], unused=1, rows=None),
]


def arrays(dataset):
    return [array for name in ("train", "validation", "test") for array in dataset.part(name)]


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.kind)
def test_the_seed_decides_the_data_and_nothing_else_does(spec):
    first, again, other = (make_dataset(spec, seed=seed) for seed in (3, 3, 4))
    for a, b in zip(arrays(first), arrays(again), strict=True):
        assert a.dtype == b.dtype
        assert np.array_equal(a, b)
    assert not all(np.array_equal(a, b) for a, b in zip(arrays(first), arrays(other), strict=True))
    assert differs_by_seed(spec)
    fixed = spec.model_copy(update={"seed": 3})
    assert not differs_by_seed(fixed)
    for a, b in zip(arrays(first), arrays(make_dataset(fixed, seed=99)), strict=True):
        assert np.array_equal(a, b)


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.kind)
def test_names_widths_and_labels_fit_together(spec):
    data = make_dataset(spec, seed=0)
    assert len(data.feature_names) == data.inputs
    assert len(data.train_inputs) == len(data.train_targets)
    assert len(data.test_inputs) == len(data.test_targets)
    if data.task == "classification":
        assert data.default_loss == "cross_entropy"
        assert data.train_targets.dtype == np.int64
        assert 0 <= data.train_targets.min() <= data.train_targets.max() < data.targets
    else:
        assert data.default_loss == "mse"
        assert data.train_targets.shape[-1] == data.targets
    if data.tokens is not None:
        assert data.train_inputs.dtype == np.int64
        assert 0 <= data.train_inputs.min() <= data.train_inputs.max() < data.tokens


def test_a_formula_is_computed_from_uniform_inputs():
    data = make_dataset(FormulaData(formulas=["x1 - 2*x2"], inputs=2, low=1, high=3, train=5000, test=7), seed=0)
    x = data.train_inputs
    assert 1 <= x.min() < 1.01
    assert 2.99 < x.max() <= 3
    np.testing.assert_allclose(data.train_targets[:, 0], x[:, 0] - 2 * x[:, 1])
    assert data.test_inputs.shape == (7, 2)
    assert data.target_names == ("y",)


def test_a_formula_that_is_the_same_everywhere_is_refused():
    with pytest.raises(DataError, match=r"`x1 - x1` has the same value"):
        make_dataset(FormulaData(formulas=["x1", "x1 - x1"], inputs=1), seed=0)


def test_modular_addition_has_every_pair_once():
    data = make_dataset(ModularAdditionData(modulus=59), seed=0)
    parts = [data.part(name) for name in ("train", "validation", "test")]
    pairs = np.concatenate([inputs for inputs, _ in parts])
    assert len(pairs) == 59**2 == len(np.unique(pairs, axis=0))
    assert len(data.train_inputs) == round(0.8 * 59**2)
    assert (pairs.sum(1) % 59 == np.concatenate([labels for _, labels in parts])).all()


def test_an_in_context_sequence_hides_its_last_y():
    data = make_dataset(InContextRegressionData(sequences=1000), seed=0)
    x, y = data.train_inputs[..., 0], data.train_inputs[..., 1]
    assert data.train_inputs.shape == (800, 2, 2)
    assert data.predicted_positions == (1,)
    assert (y[:, 1] == 0).all()
    w = y[:, 0] / x[:, 0]
    assert -1 <= w.min() < w.max() <= 1
    assert 1 <= x.min() < x.max() <= 3
    np.testing.assert_allclose(data.train_targets[:, 1, 0], w * x[:, 1])


def test_two_memories_are_a_delay_and_a_fading_sum():
    data = make_dataset(TwoMemoriesData(time=5, train=7, test=3), seed=0)
    x, y = data.test_inputs, data.test_targets
    assert x.shape == y.shape == (3, 5, 2)
    assert data.predicted_positions == (4,)
    np.testing.assert_array_equal(y[:, :, 0], np.pad(x[:, :-1, 0], ((0, 0), (1, 0))))
    fading = np.array([[0.5 ** (t - s) if s <= t else 0.0 for s in range(5)] for t in range(5)])
    np.testing.assert_allclose(y[:, :, 1], x[:, :, 1] @ fading.T)


def test_two_moons_can_be_told_apart_by_their_neighbours():
    from sklearn.neighbors import KNeighborsClassifier

    data = make_dataset(TwoMoonsData(), seed=0)
    judge = KNeighborsClassifier(5).fit(data.train_inputs, data.train_targets)
    assert judge.score(data.test_inputs, data.test_targets) > 0.97
    assert not np.array_equal(data.train_inputs, data.test_inputs)


def test_digits_are_scaled_and_every_class_is_on_both_sides():
    data = make_dataset(DigitsData(), seed=1)
    assert data.train_inputs.min() == 0
    assert data.train_inputs.max() == 1
    assert sum(len(data.part(name)[0]) for name in ("train", "validation", "test")) == 1797
    assert set(data.train_targets) == set(data.test_targets) == set(range(10))


def test_a_pair_is_two_digits_and_no_image_is_in_two_parts():
    data = make_dataset(DigitPairData(larger=True, train=3000, test=2000), seed=2)
    parts = [data.part(name) for name in ("train", "validation", "test")]
    targets = np.concatenate([of_part for _, of_part in parts])
    left, right = (targets[:, list(group)] for group in data.label_groups)
    assert (left.sum(axis=1) == 1).all()
    assert (right.sum(axis=1) == 1).all()
    assert data.target_names == (*(f"{side}{n}" for side in ("left", "right") for n in range(10)), "larger")
    difference = left.argmax(axis=1) - right.argmax(axis=1)
    np.testing.assert_array_equal(targets[:, 20], np.where(difference == 0, 0.5, difference > 0))
    images, labels = small_digits()
    known = {image.tobytes(): label for image, label in zip(images, labels, strict=True)}
    seen = []
    for inputs, answers in parts:
        halves = [row.tobytes() for row in inputs.reshape(-1, 64)]  # left, right, left, right, …
        digits = answers[:, :20].reshape(-1, 10).argmax(axis=1)
        assert [known[half] for half in halves] == digits.tolist()
        seen.append(set(halves))
    assert sum(map(len, seen)) == len(set().union(*seen)) > 1700
    assert [len(inputs) for inputs, _ in parts] == [3000, 2000, 2000]
    assert make_dataset(DigitPairData(train=20, test=10), seed=2).targets == 20


def test_parities_are_products_of_bits_of_their_own():
    data = make_dataset(ParitiesData(sizes=[2, 3], unused=1, rows=None), seed=0)
    parts = [data.part(name) for name in ("train", "validation", "test")]
    x, y = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    assert len(x) == 2**6 == len(np.unique(x, axis=0))
    assert set(np.unique(x)) == {-1.0, 1.0}
    np.testing.assert_array_equal(y, np.stack([x[:, 0] * x[:, 1], x[:, 2] * x[:, 3] * x[:, 4]], axis=1))
    drawn = make_dataset(ParitiesData(sizes=[8], unused=40, rows=500), seed=0)
    assert (len(drawn.train_inputs), drawn.inputs, drawn.target_names) == (400, 48, ("y",))
    assert np.abs(drawn.train_inputs.mean(axis=0)).max() < 0.2
    few = make_dataset(ParitiesData(sizes=[3], unused=1, rows=16), seed=0)
    rows = np.concatenate([few.part(name)[0] for name in ("train", "validation", "test")])
    assert len(np.unique(rows, axis=0)) == 16, "no row is drawn twice"


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"sizes": [8, 8, 1], "unused": 0, "rows": None}, "come to 17 bits; .* asks for all rows, 3 to 16"),
        ({"sizes": [2], "unused": 0, "rows": None}, "come to 2 bits"),
        ({"sizes": [3], "unused": 60}, "come to 63 bits; 3 to 62 are offered"),
        ({"sizes": [3], "unused": 1, "rows": 17}, "17 rows are asked for; 4 bits have 16 different ones"),
    ],
)
def test_bits_that_have_not_so_many_rows_are_refused(fields, says):
    with pytest.raises(ValueError, match=says):
        ParitiesData(**fields)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"group": "table"}, "needs a `cayley_table`"),
        ({"group": "S4", "cayley_table": [[0]]}, "leave one of them out"),
        ({"group": "S9"}, "too large"),
        ({"group": "Z999"}, "Z512 is the largest"),
        ({"group": "table", "cayley_table": [[0, 1], [0, 1]]}, "0 stands twice in column 1"),
    ],
)
def test_what_is_no_group_is_refused_by_the_spec_already(fields, says):
    with pytest.raises(ValueError, match=says):
        GroupData(**fields)
    with pytest.raises(DataError, match=says):  # and by the maker, for specs that were not validated
        make_dataset(GroupData().model_copy(update=fields), seed=0)


def test_a_group_of_one_element_has_nothing_to_learn():
    with pytest.raises(DataError, match="one element only"):
        make_dataset(GroupData(group="Z1"), seed=0)


ELSEWHERE = {"mnist": "test_images.py", "uploaded": "test_roles.py", "python_library": "test_text.py"}  # read files


def test_every_kind_is_tested_and_labelled_and_described() -> None:
    assert {spec.kind for spec in SPECS} | set(ELSEWHERE) == set(KINDS)
    for kind in KINDS.values():
        assert kind.label[0].isupper()
        assert kind.description.endswith(".")
    assert len({kind.label for kind in KINDS.values()}) == len(KINDS)


def test_the_schema_of_a_spec_offers_every_kind() -> None:
    dataset = spec_schema()["properties"]["dataset"]
    assert set(dataset["discriminator"]["mapping"]) == set(KINDS)


def test_every_recipe_asks_for_a_kind_that_there_is() -> None:
    recipes = [load_recipe(name) for name in recipe_names()]
    assert {recipe.spec.dataset.kind for recipe in recipes if not recipe.needs_dataset} <= set(KINDS)


NEW_KIND = '''
"""Two spirals."""
from typing import Literal
import numpy as np
from pydantic import Field
from bimt_engine.data.dataset import Dataset, data_generator
from bimt_engine.data.kinds import Drawn, dataset_kind

class SpiralData(Drawn):
    """Two spirals that wind around each other."""

    kind: Literal["spiral"] = "spiral"
    turns: float = Field(default=2.0, gt=0, le=10)

@dataset_kind(SpiralData, label="Two spirals")
def spiral(spec, *, seed):
    angle = data_generator(seed, "spiral").uniform(0.5, 2 * np.pi * spec.turns, 40)
    sign = np.where(np.arange(40) % 2, 1, -1)
    x = np.stack([sign * angle * np.cos(angle), sign * angle * np.sin(angle)], axis=1)
    y = (sign > 0).astype(np.int64)
    return Dataset(x[:20], y[:20], x[20:], y[20:], "classification", ("x1", "x2"), ("a", "b"))
'''

USE_IT = """
import json, sys
import bimt_engine.data.kinds as kinds
kinds.__path__.append(sys.argv[1])
from bimt_engine.data.registry import KINDS, make_dataset
from bimt_engine.spec import Spec
spec = Spec.model_validate({"dataset": {"kind": "spiral", "turns": 1.5}})
data = make_dataset(spec.dataset, seed=1)
print(json.dumps([KINDS["spiral"].label, data.train_inputs.shape, "torch" in sys.modules]))
"""


def test_a_new_kind_is_one_file(tmp_path: Path, repository: Path) -> None:
    (tmp_path / "spirals.py").write_text(NEW_KIND)
    answer = subprocess.run(
        [sys.executable, "-c", USE_IT, str(tmp_path)],
        env=os.environ | {"PYTHONPATH": str(repository)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(answer.stdout) == ["Two spirals", [20, 2], False]


def test_a_kind_that_nothing_declares_is_refused() -> None:
    with pytest.raises(ValueError, match="spiral"):
        Spec.model_validate({"dataset": {"kind": "spiral"}})
