"""Ablation: what happens to each output without a group of neurons, and to the loss without a connection.

M[group, output] = E[(y_o - y_o^do)²] / Var(y_o), over all predicted steps of a sequence, for three ways to ablate:
zero, mean, and resample (the activation that the group had on another example). For classes y_o is the score of a
class before the softmax, which couples all classes; the rise of the cross entropy and the fall of the accuracy on the
examples of each class stand beside it. All groups are run side by side along the batch axis of any network.
"""

from __future__ import annotations

import copy
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from bimt_engine.analysis.context import AnalysisContext, Examples, loss_per_example
from bimt_engine.analysis.evaluator import Array, Connection, Masks, Values
from bimt_engine.analysis.hooked_network import as_tensor, every_activation
from bimt_engine.analysis.statements.network import MAX_ABLATED_EXAMPLES
from bimt_engine.networks.network import ActivationHook, Network

Do = Literal["zero", "mean", "resample"]
ABLATIONS: tuple[Do, ...] = ("zero", "mean", "resample")
ABLATION_WORK = (
    2e10  # multiplications of all ablations of a network whose layers do not form a chain: seconds of one core
)

Group = Mapping[str, Array]
"""neuron layer -> bool for each place: True: in the group."""


@dataclass(frozen=True)
class Effects:
    """Effect of each group on each output, (groups, outputs).

    matrix         share of the output's variance.
    cross_entropy  classes only: its rise on the examples of each class; accuracy: its fall.
    """

    matrix: Float[np.ndarray, "groups outputs"]
    cross_entropy: Float[np.ndarray, "groups outputs"] | None = None
    accuracy: Float[np.ndarray, "groups outputs"] | None = None


