"""A container's health check tells a worker that works from one that hangs."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from store import jobs, migrate
from store.database import Database
from store.jobs import leases
from tests.store.makers import make_people, submit
from worker.health import main, scheduler_problem, worker_problem

NOON = datetime(2026, 1, 2, 12, 0, tzinfo=UTC)


@pytest.fixture
def rows(tmp_path: Path) -> Iterator[Database]:
    url = f"sqlite:///{tmp_path / 'bimt.sqlite'}"
    migrate.upgrade(url)
    database = Database(url)
    yield database
    database.close()


def test_a_worker_is_well_while_it_sends_heartbeats(rows):
    with rows.write() as session:
        leases.heartbeat(session, "cpu-7@node1", queues=["cpu"], device="cpu", doing=None, now=NOON)
    with rows.read() as session:
        assert worker_problem(session, now=NOON + timedelta(seconds=30), host="node1") is None
        assert "node1" in worker_problem(session, now=NOON + timedelta(seconds=90), host="node1")
        assert "node2" in worker_problem(session, now=NOON, host="node2")


def test_the_scheduler_is_well_until_a_job_waits_unannounced(rows):
    with rows.write() as session:
        job = submit(session, make_people(session, NOON), NOON).id

    def complaint(seconds: float) -> str | None:
        with rows.read() as session:
            return scheduler_problem(session, now=NOON + timedelta(seconds=seconds), resend_seconds=30)

    assert complaint(20) is None
    assert job in complaint(200)
    with rows.write() as session:
        jobs.mark_sent(session, [job], at=NOON + timedelta(seconds=190))
    assert complaint(200) is None


def test_the_command_s_exit_code_is_the_answer(rows, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("BIMT_HOME", str(tmp_path))
    assert main([]) == 1
    assert "No worker of" in capsys.readouterr().out
    assert main(["--scheduler"]) == 0
