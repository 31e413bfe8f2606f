"""How an operation ends, whatever its process sends or does not send."""

from __future__ import annotations

import sys
import textwrap
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import get_args

import pytest

from store import jobs, operations, runs
from store.database import Database
from store.files import Files
from store.settings import OPERATION_QUEUES
from tests.store.makers import People, claim, result, submit
from tests.worker.conftest import in_the_background, wait_for
from worker import protocol
from worker.context import WorkerContext
from worker.operation_queue import OneAtATime
from worker.operations import OPERATIONS

INTERACTIVE, BATCH = OPERATION_QUEUES

# An operation process without the engine: it does with each operation what the test wrote.
SCRIPT = """
import json, os, pathlib, signal, sys, time
def send(type, **fields):
    print(json.dumps({"type": type, **fields}), flush=True)
def answer(document, **files):
    for name, content in files.items():
        (folder / name).write_text(content)
    (folder / "answer.json").write_text(json.dumps({"document": document, "files": {n: n for n in files}}))
    send("answered")
send("ready")
for line in sys.stdin:
    folder = pathlib.Path(json.loads(line)["folder"])
    request = json.loads((folder / "request.json").read_text())
"""


@pytest.fixture
def process_does(context: WorkerContext, tmp_path: Path) -> Callable[[str], None]:
    def write(lines: str) -> None:
        script = tmp_path / "operations.py"
        script.write_text(SCRIPT + textwrap.indent(textwrap.dedent(lines), "    "))
        context.operation_command = (sys.executable, "-S", str(script))

    return write


@pytest.fixture
def run_id(database: Database, people: People, files: Files) -> str:
    """A run that was published."""
    now = datetime.now(UTC)
    with database.write() as session:
        job = submit(session, people, now).id
        held = claim(session, job, now)
        spec = {"dataset": {"kind": "formula"}}
        run = held.runs[0].id
        runs.start(session, held, run, now)
        runs.publish(session, held, run, result(files), now)
        session.get(runs.Run, run).spec = spec
        jobs.finish(session, held, state="succeeded", now=now)
    return run


def send(database: Database, people: People, run_id: str, kind: str = "predict", queue: str = INTERACTIVE) -> str:
    with database.write() as session:
        return operations.submit(
            session,
            team_id=people.team,
            member_id=people.member,
            kind=kind,
            about=run_id,
            request={"run_id": run_id, "inputs": [[1.0]]},
            queue=queue,
            now=datetime.now(UTC),
        ).id


def outcome(database: Database, people: People, operation: str) -> operations.Operation:
    with database.read() as session:
        return operations.get(session, people.team, operation)


def test_everything_that_waits_is_answered_by_one_process(operation_queue, process_does, database, people, run_id):
    process_does('answer({"asked": request["asked"]["inputs"], "by": os.getpid()})')
    sent = [send(database, people, run_id) for _ in range(3)]
    operation_queue.serve(INTERACTIVE)
    told = [outcome(database, people, operation).answer for operation in sent]
    assert [one["asked"] for one in told] == [[[1.0]]] * 3
    assert len({one["by"] for one in told}) == 1


def test_the_process_gets_weights_and_data_from_the_store(operation_queue, process_does, database, people, run_id):
    process_does('answer({"bytes": os.path.getsize(request["weights"]["path"]), "kind": request["kind"]})')
    operation = send(database, people, run_id)
    operation_queue.serve(INTERACTIVE)
    assert outcome(database, people, operation).answer["bytes"] > 0


def test_a_refusal_reaches_the_caller(operation_queue, process_does, database, people, run_id):
    process_does('send("refused", sentence="There is no neuron.", problems=[["/trials/0/0", "There is no neuron."]])')
    operation = send(database, people, run_id)
    operation_queue.serve(INTERACTIVE)
    assert outcome(database, people, operation).refusal["problems"] == [["/trials/0/0", "There is no neuron."]]


