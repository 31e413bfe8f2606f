"""The worker's handle on an engine process: start it, send commands, read messages, end it.

`TrainingProcesses` keeps one training process waiting with everything imported, since the imports take longer than a
small job.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import queue
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Generic, TypeVar

import psutil
from pydantic import TypeAdapter, ValidationError

from worker.protocol import (
    OPERATION_MESSAGES,
    TRAINING_MESSAGES,
    Message,
    OperationMessage,
    TrainingMessage,
    engine_environment,
    temporary_folder,
)

log = logging.getLogger("worker")
Received = TypeVar("Received")
MAKING_SECONDS = 600.0  # a folder of the spool is made within milliseconds; one that is still without a lock was left
ROOM_BYTES = 4 << 20  # with so much room on a disk that was full, work begins again
MAX_JOBS = 50  # of one training process; so whatever an engine library leaks stays small
MAX_RESIDENT_BYTES = 3 << 29  # 1.5 GiB: a process that has grown beyond is replaced after its job


class EngineDied(Exception):
    """The process ended, or had to be ended, in the middle of its work. The message is a sentence for users."""


class NeedsTooMuchMemory(Exception):
    """The process holds more memory than a job may have; trying again would end the same way."""

    def __init__(self, held: int, limit: int) -> None:
        super().__init__(
            f"It held {held / 2**30:.2f} GiB of memory; one job may have {limit / 2**30:.2f} GiB on this worker "
            "(BIMT_JOB_MEMORY_BYTES): make the network, the data or `batch_size` smaller, or submit fewer seeds and "
            "cost strengths at once."
        )


class EngineProcess(Generic[Received]):
    """`COMMAND FOLDER PARENT`, spawned, with a reader thread so that the process never waits for the worker.

    messages   validates what it sends.
    noun       what it is called in sentences.
    """

    def __init__(
        self, folder: Path, *, command: Sequence[str], messages: TypeAdapter[Received], noun: str = "training process"
    ) -> None:
        self._noun, self._messages = noun, messages
        # What the engine prints, and the traceback of a crash, go to a file that the log can quote.
        self._stderr = folder / "stderr"
        temporary = temporary_folder(folder)
        temporary.mkdir(exist_ok=True)
        with self._stderr.open("ab") as stderr:
            self._popen = subprocess.Popen(
                [*command, str(folder), str(os.getpid())],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env=engine_environment(os.environ, temporary),
                cwd=Path(__file__).parent.parent,
            )
        self._received: queue.SimpleQueue[Received | EngineDied | None] = queue.SimpleQueue()
        self._end: EngineDied | None = None
        self._received_at = time.monotonic()
        self._reader = threading.Thread(target=self._read, name="engine-reader", daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._popen.stdout is not None
        for line in self._popen.stdout:
            if not line.endswith(b"\n"):  # cut by a kill
                break
            self._received_at = time.monotonic()
            try:
                self._received.put(self._messages.validate_json(line))
            except ValidationError as error:
                log.error("the %s sent a message that cannot be read: %s", self._noun, error)
                self._received.put(EngineDied(f"The {self._noun} sent a message that this worker cannot read."))
                self._popen.kill()
                return
        self._received.put(None)

    def next_message(self, wait_seconds: float) -> Received | None:
        """The next message, or None where none came in this time. Raises EngineDied after the last."""
        if self._end is not None:
            raise self._end
        try:
            message = self._received.get(timeout=wait_seconds)
        except queue.Empty:
            return None
        if message is None:
            message = EngineDied(self._how_it_ended())
        if isinstance(message, EngineDied):
            self._end = message
            raise message
        return message

    def send(self, message: Message) -> None:
        """Write a command to it. Where it has ended, next_message says so."""
        assert self._popen.stdin is not None
        self._received_at = time.monotonic()
        with contextlib.suppress(OSError, ValueError):
            self._popen.stdin.write(message.line().encode())
            self._popen.stdin.flush()

    def end(self) -> None:
        """Kill it, if it has not ended, and release its pipes."""
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
        """Whether it has not ended."""
        return self._popen.poll() is None

    def check_memory(self, limit: int) -> None:
        """Raise NeedsTooMuchMemory where the process holds more than these bytes. The caller ends the process."""
        with contextlib.suppress(psutil.NoSuchProcess):  # its end is a message of its own
            held = psutil.Process(self._popen.pid).memory_info().rss
            if held > limit:
                raise NeedsTooMuchMemory(held, limit)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._popen.pid

    @property
    def idle_seconds(self) -> float:
        """Seconds since the last message of either side."""
        return time.monotonic() - self._received_at

    def _how_it_ended(self) -> str:
        code = self._popen.wait()
        how = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
        if code == -signal.SIGKILL:
            how += ", as a machine does that runs out of memory"
        if code == 0:
            how = "ended without an error, but before it had finished its work"
        lines = self._stderr.read_text(errors="replace").strip().splitlines()[-1:] if self._stderr.exists() else []
        return f"The {self._noun} {how}." + (f" The last line of its output: {lines[0][:300]}" if lines else "")

    def __enter__(self) -> EngineProcess[Received]:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.end()


def training_process(folder: Path, command: Sequence[str]) -> EngineProcess[TrainingMessage]:
    """A new training process; it waits for work."""
    return EngineProcess(folder, command=command, messages=TRAINING_MESSAGES)


def operation_process(folder: Path, command: Sequence[str]) -> EngineProcess[OperationMessage]:
    """A new operation process; it waits for work."""
    return EngineProcess(folder, command=command, messages=OPERATION_MESSAGES, noun="operation process")


@contextlib.contextmanager
def scratch_folder(spool: Path, job_id: str) -> Iterator[Path]:
    """An empty folder for a job's files, deleted afterwards. A lock on it is held meanwhile."""
    spool.mkdir(parents=True, exist_ok=True)
    sweep(spool)
    folder = Path(tempfile.mkdtemp(prefix=f"{job_id}-", dir=spool))
    try:
        with (folder / "lock.new").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            (folder / "lock.new").rename(folder / "lock")  # so a file named `lock` is held, or its holder has ended
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def need_room(folder: Path) -> None:
    """Raises OSError where there is no room for a file of ROOM_BYTES in this folder."""
    with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
        left = ROOM_BYTES
        while left:
            left -= file.write(bytes(min(left, 1 << 20)))


