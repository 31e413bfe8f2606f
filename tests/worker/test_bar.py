"""The bar of a run: what takes long has much of it."""

from __future__ import annotations

import pytest

from worker.bar import EVIDENCE_SECONDS, EVIDENCE_SHARE, SHORTEST_LOOK, RunBar


def test_a_training_of_a_moment_has_little_of_it():
    """0.3 s of training, then 5.7 s of evidence and pictures."""
    bar = RunBar(evidence_seconds=5.7)
    assert bar.training(1.0, 0.3) == pytest.approx(0.05)
    assert bar.evidence(0.0) == pytest.approx(0.05)
    assert bar.evidence(0.5) < bar.evidence(1.0) == bar.pictures(0.0) < bar.pictures(0.5)
    assert bar.pictures(1.0) == 1.0


def test_a_long_training_has_most_of_it():
    bar = RunBar(evidence_seconds=10.0)
    assert bar.training(0.01, 0.9) == pytest.approx(0.009)
    assert bar.training(1.0, 90.0) == pytest.approx(0.9)


@pytest.mark.parametrize(
    ("training", "evidence"), [(1.0, EVIDENCE_SECONDS), (1000.0, EVIDENCE_SHARE * 1000)], ids=["short", "long"]
)
def test_without_a_run_before_it_the_evidence_is_guessed(training, evidence):
    assert RunBar().training(1.0, training) == pytest.approx(training / (training + evidence))


def test_it_waits_until_the_training_has_a_pace():
    bar = RunBar(evidence_seconds=1.0)
    assert bar.training(0.0, 0.0) == 0
    assert bar.training(0.4, SHORTEST_LOOK / 2) == 0
    assert bar.training(0.5, SHORTEST_LOOK) > 0


def test_it_never_goes_back_when_the_pace_changes():
    """The first tenth takes a second; then somebody else takes the processor, and each further tenth takes ten."""
    bar = RunBar(evidence_seconds=10.0)
    seen = [bar.training(tenths / 10, 1.0 + 10.0 * (tenths - 1)) for tenths in range(1, 11)]
    seen += [bar.evidence(0.0), bar.evidence(1.0), bar.pictures(1.0)]
    assert seen == sorted(seen)
    assert seen[0] == pytest.approx(0.05)


def test_a_training_that_goes_on_has_the_place_on_the_bar_that_it_had():
    before, after = RunBar(evidence_seconds=10.0), RunBar(evidence_seconds=10.0)
    before.training(0.1, 2.0)
    assert after.training(0.5, 10.0) == pytest.approx(before.training(0.5, 10.0))


def test_runs_side_by_side_share_the_time_of_their_training():
    """Ten runs train in 20 s together; the evidence of each takes 2 s: half of the bar of each is its training."""
    bar = RunBar(evidence_seconds=2.0, abreast=10)
    assert bar.training(0.1, 2.0) == pytest.approx(0.05)
    assert bar.training(1.0, 20.0) == pytest.approx(0.5)
