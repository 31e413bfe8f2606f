"""Prune to tolerance, refitting on the way, and keep the whole curve (SCIENCE: the evidence, item 1).

The loss is not monotone in the number of connections, so the curve is scanned from dense to sparse and never bisected:
  1. Weights that carry nothing (by |w| · std of what they carry) go at once, as long as the loss does not notice.
  2. While many are left they go in batches; near the end one at a time. After every removal the kept weights are
     refitted without the cost, which had shrunk them.
  3. At the end each removal is a trial: the cheapest to second order first, then the others, until one keeps the loss
     within the tolerance. Only when none does has the cliff been reached; a few steps more are taken for the curve.
  4. k* is the smallest number of connections on the curve whose training and held-out loss are within their limits.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from bimt_engine.analysis.activity import activation_statistics
from bimt_engine.analysis.components import count_modules
from bimt_engine.analysis.paths import Masks, drop_dead_ends, full_masks, settle_mlp
from bimt_engine.analysis.plain_mlp import Array, Values
from bimt_engine.analysis.refit import (
    RIDGE,
    GradientProblem,
    Refitted,
    SmallProblem,
    kept_weights,
    refit_large,
    refit_small,
    removal_costs,
)
from bimt_engine.analysis.subject import Subject
from bimt_engine.networks.network import Network

Progress = Callable[[float, str], None]

UNNOTICED = 0.02  # of the tolerance: what weights that carry nothing may cost together, before any refit
SHRINK = 0.8  # of the connections that a dense stage leaves
ONE_AT_A_TIME = 60  # connections; above this, batches
SMALL_WORK = 2e8  # multiplications in one JᵀJ; more is left to gradients
EXTRA_TRIALS = 400  # refits beyond the first four of a removal, in the whole search
TRIAL_WORK = 2e10  # multiplications that these may cost together
BEYOND = 60  # steps outside the limits: past the cliff to show it, and because the loss may come back
MOST_NOISE = 0.1  # of the training loss: a network held down by its cost has far fewer free parameters than weights
RANDOM_MASKS = 10
LARGE_REFITS = 30  # stages of the general path, at most
LARGE_STEPS = 60  # gradient evaluations in one of its refits, at most


@dataclass(frozen=True)
class PruneStep:
    """One point of the curve. `refitted` is False for the network as it was trained."""

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


@dataclass(frozen=True)
class Pruned:
    """The network at k*, the curve that led there, and what to compare it with.

    masks            of the weight layers.
    limits           {"train_loss", "held_out_loss"} at k*: what each was allowed to be.
    random_masks     losses of as many connections per weight layer kept at random and refitted the same way.
    within_tolerance False when no pruned network stayed within the limits; then nothing was pruned away that is needed.
    """

    network: Network
    values: Values
    masks: Masks
    curve: tuple[PruneStep, ...]
    chosen: PruneStep
    limits: dict[str, float]
    tolerance: float
    scale: float
    random_masks: tuple[float, ...]
    within_tolerance: bool


def prune(
    subject: Subject,
    *,
    tolerance: float,
    refit_steps: int = 1_000,
    seed: int = 0,
    progress: Progress = lambda fraction, note: None,
) -> Pruned:
    """Take connections away as long as the losses stay within ε = `tolerance` of the unpruned, refitted network's."""
    search = _Search(subject, tolerance=tolerance, refit_steps=refit_steps, progress=progress)
    states = search.run()
    chosen = search.choose(states)
    progress(0.95, "random masks")
    random = search.random_masks(chosen, seed=seed)
    limits = search.limits(chosen, search.reference(states))
    curve = tuple(sorted((s.step for s in states), key=lambda s: (-s.connections, s.refitted)))
    masks = {w.parameter: chosen.masks[w.parameter] for w in subject.wiring.weight_layers}
    return Pruned(
        network=subject.with_values(chosen.values),
        values=chosen.values,
        masks=masks,
        curve=curve,
        chosen=chosen.step,
        limits=dict(zip(("train_loss", "held_out_loss"), limits, strict=True)),
        tolerance=tolerance,
        scale=subject.scale,
        random_masks=random,
        within_tolerance=chosen.step.refitted,
    )


