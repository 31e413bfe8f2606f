"""Relocation: neurons trade places wherever that shortens the wiring; what is computed does not change.

With its neighbours fixed, the cost of putting neuron u of a layer into slot s is a table C[u, s], one matrix product
for every weight layer that touches the layer. `greedy` takes the published decisions from the table; `optimal` solves
it as a linear assignment and sweeps the layers until nothing gets shorter. (arXiv 2305.08746, section 2)

Layer spacing and biases are blind to where a neuron sits, so only length times locality enters here.
"""

from __future__ import annotations

import logging
from functools import lru_cache
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Float, Int64

from bimt_engine.networks.wiring import NeuronLayer, Wiring
from bimt_engine.spec import CostSpec, RelocationSpec
from bimt_engine.training.arrangement import (
    NOTHING,
    Table,
    best_assignment,
    blockwise,
    changes_within,
    folded,
    greedy_order,
    lowest,
    most_important,
)
from bimt_engine.training.compiled_relocation import CompiledRelocation, whats_in_the_way
from bimt_engine.training.connection_cost import length_factor, shapes_of
from bimt_engine.training.kernel_build import KernelUnavailable, Precision
from bimt_engine.training.link import Link
from bimt_engine.training.state import Layout, TrainingState

log = logging.getLogger(__name__)

Arrangement = list[Int64[np.ndarray, " _"]]
"""For each neuron layer: arrangement[slot] = the slot its neuron sat in before."""


