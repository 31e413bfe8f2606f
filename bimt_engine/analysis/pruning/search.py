"""Prune to tolerance, refitting on the way, and keep the whole curve.

The loss is not monotone in the number of connections, so the curve is scanned from dense to sparse and never bisected:
  1. Weights that carry almost nothing (by |w| · std of their source) are removed at once, while the loss hardly rises.
  2. While many are left they are removed in batches; near the end one at a time. After every removal the kept weights
     are refitted without the cost, which had shrunk them.
  3. At the end each removal is a trial: the cheapest to second order first, then the others, until one costs next to
     nothing; else the best of all is taken. Once the loss is far above its limits only a few are tried, for the curve.
     For a table whose columns are encoded, whole columns and connections that carry next to nothing are tried too.
  4. The scan ends at the empty network: no connections, and the best constant answer.
  5. k* is the smallest number of connections on the curve whose training and validation loss are within their limits.
     That network is kept only if it is clearly better than the constant: if its gain over it on the validation rows,
     row by row, exceeds two standard errors. Where these are few, cross-fitting decides. Otherwise nothing is kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float

from bimt_engine.analysis.context import AnalysisContext
from bimt_engine.analysis.evaluator import Masks, Values
from bimt_engine.analysis.modules.effects import ablation_effects
from bimt_engine.analysis.pruning.engine import (
    PruneStep,
    PruningEngine,
    State,
    masks_hold_anything,
    random_masks,
    unknowns,
)
from bimt_engine.analysis.pruning.refit import Refitted, kept_weights, refit_least_squares, removal_costs
from bimt_engine.networks.network import Network

Progress = Callable[[float, str], None]

UNNOTICED = 0.02  # of the tolerance: what weights that carry nothing may cost together, before any refit
SHRINK = 0.8  # of the connections that a dense stage leaves
ONE_AT_A_TIME = 60  # connections; above this, batches
EXTRA_TRIALS = 400  # refits beyond the first four of a removal, in the whole search
TRIAL_WORK = 2e10  # multiplications that these may cost together
CLEARLY = 2.0  # standard errors by which a network must be better than a constant
ALONE = 30  # validation rows; with fewer, the standard error itself is too uncertain
IDLE_TRIALS = 6  # connections of a table that hardly matter as they are, tried beside whole columns
BEYOND = 60  # old searches: steps outside the limits before the scan ends
MOST_NOISE = 0.1  # of the training loss: a network held down by its cost has far fewer free parameters than weights
RANDOM_MASKS = 10
FEW_RANDOM_MASKS = 2  # where a refit takes long
LARGE_REFITS = 30  # stages of the general path, at most


def silent(fraction: float, doing: str) -> None:
    """Report no progress."""


@dataclass(frozen=True)
class Gain:
    """By how much the losses of a network are below those of a constant answer, on the same rows.

    by   which rows: those for validation, or all but those for testing, each predicted by a network that was trained
         without it.
    """

    mean: float
    standard_error: float
    rows: int
    by: Literal["validation", "cross-fitting"]

    @classmethod
    def of(cls, gains: Float[np.ndarray, " N"], by: Literal["validation", "cross-fitting"]) -> Gain:
        """The mean of these gains, one of each row, and its standard error."""
        error = float(gains.std(ddof=1)) / math.sqrt(gains.size) if gains.size > 1 else math.inf
        return cls(float(gains.mean()), error, gains.size, by)

    @property
    def clear(self) -> bool:
        """Whether it is more than chance explains."""
        return self.mean > CLEARLY * self.standard_error

    def document(self) -> dict[str, float | int | str]:
        """The numbers by name, for JSON."""
        return {**self.__dict__}


@dataclass(frozen=True)
class Pruned:
    """The network at k*, the curve that led there, and what to compare it with.

    masks            of the weight layers.
    limits           {"train_loss", "validation_loss"} at k*: what each was allowed to be.
    random_masks     losses of as many connections per weight layer kept at random and refitted the same way.
    within_tolerance False when no pruned network stayed within the limits: this is the network as trained.
    gain             over a constant answer, which decided whether anything is kept; None in a search by old rules.
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
    gain: Gain | None


