"""Lists, searches, claims and submissions go by index, however many rows there are: the query planner says so."""

from __future__ import annotations

import pytest
from sqlalchemy import event, text

from store import jobs, runs
from store.database import Database
from tests.store.makers import make_people, submit

GROWING = {
    "job",
    "run",
    "job_1",
    "attempt",
    "job_tag",
    "effect",
    "interior_group",
    "part_input",
}  # tables, and aliases in queries, that hold many rows


@pytest.fixture
def plans(sqlite_url, clock):
    """(plans of what a function executes, people, an id of a queued job) in a small SQLite database."""
    with Database(sqlite_url) as database:
        with database.write() as session:
            people = make_people(session, clock.now)
            job = submit(session, people, clock.now, tags=["rare"])

        def plans(ask):
            executed = []
            with database.write() as session:
                connection = session.connection()

                def note(_connection, _cursor, statement, parameters, _context, many):
                    if not statement.startswith(("EXPLAIN", "SAVEPOINT", "RELEASE")):
                        executed.append((statement, parameters[0] if many else parameters))

                event.listen(connection, "before_cursor_execute", note)
                ask(session)
                event.remove(connection, "before_cursor_execute", note)
                found = []
                for statement, parameters in executed:
                    found += [
                        row[3] for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)
                    ]
                session.execute(text("SELECT 1"))
            return found

        yield plans, people, job.id


CLAIM = {"worker": "w", "lease_seconds": 60}


@pytest.mark.parametrize(
    "ask",
    [
        lambda session, people, job_id, now: runs.page(session, people.team, limit=50),
        lambda session, people, job_id, now: runs.page(session, people.team, after="run_x", limit=50),
        lambda session, people, job_id, now: runs.page(session, people.team, min_modules=6, max_connections=9),
        lambda session, people, job_id, now: runs.page(session, people.team, reads="x1", moves="y1"),
        lambda session, people, job_id, now: jobs.page(session, people.team, limit=50),
        lambda session, people, job_id, now: jobs.page(session, people.team, state="queued", limit=50),
        lambda session, people, job_id, now: jobs.page(session, people.team, tag="rare", limit=50),
        lambda session, people, job_id, now: jobs.page(session, people.team, q="nowhere", limit=50),
        lambda session, people, job_id, now: jobs.get_view(session, people.team, job_id),
        lambda session, people, job_id, now: jobs.unsent(session, now=now, resend_after=30),
        lambda session, people, job_id, now: jobs.usage(session, people.team),
        lambda session, people, job_id, now: jobs.claim_next(session, "cpu", now=now, **CLAIM),
        lambda session, people, job_id, now: jobs.reap(session, now=now),
        lambda session, people, job_id, now: submit(session, people, now),
    ],
    ids=[
        "runs", "later runs", "runs by evidence", "runs by role", "jobs", "queued jobs", "jobs by tag", "jobs by text",
        "one job", "unsent jobs", "usage", "claim", "reap", "submit",
    ],
)  # fmt: skip
def test_no_query_scans_a_table_that_grows(plans, clock, ask):
    plans_of, people, job_id = plans
    lines = plans_of(lambda session: ask(session, people, job_id, clock.now))
    scans = [line for line in lines if line.startswith("SCAN ") and "INDEX" not in line]
    assert [line for line in scans if line.split()[1] in GROWING] == []
