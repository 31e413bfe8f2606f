"""The measurement of a small job: every figure is there, and nothing of it depends on how fast this machine is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from measurements import job


@pytest.mark.slow
@pytest.mark.processes
@pytest.mark.timeout(600)
def test_a_tiny_measurement_has_every_figure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert job.main(["--jobs", "1", "--seeds", "2", "--folder", str(tmp_path)]) == 0
    found = json.loads((tmp_path / "job.json").read_text())
    assert set(found["one_seed"]["median"]) == {"seconds", "cpu_seconds"}
    assert len(found["one_seed"]["jobs"]) == 1
    assert found["many_seeds"]["seeds"] == 2
    assert found["many_seeds"]["cpu_seconds"] > 0
    assert set(found["start_seconds"]) == {"first", "second"}
    assert "from submitted to published" in capsys.readouterr().out
