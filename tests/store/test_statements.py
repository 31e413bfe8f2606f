"""Statements that go past SQLAlchemy's machinery say, find and fail as they would through it."""

from __future__ import annotations

import pytest
from sqlalchemy import bindparam, insert, select, text
from sqlalchemy.exc import IntegrityError, OperationalError

from store import jobs, teams
from store.statements import Statement
from store.tables import Team
from tests.store.makers import submit


def test_a_job_is_seen_with_the_values_that_its_row_has(database, people, clock):
    with database.write() as session:
        job_id = submit(session, people, clock.now, tags=["b", "a"], spec={"a": [1.5, None]}).id
        session.execute(text("UPDATE job SET progress = 0.25, losses = :said"), {"said": '{"train": 0.5}'})
    with database.read() as session:
        seen, row = jobs.look(session, people.team, job_id), jobs.get(session, people.team, job_id)
    assert seen.queue_position == 0
    assert {name: getattr(row, name) for name in seen._fields[:-1]} == dict(list(seen._asdict().items())[:-1])
    assert (type(seen.pinned), seen.created_at.tzinfo, seen.losses) == (bool, row.created_at.tzinfo, {"train": 0.5})


def test_a_statement_has_its_own_words_and_is_given_the_others(database, people):
    by_name = Statement(select(Team.id).where(Team.name == bindparam("name"), Team.max_queued_jobs.is_(None)))
    with database.read() as session:
        assert by_name.all(session, name="ours") == [(people.team,)]
        assert by_name.first(session, name="nobody's") is None
        with pytest.raises(KeyError, match="name"):
            by_name.first(session)


def test_what_the_driver_refuses_is_sqlalchemy_s_error_without_the_values(database, people, clock):
    new_team = Statement(insert(Team.__table__), columns=("id", "name", "created_at"))
    with pytest.raises(IntegrityError) as refused, database.write() as session:
        new_team.run(session, {"id": "team_1", "name": "ours", "created_at": clock.now})
    assert "team_1" not in str(refused.value)
    with database.read() as session:
        assert teams.named(session, "ours").id == people.team


def test_a_connection_that_was_cut_is_let_go_of(database, people):
    if database.is_sqlite:
        pytest.skip("nothing can cut the way to a file")
    count = Statement(select(Team.id).order_by(Team.id))
    with database.read() as session:
        assert len(count.all(session)) == 2
    with database.write() as session:
        session.execute(text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid != pg_backend_pid()"))
    with pytest.raises(OperationalError), database.read() as session:
        count.all(session)
    with database.read() as session:
        assert len(count.all(session)) == 2
