"""Whichever process is killed, a job ends exactly once, with the bits of an undisturbed run."""

from __future__ import annotations

import re
import signal
import time

import psutil
import pytest
import redis

from tests.end_to_end.processes import TINY_STEPS, Service, tiny_spec

pytestmark = pytest.mark.faults
LEASE_SECONDS = 4.0  # of the service of these tests


def succeeded_once(house: Service, job_id: str, weights: list[str]) -> None:
    """The job has succeeded; every run was published once, with these weights; one attempt alone succeeded."""
    job = house.until_ended(job_id)
    assert job.state == "succeeded", job.reason
    assert house.weights(job_id) == weights
    assert [attempt.ended_how for attempt in house.attempts(job_id)].count("succeeded") == 1
    steps = [row["step"] for row in house.history(job_id)]
    assert steps == sorted(set(steps)) == list(range(0, TINY_STEPS + 1, 100))


def test_a_killed_training_goes_on_in_the_same_attempt(house, undisturbed):
    worker = house.worker()
    job = house.submit()
    house.until_checkpoint(job)
    house.training_of(worker).kill()
    succeeded_once(house, job, undisturbed[:1])
    assert len(house.attempts(job)) == 1
    assert "killed by signal 9" in house.log(job)


def test_a_killed_worker_s_job_is_finished_by_the_next_and_no_run_is_trained_twice(house, undisturbed):
    house.scheduler()
    worker = house.worker("first")
    job = house.submit(seeds=(0, 1))
    house.until_checkpoint(job, run=1)
    published = house.runs(job)[0]
    assert published.state == "succeeded"
    training = house.training_of(worker)
    worker.send(signal.SIGKILL)
    house.until(lambda: not training.is_running() or training.status() == psutil.STATUS_ZOMBIE, "the training dies too")
    house.worker("second")
    succeeded_once(house, job, undisturbed)
    assert [attempt.ended_how for attempt in house.attempts(job)] == ["lease_lost", "succeeded"]
    first, second = house.runs(job)
    assert (first.attempts, first.ended_at) == (1, published.ended_at)
    assert second.attempts == 2


@pytest.mark.parametrize("killed", ["training", "worker"])
def test_runs_side_by_side_go_on_as_the_batch_that_they_were(house, side_by_side_undisturbed, killed):
    """One of three diverges at once; the others go on in a batch of three, with the bits that they would have had."""
    spec, undisturbed = side_by_side_undisturbed
    house.scheduler()
    worker = house.worker("first")
    job = house.submit(spec, seeds=(4, 5, 0))
    house.until_checkpoint(job)
    training = house.training_of(worker)
    training.kill() if killed == "training" else worker.send(signal.SIGKILL)
    at_death = house.runs(job)
    assert [run.state for run in at_death] == ["running", "failed", "running"], "the job is too tiny for this machine"
    if killed == "worker":
        house.worker("second")
    assert house.until_ended(job).state == "failed"
    assert "(seed 5)" in house.runs(job)[1].reason
    assert house.outcome(job) == undisturbed
    log = house.log(job)
    assert "3 runs begin, stepper batched, 3 side by side" in log
    assert re.search(r"2 runs go on at step \d+, stepper batched, 3 side by side", log)
    assert len(house.attempts(job)) == (1 if killed == "training" else 2)


def test_a_worker_that_slept_longer_than_its_lease_is_fenced_off(house, undisturbed):
    house.scheduler()
    sleeper = house.worker("sleeper")
    job = house.submit()
    house.until_checkpoint(job)
    training = house.training_of(sleeper)
    sleeper.send(signal.SIGSTOP)
    house.until(lambda: house.job(job).state == "queued", "the lease of the sleeper lapses")
    house.worker("second")
    house.until(lambda: len(house.attempts(job)) == 2, "the second takes it")
    sleeper.send(signal.SIGCONT)
    succeeded_once(house, job, undisturbed[:1])
    assert [attempt.ended_how for attempt in house.attempts(job)] == ["lease_lost", "succeeded"]
    house.until(lambda: "no longer owned" in sleeper.last_lines(40), "the sleeper learns that it was fenced off")
    house.until(lambda: not training.is_running(), "the sleeper ends its training")


def test_a_worker_told_to_end_releases_its_job(house, undisturbed):
    worker = house.worker("first")
    job = house.submit()
    house.until_checkpoint(job)
    assert house.job(job).state == "running", "the tiny job is too tiny for this machine"
    worker.ask_to_stop()
    house.until(lambda: not worker.alive, "the worker ends")
    assert house.job(job).state == "queued"
    step = house.runs(job)[0].checkpoint_step
    assert [attempt.ended_how for attempt in house.attempts(job)] == ["handed_back"]
    house.worker("second")
    house.announce(job)
    succeeded_once(house, job, undisturbed[:1])
    assert f"goes on at step {step}" in house.log(job)


def test_a_running_job_is_cancelled_and_the_next_is_run(house):
    worker = house.worker()
    job = house.submit(tiny_spec(steps=1_000_000))
    house.until_checkpoint(job)
    training = house.training_of(worker)
    house.cancel(job)
    assert house.until_ended(job).state == "cancelled"
    assert [run.state for run in house.runs(job)] == ["cancelled"]
    house.until(lambda: not training.is_running(), "the training is gone")
    following = house.submit(tiny_spec(steps=100))
    assert house.until_ended(following).state == "succeeded"


def test_a_running_job_goes_on_while_the_broker_is_dead(house, undisturbed):
    house.scheduler()
    house.worker()
    job = house.submit()
    house.until_checkpoint(job)
    house.broker.kill()
    step = house.until_checkpoint(job)
    house.until(lambda: house.runs(job)[0].checkpoint_step > step, "the training goes on without the broker")
    house.broker.start()
    succeeded_once(house, job, undisturbed[:1])
    assert len(house.attempts(job)) == 1
    following = house.submit(tiny_spec(steps=100), announced=False)
    assert house.until_ended(following).state == "succeeded"


def test_a_flushed_broker_costs_delay_only(house, undisturbed):
    job = house.submit()
    with redis.Redis(unix_socket_path=str(house.broker.socket)) as line:
        assert line.flushall()
    house.worker()
    house.scheduler()
    succeeded_once(house, job, undisturbed[:1])


def test_a_message_that_comes_twice_runs_the_job_once(house, undisturbed):
    house.worker("first")
    house.worker("second")
    job = house.submit()
    for _ in range(5):
        house.announce(job)
    succeeded_once(house, job, undisturbed[:1])
    assert len(house.attempts(job)) == 1


def test_training_goes_on_while_the_database_is_away(tmp_path, broker, postgres_away, undisturbed):
    """The database is away for longer than the lease, and the job is not requeued when it is back."""
    house = Service(tmp_path / "home", postgres_away.url, broker)
    try:
        house.scheduler()
        house.worker()
        job = house.submit()
        house.until_checkpoint(job)
        house.database.close()
        postgres_away.kill()
        time.sleep(1.5 * LEASE_SECONDS)
        postgres_away.start()
        succeeded_once(house, job, undisturbed[:1])
        assert len(house.attempts(job)) == 1
    finally:
        house.close()
