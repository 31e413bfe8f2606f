"""One step of pruning: connections are cut, what is kept is refitted, and the loss is measured."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace

import numpy as np

from bimt_engine.analysis.context import AnalysisContext
from bimt_engine.analysis.evaluator import Array, Masks, Values
from bimt_engine.analysis.pruning.refit import (
    RIDGE,
    GradientProblem,
    LeastSquaresProblem,
    Refitted,
    refit_by_gradient,
    refit_compact,
    refit_least_squares,
)
from bimt_engine.analysis.reachability import by_column, count_modules

LEAST_SQUARES_WORK = 2e8  # multiplications in one JᵀJ; more is left to gradients
CONSTANT_STEPS = 60  # evaluations for a few biases, with nothing else that moves the outputs
REFIT_WORK = 5e7  # multiplications in one pass of a network that is no chain; beyond, it is refitted on fewer examples,
PER_UNKNOWN = 4  # but on so many predicted numbers for each parameter kept
LEAST_SQUARES_STEPS = 30  # trial steps of Levenberg-Marquardt in one refit, at most; it has converged long before


@dataclass(frozen=True)
class PruneStep:
    """One point of the curve. `refitted` is False where the kept weights are as training left them."""

    connections: int
    train_loss: float
    validation_loss: float
    modules: int
    faithfulness: float
    refitted: bool = True

    def document(self) -> dict[str, float | int | bool]:
        """The numbers by name, for JSON."""
        return {**self.__dict__}


@dataclass(frozen=True)
class State:
    """A network on the way: its step, and everything needed to go on from it."""

    step: PruneStep
    values: Values
    masks: Masks
    validation_losses: Array
    curvature: Array | None = None


class PruningEngine:
    """A network with its refits: makes states, and makes sparser states from states.

    refit_evaluations   of the loss in each refit, at most. Least squares takes no more than LEAST_SQUARES_STEPS.
    """

    def __init__(self, context: AnalysisContext, *, refit_evaluations: int) -> None:
        self.context, self.refit_evaluations = context, refit_evaluations
        self.trained_outputs = context.outputs(context.values(), context.validation)
        self.ridge = RIDGE * context.scale
        if context.loss == "cross_entropy":
            self.ridge = max(self.ridge, confidence_ridge(context))
        self.least_squares: LeastSquaresProblem | None = None
        self.by_gradient: GradientProblem | None = None
        if (plain := context.plain) is not None:
            self.least_squares = LeastSquaresProblem(
                plain.inputs_in_slots(context.train.inputs),
                plain.targets_in_slots(context.train.targets),
                plain.activation,
                context.loss,
                self.ridge,
                None if context.weights is None else context.weights[plain.output_order],
                context.train.weights,
            )

    def trained(self) -> State:
        """The network as trained, every connection kept."""
        values = self.context.values()
        return self.state(values, self.context.evaluator.full_masks(values), refitted=False)

    def constant(self, trained: State) -> State:
        """The network without connections: its biases alone are left, refitted to the best constant answer."""
        masks = dict(trained.masks)
        for weights in self.context.wiring.weight_layers:
            masks[weights.parameter] = np.zeros_like(masks[weights.parameter])
        values, masks = self.without_dead_ends(trained.values, masks)
        ridge = RIDGE * self.context.scale  # no confidence to be held down: a constant has a best fit
        if self.least_squares is not None:
            found = refit_least_squares(replace(self.least_squares, ridge=ridge), values, masks)
        else:
            problem = copy.copy(self.gradient_problem())
            problem.ridge = ridge
            found = refit_by_gradient(problem, values, masks, steps=CONSTANT_STEPS)
        return self.state(found.values, masks)

    def state(self, values: Values, masks: Masks, *, refitted: bool = True, curvature: Array | None = None) -> State:
        """These values under these masks, measured."""
        context = self.context
        outputs = context.outputs(values, context.validation)
        validation = context.losses(outputs, context.validation)
        train = context.losses(context.outputs(values, context.train), context.train)
        weights = [w.parameter for w in context.wiring.weight_layers]
        step = PruneStep(
            connections=sum(int(masks[name].sum()) for name in weights),
            train_loss=float(train.mean()),
            validation_loss=float(validation.mean()),
            modules=count_modules(context.wiring, masks),
            faithfulness=context.faithfulness(outputs, self.trained_outputs),
            refitted=refitted,
        )
        return State(step, values, masks, validation, curvature)

    def refitted(self, state: State) -> Refitted:
        """The state as a refit with curvature, computed again where it came without one."""
        if state.curvature is None:
            assert self.least_squares is not None
            return refit_least_squares(self.least_squares, state.values, state.masks)
        return Refitted(state.values, state.step.train_loss, 0, state.curvature)

    def refit(self, cut: tuple[Values, Masks]) -> State:
        """What was cut, refitted by the method that fits its size."""
        values, masks = cut
        if self.least_squares is not None and self.fits_least_squares(masks):
            steps = min(self.refit_evaluations, LEAST_SQUARES_STEPS)
            found = refit_least_squares(self.least_squares, values, masks, steps=steps)
            return self.state(found.values, masks, curvature=found.curvature)
        problem = self.gradient_problem()
        if self.context.wiring.chain is None:
            problem = problem.every(self.thinning(masks))
        found = refit_compact(problem, values, masks, steps=self.refit_evaluations)
        return self.state(found.values, masks)

    def thinning(self, masks: Masks) -> int:
        """Every how many-th training example a refit under these masks uses. States are measured on all of them."""
        context = self.context
        examples, predicted = len(context.train.inputs), context.train.targets.size
        enough = PER_UNKNOWN * unknowns(masks) * examples / predicted
        affordable = REFIT_WORK / context.general.work
        return max(1, int(examples / max(enough, affordable)))

    def gradient_problem(self) -> GradientProblem:
        """The examples of refits by gradient, made when they are first needed."""
        if self.by_gradient is None:
            s = self.context
            self.by_gradient = GradientProblem(
                s.general.with_values(s.values()),
                s.train.inputs,
                s.train.targets,
                loss=s.loss,
                ridge=self.ridge,
                time_steps=s.general.time_steps,
                weights=s.weights,
                counted=s.train.weights,
            )
        return self.by_gradient

    def least_squares_work(self, masks: Masks) -> float:
        """Multiplications in one JᵀJ under these masks."""
        return len(self.context.train.inputs) * self.context.dataset.targets * float(unknowns(masks)) ** 2

    def fits_least_squares(self, masks: Masks) -> bool:
        """Whether Levenberg-Marquardt is the method under these masks."""
        return self.least_squares is not None and self.least_squares_work(masks) <= LEAST_SQUARES_WORK

    # --- cutting ----------------------------------------------------------------------------------

    def cut(self, state: State, connections: list[tuple[str, int, int]]) -> tuple[Values, Masks]:
        """The state without these connections and what then lies on no path."""
        masks = dict(state.masks)
        for name in {name for name, _, _ in connections}:
            masks[name] = masks[name].copy()
        for name, row, column in connections:
            masks[name][row, column] = False
        return self.without_dead_ends(state.values, masks)

    def keep_strongest(
        self, state: State, count: int, strength: dict[str, Array] | None = None
    ) -> tuple[Values, Masks]:
        """The state with its `count` strongest connections by |w| · std of the source.

        strength   of the state, where it is known already.
        """
        strength = strength or self.strengths(state)
        ranked = np.sort(np.concatenate([s[s > 0] for s in strength.values()]))[::-1]
        least = ranked[min(count, ranked.size) - 1] if ranked.size and count > 0 else np.inf
        masks = dict(state.masks)
        for name, value in strength.items():
            masks[name] = state.masks[name] & (value >= least)
        return self.without_dead_ends(state.values, masks)

    def without_dead_ends(self, values: Values, masks: Masks) -> tuple[Values, Masks]:
        """The same without neurons off every path from an input to an output."""
        return self.context.evaluator.without_dead_ends(values, masks)

    def strengths(self, state: State) -> dict[str, Array]:
        """|w| · std of the source's activation over the training examples; 0 where the mask has taken it."""
        statistics = self.context.evaluator.activation_statistics(state.values, self.context.train.inputs)
        found = {}
        for weights in self.context.wiring.weight_layers:
            weight = state.values[weights.parameter]
            strength = np.abs(weight) * by_column(statistics[weights.source][1], weight.shape[1])
            found[weights.parameter] = np.where(state.masks[weights.parameter], strength, 0.0)
        return found

    def without_idle_weights(self, state: State, *, allowed: float) -> tuple[Values, Masks]:
        """As few of the strongest weights as keep the training loss within what is allowed, with no refit at all."""
        best, strength = (state.values, state.masks), self.strengths(state)
        k = state.step.connections
        while k > 1:
            k = int(0.9 * k)
            cut = self.keep_strongest(state, k, strength)
            outputs = self.context.outputs(cut[0], self.context.train)
            if float(self.context.losses(outputs, self.context.train).mean()) > allowed:
                break
            best = cut
        return best


