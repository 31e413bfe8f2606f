"""The check of an uploaded file: its columns, a preview, and the roles of its columns, or what is wrong with it.

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

from worker.protocol import engine_environment

log = logging.getLogger("worker.operations")

CHECKER = "bimt_engine.data.check"
POLL_SECONDS = 0.2  # how soon a cancel or a lost lease is noticed
WAIT_SECONDS = 10.0  # beyond the processor time that is granted: the child may have to wait for a processor
KILLED_FIRST = "1000"  # oom_score_adj

_one_at_a_time = threading.Lock()


class Unusable(Exception):
    """The file or the roles cannot be used. `document` is what the API answers with: type, detail and errors."""

    def __init__(self, type: str, detail: str, errors: list[dict[str, Any]]) -> None:
        super().__init__(detail)
        self.document = {"type": type, "detail": detail, "errors": errors}


def check_upload(
    path: Path,
    *,
    form: str,
    roles: dict[str, Any],
    memory_bytes: int,
    seconds: float,
    poll: Callable[[], object] = lambda: None,
) -> dict[str, Any]:
    """{"preview", "roles"} of a usable file, {"problem": {"type", "detail", "errors"}} of another.

    roles   those that the user declared, perhaps not all; the result has all of them.
    poll    called every POLL_SECONDS; what it raises kills the child and goes to the caller.
    """

    def read(wanted: dict[str, Any] | None) -> dict[str, Any]:
        with _one_at_a_time:
            return _preview(path, form, wanted, memory_bytes=memory_bytes, seconds=seconds, poll=poll)

    complete = roles if roles.get("targets") and roles.get("task") else None
    try:
        preview = read(complete)
        settled = settle_roles(preview, roles)
        if complete is None and any(roles.get(name) is not None for name in ("inputs", "targets", "task")):
            preview = read(settled)  # the columns of roles that are complete only now, as a training will read them
    except Unusable as error:
        return {"problem": error.document}
    return {"preview": preview, "roles": settled}


def _preview(
    path: Path,
    form: str,
    roles: dict[str, Any] | None,
    *,
    memory_bytes: int,
    seconds: float,
    poll: Callable[[], object],
) -> dict[str, Any]:
    """The preview that a child makes of the file. Raises Unusable, whatever happens to the child."""
    command = [sys.executable, "-m", CHECKER, "--end-with-caller", "--format", form]
    command += ["--memory-bytes", str(memory_bytes), "--cpu-seconds", str(int(seconds))]
    if roles is not None:
        command += ["--roles", json.dumps({name: roles.get(name) for name in ("inputs", "targets", "task")})]
    try:
        status, out, err = _run([*command, str(path)], seconds=seconds + WAIT_SECONDS, poll=poll)
    except subprocess.TimeoutExpired:
        raise _refused(
            [{"detail": "The file took longer to read than is granted; send fewer rows or columns."}]
        ) from None
    try:
        answer = json.loads(out.decode("utf-8").strip().splitlines()[-1])
        if answer["ok"]:
            return dict(answer["preview"])
        errors = [dict(entry) for entry in answer["errors"]] or [{"detail": "The file cannot be read."}]
    except (ValueError, KeyError, IndexError, TypeError):
        log.warning("the check of an upload died with %s: %s", status, err[-2000:].decode("utf-8", "replace"))
        sentence = f"Reading the file as {form} took more memory or time than is granted, or it is damaged."
        errors = [{"detail": sentence}]
    raise _refused(errors)


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


def _refused(found: list[dict[str, Any]]) -> Unusable:
    """The problem of a file that cannot be read."""
    errors = [
        _wrong(
            "/file",
            str(one.get("detail", "")),
            place="file",
            row=one.get("row"),
            column=None if one.get("column") is None else str(one["column"]),
        )
        for one in found
    ]
    more = " There are more faults in the file." if len(errors) > 1 else ""
    return Unusable("unusable-data", errors[0]["detail"] + more, errors)


def _wrong(pointer: str, detail: str, *, place: str = "body", **more: Any) -> dict[str, Any]:
    """One entry of a problem's `errors`, as the API writes them."""
    return {"in": place, "pointer": pointer, "detail": detail} | {k: v for k, v in more.items() if v is not None}


