"""Messages between a worker and its engine processes (training, operations), both ends.

A message is one JSON object a line: a frozen pydantic model, distinguished by `type` and validated by the reader. The
worker writes to the process's standard input and reads the pipe that the process got as its standard output. Anything
large is a file in the job's folder, and the message holds its name.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import logging
import os
import queue
import signal
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter
from setproctitle import setproctitle

# What an engine process may know of the worker's environment. Everything else (database, broker, file store, keys,
# tokens) stays with the worker: code that reads uploaded data needs none of it.
PASSED_VARIABLES = frozenset(
    ["BIMT_KERNEL_CACHE", "BIMT_MNIST", "CC", "CXX", "HOME", "LANG", "LD_LIBRARY_PATH", "PATH", "TZ", "VIRTUAL_ENV"]
)
KILLED_BEFORE_THE_WORKER = "500"  # oom_score_adj: where memory is short, the job ends and the service does not
PASSED_PREFIXES = ("CUDA_", "LC_", "MPL", "NVIDIA_", "PYTHON", "TORCH", "XDG_CACHE")


class Stopped(Exception):
    """The worker asked this process to stop; the newest checkpoint has been written."""


class Message(BaseModel):
    """A message of either direction. NaN and infinities are written as JavaScript's words for them."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")

    def line(self) -> str:
        """The message as one line."""
        return self.model_dump_json() + "\n"


# --- worker → engine process ---------------------------------------------------------------------------


class Work(Message):
    """Do what FOLDER/request.json says: a TrainingRequest, or an operation's request."""

    type: Literal["work"] = "work"
    folder: Path


class Stop(Message):
    """Write a checkpoint and stop the job."""

    type: Literal["stop"] = "stop"


Command: TypeAlias = Work | Stop
COMMANDS: TypeAdapter[Command] = TypeAdapter(Annotated[Command, Field(discriminator="type")])


class RunRequest(Message):
    """One run of a job.

    left              it has not ended; those that have are listed because they trained in the same batch.
    checkpoint        a file in the folder to resume from, and the step at which it was written.
    """

    id: str
    seed: int
    spec: dict[str, Any]
    left: bool = True
    checkpoint: str | None = None
    checkpoint_step: int | None = None


class TrainingRequest(Message):
    """A job for a training process: FOLDER/request.json.

    content   the uploaded data file, with the SHA-256 that it must have; None where the data are generated.
    network   the same of an uploaded network.
    """

    job: str
    runs: list[RunRequest]
    content: Path | None = None
    content_sha256: str | None = None
    network: Path | None = None
    network_sha256: str | None = None


# --- training process → worker -------------------------------------------------------------------------


class Ready(Message):
    """Everything is imported: the process waits for work."""

    type: Literal["ready"] = "ready"


class LogLine(Message):
    """A log line of the engine."""

    type: Literal["log"] = "log"
    level: str
    text: str


class ActiveRuns(Message):
    """These runs are worked on from now on: an error until the next such message is an error in them."""

    type: Literal["active_runs"] = "active_runs"
    runs: list[str]


class TrainingStarted(Message):
    """These runs train from now on, side by side with `replicas` in all, from `step`."""

    type: Literal["training_started"] = "training_started"
    runs: list[str]
    stepper: str
    replicas: int
    step: int


class HistoryRow(Message):
    """One row of a run's learning curve."""

    type: Literal["history_row"] = "history_row"
    run: str
    row: dict[str, Any]


class SnapshotWritten(Message):
    """A frame for the film of a run."""

    type: Literal["snapshot_written"] = "snapshot_written"
    run: str
    step: int
    file: str


class CheckpointWritten(Message):
    """One checkpoint for all these runs."""

    type: Literal["checkpoint_written"] = "checkpoint_written"
    runs: list[str]
    step: int
    file: str


class RunsProgress(Message):
    """How far each of these runs is, from 0 to 1."""

    type: Literal["runs_progress"] = "runs_progress"
    runs: list[str]
    fraction: float
    note: str


class ResultWritten(Message):
    """The run has ended well; `file` holds its evidence and the names of its files."""

    type: Literal["result_written"] = "result_written"
    run: str
    file: str


class RunsFailed(Message):
    """These runs have ended without a result."""

    type: Literal["runs_failed"] = "runs_failed"
    runs: list[str]
    sentence: str


class DataDamaged(Message):
    """The bytes of the data file do not have the SHA-256 that they should have: no run of the job can be trained."""

    type: Literal["data_damaged"] = "data_damaged"
    expected_sha256: str
    found_sha256: str


class DiskFull(Message):
    """The disk of this machine had no room for what the work needed. It is done again once there is room."""

    type: Literal["disk_full"] = "disk_full"


class JobDone(Message):
    """Every run of the job has been reported. `resident_bytes`: the memory that the process holds now."""

    type: Literal["job_done"] = "job_done"
    resident_bytes: int = 0


class JobStopped(Message):
    """The job was stopped as asked; it can be resumed from its newest checkpoint."""

    type: Literal["job_stopped"] = "job_stopped"


