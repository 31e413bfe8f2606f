"""Uploaded bytes are looked at in a child process with limits, where they can do no harm."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from api.problems import Problem, wrong

log = logging.getLogger("api")

CHECKER = "bimt_engine.datasets.check"
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
    return next((form for ending, form in sorted(ENDINGS.items(), key=lambda e: -len(e[0])) if lower.endswith(ending)), None)


def check_file(path: Path, *, form: str, seconds: float) -> Finding:
    """Have a child read the file. Whatever happens to the child, this gives a finding.

    seconds   wall time that the child may take; it limits its own memory and processor time.
    """
    command = [sys.executable, "-m", CHECKER, "--format", form, str(path)]
    keep = {k: v for k, v in os.environ.items() if k in ("PATH", "LANG", "LC_ALL", "PYTHONPATH", "LD_LIBRARY_PATH", "VIRTUAL_ENV")}
    keep |= {"OMP_NUM_THREADS": "1", "POLARS_MAX_THREADS": "1", "PYTHONSAFEPATH": "1", "HOME": "/nonexistent"}
    keep["PYTHONPATH"] = os.pathsep.join(filter(None, [str(Path(__file__).resolve().parents[1]), keep.get("PYTHONPATH", "")]))
    try:
        ended = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=seconds, check=False, env=keep, cwd="/"
        )
    except subprocess.TimeoutExpired:
        return _refused(f"The file took longer than {seconds:g} seconds to read; send a smaller or simpler one.")
    try:
        said = json.loads(ended.stdout.decode("utf-8").strip().splitlines()[-1])
        if said["ok"]:
            return Finding(said["preview"], [])
        return Finding(None, [dict(entry) for entry in said["errors"]] or _refused("The file cannot be read.").errors)
    except (ValueError, KeyError, IndexError, TypeError):
        log.warning("the check of an upload died with %s: %s", ended.returncode, ended.stderr[-2000:].decode("utf-8", "replace"))
        return _refused(f"Reading the file as {form} took more memory or time than allowed, or it is damaged.")


def _refused(sentence: str) -> Finding:
    return Finding(None, [{"detail": sentence}])


def unusable(finding_errors: list[dict[str, Any]]) -> Problem:
    """The problem of a file that was refused."""
    errors = [
        wrong("/file", str(e.get("detail", "")), place="file", row=e.get("row"), column=_text(e.get("column")))
        for e in finding_errors
    ]
    if len(errors) == 1:
        return Problem("unusable-data", errors[0]["detail"], errors)
    return Problem("unusable-data", f"The file has {len(errors)} faults; `errors` names row and column of each.", errors)


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


# --- roles ---------------------------------------------------------------------------------------------


def settle_roles(preview: dict[str, Any], asked: dict[str, Any], *, under: str = "") -> dict[str, Any]:
    """The roles of an uploaded table's columns: what was asked for, completed by what the check suggests.

    under   where the roles stand in the request, for the pointers of the problem.
    """
    suggested = preview.get("suggested") or {}
    roles = {
        "inputs": asked.get("inputs") if asked.get("inputs") is not None else suggested.get("inputs"),
        "targets": asked.get("targets") if asked.get("targets") is not None else suggested.get("targets"),
        "task": asked.get("task") or suggested.get("task"),
        "test_fraction": asked.get("test_fraction", 0.2),
        "standardise": asked.get("standardise", True),
    }
    if asked.get("inputs") is None and asked.get("targets") is not None:
        # Targets other than the suggested ones: whatever is no target is read.
        columns = [c["name"] for c in preview.get("columns", []) if c.get("type") != "text"]
        roles["inputs"] = [c for c in columns if c not in roles["targets"]] or None
    types = {c["name"]: c.get("type") for c in preview.get("columns", [])}
    errors = []
    for role in ("inputs", "targets"):
        for index, name in enumerate(roles[role] or []):
            if types and name not in types:
                known = ", ".join(list(types)[:12]) + (", …" if len(types) > 12 else "")
                errors.append(wrong(f"{under}/{role}/{index}", f"There is no column `{name}`; there are {known}."))
            elif types.get(name) == "text" and not (role == "targets" and roles["task"] == "classification"):
                errors.append(wrong(f"{under}/{role}/{index}", f"The column `{name}` holds text; {role} must be numbers."))
    if not roles["targets"]:
        errors.append(wrong(f"{under}/targets", "Say which columns are to be predicted."))
    if errors:
        detail = errors[0]["detail"] if len(errors) == 1 else f"{len(errors)} roles cannot be; `errors` names each."
        raise Problem("invalid-fields", detail, errors)
    return roles


def uploaded_spec(dataset_id: str, sha256: str, form: str, roles: dict[str, Any]) -> dict[str, Any]:
    """The dataset part of a spec that means this upload with these roles."""
    return {"kind": "uploaded", "dataset_id": dataset_id, "sha256": sha256, "format": form} | roles