def sweep(spool: Path) -> list[str]:
    """Delete folders whose worker has ended; their names. One without a lock may be in the making, if it is young."""
    swept = []
    for folder in spool.glob("job_*"):
        with contextlib.suppress(OSError):
            if not (folder / "lock").exists() and time.time() - folder.stat().st_mtime > MAKING_SECONDS:
                shutil.rmtree(folder, ignore_errors=True)
                swept.append(folder.name)
    for lock_file in spool.glob("job_*/lock"):
        with contextlib.suppress(OSError), lock_file.open() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(lock_file.parent, ignore_errors=True)
            swept.append(lock_file.parent.name)
    return swept


class TrainingProcesses:
    """Training processes for the jobs of one worker, one at a time.

    keep_waiting   keep a process for the next job, and start it before there is one. Otherwise each job has its own.

    A process serves one job after another. It is replaced after a job that failed, stopped, crashed or was cancelled,
    after MAX_JOBS jobs, and when it holds more than MAX_RESIDENT_BYTES after a job. It ends with the thread that
    started it (see end_with_parent), so jobs run on threads that live as long as the worker.
    """

    def __init__(self, *, spool: Path, command: Sequence[str], keep_waiting: bool) -> None:
        self.spool, self.command, self.keep_waiting = spool, command, keep_waiting
        self._process: EngineProcess[TrainingMessage] | None = None
        self._held = contextlib.ExitStack()
        self._jobs = 0
        self._kept = False

    def start_waiting(self) -> None:
        """Start the process that waits for the next job, where one is wanted and there is none. Does not block."""
        if self.keep_waiting and (self._process is None or not self._process.alive):
            try:
                self._start()
            except OSError as error:  # a full disk, for instance: the next job starts its own, and waits for that
                log.warning("no training process can be started to wait for jobs: %s", error)

    def _start(self) -> EngineProcess[TrainingMessage]:
        self.close()
        folder = self._held.enter_context(scratch_folder(self.spool, "job_training"))
        self._process, self._jobs = training_process(folder, self.command), 0
        return self._process

    @contextlib.contextmanager
    def borrow(self) -> Iterator[EngineProcess[TrainingMessage]]:
        """A process for one job (or what is left of one). It is ended unless `keep` is called before the block ends."""
        process = self._process if self._process is not None and self._process.alive else self._start()
        self._jobs += 1
        self._kept = False
        try:
            yield process
        finally:
            if not self._kept:
                self.close()

    def keep(self, resident_bytes: int) -> None:
        """The borrowed process did all that it was asked; it may serve the next job."""
        self._kept = self.keep_waiting and self._jobs < MAX_JOBS and resident_bytes <= MAX_RESIDENT_BYTES

    def close(self) -> None:
        """End the process, and delete its folder."""
        if self._process is not None:
            self._process.end()
            self._process = None
        self._held.close()
