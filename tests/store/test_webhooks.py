"""Webhooks: messages are written with their event, tried again and finally given up. Heartbeats of workers."""

from __future__ import annotations

from datetime import timedelta

import pytest

from store import jobs, webhooks
from store.errors import Conflict, NotFound, QuotaExceeded
from store.jobs import leases
from store.webhooks import Answer
from tests.store.makers import claim, submit

ACCEPTED, FAILED = Answer(200, "200 OK"), Answer(503, "503 Service Unavailable")


@pytest.fixture
def webhook(database, people, clock):
    with database.write() as session:
        return webhooks.create(
            session, team_id=people.team, member_id=people.member, url="https://example.org/hook",
            events=["job.succeeded", "job.cancelled"], now=clock.now,
        )  # fmt: skip


def test_the_end_of_a_job_is_told_to_those_who_asked(database, people, clock, webhook):
    with database.write() as session:
        job = submit(session, people, clock.now)
        jobs.request_cancel(session, people.team, job.id, clock.now)
        failed = claim(session, submit(session, people, clock.now).id, clock.now)
        jobs.finish(session, failed, state="failed", now=clock.now)
        done = claim(session, submit(session, people, clock.now).id, clock.now)
        jobs.finish(session, done, state="succeeded", now=clock.now)
        operation = claim(session, submit(session, people, clock.now, kind="predict", runs=()).id, clock.now)
        jobs.finish(session, operation, state="succeeded", now=clock.now)
    with database.write() as session:
        due = [*webhooks.take_due(session, now=clock.now), *webhooks.take_due(session, now=clock.now)]
        assert [(one.event, one.body["job_id"]) for one in due] == [
            ("job.cancelled", job.id), ("job.succeeded", done.job_id),
        ]  # fmt: skip
        assert due[1].body == {"job_id": done.job_id, "name": "independence", "state": "succeeded", "reason": None}
        assert {(one.url, one.secret) for one in due} == {(webhook.url, webhook.secret)}
        assert webhooks.take_due(session, now=clock.now) == []


def test_a_cancelled_job_whose_worker_hands_it_back_or_is_lost_is_told(database, people, clock, webhook):
    with database.write() as session:
        claims = [claim(session, submit(session, people, clock.now).id, clock.now) for _ in range(2)]
        for one in claims:
            jobs.request_cancel(session, people.team, one.job_id, clock.now)
        jobs.release(session, claims[0], reason="Shutting down.", now=clock.now)
        jobs.reap(session, now=clock.pass_seconds(1000))
        told = [one.body["job_id"] for _ in claims for one in webhooks.take_due(session, now=clock.now)]
    assert told == [one.job_id for one in claims]


def test_one_message_at_a_time_goes_to_each_and_a_busy_one_is_left_alone(database, people, clock, webhook):
    with database.write() as session:
        other = webhooks.create(
            session, team_id=people.team, member_id=people.member, url="https://example.org/b", events=[], now=clock.now
        )
        for hook in (webhook, webhook, other):
            webhooks.ping(session, people.team, hook.id, now=clock.now)
        assert webhooks.is_due(session, now=clock.now)
        [one] = webhooks.take_due(session, now=clock.now, busy=[other.id])
        assert one.webhook_id == webhook.id
        assert {each.webhook_id for each in webhooks.take_due(session, now=clock.now)} == {webhook.id, other.id}
        assert not webhooks.is_due(session, now=clock.now)


