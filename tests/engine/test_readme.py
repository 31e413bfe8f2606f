"""The README's example of the library runs as it stands there, and says what the README promises."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_example_of_the_library_runs_and_names_both_modules(tmp_path: Path) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    examples = re.findall(r"```python\n(.*?)```", readme, flags=re.DOTALL)
    (example,) = [each for each in examples if "bimt_engine" in each]
    ran = subprocess.run(
        [sys.executable, "-c", example],
        capture_output=True, text=True, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True,
    )  # fmt: skip
    first, second = ran.stdout.splitlines()
    assert first.startswith("module A reads x1 and x3, decides y1, nothing else")
    assert second.startswith("module B reads x2 and x4, decides y2, nothing else")
    assert (tmp_path / "network.svg").stat().st_size > 1000
