"""Jobs: submitted once, listed whole, cancelled, retried, deleted; never seen by another team."""

from __future__ import annotations

import pytest
from sqlalchemy import func, select, text

from store import datasets, jobs, runs, teams
from store.columns import new_id
from store.errors import Conflict, NotFound, QuotaExceeded
from store.files import StoredFile
from store.tables import Attempt, IdempotencyKey, Job, JobTag, Run
from tests.store.makers import claim, new_runs, result, submit


def test_a_submitted_job_waits_with_all_its_runs(database, people, clock):
    with database.write() as session:
        job = submit(session, people, clock.now, runs=new_runs(3), tags=["b", "a", "b"], priority=7)
    with database.read() as session:
        found = jobs.get(session, people.team, job.id)
        children = runs.of_job(session, people.team, job.id)
    assert (found.state, found.priority, found.tags, found.steps, found.runs) == ("queued", 7, ["a", "b"], 300, 3)
    assert found.created_at == clock.now
    assert found.spec == {"dataset": {"kind": "formula"}}
    assert [(run.number, run.seed, run.state) for run in children] == [
        (0, 0, "queued"),
        (1, 1, "queued"),
        (2, 2, "queued"),
    ]


def test_the_same_key_gives_the_same_job_and_another_request_a_conflict(database, people, clock):
    with database.write() as session:
        first = submit(session, people, clock.now, idempotency_key="k", spec={"b": 1, "a": 2})
    with database.write() as session:
        again = submit(session, people, clock.pass_seconds(5), idempotency_key="k", spec={"a": 2, "b": 1})
    assert again.id == first.id
    with pytest.raises(Conflict, match="`k` was used for another request"), database.write() as session:
        submit(session, people, clock.now, idempotency_key="k", spec={"a": 3})
    with database.read() as session:
        assert session.scalar(select(func.count()).select_from(Job)) == 1
        assert session.scalar(select(func.count()).select_from(Run)) == 1


def test_a_refused_submission_leaves_its_key_free(database, people, clock):
    with pytest.raises(NotFound), database.write() as session:
        submit(session, people, clock.now, idempotency_key="k", dataset_id="dataset_" + "0" * 26)
    with database.read() as session:
        assert session.scalar(select(func.count()).select_from(IdempotencyKey)) == 0
        assert session.scalar(select(func.count()).select_from(Job)) == 0


def test_another_team_sees_nothing_of_it(database, people, clock):
    with database.write() as session:
        job = submit(session, people, clock.now, tags=["secret"])
    with database.write() as session:
        for ask in (jobs.get, jobs.delete, runs.of_job):
            with pytest.raises(NotFound):
                ask(session, people.other_team, job.id)
        for change in (jobs.request_cancel, jobs.retry):
            with pytest.raises(NotFound):
                change(session, people.other_team, job.id, clock.now)
        with pytest.raises(NotFound):
            jobs.change(session, people.other_team, job.id, pinned=True)
        assert jobs.page(session, people.other_team, tag="secret").rows == []
    with database.read() as session:
        assert jobs.get(session, people.team, job.id).state == "queued"


def test_another_team_s_data_set_cannot_be_learned_from(database, people, clock):
    with database.write() as session:
        theirs = datasets.register(
            session, team_id=people.other_team, member_id=people.other_member, name="theirs", kind="made",
            maker={"kind": "two_moons"}, now=clock.now,
        )  # fmt: skip
    with pytest.raises(NotFound), database.write() as session:
        submit(session, people, clock.now, dataset_id=theirs.id)


def test_pages_are_complete_and_without_doubles_while_jobs_come_in(database, people, clock):
    with database.write() as session:
        before = [submit(session, people, clock.now).id for _ in range(23)]
    seen, after = [], None
    while True:
        with database.read() as session:
            page = jobs.page(session, people.team, after=after, limit=5)
        seen += [job.id for job in page.rows]
        with database.write() as session:
            submit(session, people, clock.now)
        after = page.after
        if after is None:
            break
    assert seen == sorted(before, reverse=True)


def test_jobs_are_found_by_state_tag_words_and_owner(database, people, clock):
    with database.write() as session:
        plain = submit(session, people, clock.now, name="100% Moons_a", tags=["paper"])
        other = submit(session, people, clock.now, name="sharing", tags=["Moonlight"])
        jobs.request_cancel(session, people.team, other.id, clock.now)
        someone = teams.create_member(session, people.team, "Eve", role="member", now=clock.now)
        hers = submit(session, people, clock.now, name="hers", member_id=someone.id)

    def found(**wanted):
        with database.read() as session:
            return {job.id for job in jobs.page(session, people.team, **wanted).rows}

    assert found(state="cancelled") == {other.id}
    assert found(tag="paper") == {plain.id}
    assert found(q="moon") == {plain.id, other.id}
    assert found(q="100%") == {plain.id}
    assert found(q="s_a") == {plain.id}
    assert found(q="%") == {plain.id}
    assert found(owner=someone.id) == {hers.id}
    assert found(q="moon", state="queued") == {plain.id}


