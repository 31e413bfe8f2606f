"""Relocation: neurons of a layer exchange slots where that lowers the connection cost; the function does not change.

With the other layers fixed, the cost of putting neuron u of a layer into slot s is a table C[u, s], one matrix product
for every weight layer that touches the layer. `greedy` takes the published decisions from the table; `optimal` solves
it as a linear assignment and sweeps the layers until the cost no longer falls. (arXiv 2305.08746, section 2)

Over 500 lines: all decisions are read off one table, and what applies them stands beside it.

Layer spacing and biases do not depend on a neuron's slot, so only length times locality enters here.
"""

from __future__ import annotations

import logging
from functools import lru_cache
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Float, Int64
from scipy.optimize import linear_sum_assignment

from bimt_engine.networks.wiring import NeuronLayer, Wiring
from bimt_engine.spec import CostSpec, RelocationSpec
from bimt_engine.training.backends.kernel import KernelUnavailable, Precision
from bimt_engine.training.backends.kernel.relocation import CompiledRelocation, unsupported_reason
from bimt_engine.training.connection_cost import WeightView, length_factor, shapes_of
from bimt_engine.training.state import Layout, TrainingState

log = logging.getLogger(__name__)

SlotOrders = list[Int64[np.ndarray, " _"]]
"""For each neuron layer: order[slot] = the slot that its neuron was in before."""

Table = Float[np.ndarray, "neurons slots"]

SWEEPS = 4  # of wide layers; the fourth gains less than a fiftieth of what the first does
SETTLED = 1e-4  # of the cost: a sweep that gains less is the last
SELF_CONNECTED = 32  # slots of a wide layer connected to itself that are tried in a sweep; each costs n³

REL_TOLERANCE = 1e-12  # of a layer's cost: a gain below this is rounding