class _Search:
    def __init__(self, subject: Subject, *, tolerance: float, refit_steps: int, progress: Progress) -> None:
        self.subject, self.progress = subject, progress
        self.tolerance, self.refit_steps = tolerance, refit_steps
        self.slack = tolerance * subject.scale
        self.extra_trials, self.extra_work = EXTRA_TRIALS, TRIAL_WORK
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

    # --- the search -------------------------------------------------------------------------------

    def run(self) -> list[State]:
        values = self.subject.values()
        masks = full_masks(self.subject.wiring, values)
        if self.subject.plain is not None:
            masks |= {name: np.ones(v.shape, bool) for name, v in values.items() if name.startswith("biases.")}
        trained = self.state(values, masks, refitted=False)
        states = [trained]
        state = self.refit(self.without_idle_weights(trained))
        states.append(state)
        if not self.fits_small(state):
            state = self.prune_by_gradient(state, states)
        if self.fits_small(state):
            self.prune_small(state, states)
        return states

    def prune_small(self, state: State, states: list[State]) -> None:
        """Batches, then one at a time, each followed by an exact refit."""
        start, beyond = state.step.connections, 0
        while state.step.connections > 0 and beyond < BEYOND:
            self.progress(0.9 * (1 - state.step.connections / start), f"{state.step.connections} connections")
            k = state.step.connections
            batch = k - max(ONE_AT_A_TIME, math.ceil(SHRINK * k)) if k > ONE_AT_A_TIME else 1
            following = self.without_cheapest(state, batch, states) if batch > 1 else None
            if following is None:
                following = self.without_one(state, states, patient=beyond == 0)
            if following is None:
                break
            state = following
            states.append(state)
            within = self.within_limits(state, self.reference(states))
            beyond = 0 if within else beyond + 1
            if state.step.train_loss > 0.5 * self.subject.scale and beyond:
                break  # no better than a constant: there is nothing left to see

    def without_cheapest(self, state: State, batch: int, states: list[State]) -> State | None:
        """The state without its `batch` cheapest connections, or without half as many …; None when it comes to one."""
        reference = self.reference(states)
        lost = not self.within_limits(state, reference)  # then nothing is gained by going slowly
        order = np.argsort(removal_costs(self.refitted(state), state.masks), kind="stable")
        kept = kept_weights(state.masks)
        while batch > 1:
            following = self.refit(self.cut(state, [kept[i] for i in order[:batch]]))
            if lost or self.within_limits(following, reference):
                return following
            batch //= 2
        return None

    def without_one(self, state: State, states: list[State], *, patient: bool) -> State | None:
        """The best state with one connection fewer (and whatever then hangs loose)."""
        assert self.small is not None
        limit = self.limits(state, self.reference(states))[0]
        easy = max(1.05 * state.step.train_loss, 0.05 * self.slack)
        costs = removal_costs(self.refitted(state), state.masks)
        kept = kept_weights(state.masks)
        work = 20 * self.small_work(state)
        trials = 4 + min(self.extra_trials, int(self.extra_work / work)) if patient else 2
        best: tuple[float, Refitted, Masks] | None = None
        number = 0
        for number, index in enumerate(np.argsort(costs, kind="stable")[:trials]):
            values, masks = self.cut(state, [kept[index]])
            if not masks_hold_anything(masks):
                continue
            found = refit_small(self.small, values, masks, hopeless=20 * limit if patient else None)
            if best is None or found.loss < best[0]:
                best = (found.loss, found, masks)
            if found.loss <= easy or (number >= 3 and best[0] <= limit):
                break
        self.extra_trials -= max(0, number - 3)
        self.extra_work -= max(0, number - 3) * work
        return None if best is None else self.state(best[1].values, best[2], curvature=best[1].curvature)

    def prune_by_gradient(self, state: State, states: list[State]) -> State:
        """Batches ranked by |w| · std of what they carry, smaller after each failure, refitted by gradient."""
        batch_share, refits = 1 - SHRINK + 0.1, 0
        while refits < LARGE_REFITS and batch_share * state.step.connections >= 1 and batch_share > 0.01:
            self.progress(0.9 * refits / LARGE_REFITS, f"{state.step.connections} connections")
            following = self.refit(self.keep_strongest(state, round((1 - batch_share) * state.step.connections)))
            refits += 1
            states.append(following)
            if self.within_limits(following, self.reference(states)):
                state = following
                batch_share = min(0.3, 1.5 * batch_share)
                if self.fits_small(state):
                    break
            else:
                batch_share /= 2
        return state

    # --- limits -----------------------------------------------------------------------------------

    def reference(self, states: list[State]) -> State:
        """What the others are measured by: the state that does best on held-out examples."""
        return min(states, key=lambda s: s.step.held_out_loss)

    def limits(self, state: State, reference: State) -> tuple[float, float]:
        """How high the training and the held-out loss of a state may be.

        Both may rise by ε·Var(y). Beside it, what noise alone explains: the training loss by Mallows' 2σ²/N for every
        parameter given up, the held-out loss by one standard error of the paired difference. On data without noise
        both vanish; on noisy tables they keep the search from calling an overfit a need.
        """
        examples = self.subject.train.targets.size
        freed = max(0, _unknowns(reference.masks) - _unknowns(state.masks))
        noise = min(MOST_NOISE, 2 * freed / examples) * reference.step.train_loss
        difference = state.held_out_losses - reference.held_out_losses
        error = float(difference.std() / math.sqrt(difference.size))
        return (
            reference.step.train_loss + self.slack + noise,
            reference.step.held_out_loss + self.slack + error,
        )

    def within_limits(self, state: State, reference: State) -> bool:
        train, held_out = self.limits(state, reference)
        return state.step.train_loss <= train and state.step.held_out_loss <= held_out

    def choose(self, states: list[State]) -> State:
        """The sparsest state within its limits; of two as sparse, the one with the lower training loss."""
        reference = self.reference(states)
        good = [s for s in states if self.within_limits(s, reference)]
        return min(good, key=lambda s: (s.step.connections, s.step.train_loss))

    # --- one state --------------------------------------------------------------------------------

    def state(self, values: Values, masks: Masks, *, refitted: bool = True, curvature: Array | None = None) -> State:
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
        values, masks = cut
        if self.small is not None and self.small_work_of(masks) <= SMALL_WORK:
            found = refit_small(self.small, values, masks)
            return self.state(found.values, masks, curvature=found.curvature)
        found = refit_large(self.gradient_problem(), values, masks, steps=min(self.refit_steps, LARGE_STEPS))
        return self.state(found.values, masks)

    def gradient_problem(self) -> GradientProblem:
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

    def small_work_of(self, masks: Masks) -> float:
        outputs = 1 if self.small is None else self.subject.dataset.targets
        return len(self.subject.train.inputs) * outputs * float(_unknowns(masks)) ** 2

    def small_work(self, state: State) -> float:
        return self.small_work_of(state.masks)

    def fits_small(self, state: State) -> bool:
        return self.small is not None and self.small_work(state) <= SMALL_WORK

    # --- cutting ----------------------------------------------------------------------------------

    def cut(self, state: State, connections: list[tuple[str, int, int]]) -> tuple[Values, Masks]:
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

    def without_idle_weights(self, state: State) -> tuple[Values, Masks]:
        """As few of the strongest weights as do, with no refit at all, what the trained network does."""
        total = state.step.connections
        allowed = state.step.train_loss + UNNOTICED * self.slack
        best = (state.values, state.masks)
        k = total
        while k > 1:
            k = int(0.9 * k)
            cut = self.keep_strongest(state, k)
            outputs = self.subject.outputs(cut[0], self.subject.train)
            if float(self.subject.losses(outputs, self.subject.train).mean()) > allowed:
                break
            best = cut
        return best

    # --- control ----------------------------------------------------------------------------------

    def random_masks(self, chosen: State, *, seed: int) -> tuple[float, ...]:
        """Training losses of networks with as many connections in each weight layer, kept at random and refitted."""
        generator = np.random.default_rng([seed, 1])
        trained = self.subject.values()
        losses = []
        small = self.fits_small(chosen)
        for _ in range(RANDOM_MASKS if small else 2):
            masks = {n: np.ones(v.shape, bool) for n, v in trained.items() if n in chosen.masks}
            for weights in self.subject.wiring.weight_layers:
                shape = masks[weights.parameter].shape
                kept = np.zeros(shape[0] * shape[1], bool)
                kept[generator.permutation(kept.size)[: int(chosen.masks[weights.parameter].sum())]] = True
                masks[weights.parameter] = kept.reshape(shape)
            losses.append(self.refit(self.settled(trained, masks)).step.train_loss)
        return tuple(losses)


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


def _unknowns(masks: Masks) -> int:
    return sum(int(mask.sum()) for mask in masks.values())