def test_a_process_that_ends_takes_its_folder_with_it(operation_queue, process_does, database, people, run_id, context):
    """However often the process is replaced, the spool holds the folder of the one that lives."""
    process_does("answer({})")

    def folders() -> list[str]:
        return sorted(path.name.rpartition("-")[0] for path in context.spool.glob("job_*"))

    for _ in range(3):
        send(database, people, run_id)
        operation_queue.serve(INTERACTIVE)
        operation_queue._processes[INTERACTIVE].end()  # as if it had died
        send(database, people, run_id, queue="batch")
        operation_queue.serve("batch")
    assert folders() == ["job_operations-interactive"]
    operation_queue.close()
    assert folders() == []


def test_a_process_that_dies_is_replaced(operation_queue, process_does, database, people, run_id, tmp_path):
    process_does(
        f"""
        mark = pathlib.Path({str(tmp_path)!r}) / "died"
        if not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        answer({{"here": True}})
        """
    )
    operation = send(database, people, run_id)
    operation_queue.serve(INTERACTIVE)
    assert outcome(database, people, operation).answer == {"here": True}


def test_an_operation_that_kills_every_process_has_failed(operation_queue, process_does, database, people, run_id):
    process_does("os.kill(os.getpid(), signal.SIGKILL)")
    operation = send(database, people, run_id)
    operation_queue.serve(INTERACTIVE)
    told = outcome(database, people, operation)
    assert told.state == "failed"
    assert "The operation process was killed by signal 9, as a machine does" in told.reason
    assert "It died 2 times at this" in told.reason


def test_an_operation_that_needs_too_much_memory_has_failed_and_the_next_is_answered(
    operation_queue, process_does, database, people, run_id
):
    operation_queue.context.settings = replace(operation_queue.context.settings, job_memory_bytes=200 << 20)
    process_does(
        """
        greedy = pathlib.Path(__file__).with_name("greedy")
        if not greedy.exists():
            greedy.touch()
            held = b"x" * (400 << 20)
            signal.pause()
        answer("few")
        """
    )
    greedy, modest = (send(database, people, run_id) for _ in range(2))
    operation_queue.serve(INTERACTIVE)
    assert "one job may have 0.20 GiB" in outcome(database, people, greedy).reason
    assert outcome(database, people, modest).answer == "few"


def test_an_operation_that_takes_too_long_ends(operation_queue, process_does, database, people, run_id, monkeypatch):
    kind = OPERATIONS["predict"]
    monkeypatch.setitem(OPERATIONS, "predict", replace(kind, seconds=0.3))
    process_does("signal.pause()")
    operation = send(database, people, run_id)
    operation_queue.serve(INTERACTIVE)
    assert "longer than 0 s" in outcome(database, people, operation).reason


def test_a_cancelled_operation_is_ended(operation_queue, process_does, database, people, run_id):
    process_does('send("operation_progress", fraction=0.5, note="half")\nsignal.pause()')
    operation = send(database, people, run_id, kind="film", queue=BATCH)
    work = in_the_background(lambda: operation_queue.serve(BATCH))
    wait_for(lambda: outcome(database, people, operation).progress == 0.5)
    with database.write() as session:
        jobs.request_cancel(session, people.team, operation, datetime.now(UTC))
    work.join()
    assert outcome(database, people, operation).state == "cancelled"


def test_a_worker_that_shuts_down_releases_its_operation(
    operation_queue, process_does, database, people, run_id, context, monkeypatch
):
    monkeypatch.setattr("worker.operation_queue.DRAIN_SECONDS", 0.2)
    process_does('send("operation_progress", fraction=0.5, note="half")\nsignal.pause()')
    operation = send(database, people, run_id)
    work = in_the_background(lambda: operation_queue.serve(INTERACTIVE))
    wait_for(lambda: outcome(database, people, operation).state == "running")
    context.shutting_down.set()
    work.join()
    assert outcome(database, people, operation).state == "queued"


