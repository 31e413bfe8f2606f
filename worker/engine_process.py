"""The parent's hold on a process that has the engine: start it, hear it, stop it, and never leave it behind."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any


class EngineDied(Exception):
    """The process ended without saying that it was done."""


class EngineProcess:
    """`COMMAND FOLDER`, spawned, with a reader thread so that it never waits for us.

    called    how its death is told.
    hear      the next thing it said, or None after the wait.
    silence   seconds since it last said anything.
    """

    def __init__(self, folder: Path, *, command: Sequence[str], called: str = "training process") -> None:
        self._called = called
        # What the engine prints, and the last words of a crash, go to a file that the log can quote.
        self._stderr = folder / "stderr"
        environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
        with self._stderr.open("wb") as stderr:
            self._popen = subprocess.Popen(
                [*command, str(folder)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env=environment,
                cwd=Path(__file__).parent.parent,
            )
        self._heard: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._ended = False
        self.heard_at = time.monotonic()
        self._reader = threading.Thread(target=self._read, name="engine-reader", daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._popen.stdout is not None
        for line in self._popen.stdout:
            if line.endswith(b"\n"):  # a line that was cut by a kill is no line
                self.heard_at = time.monotonic()
                self._heard.put(json.loads(line))
        self._heard.put(None)

    def hear(self, wait_seconds: float) -> dict[str, Any] | None:
        """The next thing that was said, or None where nothing was for so long. Raises EngineDied after the last."""
        if self._ended:
            raise EngineDied(self._last_words())
        try:
            message = self._heard.get(timeout=wait_seconds)
        except queue.Empty:
            return None
        if message is None:
            self._ended = True
            raise EngineDied(self._last_words())
        return message

    def ask_to_stop(self) -> None:
        """Ask for a checkpoint and the end."""
        self.tell("stop")

    def tell(self, line: str) -> None:
        """Write a line to it; where it has ended, hear will say so."""
        assert self._popen.stdin is not None
        with contextlib.suppress(OSError, ValueError):
            self._popen.stdin.write(f"{line}\n".encode())
            self._popen.stdin.flush()

    def end(self) -> None:
        """End it now, if it has not ended, and let go of it."""
        if self._popen.poll() is None:
            self._popen.kill()
        self._popen.wait()
        self._reader.join(timeout=5)
        for pipe in (self._popen.stdin, self._popen.stdout):
            with contextlib.suppress(OSError, ValueError):
                if pipe is not None:
                    pipe.close()

    @property
    def alive(self) -> bool:
        return self._popen.poll() is None

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def silence(self) -> float:
        return time.monotonic() - self.heard_at

    def _last_words(self) -> str:
        code = self._popen.wait()
        how = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
        words = self._stderr.read_text(errors="replace").strip().splitlines()[-1:] if self._stderr.exists() else []
        return f"The {self._called} {how}." + (f" Its last words: {words[0][:300]}" if words else "")

    def __enter__(self) -> EngineProcess:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.end()
