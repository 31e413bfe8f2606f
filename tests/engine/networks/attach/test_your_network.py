"""The programs in docs/your-network.md run as they stand there, and say what the page promises."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[4]


def program(heading: str) -> str:
    """The code below a heading of the page, as one program."""
    page = (ROOT / "docs/your-network.md").read_text(encoding="utf-8")
    [section] = [part for part in re.split(r"^## ", page, flags=re.MULTILINE) if part.startswith(heading)]
    return "\n".join(re.findall(r"```python\n(.*?)```", section, flags=re.DOTALL))


def printed(heading: str, folder: Path) -> str:
    """What the program prints."""
    ran = subprocess.run(
        [sys.executable, "-c", program(heading)],
        capture_output=True, text=True, cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def test_the_classifier_is_attached_trained_relocated_and_examined(tmp_path: Path) -> None:
    said = printed("A convolutional classifier", tmp_path)
    assert "conv1" in said
    assert len(re.findall(r"relocation saved [0-9]", said)) == 8
    left, before = map(int, re.search(r"(\d+) of (\d+) connections are left", said).groups())
    assert 0 < left < before / 3
    assert "test accuracy 1.0" in said
    for file in ("network.svg", "prune-curve.svg", "effects.svg", "network.graphml"):
        assert (tmp_path / file).stat().st_size > 1000


def test_the_gpt_learns_while_its_neurons_move(tmp_path: Path) -> None:
    said = printed("A small GPT on text", tmp_path)
    losses = [float(one) for one in re.findall(r"loss ([0-9.]+), relocation saved [0-9.]+", said)]
    assert len(losses) == 3
    assert losses[-1] < 3.5  # nats; ln 256 = 5.5 at the start
    assert "block.qkv" in said
    left, before = map(int, re.search(r"(\d+) of (\d+) connections are left", said).groups())
    assert 0 < left < before / 2