class Relocation:
    """Everything about relocating one network that does not change while it is trained.

    compiled   use the compiled kernel where there is one and it takes this wiring; else numpy.
    """

    def __init__(
        self, wiring: Wiring, layout: Layout, cost: CostSpec, spec: RelocationSpec, *, compiled: bool = True
    ) -> None:
        self.wiring, self.layout, self.spec = wiring, layout, spec
        shapes = shapes_of(layout)
        places = {place.name: place for place in layout}
        number = {layer.name: index for index, layer in enumerate(wiring.neuron_layers)}
        self.views: list[WeightView] = []
        for weights in wiring.weight_layers:
            factor = length_factor(wiring, weights, shapes, cost, locality=spec.judged_by_locality)
            base = np.ascontiguousarray(wiring.distances(weights).numpy())
            targets, sources = base.shape
            self.views.append(
                WeightView(
                    places[weights.parameter],
                    number[weights.source],
                    number[weights.target],
                    (weights.target_copies, targets, weights.source_copies, sources),
                    base * factor,
                )
            )
        self.layers: tuple[NeuronLayer, ...] = wiring.neuron_layers
        self.movable = [index for index, layer in enumerate(self.layers) if layer.movable and layer.neurons > 1]
        self.touching = [
            [index for index, view in enumerate(self.views) if layer in (view.source, view.target)]
            for layer in range(len(self.layers))
        ]
        # What a table is made of: for each weight layer its strengths, transposed so that the layer's own slots come
        # first, times these lengths. Connections of a layer to itself are not included.
        self.sides = [
            [
                (index, layer == self.views[index].target, self._side(layer, self.views[index]))
                for index in touching
                if self.views[index].source != self.views[index].target
            ]
            for layer, touching in enumerate(self.touching)
        ]
        self.neighbours = [
            sorted({end for index in touching for end in self.views[index].ends} & set(self.movable) - {layer})
            for layer, touching in enumerate(self.touching)
        ]
        self.self_connected = {view.source for view in self.views if view.source == view.target}
        self.compiled = compiled and unsupported_reason(self.layers, self.views) is None
        self._kernels: dict[np.dtype, CompiledRelocation | None] = {}
        self.unmoved: SlotOrders = [np.arange(layer.neurons) for layer in self.layers]
        size = layout[-1].offset + layout[-1].size
        self._places = {place.name: (place.slice, place.shape) for place in layout}
        ends = np.cumsum([0, *(layer.neurons for layer in self.layers)]).tolist()
        self._runs = list(pairwise(ends))
        self._in_place = np.arange(size, dtype=np.int64)

    @staticmethod
    def _side(layer: int, view: WeightView) -> Float[np.ndarray, "others slots"]:
        return np.ascontiguousarray(view.lengths.T if layer == view.target else view.lengths)

    def relocate(self, state: TrainingState, replica: int = 0) -> float:
        """One pass on one replica, in place. Returns the cost saved, before λ."""
        orders, before, after = self._decide(state, replica, self.unmoved, greedy=True)
        return before - after if self.apply(state, replica, orders) else 0.0

    def relocate_with_restarts(self, state: TrainingState, generator: np.random.Generator, replica: int = 0) -> float:
        """The cheapest layout found from this and `final_restarts` random ones. Returns the cost saved, before λ."""
        best, before, lowest_cost = self._decide(state, replica, self.unmoved, greedy=True)
        for _ in range(self.spec.final_restarts):
            tried, _, cost = self._decide(state, replica, self._shuffled(generator), greedy=False)
            if cost < lowest_cost - REL_TOLERANCE * before:
                best, lowest_cost = tried, cost
        return before - lowest_cost if self.apply(state, replica, best) else 0.0

    def _decide(
        self, state: TrainingState, replica: int, start: SlotOrders, *, greedy: bool
    ) -> tuple[SlotOrders, float, float]:
        """The orders to apply, the cost at `start` and the cost after.

        `optimal` continues from where the published pass ends, so its cost is never higher.
        """
        return self.decide(state.theta[replica].detach().cpu().numpy(), start, greedy=greedy)

    def decide(
        self, theta: Float[np.ndarray, " P"], start: SlotOrders, *, greedy: bool, exact_up_to: int | None = None
    ) -> tuple[SlotOrders, float, float]:
        """The same for weights that lie flat in the layout, wherever they come from.

        exact_up_to   layers with more neurons take exchanges instead of their best order; None: there are none.
        """
        if exact_up_to is not None and max((self.layers[n].neurons for n in self.movable), default=0) > exact_up_to:
            arrangement = self.arrangement(theta)
            before = arrangement.cost()
            arrangement.approximate(exact_up_to=exact_up_to)
            return arrangement.orders, before, arrangement.cost()
        candidates = self.spec.relocation_candidates if greedy else 0
        optimal = self.spec.method == "optimal" or not greedy
        kernel = self._kernel(theta.dtype)
        if kernel is not None:
            flat, before, after = kernel.decide(theta, np.concatenate(start), candidates=candidates, optimal=optimal)
            return [flat[first:end] for first, end in self._runs], before, after
        arrangement = self.arrangement(theta)
        for layer, order in enumerate(start):
            arrangement.permute(layer, order)
        before = arrangement.cost()
        if greedy:
            arrangement.greedy(candidates)
        if optimal:
            arrangement.optimal()
        return arrangement.orders, before, arrangement.cost()

    def _kernel(self, dtype: np.dtype) -> CompiledRelocation | None:
        """The kernel for weights of this type, opened at first use; None where there is none."""
        if not self.compiled:
            return None
        if dtype not in self._kernels:
            try:
                precision: Precision = "float32" if dtype == np.float32 else "float64"
                self._kernels[dtype] = CompiledRelocation(
                    self.layers, self.views, {place.name: place for place in self.layout}, precision
                )
            except KernelUnavailable as error:
                log.info("relocation is decided in numpy: %s", error)
                self._kernels[dtype] = None
        return self._kernels[dtype]

    def _shuffled(self, generator: np.random.Generator) -> SlotOrders:
        """Every movable layer in a random order; heads stay whole."""
        orders = list(self.unmoved)
        for layer in self.movable:
            of = self.layers[layer]
            if of.runs:
                orders[layer] = self._shuffled_runs(of, generator)
                continue
            runs = self.unmoved[layer].reshape(of.blocks, -1)
            if of.freely:
                runs = generator.permuted(runs[generator.permutation(len(runs))], axis=1)
            elif of.moves != "blocks":  # runs that are tied to others stay, neurons within them do not
                runs = generator.permuted(runs, axis=1)
            orders[layer] = runs.reshape(-1)
        return orders

    @staticmethod
    def _shuffled_runs(of: NeuronLayer, generator: np.random.Generator) -> Int64[np.ndarray, " slots"]:
        order = np.arange(of.neurons)
        for slots in equal_runs(of.runs):
            order[slots] = order[slots[generator.permutation(len(slots))]]
        return order

    def cost(self, strengths: list[Float[np.ndarray, "_ _"]]) -> float:
        """Σ strength · length, before λ; layer spacing left out, as no exchange changes it."""
        return float(sum(np.vdot(strength, view.lengths) for strength, view in zip(strengths, self.views, strict=True)))

    def arrangement(self, theta: Float[np.ndarray, " P"]) -> Arrangement:
        """The present arrangement of one replica, on which exchanges are tried without touching θ."""
        return Arrangement(self, [view.strengths(theta) for view in self.views])

    def exchange_index(self, orders: SlotOrders) -> Int64[np.ndarray, " P"] | None:
        """Where each entry of θ comes from when these orders are applied; None when no neuron moves.

        The same index moves weights, moments and mask.
        """
        moved = [index for index, order in enumerate(orders) if _moves(order)]
        if not moved:
            return None
        index = self._in_place.copy()
        kernel = next((kernel for kernel in self._kernels.values() if kernel is not None), None)
        if kernel is not None:
            kernel.permute(index, np.concatenate(orders))
            return index
        for number in moved:
            for port in self.layers[number].ports:
                entries, shape = self._places[port.parameter]
                view = index[entries].reshape(shape)
                view[...] = view.take(repeated(orders[number], port.copies), axis=port.axis)
        return index

    def apply(self, state: TrainingState, replica: int, orders: SlotOrders) -> bool:
        """Apply the orders to one replica: θ, both moments, the mask, the orders. Returns whether any neuron moved.

        With `carry_moments: false` the moments stay, as in the published code, but for those of an embedding: there the
        published code leaves the embedding's columns in place and changes `in_perm` alone, so the moments still belong
        to their columns; here the columns move, and their moments with them.
        """
        index = self.exchange_index(orders)
        if index is None:
            return False
        moving = [(state.theta, index)]
        if self.spec.carry_moments:
            moving += [(state.first_moment, index), (state.second_moment, index)]
        elif self.wiring.embeddings:
            carried = self._in_place.copy()
            for name in self.wiring.embeddings:
                entries, _ = self._places[name]
                carried[entries] = index[entries]
            moving += [(state.first_moment, carried), (state.second_moment, carried)]
        if state.mask is not None:
            moving.append((state.mask, index))
        for layer, order in zip(self.layers, orders, strict=True):
            if _moves(order):
                moving.append((state.orders[layer.name], order))
        for rows, taken in moving:
            row = rows[replica]
            if row.is_cpu:  # the same memory, without torch's price for a small operation
                here = row.detach().numpy()
                here[...] = here.take(taken)
            else:
                with torch.no_grad():
                    row.copy_(row.index_select(0, torch.from_numpy(taken).to(row.device)))
        state.orders_version += 1
        return True