# --- roles ---------------------------------------------------------------------------------------------


def settle_roles(preview: dict[str, Any], declared: dict[str, Any]) -> dict[str, Any]:
    """The roles of an uploaded table's columns: the declared ones, completed by what the check suggests.

    Raises Unusable, which names every role that is not possible.
    """
    suggested = preview.get("suggested") or {}
    columns = {column["name"]: column for column in preview.get("columns", [])}
    targets = list(declared.get("targets") or suggested.get("targets") or [])
    inputs = declared.get("inputs")
    if inputs is None:
        inputs = suggested.get("inputs") or []
        if declared.get("targets") is not None:  # every other column of numbers is an input
            inputs = [name for name, column in columns.items() if column.get("type") != "text"]
        inputs = [name for name in inputs if name not in targets]
    task = declared.get("task")
    if task is None:
        same = targets == suggested.get("targets")
        task = suggested.get("task") if same else _classes_or_numbers(targets, columns, preview.get("rows"))
    errors = [*_role_errors("inputs", inputs, columns), *_role_errors("targets", targets, columns)]
    for index, name in enumerate(targets):
        text = columns.get(name, {}).get("type") == "text"
        if text and task == "regression":
            detail = f"The target `{name}` holds text; choose the task `classification`, or a column of numbers."
            errors.append(_wrong(f"/targets/{index}", detail, column=name))
    for name in sorted(set(inputs) & set(targets)):
        detail = f"`{name}` cannot be input and target at once."
        errors.append(_wrong(f"/targets/{targets.index(name)}", detail, column=name))
    if task == "classification" and len(targets) > 1:
        errors.append(_wrong("/targets", f"Classification has one target; {len(targets)} are named."))
    if not targets:
        errors.append(_wrong("/targets", "Say which columns are to be predicted."))
    if not inputs:
        errors.append(_wrong("/inputs", "No column of numbers is left to be read beside the targets."))
    if errors:
        detail = errors[0]["detail"] if len(errors) == 1 else f"{len(errors)} roles cannot be."
        raise Unusable("invalid-fields", detail, errors)
    rest = {"test_fraction": declared.get("test_fraction", 0.2), "standardise": declared.get("standardise", True)}
    return {"inputs": list(inputs), "targets": targets, "task": task} | rest


def _role_errors(role: str, names: list[str], columns: dict[str, Any]) -> list[dict[str, Any]]:
    """What is wrong with the columns of one role."""
    errors = []
    cayley = set(columns) == {"a", "b", "product"}  # the words of a group table are tokens, which may be inputs
    for index, name in enumerate(names):
        whole = name.partition("[")[0]  # one number of an array column, such as pixels[3]
        if columns and name not in columns and whole not in columns:
            known = ", ".join(list(columns)[:12]) + (", …" if len(columns) > 12 else "")
            errors.append(_wrong(f"/{role}/{index}", f"There is no column `{name}`; there are {known}.", column=name))
        elif role == "inputs" and not cayley and columns.get(name, {}).get("type") == "text":
            detail = f"The column `{name}` holds text and cannot be an input; write it as numbers or leave it out."
            errors.append(_wrong(f"/{role}/{index}", detail, column=name))
    return errors


def _classes_or_numbers(targets: list[str], columns: dict[str, Any], rows: int | None) -> str:
    """Whether targets look like classes: text, or a few whole numbers."""
    column = columns.get(targets[0], {}) if len(targets) == 1 else {}
    few = (column.get("distinct") or 0) <= max(2, min(20, (rows or 0) // 5))
    return (
        "classification" if column.get("type") == "text" or (column.get("type") == "integer" and few) else "regression"
    )
