"""Progress: what takes long has a large share of it. Eta: from the speed of the present attempt alone."""

from __future__ import annotations

import pytest

from worker.batch import EVIDENCE_SECONDS, EVIDENCE_SHARE, MIN_TRAINING_SECONDS, RunProgress
from worker.lease import MIN_OBSERVED_SECONDS, Eta


def test_a_short_training_has_a_small_share():
    """0.3 s of training, then 5.7 s of evidence and pictures."""
    progress = RunProgress(evidence_seconds=5.7)
    assert progress.training(1.0, 0.3) == pytest.approx(0.05)
    assert progress.evidence(0.0) == pytest.approx(0.05)
    assert progress.evidence(0.5) < progress.evidence(1.0) == progress.figures(0.0) < progress.figures(0.5)
    assert progress.figures(1.0) == 1.0


def test_a_long_training_has_the_largest_share():
    progress = RunProgress(evidence_seconds=10.0)
    assert progress.training(0.01, 0.9) == pytest.approx(0.009)
    assert progress.training(1.0, 90.0) == pytest.approx(0.9)


@pytest.mark.parametrize(
    ("training", "evidence"), [(1.0, EVIDENCE_SECONDS), (1000.0, EVIDENCE_SHARE * 1000)], ids=["short", "long"]
)
def test_without_a_run_before_it_the_evidence_is_guessed(training, evidence):
    assert RunProgress().training(1.0, training) == pytest.approx(training / (training + evidence))


def test_it_stays_at_0_until_the_speed_of_the_training_is_known():
    progress = RunProgress(evidence_seconds=1.0)
    assert progress.training(0.0, 0.0) == 0
    assert progress.training(0.4, MIN_TRAINING_SECONDS / 2) == 0
    assert progress.training(0.5, MIN_TRAINING_SECONDS) > 0


def test_it_never_falls_when_the_speed_changes():
    """The first tenth takes a second; then the processor is shared, and each further tenth takes ten."""
    progress = RunProgress(evidence_seconds=10.0)
    seen = [progress.training(tenths / 10, 1.0 + 10.0 * (tenths - 1)) for tenths in range(1, 11)]
    seen += [progress.evidence(0.0), progress.evidence(1.0), progress.figures(1.0)]
    assert seen == sorted(seen)
    assert seen[0] == pytest.approx(0.05)


def test_a_resumed_training_has_the_share_that_it_had():
    before, after = RunProgress(evidence_seconds=10.0), RunProgress(evidence_seconds=10.0)
    before.training(0.1, 2.0)
    assert after.training(0.5, 10.0) == pytest.approx(before.training(0.5, 10.0))


def test_runs_side_by_side_share_the_time_of_their_training():
    """Ten runs train in 20 s together; the evidence of each takes 2 s: half of the progress of each is its training."""
    progress = RunProgress(evidence_seconds=2.0, replicas=10)
    assert progress.training(0.1, 2.0) == pytest.approx(0.05)
    assert progress.training(1.0, 20.0) == pytest.approx(0.5)


# --- eta -----------------------------------------------------------------------------------------------


class Clock:
    """A time that stands still until it is moved."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def eta(clock: Clock) -> Eta:
    return Eta(clock)


def test_there_is_none_before_something_was_done(clock, eta):
    assert eta.seconds_left() is None
    eta.observe(0.3)
    clock.now += 60
    assert eta.seconds_left() is None


def test_there_is_none_after_a_short_time(clock, eta):
    eta.observe(0.0)
    clock.now += MIN_OBSERVED_SECONDS / 2
    eta.observe(0.5)
    assert eta.seconds_left() is None


def test_it_follows_the_speed_that_was_observed(clock, eta):
    """An attempt that goes on at 12 % and does 8 % in 20 seconds takes 200 for what is left, whatever was before."""
    eta.observe(0.12)
    clock.now += 20
    eta.observe(0.20)
    assert eta.seconds_left() == pytest.approx(200)


def test_while_nothing_is_done_it_grows(clock, eta):
    eta.observe(0.0)
    clock.now += 10
    eta.observe(0.5)
    assert eta.seconds_left() == pytest.approx(10)
    clock.now += 10
    assert eta.seconds_left() == pytest.approx(20)


def test_after_a_step_back_observation_begins_again(clock, eta):
    eta.observe(0.0)
    clock.now += 10
    eta.observe(0.5)
    clock.now += 100  # the training process died, and another was started
    eta.observe(0.4)
    assert eta.seconds_left() is None
    clock.now += 6
    eta.observe(0.7)
    assert eta.seconds_left() == pytest.approx(6)


def test_at_the_end_nothing_is_left(clock, eta):
    eta.observe(0.5)
    clock.now += 5
    eta.observe(1.0)
    assert eta.seconds_left() == 0
