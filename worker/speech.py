"""How a process with the engine talks to the worker that started it: JSON lines and files, and one word back."""

from __future__ import annotations

import ctypes
import json
import logging
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any


class Stopped(Exception):
    """The parent asked us to stop; what was to be kept is kept."""


class Voice:
    """Says things to the parent, one JSON object a line."""

    def __init__(self, descriptor: int) -> None:
        self._pipe = os.fdopen(descriptor, "w", encoding="utf-8", buffering=1)  # a line at a time
        self._lock = threading.Lock()

    def say(self, what: str, **fields: Any) -> None:
        line = json.dumps({"say": what, **fields}, allow_nan=True)
        with self._lock:
            self._pipe.write(line + "\n")


class Ears:
    """Listens to the parent on a thread of its own."""

    def __init__(self) -> None:
        self.stop = threading.Event()
        threading.Thread(target=self._listen, name="ears", daemon=True).start()

    def _listen(self) -> None:
        for line in sys.stdin:
            if line.strip() == "stop":
                self.stop.set()
        os._exit(3)  # end of file: the parent is gone, and nobody would read the rest


class LogLines(logging.Handler):
    """Passes the engine's log lines to the parent, who stores them with the job."""

    def __init__(self, voice: Voice) -> None:
        super().__init__(logging.INFO)
        self._voice = voice

    def emit(self, record: logging.LogRecord) -> None:
        self._voice.say("log", level=record.levelname.lower(), text=self.format(record))


def leave(folder: Path, name: str, content: bytes) -> str:
    """Write a file whole or not at all, and return its name."""
    unfinished = folder / f".{name}.unfinished"
    unfinished.write_bytes(content)
    unfinished.rename(folder / name)
    return name


def die_with_parent(parent: int) -> None:
    """Ask the kernel (Linux) to end this process with its parent; elsewhere the closed pipe tells us."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(1, int(signal.SIGKILL))  # PR_SET_PDEATHSIG
    if os.getppid() != parent:
        os._exit(3)
