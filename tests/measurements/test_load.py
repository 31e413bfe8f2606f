"""The load report: what falls short is said, and a small service is really pressed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from measurements import load


def report(**changed: Any) -> dict[str, Any]:
    """A report in which every target is met, but for what is changed."""
    fine = {"per_second": 320.0, "p95_ms": 10.0, "refused": {}, "refused_without_retry_after": 0}
    names = ("a team's load", "more than it bears", "50 of many runs")
    loads = {name: dict(fine) for name in names}
    return {"loads": loads, "lost": 0, "doubled": 0, "streams": {"asked": 5, "heard": 5}} | changed


def test_nothing_falls_short_of_a_good_report() -> None:
    assert load.shortfalls(report()) == []


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"lost": 1}, "1 jobs lost"),
        ({"doubled": 2}, "2 doubled"),
        ({"streams": {"asked": 5, "heard": 4}}, "4 of 5 event streams"),
    ],
)
def test_a_lost_job_or_a_stream_without_events_falls_short(changed: dict[str, Any], sentence: str) -> None:
    assert [sentence in found for found in load.shortfalls(report(**changed))] == [True]


@pytest.mark.parametrize("field", [{"p95_ms": 1000.0}, {"refused": {503: 1}}])
def test_a_slow_or_refused_request_of_a_team_falls_short(field: dict[str, Any]) -> None:
    bad = report()
    bad["loads"]["a team's load"] |= field
    assert len(load.shortfalls(bad)) == 1


def test_more_than_it_bears_may_be_refused_but_with_retry_after_and_without_a_queue() -> None:
    busy = report()
    busy["loads"]["more than it bears"] |= {"refused": {503: 900}}
    assert load.shortfalls(busy) == []
    busy["loads"]["more than it bears"] |= {"refused": {503: 900, 500: 1}}
    assert len(load.shortfalls(busy)) == 1
    busy["loads"]["more than it bears"] |= {"refused": {}, "p95_ms": 9000.0, "refused_without_retry_after": 3}
    assert len(load.shortfalls(busy)) == 2


def test_waiting_counts_from_the_time_that_a_request_was_due() -> None:
    answers = [load.Answer(due=float(n), came=n + 0.5, status=200, retry_after=False) for n in range(20)]
    found = load.summary(answers)
    assert found["median_ms"] == found["p95_ms"] == 500.0
    assert found["answers"] == 20
    assert found["refused"] == {}


@pytest.mark.slow
def test_a_small_service_is_pressed_and_loses_nothing(tmp_path: Path) -> None:
    load.main(["--seconds", "1", "--clients", "8", "--streams", "8", "--runs", "300", "--folder", str(tmp_path)])
    found = json.loads((tmp_path / "load.json").read_text())
    assert (found["lost"], found["doubled"], found["streams"]["heard"]) == (0, 0, 8)
    assert all(one["answers"] > 0 for one in found["loads"].values())
