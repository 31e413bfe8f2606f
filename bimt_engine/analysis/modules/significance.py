"""Significance: random groups of neurons, p-values, Holm's correction."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from bimt_engine.analysis.evaluator import Array


def random_groups(
    group: Mapping[str, Array], pool: Mapping[str, Array], count: int, *, generator: np.random.Generator
) -> list[dict[str, Array]]:
    """Different groups of live neurons, as many in each layer as the group has, none of them the group itself.

    pool    the live neurons of each layer, as bool per place; the group must lie inside.
    Where there are fewer than `count` such groups, all of them: the p-value is then exact, and no group is drawn twice.
    """
    layers = [layer for layer, places in group.items() if np.any(places)]
    sizes = {layer: int(np.sum(group[layer])) for layer in layers}
    choices = {layer: np.flatnonzero(pool[layer]) for layer in layers}
    there_are = math.prod(math.comb(len(choices[layer]), sizes[layer]) for layer in layers) - 1
    wanted = min(count, there_are)
    own = tuple(tuple(np.flatnonzero(group[layer]).tolist()) for layer in layers)
    seen = {own}
    found: list[dict[str, Array]] = []
    while len(found) < wanted:
        drawn = tuple(
            tuple(np.sort(generator.choice(choices[layer], sizes[layer], replace=False)).tolist()) for layer in layers
        )
        if drawn in seen:
            continue
        seen.add(drawn)
        places = {layer: np.zeros(np.asarray(group[layer]).size, bool) for layer in layers}
        for layer, slots in zip(layers, drawn, strict=True):
            places[layer][list(slots)] = True
        found.append(places)
    return found


def p_value(observed: float, chance: Array) -> float:
    """(r + 1) / (n + 1), r of n chance values being at least as great as what was observed (up to rounding)."""
    near = observed - 1e-9 * max(1.0, abs(observed))
    return float((np.sum(np.asarray(chance) >= near) + 1) / (np.size(chance) + 1))


def holm(p: Array) -> Array:
    """p-values after Holm's step-down correction for testing them all; same shape, never below the raw ones."""
    flat = np.asarray(p, float).reshape(-1)
    order = np.argsort(flat, kind="stable")
    stepped = np.maximum.accumulate(flat[order] * (flat.size - np.arange(flat.size)))
    corrected = np.empty_like(flat)
    corrected[order] = np.minimum(1.0, stepped)
    return corrected.reshape(np.shape(p))


def specific_effect(effects: Array, output: int) -> Array:
    """How much a group changes this output and no other: min(M, 1) here minus the greatest min(M, 1) elsewhere.

    Beyond 1 an output is worse than a constant. Without this bound the ablation of half a group, which can make an
    output arbitrarily bad, could score higher than that of the whole. effects (…, outputs) -> (…).
    """
    bounded = np.clip(effects, 0.0, 1.0)
    others = np.delete(bounded, output, axis=-1)
    return np.asarray(bounded[..., output] - (others.max(axis=-1) if others.shape[-1] else 0.0))
