"""When λ changes, when biases begin to cost, and when something is due: a table of steps made before the first one.

Step t is the update from the t-th weights to the next; "after step t" means after t updates.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

from bimt_engine.spec import PruningSpec, TrainingSpec


@dataclass(frozen=True)
class Stage:
    """Steps first … end-1, over which λ, the cost of biases and the learning rate do not change."""

    first: int
    end: int
    cost_strength: float
    bias_cost: bool
    learning_rate: float


@dataclass(frozen=True)
class Due:
    """What is due after a step."""

    prune: bool
    relocate: bool
    log: bool
    snapshot: bool
    checkpoint: bool

    @property
    def anything(self) -> bool:
        """Whether anything is due at all."""
        return self.prune or self.relocate or self.log or self.snapshot or self.checkpoint


@dataclass(frozen=True)
class Schedule:
    """The stages of one training and the steps at which something is due.

    prunings   step -> what share of the way to the number of connections that was asked for is then over.
    """

    steps: int
    stages: tuple[Stage, ...]
    prunings: Mapping[int, float]
    relocate_every: int | None
    log_every: int
    snapshot_every: int | None
    checkpoint_every: int

    @classmethod
    def of(cls, training: TrainingSpec) -> Schedule:
        """The schedule of a spec whose method has been expanded."""
        steps = training.steps
        ends = [(step_at(phase.until, steps), phase) for phase in training.phases]
        bias_from = training.cost.bias_cost_from
        first_bias = steps if bias_from is None else step_at(bias_from, steps)
        stages, start = [], 0
        for end, phase in ends:
            rate = phase.learning_rate or training.optimiser.learning_rate
            cuts = [start, first_bias, end] if start < first_bias < end else [start, end]
            for first, last in pairwise(cuts):
                if first < last:
                    bias_costs = bias_from is not None and first >= first_bias
                    stages.append(Stage(first, last, phase.cost_strength, bias_costs, rate))
            start = max(start, end)
        if not stages:  # no step is taken
            stages = [Stage(0, 0, training.phases[-1].cost_strength, False, training.optimiser.learning_rate)]
        return cls(
            steps,
            tuple(stages),
            {} if training.pruning is None else _prunings(training.pruning, steps),
            training.relocation.relocate_every,
            training.log_every,
            training.snapshot_every,
            training.checkpoint_every,
        )

    def stage(self, step: int) -> Stage:
        """The stage of this step; after the last step, the last stage."""
        for stage in self.stages:
            if step < stage.end:
                return stage
        return self.stages[-1]

    def next_stop(self, step: int) -> int:
        """The first step after this one at which something is due or the stage ends."""
        stops = [self.steps, self.stage(step).end]
        for every in (self.relocate_every, self.log_every, self.snapshot_every, self.checkpoint_every):
            if every is not None:
                stops.append((step // every + 1) * every)
        stops += [stop for stop in self.prunings if stop > step]
        return min(stops)

    def due(self, step: int) -> Due:
        """What is due after this many steps. Logs and snapshots show the first and the last step as well."""
        edge = step in (0, self.steps)
        return Due(
            prune=step in self.prunings,
            relocate=step > 0 and self.relocate_every is not None and step % self.relocate_every == 0,
            log=edge or step % self.log_every == 0,
            snapshot=self.snapshot_every is not None and (edge or step % self.snapshot_every == 0),
            checkpoint=step > 0 and (step == self.steps or step % self.checkpoint_every == 0),
        )


def _prunings(pruning: PruningSpec, steps: int) -> dict[int, float]:
    begin, end = step_at(pruning.begin, steps), max(1, step_at(pruning.end, steps))
    way = range(begin + pruning.prune_every, end, pruning.prune_every)
    return {step: (step - begin) / (end - begin) for step in way} | {end: 1.0}


def step_at(fraction: float, steps: int) -> int:
    """The step at which this fraction of the training is over."""
    return math.floor(fraction * steps + 1e-9)  # 0.29 · 100 is 28.999… in binary, and means 29
