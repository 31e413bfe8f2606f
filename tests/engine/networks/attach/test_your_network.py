"""The program in docs/your-network.md runs as it stands there, and says what the page promises."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[4]


def test_the_classifier_is_attached_trained_relocated_and_examined(tmp_path: Path) -> None:
    page = (ROOT / "docs/your-network.md").read_text(encoding="utf-8")
    program = "\n".join(re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL))
    ran = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True, text=True, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert "conv1" in ran.stdout
    assert len(re.findall(r"relocation saved [0-9]", ran.stdout)) == 8
    left, before = map(int, re.search(r"(\d+) of (\d+) connections are left", ran.stdout).groups())
    assert 0 < left < before / 3
    assert "test accuracy 1.0" in ran.stdout
    for file in ("network.svg", "prune-curve.svg", "effects.svg", "network.graphml"):
        assert (tmp_path / file).stat().st_size > 1000