class Arrangement:
    """One replica's connection strengths by slot; exchanges are tried here, and applied to the weights once."""

    def __init__(self, plan: Relocation, strengths: list[Float[np.ndarray, "_ _"]]) -> None:
        self.plan = plan
        self.strengths = strengths
        self.orders: SlotOrders = list(plan.unmoved)
        self._tables: list[Table | None] = [None] * len(plan.layers)  # of the present orders; None: not computed yet

    def copy(self) -> Arrangement:
        """An independent copy. Arrays are never changed in place."""
        copied = Arrangement(self.plan, list(self.strengths))
        copied.orders, copied._tables = list(self.orders), list(self._tables)
        return copied

    def cost(self) -> float:
        """Σ strength · length, before λ; layer spacing left out, as no exchange changes it."""
        return self.plan.cost(self.strengths)

    def table(self, layer: int) -> Table:
        """C[u, s]: what the neuron that is now in slot u would cost in slot s, all other layers unchanged.

        Connections of a layer to itself are left out: their cost depends on two slots of the same layer.
        """
        table = self._tables[layer]
        if table is None:
            for index, entering, lengths in self.plan.sides[layer]:
                strength = self.strengths[index]
                part = (strength if entering else strength.T) @ lengths
                table = part if table is None else table + part
            if table is None:
                table = np.zeros((self.plan.layers[layer].neurons,) * 2)
            self._tables[layer] = table
        return table

    def exchange_changes(self, layer: int) -> Float[np.ndarray, "neurons neurons"]:
        """How much the cost changes when the neurons in slots j and k are exchanged, for every pair; exact."""
        table = self.table(layer)
        own = np.diag(table)
        change = table + table.T - own[:, None] - own
        for index in self.plan.touching[layer]:
            view = self.plan.views[index]
            if view.source == view.target:
                change += changes_within(self.strengths[index], view.lengths)
        return change

    def importance(self, layer: int) -> Float[np.ndarray, " neurons"]:
        """Σ|w in| + Σ|w out| of the neuron in each slot."""
        total = np.zeros(self.plan.layers[layer].neurons)
        for index in self.plan.touching[layer]:
            view, strength = self.plan.views[index], self.strengths[index]
            if view.target == layer:
                total += strength.sum(axis=1)
            if view.source == layer:
                total += strength.sum(axis=0)
        return total

    def permute(self, layer: int, order: Int64[np.ndarray, " neurons"]) -> None:
        """Slot s of the layer takes the neuron that was in slot order[s]."""
        if not _moves(order):
            return
        self.orders[layer] = self.orders[layer][order]
        own = self._tables[layer]
        for near in self.plan.neighbours[layer]:
            self._tables[near] = None
        self._tables[layer] = None if own is None else own[order]
        for index in self.plan.touching[layer]:
            view = self.plan.views[index]
            if view.target == layer:
                self.strengths[index] = self.strengths[index][order]
            if view.source == layer:
                self.strengths[index] = self.strengths[index][:, order]

    def greedy(self, candidates: int) -> None:
        """The published pass: in each layer the most important slots, in falling order, each take their best exchange.

        The slots are chosen before the first exchange of the layer; of equally important ones the highest comes
        first, as in the published code. Equally good exchanges (up to rounding) go to the lowest slot.
        """
        for layer in self.plan.movable:
            if self.plan.layers[layer].freely:  # what moves in part is not known to the published code
                self._greedy_layer(layer, candidates)

    def _greedy_layer(self, layer: int, candidates: int) -> None:
        importance = self.importance(layer)
        if layer in self.plan.self_connected:
            for slot in most_important(importance, candidates):
                change = self.exchange_changes(layer)[slot]
                self._exchange(layer, int(slot), lowest(change, REL_TOLERANCE * self.cost()))
            return
        blocks = self.plan.layers[layer].blocks
        if blocks > 1:  # heads first, whole; then neurons within them
            heads = blockwise(self.table(layer), blocks)
            order = greedy_order(heads, most_important(importance.reshape(blocks, -1).sum(1), candidates))
            self.permute(layer, whole_runs(order, importance.size))
            importance = self.importance(layer)
        self.permute(layer, greedy_order(self.table(layer), most_important(importance, candidates), blocks))

    def approximate(self, *, exact_up_to: int) -> None:
        """A few sweeps, in which every slot of a wide layer takes its best exchange; other layers their best order.

        An assignment costs n³ and its sweeps many of them, exchanges n² and a matrix product. On networks as they are
        drawn, four sweeps save 95 to 99 % of what `optimal` does (docs/decisions/0031).

        exact_up_to   neurons of the widest layer that is solved exactly.
        """
        for _ in range(SWEEPS):
            before = self.cost()
            for layer in self.plan.movable:
                of = self.plan.layers[layer]
                if of.neurons <= exact_up_to or not of.freely:
                    self._improve(layer)
                else:
                    self._greedy_layer(layer, SELF_CONNECTED if layer in self.plan.self_connected else of.neurons)
            if before - self.cost() <= SETTLED * before:
                break

    def optimal(self) -> None:
        """Give every layer its best order, the others fixed, again and again until the cost no longer falls."""
        queue = list(self.plan.movable)
        while queue:
            layer = queue.pop(0)
            if self._improve(layer):
                queue += [near for near in self.plan.neighbours[layer] if near not in queue]
                queue.sort(key=lambda near: (near <= layer, near))

    def _improve(self, layer: int) -> bool:
        """Give one layer its best order. Returns whether the cost fell."""
        if not self.plan.layers[layer].freely or (
            layer in self.plan.self_connected and self.plan.layers[layer].blocks > 1
        ):
            return self._improve_in_parts(layer)
        if layer in self.plan.self_connected:
            return self._improve_by_exchanges(layer)
        table = self.table(layer)
        now = float(np.add.reduce(table.diagonal()))
        order = best_assignment(table, self.plan.layers[layer].blocks, below=now * (1 - REL_TOLERANCE))
        if order is None:
            return False
        self.permute(layer, order)
        return True

    def _improve_in_parts(self, layer: int) -> bool:
        """The same where only whole runs may move, or only neurons within a run, or runs of several layers together.

        Connections of the layers to themselves and to one another are not in the tables, so a new order is kept only
        if the whole cost falls.
        """
        plan = self.plan
        of = plan.layers[layer]
        if of.runs:
            return self._improve_runs(layer)
        blocks, size = of.blocks, of.neurons // of.blocks
        start = self.cost()
        if of.moves != "blocks" and size > 1:
            parts = self.table(layer).reshape(blocks, size, blocks, size)
            inner = [best_assignment(parts[run, :, run]) for run in range(blocks)]
            order = np.concatenate([run * size + found for run, found in enumerate(inner) if found is not None])
            self._try({layer: order})
        if of.moves != "within" and blocks > 1:
            together = [layer, *(index for index, other in enumerate(plan.layers) if other.name in of.tied)]
            runs = best_assignment(np.sum([blockwise(self.table(index), blocks) for index in together], axis=0))
            if runs is not None:
                self._try({index: whole_runs(runs, plan.layers[index].neurons) for index in together})
        return self.cost() < start * (1 - REL_TOLERANCE)

    def _improve_runs(self, layer: int) -> bool:
        """The same for runs of slots: among those of one length, whole runs take their best places."""
        start = self.cost()
        for slots in equal_runs(self.plan.layers[layer].runs):
            table = self.table(layer)
            whole = np.sum([table[np.ix_(slots[:, at], slots[:, at])] for at in range(slots.shape[1])], axis=0)
            if (runs := best_assignment(whole)) is not None:
                order = np.arange(self.plan.layers[layer].neurons)
                order[slots] = slots[runs]
                self._try({layer: order})
        return self.cost() < start * (1 - REL_TOLERANCE)

    def _try(self, orders: dict[int, Int64[np.ndarray, " _"]]) -> None:
        """Apply these orders if the cost falls."""
        guess = self.copy()
        for layer, order in orders.items():
            guess.permute(layer, order)
        now = self.cost()
        if guess.cost() < now * (1 - REL_TOLERANCE):
            self.strengths, self.orders, self._tables = guess.strengths, guess.orders, guess._tables

    def _improve_by_exchanges(self, layer: int) -> bool:
        """The same for a layer connected to itself, which is no linear assignment: exchanges up to a fixed point."""
        start = now = self.cost()
        guess = self.copy()
        guide = self.table(layer).copy()
        for index in self.plan.touching[layer]:
            view, strength = self.plan.views[index], self.strengths[index]
            if view.source == view.target:
                guide += strength @ view.lengths.T + strength.T @ view.lengths
        order = best_assignment(guide)
        assert order is not None  # no bound was given
        guess.permute(layer, order)
        if guess.cost() < now:
            self.strengths, self.orders, self._tables = guess.strengths, guess.orders, guess._tables
        while True:
            change = self.exchange_changes(layer)
            slot, other = divmod(int(np.argmin(change)), change.shape[1])
            if not change[slot, other] < -REL_TOLERANCE * start:
                break
            self._exchange(layer, slot, other)
        return self.cost() < start - REL_TOLERANCE * start

    def _exchange(self, layer: int, slot: int, other: int) -> None:
        order = np.arange(self.plan.layers[layer].neurons)
        order[[slot, other]] = order[[other, slot]]
        self.permute(layer, order)


