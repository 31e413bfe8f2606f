"""What a training says, written into the store: gathered for a moment, files first, then one transaction."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from sqlalchemy.orm import Session

from store import progress, runs
from store.errors import LostLease
from store.leases import Claim
from worker.patience import Patience
from worker.workplace import Workplace

log = logging.getLogger("worker")
FLUSH_SECONDS = 1.0  # a curve that grows once a second looks alive
FLUSH_SHARE = 0.02  # of the job's age: long jobs are written down more rarely, in larger pieces
MAX_LINE = 4000  # characters of one log line that are kept


class Kept(NamedTuple):
    """A checkpoint in the store."""

    step: int
    sha256: str


@dataclass
class Heap:
    """What is not written down yet, in the order it was said."""

    started: list[str] = field(default_factory=list)
    rows: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    snapshots: list[tuple[str, int, str]] = field(default_factory=list)
    checkpoints: dict[str, tuple[int, str]] = field(default_factory=dict)  # only the newest of each run counts
    lines: list[dict[str, Any]] = field(default_factory=list)

    def __bool__(self) -> bool:
        return any((self.started, self.rows, self.snapshots, self.checkpoints, self.lines))


class Recorder:
    """Gathers and writes. While the store is away the heap grows, and nothing that was said is lost.

    folder       where the training process leaves its files; they are deleted once they are in the store.
    checkpoints  run → its newest checkpoint in the store.
    """

    def __init__(self, here: Workplace, claim: Claim, folder: Path, patience: Patience) -> None:
        self._here = here
        self._claim = claim
        self._folder = folder
        self.patience = patience
        self._heap = Heap()
        self._began = self._flushed_at = time.monotonic()
        self.checkpoints: dict[str, Kept] = {
            run.id: Kept(run.checkpoint_step or 0, run.checkpoint_sha256) for run in claim.runs if run.checkpoint_sha256
        }

    def start(self, run_id: str) -> None:
        """The run begins, or begins again at its checkpoint: what lies after that is forgotten at the next flush."""
        self._heap.started.append(run_id)
        self._heap.rows.pop(run_id, None)
        self._heap.snapshots = [kept for kept in self._heap.snapshots if kept[0] != run_id]

    def row(self, run_id: str, row: dict[str, Any]) -> None:
        self._heap.rows.setdefault(run_id, []).append(row)

    def snapshot(self, run_id: str, step: int, file: str) -> None:
        self._heap.snapshots.append((run_id, step, file))

    def checkpoint(self, run_ids: Sequence[str], step: int, file: str) -> None:
        """Remember it, one for all these runs, in place of older ones that are not written down yet.

        All get it in one transaction: runs that train side by side go on from one step.
        """
        before = {old for _, old in self._heap.checkpoints.values()}
        self._heap.checkpoints |= dict.fromkeys(run_ids, (step, file))
        for old in before - {new for _, new in self._heap.checkpoints.values()}:
            (self._folder / old).unlink(missing_ok=True)

    def log(self, level: str, text: str, run_id: str | None = None) -> None:
        """A line of the job's log, which people read."""
        line = {"at": self._here.now().isoformat(timespec="milliseconds"), "level": level, "text": text[:MAX_LINE]}
        self._heap.lines.append(line | ({"run_id": run_id} if run_id else {}))
        log.log(logging.getLevelNamesMapping().get(level.upper(), logging.INFO), "%s", text)

    def flush_now_and_then(self) -> None:
        """Write the heap down when it is time to; where the store is away, try again a little later."""
        age = time.monotonic() - self._began
        due = self._flushed_at + max(FLUSH_SECONDS, FLUSH_SHARE * age)
        if self._heap and time.monotonic() >= due:
            try:
                self._write()
            except LostLease:
                raise
            except Exception as error:
                if not Patience.is_about_the_store(error):
                    raise
                self._flushed_at = time.monotonic()
                log.warning("the store is away (%s); training goes on", type(error).__name__)

    def flush(self) -> None:
        """Write the heap down now, however long the store takes to come back."""
        if self._heap:
            self.patience.until_done(self._write)

    def patiently(self, deed: Callable[[Session], object]) -> None:
        """After the heap, one transaction more, however long the store takes to come back."""
        self.flush()

        def write() -> None:
            with self._here.database.write() as session:
                deed(session)

        self.patience.until_done(write)

    def _write(self) -> None:
        heap, here, claim, now = self._heap, self._here, self._claim, self._here.now()
        put = {file: here.files.put_path(self._folder / file) for file in dict.fromkeys(self._files(heap))}
        with here.database.write() as session:
            for run_id in heap.started:
                runs.start(session, claim, run_id, now)
            for run_id, rows in heap.rows.items():
                progress.append_history(session, claim, run_id, rows)
            for run_id, step, file in heap.snapshots:
                progress.append_snapshot(session, claim, run_id, step, put[file], now=now)
            for run_id, (step, file) in heap.checkpoints.items():
                progress.save_checkpoint(session, claim, run_id, step, put[file], now=now)
            progress.append_log(session, claim, heap.lines, now=now)
        self.checkpoints |= {run: Kept(step, put[file].sha256) for run, (step, file) in heap.checkpoints.items()}
        for file in put:
            (self._folder / file).unlink(missing_ok=True)
        self._heap = Heap()
        self._flushed_at = time.monotonic()

    @staticmethod
    def _files(heap: Heap) -> list[str]:
        return [file for _, _, file in heap.snapshots] + [file for _, file in heap.checkpoints.values()]