class Relocation:
    """Everything about relocating one network that does not change while it is trained.

    compiled   decide in the compiled kernel where there is one and it takes this wiring; else in numpy.
    """

    def __init__(
        self, wiring: Wiring, layout: Layout, cost: CostSpec, spec: RelocationSpec, *, compiled: bool = True
    ) -> None:
        self.wiring, self.layout, self.spec = wiring, layout, spec
        shapes = shapes_of(layout)
        places = {place.name: place for place in layout}
        number = {layer.name: index for index, layer in enumerate(wiring.neuron_layers)}
        self.links: list[Link] = []
        for weights in wiring.weight_layers:
            factor = length_factor(wiring, weights, shapes, cost, locality=spec.judged_by_locality)
            base = np.ascontiguousarray(wiring.distances(weights).numpy())
            targets, sources = base.shape
            self.links.append(
                Link(
                    places[weights.parameter],
                    number[weights.source],
                    number[weights.target],
                    (weights.target_fold, targets, weights.source_fold, sources),
                    base * factor,
                )
            )
        self.layers: tuple[NeuronLayer, ...] = wiring.neuron_layers
        self.movable = [index for index, layer in enumerate(self.layers) if layer.movable and layer.neurons > 1]
        self.touching = [
            [index for index, link in enumerate(self.links) if layer in (link.source, link.target)]
            for layer in range(len(self.layers))
        ]
        # What a table is made of: for each weight layer its strengths, turned so that the layer's own slots come first,
        # times these lengths. Links of a layer to itself are not in.
        self.sides = [
            [
                (index, layer == self.links[index].target, self._side(layer, self.links[index]))
                for index in touching
                if self.links[index].source != self.links[index].target
            ]
            for layer, touching in enumerate(self.touching)
        ]
        self.neighbours = [
            sorted({end for index in touching for end in self.links[index].ends} & set(self.movable) - {layer})
            for layer, touching in enumerate(self.touching)
        ]
        self.wired_to_itself = {link.source for link in self.links if link.source == link.target}
        self.compiled = compiled and whats_in_the_way(self.layers, self.links) is None
        self._kernels: dict[np.dtype, CompiledRelocation | None] = {}
        self.at_home: Arrangement = [np.arange(layer.neurons) for layer in self.layers]
        size = layout[-1].offset + layout[-1].size
        self._places = {place.name: (place.slice, place.shape) for place in layout}
        ends = np.cumsum([0, *(layer.neurons for layer in self.layers)]).tolist()
        self._runs = list(pairwise(ends))
        self._in_place = np.arange(size, dtype=np.int64)

    @staticmethod
    def _side(layer: int, link: Link) -> Float[np.ndarray, "others slots"]:
        return np.ascontiguousarray(link.lengths.T if layer == link.target else link.lengths)

    def relocate(self, state: TrainingState, replica: int = 0) -> float:
        """One pass on one replica, in place. Returns the cost saved, before λ."""
        arrangement, before, after = self._decide(state, replica, self.at_home, greedy=True)
        return before - after if self.apply(state, replica, arrangement) else 0.0

    def relocate_with_restarts(self, state: TrainingState, generator: np.random.Generator, replica: int = 0) -> float:
        """The shortest layout found from here and from `final_restarts` random ones. Returns the cost saved."""
        best, before, shortest = self._decide(state, replica, self.at_home, greedy=True)
        for _ in range(self.spec.final_restarts):
            tried, _, cost = self._decide(state, replica, self._shuffled(generator), greedy=False)
            if cost < shortest - NOTHING * before:
                best, shortest = tried, cost
        return before - shortest if self.apply(state, replica, best) else 0.0

    def _decide(
        self, state: TrainingState, replica: int, start: Arrangement, *, greedy: bool
    ) -> tuple[Arrangement, float, float]:
        """Who should sit where, starting from an arrangement, and the cost there and before.

        `optimal` goes on from where the published pass ends, so it never ends above it.
        """
        theta = state.theta[replica].detach().cpu().numpy()
        candidates = self.spec.relocation_candidates if greedy else 0
        optimal = self.spec.method == "optimal" or not greedy
        kernel = self._kernel(theta.dtype)
        if kernel is not None:
            flat, before, after = kernel.decide(theta, np.concatenate(start), candidates=candidates, optimal=optimal)
            return [flat[first:end] for first, end in self._runs], before, after
        board = self.board(theta)
        for layer, order in enumerate(start):
            board.place(layer, order)
        before = board.cost()
        if greedy:
            board.greedy(candidates)
        if optimal:
            board.optimal()
        return board.arrangement, before, board.cost()

    def _kernel(self, dtype: np.dtype) -> CompiledRelocation | None:
        """The kernel for weights of this type, opened at first use; None where there is none."""
        if not self.compiled:
            return None
        if dtype not in self._kernels:
            try:
                precision: Precision = "float32" if dtype == np.float32 else "float64"
                self._kernels[dtype] = CompiledRelocation(
                    self.layers, self.links, {place.name: place for place in self.layout}, precision
                )
            except KernelUnavailable as error:
                log.info("relocation is decided in numpy: %s", error)
                self._kernels[dtype] = None
        return self._kernels[dtype]

    def _shuffled(self, generator: np.random.Generator) -> Arrangement:
        """Every movable layer in a random order; heads stay whole."""
        arrangement = list(self.at_home)
        for layer in self.movable:
            runs = self.at_home[layer].reshape(self.layers[layer].blocks, -1)
            runs = generator.permuted(runs[generator.permutation(len(runs))], axis=1)
            arrangement[layer] = runs.reshape(-1)
        return arrangement

    def cost(self, strengths: list[Float[np.ndarray, "_ _"]]) -> float:
        """Σ strength · length, before λ; layer spacing left out, as no exchange changes it."""
        return float(sum(np.vdot(strength, link.lengths) for strength, link in zip(strengths, self.links, strict=True)))

    def board(self, theta: Float[np.ndarray, " P"]) -> Board:
        """The exchanges of one replica, tried on slots and strengths alone."""
        return Board(self, [link.strengths(theta) for link in self.links])

    def exchange_index(self, arrangement: Arrangement) -> Int64[np.ndarray, " P"] | None:
        """Where each entry of θ comes from when the neurons take these places; None when nobody moves.

        The same list moves weights, moments and mask.
        """
        moved = [index for index, order in enumerate(arrangement) if _moves(order)]
        if not moved:
            return None
        index = self._in_place.copy()
        kernel = next((kernel for kernel in self._kernels.values() if kernel is not None), None)
        if kernel is not None:
            kernel.permute(index, np.concatenate(arrangement))
            return index
        for number in moved:
            for port in self.layers[number].ports:
                entries, shape = self._places[port.parameter]
                view = index[entries].reshape(shape)
                view[...] = view.take(folded(arrangement[number], port.fold), axis=port.axis)
        return index

    def apply(self, state: TrainingState, replica: int, arrangement: Arrangement) -> bool:
        """Let the neurons of one replica take their new places: every port of θ, both moments, the mask, the orders.

        Returns whether anybody moved.
        """
        index = self.exchange_index(arrangement)
        if index is None:
            return False
        moving = [(state.theta, index)]
        if self.spec.carry_moments:
            moving += [(state.first_moment, index), (state.second_moment, index)]
        if state.mask is not None:
            moving.append((state.mask, index))
        for layer, order in zip(self.layers, arrangement, strict=True):
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