def confidence_ridge(context: AnalysisContext) -> float:
    """The ridge under which the trained network would neither grow nor shrink as a whole.

    Cross entropy on classes that can be separated has no best fit: it falls for ever as the weights grow, and the
    network becomes sure of everything. So the refit keeps the confidence that training arrived at: with
    ρ = -d CE(s·θ)/ds / |θ|² at s = 1, the pull of the loss on the scale of θ and the pull of the ridge cancel.
    """
    values, buffers = context.values(), context.wiring.buffers
    step = 1e-3

    def loss_at(scale: float) -> float:
        scaled = {name: value if name in buffers else scale * value for name, value in values.items()}
        return float(context.losses(context.outputs(scaled, context.train), context.train).mean())

    pull = (loss_at(1 - step) - loss_at(1 + step)) / (2 * step)
    return max(0.0, pull) / sum(float((value**2).sum()) for name, value in values.items() if name not in buffers)


def masks_hold_anything(masks: Masks) -> bool:
    """Whether any connection is kept."""
    return any(mask.any() for name, mask in masks.items() if mask.ndim == 2)


def unknowns(masks: Masks) -> int:
    """How many parameters the masks keep."""
    return sum(int(mask.sum()) for mask in masks.values())


def random_masks(
    engine: PruningEngine, like: State, count: int, *, generator: np.random.Generator
) -> tuple[float, ...]:
    """Training losses of networks with as many connections in each weight layer, kept at random and refitted."""
    trained = engine.context.values()
    losses = []
    for _ in range(count):
        masks: Masks = {name: np.full(v.shape, True) for name, v in trained.items() if name in like.masks}
        for weights in engine.context.wiring.weight_layers:
            kept = np.zeros(masks[weights.parameter].size, bool)
            kept[generator.permutation(kept.size)[: int(like.masks[weights.parameter].sum())]] = True
            masks[weights.parameter] = kept.reshape(masks[weights.parameter].shape)
        losses.append(engine.refit(engine.without_dead_ends(trained, masks)).step.train_loss)
    return tuple(losses)
