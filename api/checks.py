"""Uploaded bytes are looked at in a child process with limits, where they can do no harm."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from api.problems import Problem, wrong
from store.settings import Settings

log = logging.getLogger("api")

CHECKER = "bimt_engine.datasets.check"
LOOK_UP_SECONDS = 0.2  # how soon a check ends when it should
ENDINGS = {
    ".csv": "csv",
    ".tsv": "csv",
    ".txt": "csv",
    ".npz": "npz",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".idx": "idx",
    ".idx.gz": "idx",
    "-ubyte": "idx",
    "-ubyte.gz": "idx",
    ".cayley": "cayley",
    ".json": "cayley",
}


@dataclass(frozen=True)
class Finding:
    """What the child says: a preview, or what is wrong with the file."""

    preview: dict[str, Any] | None
    errors: list[dict[str, Any]]


def format_of(file_name: str) -> str | None:
    """The format that the ending of a file's name stands for."""
    lower = file_name.lower()
    return next(
        (form for ending, form in sorted(ENDINGS.items(), key=lambda e: -len(e[0])) if lower.endswith(ending)), None
    )


def check_file(
    path: Path,
    *,
    form: str,
    settings: Settings,
    roles: dict[str, Any] | None = None,
    look_up: Callable[[], None] = lambda: None,
) -> Finding:
    """Have a child read the file. Whatever happens to the child, this gives a finding.

    roles     complete roles, when they are known: then only the columns that they name must be sound.
    look_up   called again and again meanwhile; what it raises ends the child and goes on to the caller.
    """
    command = [sys.executable, "-m", CHECKER, "--tethered", "--format", form]
    command += ["--memory-bytes", str(settings.check_memory_bytes), "--cpu-seconds", str(int(settings.check_seconds))]
    if roles is not None:
        command += ["--roles", json.dumps({name: roles.get(name) for name in ("inputs", "targets", "task")})]
    try:
        # It may wait for a processor before it uses one.
        status, out, err = _run([*command, str(path)], seconds=settings.check_seconds + 10, look_up=look_up)
    except subprocess.TimeoutExpired:
        return _refused("The file took longer to read than is granted; send fewer rows or columns.")
    try:
        said = json.loads(out.decode("utf-8").strip().splitlines()[-1])
        if said["ok"]:
            return Finding(said["preview"], [])
        return Finding(None, [dict(entry) for entry in said["errors"]] or _refused("The file cannot be read.").errors)
    except (ValueError, KeyError, IndexError, TypeError):
        log.warning("the check of an upload died with %s: %s", status, err[-2000:].decode("utf-8", "replace"))
        return _refused(f"Reading the file as {form} took more memory or time than is granted, or it is damaged.")


def _run(command: list[str], *, seconds: float, look_up: Callable[[], None]) -> tuple[int, bytes, bytes]:
    """(status, output, errors) of a child that ends when we do. Raises TimeoutExpired, and what `look_up` raises."""
    pipe = subprocess.PIPE
    deadline = time.monotonic() + seconds
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, env=_environment(), cwd="/") as child:
        tether, child.stdin = child.stdin, None  # communicate() would close it, and so end the child
        try:
            while True:
                look_up()
                try:
                    out, err = child.communicate(timeout=LOOK_UP_SECONDS)
                except subprocess.TimeoutExpired:
                    if time.monotonic() > deadline:
                        raise
                else:
                    return child.returncode, out, err
        finally:
            child.kill()
            if tether is not None:
                tether.close()


