"""k-means for the few points of a pruned network: the best of several beginnings.

scikit-learn has the same for millions of points. Its import alone takes a second and 130 MB of each training process,
for which this file would be the only reason.
"""

from __future__ import annotations

import numpy as np

Array = np.ndarray
BEGINNINGS = 10
MOST_ROUNDS = 300


def k_means(points: Array, groups: int, *, generator: np.random.Generator) -> Array:
    """A group for each point (n, d), so that the squares of the distances to the groups' means sum to little.

    There are fewer groups where there are fewer different points.
    """
    found = [_settled(points, _far_apart(points, groups, generator)) for _ in range(BEGINNINGS)]
    return min(found, key=lambda labels: _spread(points, labels))


def _far_apart(points: Array, groups: int, generator: np.random.Generator) -> Array:
    """Centres to begin with (k-means++): each a point, drawn by the square of its distance to those before it."""
    centres = points[generator.integers(len(points), size=1)]
    while len(centres) < groups:
        gaps = _squares(points, centres).min(axis=1)
        if (total := gaps.sum()) == 0:
            break
        centres = np.concatenate([centres, points[[generator.choice(len(points), p=gaps / total)]]])
    return centres


def _settled(points: Array, centres: Array) -> Array:
    """Lloyd's rounds until no point changes its group. A centre that has lost all its points stays where it was."""
    labels = np.full(len(points), -1)
    for _ in range(MOST_ROUNDS):
        nearest = _squares(points, centres).argmin(axis=1)
        if (nearest == labels).all():
            break
        labels = nearest
        taken = np.unique(labels)
        centres[taken] = [points[labels == group].mean(axis=0) for group in taken]
    return labels


def _spread(points: Array, labels: Array) -> float:
    return float(sum(((points[labels == g] - points[labels == g].mean(axis=0)) ** 2).sum() for g in np.unique(labels)))


def _squares(points: Array, centres: Array) -> Array:
    """(n, k): the squares of all distances."""
    return ((points[:, None, :] - centres[None, :, :]) ** 2).sum(axis=2)
