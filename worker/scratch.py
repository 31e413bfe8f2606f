"""Folders for a job's files on their way, gone with the job; those of workers that were killed are swept."""

from __future__ import annotations

import contextlib
import fcntl
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def scratch_folder(spool: Path, job_id: str) -> Iterator[Path]:
    """An empty folder of our own. As long as we live, we hold a lock on it."""
    spool.mkdir(parents=True, exist_ok=True)
    sweep(spool)
    folder = Path(tempfile.mkdtemp(prefix=f"{job_id}-", dir=spool))
    try:
        with (folder / "lock.new").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            (folder / "lock.new").rename(folder / "lock")  # whoever finds a lock finds it held, or its holder gone
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def sweep(spool: Path) -> list[str]:
    """Delete folders whose worker is gone; their names."""
    swept = []
    for lock_file in spool.glob("job_*/lock"):
        with contextlib.suppress(OSError), lock_file.open() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(lock_file.parent, ignore_errors=True)
            swept.append(lock_file.parent.name)
    return swept
