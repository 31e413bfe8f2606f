"""What becomes of an errand, whatever its bench says or does not say."""

from __future__ import annotations

import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from store import errands, jobs, runs
from store.database import Database
from store.files import Files
from tests.store.makers import People, claim, result, submit
from tests.worker.conftest import in_the_background
from worker import errand_kinds
from worker.desk import Desk, OneAtATime
from worker.workplace import Workplace

# A bench that does what the test says with each errand: `folder`, `order`, `say` and `answer` are there.
BENCH = """
import json, os, pathlib, signal, sys, time
def say(what, **fields):
    print(json.dumps({"say": what, **fields}), flush=True)
def answer(document, **files):
    for name, content in files.items():
        (folder / name).write_text(content)
    (folder / "answer.json").write_text(json.dumps({"document": document, "files": {n: n for n in files}}))
    say("answer")
say("ready")
for line in sys.stdin:
    folder = pathlib.Path(line.split()[1])
    order = json.loads((folder / "order.json").read_text())
"""


@pytest.fixture
def desk(workplace: Workplace) -> Iterator[Desk]:
    made = Desk(workplace)
    yield made
    made.close()


@pytest.fixture
def bench_does(workplace: Workplace, tmp_path: Path) -> Callable[[str], None]:
    def write(lines: str) -> None:
        script = tmp_path / "bench.py"
        script.write_text(BENCH + textwrap.indent(textwrap.dedent(lines), "    "))
        workplace.bench = (sys.executable, "-S", str(script))

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


def send(database: Database, people: People, run_id: str, kind: str = "predict", queue: str = "errands") -> str:
    with database.write() as session:
        return errands.send(
            session,
            team_id=people.team,
            member_id=people.member,
            kind=kind,
            about=run_id,
            order={"run_id": run_id, "inputs": [[1.0]]},
            queue=queue,
            now=datetime.now(UTC),
        ).id


def outcome(database: Database, people: People, errand: str) -> errands.Outcome:
    with database.read() as session:
        return errands.outcome(session, people.team, errand)


def test_everything_that_waits_is_done_at_one_bench(desk, bench_does, database, people, run_id):
    bench_does('answer({"asked": order["order"]["inputs"], "by": os.getpid()})')
    sent = [send(database, people, run_id) for _ in range(3)]
    desk.serve("errands")
    told = [outcome(database, people, errand).answer for errand in sent]
    assert [one["asked"] for one in told] == [[[1.0]]] * 3
    assert len({one["by"] for one in told}) == 1


def test_the_bench_gets_weights_and_data_from_the_store(desk, bench_does, database, people, run_id):
    bench_does('answer({"bytes": os.path.getsize(order["weights"]["path"]), "kind": order["kind"]})')
    errand = send(database, people, run_id)
    desk.serve("errands")
    assert outcome(database, people, errand).answer["bytes"] > 0


def test_a_refusal_reaches_whoever_asked(desk, bench_does, database, people, run_id):
    bench_does('say("refused", sentence="There is no neuron.", problems=[["/trials/0/0", "There is no neuron."]])')
    errand = send(database, people, run_id)
    desk.serve("errands")
    assert outcome(database, people, errand).refusal["problems"] == [["/trials/0/0", "There is no neuron."]]


def test_a_bench_that_dies_is_replaced_and_asked_again(desk, bench_does, database, people, run_id, tmp_path):
    bench_does(
        f"""
        mark = pathlib.Path({str(tmp_path)!r}) / "died"
        if not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        answer({{"here": True}})
        """
    )
    errand = send(database, people, run_id)
    desk.serve("errands")
    assert outcome(database, people, errand).answer == {"here": True}


def test_an_errand_that_kills_every_bench_has_failed(desk, bench_does, database, people, run_id):
    bench_does("os.kill(os.getpid(), signal.SIGKILL)")
    errand = send(database, people, run_id)
    desk.serve("errands")
    told = outcome(database, people, errand)
    assert told.state == "failed"
    assert "The bench was killed by signal 9. It died 2 times at this" in told.reason


