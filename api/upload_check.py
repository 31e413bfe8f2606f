"""The check of an uploaded file, in a child process with limits, and the roles of its columns."""

from __future__ import annotations

import atexit
import json
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session

from api.problems import Problem, wrong
from store import datasets
from store.database import Database
from store.errors import DamagedFile, NotFound
from store.files import Files
from store.settings import Settings
from store.tables import Dataset

log = logging.getLogger("api")

CHECK_MODULE = "bimt_engine.data.check"
INTERRUPT_SECONDS = 0.2  # how soon a check ends when it is interrupted
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
    """The result of the child: a preview, or what is wrong with the file."""

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
    interrupt: Callable[[], None] = lambda: None,
) -> Finding:
    """Check the file in a child process. Whatever happens to the child, there is a finding.

    roles     complete roles, when they are known: then only the columns that they name must be sound.
    interrupt called every 0.2 s meanwhile; what it raises ends the child and reaches the caller.
    """
    command = [sys.executable, "-m", CHECK_MODULE, "--tethered", "--format", form]
    command += ["--memory-bytes", str(settings.check_memory_bytes), "--cpu-seconds", str(int(settings.check_seconds))]
    if roles is not None:
        command += ["--roles", json.dumps({name: roles.get(name) for name in ("inputs", "targets", "task")})]
    try:
        # It may wait for a processor before it uses one.
        status, out, err = _run([*command, str(path)], seconds=settings.check_seconds + 10, interrupt=interrupt)
    except subprocess.TimeoutExpired:
        return _refused("The file took longer to read than is allowed; send fewer rows or columns.")
    try:
        said = json.loads(out.decode("utf-8").strip().splitlines()[-1])
        if said["ok"]:
            return Finding(said["preview"], [])
        return Finding(None, [dict(entry) for entry in said["errors"]] or _refused("The file cannot be read.").errors)
    except (ValueError, KeyError, IndexError, TypeError):
        log.warning("the check of an upload died with %s: %s", status, err[-2000:].decode("utf-8", "replace"))
        return _refused(f"Reading the file as {form} took more memory or time than is allowed, or it is damaged.")


def _run(command: list[str], *, seconds: float, interrupt: Callable[[], None]) -> tuple[int, bytes, bytes]:
    """(status, output, errors) of a child that ends with us. Raises TimeoutExpired and what `interrupt` raises."""
    pipe = subprocess.PIPE
    deadline = time.monotonic() + seconds
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, env=_environment(), cwd="/") as child:
        held_open, child.stdin = child.stdin, None  # communicate() would close it, which ends the child
        try:
            while True:
                interrupt()
                try:
                    out, err = child.communicate(timeout=INTERRUPT_SECONDS)
                except subprocess.TimeoutExpired:
                    if time.monotonic() > deadline:
                        raise
                else:
                    return child.returncode, out, err
        finally:
            child.kill()
            if held_open is not None:
                held_open.close()


