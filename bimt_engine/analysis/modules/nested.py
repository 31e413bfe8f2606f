"""Groups inside one component: hidden neurons that share no input and do not interact, tested by ablation.

The structure of the pruned network proposes groups at every depth (`structure.py`). Two measurements decide:
  - *Reading*: the share of the variance of each neuron that is lost when one terminal is resampled. A terminal ties two
    trees only where this share is READS or more for some neuron of each. What a group reads of the terminals of other
    groups is the *leak*.
  - *Interaction*: I(m, n) = E[(y^do(m,n) - y^do(m) - y^do(n) + y)²] / Var(y), the largest over the outputs, where do(m)
    holds the neurons of m at their mean. Groups that interact are merged.
The groups after merging are the terms of a *sum*: y = Σ f_m(what m reads). Where groups that read different terminals
interact, the layers above combine them: y = f(g₁(…), g₂(…)), a *composition*.

Each partition is compared with random ones of the same live neurons (those with connections), matched in size layer by
layer, and the same groups are tested again in the network as trained, since pruning itself can separate neurons.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float

from bimt_engine.analysis.modules.effects import Ablator, union
from bimt_engine.analysis.modules.effects import Group as Places
from bimt_engine.analysis.modules.significance import p_value
from bimt_engine.analysis.modules.structure import Depth, Group, Terminal, joined, merged
from bimt_engine.analysis.modules.token_functions import token_functions
from bimt_engine.analysis.report import TiedBy
from bimt_engine.analysis.statements.interior import INTERACTS

FEWEST_READ = 2  # columns that each of two groups of a composition must read: groups of one column each are no finding
READS = (
    INTERACTS  # of the variance of a neuron: below, it is said not to read a terminal; the limit of interaction, too
)
MAX_GROUPS = 40  # at one depth; with more there are too many pairs to test and to list
RANDOM_PARTITIONS = 99
RANDOM_EXAMPLES = 128  # on which random partitions are compared
READING_WORK = 2e10  # multiplications in all passes that measure reading: some seconds

Kind = Literal["sum", "composition"]


@dataclass(frozen=True)
class Reading:
    """How much of the variance of each live hidden neuron comes from each terminal.

    share   E[(a - a')²] / (2 Var a), a' with the terminal's values of another example; (neurons, terminals).
    """

    neurons: tuple[tuple[str, int], ...]
    terminals: tuple[Terminal, ...]
    share: Float[np.ndarray, "neurons terminals"]

    def within(self, live: Places, terminals: Sequence[Terminal]) -> Reading:
        """The same for some of the neurons and terminals."""
        rows = [i for i, (layer, place) in enumerate(self.neurons) if layer in live and live[layer][place]]
        columns = [self.terminals.index(terminal) for terminal in terminals]
        return Reading(tuple(self.neurons[i] for i in rows), tuple(terminals), self.share[np.ix_(rows, columns)])

    def terminals_of(self, tree: Group) -> frozenset[Terminal]:
        """The terminals of a tree from which at least READS of the variance of one of its neurons comes."""
        mine = [bool(layer in tree.places and tree.places[layer][place]) for layer, place in self.neurons]
        most = self.share[mine].max(axis=0, initial=0.0)
        return frozenset(t for t, share in zip(self.terminals, most, strict=True) if share >= READS) & tree.terminals

    def of(self, group: Places) -> Float[np.ndarray, " terminals"]:
        """The share of each terminal in what the neurons of a group read together; sums to 1."""
        mine = [bool(layer in group and group[layer][place]) for layer, place in self.neurons]
        read = self.share[mine].sum(axis=0)
        return read / max(float(read.sum()), 1e-300)

    def leak(self, labels: Sequence[int]) -> float:
        """The share of all reading that is not by the group that reads a terminal most; label -1 is not counted."""
        of = np.asarray(labels)
        groups = [self.share[of == label].sum(axis=0) for label in sorted(set(of.tolist()) - {-1})]
        if not groups:
            return 0.0
        by_group = np.stack(groups)
        total = float(by_group.sum())
        return 1.0 - float(by_group.max(axis=0).sum()) / total if total > 0 else 0.0

    def labels(self, groups: Sequence[Places]) -> list[int]:
        """The number of each neuron's group, -1 for none."""
        found = [-1] * len(self.neurons)
        for number, group in enumerate(groups):
            for i, (layer, place) in enumerate(self.neurons):
                if layer in group and group[layer][place]:
                    found[i] = number
        return found


@dataclass(frozen=True)
class Partition:
    """Groups of the hidden neurons up to a layer, and what the tests of them found.

    layer                 the last hidden layer whose neurons are divided.
    kind                  "sum" or "composition".
    interaction, trained_interaction   (groups, groups); the largest over the outputs, as a share of its variance.
    effects               of holding each group at its mean, (groups, outputs); trained_effects likewise.
    reading               of the pruned network: which of its neurons depend on which terminals.
    leak, trained_leak    share of all reading that crosses between groups.
    p                     against `compared` random partitions of the same sizes.
    """

    layer: str
    kind: Kind
    groups: tuple[Group, ...]
    reading: Reading
    interaction: Float[np.ndarray, "groups groups"]
    trained_interaction: Float[np.ndarray, "groups groups"]
    effects: Float[np.ndarray, "groups outputs"]
    trained_effects: Float[np.ndarray, "groups outputs"]
    leak: float
    trained_leak: float
    p: float
    compared: int

    @property
    def worst(self) -> float:
        """The largest interaction of two groups in the pruned network."""
        return float(self.interaction.max(initial=0.0))

    @property
    def trained_worst(self) -> float:
        """The same in the network as trained."""
        return float(self.trained_interaction.max(initial=0.0))


# --- cause ------------------------------------------------------------------------------------------


def joint_effects(
    ablator: Ablator, groups: Sequence[Places]
) -> tuple[Float[np.ndarray, "groups outputs"], Float[np.ndarray, "groups groups outputs"]]:
    """The effect of holding each group at its mean, and the interaction I of every two, per output.

    Shares of the variance of each output; 0 for a constant output.
    """
    y = ablator.outputs
    variance = y.var(axis=0)
    scale = np.where(variance > 1e-300, variance, np.inf)
    alone = ablator.outputs_without(groups, "mean")
    found = np.zeros((len(groups), len(groups), y.shape[1]))
    for m in range(1, len(groups)):
        both = ablator.outputs_without([union(groups[m], groups[n]) for n in range(m)], "mean")
        for n in range(m):
            rest = both[n] - alone[m] - alone[n] + y
            found[m, n] = found[n, m] = (rest**2).mean(axis=0) / scale
    return ((alone - y) ** 2).mean(axis=1) / scale, found


def merge_interacting(ablator: Ablator, groups: Sequence[Group]) -> list[Group]:
    """Groups joined until no two interact by more than INTERACTS."""
    groups = list(groups)
    while len(groups) > 1:
        worst = joint_effects(ablator, [g.places for g in groups])[1].max(axis=2)
        if worst.max() <= INTERACTS:
            break
        # All that interacts, directly or through others, is joined at once: pair by pair would take a pass for each.
        groups = _joined(groups, worst > INTERACTS)
    return sorted(groups, key=lambda group: -group.size)


def _joined(groups: Sequence[Group], tied: Bool[np.ndarray, "groups groups"]) -> list[Group]:
    from scipy.sparse.csgraph import connected_components

    labels = connected_components(tied, directed=False)[1]
    return [merged([g for g, of in zip(groups, labels, strict=True) if of == label]) for label in np.unique(labels)]


def measure_reading(ablator: Ablator, live: Places, terminals: Sequence[Terminal]) -> Reading:
    """Resample each terminal alone, and measure the change of each live hidden neuron."""
    wiring = ablator.network.wiring
    neurons = tuple((name, int(place)) for name, places in live.items() for place in np.flatnonzero(places))
    affordable = int(READING_WORK / (max(1, len(terminals)) * ablator.context.general.work))
    few = ablator.first(max(16, affordable))
    before = _activations(few, {}, live)
    variance = np.maximum(before.var(axis=0), 1e-300)
    share = np.zeros((len(neurons), len(terminals)))
    for number, (name, slot) in enumerate(terminals):
        layer = wiring.layer(name)
        changed = {name: np.tile(np.arange(layer.neurons) == slot, layer.copies)}
        after = _activations(few, changed, live)
        share[:, number] = ((after - before) ** 2).mean(axis=0) / (2 * variance)
    return Reading(neurons, tuple(terminals), share)


def _activations(ablator: Ablator, resampled: Places, live: Places) -> Float[np.ndarray, "N neurons"]:
    """The activations of live neurons, samples pooled, with some places resampled."""
    wiring = ablator.network.wiring
    with torch.no_grad():
        _, seen = ablator.network.forward_with_hooks(ablator.inputs, ablator.hook([resampled], "resample"))
    return np.concatenate(
        [wiring.layer(name).to_places(seen[name]).flatten(0, -2)[:, places].numpy() for name, places in live.items()],
        axis=1,
    )


def tied_by_reading(depth: Depth, reading: Reading) -> tuple[Group, ...]:
    """The trees of a depth, joined where both read a terminal by at least READS; those with most neurons first."""
    read = [reading.terminals_of(tree) for tree in depth.trees]
    tied = np.array([[bool(one & other) for other in read] for one in read])
    return joined(depth.trees, tied)


# --- partitions -------------------------------------------------------------------------------------


def partitions_of(
    pruned: Ablator,
    trained: Ablator,
    depths: Sequence[Depth],
    *,
    tied_by: TiedBy = "common_functions",
    random_partitions: int = RANDOM_PARTITIONS,
    seed: int,
) -> tuple[list[Depth], list[Partition]]:
    """The depths with their trees grouped by what they read, and every partition that they propose, tested.

    A partition has two or more groups. For each depth: the groups after merging (a sum), and the groups before it where
    they read different terminals and interact (a composition). A partition of the same groups at a deeper layer
    replaces the shallower one.

    tied_by   over an embedding, what ties trees; see `InteriorDocument`.
    """
    found: dict[tuple[Kind, frozenset[frozenset[Terminal]]], Partition] = {}
    if not any(len(depth.trees) > 1 for depth in depths):
        return list(depths), []
    whole = merged(depths[-1].trees)
    terminals = sorted(whole.terminals)
    reading = measure_reading(pruned, whole.places, terminals)
    functions = token_functions(pruned.network) if tied_by != "dimensions" else None
    if functions is None:
        tie: Callable[[Depth], tuple[Group, ...]] = partial(tied_by_reading, reading=reading)
    else:
        tie = functions.split if tied_by == "common_functions" else functions.tied
    depths = [replace(depth, groups=tie(depth)) for depth in depths]
    for number, depth in enumerate(depths):
        groups = [group for group in depth.groups if group.terminals]
        if not 1 < len(groups) <= MAX_GROUPS:
            continue
        ablators: tuple[Ablator, ...] = (pruned, trained)
        if functions is not None:
            basis = functions.basis(groups)
            ablators = (
                pruned.of(functions.in_basis(pruned.network, basis)),
                trained.of(functions.in_basis(trained.network, basis)),
            )
        readings = [measure_reading(ablator, whole.places, terminals) for ablator in ablators]
        added = merge_interacting(pruned, groups)
        candidates: list[tuple[Kind, list[Group]]] = [("sum", added), ("composition", groups)]
        for kind, parts in candidates:
            fewest = 1 if pruned.network.wiring.embeddings else FEWEST_READ  # a learnt dimension is a finding by itself
            if len(parts) < 2 or (kind == "composition" and not _composes(parts, added, fewest)):
                continue
            tested = examine(
                pruned, trained, depth, kind, parts, reading, readings, count=random_partitions, seed=seed + number
            )
            found[kind, frozenset(group.terminals for group in parts)] = tested
    return list(depths), list(found.values())


def _composes(groups: Sequence[Group], added: Sequence[Group], fewest: int) -> bool:
    """Whether later layers join these groups, and at least two of them read `fewest` terminals or more."""
    return len(added) < len(groups) and sum(len(group.terminals) >= fewest for group in groups) > 1


def examine(
    pruned: Ablator,
    trained: Ablator,
    depth: Depth,
    kind: Kind,
    groups: Sequence[Group],
    reading: Reading,
    crossing: Sequence[Reading],
    *,
    count: int,
    seed: int,
) -> Partition:
    """Test one partition: interaction and reading, pruned and as trained, and against chance.

    reading    of the pruned network, for the roles of the groups.
    crossing   of the pruned and of the trained network, in the basis that separates the groups best.
    """
    places = [group.places for group in groups]
    live = union(*places)
    terminals = sorted(frozenset().union(*(group.terminals for group in groups)))
    reading, of_pruned, of_trained = (whole.within(live, terminals) for whole in (reading, *crossing))
    effects, interaction = joint_effects(pruned, places)
    trained_effects, trained_interaction = joint_effects(trained, places)
    p, compared = chance(pruned, of_pruned, kind, places, count=count, seed=seed)
    return Partition(
        layer=depth.layer,
        kind=kind,
        groups=tuple(groups),
        reading=reading,
        interaction=interaction.max(axis=2),
        trained_interaction=trained_interaction.max(axis=2),
        effects=effects,
        trained_effects=trained_effects,
        leak=of_pruned.leak(of_pruned.labels(places)),
        trained_leak=of_trained.leak(of_trained.labels(places)),
        p=p,
        compared=compared,
    )


def chance(
    ablator: Ablator, reading: Reading, kind: Kind, groups: Sequence[Places], *, count: int, seed: int
) -> tuple[float, int]:
    """p of a partition: how often a random one of the same sizes is separated as well; and how many were drawn.

    Separation is measured by the leak between the groups and, for a sum, by their interactions, each at most 1. The
    random partitions are different ones of the live neurons, with as many of each layer in each group.
    """
    few = ablator.first(RANDOM_EXAMPLES)
    generator = np.random.default_rng([seed, 11])

    def coupling(parts: Sequence[Places]) -> float:
        crossing = reading.leak(reading.labels(parts))
        if kind == "composition":
            return crossing
        return crossing + min(1.0, float(joint_effects(few, parts)[1].max(axis=2).sum() / 2))

    drawn = random_partitions(groups, count, generator=generator)
    if not drawn:
        return 1.0, 0
    return p_value(-coupling(groups), np.array([-coupling(parts) for parts in drawn])), len(drawn)


def random_partitions(
    groups: Sequence[Places], count: int, *, generator: np.random.Generator
) -> list[list[dict[str, Bool[np.ndarray, " places"]]]]:
    """Different partitions of the same neurons, as many of each layer in each group; never the groups themselves.

    Fewer than `count` where ten times as many draws do not find more.
    """
    layers = list(dict.fromkeys(layer for group in groups for layer in group))
    pool = {layer: np.flatnonzero(union(*groups)[layer]) for layer in layers}
    sizes = {layer: [int(np.sum(group[layer])) if layer in group else 0 for group in groups] for layer in layers}

    def signature(parts: Sequence[Places]) -> frozenset[tuple[tuple[str, tuple[int, ...]], ...]]:
        return frozenset(
            tuple((layer, tuple(np.flatnonzero(part[layer]).tolist())) for layer in layers if layer in part)
            for part in parts
        )

    seen = {signature(groups)}
    found: list[list[dict[str, Bool[np.ndarray, " places"]]]] = []
    for _ in range(10 * count):
        if len(found) == count:
            break
        parts: list[dict[str, Bool[np.ndarray, " places"]]] = [{} for _ in groups]
        for layer in layers:
            order, start = generator.permutation(pool[layer]), 0
            for part, size in zip(parts, sizes[layer], strict=True):
                if size:
                    part[layer] = np.zeros(union(*groups)[layer].size, bool)
                    part[layer][order[start : start + size]] = True
                start += size
        if (mark := signature(parts)) not in seen:
            seen.add(mark)
            found.append(parts)
    return found
