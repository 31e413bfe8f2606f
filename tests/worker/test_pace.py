"""How long it will take is told from the pace of the present attempt, and from nothing else."""

from __future__ import annotations

import pytest

from worker.pace import SHORTEST_LOOK, Pace


class Clock:
    """A time that stands still until it is moved."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def pace(clock: Clock) -> Pace:
    return Pace(clock)


def test_there_is_none_before_something_was_done(clock, pace):
    assert pace.seconds_left() is None
    pace.see(0.3)
    clock.now += 60
    assert pace.seconds_left() is None


def test_there_is_none_after_a_moment(clock, pace):
    pace.see(0.0)
    clock.now += SHORTEST_LOOK / 2
    pace.see(0.5)
    assert pace.seconds_left() is None


def test_it_is_that_of_what_was_seen(clock, pace):
    """An attempt that goes on at 12 % and does 8 % in 20 seconds takes 200 for what is left, whatever was before."""
    pace.see(0.12)
    clock.now += 20
    pace.see(0.20)
    assert pace.seconds_left() == pytest.approx(200)


def test_while_nothing_moves_it_takes_longer(clock, pace):
    pace.see(0.0)
    clock.now += 10
    pace.see(0.5)
    assert pace.seconds_left() == pytest.approx(10)
    clock.now += 10
    assert pace.seconds_left() == pytest.approx(20)


def test_work_that_is_done_again_is_seen_anew(clock, pace):
    pace.see(0.0)
    clock.now += 10
    pace.see(0.5)
    clock.now += 100  # the training process died, and another was started
    pace.see(0.4)
    assert pace.seconds_left() is None
    clock.now += 6
    pace.see(0.7)
    assert pace.seconds_left() == pytest.approx(6)


def test_at_the_end_nothing_is_left(clock, pace):
    pace.see(0.5)
    clock.now += 5
    pace.see(1.0)
    assert pace.seconds_left() == 0
