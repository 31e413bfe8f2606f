"""Who should sit where, decided from a cost table alone: C[u, s] is what neuron u would cost in slot s."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int64
from scipy.optimize import linear_sum_assignment

Table = Float[np.ndarray, "neurons slots"]

NOTHING = 1e-12  # of a layer's cost: a gain below this is rounding, and an exchange for it would only flicker


def most_important(importance: Float[np.ndarray, " slots"], candidates: int) -> Int64[np.ndarray, " chosen"]:
    """The slots of the most important neurons, falling; of equals the highest slot first, as in the published code."""
    return np.argsort(importance, kind="stable")[::-1][:candidates]


def lowest(change: Float[np.ndarray, " slots"], rounding: float) -> int:
    """The first slot whose change is the smallest, up to rounding."""
    return int(np.argmax(change <= change.min() + rounding))


def greedy_order(table: Table, chosen: Int64[np.ndarray, " chosen"], blocks: int = 1) -> Int64[np.ndarray, " slots"]:
    """Who sits where after each chosen slot, in turn, has taken its best exchange. With blocks, within its run only."""
    neurons = table.shape[0]
    rounding = NOTHING * float(table.max())
    reach = _reach(neurons, blocks) if blocks > 1 else None
    # All chosen slots at once first: most of the time nobody, or only the last few, have anywhere better to go.
    # The change is what mover and occupant would cost in each other's slots, less what they cost now.
    own = table.diagonal()
    change = table[chosen] + table[:, chosen].T - own - own[chosen, None]
    if reach is not None:
        change += reach[chosen]
    best = (change <= change.min(axis=1, keepdims=True) + rounding).argmax(axis=1)
    moving = np.flatnonzero(best != chosen)
    occupant = np.arange(neurons)
    if not moving.size:
        return occupant
    here, own = table.copy(), own.copy()  # by slot from now on, whoever sits there
    for slot in chosen[moving[0] :]:
        change_here = here[slot] + here[:, slot] - own - own[slot]
        if reach is not None:
            change_here += reach[slot]
        other = lowest(change_here, rounding)
        if other != slot:
            pair, swapped = [slot, other], [other, slot]
            occupant[pair], here[pair] = occupant[swapped], here[swapped]
            own[slot], own[other] = here[slot, slot], here[other, other]
    return occupant


def _reach(neurons: int, blocks: int) -> Float[np.ndarray, "{neurons} {neurons}"]:
    """0 between slots of one run, infinite between runs: no neuron leaves its head alone."""
    run = np.arange(neurons) // (neurons // blocks)
    return np.where(run[:, None] == run, 0.0, np.inf)


def blockwise(table: Table, blocks: int) -> Float[np.ndarray, "{blocks} {blocks}"]:
    """The table of whole runs: what all neurons of one run would cost in the slots of another, keeping their order."""
    size = table.shape[0] // blocks
    return np.einsum("aibi->ab", table.reshape(blocks, size, blocks, size))


def changes_within(strength: Table, length: Table) -> Table:
    """How much Σ strength · length of a layer wired to itself changes when slots j and k trade places."""
    total = np.zeros_like(length)
    for b, d in ((strength, length), (strength.T, length.T)):
        product = b @ d.T
        own = np.diag(product)
        total += product + product.T - own[:, None] - own[None, :]
        # Slots j and k themselves are not bystanders.
        total -= (b.T - np.diag(b)[:, None]) * (np.diag(d)[:, None] - d.T)
        total -= (np.diag(b)[None, :] - b) * (d - np.diag(d)[None, :])
    b, d = strength, length
    bj, bk, dj, dk = np.diag(b)[:, None], np.diag(b)[None, :], np.diag(d)[:, None], np.diag(d)[None, :]
    return total + (bk - bj) * (dj - dk) + (b.T - b) * (d - d.T)


def best_assignment(table: Table, blocks: int = 1, *, below: float = np.inf) -> Int64[np.ndarray, " slots"] | None:
    """Who should sit in each slot so that the sum of the table's entries is smallest; heads stay whole.

    Neurons that cost nothing anywhere (no connections left) take the free slots in rising order.
    below   None is returned unless the sum is lower than this.
    """
    if blocks > 1:
        return _best_blocks(table, blocks, below)
    mover, slot = linear_sum_assignment(table)
    if not np.add.reduce(table[mover, slot]) < below:
        return None
    order = np.empty_like(slot)
    order[slot] = mover
    idle = np.logical_not(table.any(axis=1))
    if idle.any():
        order[idle[order]] = np.flatnonzero(idle)
    return order


def _best_blocks(table: Table, blocks: int, below: float) -> Int64[np.ndarray, " slots"] | None:
    """The same for runs of slots: every run of neurons at its best in every run of slots, then the runs themselves."""
    size = table.shape[0] // blocks
    parts = table.reshape(blocks, size, blocks, size)
    inner = [[best_assignment(parts[run, :, seat]) for seat in range(blocks)] for run in range(blocks)]
    slots = np.arange(size)
    between = np.array(
        [[parts[run, :, seat][inner[run][seat], slots].sum() for seat in range(blocks)] for run in range(blocks)]
    )
    seated = best_assignment(between, below=below)
    if seated is None:
        return None
    return np.concatenate([seated[seat] * size + inner[seated[seat]][seat] for seat in range(blocks)])


def folded(order: Int64[np.ndarray, " neurons"], fold: int) -> Int64[np.ndarray, " entries"]:
    """The same order for every copy of the layer along a folded axis."""
    if fold == 1:
        return order
    return (np.arange(fold)[:, None] * order.size + order).reshape(-1)
