"""Relocation: neurons trade places wherever that shortens the wiring; what is computed does not change.

With its neighbours fixed, the cost of putting neuron u of a layer into slot s is a table C[u, s], one matrix product
for every weight layer that touches the layer. `greedy` takes the published decisions from the table; `optimal` solves
it as a linear assignment and sweeps the layers until nothing gets shorter. (arXiv 2305.08746, section 2)

Layer spacing and biases are blind to where a neuron sits, so only length times locality enters here.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

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
from bimt_engine.training.connection_cost import length_factor, shapes_of
from bimt_engine.training.state import Layout, Place, TrainingState

Arrangement = list[Int64[np.ndarray, " _"]]
"""For each neuron layer: arrangement[slot] = the slot its neuron sat in before."""


@dataclass(frozen=True)
class _Link:
    """One weight layer as relocation sees it: slots only, folds added up."""

    place: Place
    source: int
    target: int
    folds: tuple[int, int, int, int]  # target fold, targets, source fold, sources
    lengths: Float[np.ndarray, "target source"]  # length times what a unit of it costs

    @property
    def ends(self) -> tuple[int, int]:
        return self.source, self.target

    def strengths(self, theta: Float[np.ndarray, " P"]) -> Float[np.ndarray, "target source"]:
        """Σ|w| over the folds, for each pair of slots."""
        strength = np.abs(theta[self.place.slice], dtype=np.float64).reshape(self.folds)
        if self.folds[0] == 1 and self.folds[2] == 1:
            return strength[0, :, 0]
        return strength.sum(axis=(0, 2))


class Relocation:
    """Everything about relocating one network that does not change while it is trained.

    locality   judge exchanges by this locality, in every weight layer; None: by the trained cost.
    """

    def __init__(self, wiring: Wiring, layout: Layout, cost: CostSpec, spec: RelocationSpec) -> None:
        self.wiring, self.layout, self.spec = wiring, layout, spec
        shapes = shapes_of(layout)
        places = {place.name: place for place in layout}
        number = {layer.name: index for index, layer in enumerate(wiring.neuron_layers)}
        self.links: list[_Link] = []
        for weights in wiring.weight_layers:
            factor = length_factor(wiring, weights, shapes, cost, locality=spec.judged_by_locality)
            base = np.ascontiguousarray(wiring.distances(weights).numpy())
            targets, sources = base.shape
            self.links.append(
                _Link(
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
        self.at_home: Arrangement = [np.arange(layer.neurons) for layer in self.layers]
        size = layout[-1].offset + layout[-1].size
        self._places = {place.name: (place.slice, place.shape) for place in layout}
        self._in_place = np.arange(size, dtype=np.int64)

    @staticmethod
    def _side(layer: int, link: _Link) -> Float[np.ndarray, "others slots"]:
        return np.ascontiguousarray(link.lengths.T if layer == link.target else link.lengths)

    def relocate(self, state: TrainingState, replica: int = 0) -> float:
        """One pass on one replica, in place. Returns the cost saved, before λ."""
        start = self.board(state.theta[replica].detach().cpu().numpy())
        board = start.copy()
        if self.spec.method == "greedy":
            board.greedy(self.spec.relocation_candidates)
        else:
            board = board.optimised(self.spec.relocation_candidates)
        return start.cost() - board.cost() if self.apply(state, replica, board.arrangement) else 0.0

    def relocate_with_restarts(self, state: TrainingState, generator: np.random.Generator, replica: int = 0) -> float:
        """The shortest layout found from here and from `final_restarts` random ones. Returns the cost saved."""
        best = start = self.board(state.theta[replica].detach().cpu().numpy())
        before = start.cost()
        best = start.optimised(self.spec.relocation_candidates)
        for _ in range(self.spec.final_restarts):
            tried = start.copy()
            tried.shuffle(generator)
            tried.optimal()
            if tried.cost() < best.cost() - NOTHING * before:
                best = tried
        self.apply(state, replica, best.arrangement)
        return before - best.cost()

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
        return float(
            sum(np.vdot(strength, link.lengths) for strength, link in zip(self.strengths, self.plan.links, strict=True))
        )

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

    def shuffle(self, generator: np.random.Generator) -> None:
        """Put every movable layer into a random order; heads stay whole."""
        for layer in self.plan.movable:
            blocks = self.plan.layers[layer].blocks
            runs = np.arange(self.plan.layers[layer].neurons).reshape(blocks, -1)
            runs = generator.permuted(runs[generator.permutation(blocks)], axis=1)
            self.place(layer, runs.reshape(-1))

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

    def optimised(self, candidates: int) -> Board:
        """The better of two fixed points: from here, and, where the published pass gets lower, from where it ends.

        So the optimal method never ends above the greedy one from the same start.
        """
        published = self.copy()
        self.optimal()
        published.greedy(candidates)
        if published.cost() < self.cost():
            published.optimal()
            return published
        return self

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
