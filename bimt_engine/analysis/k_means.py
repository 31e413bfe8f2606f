"""k-means for the few points of a pruned network: the best of several beginnings.

scikit-learn's own would be the only reason to import it in every training process: a second and 130 MB. SciPy's rounds
are the same; what it lacks is to try more than once.
"""

from __future__ import annotations

import numpy as np
from scipy.cluster.vq import kmeans2

Array = np.ndarray
BEGINNINGS = 10
ROUNDS = 50


def k_means(points: Array, groups: int, *, generator: np.random.Generator) -> Array:
    """A group for each point (n, d), so that the squares of the distances to the groups' means sum to little.

    There are fewer groups where there are fewer different points.
    """
    groups = min(groups, len(np.unique(points, axis=0)))
    found = [kmeans2(points, groups, iter=ROUNDS, minit="++", rng=generator)[1] for _ in range(BEGINNINGS)]
    return min(found, key=lambda labels: _spread(points, labels))


def _spread(points: Array, labels: Array) -> float:
    return float(sum(((points[labels == g] - points[labels == g].mean(axis=0)) ** 2).sum() for g in np.unique(labels)))
