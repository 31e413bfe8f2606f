"""Messages for waiting jobs are sent, but not too often; lost ones are requeued; an outage is waited for."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest
from kombu.exceptions import OperationalError

from store import jobs
from store.database import Database
from store.files import Files, damaged_files, upsert
from store.jobs import leases
from store.settings import Settings
from tests.servers import (
    broker,  # noqa: F401 - fixtures are found by name
    overwrite,
)
from tests.store.makers import People, claim, submit
from tests.worker.conftest import Clock
from worker.scheduler import Scheduler, broker_counter


class Messages:
    """A broker that counts what it holds."""

    def __init__(self) -> None:
        self.held: Counter[str] = Counter()
        self.sent: list[str] = []
        self.away = False

    def count(self, queue: str) -> int:
        if self.away:
            raise OperationalError("connection refused")
        return self.held[queue]

    def announce(self, job_id: str, queue: str, priority: int) -> None:
        self.sent.append(job_id)
        self.held[queue] += 1


@pytest.fixture
def messages() -> Messages:
    return Messages()


@pytest.fixture
def scheduler(database: Database, files: Files, messages: Messages, clock: Clock, tmp_path) -> Scheduler:
    environ = {"BIMT_DATABASE_URL": database.url, "BIMT_RESEND_SECONDS": "5", "BIMT_LEASE_SECONDS": "2"}
    settings = Settings.from_env(environ, home=tmp_path / "home")
    return Scheduler(settings, database, files, messages.count, messages.announce, clock.now, clock.monotonic)


def submitted(database: Database, people: People, **wanted) -> str:
    with database.write() as session:
        return submit(session, people, datetime.now(UTC), **wanted).id


def test_a_job_that_was_not_announced_is_announced_once(scheduler, messages, database, people):
    job_id = submitted(database, people)
    assert scheduler.enqueue_waiting() == 1
    assert scheduler.enqueue_waiting() == 0
    assert messages.sent == [job_id]


def test_everything_that_waits_is_announced_once_in_any_order(scheduler, messages, database, people):
    ids = [submitted(database, people, priority=priority) for priority in (1, 9, 5)]
    scheduler.enqueue_waiting()
    assert sorted(messages.sent) == sorted(ids)


def test_a_job_that_no_worker_can_take_says_so_until_one_is_there(scheduler, database, people, clock):
    job_id = submitted(database, people)

    def note() -> str | None:
        with database.read() as session:
            return jobs.get(session, people.team, job_id).note

    def beat() -> None:
        with database.write() as session:
            leases.heartbeat(session, "w@here", queues=["cpu"], device="cpu", doing=None, now=clock.now())

    scheduler.note_missing_workers()
    assert note() == "No worker of the queue cpu is running; the job waits for one."
    beat()
    scheduler.note_missing_workers()
    assert note() is None
    clock.passes(120)
    scheduler.note_missing_workers()
    assert "No worker" in str(note())
    with database.write() as session:
        assert leases.claim_next(session, "cpu", worker="w@here", now=clock.now(), lease_seconds=60)
    assert note() is None


def test_messages_that_the_broker_lost_are_sent_again(scheduler, messages, database, people, clock):
    submitted(database, people)
    scheduler.enqueue_waiting()
    messages.held.clear()
    clock.passes(6)
    assert scheduler.enqueue_waiting() == 1


def test_a_queue_never_holds_more_messages_than_jobs(scheduler, messages, database, people, clock):
    for _ in range(3):
        submitted(database, people)
    for _ in range(5):
        scheduler.enqueue_waiting()
        clock.passes(6)
    assert messages.held["cpu"] == 3


def test_an_absent_broker_is_waited_for(scheduler, messages, database, people, caplog):
    submitted(database, people)
    messages.away = True
    for _ in range(3):
        scheduler.run_safely(scheduler.enqueue_waiting)
    assert caplog.text.count("has to wait") == 1
    messages.away = False
    scheduler.run_safely(scheduler.enqueue_waiting)
    assert len(messages.sent) == 1


def test_an_overdue_job_waits_again(scheduler, database, people):
    job_id = submitted(database, people)
    with database.write() as session:
        claim(session, job_id, datetime.now(UTC) - timedelta(seconds=10), lease=1)
    assert scheduler.requeue_lost() == [job_id]
    with database.read() as session:
        assert jobs.get(session, people.team, job_id).state == "queued"


def test_after_an_outage_workers_may_renew_before_a_job_is_requeued(scheduler, database, people, clock):
    job_id = submitted(database, people)
    with database.write() as session:
        claim(session, job_id, datetime.now(UTC) - timedelta(seconds=10), lease=1)

    def away() -> None:
        raise ConnectionError("the database is away")

    scheduler.run_safely(away)
    assert scheduler.requeue_lost() == []
    clock.passes(1)
    assert scheduler.requeue_lost() == [job_id]


def test_what_is_not_needed_is_deleted(scheduler, files, database):
    files.put_bytes(b"never named by a row")
    with database.write() as session:
        long_ago = datetime.now(UTC) - timedelta(days=2)
        leases.heartbeat(session, "gone", queues=["cpu"], device="cpu", doing=None, now=long_ago)
    scheduler.collect()
    scheduler.collect_orphans()
    with database.read() as session:
        assert leases.workers(session, seen_since=long_ago - timedelta(days=1)) == []


def test_the_broker_is_asked_how_much_it_holds(broker):  # noqa: F811
    from store.jobs import outbox

    count = broker_counter(broker.url)
    assert count("cpu") == 0
    for priority in (0, 5, 9):
        outbox.enqueue(broker.url, "job_1", "cpu", priority)
    assert (count("cpu"), count("gpu")) == (3, 0)


def test_damaged_and_lost_files_are_found_and_whole_again_after_the_same_bytes_are_put(
    scheduler: Scheduler, database: Database, files: Files, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    stored = [files.put_bytes(content) for content in (b"whole", b"flipped", b"gone")]
    with database.write() as session:
        for one in stored:
            upsert(session, one, now=clock.now())
    whole, flipped, gone = (one.sha256 for one in stored)
    assert scheduler.scrub() == []
    overwrite(files, flipped, b"Flipped")
    files.delete(gone)
    clock.passes(60)
    assert sorted(scheduler.scrub()) == sorted([flipped, gone])
    assert flipped in caplog.text
    clock.passes(60)
    scheduler.scrub()
    with database.read() as session:
        assert damaged_files(session) == [
            (name, clock.now() - timedelta(seconds=60)) for name in sorted([flipped, gone])
        ]
    for content in (b"flipped", b"gone"):
        with database.write() as session:
            upsert(session, files.put_bytes(content), now=clock.now())
    with database.read() as session:
        assert damaged_files(session) == []
    assert scheduler.scrub() == []
    assert files.read(whole) == b"whole"


def test_the_files_are_gone_through_a_few_at_a_time(
    scheduler: Scheduler, database: Database, files: Files, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.scheduler.SCRUB_BYTES", 10)
    looked_at: list[str] = []
    verify = files.verify
    monkeypatch.setattr(files, "verify", lambda name, again: looked_at.append(name) or verify(name, again=again))
    stored = [files.put_bytes(bytes([n]) * 6) for n in range(4)]
    with database.write() as session:
        for one in stored:
            upsert(session, one, now=clock.now())
    for turn in range(1, 9):
        clock.passes(60)
        scheduler.scrub()
        assert len(looked_at) == turn
    assert set(looked_at[:4]) == set(looked_at[4:]) == {one.sha256 for one in stored}
