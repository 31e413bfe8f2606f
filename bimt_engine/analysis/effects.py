"""Cause: what happens to each output when a group of neurons is switched off.

M[group, output] = E[(y_o - y_o^do)²] / Var(y_o), over all predicted steps of a sequence, for three ways to switch off:
zero, mean, and resample (the activation that the group had on another example). For classes y_o is the score of a
class before the softmax, which couples all classes; the rise of the cross entropy and the fall of the accuracy on the
examples of each class stand beside it. All groups are run side by side along the batch axis, so any architecture will
do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from bimt_engine.analysis.losses import loss_per_example
from bimt_engine.analysis.plain_mlp import Array
from bimt_engine.analysis.subject import CHUNK_ROWS, Subject
from bimt_engine.networks.network import Edit, Network

Do = Literal["zero", "mean", "resample"]
DOS: tuple[Do, ...] = ("zero", "mean", "resample")
MAX_PROBE = 512  # examples that groups are run on

Group = Mapping[str, Array]
"""neuron layer -> bool for each place: True is in the group."""


@dataclass(frozen=True)
class Effects:
    """Effect of each group on each output, (groups, outputs).

    matrix         share of the output's variance.
    cross_entropy  classes only: its rise on the examples of each class; accuracy: its fall.
    """

    matrix: Array
    cross_entropy: Array | None = None
    accuracy: Array | None = None


class Probe:
    """One network on one set of examples, ready to have groups of neurons switched off.

    Targets are needed only for classes; outputs are in the order of the data.
    """

    def __init__(self, subject: Subject, network: Network, *, seed: int) -> None:
        self.subject, self.network = subject, network
        inputs = np.concatenate([subject.train.inputs, subject.held_out.inputs])
        targets = np.concatenate([subject.train.targets, subject.held_out.targets])
        generator = np.random.default_rng([seed, 2])
        if len(inputs) > MAX_PROBE:
            chosen = np.sort(generator.choice(len(inputs), MAX_PROBE, replace=False))
            inputs, targets = inputs[chosen], targets[chosen]
        self.inputs, self.targets = subject.tensor(inputs), targets
        # A residual stream is noted after every change and a recurrent sheet at every time step: what an edit replaces
        # is what stood there at that very note, so every note is remembered.
        self.notes: dict[str, list[Tensor]] = {}

        def remember(layer: str, activation: Tensor) -> Tensor:
            self.notes.setdefault(layer, []).append(activation)
            return activation

        with torch.no_grad():
            outputs, self.activations = network.run(self.inputs, remember)
        self.outputs = subject.rows(outputs)
        # Every example is paired with another one: a random cycle has no fixed points.
        cycle = generator.permutation(len(inputs))
        partner = np.empty_like(cycle)
        partner[cycle] = np.roll(cycle, 1)
        self.partner = torch.from_numpy(partner)

    @property
    def classes(self) -> bool:
        return self.subject.dataset.task == "classification"

    def places(self, layer: str) -> int:
        """How many places the groups of a layer are told by."""
        return int(np.prod(self.activations[layer].shape[self._lead :]))

    @cached_property
    def _lead(self) -> int:
        # Sequences carry a time axis before their neurons; the copies of a folded layer do not count as one.
        return 2 if self.subject.dataset.is_sequence else 1

    def answers(self, groups: Sequence[Group], do: Do) -> Array:
        """Outputs (groups, N, outputs) with each group switched off."""
        count = len(self.inputs)
        at_once = max(1, CHUNK_ROWS // count)
        found = []
        for start in range(0, len(groups), at_once):
            some = groups[start : start + at_once]
            tiled = self.inputs.repeat(len(some), *[1] * (self.inputs.ndim - 1))
            with torch.no_grad():
                outputs, _ = self.network.run(tiled, self._edit(some, do))
            rows = self.subject.rows(outputs)
            found.append(rows.reshape(len(some), count, -1))
        return np.concatenate(found)

    def _edit(self, groups: Sequence[Group], do: Do) -> Edit:
        """The edit that switches each group off in its own stretch of the batch. Good for one run."""
        masks = {}
        notes = {layer: iter(remembered) for layer, remembered in self.notes.items()}
        for layer in {name for group in groups for name in group}:
            empty = np.zeros(self.places(layer), bool)
            rows = np.stack([np.asarray(group.get(layer, empty)) for group in groups])
            if rows.any():
                masks[layer] = torch.from_numpy(rows)

        def edit(layer: str, activation: Tensor) -> Tensor:
            if layer not in masks:
                return activation
            inner = activation.shape[1:]
            shaped = activation.reshape(len(groups), -1, *inner)
            own = inner[self._lead - 1 :]
            mask = masks[layer].reshape(len(groups), *[1] * self._lead, *own)
            plain = next(notes[layer])
            if do == "zero":
                other = torch.zeros((), dtype=activation.dtype)
            elif do == "mean":
                other = plain.mean(dim=tuple(range(self._lead)))
            else:
                other = plain[self.partner]
            return torch.where(mask, other, shaped).reshape(activation.shape)

        return edit

    def effects(self, groups: Sequence[Group], do: Do) -> Effects:
        """The effect of switching each group off, on each output."""
        return self.compare(self.answers(groups, do))

    def compare(self, answers: Array) -> Effects:
        """The effect matrix of answers (groups, N, outputs) against the network's own."""
        # A sequence that is predicted at several steps has a column for each step and target: a target is one claim, so
        # its steps are pooled.
        targets = len(self.subject.dataset.target_names)
        variance = self.outputs.var(axis=0).reshape(-1, targets).sum(axis=0)
        lost = ((answers - self.outputs) ** 2).mean(axis=1).reshape(len(answers), -1, targets).sum(axis=1)
        # An output that never moves can lose nothing.
        matrix = lost / np.where(variance > 1e-300, variance, np.inf)
        if not self.classes:
            return Effects(matrix)
        before = loss_per_example(self.outputs, self.targets, "cross_entropy")
        rise = loss_per_example(answers, self.targets, "cross_entropy") - before
        fall = (self.outputs.argmax(-1) == self.targets) * 1.0 - (answers.argmax(-1) == self.targets)
        members = (self.targets[:, None] == np.arange(self.outputs.shape[1])).astype(float)
        share = members / np.maximum(1.0, members.sum(axis=0))
        return Effects(matrix, rise @ share, fall @ share)