def understand(
    path: Path, *, form: str, settings: Settings, asked: dict[str, Any], look_up: Callable[[], None] = lambda: None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """(preview, settled roles) of a file. `asked`: the roles that the user named, perhaps not all.

    Raises the problem of an unusable file or of roles that cannot be.
    """
    complete = asked if asked.get("targets") and asked.get("task") else None
    finding = check_file(path, form=form, settings=settings, roles=complete, look_up=look_up)
    if finding.preview is None:
        raise unusable(finding.errors)
    roles = settle_roles(finding.preview, asked)
    if complete is None and any(asked.get(name) is not None for name in ("inputs", "targets", "task")):
        # Roles that were only now complete are looked at as the worker will look at them.
        again = check_file(path, form=form, settings=settings, roles=roles, look_up=look_up)
        if again.preview is None:
            raise unusable(again.errors)
        return again.preview, roles
    return finding.preview, roles


def _environment() -> dict[str, str]:
    """What the child may know of our environment: where Python finds things, and no secret."""
    passed = ("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "VIRTUAL_ENV")
    ours = {name: os.environ[name] for name in passed if name in os.environ}
    here = str(Path(__file__).resolve().parents[1])
    return ours | {
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "PYTHONSAFEPATH": "1",
        "PYTHONPATH": here,
        "HOME": "/nonexistent",
    }


def _refused(sentence: str) -> Finding:
    return Finding(None, [{"detail": sentence}])


def unusable(finding_errors: list[dict[str, Any]]) -> Problem:
    """The problem of a file that was refused."""
    errors = [
        wrong("/file", str(e.get("detail", "")), place="file", row=e.get("row"), column=_text(e.get("column")))
        for e in finding_errors
    ]
    more = " There are more faults in the file." if len(errors) > 1 else ""
    return Problem("unusable-data", errors[0]["detail"] + more, errors)


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


# --- roles ---------------------------------------------------------------------------------------------


def amended_roles(settled: dict[str, Any], asked: dict[str, Any]) -> dict[str, Any]:
    """Roles with some of them changed. Where targets change, inputs and task follow unless they are named too."""
    follow = ("inputs", "task") if asked.get("targets") else ()
    return {name: value for name, value in settled.items() if name not in follow} | asked


def settle_roles(preview: dict[str, Any], asked: dict[str, Any], *, under: str = "") -> dict[str, Any]:
    """The roles of an uploaded table's columns: what was asked for, completed by what the check suggests.

    under   where the roles stand in the request, for the pointers of the problem.
    Raises the problem that names every role that cannot be.
    """
    suggested = preview.get("suggested") or {}
    columns = {column["name"]: column for column in preview.get("columns", [])}
    targets = list(asked.get("targets") or suggested.get("targets") or [])
    inputs = asked.get("inputs")
    if inputs is None:
        inputs = suggested.get("inputs") or []
        if asked.get("targets") is not None:  # other targets than suggested: whatever else is a number is read
            inputs = [name for name, column in columns.items() if column.get("type") != "text"]
        inputs = [name for name in inputs if name not in targets]
    task = asked.get("task")
    if task is None:
        same = targets == suggested.get("targets")
        task = suggested.get("task") if same else _classes_or_numbers(targets, columns, preview.get("rows"))
    errors = [*_role_errors("inputs", inputs, columns, under), *_role_errors("targets", targets, columns, under)]
    for index, name in enumerate(targets):
        text = columns.get(name, {}).get("type") == "text"
        if text and task == "regression":
            detail = f"The target `{name}` holds text; choose the task `classification`, or a column of numbers."
            errors.append(wrong(f"{under}/targets/{index}", detail, column=name))
    for name in sorted(set(inputs) & set(targets)):
        detail = f"`{name}` cannot be input and target at once."
        errors.append(wrong(f"{under}/targets/{targets.index(name)}", detail, column=name))
    if task == "classification" and len(targets) > 1:
        errors.append(wrong(f"{under}/targets", f"Classification has one target; {len(targets)} are named."))
    if not targets:
        errors.append(wrong(f"{under}/targets", "Say which columns are to be predicted."))
    if not inputs:
        errors.append(wrong(f"{under}/inputs", "No column of numbers is left to be read beside the targets."))
    if errors:
        detail = errors[0]["detail"] if len(errors) == 1 else f"{len(errors)} roles cannot be."
        raise Problem("invalid-fields", detail, errors)
    rest = {"test_fraction": asked.get("test_fraction", 0.2), "standardise": asked.get("standardise", True)}
    return {"inputs": list(inputs), "targets": targets, "task": task} | rest


def _role_errors(role: str, names: list[str], columns: dict[str, Any], under: str) -> list[dict[str, Any]]:
    errors = []
    cayley = set(columns) == {"a", "b", "product"}  # the words of a group table are tokens, which are read
    for index, name in enumerate(names):
        whole = name.partition("[")[0]  # one number of an array column, such as pixels[3]
        if columns and name not in columns and whole not in columns:
            known = ", ".join(list(columns)[:12]) + (", …" if len(columns) > 12 else "")
            errors.append(
                wrong(f"{under}/{role}/{index}", f"There is no column `{name}`; there are {known}.", column=name)
            )
        elif role == "inputs" and not cayley and columns.get(name, {}).get("type") == "text":
            detail = f"The column `{name}` holds text and cannot be an input; write it as numbers or leave it out."
            errors.append(wrong(f"{under}/{role}/{index}", detail, column=name))
    return errors


def _classes_or_numbers(targets: list[str], columns: dict[str, Any], rows: int | None) -> str:
    """Whether targets look like classes: text, or a few whole numbers."""
    column = columns.get(targets[0], {}) if len(targets) == 1 else {}
    few = (column.get("distinct") or 0) <= max(2, min(20, (rows or 0) // 5))
    return (
        "classification" if column.get("type") == "text" or (column.get("type") == "integer" and few) else "regression"
    )


def uploaded_spec(dataset_id: str, sha256: str, form: str, roles: dict[str, Any]) -> dict[str, Any]:
    """The dataset part of a spec that means this upload with these roles."""
    return {"kind": "uploaded", "dataset_id": dataset_id, "sha256": sha256, "format": form} | roles
