"""People of a team: invited, given roles, shut out, counted; and the log of what everybody did."""

from __future__ import annotations

import json
import re
import urllib.request
from collections.abc import Callable
from datetime import datetime, timedelta

import pytest

from api.auth import decisions
from store import teams
from store.database import Database
from tests.api.makers import House, call, now, serving
from tests.api.test_auth import ask, things


def test_an_admin_invites_somebody_whose_first_token_is_shown_once(any_house: House) -> None:
    made = call(any_house, "POST", "/members", json={"name": "Ada", "email": "Ada@example.org", "role": "member"})
    assert made.status_code == 201, made.json
    theirs = {"Authorization": f"Bearer {made.json['token']}"}
    me = any_house.client().get("/api/v1/me", headers=theirs).json
    assert (me["name"], me["role"], me["scopes"]) == ("Ada", "member", ["read", "share", "submit"])
    assert "token" not in call(any_house, "GET", f"/members/{made.json['id']}", "reader").json
    assert call(any_house, "GET", "/members", "reader").json["items"][0]["name"] == "Ada"
    assert call(any_house, "POST", "/members", json={"name": "B", "email": "ada@EXAMPLE.org"}).status_code == 409
    assert any_house.client().post("/api/v1/members", headers=theirs, json={"name": "C"}).status_code == 403


def test_who_is_disabled_or_loses_a_role_is_refused_at_once(house: House) -> None:
    member = house.members["ours", "sharer"]
    assert call(house, "PATCH", f"/members/{member}", json={"role": "reader"}).json["role"] == "reader"
    assert call(house, "GET", "/me", "sharer").json["scopes"] == ["read"]
    assert call(house, "PATCH", f"/members/{member}", json={"disabled": True}).json["disabled_at"]
    assert call(house, "GET", "/me", "sharer").status_code == 401
    assert call(house, "POST", f"/members/{member}/tokens").status_code == 409
    assert call(house, "PATCH", f"/members/{member}", json={"disabled": False}).json["disabled_at"] is None
    fresh = call(house, "POST", f"/members/{member}/tokens").json["token"]
    assert house.client().get("/api/v1/me", headers={"Authorization": f"Bearer {fresh}"}).status_code == 200


def test_a_team_keeps_an_admin(house: House) -> None:
    admin = house.members["ours", "admin"]
    for change in ({"role": "member"}, {"disabled": True}):
        refused = call(house, "PATCH", f"/members/{admin}", json=change)
        assert (refused.status_code, "last admin" in refused.json["detail"]) == (409, True)


def test_a_team_sees_its_quotas_and_meets_them(house: House) -> None:
    from store.tables import Team

    with house.database.write() as rows:
        rows.get(Team, house.teams["ours"]).max_queued_jobs = 2
    sent = [call(house, "POST", "/jobs", json={"recipe": "independence"}) for _ in range(3)]
    assert [answer.status_code for answer in sent] == [202, 202, 429]
    assert sent[2].json["type"] == "/problems/quota"
    [team] = call(house, "GET", "/teams", "reader").json["items"]
    assert (team["name"], team["queued_jobs"]) == ("ours", {"used": 2, "limit": 2})
    assert team["queued_steps"] == {"used": 40_000, "limit": None}
    assert call(house, "POST", "/jobs", team="theirs", json={"recipe": "independence"}).status_code == 202


def test_when_a_token_was_last_used_is_seen_in_the_list_to_ten_minutes(house: House) -> None:
    def used(ago: timedelta) -> datetime:
        at = now() - ago
        with house.database.write() as rows:
            who = teams.authenticate(rows, house.tokens["ours", "admin"], now())
            teams.note_use(rows, who, at)
        return at

    with serving(house) as port:

        def seen() -> datetime:
            asked = urllib.request.Request(f"http://127.0.0.1:{port}/api/v1/tokens", headers=house.headers())
            with urllib.request.urlopen(asked) as said:
                [mine] = json.load(said)["items"]
            return datetime.fromisoformat(mine["last_used_at"])

        began = now()
        assert seen() >= began
        lately = used(teams.USE_NOTED_EVERY - timedelta(minutes=2))
        assert seen() == lately  # finer would write a row at every request
        used(teams.USE_NOTED_EVERY + timedelta(seconds=1))
        assert seen() >= began


