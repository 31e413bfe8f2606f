"""The benchmark's own promises."""

from __future__ import annotations

import json

import pytest

from measurements import bench
from measurements.bench import measure, no_compiler


def test_without_a_compiler_the_batched_stepper_is_measured() -> None:
    with no_compiler():
        told = measure("independence", steps=50)
    assert told.stepper == "batched"
    # The figures are those of a busy machine; that they belong together is not.
    assert told.steps == 50
    assert told.step_ratio == pytest.approx(told.oracle_step_ms / told.step_ms)
    assert told.optimal_ratio == pytest.approx(told.oracle_relocate_ms / told.optimal_ms)
    assert told.job_ratio == pytest.approx(told.oracle_seconds_cpu / told.seconds_cpu)


def test_a_task_whose_data_are_not_here_is_skipped_with_a_sentence(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("BIMT_MNIST", str(tmp_path / "no such folder"))
    report = tmp_path / "bench.json"
    code = bench.main(["--only", "mnist", "--only", "independence", "--steps", "50", "--report", str(report)])
    assert code == 0
    assert "skipped: " in capsys.readouterr().out
    assert list(json.loads(report.read_text())) == ["independence"]
