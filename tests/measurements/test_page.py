"""The measurement of the page of a run: every figure is there, and pictures of every page, light and dark."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from measurements import page


@pytest.mark.slow
@pytest.mark.processes
@pytest.mark.timeout(600)
def test_a_tiny_measurement_has_every_figure_and_picture(tmp_path: Path) -> None:
    images = tmp_path / "images"
    asked = ["--recipes", "independence", "--folder", str(tmp_path), "--images", str(images)]
    assert page.main(asked) == 0
    figures = json.loads((tmp_path / "page.json").read_text())["runs"]["independence"]
    assert set(figures) == {
        "interactive_seconds",
        "silencing_milliseconds",
        "threshold_frames_per_second",
        "static_kilobytes",
        "document_kilobytes",
    }
    assert min(figures.values()) > 0
    shown = {path.stem for path in images.glob("*.png")}
    assert shown == {f"{name}-{scheme}" for name in ("run-independence", *page.PAGES) for scheme in ("light", "dark")}