def test_an_errand_that_takes_too_long_is_ended(desk, bench_does, database, people, run_id, monkeypatch):
    kind = errand_kinds.KINDS["predict"]
    monkeypatch.setitem(errand_kinds.KINDS, "predict", errand_kinds.Kind(kind.needs, kind.keep, seconds=0.3))
    bench_does("time.sleep(60)")
    errand = send(database, people, run_id)
    desk.serve("errands")
    assert "longer than 0 s" in outcome(database, people, errand).reason


def test_cancel_is_heard(desk, bench_does, database, people, run_id):
    bench_does('say("progress", fraction=0.5, note="half")\ntime.sleep(60)')
    errand = send(database, people, run_id, kind="film", queue="chores")
    work = in_the_background(lambda: desk.serve("chores"))
    deadline = time.monotonic() + 20
    while outcome(database, people, errand).progress < 0.5:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    with database.write() as session:
        jobs.request_cancel(session, people.team, errand, datetime.now(UTC))
    work.join(10)
    assert outcome(database, people, errand).state == "cancelled"


def test_a_worker_that_goes_home_hands_its_errand_back(
    desk, bench_does, database, people, run_id, workplace, monkeypatch
):
    monkeypatch.setattr("worker.desk.LAST_SECONDS", 0.2)
    bench_does('say("progress", fraction=0.5, note="half")\ntime.sleep(60)')
    errand = send(database, people, run_id)
    work = in_the_background(lambda: desk.serve("errands"))
    deadline = time.monotonic() + 20
    while outcome(database, people, errand).state != "running":
        assert time.monotonic() < deadline
        time.sleep(0.02)
    workplace.going_home.set()
    work.join(10)
    assert outcome(database, people, errand).state == "queued"


def test_an_errand_whose_lease_was_lost_is_answered_by_nobody_twice(desk, bench_does, database, people, run_id):
    bench_does("time.sleep(60)")
    errand = send(database, people, run_id)
    work = in_the_background(lambda: desk.serve("errands"))
    deadline = time.monotonic() + 20
    while outcome(database, people, errand).state != "running":
        assert time.monotonic() < deadline
        time.sleep(0.02)
    desk.here.going_home.set()  # so that it is not taken up again at once
    with database.write() as session:
        assert jobs.reap(session, now=datetime.now(UTC) + timedelta(hours=1)) == [errand]
    work.join(10)
    assert outcome(database, people, errand).state == "queued"


def test_files_are_kept_by_the_run(desk, bench_does, database, people, run_id, workplace):
    bench_does('answer(None, **{"film.mp4": "moving", "film.gif": "too"})')
    errand = send(database, people, run_id, kind="film", queue="chores")
    before = _bytes(database, people, run_id)
    desk.serve("chores")
    assert (outcome(database, people, errand).state, outcome(database, people, errand).answer) == ("succeeded", None)
    with database.read() as session:
        assert workplace.files.read(runs.published_file(session, run_id, "film.mp4").sha256) == b"moving"
    assert _bytes(database, people, run_id) == before + len("movingtoo")


def test_the_bench_of_a_chore_ends_with_it(desk, bench_does, database, people, run_id):
    bench_does('answer(None, **{"film.mp4": "moving"})')
    send(database, people, run_id, kind="film", queue="chores")
    desk.serve("chores")
    assert list(desk._benches) == []


def test_a_question_about_a_run_that_is_gone_has_failed(desk, bench_does, database, people):
    bench_does("answer({})")
    errand = send(database, people, "run_gone")
    desk.serve("errands")
    assert outcome(database, people, errand).state == "failed"
    assert "There is no run" in outcome(database, people, errand).reason


def test_a_deed_is_never_done_twice_at_once_and_never_forgotten():
    at_it, most, done, go_on = 0, 0, 0, threading.Event()

    def deed() -> None:
        nonlocal at_it, most, done
        at_it += 1
        most = max(most, at_it)
        go_on.wait(10)
        at_it -= 1
        done += 1

    once = OneAtATime(deed)
    first = in_the_background(once)
    while not at_it:
        time.sleep(0.001)
    once()  # returns at once, and has it done again
    go_on.set()
    first.join(10)
    assert (most, done) == (1, 2)


def _bytes(database: Database, people: People, run_id: str) -> int:
    with database.read() as session:
        return runs.get(session, people.team, run_id).bytes
