"""Rows are in one part each, the parts have the shares that were asked for, and groups and times stay together."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bimt_engine.data.kinds.groups import ModularAdditionData
from bimt_engine.data.kinds.images import DigitsData
from bimt_engine.data.kinds.synthetic import FormulaData, InContextRegressionData, TwoMemoriesData, TwoMoonsData
from bimt_engine.data.registry import make_dataset
from bimt_engine.data.split import Split
from bimt_engine.errors import DataError

SHARES = st.sampled_from([(0.7, 0.15), (0.5, 0.25), (0.8, 0.0), (0.34, 0.33)])
PUBLISHED = [
    FormulaData(formulas=["x1*x2"], inputs=2),
    TwoMoonsData(),
    ModularAdditionData(modulus=11),
    InContextRegressionData(sequences=60),
    TwoMemoriesData(time=3, train=20, test=10),
    DigitsData(),
]


def rows_of(split: Split) -> list[int]:
    return sorted([*split.train, *split.validation, *split.test])


@given(st.lists(st.integers(0, 4), min_size=4, max_size=60), SHARES, st.integers(0, 9))
def test_a_split_by_class_trains_on_every_class_it_can(labels, shares, seed):
    labels = np.array(labels)
    split = Split.by_class(labels, *shares, seed=seed)
    assert rows_of(split) == list(range(len(labels)))
    assert len(split.test) >= 1
    missing = set(labels) - set(labels[split.train])
    assert not missing or (len(split.test) == 1 and (np.bincount(labels)[list(missing)] == 1).all())


@given(st.integers(3, 400), SHARES, st.integers(0, 9))
def test_a_random_split_has_the_shares_asked_for_and_leaves_no_part_empty(rows, shares, seed):
    split = Split.random(rows, *shares, seed=seed)
    assert rows_of(split) == list(range(rows))
    assert min(len(split.train), len(split.test)) >= 1
    assert (len(split.validation) >= 1) == (shares[1] > 0)
    assert abs(len(split.train) - shares[0] * rows) <= 2
    assert abs(len(split.validation) - shares[1] * rows) <= 2


def test_classes_have_their_shares_in_every_part():
    labels = np.repeat([0, 1, 2], [200, 100, 40])
    split = Split.by_class(labels, 0.7, 0.15, seed=0)
    assert np.bincount(labels[split.train]).tolist() == [140, 70, 28]
    assert np.bincount(labels[split.validation]).tolist() == [30, 15, 6]


@given(st.lists(st.integers(0, 9), min_size=30, max_size=80), SHARES, st.integers(0, 9))
def test_a_group_is_in_one_part_only(groups, shares, seed):
    groups = np.array([*groups, 0, 1, 2])
    split = Split.by_group(groups, *shares, seed=seed)
    assert rows_of(split) == list(range(len(groups)))
    parts = [set(groups[rows]) for rows in (split.train, split.validation, split.test)]
    assert sum(map(len, parts)) == len(set(groups))
    assert parts[0]
    assert parts[2]
    assert bool(parts[1]) == (shares[1] > 0)


def test_groups_come_nearest_to_the_shares_and_the_seed_decides_which():
    groups = np.repeat(np.arange(40), 5)
    one, other = (Split.by_group(groups, 0.7, 0.15, seed=seed) for seed in (0, 1))
    assert (len(one.train), len(one.validation), len(one.test)) == (140, 30, 30)
    assert set(groups[one.train]) != set(groups[other.train])


def test_a_split_by_time_tests_on_the_latest_rows():
    times = np.random.default_rng(0).permutation(np.repeat(np.arange(50), 2))
    split = Split.by_time(times, 0.7, 0.15)
    assert times[split.train].max() < times[split.validation].min()
    assert times[split.validation].max() < times[split.test].min()
    assert (len(split.train), len(split.test)) == (70, 16)
    with pytest.raises(DataError, match="2 different values; 3 parts need"):
        Split.by_time(np.array([1, 1, 2, 2]), 0.7, 0.15)


@pytest.mark.parametrize("spec", PUBLISHED, ids=lambda spec: spec.kind)
def test_training_rows_are_those_of_before_and_no_row_is_in_two_parts(spec):
    new = make_dataset(spec, seed=3)
    old = make_dataset(spec.model_copy(update={"split_version": 1}), seed=3)
    for a, b in zip(old.part("train"), new.part("train"), strict=True):
        assert a.tobytes() == b.tobytes()
    assert old.validation_inputs is None
    assert old.part("validation")[0] is old.part("test")[0]
    flat = [{row.tobytes() for row in new.part(name)[0]} for name in ("train", "validation", "test")]
    if spec.kind != "digits":  # where two images are alike, pixel for pixel
        assert sum(map(len, flat)) == len(flat[0] | flat[1] | flat[2])
    drawn_anew = len(new.part("test")[0]) == len(old.part("test")[0])
    assert drawn_anew == (spec.kind not in ("modular_addition", "digits"))
    if drawn_anew:
        assert new.part("test")[0].tobytes() == old.part("test")[0].tobytes()
    else:
        halves = [len(new.part(name)[0]) for name in ("validation", "test")]
        assert abs(halves[0] - halves[1]) <= 1
        assert sum(halves) == len(old.part("test")[0])
