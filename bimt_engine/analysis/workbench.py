"""Where a network is cut, refitted and measured: one step of pruning, whatever the network is made of."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bimt_engine.analysis.activity import activation_statistics
from bimt_engine.analysis.components import count_modules
from bimt_engine.analysis.narrow import refit_narrow
from bimt_engine.analysis.paths import Masks, drop_dead_ends, full_masks, settle_mlp
from bimt_engine.analysis.plain_mlp import Array, Values
from bimt_engine.analysis.refit import (
    RIDGE,
    GradientProblem,
    Refitted,
    SmallProblem,
    refit_small,
)
from bimt_engine.analysis.subject import Subject

SMALL_WORK = 2e8  # multiplications in one JᵀJ; more is left to gradients
LARGE_STEPS = 60  # gradient evaluations in one refit of the general path, at most


@dataclass(frozen=True)
class PruneStep:
    """One point of the curve. `refitted` is False where the kept weights are as training left them."""

    connections: int
    train_loss: float
    held_out_loss: float
    modules: int
    faithfulness: float
    refitted: bool = True

    def document(self) -> dict[str, float | int | bool]:
        return {**self.__dict__}


@dataclass(frozen=True)
class State:
    """A network on the way: its step, and everything needed to go on from it."""

    step: PruneStep
    values: Values
    masks: Masks
    held_out_losses: Array
    curvature: Array | None = None


class Workbench:
    """A subject with its refits: makes states, and makes sparser states from states."""

    def __init__(self, subject: Subject, *, refit_steps: int) -> None:
        self.subject, self.refit_steps = subject, refit_steps
        self.trained_outputs = subject.outputs(subject.values(), subject.held_out)
        self.ridge = RIDGE * subject.scale
        if subject.loss == "cross_entropy":
            self.ridge = max(self.ridge, confidence_ridge(subject))
        self.small: SmallProblem | None = None
        self.large: GradientProblem | None = None
        if subject.plain is not None:
            self.small = SmallProblem(
                subject.plain.inputs_in_slots(subject.train.inputs),
                subject.plain.targets_in_slots(subject.train.targets),
                subject.plain.activation,
                subject.loss,
                self.ridge,
            )

    def trained(self) -> State:
        """The network as it was trained, every connection kept."""
        values = self.subject.values()
        masks = full_masks(self.subject.wiring, values)
        if self.subject.plain is not None:
            masks |= {name: np.ones(v.shape, bool) for name, v in values.items() if name.startswith("biases.")}
        return self.state(values, masks, refitted=False)

    def state(self, values: Values, masks: Masks, *, refitted: bool = True, curvature: Array | None = None) -> State:
        """These values under these masks, measured."""
        subject = self.subject
        outputs = subject.outputs(values, subject.held_out)
        held_out = subject.losses(outputs, subject.held_out)
        train = subject.losses(subject.outputs(values, subject.train), subject.train)
        weights = [w.parameter for w in subject.wiring.weight_layers]
        step = PruneStep(
            connections=sum(int(masks[name].sum()) for name in weights),
            train_loss=float(train.mean()),
            held_out_loss=float(held_out.mean()),
            modules=count_modules(subject.wiring, masks),
            faithfulness=subject.faithfulness(outputs, self.trained_outputs),
            refitted=refitted,
        )
        return State(step, values, masks, held_out, curvature)

    def refitted(self, state: State) -> Refitted:
        """The state as a refit with curvature, computed anew where it came from somewhere else."""
        if state.curvature is None:
            assert self.small is not None
            return refit_small(self.small, state.values, state.masks)
        return Refitted(state.values, state.step.train_loss, 0, state.curvature)

    def refit(self, cut: tuple[Values, Masks]) -> State:
        """What was cut, refitted by the road that fits its size."""
        values, masks = cut
        if self.small is not None and self.fits_small(masks):
            found = refit_small(self.small, values, masks)
            return self.state(found.values, masks, curvature=found.curvature)
        found = refit_narrow(self.gradient_problem(), values, masks, steps=min(self.refit_steps, LARGE_STEPS))
        return self.state(found.values, masks)

    def gradient_problem(self) -> GradientProblem:
        """The general road, made when it is first needed."""
        if self.large is None:
            s = self.subject
            self.large = GradientProblem(
                s.with_values(s.values()),
                s.train.inputs,
                s.train.targets,
                loss=s.loss,
                ridge=self.ridge,
                positions=s.positions,
            )
        return self.large

    def small_work(self, masks: Masks) -> float:
        """Multiplications in one JᵀJ under these masks."""
        return len(self.subject.train.inputs) * self.subject.dataset.targets * float(unknowns(masks)) ** 2

    def fits_small(self, masks: Masks) -> bool:
        """Whether Levenberg-Marquardt is the road under these masks."""
        return self.small is not None and self.small_work(masks) <= SMALL_WORK

    # --- cutting ----------------------------------------------------------------------------------

    def cut(self, state: State, connections: list[tuple[str, int, int]]) -> tuple[Values, Masks]:
        """The state without these connections and whatever then hangs loose."""
        masks = dict(state.masks)
        for name in {name for name, _, _ in connections}:
            masks[name] = masks[name].copy()
        for name, row, column in connections:
            masks[name][row, column] = False
        return self.settled(state.values, masks)

    def keep_strongest(self, state: State, count: int) -> tuple[Values, Masks]:
        """The state with its `count` strongest connections by |w| · std of the source."""
        strength = self.strengths(state)
        ranked = np.sort(np.concatenate([s[s > 0] for s in strength.values()]))[::-1]
        least = ranked[min(count, ranked.size) - 1] if ranked.size and count > 0 else np.inf
        masks = dict(state.masks)
        for name, value in strength.items():
            masks[name] = state.masks[name] & (value >= least)
        return self.settled(state.values, masks)

    def settled(self, values: Values, masks: Masks) -> tuple[Values, Masks]:
        """The same without neurons off every path from an input to an output."""
        plain = self.subject.plain
        if plain is not None:
            return settle_mlp(values, masks, plain.activation)
        masks = drop_dead_ends(self.subject.wiring, masks)
        return {n: np.where(masks[n], v, 0.0) if n in masks else v for n, v in values.items()}, masks

    def strengths(self, state: State) -> dict[str, Array]:
        """|w| · std of the source's activation over the training examples; 0 where the mask has taken it."""
        stds = {name: std for name, (_, std) in activation_statistics(self.subject, state.values).items()}
        found = {}
        for weights in self.subject.wiring.weight_layers:
            std = stds[weights.source]
            columns = std if std.size == state.values[weights.parameter].shape[1] else np.tile(std, weights.source_fold)
            strength = np.abs(state.values[weights.parameter]) * columns
            found[weights.parameter] = np.where(state.masks[weights.parameter], strength, 0.0)
        return found

    def without_idle_weights(self, state: State, *, allowed: float) -> tuple[Values, Masks]:
        """As few of the strongest weights as keep the training loss within what is allowed, with no refit at all."""
        best = (state.values, state.masks)
        k = state.step.connections
        while k > 1:
            k = int(0.9 * k)
            cut = self.keep_strongest(state, k)
            outputs = self.subject.outputs(cut[0], self.subject.train)
            if float(self.subject.losses(outputs, self.subject.train).mean()) > allowed:
                break
            best = cut
        return best


