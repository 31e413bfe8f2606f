"""The load report: what falls short is said, and a small house is really pressed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from standalone import load


def report(**changed: Any) -> dict[str, Any]:
    """A report in which every target is met, but for what is changed."""
    fine = {"per_second": 2000.0, "p95_ms": 10.0, "refused": {}}
    loads = {name: dict(fine) for name in load.TARGETS}
    return {"loads": loads, "lost": 0, "doubled": 0, "streams": {"asked": 5, "heard": 5}} | changed


def test_nothing_falls_short_of_a_good_report() -> None:
    assert load.shortfalls(report()) == []


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"lost": 1}, "1 jobs lost"),
        ({"doubled": 2}, "2 doubled"),
        ({"streams": {"asked": 5, "heard": 4}}, "4 of 5 event streams"),
    ],
)
def test_a_lost_job_or_a_deaf_stream_falls_short(changed: dict[str, Any], said: str) -> None:
    assert [said in sentence for sentence in load.shortfalls(report(**changed))] == [True]


@pytest.mark.parametrize("field", [{"per_second": 1.0}, {"p95_ms": 1000.0}, {"refused": {503: 1}}])
def test_a_slow_or_refused_request_falls_short(field: dict[str, Any]) -> None:
    bad = report()
    bad["loads"]["jobs created"] |= field
    assert len(load.shortfalls(bad)) == 1


@pytest.mark.slow
def test_a_small_house_is_pressed_and_loses_nothing(tmp_path: Path) -> None:
    words = ["--seconds", "1", "--clients", "4", "--api", "2", "--streams", "8", "--runs", "300"]
    load.main([*words, "--folder", str(tmp_path)])
    found = json.loads((tmp_path / "load.json").read_text())
    assert (found["lost"], found["doubled"], found["streams"]["heard"]) == (0, 0, 8)
    assert all(one["answers"] > 0 and not one["refused"] for one in found["loads"].values())
