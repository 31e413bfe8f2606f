"""What the page of a job says about all its runs."""

from __future__ import annotations

from api.pages.jobs import Spread, metric_heading, summaries
from store.tables import Run


def ended(seed: int, loss: float, *, strength: float | None = None, state: str = "succeeded") -> Run:
    return Run(
        seed=seed,
        cost_strength=strength,
        state=state,
        test_metric=loss,
        test_metric_name="test_prediction_loss",
        connections=18 + seed,
        modules=2,
        modularity=None,
        training_seconds=60.0 * (seed + 1),
        evidence_seconds=3.0 - seed,
    )


def test_a_median_stands_beside_the_least_and_the_most():
    [summary] = summaries([ended(seed, loss) for seed, loss in enumerate((0.04, 0.01, 0.5))])
    assert summary.runs == 3
    assert summary.columns["test_metric"] == Spread("0.04", "0.01", "0.5")
    assert summary.columns["connections"] == Spread("19", "18", "20")
    assert summary.columns["training_seconds"] == Spread("2 min 0 s", "1 min 0 s", "3 min 0 s")
    assert summary.columns["evidence_seconds"] == Spread("2.0 s", "1.0 s", "3.0 s")
    assert "modularity" not in summary.columns


def test_strengths_are_summed_up_apart_and_only_where_two_runs_have_succeeded():
    found = [
        ended(0, 0.1, strength=0.001),
        ended(1, 0.3, strength=0.001),
        ended(0, 0.2, strength=0.01),
        ended(1, 0.4, strength=0.01, state="failed"),
    ]
    assert [(each.cost_strength, each.runs) for each in summaries(found)] == [(0.001, 2)]


def test_a_loss_that_is_no_number_is_left_out():
    [summary] = summaries([ended(0, float("nan")), ended(1, 0.3)])
    assert summary.columns["test_metric"] == Spread("0.3", "0.3", "0.3")


def test_the_metric_is_called_by_its_name():
    assert metric_heading([ended(0, 0.1)]) == "Test loss"
    assert metric_heading([]) == "Test metric"
