"""How much memory this process and all below it take."""

from __future__ import annotations

import contextlib
from pathlib import Path

import psutil


def tree_bytes() -> int:
    """Bytes of this process and its descendants. On Linux shared pages count once, in shares; elsewhere in each."""
    total = 0
    me = psutil.Process()
    for process in [me, *me.children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied, OSError, ValueError):
            total += _proportional(process.pid) or process.memory_info().rss
    return total


def _proportional(pid: int) -> int | None:
    rollup = Path(f"/proc/{pid}/smaps_rollup")
    if not rollup.exists():
        return None
    for line in rollup.read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    return None