def prune(
    context: AnalysisContext,
    *,
    tolerance: float,
    refit_evaluations: int = 60,
    seed: int = 0,
    evidence_version: int = 2,
    cross_fit: Callable[[], Float[np.ndarray, " N"]] | None = None,
    progress: Progress = silent,
) -> Pruned:
    """Take connections away as long as the losses stay within ε = `tolerance` of the unpruned, refitted network's.

    evidence_version   1: without the constant answer among the candidates, as before.
    cross_fit          computes the gains over a constant by cross-fitting; asked where the validation rows are very
                       few, or leave it open whether the network is better. None: they decide alone.
    """
    engine = PruningEngine(context, refit_evaluations=refit_evaluations)
    search = Search(engine, tolerance=tolerance, old=evidence_version == 1, progress=progress)
    states = search.run()
    chosen, reference, gain = search.choose(states, cross_fit)
    progress(0.95, "random masks")
    count = RANDOM_MASKS if engine.fits_least_squares(chosen.masks) else FEW_RANDOM_MASKS
    random = random_masks(engine, chosen, count, generator=np.random.default_rng([seed, 1]))
    limits = search.limits(chosen, reference)
    curve = tuple(sorted((s.step for s in states), key=lambda s: (-s.connections, s.refitted)))
    masks = {w.parameter: chosen.masks[w.parameter] for w in context.wiring.weight_layers}
    return Pruned(
        network=context.general.with_values(chosen.values),
        values=chosen.values,
        masks=masks,
        curve=curve,
        chosen=chosen.step,
        limits=dict(zip(("train_loss", "validation_loss"), limits, strict=True)),
        tolerance=tolerance,
        scale=context.scale,
        random_masks=random,
        within_tolerance=chosen.step.connections < states[0].step.connections,
        gain=gain,
    )