def test_a_waiting_job_is_cancelled_at_once_and_a_running_one_is_asked(database, people, clock):
    with database.write() as session:
        waiting = submit(session, people, clock.now)
        running = submit(session, people, clock.now)
        claimed = claim(session, running.id, clock.now)
        assert jobs.request_cancel(session, people.team, waiting.id, clock.now).state == "cancelled"
        asked = jobs.request_cancel(session, people.team, running.id, clock.now)
    assert (asked.state, asked.cancel_requested_at) == ("running", clock.now)
    with database.write() as session:
        assert jobs.claim(session, waiting.id, worker="w", now=clock.now, lease_seconds=60) is None
        assert jobs.renew(session, claimed, now=clock.now, lease_seconds=60) is True
        jobs.finish(session, claimed, state="cancelled", now=clock.now)
    with database.write() as session:
        for job in (waiting, running):
            assert jobs.request_cancel(session, people.team, job.id, clock.now).state == "cancelled"
            assert {run.state for run in runs.of_job(session, people.team, job.id)} == {"cancelled"}


def test_an_ended_job_cannot_be_cancelled(database, people, clock):
    with database.write() as session:
        job = submit(session, people, clock.now)
        jobs.finish(session, claim(session, job.id, clock.now), state="failed", reason="it diverged", now=clock.now)
        with pytest.raises(Conflict, match="already failed"):
            jobs.request_cancel(session, people.team, job.id, clock.now)


def test_a_retried_job_does_only_what_is_left(database, people, clock, files):
    with database.write() as session:
        job = submit(session, people, clock.now, runs=new_runs(2))
        claimed = claim(session, job.id, clock.now)
        done, left = (run.id for run in claimed.runs)
        runs.publish(session, claimed, done, result(files), clock.now)
        runs.fail(session, claimed, left, reason="it diverged", now=clock.now)
        jobs.finish(session, claimed, state="failed", reason="a run failed", now=clock.now)
    with database.write() as session:
        again = jobs.retry(session, people.team, job.id, clock.now)
        assert (again.state, again.reason, again.ended_at) == ("queued", None, None)
        second = claim(session, job.id, clock.now)
    assert [run.state for run in second.runs] == ["succeeded", "queued"]
    assert second.attempt == 2
    with pytest.raises(Conflict, match="is running"), database.write() as session:
        jobs.retry(session, people.team, job.id, clock.now)


@pytest.mark.parametrize(
    ("checkpoint", "shown", "left"), [(None, 1.0, 0.5), (12, 1.0, 0.56), (60, 0.75, 0.75)], ids=str
)
def test_a_retried_job_shows_what_of_it_is_kept(database, people, clock, files, checkpoint, shown, left):
    """Of two runs one is published; the other, which failed, has 100 steps and perhaps a checkpoint."""
    with database.write() as session:
        job = submit(session, people, clock.now, runs=new_runs(2, steps=100))
        claimed = claim(session, job.id, clock.now)
        done, failing = (run.id for run in claimed.runs)
        runs.publish(session, claimed, done, result(files), clock.now)
        if checkpoint is not None:
            file = files.put_bytes(b"state")
            runs.save_checkpoint(session, claimed, failing, checkpoint, file, now=clock.now)
        jobs.renew(session, claimed, now=clock.now, lease_seconds=60, progress=shown)
        runs.fail(session, claimed, failing, reason="it diverged", now=clock.now)
        jobs.finish(session, claimed, state="failed", reason="a run failed", now=clock.now)
        assert jobs.retry(session, people.team, job.id, clock.now).progress == pytest.approx(left)


def test_a_job_whose_uploaded_data_are_gone_cannot_be_retried(database, people, clock):
    with database.write() as session:
        data = datasets.register(
            session, team_id=people.team, member_id=people.member, name="t", kind="uploaded", now=clock.now,
            sha256="a" * 64, bytes=3, format="csv",
        )  # fmt: skip
        job = submit(session, people, clock.now, dataset_id=data.id, spec={"dataset": {"kind": "uploaded"}})
        with pytest.raises(Conflict, match="still needs data set"):
            datasets.delete(session, people.team, data.id)
        jobs.request_cancel(session, people.team, job.id, clock.now)
    with database.write() as session:
        datasets.delete(session, people.team, data.id)
    with pytest.raises(Conflict, match="was deleted"), database.write() as session:
        jobs.retry(session, people.team, job.id, clock.now)