def confidence_ridge(subject: Subject) -> float:
    """The ridge under which the trained network would neither grow nor shrink as a whole.

    Cross entropy on classes that can be told apart has no best fit: it falls for ever as the weights grow, and the
    network becomes sure of everything. So the refit keeps the confidence that training arrived at: with
    ρ = -d CE(s·θ)/ds / |θ|² at s = 1, the pull of the loss on the scale of θ and the pull of the ridge cancel.
    """
    values = subject.values()
    step = 1e-3

    def loss_at(scale: float) -> float:
        scaled = {name: scale * value for name, value in values.items()}
        return float(subject.losses(subject.outputs(scaled, subject.train), subject.train).mean())

    pull = (loss_at(1 - step) - loss_at(1 + step)) / (2 * step)
    return max(0.0, pull) / sum(float((value**2).sum()) for value in values.values())


def masks_hold_anything(masks: Masks) -> bool:
    """Whether any connection is kept."""
    return any(mask.any() for name, mask in masks.items() if mask.ndim == 2)


def unknowns(masks: Masks) -> int:
    """How many parameters the masks keep."""
    return sum(int(mask.sum()) for mask in masks.values())


def random_masks(bench: Workbench, like: State, count: int, *, generator: np.random.Generator) -> tuple[float, ...]:
    """Training losses of networks with as many connections in each weight layer, kept at random and refitted."""
    trained = bench.subject.values()
    losses = []
    for _ in range(count):
        masks: Masks = {name: np.full(v.shape, True) for name, v in trained.items() if name in like.masks}
        for weights in bench.subject.wiring.weight_layers:
            kept = np.zeros(masks[weights.parameter].size, bool)
            kept[generator.permutation(kept.size)[: int(like.masks[weights.parameter].sum())]] = True
            masks[weights.parameter] = kept.reshape(masks[weights.parameter].shape)
        losses.append(bench.refit(bench.settled(trained, masks)).step.train_loss)
    return tuple(losses)