def test_an_operation_whose_lease_was_lost_is_not_answered(operation_queue, process_does, database, people, run_id):
    process_does("signal.pause()")
    operation = send(database, people, run_id)
    work = in_the_background(lambda: operation_queue.serve(INTERACTIVE))
    wait_for(lambda: outcome(database, people, operation).state == "running")
    operation_queue.context.shutting_down.set()  # so that it is not taken up again at once
    with database.write() as session:
        assert jobs.reap(session, now=datetime.now(UTC) + timedelta(hours=1)) == [operation]
    work.join()
    assert outcome(database, people, operation).state == "queued"


def test_files_are_kept_by_the_run(operation_queue, process_does, database, people, run_id, context):
    process_does('answer(None, **{"film.mp4": "moving", "film.gif": "too"})')
    operation = send(database, people, run_id, kind="film", queue=BATCH)
    before = _bytes(database, people, run_id)
    operation_queue.serve(BATCH)
    assert (outcome(database, people, operation).state, outcome(database, people, operation).answer) == (
        "succeeded",
        None,
    )
    with database.read() as session:
        assert context.files.read(runs.published_file(session, run_id, "film.mp4").sha256) == b"moving"
    assert _bytes(database, people, run_id) == before + len("movingtoo")


def test_the_process_of_the_batch_queue_ends_with_the_queue(operation_queue, process_does, database, people, run_id):
    process_does('answer(None, **{"film.mp4": "moving"})')
    send(database, people, run_id, kind="film", queue=BATCH)
    operation_queue.serve(BATCH)
    assert list(operation_queue._processes) == []


def test_a_question_about_a_run_that_is_gone_has_failed(operation_queue, process_does, database, people):
    process_does("answer({})")
    operation = send(database, people, "run_gone")
    operation_queue.serve(INTERACTIVE)
    assert outcome(database, people, operation).state == "failed"
    assert "There is no run" in outcome(database, people, operation).reason


def test_a_function_never_runs_twice_at_once_and_no_call_is_lost():
    running, most, done = 0, 0, 0
    started, proceed = threading.Event(), threading.Event()

    def function() -> None:
        nonlocal running, most, done
        running += 1
        most = max(most, running)
        started.set()
        proceed.wait()
        running -= 1
        done += 1

    once = OneAtATime(function)
    first = in_the_background(once)
    started.wait()
    once()  # returns at once, and makes it run again
    proceed.set()
    first.join()
    assert (most, done) == (1, 2)


@pytest.mark.parametrize("kind", get_args(protocol.OperationMessage), ids=lambda kind: kind.__name__)
def test_every_message_is_handled(operation_queue, process_does, database, people, run_id, kind):
    """Those that end the operation end it; the others are followed by an answer, after a full disk at a second try."""
    example, state = {
        protocol.Ready: (protocol.Ready(), "succeeded"),
        protocol.LogLine: (protocol.LogLine(level="info", text="a line"), "succeeded"),
        protocol.OperationProgress: (protocol.OperationProgress(fraction=0.5, note="half"), "succeeded"),
        protocol.Answered: (protocol.Answered(), "succeeded"),
        protocol.Refused: (protocol.Refused(sentence="No.", problems=[("/inputs/0", "No.")]), "failed"),
        protocol.Failed: (protocol.Failed(sentence="No."), "failed"),
        protocol.DiskFull: (protocol.DiskFull(), "succeeded"),
    }[kind]
    process_does(
        f"""
        again = (folder / "answer.json").exists()
        (folder / "answer.json").write_text(json.dumps({{"document": 1, "files": {{}}}}))
        if not again:
            print({example.line().strip()!r}, flush=True)
        if again or {kind not in (protocol.Answered, protocol.DiskFull) and state == "succeeded"}:
            send("answered")
        """
    )
    operation = send(database, people, run_id)
    operation_queue.serve(INTERACTIVE)
    assert outcome(database, people, operation).state == state


def _bytes(database: Database, people: People, run_id: str) -> int:
    with database.read() as session:
        return runs.get(session, people.team, run_id).bytes