class Ablator:
    """One network on one set of examples, and its outputs with groups of neurons ablated.

    Targets are needed only for classes; outputs are in the order of the data.
    """

    def __init__(self, context: AnalysisContext, network: Network, *, seed: int) -> None:
        self.context, self.network = context, network
        inputs, targets = context.development.inputs, context.development.targets
        generator = np.random.default_rng([seed, 2])
        most = max(2, MAX_ABLATED_EXAMPLES // (context.dataset.steps if context.dataset.is_text else 1))
        if len(inputs) > most:
            chosen = np.sort(generator.choice(len(inputs), most, replace=False))
            inputs, targets = inputs[chosen], targets[chosen]
        self.inputs, self.targets = as_tensor(inputs), targets
        outputs, self.activations, self.calls = every_activation(network, self.inputs)
        self.outputs = context.general.rows(outputs)
        self.partner = torch.from_numpy(partners(len(inputs), generator))

    def first(self, count: int) -> Ablator:
        """The same network on the first of its examples, training examples first; itself where it has fewer."""
        if count >= len(self.inputs):
            return self
        few = copy.copy(self)
        few.inputs, few.targets = self.inputs[:count], self.targets[:count]
        outputs, few.activations, few.calls = every_activation(self.network, few.inputs)
        few.outputs = self.context.general.rows(outputs)
        few.partner = torch.from_numpy(partners(count, np.random.default_rng(0)))
        return few

    def of(self, network: Network) -> Ablator:
        """Another network on the same examples."""
        found = copy.copy(self)
        found.network = network
        outputs, found.activations, found.calls = every_activation(network, self.inputs)
        found.outputs = self.context.general.rows(outputs)
        return found

    @property
    def classes(self) -> bool:
        """Whether the outputs are scores of classes."""
        return self.context.dataset.task == "classification"

    def outputs_without(self, groups: Sequence[Group], do: Do) -> Float[np.ndarray, "groups N outputs"]:
        """Outputs with each group ablated."""
        count = len(self.inputs)
        at_once = max(1, self.context.general.at_once // count)
        found = []
        for start in range(0, len(groups), at_once):
            some = groups[start : start + at_once]
            tiled = self.inputs.repeat(len(some), *[1] * (self.inputs.ndim - 1))
            with torch.no_grad():
                outputs, _ = self.network.forward_with_hooks(tiled, self.hook(some, do))
            rows = self.context.general.rows(outputs)
            found.append(rows.reshape(len(some), count, -1))
        return np.concatenate(found)

    def hook(self, groups: Sequence[Group], do: Do) -> ActivationHook:
        """Ablates each group in its own section of the batch. To be used for one forward pass."""
        wiring = self.network.wiring
        masks = {}
        before = {layer: iter(activations) for layer, activations in self.calls.items()}
        for layer in {name for group in groups for name in group}:
            empty = np.zeros(wiring.layer(layer).places, bool)
            of_run = wiring.layer(layer).whole_runs  # all inputs of a column are ablated together
            rows = np.stack([of_run(np.asarray(group.get(layer, empty))) for group in groups])
            if rows.any():
                masks[layer] = torch.from_numpy(rows)

        def hook(layer: str, activation: Tensor) -> Tensor:
            if layer not in masks:
                return activation
            of = wiring.layer(layer)
            now = of.to_places(activation).unflatten(0, (len(groups), -1))
            was = of.to_places(next(before[layer]))
            mask = masks[layer].reshape(len(groups), *[1] * (now.dim() - 2), -1)
            if do == "zero":
                other = torch.zeros((), dtype=activation.dtype)
            elif do == "mean":
                other = was.mean(dim=tuple(range(was.dim() - 1)))
            else:
                other = was[self.partner]
            return of.from_places(torch.where(mask, other, now).flatten(0, 1))

        return hook

    def effects(self, groups: Sequence[Group], do: Do) -> Effects:
        """The effect of ablating each group, on each output."""
        return self.compare(self.outputs_without(groups, do))

    def compare(self, answers: Float[np.ndarray, "groups N outputs"]) -> Effects:
        """The effect matrix of these outputs, compared with those of the unchanged network."""
        # A sequence that is predicted at several steps has a column for each step and target. A target is tested once,
        # so its steps are pooled.
        targets = len(self.context.dataset.target_names)
        variance = self.outputs.var(axis=0).reshape(-1, targets).sum(axis=0)
        lost = ((answers - self.outputs) ** 2).mean(axis=1).reshape(len(answers), -1, targets).sum(axis=1)
        # A constant output cannot change.
        matrix = lost / np.where(variance > 1e-300, variance, np.inf)
        if not self.classes:
            return Effects(matrix)
        labels = self.targets.reshape(-1)  # each step of a text is an example of its class
        own, answers = self.outputs.reshape(-1, targets), answers.reshape(len(answers), -1, targets)
        before = loss_per_example(own, labels, "cross_entropy")
        rise = loss_per_example(answers, labels, "cross_entropy") - before
        fall = (own.argmax(-1) == labels) * 1.0 - (answers.argmax(-1) == labels)
        members = (labels[:, None] == np.arange(targets)).astype(float)
        share = members / np.maximum(1.0, members.sum(axis=0))
        return Effects(matrix, rise @ share, fall @ share)


def complement(group: Group, whole: Group) -> Group:
    """The neurons of the whole that are not in the group."""
    return {layer: places & ~np.asarray(group.get(layer, np.zeros_like(places))) for layer, places in whole.items()}


def union(*groups: Group) -> Group:
    """The neurons that are in one of the groups."""
    joined: dict[str, Array] = {}
    for group in groups:
        for layer, places in group.items():
            joined[layer] = joined[layer] | places if layer in joined else np.asarray(places)
    return joined


def selectivity(effects: Float[np.ndarray, "*many outputs"]) -> Float[np.ndarray, "*many"]:
    """1 - H(M / ΣM) / log O for each row: 1 when all the effect is on one output, 0 when it is the same on all.

    A group without any effect has no selectivity: 0.
    """
    outputs = effects.shape[-1]
    if outputs < 2:
        return np.zeros(effects.shape[:-1])
    positive = np.maximum(effects, 0.0)
    total = positive.sum(axis=-1, keepdims=True)
    share = positive / np.where(total > 0, total, 1.0)
    entropy = -(share * np.log(np.where(share > 0, share, 1.0))).sum(axis=-1)
    return np.where(total[..., 0] > 0, 1.0 - entropy / np.log(outputs), 0.0)


def sufficiency(
    ablator: Ablator, groups: Sequence[Group], whole: Group, *, do: Do = "mean"
) -> Float[np.ndarray, "groups outputs"]:
    """How much of each output the group alone preserves: 1 - effect of ablating all other neurons."""
    return 1.0 - ablator.effects([complement(group, whole) for group in groups], do).matrix


def interaction(
    ablator: Ablator, groups: Sequence[Group], *, do: Do = "mean"
) -> Float[np.ndarray, "groups groups outputs"]:
    """E(m ∪ n) - E(m) - E(n) for every two groups: (groups, groups, outputs), 0 on the diagonal."""
    count = len(groups)
    alone = ablator.effects(groups, do).matrix
    found = np.zeros((count, count, alone.shape[1]))
    pairs = [(m, n) for m in range(count) for n in range(m)]
    if pairs:
        both = ablator.effects([union(groups[m], groups[n]) for m, n in pairs], do).matrix
        for (m, n), effect in zip(pairs, both, strict=True):
            found[m, n] = found[n, m] = effect - alone[m] - alone[n]
    return found


def upstream_effects(
    ablator: Ablator, groups: Sequence[Group], read: Container[int] | None = None
) -> Float[np.ndarray, "inputs groups"]:
    """How much each group depends on each input: the change of its activations when that input is permuted.

    All inputs that a column of a table became are permuted together, so that every row stays possible.

    E[(a - a^permuted)²] / (2 Var a), the mean over the group's neurons that vary: 1 when the input is all that
    the group depends on, 0 when it does not depend on it. The input layer itself is left out.

    read   the inputs that can change anything, where that is known; None: any can.
    """
    own = ablator.context.wiring.input_layer.name
    dataset = ablator.context.dataset
    inputs = ablator.inputs.shape[-1] if dataset.encoding is None else len(dataset.column_names)
    found = np.zeros((inputs, len(groups)))
    for number in range(inputs):
        if read is not None and number not in read:
            continue
        own_columns = np.flatnonzero(dataset.column_of == number) if dataset.encoding is not None else number
        changed = ablator.inputs.clone()
        changed[..., own_columns] = ablator.inputs[ablator.partner][..., own_columns]
        with torch.no_grad():
            _, activations = ablator.network.forward_with_hooks(changed)
        for g, group in enumerate(groups):
            moved = []
            for layer, places in group.items():
                if layer == own or not np.any(places):
                    continue
                of = ablator.context.wiring.layer(layer)
                before, after = (
                    of.to_places(seen[layer]).flatten(0, -2)[:, places].numpy()
                    for seen in (ablator.activations, activations)
                )
                variance = before.var(axis=0)
                alive = variance > 1e-20
                moved.extend((((before - after) ** 2).mean(axis=0)[alive] / (2 * variance[alive])).tolist())
            found[number, g] = float(np.mean(moved)) if moved else 0.0
    return found


def partners(count: int, generator: np.random.Generator) -> Int[np.ndarray, " count"]:
    """Another example for each one: a random cycle has no fixed points."""
    cycle = generator.permutation(count)
    partner = np.empty_like(cycle)
    partner[cycle] = np.roll(cycle, 1)
    return partner


def ablation_effects(context: AnalysisContext, values: Values, masks: Masks) -> dict[Connection, float]:
    """The rise of the training loss when one kept connection is set to zero and nothing is refitted, for each.

    Computed exactly, on all training examples; where that would be more than ABLATION_WORK, on evenly spaced ones.
    """
    kept = [
        (w.parameter, int(row), int(column))
        for w in context.wiring.weight_layers
        for row, column in zip(*np.nonzero(masks[w.parameter]), strict=True)
    ]
    examples = context.train
    if context.evaluator is context.general and kept:
        affordable = max(1, int(ABLATION_WORK / (len(kept) * context.general.work)))
        step = -(-len(examples.inputs) // affordable)
        counted = None if examples.weights is None else examples.weights[::step]
        examples = Examples(examples.inputs[::step], examples.targets[::step], counted)
    base = float(context.losses(context.outputs(values, examples), examples).mean())
    effects: dict[Connection, float] = {}
    for connections, outputs in context.evaluator.without_each(values, kept, examples.inputs):
        losses = context.losses(outputs, examples).mean(axis=-1)
        effects.update({c: float(loss) - base for c, loss in zip(connections, losses, strict=True)})
    return effects
