"""What `make gpu` does on a device, done on the CPU: the same way through the same code, in the small."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bimt_engine.training.backends import MAX_REPLICAS
from measurements import gpu
from measurements.gpu_relocation import measure_relocation

PROCESSES = ("tests", "service")  # which start others, and take as long as all the rest


def dry_run(folder: Path, *parts: str) -> tuple[int, dict]:
    """The exit code and the report."""
    only = [word for part in parts for word in ("--only", part)]
    code = gpu.main(["--device", "cpu", "--small", "--folder", str(folder), *only])
    return code, json.loads((folder / "gpu.json").read_text())


@pytest.mark.processes
def test_a_dry_run_on_the_cpu_measures_every_part_but_these(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, report = dry_run(tmp_path, *(name for name in gpu.PARTS if name not in PROCESSES))
    assert code == 0, capsys.readouterr().out
    parts = report["parts"]
    assert {part["state"] for part in parts.values()} == {"measured"}
    assert all("failed" not in row for part in parts.values() for row in part["rows"].values())
    relocated = parts["relocation"]["rows"]["8-6 ×3"]
    assert {"greedy_over_cpu_ms", "greedy_on_device_ms", "optimal_over_cpu_ms"} <= set(relocated)
    by_replicas = parts["replicas"]["rows"]["independence"]["by_replicas"]
    assert list(by_replicas) == ["1", "4"]
    assert all(row["ratio"]["lowest"] > 0 and row["device_stepper"] == "batched" for row in by_replicas.values())
    assert "by_replicas" not in parts["replicas"]["rows"]["two_memories"]
    assert all(row["difference"] < 1e-12 for row in parts["recipes"]["rows"].values())
    assert all(row["cpu"]["output_change"] < 1e-10 for row in parts["attached"]["rows"].values())


@pytest.mark.slow
@pytest.mark.processes
def test_a_dry_run_finds_the_tests_and_sends_a_job_through_the_service(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, report = dry_run(tmp_path, *PROCESSES)
    assert code == 0, capsys.readouterr().out
    assert report["parts"]["tests"]["rows"]["tests"]["tests"] > 20
    row = report["parts"]["service"]["rows"]["job"]
    assert (row["runs"], row["devices"], row["steppers"]) == (2, ["cpu"], ["batched"])


@pytest.mark.parametrize(("widths", "replicas"), [((7, 5), 1), ((20, 20), 4), ((3, 9, 4), 2)])
def test_a_pass_on_the_device_ends_where_the_one_over_the_cpu_does(widths: tuple[int, ...], replicas: int) -> None:
    row = measure_relocation(widths, replicas, device="cpu", seconds=0.0)
    assert row["cost_difference"] < 1e-6  # θ has 24 bits; the decisions are the same


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_without_a_device_one_sentence_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu.main(["--folder", str(tmp_path)]) == 0
    assert "no CUDA device" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


def test_all_parts_together_take_less_than_eight_minutes() -> None:
    assert sum(part.seconds for part in gpu.PARTS.values()) + gpu.STOP_SECONDS <= 480
    assert max(gpu.FULL.replicas) <= MAX_REPLICAS


@pytest.fixture
def report(tmp_path: Path) -> gpu.Setting:
    """A setting whose report has been begun."""
    path = tmp_path / "gpu.json"
    path.write_text(json.dumps({"parts": {}}))
    return gpu.Setting("cpu", gpu.SMALL, path)


def measured(setting: gpu.Setting, *rows: tuple[str, Callable[[], gpu.Row]], seconds: float = 60.0) -> dict:
    """A part of these rows, as the report on the disk has it."""
    part = gpu.PartOfReport(seconds, lambda setting: iter(rows))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(gpu.PARTS, "tests", part)
        gpu.measure_part("tests", setting)
    return json.loads(setting.report.read_text())["parts"]["tests"]


def test_a_row_that_fails_says_why_and_the_others_go_on(report: gpu.Setting) -> None:
    def fails() -> gpu.Row:
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 80 GiB.")

    part = measured(report, ("one", fails), ("other", lambda: {"said": "fine"}))
    assert part["rows"]["one"]["failed"] == "OutOfMemoryError: CUDA out of memory."
    assert part["rows"]["other"]["said"] == "fine"


def test_rows_for_which_no_time_is_left_are_named(report: gpu.Setting) -> None:
    part = measured(report, ("one", lambda: {"said": "fine"}), seconds=0.0)
    assert "left_out" in part["rows"]["one"]


def test_a_part_that_takes_too_long_is_ended_and_says_so(report: gpu.Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(gpu.PARTS, "recipes", replace(gpu.PARTS["recipes"], seconds=0.0))
    part = gpu.run_part("recipes", report)
    assert part["state"] == "cut"
    assert "its time" in part["why"]
