"""Check an upload in a process of its own, which limits itself before it reads a byte.

    python -m bimt_engine.data.check --format csv [--roles '{"inputs": […], "targets": […], "columns": {…}}'] PATH

prints one line of JSON: {"ok": true, "preview": {…}} or {"ok": false, "errors": [{"detail", "row", "column"}, …]}.
With --job '{"data": {…}, "seeds": […]}', the data of a job as its spec has them, {"ok": true, "errors": […]}: what
keeps them from being trained on; none where the limits end the check, because the training has others.
It exits with 0 whenever it prints. A process that was killed prints nothing: the caller says that the file took more
memory or time than is allowed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import resource
import signal
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any

from bimt_engine.errors import DataError

MEMORY_BYTES = 4 << 30  # the largest table that is read takes 400 MB, thrice while it is put together
CPU_SECONDS = 120  # 2 GB of CSV take 80 s
GRACE_SECONDS = 5  # between the signal that is answered with a sentence and the one that kills


class OutOfTime(BaseException):
    """The processor time is used up. A BaseException, so that no reader takes it for a damaged file."""


def limit_this_process(*, memory: int, seconds: int) -> None:
    """No more memory, processor time from now on, files or core dumps than the check of an upload needs."""

    def out_of_time(_signal: int, _frame: FrameType | None) -> None:
        raise OutOfTime

    signal.signal(signal.SIGXCPU, out_of_time)
    seconds += math.ceil(time.process_time())  # the limit counts from the start of the process
    limits = {
        resource.RLIMIT_AS: (memory, memory),
        resource.RLIMIT_CPU: (seconds, seconds + GRACE_SECONDS),
        resource.RLIMIT_FSIZE: (1 << 20, 1 << 20),
        resource.RLIMIT_CORE: (0, 0),
    }
    for limit, (soft, hard) in limits.items():
        ceiling = resource.getrlimit(limit)[1]
        if ceiling != resource.RLIM_INFINITY:
            soft, hard = min(soft, ceiling), min(hard, ceiling)
        with contextlib.suppress(ValueError, OSError):  # macOS knows RLIMIT_AS but refuses it
            resource.setrlimit(limit, (soft, hard))


def end_with_the_caller() -> None:
    """End at once when standard input ends: the caller, which holds the other end of the pipe, has ended."""

    def listen() -> None:
        while os.read(0, 1):
            pass
        os._exit(1)

    threading.Thread(target=listen, daemon=True).start()


def check_job(path: Path, data: dict[str, Any], seeds: list[int]) -> dict[str, Any]:
    """The answer for the data of a job: what is wrong with them, if anything."""
    try:
        from bimt_engine.data.kinds.uploaded import UploadedData, check_upload

        check_upload(path, UploadedData.model_validate(data), seeds=seeds)
    except (MemoryError, OutOfTime):
        return {"ok": True, "errors": []}
    except Exception as error:
        if not (found := _errors_of(error)):
            raise
        return {"ok": True, "errors": found}
    return {"ok": True, "errors": []}


def _errors_of(error: Exception) -> list[dict[str, Any]]:
    """What data were refused for, as it is printed; nothing for an error of another kind."""
    from bimt_engine.data.readers import RefusedData

    if isinstance(error, RefusedData):
        return [problem.to_json() for problem in error.problems]
    if isinstance(error, DataError):
        return [{"detail": str(error)} | {key: error.where.get(key) for key in ("row", "column")}]
    return []


def check(path: Path, format: str, roles: dict[str, Any] | None = None) -> dict[str, Any]:
    """The answer that is printed: the preview, or what is wrong."""
    try:
        from bimt_engine.data.preview import understand  # a second of imports, which the limits count as well

        return {"ok": True, "preview": understand(path, format, roles)}  # type: ignore[arg-type]
    except DataError as error:
        return {"ok": False, "errors": _errors_of(error)}
    except MemoryError:
        detail = "The file needs more memory to read than is granted; send fewer rows or columns."
    except OutOfTime:
        detail = "The file takes longer to read than is granted; send fewer rows or columns."
    return {"ok": False, "errors": [{"detail": detail, "row": None, "column": None}]}


def main(arguments: list[str] | None = None) -> int:
    """Check the file that the arguments name, within the limits. Returns the exit status, 0."""
    from bimt_engine.data.roles import FORMATS

    parser = argparse.ArgumentParser(prog="python -m bimt_engine.data.check", description=__doc__.split("\n")[0])
    parser.add_argument("--format", required=True, choices=FORMATS)
    parser.add_argument("--roles", type=json.loads, default=None, help="JSON: those that are declared, such as targets")
    parser.add_argument("--job", type=json.loads, default=None, help="JSON: the data of a job, and its seeds")
    parser.add_argument("--memory-bytes", type=int, default=MEMORY_BYTES)
    parser.add_argument("--cpu-seconds", type=int, default=CPU_SECONDS)
    parser.add_argument("--end-with-caller", action="store_true", help="end when standard input ends")
    parser.add_argument("path", type=Path)
    asked = parser.parse_args(arguments)
    os.environ["POLARS_MAX_THREADS"] = "1"  # each thread would reserve address space, which is limited
    if asked.end_with_caller:
        end_with_the_caller()
    limit_this_process(memory=asked.memory_bytes, seconds=asked.cpu_seconds)
    if asked.job is not None:
        answer = check_job(asked.path, asked.job["data"], asked.job["seeds"])
    else:
        answer = check(asked.path, asked.format, asked.roles)
    print(json.dumps(answer, allow_nan=False), flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
