"""Errands are jobs that nobody mistakes for trainings."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from store import errands, jobs, usage
from store.errors import LostLease, NotFound, QuotaExceeded
from tests.store.makers import claim, make_people, submit

NOON = datetime(2026, 1, 2, 12, 0, tzinfo=UTC)


@pytest.fixture
def people(database):
    with database.write() as session:
        return make_people(session, NOON)


def send(session, people, **wanted):
    given = {"kind": "predict", "about": "run_1", "order": {"run_id": "run_1"}, "queue": "errands", "now": NOON}
    return errands.send(session, team_id=people.team, member_id=people.member, **(given | wanted))


def test_an_answer_is_there_once_it_was_given(database, people):
    with database.write() as session:
        errand = send(session, people).id
        assert errands.outcome(session, people.team, errand).state == "queued"
        errands.answered(session, claim(session, errand, NOON), {"outputs": [1.5]}, now=NOON)
    with database.read() as session:
        outcome = errands.outcome(session, people.team, errand)
    assert (outcome.is_final, outcome.answer, outcome.refusal) == (True, {"outputs": [1.5]}, None)


def test_a_refusal_says_what_was_wrong_and_where(database, people):
    with database.write() as session:
        errand = send(session, people).id
        problems = [("/inputs/0", "A row has 4 numbers.")]
        errands.refused(session, claim(session, errand, NOON), "A row has 4 numbers.", problems=problems, now=NOON)
        outcome = errands.outcome(session, people.team, errand)
    assert (outcome.state, outcome.reason) == ("failed", "A row has 4 numbers.")
    assert outcome.refusal == {"detail": "A row has 4 numbers.", "problems": [["/inputs/0", "A row has 4 numbers."]]}


def test_whoever_lost_the_errand_answers_no_more(database, people):
    with database.write() as session:
        errand = send(session, people).id
        held = claim(session, errand, NOON)
        assert jobs.reap(session, now=NOON + timedelta(hours=1)) == [errand]
    with pytest.raises(LostLease), database.write() as session:
        errands.answered(session, held, {}, now=NOON)


def test_errands_are_in_no_list_of_jobs_and_in_no_quota_of_theirs(database, people):
    with database.write() as session:
        training = submit(session, people, NOON).id
        errand = send(session, people).id
        assert [job.id for job in jobs.page(session, people.team).rows] == [training]
        assert usage.waiting(session, people.team) == (1, 100)
        taken = jobs.claim_next(session, "cpu", worker="w", now=NOON, lease_seconds=60)
        assert taken is not None
        assert taken.job_id == training
        assert jobs.claim_next(session, "cpu", worker="w", now=NOON, lease_seconds=60) is None
        taken = jobs.claim_next(session, "errands", worker="w", now=NOON, lease_seconds=60)
        assert taken is not None
        assert taken.job_id == errand


def test_a_team_may_wait_for_so_many_answers_and_no_more(database, people):
    with database.write() as session:
        for number in range(errands.MOST_WAITING):
            send(session, people, about=f"run_{number}")
        with pytest.raises(QuotaExceeded, match="as many as it may"):
            send(session, people)
        errands.send(
            session,
            team_id=people.other_team,
            member_id=people.other_member,
            kind="predict",
            about="x",
            order={},
            queue="errands",
            now=NOON,
        )


def test_what_is_kept_is_worked_out_once(database, people):
    with database.write() as session:
        film = send(session, people, kind="film", queue="chores", once=True).id
        assert send(session, people, kind="film", queue="chores", once=True).id == film
        assert send(session, people, kind="film", about="run_2", queue="chores", once=True).id != film
        errands.answered(session, claim(session, film, NOON), None, now=NOON)
        assert send(session, people, kind="film", queue="chores", once=True).id != film


def test_answers_are_forgotten_after_their_time_and_trainings_are_not(database, people):
    with database.write() as session:
        training, errand, waiting = submit(session, people, NOON).id, send(session, people).id, send(session, people).id
        for one in (training, errand):
            jobs.finish(session, claim(session, one, NOON), state="failed", now=NOON)
        assert errands.forget(session, ended_before=NOON) == 0
        assert errands.forget(session, ended_before=NOON + timedelta(seconds=1)) == 1
        assert jobs.get(session, people.team, training).state == "failed"
        assert errands.outcome(session, people.team, waiting).state == "queued"
        with pytest.raises(NotFound):
            errands.outcome(session, people.team, errand)


def test_a_training_is_no_errand(database, people):
    with database.write() as session:
        training = submit(session, people, NOON).id
        with pytest.raises(NotFound):
            errands.outcome(session, people.team, training)
        with pytest.raises(NotFound):
            errands.outcome(session, people.other_team, send(session, people).id)