def test_a_request_goes_on_where_the_use_of_its_token_cannot_be_noted(
    house: House, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(Database, "write", Database.read)  # a database that takes no writes just now
    assert call(house, "GET", "/me").status_code == 200
    assert "could not be noted" in caplog.text


# What is sent so that the change really happens, by the end of the rule; None: asks only, and changes nothing.
BODIES: dict[str, dict[str, object] | None] = {
    "/datasets": {"name": "two", "maker": {"kind": "two_moons"}},
    "/jobs": {"recipe": "independence"},
    "/uploads": {"name": "a.csv", "bytes": 5},
    "/tokens": {"name": "one", "scopes": ["read"]},
    "/members": {"name": "Ada"},
    "/aliases/<string:alias>": {"version": 1},
    "/annotations": {"about": "run", "text": "seen"},
    "/versions/<string:version>": {"card": "anew"},
    "/datasets/<string:dataset_id>": {"name": "anew"},
    "/jobs/<string:job_id>": {"pinned": True},
    "/webhooks": {"url": "https://hooks.example.org/bimt"},
    "/parts/<int:start>": None,  # a piece; the upload's beginning and end are noted
    "/complete": None,  # tests/api/test_uploads.py has a whole one
    "/cancel": None,  # its job has ended here
    "/retry": None,
    "/models": None,  # below, by a run of its own
    "/predict": None,
    "/interventions": None,
    "/verify": None,
}


def test_every_change_leaves_a_line_and_nothing_else_does(house: House) -> None:
    ids = things(house)

    def lines() -> int:
        return len(call(house, "GET", "/audit?limit=200").json["items"])

    changed = 0
    addresses = [row for row in decisions(house.app) if row[1].startswith("/api/")]
    for method, rule, _ in sorted(addresses, key=lambda row: (row[0] == "DELETE", "model>" in row[1])):
        end = next((end for end in BODIES if rule.endswith(end)), "")
        body = BODIES.get(end, {})
        if body is None and method != "GET":
            continue
        before = lines()
        if method == "GET":
            answer = ask(house, method, rule, ids, house.headers())
        else:
            path = re.sub(r"<(?:\w+:)?(\w+)>", lambda m: str(ids[m[1]]), rule)
            answer = house.client().open(path, method=method, headers=house.headers(), json=body)
        if "/events" in rule:
            answer.close()
        where = f"{method} {rule} {answer.status_code}"
        if method == "GET":
            assert lines() == before, where
        elif answer.status_code < 300:
            assert lines() > before, where
            changed += 1
        else:
            assert lines() == before, where
    assert changed > 15


def test_the_log_says_who_did_what_and_is_for_admins(house: House) -> None:
    job = call(house, "POST", "/jobs", "submitter", json={"recipe": "independence"}).json["id"]
    call(house, "POST", f"/jobs/{job}/cancel")
    entries = call(house, "GET", f"/audit?thing={job}").json["items"]
    assert [(e["action"], e["member_id"]) for e in entries] == [
        ("job.cancel", house.members["ours", "admin"]),
        ("job.submit", house.members["ours", "submitter"]),
    ]
    assert entries[0]["address"] == "127.0.0.1"
    assert len(call(house, "GET", "/audit?action=job.cancel").json["items"]) == 1
    first = call(house, "GET", "/audit?limit=1").json
    rest = call(house, "GET", f"/audit?limit=1&after={first['next']}").json
    assert (first["items"][0]["action"], rest["items"][0]["action"]) == ("job.cancel", "job.submit")
    assert call(house, "GET", "/audit", "sharer").status_code == 403
    assert call(house, "GET", "/audit", team="theirs").json["items"] == []


@pytest.mark.parametrize("role", ["reader", "submitter", "sharer"])
def test_nobody_but_an_admin_changes_members(house: House, role: str, make: Callable[..., House]) -> None:
    member = house.members["ours", "reader"]
    assert call(house, "PATCH", f"/members/{member}", role, json={"role": "admin"}).status_code == 403
    assert call(house, "POST", f"/members/{member}/tokens", role).status_code == 403
    foreign = house.members["theirs", "reader"]
    assert call(house, "PATCH", f"/members/{foreign}", json={"role": "admin"}).status_code == 404
