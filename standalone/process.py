"""One process that is started, watched and stopped by us, and never outlives us."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

START = Path(__file__).with_name("parent_death_signal.py")


class Process:
    """A named command in a process group of its own, its output in a log file.

    Start it from the main thread: the kernel ties a child to the thread that forked it.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        log: Path,
        environment: Mapping[str, str] | None = None,
        grace_seconds: float = 10.0,  # between the polite signal and the hard one
        pass_fds: Sequence[int] = (),
        folder: Path | None = None,
    ) -> None:
        self.name = name
        self.command = [str(word) for word in command]
        self.log = log
        self.environment = dict(environment if environment is not None else os.environ)
        self.grace_seconds = grace_seconds
        self.pass_fds = tuple(pass_fds)
        self.folder = folder
        self.started_at = 0.0
        self._asked = False
        self._popen: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the command; it is in a session of its own, so Ctrl-C reaches only this process, which passes it on."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self.started_at = time.monotonic()
        self._asked = False
        with self.log.open("ab") as log:
            self._popen = subprocess.Popen(
                [sys.executable, "-I", "-S", str(START), str(os.getpid()), *self.command],
                env=self.environment,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=self.pass_fds,
            )

    @property
    def pid(self) -> int:
        """The process id; raises RuntimeError before the start."""
        if self._popen is None:
            raise RuntimeError(f"{self.name} was never started.")
        return self._popen.pid

    @property
    def alive(self) -> bool:
        """Whether it runs. One that ended is reaped by `kill` alone, so its number is not given to another process."""
        if self._popen is None or self._popen.returncode is not None:
            return False
        if not hasattr(os, "waitid"):  # macOS
            return self._popen.poll() is None
        return os.waitid(os.P_PID, self._popen.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None

    def send(self, number: int) -> None:
        """Signal the process itself; silent where it is gone."""
        if self.alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def ask_to_stop(self) -> None:
        """SIGTERM, once: to some programs a second one means haste."""
        if not self._asked:
            self._asked = True
            self.send(signal.SIGTERM)

    def stop(self) -> int | None:
        """Stop it politely, then hard, then sweep its group; returns the exit code."""
        self.ask_to_stop()
        deadline = time.monotonic() + self.grace_seconds
        while self.alive and time.monotonic() < deadline:
            time.sleep(0.02)
        return self.kill()

    def kill(self) -> int | None:
        """End the process and everything it left in its group, now; returns the exit code, None before the start."""
        if self._popen is None:
            return None
        if self._popen.returncode is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._popen.pid, signal.SIGKILL)
            self._popen.wait()
        return self._popen.returncode

    def last_lines(self, count: int = 12) -> str:
        """The end of its log, for people who must find out why it stopped."""
        if not self.log.exists():
            return ""
        with self.log.open("rb") as log:
            log.seek(0, os.SEEK_END)
            log.seek(max(0, log.tell() - 8192))
            return "\n".join(log.read().decode(errors="replace").splitlines()[-count:])
