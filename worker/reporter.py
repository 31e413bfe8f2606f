"""What the training process tells of its runs: whose turn it is, how far they are, which cannot be done and why."""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from bimt_engine.errors import BimtError
from worker.run import Run, ids
from worker.speech import Ears, Stopped, Voice, leave

log = logging.getLogger("worker.child")
PROGRESS_SECONDS = 0.5  # a bar that moves twice a second looks alive


class Reporter:
    """Says what becomes of runs, leaves their files, and hears whether to stop.

    evidence_seconds   what evidence and pictures took of the run before; None where there was none.
    """

    def __init__(self, folder: Path, voice: Voice, ears: Ears) -> None:
        self.folder = folder
        self.voice = voice
        self.ears = ears
        self.evidence_seconds: float | None = None
        self._progress_said_at = 0.0
        self._doing: tuple[object, ...] = ()

    def leave(self, name: str, content: bytes) -> str:
        """Write a file whole or not at all, and return its name."""
        return leave(self.folder, name, content)

    def turn_to(self, runs: Sequence[Run]) -> None:
        """Say which runs are worked on from now: what goes wrong until the next word goes wrong in them."""
        self.voice.say("at", runs=ids(runs))

    def progress(self, runs: Sequence[Run], fraction: float, note: str) -> None:
        """Say how far each of these runs is: now and then, and whenever something else is being done."""
        now, doing = time.monotonic(), (note.partition(":")[0], *ids(runs))
        if now - self._progress_said_at >= PROGRESS_SECONDS or doing != self._doing:
            self._progress_said_at, self._doing = now, doing
            self.voice.say("progress", runs=ids(runs), fraction=round(fraction, 4), note=note)

    def fail(self, runs: Sequence[Run], sentence: str) -> None:
        """These runs have ended without a result."""
        for run in runs:
            run.left = False
        if runs:
            self.voice.say("failed", runs=ids(runs), sentence=sentence)

    def stop_if_asked(self) -> None:
        """Raises Stopped."""
        if self.ears.stop.is_set():
            raise Stopped

    @contextmanager
    def ending_only(self, runs: Sequence[Run]) -> Iterator[None]:
        """What goes wrong inside ends these runs with a sentence, those that are left, and no others."""
        try:
            yield
        except Stopped:
            raise
        except Exception as error:
            left = [run for run in runs if run.left]
            self.fail(left, _why_not(error, len(left)))


def _why_not(error: Exception, runs: int) -> str:
    """What people are told of an error: the engine's sentence, what to do where memory is short, or a fault of ours."""
    if isinstance(error, BimtError):
        return str(error)
    log.error("%s", traceback.format_exc())
    if is_out_of_memory(error):
        if runs > 1:
            return (
                f"Memory did not suffice to train these {runs} runs side by side: submit fewer seeds and cost "
                "strengths in one job, or make the network, the data or `batch_size` smaller."
            )
        return "Memory did not suffice for this run: make the network, the data or `batch_size` smaller."
    those = f"these {runs} runs" if runs > 1 else "this run"
    return f"A fault of ours ended {those} ({type(error).__name__}: {error}); the job's log says where."


def is_out_of_memory(error: Exception) -> bool:
    """Python's own word for it, torch's for a device, and torch's for the CPU, which is known by its text alone."""
    said = isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)
    return said or isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