def test_a_message_is_sent_again_on_request(database, people, clock, webhook):
    with database.write() as session:
        ping = webhooks.ping(session, people.team, webhook.id, now=clock.now)
        [one] = webhooks.take_due(session, now=clock.now)
        webhooks.record(session, one, ACCEPTED, now=clock.now)
        webhooks.redeliver(session, people.team, webhook.id, ping.id, now=clock.now)
        [again] = webhooks.take_due(session, now=clock.now)
        assert (again.id, again.attempts) == (ping.id, 1)
        webhooks.change(session, people.team, webhook.id, disabled=True, now=clock.now)
        for ask in (webhooks.redeliver, webhooks.ping):
            with pytest.raises(Conflict, match="A member of the team disabled it"):
                ask(session, people.team, webhook.id, *([ping.id] if ask is webhooks.redeliver else []), now=clock.now)
        with pytest.raises(NotFound):
            webhooks.redeliver(session, people.other_team, webhook.id, ping.id, now=clock.now)


def test_a_team_has_so_many_webhooks_and_no_more(database, people, clock):
    with database.write() as session:
        for _ in range(webhooks.MAX_WEBHOOKS):
            made = {"team_id": people.team, "member_id": people.member, "url": "https://example.org", "events": []}
            webhooks.create(session, **made, now=clock.now)
        with pytest.raises(QuotaExceeded):
            webhooks.create(session, **made, now=clock.now)


def test_a_message_is_tried_again_and_given_up_in_the_end(database, people, clock, webhook):
    with database.write() as session:
        webhooks.enqueue(session, team_id=people.team, event="job.succeeded", body={"n": 1}, now=clock.now)
    tries = 0
    for pause in (0, *webhooks.PAUSES):
        clock.pass_seconds(pause)
        with database.write() as session:
            (one,) = webhooks.take_due(session, now=clock.now)
            assert webhooks.take_due(session, now=clock.now) == []
        tries += 1
        with database.write() as session:
            webhooks.record(session, one, FAILED, now=clock.now)
    clock.pass_seconds(10**7)
    with database.write() as session:
        assert webhooks.take_due(session, now=clock.now) == []
        (sent,) = webhooks.deliveries(session, people.team, webhook.id).rows
        assert (sent.state, sent.attempts, sent.answer) == ("given_up", tries, "503 Service Unavailable")


def test_a_delivered_message_is_not_sent_again(database, people, clock, webhook):
    with database.write() as session:
        webhooks.enqueue(session, team_id=people.team, event="job.succeeded", body={"n": 1}, now=clock.now)
        (one,) = webhooks.take_due(session, now=clock.now)
        webhooks.record(session, one, ACCEPTED, now=clock.now)
        webhooks.record(session, one, FAILED, now=clock.now)
        assert webhooks.take_due(session, now=clock.pass_seconds(10**7)) == []
        assert webhooks.deliveries(session, people.team, webhook.id).rows[0].state == "delivered"


def test_another_team_s_addresses_are_not_found(database, people, clock, webhook):
    with database.write() as session:
        for ask in (webhooks.get, webhooks.delete, webhooks.deliveries):
            with pytest.raises(NotFound):
                ask(session, people.other_team, webhook.id)
        assert webhooks.page(session, people.other_team).rows == []
        webhooks.delete(session, people.team, webhook.id)
        assert webhooks.page(session, people.team).rows == []


def test_workers_are_there_while_they_say_so(database, clock):
    with database.write() as session:
        leases.heartbeat(session, "w1", queues=["cpu", "gpu"], device="cpu", doing=None, now=clock.now)
        leases.heartbeat(session, "w2", queues=["cpu"], device="cpu", doing="job_1", now=clock.now)
        leases.heartbeat(session, "w2", queues=["cpu"], device="cpu", doing="job_2", now=clock.pass_seconds(30))

    def there(seconds):
        with database.read() as session:
            found = leases.workers(session, seen_since=clock.now - timedelta(seconds=seconds))
            return [(one.name, one.queue, one.doing) for one in found]

    assert there(10) == [("w2", "cpu", "job_2")]
    assert there(60) == [("w1", "cpu", None), ("w2", "cpu", "job_2"), ("w1", "gpu", None)]
    with database.write() as session:
        leases.delete_worker(session, "w2")
        leases.delete_silent_workers(session, silent_since=clock.now)
    assert there(10**6) == []
