"""The report on the queue: what falls short is said, and a small one is really measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from measurements import queue


def report(**changed: Any) -> dict[str, Any]:
    """A report in which every target is met, but for what is changed."""
    claims = {"many": {"waiting": 100_000}, "ratio": 1.1}
    through = {
        "lost": 0,
        "doubled": 0,
        "states": {"succeeded": 9},
        "overhead_ms": {"median": 60.0},
        "waits": {"worst": 1.5},
    }
    return {"claims": claims | changed.pop("claims", {}), "jobs": through | changed}


def test_nothing_falls_short_of_a_good_report() -> None:
    assert queue.shortfalls(report()) == []
    assert queue.shortfalls(report(waits={})) == []


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"lost": 1}, "1 jobs lost"),
        ({"doubled": 2}, "2 doubled"),
        ({"states": {"succeeded": 8, "failed": 1}}, "not all succeeded"),
        ({"overhead_ms": {"median": 140.0}}, "costs 140 ms"),
        ({"waits": {"worst": 3.0}}, "waited for 3.0"),
        ({"claims": {"ratio": 1.7}}, "slow claims 1.70 times"),
    ],
)
def test_what_falls_short_is_said(changed: dict[str, Any], sentence: str) -> None:
    assert [sentence in found for found in queue.shortfalls(report(**changed))] == [True]


@pytest.mark.slow
@pytest.mark.processes
@pytest.mark.timeout(600)
def test_a_small_queue_is_measured_and_nothing_is_lost_or_doubled(tmp_path: Path) -> None:
    queue.main(["--jobs", "10", "--waiting", "400", "--folder", str(tmp_path)])
    found = json.loads((tmp_path / "queue.json").read_text())
    assert (found["jobs"]["lost"], found["jobs"]["doubled"]) == (0, 0)
    assert set(found["jobs"]["states"]) == {"succeeded"}
    assert found["jobs"]["waits"]["median"] > 0
    assert found["claims"]["many"]["waiting"] == 400
