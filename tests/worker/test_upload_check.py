"""The check of an upload: previews and roles, refusals, limits, and what ends it early."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import psutil
import pytest

from store import datasets, jobs, operations
from store.settings import OPERATION_QUEUES
from tests.worker.conftest import in_the_background, wait_for
from worker import upload_check
from worker.operations import OPERATIONS
from worker.upload_check import CHECKER, KILLED_FIRST, check_upload

INTERACTIVE = OPERATION_QUEUES[0]

TABLE = "x,y,kind\n" + "".join(f"{n},{2 * n},{'ab'[n % 2]}\n" for n in range(40))


@pytest.fixture
def checked(tmp_path):
    def check(content: str, *, form: str = "csv", roles=None, memory_bytes: int = 4 << 30, **more):
        path = tmp_path / "upload"
        path.write_text(content)
        return check_upload(path, form=form, roles=roles or {}, memory_bytes=memory_bytes, seconds=60, **more)

    return check


def test_a_table_gets_a_preview_and_all_roles(checked):
    found = checked(TABLE, roles={"targets": ["y"]})
    assert found["preview"]["rows"] == 40
    assert found["roles"]["inputs"] == ["x", "kind"]
    assert {name: spec["type"] for name, spec in found["roles"]["columns"].items()} == {
        "x": "integer",
        "kind": "category",
        "y": "integer",
    }
    assert (found["roles"]["targets"], found["roles"]["task"]) == (["y"], "regression")


def test_a_file_that_is_no_table_is_refused_with_a_sentence(checked):
    [error] = checked("a,b\n1,2\n1\n")["errors"]
    assert (error["in"], error["pointer"]) == ("file", "/file")
    assert error["detail"]


def test_roles_that_are_not_possible_are_all_named(checked):
    errors = checked(TABLE, roles={"inputs": ["height"], "targets": ["weight"]})["errors"]
    named = [(one["in"], one["pointer"], one["column"]) for one in errors]
    assert named == [("body", "/inputs/0", "height"), ("body", "/targets/0", "weight")]


def test_a_child_that_dies_is_a_refusal(checked, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    assert "more memory or time than is granted" in checked(TABLE)["errors"][0]["detail"]


def test_a_table_that_needs_more_memory_than_is_granted_is_refused(checked):
    detail = checked(TABLE, memory_bytes=64 << 20)["errors"][0]["detail"]
    assert "memory" in detail


def test_whatever_poll_raises_ends_the_child(checked):
    class Cancelled(Exception):
        pass

    def poll() -> None:
        raise Cancelled

    with pytest.raises(Cancelled):
        checked(TABLE, poll=poll)


def test_the_child_gets_no_secret(monkeypatch, tmp_path):
    monkeypatch.setenv("BIMT_DATABASE_URL", "secret")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    script = "import json, os; print(json.dumps(dict(os.environ)))"
    _, out, _ = upload_check._run([sys.executable, "-c", script], seconds=60, poll=lambda: None)
    assert "secret" not in json.loads(out).values()


# --- as an operation -----------------------------------------------------------------------------------------


@pytest.fixture
def uploaded(database, people, files) -> Callable[..., tuple[str, str]]:
    """Store a file that waits for its check; (id of the data set, id of the operation)."""

    def store(content: str = TABLE, **roles) -> tuple[str, str]:
        now, stored = datetime.now(UTC), files.put_bytes(content.encode())
        with database.write() as session:
            dataset = datasets.register(
                session, team_id=people.team, member_id=people.member, name="table", kind="uploaded", now=now,
                state="checking", sha256=stored.sha256, bytes=stored.bytes, format="csv", roles=roles,
            )  # fmt: skip
            return dataset.id, operations.submit_check(session, dataset, now=now).id

    return store


@pytest.fixture
def shown(database, people):
    def get(dataset_id: str):
        with database.read() as session:
            return datasets.get(session, people.team, dataset_id)

    return get


def children(parent: psutil.Process | None = None) -> list[psutil.Process]:
    """The processes below one that check files."""
    found = []
    for one in (parent or psutil.Process()).children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if CHECKER in one.cmdline():
                found.append(one)
    return found


def gone(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def python_that_stops(folder: Path) -> str:
    """A Python that stops before it runs anything, so that no check ends before the test has found it."""
    script = folder / "python"
    script.write_text(f'#!/bin/sh\nkill -STOP $$\nexec "{sys.executable}" "$@"\n')
    script.chmod(0o755)
    return str(script)


def stopped_child(parent: psutil.Process | None = None) -> psutil.Process:
    """The process below one that checks a file and has stopped."""
    wait_for(lambda: any(one.status() == psutil.STATUS_STOPPED for one in children(parent)))
    [child] = children(parent)
    return child


@pytest.fixture
def suspended_check(operation_queue, monkeypatch, tmp_path):
    """Start a check that gets no further; (thread of the worker, child)."""

    def start() -> tuple[threading.Thread, psutil.Process]:
        monkeypatch.setattr(sys, "executable", python_that_stops(tmp_path))
        work = in_the_background(lambda: operation_queue.serve(INTERACTIVE))
        return work, stopped_child()

    return start


def test_the_result_is_written_with_the_end_of_the_operation(operation_queue, uploaded, shown, database, people):
    good, operation = uploaded(targets=["y"])
    bad, _ = uploaded("a,b\n1,2\n1\n")
    operation_queue.serve(INTERACTIVE)
    row = shown(good)
    assert (row.state, row.rows, row.columns, row.task) == ("ready", 40, 3, "regression")
    assert (row.roles["inputs"], row.preview["rows"], row.errors) == (["x", "kind"], 40, None)
    assert (shown(bad).state, shown(bad).errors[0]["pointer"]) == ("refused", "/file")
    with database.read() as session:
        assert operations.get(session, people.team, operation).state == "succeeded"


@pytest.mark.skipif(not Path("/proc/self/oom_score_adj").exists(), reason="Linux only")
def test_the_child_is_the_first_to_be_killed_when_memory_runs_out(suspended_check, uploaded):
    uploaded()
    work, child = suspended_check()
    assert Path(f"/proc/{child.pid}/oom_score_adj").read_text().strip() == KILLED_FIRST
    child.resume()
    work.join()


def test_a_cancelled_check_ends_its_child_and_refuses_the_data_set(suspended_check, uploaded, shown, database, people):
    dataset, operation = uploaded()
    work, child = suspended_check()
    with database.write() as session:
        jobs.request_cancel(session, people.team, operation, datetime.now(UTC))
    work.join()
    assert gone(child)
    assert (shown(dataset).state, "cancelled" in shown(dataset).errors[0]["detail"]) == ("refused", True)


def test_a_check_that_takes_too_long_ends_its_child_and_refuses_the_data_set(
    suspended_check, uploaded, shown, monkeypatch
):
    monkeypatch.setitem(OPERATIONS, "check_upload", replace(OPERATIONS["check_upload"], seconds=1.0))
    dataset, _ = uploaded()
    work, child = suspended_check()
    work.join()
    assert gone(child)
    assert "longer than 1 s" in shown(dataset).errors[0]["detail"]


def test_a_child_that_is_killed_refuses_the_data_set(suspended_check, uploaded, shown):
    dataset, _ = uploaded()
    work, child = suspended_check()
    child.kill()
    work.join()
    assert "more memory or time than is granted" in shown(dataset).errors[0]["detail"]


def test_a_worker_that_shuts_down_releases_the_check(suspended_check, uploaded, shown, database, context, monkeypatch):
    monkeypatch.setattr("worker.operation_queue.DRAIN_SECONDS", 0.1)
    dataset, operation = uploaded()
    work, child = suspended_check()
    context.shutting_down.set()
    work.join()
    assert gone(child)
    assert shown(dataset).state == "checking"
    with database.read() as session:
        assert operations.get_state(session, operation) == "queued"


def test_a_child_ends_with_a_worker_that_is_killed(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text(TABLE)
    code = f"import sys, pathlib; sys.executable = {python_that_stops(tmp_path)!r}; "
    code += "from worker.upload_check import check_upload; "
    code += "check_upload(pathlib.Path(sys.argv[1]), form='csv', roles={}, memory_bytes=1 << 32, seconds=60)"
    with subprocess.Popen([sys.executable, "-c", code, str(path)]) as worker:
        child = stopped_child(psutil.Process(worker.pid))
        worker.kill()
    child.resume()  # a stopped process reads nothing, so it does not see that its input has ended
    wait_for(lambda: gone(child))