def complement(group: Group, whole: Group) -> Group:
    """Everything in the whole that is not in the group."""
    return {layer: places & ~np.asarray(group.get(layer, np.zeros_like(places))) for layer, places in whole.items()}


def union(*groups: Group) -> Group:
    """Everything that is in one of the groups."""
    joined: dict[str, Array] = {}
    for group in groups:
        for layer, places in group.items():
            joined[layer] = joined[layer] | places if layer in joined else np.asarray(places)
    return joined


def selectivity(effects: Array) -> Array:
    """1 - H(M / ΣM) / log O for each row: 1 when one output takes all the effect, 0 when all take the same.

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


def sufficiency(probe: Probe, groups: Sequence[Group], whole: Group, *, do: Do = "mean") -> Array:
    """What of each output is left when only the group is kept: 1 - effect of switching all the rest off."""
    return 1.0 - probe.effects([complement(group, whole) for group in groups], do).matrix


def interaction(probe: Probe, groups: Sequence[Group], *, do: Do = "mean") -> Array:
    """E(m ∪ n) - E(m) - E(n) for every two groups: (groups, groups, outputs), 0 on the diagonal."""
    count = len(groups)
    alone = probe.effects(groups, do).matrix
    found = np.zeros((count, count, alone.shape[1]))
    pairs = [(m, n) for m in range(count) for n in range(m)]
    if pairs:
        both = probe.effects([union(groups[m], groups[n]) for m, n in pairs], do).matrix
        for (m, n), effect in zip(pairs, both, strict=True):
            found[m, n] = found[n, m] = effect - alone[m] - alone[n]
    return found


def upstream_effects(probe: Probe, groups: Sequence[Group]) -> Array:
    """The upstream twin (inputs, groups): permute one input over the examples, see how the group's activity moves.

    E[(a - a^permuted)²] / (2 Var a), the mean over the group's neurons that move at all: 1 when the input is all that
    the group listens to, 0 when it does not listen to it. The input layer itself is left out.
    """
    own = probe.subject.wiring.input_layer.name
    inputs = probe.inputs.shape[-1]
    found = np.zeros((inputs, len(groups)))
    for number in range(inputs):
        changed = probe.inputs.clone()
        changed[..., number] = probe.inputs[probe.partner][..., number]
        with torch.no_grad():
            _, activations = probe.network.run(changed)
        for g, group in enumerate(groups):
            moved = []
            for layer, places in group.items():
                if layer == own or not np.any(places):
                    continue
                size = probe.places(layer)
                before = probe.activations[layer].reshape(-1, size)[:, places].numpy()
                after = activations[layer].reshape(-1, size)[:, places].numpy()
                variance = before.var(axis=0)
                alive = variance > 1e-20
                moved.extend((((before - after) ** 2).mean(axis=0)[alive] / (2 * variance[alive])).tolist())
            found[number, g] = float(np.mean(moved)) if moved else 0.0
    return found
