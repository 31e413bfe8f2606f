"""When λ changes, when biases begin to pay, and when something is due: a table of steps made before the first one.

Step t is the update from the t-th weights to the next; "after step t" means after t updates.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

from bimt_engine.spec import TrainingSpec


@dataclass(frozen=True)
class Stage:
    """Steps first … end-1, over which λ and what pays do not change."""

    first: int
    end: int
    cost_strength: float
    bias_cost: bool


@dataclass(frozen=True)
class Due:
    """What is due after a step."""

    relocate: bool
    log: bool
    snapshot: bool
    checkpoint: bool


@dataclass(frozen=True)
class Schedule:
    """The stages of one training and the steps at which something is due."""

    steps: int
    stages: tuple[Stage, ...]
    relocate_every: int | None
    log_every: int
    snapshot_every: int | None
    checkpoint_every: int

    @classmethod
    def of(cls, training: TrainingSpec) -> Schedule:
        """The schedule of a spec whose method has been expanded."""
        steps = training.steps
        ends = [(step_at(phase.until, steps), phase.cost_strength) for phase in training.phases]
        bias_from = training.cost.bias_cost_from
        first_bias = steps if bias_from is None else step_at(bias_from, steps)
        stages, start = [], 0
        for end, strength in ends:
            cuts = [start, first_bias, end] if start < first_bias < end else [start, end]
            for first, last in pairwise(cuts):
                if first < last:
                    stages.append(Stage(first, last, strength, bias_from is not None and first >= first_bias))
            start = max(start, end)
        return cls(
            steps,
            tuple(stages),
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
        return min(stops)

    def due(self, step: int) -> Due:
        """What is due after this many steps. Logs and snapshots show the first and the last step as well."""
        edge = step in (0, self.steps)
        return Due(
            relocate=step > 0 and self.relocate_every is not None and step % self.relocate_every == 0,
            log=edge or step % self.log_every == 0,
            snapshot=self.snapshot_every is not None and (edge or step % self.snapshot_every == 0),
            checkpoint=step > 0 and (step == self.steps or step % self.checkpoint_every == 0),
        )


def step_at(fraction: float, steps: int) -> int:
    """The step at which this fraction of the training is over."""
    return math.floor(fraction * steps + 1e-9)  # 0.29 · 100 is 28.999… in binary, and means 29