class Board:
    """One replica's strengths in their present slots; exchanges are tried here and applied to the weights once."""

    def __init__(self, plan: Relocation, strengths: list[Float[np.ndarray, "_ _"]]) -> None:
        self.plan = plan
        self.strengths = strengths
        self.arrangement: Arrangement = list(plan.at_home)
        self._tables: list[Table | None] = [None] * len(plan.layers)  # of the present arrangement; None: not made yet

    def copy(self) -> Board:
        """The same arrangement, to go on from without changing this one. Arrays are never changed in place."""
        twin = Board(self.plan, list(self.strengths))
        twin.arrangement, twin._tables = list(self.arrangement), list(self._tables)
        return twin

    def cost(self) -> float:
        """Σ strength · length, before λ; layer spacing left out, as no exchange changes it."""
        return self.plan.cost(self.strengths)

    def table(self, layer: int) -> Table:
        """C[u, s]: what the neuron that now sits in slot u would cost in slot s, everybody else staying.

        Connections of a layer to itself are left out: what they cost depends on two places of the same layer.
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
        """How much the cost changes when the neurons in slots j and k trade places, for every pair; exact."""
        table = self.table(layer)
        own = np.diag(table)
        change = table + table.T - own[:, None] - own
        for index in self.plan.touching[layer]:
            link = self.plan.links[index]
            if link.source == link.target:
                change += changes_within(self.strengths[index], link.lengths)
        return change

    def importance(self, layer: int) -> Float[np.ndarray, " neurons"]:
        """Σ|w in| + Σ|w out| of the neuron in each slot."""
        total = np.zeros(self.plan.layers[layer].neurons)
        for index in self.plan.touching[layer]:
            link, strength = self.plan.links[index], self.strengths[index]
            if link.target == layer:
                total += strength.sum(axis=1)
            if link.source == layer:
                total += strength.sum(axis=0)
        return total

    def place(self, layer: int, order: Int64[np.ndarray, " neurons"]) -> None:
        """Slot s of the layer takes the neuron that sat in slot order[s]."""
        if not _moves(order):
            return
        self.arrangement[layer] = self.arrangement[layer][order]
        own = self._tables[layer]
        for near in self.plan.neighbours[layer]:
            self._tables[near] = None
        self._tables[layer] = None if own is None else own[order]
        for index in self.plan.touching[layer]:
            link = self.plan.links[index]
            if link.target == layer:
                self.strengths[index] = self.strengths[index][order]
            if link.source == layer:
                self.strengths[index] = self.strengths[index][:, order]

    def greedy(self, candidates: int) -> None:
        """The published pass: in each layer the most important slots, in falling order, each take their best exchange.

        The slots are chosen before the first exchange of the layer; of equally important ones the highest comes
        first, as in the published code. Equally good exchanges (up to rounding) go to the lowest slot.
        """
        for layer in self.plan.movable:
            importance = self.importance(layer)
            if layer in self.plan.wired_to_itself:
                for slot in most_important(importance, candidates):
                    change = self.exchange_changes(layer)[slot]
                    self._exchange(layer, int(slot), lowest(change, NOTHING * self.cost()))
                continue
            blocks = self.plan.layers[layer].blocks
            if blocks > 1:  # heads first, whole; then neurons within them
                heads = blockwise(self.table(layer), blocks)
                order = greedy_order(heads, most_important(importance.reshape(blocks, -1).sum(1), candidates))
                size = importance.size // blocks
                self.place(layer, (order[:, None] * size + np.arange(size)).reshape(-1))
                importance = self.importance(layer)
            self.place(layer, greedy_order(self.table(layer), most_important(importance, candidates), blocks))

    def optimal(self) -> None:
        """Give every layer its best arrangement, its neighbours fixed, over and over until nothing gets shorter."""
        waiting = list(self.plan.movable)
        while waiting:
            layer = waiting.pop(0)
            if self._settle(layer):
                waiting += [near for near in self.plan.neighbours[layer] if near not in waiting]
                waiting.sort(key=lambda near: (near <= layer, near))

    def _settle(self, layer: int) -> bool:
        """Put one layer into its best arrangement. Returns whether the wiring got shorter."""
        if layer in self.plan.wired_to_itself:
            return self._settle_by_exchanges(layer)
        table = self.table(layer)
        now = float(np.add.reduce(table.diagonal()))
        order = best_assignment(table, self.plan.layers[layer].blocks, below=now * (1 - NOTHING))
        if order is None:
            return False
        self.place(layer, order)
        return True

    def _settle_by_exchanges(self, layer: int) -> bool:
        """The same for a layer wired to itself, which is no linear assignment: on to a fixed point of exchanges."""
        start = now = self.cost()
        guess = self.copy()
        guide = self.table(layer).copy()
        for index in self.plan.touching[layer]:
            link, strength = self.plan.links[index], self.strengths[index]
            if link.source == link.target:
                guide += strength @ link.lengths.T + strength.T @ link.lengths
        order = best_assignment(guide)
        assert order is not None  # nothing was asked of it
        guess.place(layer, order)
        if guess.cost() < now:
            self.strengths, self.arrangement, self._tables = guess.strengths, guess.arrangement, guess._tables
        while True:
            change = self.exchange_changes(layer)
            slot, other = divmod(int(np.argmin(change)), change.shape[1])
            if not change[slot, other] < -NOTHING * start:
                break
            self._exchange(layer, slot, other)
        return self.cost() < start - NOTHING * start

    def _exchange(self, layer: int, slot: int, other: int) -> None:
        order = np.arange(self.plan.layers[layer].neurons)
        order[[slot, other]] = order[[other, slot]]
        self.place(layer, order)


def _moves(order: Int64[np.ndarray, " neurons"]) -> bool:
    """Whether anybody changes places."""
    return order.tobytes() != _nobody_moves(order.size)  # a fifth of what comparing small arrays costs


@lru_cache(maxsize=256)
def _nobody_moves(neurons: int) -> bytes:
    return np.arange(neurons, dtype=np.int64).tobytes()
