"""The check of an uploaded file: the columns of data and their roles, the header of a network, or what is wrong.

The file is read in a child process with limits on memory, processor time and written bytes, without secrets in its
environment, and first in line when the machine runs out of memory. A worker checks one file at a time.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bimt_engine.data.roles import ImpossibleRoles, resolve_roles
from worker.protocol import engine_environment

log = logging.getLogger("worker.operations")

CHECKER = "bimt_engine.check"
DECLARED = ("inputs", "targets", "task", "columns", "split", "weight", "context")  # roles that say how a file is read
POLL_SECONDS = 0.2  # how soon a cancel or a lost lease is noticed
WAIT_SECONDS = 10.0  # beyond the processor time that is granted: the child may have to wait for a processor
KILLED_FIRST = "1000"  # oom_score_adj

_one_at_a_time = threading.Lock()


class UnusableFile(Exception):
    """The file cannot be used. `errors`: {"in": "file", "pointer", "detail"} with `row` and `column` where known."""

    def __init__(self, found: list[dict[str, Any]]) -> None:
        super().__init__(found[0]["detail"])
        self.errors = [_of_the_file(**one) for one in found]


def check_upload(
    path: Path,
    *,
    form: str,
    roles: dict[str, Any],
    memory_bytes: int,
    seconds: float,
    poll: Callable[[], object] = lambda: None,
) -> dict[str, Any]:
    """{"preview", "roles"} of a usable file, {"errors"} of another: see UnusableFile and ImpossibleRoles.

    roles   those that the user declared, perhaps not all; the result has all of them.
    poll    called every POLL_SECONDS; what it raises kills the child and goes to the caller.
    """

    def read(wanted: dict[str, Any]) -> dict[str, Any]:
        with _one_at_a_time:
            return _preview(path, form, wanted, memory_bytes=memory_bytes, seconds=seconds, poll=poll)

    try:
        preview = read(roles)
        resolved = resolve_roles(preview, roles)
        if any(resolved[name] != preview["suggested"][name] for name in ("inputs", "targets", "task")):
            preview = read(resolved)  # the columns of roles that are complete only now, as a training will read them
    except (UnusableFile, ImpossibleRoles) as error:
        return {"errors": error.errors}
    return {"preview": preview, "roles": resolved}


def check_network(
    path: Path,
    *,
    form: str,
    config: dict[str, Any] | None,
    memory_bytes: int,
    seconds: float,
    poll: Callable[[], object] = lambda: None,
) -> dict[str, Any]:
    """{"header"} of a usable network, {"errors"} of another: see UnusableFile.

    config   what the weights of a safetensors file are of, as bimt_engine.spec.NetworkConfig has it
    """
    more = [] if config is None else ["--config", json.dumps(config)]
    limits: dict[str, Any] = {"memory_bytes": memory_bytes, "seconds": seconds, "poll": poll}
    try:
        with _one_at_a_time:
            return {"header": _answer("network", path, form, more, **limits)["header"]}
    except UnusableFile as error:
        return {"errors": error.errors}


def check_job(
    path: Path,
    *,
    data: dict[str, Any],
    seeds: list[int],
    memory_bytes: int,
    seconds: float,
    poll: Callable[[], object] = lambda: None,
) -> dict[str, Any]:
    """{"errors"}: what keeps the data of a job from being trained on, none where the limits end the check.

    data    the part of the spec that asks for the upload, whose file this is
    """
    more = ["--job", json.dumps({"data": data, "seeds": seeds})]
    limits: dict[str, Any] = {"memory_bytes": memory_bytes, "seconds": seconds, "poll": poll}
    try:
        with _one_at_a_time:
            return {"errors": _answer("data", path, data["format"], more, **limits)["errors"]}
    except UnusableFile:
        return {"errors": []}  # the child was ended; the training has other limits


def _preview(path: Path, form: str, roles: dict[str, Any], **limits: Any) -> dict[str, Any]:
    """The preview that a child makes of the file. Raises UnusableFile, whatever happens to the child."""
    wanted = {name: roles[name] for name in DECLARED if roles.get(name) is not None}
    more = ["--roles", json.dumps(wanted)] if wanted else []
    return dict(_answer("data", path, form, more, **limits)["preview"])


def _answer(
    kind: str,
    path: Path,
    form: str,
    more: list[str],
    *,
    memory_bytes: int,
    seconds: float,
    poll: Callable[[], object],
) -> dict[str, Any]:
    """What a child says about the file. Raises UnusableFile, whatever happens to the child."""
    command = [sys.executable, "-m", CHECKER, kind, "--end-with-caller", "--format", form]
    command += ["--memory-bytes", str(memory_bytes), "--cpu-seconds", str(int(seconds)), *more]
    try:
        status, out, err = _run([*command, str(path)], seconds=seconds + WAIT_SECONDS, poll=poll)
    except subprocess.TimeoutExpired:
        sentence = "The file took longer to read than is granted; send a smaller one."
        raise UnusableFile([{"detail": sentence}]) from None
    try:
        answer = json.loads(out.decode("utf-8").strip().splitlines()[-1])
        if answer["ok"]:
            return dict(answer)
        errors = [dict(entry) for entry in answer["errors"]] or [{"detail": "The file cannot be read."}]
    except (ValueError, KeyError, IndexError, TypeError):
        log.warning("the check of an upload ended with %s: %s", status, err[-2000:].decode("utf-8", "replace"))
        sentence = f"Reading the file as {form} took more memory or time than is granted, or it is damaged."
        errors = [{"detail": sentence}]
    raise UnusableFile(errors)


def _run(command: list[str], *, seconds: float, poll: Callable[[], object]) -> tuple[int, bytes, bytes]:
    """(status, output, errors) of a child that ends with its caller. Raises TimeoutExpired, and what `poll` raises."""
    pipe = subprocess.PIPE
    deadline = time.monotonic() + seconds
    environment = engine_environment(os.environ, Path("/nonexistent")) | {
        "HOME": "/nonexistent",
        "OPENBLAS_NUM_THREADS": "1",
        "PYTHONPATH": str(Path(__file__).resolve().parents[1]),
        "PYTHONSAFEPATH": "1",
    }
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, env=environment, cwd="/") as child:
        held, child.stdin = child.stdin, None  # communicate() would close it, and so end the child
        with contextlib.suppress(OSError):  # where there is no /proc
            Path(f"/proc/{child.pid}/oom_score_adj").write_text(KILLED_FIRST)
        try:
            while True:
                poll()
                try:
                    out, err = child.communicate(timeout=POLL_SECONDS)
                except subprocess.TimeoutExpired:
                    if time.monotonic() > deadline:
                        raise
                else:
                    return child.returncode, out, err
        finally:
            child.kill()
            if held is not None:
                held.close()


def _of_the_file(detail: str, row: int | None = None, column: Any = None, **_: Any) -> dict[str, Any]:
    """One entry of a problem's `errors`, as the API sends it."""
    place = {"row": row, "column": None if column is None else str(column)}
    known = {name: value for name, value in place.items() if value is not None}
    return {"in": "file", "pointer": "/file", "detail": detail, **known}
