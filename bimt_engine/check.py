"""Check an upload in a process of its own, which limits itself before it reads a byte: data, or a network.

    python -m bimt_engine.check data --format csv [--roles '{"inputs": […], "targets": […], "columns": {…}}'] PATH
    python -m bimt_engine.check network --format onnx [--config '{"network": {…}, "inputs": 4, …}'] PATH

print one line of JSON: {"ok": true, "preview": {…}}, of a network {"ok": true, "header": {…}}, or
{"ok": false, "errors": [{"detail", "row", "column"}, …]}. With `data --job '{"data": {…}, "seeds": […]}'`, the data of
a job as its spec has them, {"ok": true, "errors": […]}: what keeps them from being trained on; none where the limits
end the check, because the training has others.
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

from bimt_engine.errors import BimtError, DataError

MEMORY_BYTES = 4 << 30  # the largest table that is read takes 400 MB, thrice while it is put together
CPU_SECONDS = 120  # 2 GB of CSV take 80 s
GRACE_SECONDS = 5  # between the signal that is answered with a sentence and the one that kills
# Settings of the number of threads, of which each would reserve address space, which is limited.
THREADS = {"data": ("POLARS_MAX_THREADS",), "network": ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
NETWORK_TOO_LARGE = "The network takes more {} to read and compute once than is granted; send a smaller one."


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


def check_data(path: Path, format: str, roles: dict[str, Any] | None = None) -> dict[str, Any]:
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


def check_network(path: Path, format: str, config: dict[str, Any] | None = None) -> dict[str, Any]:
    """The answer that is printed: the header of the network, or what is wrong."""
    try:
        from bimt_engine.networks.files.reading import header_of, read_network

        return {"ok": True, "header": header_of(read_network(path.read_bytes(), format, config))}
    except BimtError as error:
        detail = str(error)
    except MemoryError:
        detail = NETWORK_TOO_LARGE.format("memory")
    except OutOfTime:
        detail = NETWORK_TOO_LARGE.format("time")
    except RuntimeError as error:  # what torch raises where memory is refused
        if "alloc" not in str(error):
            raise
        detail = NETWORK_TOO_LARGE.format("memory")
    return {"ok": False, "errors": [{"detail": detail}]}


def main(arguments: list[str] | None = None) -> int:
    """Check the file that the arguments name, within the limits. Returns the exit status, 0."""
    from bimt_engine.data.roles import FORMATS

    parser = argparse.ArgumentParser(prog="python -m bimt_engine.check", description=__doc__.split("\n")[0])
    kinds = parser.add_subparsers(dest="kind", required=True)
    data, network = kinds.add_parser("data"), kinds.add_parser("network")
    data.add_argument("--format", required=True, choices=FORMATS)
    data.add_argument("--roles", type=json.loads, default=None, help="JSON: those that are declared, such as targets")
    data.add_argument("--job", type=json.loads, default=None, help="JSON: the data of a job, and its seeds")
    network.add_argument("--format", required=True, choices=["onnx", "safetensors"])
    network.add_argument("--config", type=json.loads, default=None, help="JSON: what the weights are of")
    for each in (data, network):
        each.add_argument("--memory-bytes", type=int, default=MEMORY_BYTES)
        each.add_argument("--cpu-seconds", type=int, default=CPU_SECONDS)
        each.add_argument("--end-with-caller", action="store_true", help="end when standard input ends")
        each.add_argument("path", type=Path)
    args = parser.parse_args(arguments)
    os.environ |= dict.fromkeys(THREADS[args.kind], "1")
    if args.end_with_caller:
        end_with_the_caller()
    limit_this_process(memory=args.memory_bytes, seconds=args.cpu_seconds)
    if args.kind == "network":
        answer = check_network(args.path, args.format, args.config)
    elif args.job is not None:
        answer = check_job(args.path, args.job["data"], args.job["seeds"])
    else:
        answer = check_data(args.path, args.format, args.roles)
    print(json.dumps(answer, allow_nan=False), flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