class Search:
    """The scan from dense to sparse, and the choice of k*."""

    def __init__(
        self, engine: PruningEngine, *, tolerance: float, old: bool = False, progress: Progress = silent
    ) -> None:
        self.engine, self.old, self.progress = engine, old, progress
        self.context = engine.context
        self.slack = tolerance * engine.context.scale
        self.extra_trials, self.extra_work = EXTRA_TRIALS, TRIAL_WORK

    # --- the search -------------------------------------------------------------------------------

    def run(self) -> list[State]:
        """Every state on the way, dense ones first."""
        trained = self.engine.trained()
        allowed = trained.step.train_loss + UNNOTICED * self.slack
        without_idle = self.engine.without_idle_weights(trained, allowed=allowed)
        state = self.engine.refit(without_idle)
        # A refit may memorise the noise of a small table. Then the weights that the cost held down predict
        # better, so they stay in the choice as training left them, without those that carried nothing.
        states = [trained, self.engine.state(*without_idle, refitted=False), state]
        if not self.engine.fits_least_squares(state.masks):
            state = self.prune_by_gradient(state, states)
        if self.engine.fits_least_squares(state.masks):
            self.prune_by_least_squares(state, states)
            if self.context.dataset.encoding is not None:
                self.prune_by_columns(states)
        if not self.old:
            states.append(self.engine.constant(trained))
        return states

    def prune_by_least_squares(self, state: State, states: list[State]) -> None:
        """Batches, then one at a time, each followed by an exact refit."""
        start, beyond = state.step.connections, 0
        while state.step.connections > 0:
            self.progress(0.9 * (1 - state.step.connections / start), f"{state.step.connections:,} connections left")
            k = state.step.connections
            batch = k - max(ONE_AT_A_TIME, math.ceil(SHRINK * k)) if k > ONE_AT_A_TIME else 1
            following = self.without_cheapest(state, batch, states) if batch > 1 else None
            if following is None:
                following = self.without_one(state, states, thorough=not beyond)
            if following is None:
                break
            state = following
            states.append(state)
            beyond = 0 if self.within_limits(state, self.reference(states)) else beyond + 1
            if self.old and beyond and (beyond >= BEYOND or state.step.train_loss > 0.5 * self.context.scale):
                break

    def prune_by_columns(self, states: list[State]) -> None:
        """Whole columns of a table: one at a time, as long as the losses stay within their limits without one.

        An irrelevant column can keep several connections, none of which can be removed alone: together they fit noise.
        Also tried are the single connections without which the loss hardly rises before any refit: where weights can
        compensate for one another, costs to second order rank these too high. What is left is pruned further.
        """
        while True:
            state, reference = self.sparsest(states)
            cuts = [self.engine.cut(state, some) for some in [*self.by_column(state), *self.idle_connections(state)]]
            found = [self.engine.refit(cut) for cut in cuts if masks_hold_anything(cut[1])]
            good = [following for following in found if self.within_limits(following, reference)]
            if not good:
                return
            following = min(good, key=lambda one: one.step.train_loss)
            states.append(following)
            self.prune_by_least_squares(following, states)

    def by_column(self, state: State) -> list[list[tuple[str, int, int]]]:
        """Of every column that the state reads, where there are several, the connections that leave it."""
        layer = self.context.wiring.input_layer
        [weights] = self.context.wiring.out_of(layer.name)
        found: dict[int, list[tuple[str, int, int]]] = {}
        for row, column in np.argwhere(state.masks[weights.parameter]).tolist():
            found.setdefault(int(layer.first_of_run[column]), []).append((weights.parameter, row, column))
        return list(found.values()) if len(found) > 1 else []

    def idle_connections(self, state: State) -> list[list[tuple[str, int, int]]]:
        """The connections whose loss alone, nothing refitted, raises the training loss by less than the tolerance."""
        effects = ablation_effects(self.context, state.values, state.masks)
        ranked = sorted((effect, connection) for connection, effect in effects.items())
        return [[connection] for effect, connection in ranked[:IDLE_TRIALS] if effect < self.slack]

    def without_cheapest(self, state: State, batch: int, states: list[State]) -> State | None:
        """The state without its `batch` cheapest connections, or half as many, …; None when it comes down to one."""
        reference = self.reference(states)
        lost = not self.within_limits(state, reference)  # then nothing is gained by going slowly
        order = np.argsort(removal_costs(self.engine.refitted(state), state.masks), kind="stable")
        kept = kept_weights(state.masks)
        while batch > 1:
            following = self.engine.refit(self.engine.cut(state, [kept[i] for i in order[:batch]]))
            if lost or self.within_limits(following, reference):
                return following
            batch //= 2
        return None

    def without_one(self, state: State, states: list[State], *, thorough: bool) -> State | None:
        """The best state with one connection fewer (and what then lies on no path)."""
        problem = self.engine.least_squares
        assert problem is not None
        limit = self.limits(state, self.reference(states))[0]
        # A removal that costs next to nothing is taken at once. Otherwise the cheapest of all is searched for, even if
        # one within the limit is found before: its cost is final, and another connection might be removed at no cost.
        easy = max(1.05 * state.step.train_loss, 0.05 * self.slack)
        costs = removal_costs(self.engine.refitted(state), state.masks)
        kept = kept_weights(state.masks)
        work = 20 * self.engine.least_squares_work(state.masks)
        trials = 4 + min(self.extra_trials, int(self.extra_work / work)) if thorough else 2
        best: tuple[float, Refitted, Masks] | None = None
        number = 0
        for number, index in enumerate(np.argsort(costs, kind="stable")[:trials]):
            values, masks = self.engine.cut(state, [kept[index]])
            if not masks_hold_anything(masks):
                continue
            found = refit_least_squares(problem, values, masks, abandon_above=20 * limit if thorough else None)
            if best is None or found.loss < best[0]:
                best = (found.loss, found, masks)
            if found.loss <= easy or (number >= 3 and best[0] <= 2 * easy):
                break
        self.extra_trials -= max(0, number - 3)
        self.extra_work -= max(0, number - 3) * work
        return None if best is None else self.engine.state(best[1].values, best[2], curvature=best[1].curvature)

    def prune_by_gradient(self, state: State, states: list[State]) -> State:
        """Batches ranked by |w| · std of what they carry, smaller after each failure, refitted by gradient."""
        batch_share, refits = 1 - SHRINK + 0.1, 0
        while refits < LARGE_REFITS and batch_share * state.step.connections >= 1 and batch_share > 0.01:
            self.progress(0.9 * refits / LARGE_REFITS, f"{state.step.connections:,} connections left")
            following = self.engine.refit(
                self.engine.keep_strongest(state, round((1 - batch_share) * state.step.connections))
            )
            refits += 1
            states.append(following)
            if self.within_limits(following, self.reference(states)):
                state = following
                batch_share = min(0.3, 1.5 * batch_share)
                if self.engine.fits_least_squares(state.masks):
                    break
            else:
                batch_share /= 2
        return state

    # --- limits -----------------------------------------------------------------------------------

    def reference(self, states: list[State]) -> State:
        """The reference of the limits: the state with the least validation loss."""
        return min(states, key=lambda s: s.step.validation_loss)

    def limits(self, state: State, reference: State) -> tuple[float, float]:
        """How high the training and the validation loss of a state may be.

        Both may rise by ε·Var(y). Beside it, what noise alone explains: the training loss by Mallows' 2σ²/N for every
        parameter given up, the validation loss by one standard error of the paired difference. On data without noise
        both vanish; on noisy tables they keep the search from calling an overfit a need.
        """
        examples = self.context.train.targets.size
        freed = max(0, unknowns(reference.masks) - unknowns(state.masks))
        noise = min(MOST_NOISE, 2 * freed / examples) * reference.step.train_loss
        difference = state.validation_losses - reference.validation_losses
        error = float(difference.std() / math.sqrt(difference.size))
        return (
            reference.step.train_loss + self.slack + noise,
            reference.step.validation_loss + self.slack + error,
        )

    def within_limits(self, state: State, reference: State) -> bool:
        """Whether neither of its losses is higher than it may be."""
        train, validation = self.limits(state, reference)
        return state.step.train_loss <= train and state.step.validation_loss <= validation

    def sparsest(self, states: list[State]) -> tuple[State, State]:
        """The sparsest state within its limits, and their reference; of two as sparse, the better fitted one."""
        reference = self.reference(states)
        good = [s for s in states if self.within_limits(s, reference)]
        return min(good, key=lambda s: (s.step.connections, s.step.train_loss)), reference

    def choose(
        self, states: list[State], cross_fit: Callable[[], Float[np.ndarray, " N"]] | None
    ) -> tuple[State, State, Gain | None]:
        """The state that is kept, the reference of its limits, and what it gains over a constant answer.

        The constant, the last of the states, is kept unless the sparsest of the others within its limits is clearly
        better. It is its own reference then: it needs no reason but that nothing is better.
        """
        if self.old:
            return *self.sparsest(states), None
        *others, constant = states
        chosen, reference = self.sparsest(others)
        gain = Gain.of(constant.validation_losses - chosen.validation_losses, "validation")
        in_doubt = gain.rows < ALONE or (gain.mean > 0 and not gain.clear)
        if in_doubt and cross_fit is not None:
            gain = Gain.of(cross_fit(), "cross-fitting")
        return (chosen, reference, gain) if gain.clear else (constant, constant, gain)
