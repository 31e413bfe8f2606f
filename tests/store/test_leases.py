"""Claims and leases: one owner at a time, no writes after a lost lease, nothing lost with a worker."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import select

from store import jobs, runs
from store.database import Database
from store.errors import LostLease
from store.files import StoredFile
from store.jobs import leases
from store.tables import Attempt, Job
from tests.store.conftest import Clock
from tests.store.makers import LEASE, claim, make_people, new_runs, result, submit

FILE = StoredFile("c" * 64, 12)


def test_of_many_claimers_each_job_gets_one(database, people, clock):
    with database.write() as session:
        waiting = [submit(session, people, clock.now).id for _ in range(20)]
    start = threading.Barrier(8)

    def take_all(name: str) -> list[str]:
        start.wait()
        taken = []
        for job_id in waiting:
            with database.write() as session:
                if jobs.claim(session, job_id, worker=name, now=clock.now, lease_seconds=60):
                    taken.append(job_id)
        return taken

    with ThreadPoolExecutor(8) as pool:
        taken = [job_id for part in pool.map(take_all, "abcdefgh") for job_id in part]
    assert sorted(taken) == sorted(waiting)


def test_claimers_of_the_next_job_never_get_the_same_one(database, people, clock):
    with database.write() as session:
        waiting = [submit(session, people, clock.now).id for _ in range(40)]

    def take(name: int) -> list[str]:
        taken = []
        while True:
            with database.write() as session:
                got = jobs.claim_next(session, "cpu", worker=f"w{name}", now=clock.now, lease_seconds=60)
            if got is None:
                return taken
            taken.append(got.job_id)

    with ThreadPoolExecutor(8) as pool:
        taken = [job_id for part in pool.map(take, range(8)) for job_id in part]
    assert sorted(taken) == sorted(waiting)


def test_the_urgent_go_first_and_no_team_starves_another(database, people, clock):
    with database.write() as session:
        many = [submit(session, people, clock.now).id for _ in range(3)]
        theirs = submit(session, people, clock.now, team_id=people.other_team, member_id=people.other_member).id
        urgent = submit(session, people, clock.now, priority=9).id
        submit(session, people, clock.now, queue="gpu", priority=9)
    order = []
    for _ in range(5):
        with database.write() as session:
            got = jobs.claim_next(session, "cpu", worker="w", now=clock.now, lease_seconds=60)
            assert got is not None
            order.append(got.job_id)
    assert order == [urgent, theirs, *many]
    with database.write() as session:
        assert jobs.claim_next(session, "cpu", worker="w", now=clock.now, lease_seconds=60) is None


def test_a_claim_carries_all_that_the_work_needs(database, people, clock):
    with database.write() as session:
        job = submit(session, people, clock.now, runs=new_runs(2))
        got = claim(session, job.id, clock.now)
    assert (got.job_id, got.team_id, got.fence, got.worker, got.spec) == (job.id, people.team, 1, "w1", job.spec)
    assert [(run.number, run.seed, run.cost_strength, run.spec, run.state) for run in got.runs] == [
        (0, 0, 1e-3, {"seed": 0}, "queued"),
        (1, 1, 1e-3, {"seed": 1}, "queued"),
    ]


def test_a_silent_worker_loses_its_job_and_can_write_nothing_more(database, people, clock, files):
    with database.write() as session:
        job = submit(session, people, clock.now)
        old = claim(session, job.id, clock.now, worker="old")
        run = old.runs[0].id
        runs.start(session, old, run, clock.now)
        runs.append_history(session, old, run, [{"step": 10, "prediction_loss": 1.0}])
        runs.save_checkpoint(session, old, run, 10, FILE, now=clock.now)
        runs.append_history(session, old, run, [{"step": 20, "prediction_loss": 0.9}])
        runs.append_snapshot(session, old, run, 20, FILE, now=clock.now)
    with database.write() as session:
        assert jobs.reap(session, now=clock.pass_seconds(LEASE - 1)) == []
        assert jobs.reap(session, now=clock.pass_seconds(2)) == [job.id]
        assert jobs.reap(session, now=clock.now) == []
    with database.write() as session:
        new = claim(session, job.id, clock.now, worker="new")
        assert (new.runs[0].checkpoint_step, new.runs[0].checkpoint_sha256) == (10, FILE.sha256)
        runs.start(session, new, run, clock.now)
    writes = [
        lambda session: jobs.renew(session, old, now=clock.now, lease_seconds=60),
        lambda session: runs.append_history(session, old, run, [{"step": 99}]),
        lambda session: runs.append_snapshot(session, old, run, 99, FILE, now=clock.now),
        lambda session: runs.save_checkpoint(session, old, run, 99, FILE, now=clock.now),
        lambda session: runs.append_log(session, old, [{"text": "still here"}], now=clock.now),
        lambda session: runs.start(session, old, run, clock.now),
        lambda session: runs.publish(session, old, run, result(files), clock.now),
        lambda session: runs.fail(session, old, run, reason="no", now=clock.now),
        lambda session: jobs.finish(session, old, state="failed", now=clock.now),
        lambda session: jobs.release(session, old, reason="no", now=clock.now),
    ]
    for write in writes:
        with pytest.raises(LostLease), database.write() as session:
            write(session)
    with database.read() as session:
        assert runs.history(session, run) == [{"step": 10, "prediction_loss": 1.0}]
        assert runs.snapshots(session, run) == []
        tries = jobs.attempts(session, jobs.get(session, people.team, job.id))
        assert [(one.worker, one.ended_how) for one in tries] == [("old", "lease_lost"), ("new", None)]


def test_the_jobs_of_a_worker_that_is_known_to_be_gone_do_not_wait_for_its_lease(database, people, clock):
    with database.write() as session:
        gone, other = (claim(session, submit(session, people, clock.now).id, clock.now, worker=w) for w in ("a", "b"))
        died_at = clock.now
        successors = claim(session, submit(session, people, clock.pass_seconds(1)).id, clock.now, worker="a")
        assert leases.expire(session, "a", died_at=died_at, now=clock.now) == [gone.job_id]
        assert leases.expire(session, "a", died_at=died_at, now=clock.now) == []
        assert jobs.reap(session, now=clock.pass_seconds(1)) == [gone.job_id]
        for kept in (other, successors):
            assert jobs.get(session, people.team, kept.job_id).state == "running"


def test_a_renewed_lease_is_not_reaped(database, people, clock):
    with database.write() as session:
        got = claim(session, submit(session, people, clock.now).id, clock.now)
        for _ in range(5):
            assert jobs.renew(session, got, now=clock.pass_seconds(LEASE / 3), lease_seconds=LEASE) is False
        assert jobs.reap(session, now=clock.now) == []


@pytest.mark.parametrize("how", ["hand back", "reap", "finish"])
def test_a_job_that_is_not_worked_on_is_never_due(database, people, clock, how):
    with database.write() as session:
        got = claim(session, submit(session, people, clock.now).id, clock.now)
        due = clock.now + timedelta(seconds=90)
        jobs.renew(session, got, now=clock.now, lease_seconds=LEASE, progress=0.12, due_at=due)
        assert jobs.get(session, people.team, got.job_id).due_at == due
        jobs.renew(session, got, now=clock.now, lease_seconds=LEASE, note="a beat without progress")
        assert jobs.get(session, people.team, got.job_id).due_at == due
    with database.write() as session:
        if how == "hand back":
            jobs.release(session, got, reason="the worker shuts down", now=clock.now)
        elif how == "reap":
            jobs.reap(session, now=clock.pass_seconds(LEASE + 1))
        else:
            jobs.finish(session, got, state="failed", reason="no", now=clock.now)
        job = jobs.get(session, people.team, got.job_id)
        assert (job.due_at, job.progress) == (None, 0.12)


def test_a_job_that_kills_its_workers_is_given_up(database, people, clock):
    with database.write() as session:
        job = submit(session, people, clock.now)
        for number in range(3):
            claim(session, job.id, clock.now, worker=f"w{number}")
            assert jobs.reap(session, now=clock.pass_seconds(LEASE + 1), max_attempts=3) == [job.id]
    with database.write() as session:
        found = jobs.get(session, people.team, job.id)
        assert found.state == "failed"
        assert "lost 3 workers" in found.reason
        assert [run.state for run in runs.of_job(session, people.team, job.id)] == ["failed"]
        assert jobs.claim(session, job.id, worker="w", now=clock.now, lease_seconds=60) is None
        jobs.retry(session, people.team, job.id, clock.now)
        claim(session, job.id, clock.now)
        jobs.reap(session, now=clock.pass_seconds(LEASE + 1), max_attempts=3)
        assert jobs.get(session, people.team, job.id).state == "queued"


def test_handing_back_costs_no_attempt(database, people, clock):
    with database.write() as session:
        job = submit(session, people, clock.now)
        for _ in range(9):
            got = claim(session, job.id, clock.now)
            runs.start(session, got, got.runs[0].id, clock.now)
            jobs.release(session, got, reason="the worker shuts down", now=clock.now)
        claim(session, job.id, clock.now)
        jobs.reap(session, now=clock.pass_seconds(LEASE + 1), max_attempts=2)
        found = jobs.get(session, people.team, job.id)
        assert (found.state, found.lost_attempts, found.attempts) == ("queued", 1, 10)
        assert [run.state for run in runs.of_job(session, people.team, job.id)] == ["queued"]


@pytest.mark.parametrize("how", ["hand_back", "reap"])
def test_a_job_that_was_to_be_cancelled_does_not_wait_again(database, people, clock, how):
    with database.write() as session:
        job = submit(session, people, clock.now)
        got = claim(session, job.id, clock.now)
        jobs.request_cancel(session, people.team, job.id, clock.now)
        if how == "reap":
            jobs.reap(session, now=clock.pass_seconds(LEASE + 1), max_attempts=1)
        else:
            jobs.release(session, got, reason="the worker shuts down", now=clock.now)
        found = jobs.get(session, people.team, job.id)
        assert (found.state, found.reason) == ("cancelled", None)
        assert [run.state for run in runs.of_job(session, people.team, job.id)] == ["cancelled"]


def test_two_reapers_take_a_job_away_once(database, people, clock):
    with database.write() as session:
        job = submit(session, people, clock.now)
        claim(session, job.id, clock.now)
    clock.pass_seconds(LEASE + 1)
    start = threading.Barrier(4)

    def reap(_: int) -> list[str]:
        start.wait()
        with database.write() as session:
            return jobs.reap(session, now=clock.now)

    with ThreadPoolExecutor(4) as pool:
        assert sorted(pool.map(reap, range(4))) == [[], [], [], [job.id]]


def test_a_finished_job_is_finished_once(database, people, clock):
    with database.write() as session:
        got = claim(session, submit(session, people, clock.now).id, clock.now)
        jobs.finish(session, got, state="cancelled", now=clock.now)
        with pytest.raises(LostLease):
            jobs.finish(session, got, state="failed", now=clock.now)
        with pytest.raises(ValueError, match="cannot end as `queued`"):
            jobs.finish(session, got, state="queued", now=clock.now)


class Lives(RuleBasedStateMachine):
    """Any order of claims, renewals, losses, cancels and retries, against a model in a dictionary."""

    database: Database

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        with self.database.write() as session:
            for table in (Attempt, Job):
                for row in session.scalars(select(table)):
                    session.delete(row)
                session.flush()
            self.people = make_people_once(session, self.clock.now)
        self.fences: dict[str, int] = {}
        self.live: dict[str, object] = {}  # job id -> the one claim that may write

    waiting = Bundle("jobs")
    claims = Bundle("claims")

    @rule(target=waiting)
    def submit(self):
        with self.database.write() as session:
            job = submit(session, self.people, self.clock.now)
        self.fences[job.id] = 0
        return job.id

    @rule(target=claims, job_id=waiting, worker=st.sampled_from("ab"))
    def claim(self, job_id, worker):
        with self.database.write() as session:
            got = jobs.claim(session, job_id, worker=worker, now=self.clock.now, lease_seconds=LEASE)
        if got is None:
            return multiple()
        assert job_id not in self.live
        assert got.fence > self.fences[job_id]
        self.fences[job_id] = got.fence
        self.live[job_id] = got
        return got

    @rule(got=claims)
    def renew(self, got):
        with self.database.write() as session:
            try:
                jobs.renew(session, got, now=self.clock.now, lease_seconds=LEASE, progress=0.3)
                held = True
            except LostLease:
                held = False
        assert held == (self.live.get(got.job_id) is got)

    @rule(got=consumes(claims), state=st.sampled_from(["succeeded", "failed", "cancelled", "hand_back"]))
    def end(self, got, state):
        with self.database.write() as session:
            try:
                if state == "hand_back":
                    jobs.release(session, got, reason="drain", now=self.clock.now)
                else:
                    jobs.finish(session, got, state=state, now=self.clock.now)
                held = True
            except LostLease:
                held = False
        assert held == (self.live.get(got.job_id) is got)
        if held:
            del self.live[got.job_id]

    @rule(seconds=st.sampled_from([1.0, LEASE / 2, LEASE + 1]))
    def reap(self, seconds):
        self.clock.pass_seconds(seconds)
        with self.database.write() as session:
            for job_id in jobs.reap(session, now=self.clock.now, max_attempts=2):
                del self.live[job_id]

    @rule(job_id=waiting)
    def cancel(self, job_id):
        with self.database.write() as session:
            if jobs.get(session, self.people.team, job_id).state not in ("succeeded", "failed"):
                jobs.request_cancel(session, self.people.team, job_id, self.clock.now)

    @rule(job_id=waiting)
    def retry(self, job_id):
        with self.database.write() as session:
            if jobs.get(session, self.people.team, job_id).state in ("failed", "cancelled"):
                jobs.retry(session, self.people.team, job_id, self.clock.now)

    @invariant()
    def exactly_the_live_claims_run(self):
        with self.database.read() as session:
            running = dict(list(session.execute(select(Job.id, Job.fence).where(Job.state == "running"))))
            open_attempts = list(session.scalars(select(Attempt.job_id).where(Attempt.ended_at.is_(None))))
        assert running == {job_id: got.fence for job_id, got in self.live.items()}
        assert sorted(open_attempts) == sorted(running)


def make_people_once(session, now):
    """The people of the first example; they stay for the others."""
    from store.tables import Member, Team
    from tests.store.makers import People

    members = {team.name: member for team, member in session.execute(select(Team, Member).join(Member))}
    if not members:
        return make_people(session, now)
    ours, theirs = members["ours"], members["theirs"]
    return People(ours.team_id, ours.id, theirs.team_id, theirs.id)


def test_in_every_order_of_events_one_claim_at_most_may_write(database):
    machine = type("Lives", (Lives,), {"database": database})
    few = settings(max_examples=25, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck))
    run_state_machine_as_test(machine, settings=few)
