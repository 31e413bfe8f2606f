"""Partitions as arrays of group numbers, and how near two of them are. No torch."""

from __future__ import annotations

import numpy as np

Array = np.ndarray


def relabelled(labels: Array) -> Array:
    """The same groups numbered in the order in which they first appear."""
    order = {old: new for new, old in enumerate(dict.fromkeys(labels.tolist()))}
    return np.array([order[old] for old in labels.tolist()])


def adjusted_rand(one: Array, other: Array) -> float:
    """Hubert and Arabie's index: 1 for equal partitions, 0 on average for random ones."""
    table = np.zeros((int(one.max()) + 1, int(other.max()) + 1))
    np.add.at(table, (one, other), 1)

    def pairs(counts: Array) -> float:
        return float((counts * (counts - 1) / 2).sum())

    both, left, right = pairs(table), pairs(table.sum(1)), pairs(table.sum(0))
    chance = left * right / max(pairs(np.array([len(one)])), 1e-300)
    top = (left + right) / 2
    return 1.0 if top == chance else (both - chance) / (top - chance)


def variation_of_information(one: Array, other: Array) -> float:
    """H(one | other) + H(other | one) in nats."""
    joint = np.zeros((int(one.max()) + 1, int(other.max()) + 1))
    np.add.at(joint, (one, other), 1 / len(one))

    def entropy(p: Array) -> float:
        p = p[p > 0]
        return -float((p * np.log(p)).sum())

    return max(0.0, 2 * entropy(joint.reshape(-1)) - entropy(joint.sum(0)) - entropy(joint.sum(1)))
