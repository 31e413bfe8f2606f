"""Deliveries to webhooks, by a real sender to real receivers, on both databases."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import signal
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta

import pytest

from store import webhooks
from store.settings import Settings
from tests.servers import broker  # noqa: F401 - fixtures are found by name
from tests.worker.conftest import wait_for
from tests.worker.scheduler.receivers import receiving
from worker.webhook_sender import WebhookSender

SETTINGS = {"BIMT_WEBHOOK_NETWORKS": "127.0.0.1/32", "BIMT_WEBHOOK_SECONDS": "0.5"}


@pytest.fixture
def sender(database, clock, tmp_path):
    made = WebhookSender.of(Settings.from_env(SETTINGS, home=tmp_path), database)
    made.now = clock.now
    return made


@pytest.fixture
def hook(database, people, clock):
    """Make a webhook, with a message for it."""

    def make(url: str, *, messages: int = 1):
        with database.write() as session:
            made = webhooks.create(
                session, team_id=people.team, member_id=people.member, url=url, events=webhooks.EVENTS, now=clock.now()
            )
            for _ in range(messages):
                webhooks.ping(session, people.team, made.id, now=clock.now())
        return made

    return make


def sent(database, people, hook):
    with database.read() as session:
        return webhooks.deliveries(session, people.team, hook.id).rows


def test_a_message_is_signed_over_its_id_its_time_and_its_raw_body(database, people, sender, hook, clock):
    with receiving() as receiver:
        made = hook(receiver.url)
        with database.write() as session:
            webhooks.enqueue(session, team_id=people.team, event="job.failed", body={"name": "Größe"}, now=clock.now())
        sender.deliver()
    assert [json.loads(body)["type"] for _, _, body in receiver.heard] == ["ping", "job.failed"]
    _, headers, body = receiver.heard[1]
    assert json.loads(body)["data"] == {"name": "Größe"}
    key = base64.b64decode(made.secret.removeprefix("whsec_"))
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    wanted = "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    assert headers["webhook-signature"] == wanted
    assert abs(int(headers["webhook-timestamp"]) - clock.now().timestamp()) < 1
    assert {(one.state, one.attempts, one.answer) for one in sent(database, people, made)} == {
        ("delivered", 1, "204 No Content")
    }


def test_a_receiver_that_fails_twice_gets_the_same_message_a_third_time(database, people, sender, hook, clock):
    with receiving(statuses=[503, 500]) as receiver:
        made = hook(receiver.url)
        for seconds in (0, 29, 1, 119, 1, 10_000):
            clock.passes(seconds)
            sender.deliver()
    assert len(receiver.heard) == 3
    assert len({headers["webhook-id"] for _, headers, _ in receiver.heard}) == 1
    assert len({body for _, _, body in receiver.heard}) == 1
    assert len({headers["webhook-signature"] for _, headers, _ in receiver.heard}) == 3, "each try has its own time"
    [message] = sent(database, people, made)
    assert (message.state, message.attempts, message.ended_at is not None) == ("delivered", 3, True)


def test_a_receiver_that_never_answers_delays_no_other(database, people, sender, hook):
    with receiving(hold=threading.Event()) as silent, receiving() as receiver:
        first, second = hook(silent.url, messages=3), hook(receiver.url, messages=3)
        sender.deliver()
        assert (len(silent.heard), len(receiver.heard)) == (1, 3), "and is left alone for a while"
    assert [one.state for one in sent(database, people, second)] == ["delivered"] * 3
    assert {one.state for one in sent(database, people, first)} == {"waiting"}
    assert sent(database, people, first)[-1].answer == "No answer within 0.5 s."


def test_a_redirect_to_a_private_address_is_not_followed(database, people, sender, hook):
    with receiving(host="127.0.0.2") as neighbour, receiving(statuses=[302], location=neighbour.url) as receiver:
        made = hook(receiver.url)
        sender.deliver()
    assert (len(receiver.heard), neighbour.heard) == (1, [])
    [message] = sent(database, people, made)
    assert (message.state, "redirects are not followed" in message.answer) == ("waiting", True)


def test_an_address_that_is_not_permitted_is_not_called(database, people, sender, hook):
    with receiving(host="127.0.0.2") as neighbour:
        made = hook(neighbour.url)
        sender.deliver()
    assert neighbour.heard == []
    assert "no public address" in sent(database, people, made)[0].answer


def test_a_webhook_at_which_nothing_arrives_is_disabled_with_the_reason(database, people, sender, hook, clock):
    with receiving(statuses=[500] * 50) as receiver:
        made = hook(receiver.url)
        for pause in (0, *webhooks.PAUSES):
            clock.passes(pause + 1)
            sender.deliver()
        assert len(receiver.heard) == 1 + len(webhooks.PAUSES)
        with database.write() as session:
            row = webhooks.get(session, people.team, made.id)
            assert row.disabled_at is not None
            assert "Nothing has arrived since" in row.disabled_reason
            assert "500 Internal Server Error" in row.disabled_reason
            webhooks.enqueue(session, team_id=people.team, event="job.failed", body={}, now=clock.now())
        sender.deliver()
        assert len(receiver.heard) == 1 + len(webhooks.PAUSES)
    assert [one.state for one in sent(database, people, made)] == ["given_up"]


def test_a_receiver_that_says_that_it_is_gone_is_disabled_at_once(database, people, sender, hook, clock):
    with receiving(statuses=[410]) as receiver:
        made = hook(receiver.url, messages=2)
        sender.deliver()
        clock.passes(3600)
        sender.deliver()
        assert len(receiver.heard) == 1
        with database.write() as session:
            assert "410" in webhooks.get(session, people.team, made.id).disabled_reason
            webhooks.change(session, people.team, made.id, disabled=False, now=clock.now())
        sender.deliver()
        assert len(receiver.heard) == 2, "what waited is sent when it is enabled again"


def test_what_was_sent_is_forgotten_after_a_while_and_what_waits_is_not(database, people, sender, hook, clock):
    with receiving() as receiver:
        made = hook(receiver.url)
        sender.deliver()
        clock.passes(40 * 86_400)
        with database.write() as session:
            webhooks.ping(session, people.team, made.id, now=clock.now())
            assert webhooks.delete_old(session, before=clock.now() - timedelta(days=30)) == 1
    assert [one.state for one in sent(database, people, made)] == ["waiting"]


def test_a_sender_that_is_killed_before_it_wrote_the_answer_down_costs_one_pause(
    database, people, hook, sender, clock, tmp_path, broker  # noqa: F811
):  # fmt: skip
    """A real scheduler is killed while the receiver has the message and has not answered yet."""
    environ = SETTINGS | {
        "BIMT_DATABASE_URL": database.url,
        "BIMT_BROKER_URL": broker.url,
        "BIMT_WEBHOOK_SECONDS": "60",
    }
    clean = {name: value for name, value in os.environ.items() if not name.startswith("BIMT_")}
    with receiving(hold=threading.Event()) as receiver:
        made = hook(receiver.url)
        scheduler = subprocess.Popen(
            [sys.executable, "-m", "worker.scheduler"],
            env=clean | environ | {"BIMT_HOME": str(tmp_path / "home")},
            stderr=subprocess.DEVNULL,
        )
        try:
            wait_for(lambda: receiver.heard)
        finally:
            scheduler.send_signal(signal.SIGKILL)
            scheduler.wait()
        [message] = sent(database, people, made)
        assert (message.state, message.attempts, message.answer) == ("waiting", 1, None)
        receiver.hold.set()
        clock.at = datetime.now(UTC)
        sender.deliver()
        assert len(receiver.heard) == 1, "not at once: the other might still be at it"
        clock.passes(webhooks.PAUSES[0])
        sender.deliver()
    assert len(receiver.heard) == 2
    assert receiver.heard[0][1]["webhook-id"] == receiver.heard[1][1]["webhook-id"]
    [message] = sent(database, people, made)
    assert (message.state, message.attempts) == ("delivered", 2)


def test_two_senders_send_each_delivery_once(database, people, hook, tmp_path, clock):
    with receiving() as receiver:
        hook(receiver.url, messages=12)
        senders = [WebhookSender.of(Settings.from_env(SETTINGS, home=tmp_path), database) for _ in range(2)]
        for sender in senders:
            sender.now = clock.now
        threads = [threading.Thread(target=sender.deliver) for sender in senders]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    ids = [headers["webhook-id"] for _, headers, _ in receiver.heard]
    assert len(ids) == len(set(ids)) == 12


def test_a_sender_that_is_asked_to_stop_does_not_wait_for_a_receiver_without_end(
    database, people, hook, sender, monkeypatch
):
    monkeypatch.setattr("worker.webhook_sender.DRAIN_SECONDS", 0.1)
    sender.send = lambda *_: receiver.hold.wait()  # answers never
    with receiving(hold=threading.Event()) as receiver:
        hook(receiver.url)
        over = threading.Event()
        working = threading.Thread(target=sender.work, args=(over,))
        working.start()
        wait_for(lambda: sender.in_flight)
        over.set()
        working.join()
        assert sender.in_flight
