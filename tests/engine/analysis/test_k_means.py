"""k-means against all partitions of a few points, and against scikit-learn."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from sklearn.cluster import KMeans

from bimt_engine.analysis.communities import k_means


def spread(points: np.ndarray, labels: np.ndarray) -> float:
    return sum(((points[labels == g] - points[labels == g].mean(axis=0)) ** 2).sum() for g in np.unique(labels))


def drawn(seed: int, count: int) -> tuple[np.ndarray, np.random.Generator]:
    generator = np.random.default_rng(seed)
    return generator.normal(size=(count, 2)), generator


@pytest.mark.parametrize("groups", [1, 2, 3])
def test_no_partition_of_a_few_points_is_better(groups: int) -> None:
    for seed in range(10):
        points, generator = drawn(seed, 7)
        best = min(spread(points, np.array(labels)) for labels in itertools.product(range(groups), repeat=7))
        assert spread(points, k_means(points, groups, generator=generator)) == pytest.approx(best, abs=1e-12)


def test_it_is_no_worse_than_scikit_learn_s_on_points_in_clouds() -> None:
    for seed in range(5):
        points, generator = drawn(seed, 60)
        points += 8 * np.repeat(generator.normal(size=(6, 2)), 10, axis=0)
        theirs = KMeans(6, n_init=10, random_state=seed).fit(points)
        assert spread(points, k_means(points, 6, generator=generator)) <= theirs.inertia_ * (1 + 1e-9)


def test_points_that_coincide_are_in_one_group_even_where_more_were_asked_for() -> None:
    points = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 0.0], [1.0, 0.0]])
    labels = k_means(points, 3, generator=np.random.default_rng(0))
    assert labels[0] == labels[2] != labels[1] == labels[3]


def test_the_same_seed_gives_the_same_groups() -> None:
    one, two = (k_means(drawn(0, 50)[0], 5, generator=np.random.default_rng(3)) for _ in range(2))
    assert (one == two).all()
