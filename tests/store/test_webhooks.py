"""Messages to a team's addresses: written with the deed, tried again, given up in the end. And workers' presence."""

from __future__ import annotations

from datetime import timedelta

import pytest

from store import jobs, presence, webhooks
from store.errors import NotFound
from tests.store.makers import claim, submit


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
    with database.write() as session:
        due = webhooks.take_due(session, now=clock.now)
        assert [(one.event, one.body["job_id"]) for one in due] == [
            ("job.cancelled", job.id), ("job.succeeded", done.job_id),
        ]  # fmt: skip
        assert {(one.url, one.secret) for one in due} == {(webhook.url, webhook.secret)}


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
            webhooks.record(session, one, delivered=False, answer="503", now=clock.now)
    clock.pass_seconds(10**7)
    with database.write() as session:
        assert webhooks.take_due(session, now=clock.now) == []
        (sent,) = webhooks.deliveries(session, people.team, webhook.id).rows
        assert (sent.state, sent.attempts, sent.answer) == ("given_up", tries, "503")


def test_a_delivered_message_is_not_sent_again(database, people, clock, webhook):
    with database.write() as session:
        webhooks.enqueue(session, team_id=people.team, event="job.succeeded", body={"n": 1}, now=clock.now)
        (one,) = webhooks.take_due(session, now=clock.now)
        webhooks.record(session, one, delivered=True, answer="200", now=clock.now)
        webhooks.record(session, one, delivered=False, answer="late", now=clock.now)
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
        presence.beat(session, "w1", queues=["cpu", "gpu"], device="cpu", doing=None, now=clock.now)
        presence.beat(session, "w2", queues=["cpu"], device="cpu", doing="job_1", now=clock.now)
        presence.beat(session, "w2", queues=["cpu"], device="cpu", doing="job_2", now=clock.pass_seconds(30))

    def there(seconds):
        with database.read() as session:
            found = presence.workers(session, seen_since=clock.now - timedelta(seconds=seconds))
            return [(one.name, one.queue, one.doing) for one in found]

    assert there(10) == [("w2", "cpu", "job_2")]
    assert there(60) == [("w1", "cpu", None), ("w2", "cpu", "job_2"), ("w1", "gpu", None)]
    with database.write() as session:
        presence.leave(session, "w2")
        presence.forget(session, silent_since=clock.now)
    assert there(10**6) == []