TrainingMessage: TypeAlias = (
    Ready
    | LogLine
    | ActiveRuns
    | TrainingStarted
    | HistoryRow
    | SnapshotWritten
    | CheckpointWritten
    | RunsProgress
    | ResultWritten
    | RunsFailed
    | DataDamaged
    | DiskFull
    | JobDone
    | JobStopped
)
TRAINING_MESSAGES: TypeAdapter[TrainingMessage] = TypeAdapter(Annotated[TrainingMessage, Field(discriminator="type")])


# --- operation process → worker ------------------------------------------------------------------------


class OperationProgress(Message):
    """How far the operation is, from 0 to 1."""

    type: Literal["operation_progress"] = "operation_progress"
    fraction: float
    note: str


class Answered(Message):
    """The result is in FOLDER/answer.json."""

    type: Literal["answered"] = "answered"


class Refused(Message):
    """The request cannot be answered as it was made; `problems` are pairs of JSON Pointer and sentence."""

    type: Literal["refused"] = "refused"
    sentence: str
    problems: list[tuple[str, str]] = []


class Failed(Message):
    """The operation failed by a fault of the service or for lack of memory or time."""

    type: Literal["failed"] = "failed"
    sentence: str


OperationMessage: TypeAlias = Ready | LogLine | OperationProgress | Answered | Refused | Failed | DiskFull
OPERATION_MESSAGES: TypeAdapter[OperationMessage] = TypeAdapter(
    Annotated[OperationMessage, Field(discriminator="type")]
)


# --- the engine process's end --------------------------------------------------------------------------


class Sends(Protocol):
    """Anything that takes messages: a pipe to the worker, or a list in a test."""

    def send(self, message: Message) -> None:
        """Pass one message on."""


class MessageWriter:
    """Writes messages to the worker. Threads may share it."""

    def __init__(self, descriptor: int) -> None:
        self._pipe = os.fdopen(descriptor, "w", encoding="utf-8", buffering=1)  # a line at a time
        self._lock = threading.Lock()

    def send(self, message: Message) -> None:
        """Write one message. What cannot be written (a full pipe) is waited for."""
        with self._lock:
            self._pipe.write(message.line())


class CommandReader:
    """Reads the worker's commands on a thread, so that `stop` is noticed during a job.

    stop   set from a Stop to the next Work.

    The process exits at once when the pipe closes: its worker is gone.
    """

    def __init__(self) -> None:
        self.stop = threading.Event()
        self._work: queue.SimpleQueue[Work] = queue.SimpleQueue()
        threading.Thread(target=self._read, name="command-reader", daemon=True).start()

    @property
    def has_work(self) -> bool:
        """Whether the next job has come already."""
        return not self._work.empty()

    def next_work(self) -> Work:
        """The next job or operation, once there is one."""
        return self._work.get()

    def _read(self) -> None:
        for line in sys.stdin:
            match COMMANDS.validate_json(line):
                case Stop():
                    self.stop.set()
                case Work() as work:
                    self.stop.clear()
                    self._work.put(work)
        os._exit(3)


class LogLines(logging.Handler):
    """Sends the engine's log lines to the worker."""

    def __init__(self, writer: Sends) -> None:
        super().__init__(logging.INFO)
        self._writer = writer

    def emit(self, record: logging.LogRecord) -> None:
        """Send one line."""
        self._writer.send(LogLine(level=record.levelname.lower(), text=self.format(record)))


def start_engine_process(title: str, parent: int) -> tuple[MessageWriter, CommandReader]:
    """What every engine process does first: end with the worker, leave signals to it, and open both pipes.

    From here on whatever prints, prints into the process's log.
    """
    end_with_parent(parent)
    setproctitle(title)
    with contextlib.suppress(OSError):  # not on every system
        Path("/proc/self/oom_score_adj").write_text(KILLED_BEFORE_THE_WORKER)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a signal to the whole group is for the worker, which decides
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    writer = MessageWriter(os.dup(1))
    os.dup2(2, 1)
    logging.basicConfig(level=logging.INFO, handlers=[LogLines(writer)], format="%(message)s")
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # which fonts it finds is no news about a job
    return writer, CommandReader()


def write_whole(folder: Path, name: str, content: bytes) -> str:
    """Write a file whole or not at all, and return its name."""
    unfinished = folder / f".{name}.unfinished"
    try:
        unfinished.write_bytes(content)
        unfinished.rename(folder / name)
    except OSError:
        unfinished.unlink(missing_ok=True)
        raise
    return name


def is_disk_full(error: BaseException) -> bool:
    """Whether the disk has no room, which is soon over: see store.errors, which an engine process does not know."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def end_with_parent(parent: int) -> None:
    """Ask the kernel (Linux) to kill this process when its parent ends; elsewhere the closed pipe does."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(1, int(signal.SIGKILL))  # PR_SET_PDEATHSIG
    if os.getppid() != parent:
        os._exit(3)


# --- the worker's end ----------------------------------------------------------------------------------


def temporary_folder(folder: Path) -> Path:
    """Where the engine process of this folder puts its temporary files; it deletes nothing anywhere else."""
    return folder / "tmp"


def engine_environment(environ: Mapping[str, str], folder: Path) -> dict[str, str]:
    """The environment of an engine process: no secrets, one thread, temporary files in its own folder."""
    passed = {
        name: value for name, value in environ.items() if name in PASSED_VARIABLES or name.startswith(PASSED_PREFIXES)
    }
    return passed | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", "TMPDIR": str(folder)}