def test_the_position_in_the_queue_counts_the_more_urgent_and_the_older(database, people, clock):
    with database.write() as session:
        old = submit(session, people, clock.now, priority=5)
        new = submit(session, people, clock.now, priority=5)
        urgent = submit(session, people, clock.now, priority=9)
        elsewhere = submit(session, people, clock.now, priority=9, queue="gpu")
    with database.read() as session:
        positions = [
            jobs.get_view(session, people.team, job.id).queue_position for job in (urgent, old, new, elsewhere)
        ]
        assert positions == [0, 1, 2, 0]
        assert jobs.get_view(session, people.team, new.id, at_most=1).queue_position == 1
        assert jobs.queue_positions(session, [urgent, old, new, elsewhere]) == {
            urgent.id: 0,
            old.id: 1,
            new.id: 2,
            elsewhere.id: 0,
        }
        assert jobs.queue_positions(session, [new], at_most=1) == {new.id: 1}
    with database.write() as session:
        jobs.request_cancel(session, people.team, new.id, clock.now)
        assert jobs.get_view(session, people.team, new.id).queue_position is None
        assert jobs.queue_positions(session, [jobs.get(session, people.team, new.id)]) == {}


def test_a_waiting_job_is_announced_once_and_again_after_a_while(database, people, clock):
    with database.write() as session:
        slow = submit(session, people, clock.now, priority=1)
        fast = submit(session, people, clock.now, priority=9, queue="gpu")

    def due():
        with database.read() as session:
            return jobs.unsent(session, now=clock.now, resend_after=30, limit=10)

    assert due() == [jobs.Message(slow.id, "cpu", 1), jobs.Message(fast.id, "gpu", 9)]
    with database.write() as session:
        jobs.mark_sent(session, [fast.id, slow.id], at=clock.now)
    assert due() == []
    clock.pass_seconds(31)
    with database.write() as session:
        newest = submit(session, people, clock.now).id
    assert [one.id for one in due()] == [newest, slow.id, fast.id]
    with database.write() as session:
        jobs.mark_sent(session, [newest], at=clock.now)
    with database.write() as session:
        claim(session, fast.id, clock.now)
    assert [one.id for one in due()] == [slow.id]


def test_who_announces_right_after_the_commit_says_so_beforehand(database, people, clock):
    with database.write() as session:
        job = submit(session, people, clock.now, announced_at=clock.now)
    with database.read() as session:
        assert jobs.unsent(session, now=clock.now, resend_after=30) == []
        due = jobs.unsent(session, now=clock.pass_seconds(31), resend_after=30)
        assert [one.id for one in due] == [job.id]


def test_jobs_are_sorted_by_whatever_they_may_be(database, people, clock):
    with database.write() as session:
        made = [
            submit(session, people, clock.now, name=name, runs=new_runs(n))
            for name, n in (("b", 2), ("A", 3), ("c", 1))
        ]
    with database.read() as session:

        def names(**how):
            return [job.name for job in jobs.page(session, people.team, **how).rows]

        assert names(sort="name") == ["A", "b", "c"]
        assert names(sort="runs", falling=True) == ["A", "b", "c"]
        assert names(sort="ended") == names()  # none has ended: the newest first
        for sort in jobs.SORTED_BY:
            assert sorted(names(sort=sort)) == ["A", "b", "c"], sort
        told = jobs.trained_on(session, [job.id for job in made])
    assert set(told) == {job.id for job in made}


def test_listeners_hear_of_every_change(database, people, clock):
    with database.write() as session:
        job = submit(session, people, clock.now)
        other = submit(session, people, clock.now)
    known = {job.id: job.revision, other.id: other.revision}
    with database.write() as session:
        claimed = claim(session, job.id, clock.now)
    with database.read() as session:
        now = jobs.revisions(session, [job.id, other.id, new_id("job")])
        assert now[job.id] > known[job.id]
        assert now == {job.id: now[job.id], other.id: known[other.id]}
        assert jobs.get(session, people.team, job.id).state == "running"
    with database.write() as session:
        jobs.renew(session, claimed, now=clock.now, lease_seconds=60)
    with database.read() as session:
        assert jobs.revisions(session, [job.id]) == {job.id: now[job.id]}
    with database.write() as session:
        jobs.renew(session, claimed, now=clock.now, lease_seconds=60, progress=0.5, losses={"loss": float("inf")})
    with database.read() as session:
        assert jobs.revisions(session, [job.id])[job.id] > now[job.id]
        changed = jobs.get(session, people.team, job.id)
        assert (changed.progress, changed.losses) == (0.5, {"loss": None})
        assert jobs.revisions(session, []) == {}


