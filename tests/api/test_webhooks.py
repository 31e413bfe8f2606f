"""Webhooks over the wire: made, pinged, read, changed, sent again, deleted. What is sent is tested in tests/worker."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from werkzeug.test import TestResponse

from store import webhooks
from store.webhooks import Answer
from tests.api.makers import House, now, publish_runs, submit_job

URL = "https://hooks.example.org/bimt?team=ours"


def call(house: House, method: str, path: str = "", role: str = "sharer", **more: object) -> TestResponse:
    """One request about webhooks."""
    return house.client().open(f"/api/v1/webhooks{path}", method=method, headers=house.headers(role), **more)


def made(house: House, **more: object) -> dict:
    answer = call(house, "POST", json={"url": URL, **more})
    assert answer.status_code == 201, answer.json
    assert answer.headers["Location"] == f"/api/v1/webhooks/{answer.json['id']}"
    return answer.json


def send(house: House, answer: Answer) -> None:
    """Record what the sender would."""
    with house.database.write() as rows:
        for message in webhooks.take_due(rows, now=now()):
            webhooks.record(rows, message, answer, now=now())


def test_a_secret_is_shown_once(any_house: House) -> None:
    hook = made(any_house)
    assert hook["secret"].startswith("whsec_")
    assert hook["events"] == ["job.cancelled", "job.failed", "job.succeeded"]
    for shown in (call(any_house, "GET"), call(any_house, "GET", f"/{hook['id']}")):
        assert hook["secret"] not in shown.text
    assert "secret" not in any_house.client().get("/api/v1/audit", headers=any_house.headers()).text


def test_the_end_of_a_job_is_on_its_way_and_then_delivered(any_house: House) -> None:
    hook = made(any_house, events=["job.succeeded"])
    job_id = submit_job(any_house)
    publish_runs(any_house, job_id)
    [waiting] = call(any_house, "GET", f"/{hook['id']}/deliveries").json["items"]
    assert (waiting["state"], waiting["event"], waiting["data"]["job_id"]) == ("waiting", "job.succeeded", job_id)
    assert waiting["next_try_at"] is not None
    send(any_house, Answer(204, "204 No Content"))
    sent = call(any_house, "GET", f"/{hook['id']}/deliveries/{waiting['id']}").json
    assert (sent["state"], sent["attempts"], sent["answer"]) == ("delivered", 1, "204 No Content")
    assert (sent["next_try_at"], sent["ended_at"] is None) == (None, False)


def test_a_message_is_sent_again_when_asked_for(house: House) -> None:
    hook = made(house)
    ping = call(house, "POST", f"/{hook['id']}/ping")
    assert (ping.status_code, ping.json["event"], ping.json["state"]) == (202, "ping", "waiting")
    where = ping.headers["Location"].removeprefix("/api/v1/webhooks")
    send(house, Answer(204, "204 No Content"))
    assert call(house, "GET", where).json["state"] == "delivered"
    again = call(house, "POST", f"{where}/redeliver")
    assert (again.status_code, again.json["state"], again.json["id"]) == (202, "waiting", ping.json["id"])
    other = made(house)
    assert call(house, "GET", f"/{other['id']}/deliveries/{ping.json['id']}").status_code == 404


def test_a_disabled_webhook_says_why_and_is_enabled_again(house: House) -> None:
    hook = made(house)
    call(house, "POST", f"/{hook['id']}/ping")
    send(house, Answer(410, "410 Gone"))
    gone = call(house, "GET", f"/{hook['id']}").json
    assert gone["disabled_at"] is not None
    assert "gone (410)" in gone["disabled_reason"]
    refused = call(house, "POST", f"/{hook['id']}/ping")
    assert (refused.status_code, "gone (410)" in refused.json["detail"]) == (409, True)
    new = {"url": "https://hooks.example.org/new", "events": ["job.failed"], "disabled": False}
    changed = call(house, "PATCH", f"/{hook['id']}", json=new).json
    assert (changed["url"], changed["events"]) == (new["url"], ["job.failed"])
    assert (changed["disabled_at"], changed["disabled_reason"]) == (None, None)
    assert call(house, "POST", f"/{hook['id']}/ping").status_code == 202


@pytest.mark.parametrize(
    "url",
    [
        "http://hooks.example.org/", "https://127.0.0.1/", "https://[::1]:8080/", "https://169.254.169.254/latest/",
        "https://10.0.0.1", "https://ada:secret@example.org/", "file:///etc/passwd", "https://", "nonsense",
        "https://example.org/\u00e4", "https://[::ffff:10.0.0.1]/", "gopher://example.org/",
    ],
)  # fmt: skip
def test_an_address_that_would_never_be_called_is_refused_with_a_reason(house: House, url: str) -> None:
    hook = made(house)
    for answer in (call(house, "POST", json={"url": url}), call(house, "PATCH", f"/{hook['id']}", json={"url": url})):
        assert (answer.status_code, answer.json["errors"][0]["pointer"]) == (422, "/url")
        assert len(answer.json["detail"]) > 20


def test_a_network_that_is_permitted_may_be_named(make: Callable[..., House]) -> None:
    house = make(BIMT_WEBHOOK_NETWORKS="10.1.0.0/16")
    assert call(house, "POST", json={"url": "http://10.1.2.3:8065/hooks/x"}).status_code == 201
    assert call(house, "POST", json={"url": "http://10.2.2.3:8065/hooks/x"}).status_code == 422


def test_a_team_has_so_many_and_deletes_them(house: House) -> None:
    hooks = [made(house) for _ in range(webhooks.MAX_WEBHOOKS)]
    full = call(house, "POST", json={"url": URL})
    assert (full.status_code, full.json["type"]) == (429, "/problems/quota")
    assert call(house, "DELETE", f"/{hooks[0]['id']}").status_code == 204
    assert call(house, "GET", f"/{hooks[0]['id']}").status_code == 404
    assert call(house, "POST", json={"url": URL, "events": []}).status_code == 422
    assert call(house, "POST", json={"url": URL, "events": ["job.started"]}).status_code == 422
    assert made(house)["id"] != hooks[0]["id"]