def understand(
    path: Path, *, form: str, settings: Settings, asked: dict[str, Any], interrupt: Callable[[], None] = lambda: None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """(preview, settled roles) of a file. `asked`: the roles that the user named, perhaps not all.

    Raises the problem of an unusable file or of impossible roles.
    """
    complete = asked if asked.get("targets") and asked.get("task") else None
    finding = check_file(path, form=form, settings=settings, roles=complete, interrupt=interrupt)
    if finding.preview is None:
        raise unusable(finding.errors)
    roles = settle_roles(finding.preview, asked)
    if complete is None and any(asked.get(name) is not None for name in ("inputs", "targets", "task")):
        # Roles that were only now complete are looked at as the worker will look at them.
        again = check_file(path, form=form, settings=settings, roles=roles, interrupt=interrupt)
        if again.preview is None:
            raise unusable(again.errors)
        return again.preview, roles
    return finding.preview, roles


def _environment() -> dict[str, str]:
    """The environment of the child: where Python finds things, and no secret."""
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
    Raises the problem that names every impossible role.
    """
    suggested = preview.get("suggested") or {}
    columns = {column["name"]: column for column in preview.get("columns", [])}
    targets = list(asked.get("targets") or suggested.get("targets") or [])
    inputs = asked.get("inputs")
    if inputs is None:
        inputs = suggested.get("inputs") or []
        if asked.get("targets") is not None:  # other targets than suggested: all other columns of numbers are inputs
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
        detail = errors[0]["detail"] if len(errors) == 1 else f"{len(errors)} roles are not possible."
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


log = logging.getLogger("api")


CHECK_WAIT_SECONDS = 2.0  # then the upload is answered with 202
FIRST_PAUSE, LONGEST_PAUSE = 0.01, 0.25  # seconds between two queries for the row; grows in between


def refusal(errors: list[dict[str, Any]]) -> Problem:
    """The problem of a refused data set: a file that cannot be used, or roles that its columns cannot have."""
    if all(error.get("in") == "file" for error in errors):
        return unusable(errors)
    detail = errors[0]["detail"] if len(errors) == 1 else f"{len(errors)} roles are not possible."
    return Problem("invalid-fields", detail, errors)


# --- the queue of checks -----------------------------------------------------------------------------------

POLL_SECONDS = 15.0  # for checks that another process has left
HEARTBEAT_SECONDS = 5.0
SILENCE = timedelta(seconds=30)  # a process without a heartbeat for so long is gone
STOP_SECONDS = 2.0  # at the end of the process


class _Interrupted(Exception):
    """The process ends, or another one has taken the check over."""


class UploadChecker:
    """Checks stored uploads on one thread, so one at a time in each process.

    The row is the queue: its state is `checking`, and `checked_at` is the heartbeat of the process that checks it. A
    check that was cut off, by the end of its process or by a kill, is begun again by any process: see
    store.datasets.take_check.

    wait_seconds   how long `begin` waits for the check of a small file.
    """

    def __init__(
        self,
        settings: Settings,
        database: Database,
        files: Files,
        now: Callable[[], datetime],
        *,
        wait_seconds: float = CHECK_WAIT_SECONDS,
    ) -> None:
        self._settings, self._database, self._files, self._now = settings, database, files, now
        self._wait_seconds = wait_seconds
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()
        self._due = threading.Event()
        self._stopping = threading.Event()
        self._idle = threading.Condition()
        self._requested = self._finished = 0

    def begin(self, row: Dataset, *, undo: Callable[[Session], None]) -> Dataset:
        """Have the file of a row in the state `checking` checked; the row as it is then.

        A small file is waited for, up to `wait_seconds`; then it is `ready`, or `undo` takes back what the request has
        written, and this raises the problem of the refused file. A large file, or one whose check takes longer, stays
        `checking` and becomes `ready` or `refused` later. Call it outside of any database session.
        """
        self.wake()
        if row.bytes > self._settings.check_at_once_bytes:
            return row
        end, pause = time.monotonic() + self._wait_seconds, FIRST_PAUSE
        while row.state == "checking" and time.monotonic() < end:
            time.sleep(pause)
            pause = min(1.4 * pause, LONGEST_PAUSE)
            with self._database.read() as rows:
                row = datasets.get(rows, row.team_id, row.id)
        if row.state == "refused":
            problem = refusal(list(row.errors or []))
            with self._database.write() as rows:
                undo(rows)
            raise problem
        return row

    def wake(self) -> None:
        """Tell the thread that there may be a check to do. It is started at the first call."""
        with self._idle:
            self._requested += 1
        with self._starting:
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="upload-checks", daemon=True)
                self._thread.start()
                atexit.register(self.stop)
        self._due.set()

    def wait(self, seconds: float = 60.0) -> None:
        """Return when all checks requested so far are done; for tests. Raises TimeoutError."""
        with self._idle:
            wanted = self._requested
            if not self._idle.wait_for(lambda: self._finished >= wanted, seconds):
                raise TimeoutError(f"A check has not ended within {seconds:.0f} s.")

    def stop(self) -> None:
        """Interrupt a running check and release its row."""
        self._stopping.set()
        self._due.set()
        if self._thread is not None:
            self._thread.join(STOP_SECONDS)
        atexit.unregister(self.stop)

    # --- on the thread ----------------------------------------------------------------------------------

    def _work(self) -> None:
        while not self._stopping.is_set():
            self._due.clear()
            with self._idle:
                requested = self._requested
            try:
                while (row := self._take()) is not None:
                    self._check(row)
            except Exception:
                log.exception("checks of uploads have to wait")
            with self._idle:
                self._finished = requested
                self._idle.notify_all()
            self._due.wait(POLL_SECONDS)

    def _take(self) -> Dataset | None:
        if self._stopping.is_set():
            return None
        now = self._now()
        with self._database.write() as rows:
            return datasets.take_check(rows, now=now, silent_since=now - SILENCE)

    def _check(self, row: Dataset) -> None:
        try:
            preview, roles, errors = self._understand(row)
            with self._database.write() as rows:
                datasets.set_check_result(
                    rows,
                    row.id,
                    now=self._now(),
                    preview=preview or None,
                    roles=roles or None,
                    task=roles.get("task"),
                    rows=preview.get("rows"),
                    columns=len(preview["columns"]) if preview else None,
                    errors=errors or None,
                )
        except _Interrupted:
            log.info("the check of data set %s was interrupted; it will be begun again", row.id)
        except Exception:
            log.exception("the check of data set %s failed; it will be begun again", row.id)

    def _understand(self, row: Dataset) -> tuple[dict[str, Any], dict[str, Any], list[dict[str, Any]]]:
        """(preview, roles, errors) of the file: either the first two or the last."""
        asked, form = dict(row.roles or {}), row.format or ""
        try:
            with self._heartbeat(row) as interrupt, self._files.path(row.sha256 or "") as path:
                return *understand(path, form=form, settings=self._settings, asked=asked, interrupt=interrupt), []
        except Problem as problem:
            return {}, {}, problem.errors
        except NotFound:
            return {}, {}, [wrong("/file", "The stored file is missing; upload it again.", place="file")]
        except DamagedFile:
            return {}, {}, [wrong("/file", "The stored file is damaged; upload it again.", place="file")]

    @contextmanager
    def _heartbeat(self, row: Dataset) -> Iterator[Callable[[], None]]:
        """Renew the claim on the row while this lasts; gives what raises _Interrupted when the check must end.

        On a thread of its own, because fetching a large file may take long.
        """
        ended, lost = threading.Event(), threading.Event()
        since = row.checked_at or self._now()

        def renew() -> None:
            nonlocal since
            while not ended.wait(HEARTBEAT_SECONDS):
                with suppress(Exception):  # the database does not answer: the next one succeeds, or the claim is lost
                    now = self._now()
                    with self._database.write() as rows:
                        if not datasets.hold_check(rows, row.id, since=since, now=now):
                            lost.set()
                            return
                    since = now

        def interrupt() -> None:
            if self._stopping.is_set() or lost.is_set():
                raise _Interrupted

        heartbeat = threading.Thread(target=renew, name="check-heartbeat", daemon=True)
        heartbeat.start()
        try:
            yield interrupt
        finally:
            ended.set()
            heartbeat.join()
            if self._stopping.is_set():
                with suppress(Exception), self._database.write() as rows:
                    datasets.hold_check(rows, row.id, since=since, now=None)