def test_quotas_hold(database, people, clock):
    with database.write() as session:
        team = teams.get_team(session, people.team)
        team.max_queued_jobs, team.max_queued_steps = 2, 250
    with database.write() as session:
        job = submit(session, people, clock.now)
    with pytest.raises(QuotaExceeded, match="200 more do not fit") as refused, database.write() as session:
        submit(session, people, clock.now, runs=new_runs(2))
    assert refused.value.quota == "queued_steps"
    with database.write() as session:
        submit(session, people, clock.now)
    with pytest.raises(QuotaExceeded) as refused, database.write() as session:
        submit(session, people, clock.now, runs=new_runs(1, steps=1))
    assert refused.value.quota == "queued_jobs"
    with database.write() as session:
        jobs.request_cancel(session, people.team, job.id, clock.now)
        submit(session, people, clock.now, runs=new_runs(1, steps=1))


def test_a_deleted_job_takes_everything_with_it(database, people, clock, files):
    with database.write() as session:
        job = submit(session, people, clock.now, tags=["t"])
        with pytest.raises(Conflict, match="cancel it before"):
            jobs.delete(session, people.team, job.id)
        claimed = claim(session, job.id, clock.now)
        jobs.finish(session, claimed, state="failed", now=clock.now)
        jobs.delete(session, people.team, job.id)
    with database.read() as session:
        for table in (Job, Run, JobTag, Attempt):
            assert session.scalar(select(func.count()).select_from(table)) == 0


def test_drafts_expire_unless_pinned(database, people, clock):
    with database.write() as session:
        draft, pinned, waiting = (submit(session, people, clock.now) for _ in range(3))
        for job in (draft, pinned):
            jobs.request_cancel(session, people.team, job.id, clock.now)
        jobs.change(session, people.team, pinned.id, pinned=True)
    later = clock.pass_seconds(1)
    with database.write() as session:
        assert jobs.delete_drafts(session, ended_before=later) == [draft.id]
    with database.read() as session:
        assert {job.id for job in jobs.page(session, people.team).rows} == {pinned.id, waiting.id}


def test_name_tags_and_priority_are_changed_and_found(database, people, clock):
    with database.write() as session:
        first, second = (submit(session, people, clock.now, tags=["old"]) for _ in range(2))
        changed = jobs.change(session, people.team, second.id, name="anew", tags=["b", "a", "b"], priority=9)
        assert (changed.name, changed.tags, changed.priority, changed.pinned) == ("anew", ["a", "b"], 9, False)
        assert changed.revision == first.revision + 1
    with database.write() as session:
        assert [job.id for job in jobs.page(session, people.team, tag="a").rows] == [second.id]
        assert [job.id for job in jobs.page(session, people.team, tag="old").rows] == [first.id]
        taken = jobs.claim_next(session, "cpu", worker="w", now=clock.now, lease_seconds=60)
        assert taken.job_id == second.id, "the urgent one goes first now"
        with pytest.raises(Conflict, match="is running"):
            jobs.change(session, people.team, second.id, priority=1)
        assert jobs.change(session, people.team, second.id, pinned=True, tags=[]).tags == []


def test_a_stored_file_is_data_of_a_job_only_when_checked(database, people, clock):
    with database.write() as session:
        file = StoredFile("b" * 64, 10)
        data = datasets.register(
            session, team_id=people.team, member_id=people.member, name="t", kind="uploaded", now=clock.now,
            sha256=file.sha256, bytes=file.bytes, format="csv", state="checking",
        )  # fmt: skip
        with pytest.raises(Conflict, match="is checking, not ready"):
            submit(session, people, clock.now, dataset_id=data.id)
        assert datasets.set_check_result(
            session, data.id, now=clock.now, preview={"rows": 3}, rows=3, columns=2, task="regression"
        )
        assert not datasets.set_check_result(session, data.id, now=clock.now, errors=[{"detail": "late"}])
    with database.write() as session:
        assert submit(session, people, clock.now, dataset_id=data.id).dataset_id == data.id


def test_a_view_has_the_values_of_the_row(database, people, clock):
    with database.write() as session:
        job_id = submit(session, people, clock.now, tags=["b", "a"], spec={"a": [1.5, None]}).id
        session.execute(text("UPDATE job SET progress = 0.25, losses = :losses"), {"losses": '{"train": 0.5}'})
    with database.read() as session:
        view, row = jobs.get_view(session, people.team, job_id), jobs.get(session, people.team, job_id)
    assert view.queue_position == 0
    assert {name: getattr(row, name) for name in view._fields[:-1]} == dict(list(view._asdict().items())[:-1])
    assert (type(view.pinned), view.losses) == (bool, {"train": 0.5})