def _moves(order: Int64[np.ndarray, " neurons"]) -> bool:
    """Whether the order is not the identity."""
    return order.tobytes() != _identity(order.size)  # a fifth of what comparing small arrays costs


@lru_cache(maxsize=256)
def _identity(neurons: int) -> bytes:
    return np.arange(neurons, dtype=np.int64).tobytes()


# --- decisions from a cost table: C[u, s] is what neuron u would cost in slot s --------------------


def most_important(importance: Float[np.ndarray, " slots"], candidates: int) -> Int64[np.ndarray, " chosen"]:
    """The slots of the most important neurons, falling; of equals the highest slot first, as in the published code."""
    return np.argsort(importance, kind="stable")[::-1][:candidates]


def lowest(change: Float[np.ndarray, " slots"], rounding: float) -> int:
    """The first slot whose change is the smallest, up to rounding."""
    return int(np.argmax(change <= change.min() + rounding))


def greedy_order(table: Table, chosen: Int64[np.ndarray, " chosen"], blocks: int = 1) -> Int64[np.ndarray, " slots"]:
    """The order after each chosen slot, in turn, has taken its best exchange; with blocks, within its block only."""
    neurons = table.shape[0]
    rounding = REL_TOLERANCE * float(table.max())
    reach = _reach(neurons, blocks) if blocks > 1 else None
    # All chosen slots at once first: most of the time none of them, or only the last few, have a better slot.
    # The change is what the two neurons would cost in each other's slots, less what they cost now.
    own = table.diagonal()
    change = table[chosen] + table[:, chosen].T - own - own[chosen, None]
    if reach is not None:
        change += reach[chosen]
    best = (change <= change.min(axis=1, keepdims=True) + rounding).argmax(axis=1)
    moving = np.flatnonzero(best != chosen)
    occupant = np.arange(neurons)
    if not moving.size:
        return occupant
    here, own = table.copy(), own.copy()  # by slot from now on
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
    """0 between slots of one block, infinite between blocks: no neuron leaves its head alone."""
    run = np.arange(neurons) // (neurons // blocks)
    return np.where(run[:, None] == run, 0.0, np.inf)


