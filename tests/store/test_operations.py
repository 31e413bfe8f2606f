"""Operations are jobs that are never listed or counted as trainings; upload checks are operations."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from store import aliases, datasets, jobs, operations
from store.errors import LostLease, NotFound, QuotaExceeded
from store.jobs import submissions
from tests.store.makers import claim, make_people, submit

NOON = datetime(2026, 1, 2, 12, 0, tzinfo=UTC)


@pytest.fixture
def people(database):
    with database.write() as session:
        return make_people(session, NOON)


def send(session, people, **wanted):
    given = {"kind": "predict", "about": "run_1", "request": {"run_id": "run_1"}, "queue": "interactive", "now": NOON}
    return operations.submit(session, team_id=people.team, member_id=people.member, **(given | wanted))


def test_an_answer_can_be_read_once_the_operation_has_succeeded(database, people):
    with database.write() as session:
        operation = send(session, people).id
        assert operations.get(session, people.team, operation).state == "queued"
        operations.succeed(session, claim(session, operation, NOON), {"outputs": [1.5]}, now=NOON)
    with database.read() as session:
        found = operations.get(session, people.team, operation)
    assert (found.is_final, found.answer, found.refusal) == (True, {"outputs": [1.5]}, None)


def test_a_refusal_says_what_was_wrong_and_where(database, people):
    with database.write() as session:
        operation = send(session, people).id
        problems = [("/inputs/0", "A row has 4 numbers.")]
        operations.refuse(session, claim(session, operation, NOON), "A row has 4 numbers.", problems=problems, now=NOON)
        found = operations.get(session, people.team, operation)
    assert (found.state, found.reason) == ("failed", "A row has 4 numbers.")
    assert found.refusal == {"detail": "A row has 4 numbers.", "problems": [["/inputs/0", "A row has 4 numbers."]]}


def test_an_attempt_that_lost_its_lease_cannot_answer(database, people):
    with database.write() as session:
        operation = send(session, people).id
        held = claim(session, operation, NOON)
        assert jobs.reap(session, now=NOON + timedelta(hours=1)) == [operation]
    with pytest.raises(LostLease), database.write() as session:
        operations.succeed(session, held, {}, now=NOON)


def test_operations_are_not_in_the_list_of_jobs_nor_in_their_quota(database, people):
    with database.write() as session:
        training = submit(session, people, NOON).id
        operation = send(session, people).id
        assert [job.id for job in jobs.page(session, people.team).rows] == [training]
        assert submissions.waiting(session, people.team) == (1, 100)
        taken = jobs.claim_next(session, "cpu", worker="w", now=NOON, lease_seconds=60)
        assert taken is not None
        assert taken.job_id == training
        assert jobs.claim_next(session, "cpu", worker="w", now=NOON, lease_seconds=60) is None
        taken = jobs.claim_next(session, "interactive", worker="w", now=NOON, lease_seconds=60)
        assert taken is not None
        assert taken.job_id == operation


def test_a_team_may_wait_for_so_many_answers_and_no_more(database, people):
    with database.write() as session:
        for number in range(operations.MAX_WAITING):
            send(session, people, about=f"run_{number}")
        with pytest.raises(QuotaExceeded, match="as many as it may"):
            send(session, people)
        operations.submit(
            session,
            team_id=people.other_team,
            member_id=people.other_member,
            kind="predict",
            about="x",
            request={},
            queue="interactive",
            now=NOON,
        )


def test_a_stored_result_is_computed_once(database, people):
    with database.write() as session:
        film = send(session, people, kind="film", queue="batch", once=True).id
        assert send(session, people, kind="film", queue="batch", once=True).id == film
        assert send(session, people, kind="film", about="run_2", queue="batch", once=True).id != film
        operations.succeed(session, claim(session, film, NOON), None, now=NOON)
        assert send(session, people, kind="film", queue="batch", once=True).id != film


def test_ended_operations_are_deleted_after_their_time_and_trainings_are_not(database, people):
    with database.write() as session:
        training, operation, waiting = (
            submit(session, people, NOON).id,
            send(session, people).id,
            send(session, people).id,
        )
        for one in (training, operation):
            jobs.finish(session, claim(session, one, NOON), state="failed", now=NOON)
        assert operations.delete_ended(session, ended_before=NOON) == 0
        assert operations.delete_ended(session, ended_before=NOON + timedelta(seconds=1)) == 1
        assert jobs.get(session, people.team, training).state == "failed"
        assert operations.get(session, people.team, waiting).state == "queued"
        with pytest.raises(NotFound):
            operations.get(session, people.team, operation)


def test_a_training_is_no_operation(database, people):
    with database.write() as session:
        training = submit(session, people, NOON).id
        with pytest.raises(NotFound):
            operations.get(session, people.team, training)
        with pytest.raises(NotFound):
            operations.get(session, people.other_team, send(session, people).id)


@pytest.mark.parametrize(("old", "new"), sorted(aliases.QUEUES.items()))
def test_the_queue_names_of_the_version_before_still_work(database, people, old, new):
    with database.write() as session:
        sent = send(session, people, queue=old)
        assert sent.queue == new
        assert jobs.claim_next(session, old, worker="w", now=NOON, lease_seconds=60).job_id == sent.id


def checking(session, people, files, content=b"a,b"):
    stored = files.put_bytes(content)
    return datasets.register(
        session, team_id=people.team, member_id=people.member, name="t", kind="uploaded", now=NOON, state="checking",
        sha256=stored.sha256, bytes=stored.bytes, format="csv", roles={"inputs": ["a"]},
    )  # fmt: skip


def state(session, people, dataset):
    session.expire_all()
    return datasets.get(session, people.team, dataset.id).state


def test_a_check_is_an_operation_whose_end_makes_the_data_set_ready(database, people, files):
    with database.write() as session:
        dataset = checking(session, people, files)
        operation = operations.submit_check(session, dataset, now=NOON)
        assert operations.submit_check(session, dataset, now=NOON).id == operation.id
        assert (operation.kind, operation.queue) == ("check_upload", "interactive")
        held = claim(session, operation.id, NOON)
        expected = {"dataset_id": dataset.id, "sha256": dataset.sha256, "format": "csv", "roles": {"inputs": ["a"]}}
        assert held.spec == expected
        assert operations.finish_check(session, held, now=NOON, preview={"rows": 3}, rows=3, columns=2)
        assert state(session, people, dataset) == "ready"
        assert operations.get(session, people.team, operation.id).state == "succeeded"


def test_a_check_that_finds_errors_refuses_the_data_set(database, people, files):
    with database.write() as session:
        dataset = checking(session, people, files)
        held = claim(session, operations.submit_check(session, dataset, now=NOON).id, NOON)
        errors = [{"in": "file", "pointer": "/file", "detail": "Two columns are called `a`."}]
        operations.finish_check(session, held, now=NOON, errors=errors)
        assert state(session, people, dataset) == "refused"
        assert datasets.get(session, people.team, dataset.id).errors == errors


def test_a_check_that_loses_too_many_workers_or_is_cancelled_refuses_the_data_set(database, people, files):
    with database.write() as session:
        first, second = checking(session, people, files), checking(session, people, files, b"c,d")
        claim(session, operations.submit_check(session, first, now=NOON).id, NOON)
        waiting = operations.submit_check(session, second, now=NOON)
        jobs.reap(session, now=NOON + timedelta(hours=1), max_attempts=1)
        jobs.request_cancel(session, people.team, waiting.id, NOON)
        assert [state(session, people, one) for one in (first, second)] == ["refused", "refused"]
        assert "lost 1 workers" in datasets.get(session, people.team, first.id).errors[0]["detail"]


def test_a_data_set_without_a_check_gets_one(database, people, files):
    with database.write() as session:
        dataset = checking(session, people, files)
        [submitted] = operations.submit_missing_checks(session, now=NOON)
        assert operations.submit_missing_checks(session, now=NOON) == []
        assert submitted.dataset_id == dataset.id


def test_a_data_set_can_be_deleted_while_it_is_checked(database, people, files):
    with database.write() as session:
        dataset = checking(session, people, files)
        held = claim(session, operations.submit_check(session, dataset, now=NOON).id, NOON)
        datasets.delete(session, people.team, dataset.id)
        assert not operations.finish_check(session, held, now=NOON)
