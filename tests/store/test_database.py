"""Sessions: nothing is lost between processes, readers never wait and never write, a restart is survived."""

from __future__ import annotations

import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta, timezone

import pytest
from sqlalchemy import event, select, text, update
from sqlalchemy.exc import DBAPIError, IntegrityError, StatementError

from standalone.database import PostgresServer
from store import database as database_module
from store import jobs, migrate, teams
from store.database import Database
from store.tables import Job, Run, Team
from tests.servers import short_folder
from tests.store.makers import make_people, submit

COUNT = """
import sys
from sqlalchemy import select
from store.database import Database
from store.tables import Team
database = Database(sys.argv[1])
for _ in range(int(sys.argv[2])):
    with database.write() as session:
        team = session.scalars(select(Team).where(Team.name == "ours").with_for_update()).one()
        team.max_queued_jobs = (team.max_queued_jobs or 0) + 1
"""


def test_four_processes_count_together_without_losing_one(database, people):
    each = 50
    counters = [subprocess.Popen([sys.executable, "-c", COUNT, database.url, str(each)]) for _ in range(4)]
    assert [one.wait(timeout=120) for one in counters] == [0, 0, 0, 0]
    with database.read() as session:
        assert teams.get_team(session, people.team).max_queued_jobs == 4 * each


def test_threads_of_one_process_count_together_too(database, people):
    def count():
        for _ in range(25):
            with database.write() as session:
                team = session.scalars(select(Team).where(Team.id == people.team).with_for_update()).one()
                team.max_queued_jobs = (team.max_queued_jobs or 0) + 1

    threads = [threading.Thread(target=count) for _ in range(8)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    with database.read() as session:
        assert teams.get_team(session, people.team).max_queued_jobs == 200


def test_a_reader_does_not_wait_for_a_writer(database, people, clock):
    with database.write() as session:
        teams.get_team(session, people.team).name = "renamed"
        session.flush()
        with database.read() as reading:  # the writer ends after it: a reader that waited for it would be told "locked"
            assert teams.get_team(reading, people.team).name == "ours"


def test_a_reading_session_cannot_write(database, people):
    with pytest.raises(DBAPIError, match=r"read-only|readonly"), database.read() as session:
        session.execute(update(Team).values(name="x"))


def test_what_breaks_half_way_is_undone(database, people, clock):
    def break_half_way():
        with database.write() as session:
            submit(session, people, clock.now)
            raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        break_half_way()
    with database.read() as session:
        assert session.scalar(select(Job.id)) is None


def test_rows_stay_readable_after_their_session(database, people, clock):
    with database.write() as session:
        job = submit(session, people, clock.now)
    assert job.name == "independence"


def test_times_come_back_aware_in_utc_and_naive_ones_are_refused(database, clock):
    there = timezone(timedelta(hours=5, minutes=30))
    with database.write() as session:
        team = teams.create_team(session, "far", now=datetime(2026, 7, 1, 12, 0, 0, 250000, there))
    with database.read() as session:
        found = teams.get_team(session, team.id).created_at
        assert (found, found.tzinfo) == (datetime(2026, 7, 1, 6, 30, 0, 250000, UTC), UTC)
    with pytest.raises(StatementError, match="has no time zone"), database.write() as session:
        teams.create_team(session, "nowhere", now=datetime(2026, 7, 1))


def test_a_foreign_key_holds(database, people, clock):
    with pytest.raises(IntegrityError), database.write() as session:
        submit(session, people, clock.now, member_id="member_nobody")
    with database.write() as session:
        submit(session, people, clock.now)
    with pytest.raises(IntegrityError), database.write() as session:
        session.execute(text("DELETE FROM team"))


def test_a_database_in_memory_is_refused():
    with pytest.raises(ValueError, match="needs a file"):
        Database("sqlite://")


def test_a_restarted_server_is_found_again(clock, monkeypatch):
    with short_folder() as folder, PostgresServer(folder / "pg") as server:
        migrate.upgrade(server.url)
        with Database(server.url) as database:
            with database.write() as session:
                teams.create_team(session, "before", now=clock.now)
            assert database.answers()
            server.kill()
            assert not database.answers()
            server.start()
            monkeypatch.setattr(database_module, "IDLE_SECONDS", 0)
            with database.write() as session:
                teams.create_team(session, "after", now=clock.now)
            with database.read() as session:
                assert sorted(session.scalars(select(Team.name))) == ["after", "before"]


def test_listings_and_leases_go_by_index(postgres_url, clock):
    """PostgreSQL is asked how it would answer; a whole table read where an index was meant shows up here."""
    queries = {
        "newest jobs of a team": select(Job.id).where(Job.team_id == "t").order_by(Job.id.desc()).limit(50),
        "newest runs of a team": select(Run.id).where(Run.team_id == "t").order_by(Run.id.desc()).limit(50),
        "the runs of a job": select(Run.id).where(Run.job_id == "j").order_by(Run.number),
        "what waits": select(Job.id).where(Job.state == "queued", Job.queue == "cpu").order_by(Job.priority).limit(1),
        "what is overdue": select(Job.id).where(Job.state == "running", Job.lease_until < clock.now),
    }
    with Database(postgres_url) as database, database.read() as session:
        session.connection().exec_driver_sql("SET enable_seqscan = off")
        for name, query in queries.items():
            compiled = query.compile(session.get_bind(), compile_kwargs={"literal_binds": True})
            plan = "\n".join(session.scalars(text(f"EXPLAIN {compiled}")))
            assert "Seq Scan" not in plan, f"{name}:\n{plan}"


def test_a_job_is_one_small_transaction(postgres_url, clock):
    """Few round trips: counted, because a busy service lives by them."""
    statements: list[str] = []

    def count(_connection, _cursor, statement, *_):
        statements.append(statement)

    with Database(postgres_url) as database:
        with database.write() as session:
            people = make_people(session, clock.now)
            event.listen(session.get_bind(), "before_cursor_execute", count)
        with database.write() as session:
            statements.clear()
            job = submit(session, people, clock.now)
        assert len(statements) <= 4, statements
        with database.read() as session:
            event.listen(session.get_bind(), "before_cursor_execute", count)
            statements.clear()
            jobs.get(session, people.team, job.id)
        assert len(statements) == 1, statements