def equal_runs(runs: tuple[int, ...]) -> list[Int64[np.ndarray, "runs length"]]:
    """The slots of the runs of each length, one row for each run; lengths that only one run has are left out."""
    first = np.cumsum([0, *runs[:-1]])
    found = []
    for length in sorted(set(runs)):
        of_length = first[np.array(runs) == length]
        if len(of_length) > 1:
            found.append(of_length[:, None] + np.arange(length))
    return found


def whole_runs(runs: Int64[np.ndarray, " blocks"], neurons: int) -> Int64[np.ndarray, " neurons"]:
    """The order of neurons when whole runs exchange positions."""
    size = neurons // len(runs)
    return (runs[:, None] * size + np.arange(size)).reshape(-1)


def blockwise(table: Table, blocks: int) -> Float[np.ndarray, "{blocks} {blocks}"]:
    """The table of whole blocks: what the neurons of one would cost in the slots of another, in the same order."""
    size = table.shape[0] // blocks
    return np.einsum("aibi->ab", table.reshape(blocks, size, blocks, size))


def changes_within(strength: Table, length: Table) -> Table:
    """How much Σ strength · length of a layer connected to itself changes when slots j and k are exchanged."""
    total = np.zeros_like(length)
    for b, d in ((strength, length), (strength.T, length.T)):
        product = b @ d.T
        own = np.diag(product)
        total += product + product.T - own[:, None] - own[None, :]
        # Connections between slots j and k themselves are counted below.
        total -= (b.T - np.diag(b)[:, None]) * (np.diag(d)[:, None] - d.T)
        total -= (np.diag(b)[None, :] - b) * (d - np.diag(d)[None, :])
    b, d = strength, length
    bj, bk, dj, dk = np.diag(b)[:, None], np.diag(b)[None, :], np.diag(d)[:, None], np.diag(d)[None, :]
    return total + (bk - bj) * (dj - dk) + (b.T - b) * (d - d.T)


def best_assignment(table: Table, blocks: int = 1, *, below: float = np.inf) -> Int64[np.ndarray, " slots"] | None:
    """The neuron for each slot so that the sum of the table's entries is smallest; heads stay whole.

    Neurons that cost nothing in any slot (no connections left) take the free slots in rising order.
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
    """The same for blocks of slots: every block of neurons at its best in every block of slots, then the blocks."""
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


def repeated(order: Int64[np.ndarray, " neurons"], copies: int) -> Int64[np.ndarray, " entries"]:
    """The same order for every copy of the layer along such an axis."""
    if copies == 1:
        return order
    return (np.arange(copies)[:, None] * order.size + order).reshape(-1)
