"""Stages and due steps, against the published schedules and against a walk over every step."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from bimt_engine.spec import CostSpec, Phase, PruningSpec, RelocationSpec, TrainingSpec
from bimt_engine.training.schedule import Schedule, Stage, step_at


def test_independence_has_the_published_stages() -> None:
    training = TrainingSpec(steps=20_000, cost=CostSpec(bias_cost_from=0.75))
    assert Schedule.of(training).stages == (
        Stage(0, 5_000, 1e-3, False, 2e-3),
        Stage(5_000, 15_000, 1e-2, False, 2e-3),
        Stage(15_000, 20_000, 1e-3, True, 2e-3),
    )


def test_a_bias_cost_that_starts_inside_a_phase_cuts_it() -> None:
    training = TrainingSpec(steps=100, phases=[Phase(until=1, cost_strength=2.0)], cost=CostSpec(bias_cost_from=0.5))
    assert Schedule.of(training).stages == (
        Stage(0, 50, 2.0, False, 2e-3),
        Stage(50, 100, 2.0, True, 2e-3),
    )


def test_a_fraction_means_what_it_says() -> None:
    assert step_at(0.29, 100) == 29
    assert step_at(0.25, 10_001) == 2_500


@given(
    steps=st.integers(1, 300),
    ends=st.lists(st.floats(0.001, 0.999), max_size=5, unique=True),
    bias_from=st.none() | st.floats(0, 1),
    log=st.integers(1, 100),
    relocate=st.none() | st.integers(1, 100),
    pruning=st.none() | st.builds(PruningSpec, connections=st.just(5), prune_every=st.integers(1, 100)),
)
def test_stops_miss_nothing(steps, ends, bias_from, log, relocate, pruning) -> None:
    phases = [Phase(until=end, cost_strength=number) for number, end in enumerate([*sorted(ends), 1.0])]
    training = TrainingSpec(
        steps=steps,
        phases=phases,
        cost=CostSpec(bias_cost_from=bias_from),
        log_every=log,
        relocation=RelocationSpec(relocate_every=relocate),
        pruning=pruning,
        snapshot_every=None,
    )
    schedule = Schedule.of(training)
    assert schedule.stages[0].first == 0
    assert schedule.stages[-1].end == steps
    for before, after in zip(schedule.stages, schedule.stages[1:], strict=False):
        assert before.end == after.first
    stops, step = set(), 0
    while step < steps:
        stage, stop = schedule.stage(step), schedule.next_stop(step)
        assert step < stop <= stage.end
        stops.add(stop)
        step = stop
    for step in range(1, steps + 1):
        due = schedule.due(step)
        if due.prune or due.log or due.relocate or due.checkpoint:
            assert step in stops
    if pruning is not None:
        assert any(share == 1.0 for step, share in schedule.prunings.items() if 1 <= step <= steps)
