"""Who was shut out must stay out: tokens made with a token, sessions, copies of cookies, pages kept by a browser."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from store import teams
from tests.api.makers import House, now
from tests.api.test_auth import sign_in


def asked(house: House, method: str, path: str, token: str, **more: Any) -> Any:
    headers = {"Authorization": f"Bearer {token}"}
    return house.client().open(f"/api/v1{path}", method=method, headers=headers, **more)


def minted(house: House, token: str, *, days: int | None = 90, scopes: tuple[str, ...] = ("read",)) -> dict[str, Any]:
    made = asked(house, "POST", "/tokens", token, json={"name": "x", "scopes": scopes, "expires_in_days": days})
    assert made.status_code == 201, made.json
    return dict(made.json)


def test_what_was_made_with_a_token_is_revoked_with_it_to_the_last_descendant(any_house: House) -> None:
    house = any_house
    first = minted(house, house.tokens["ours", "submitter"], scopes=("read", "submit"))
    child = minted(house, first["token"], scopes=("read", "submit"))
    grandchild = minted(house, child["token"])
    beside = minted(house, house.tokens["ours", "submitter"])
    assert asked(house, "DELETE", f"/tokens/{first['id']}", house.tokens["ours", "submitter"]).status_code == 204
    for token in (first, child, grandchild):
        assert asked(house, "GET", "/me", token["token"]).status_code == 401
    assert asked(house, "GET", "/me", beside["token"]).status_code == 200


def test_no_token_lives_longer_than_the_one_that_it_was_made_with(house: House) -> None:
    short = minted(house, house.tokens["ours", "admin"], days=1, scopes=("read",))
    for days in (None, 3650, 90):
        made = minted(house, short["token"], days=days)
        assert datetime.fromisoformat(made["expires_at"]) == datetime.fromisoformat(short["expires_at"])
    first = datetime.fromisoformat(short["expires_at"]) - now()
    assert timedelta(hours=23) < first < timedelta(hours=25)


def test_a_token_that_may_only_read_deletes_nothing_but_itself(house: House) -> None:
    strong = house.tokens["ours", "admin"]
    weak = minted(house, strong)
    of_weak = minted(house, weak["token"])
    others = asked(house, "GET", "/tokens", strong).json["items"]
    for token in others:
        if token["id"] not in (weak["id"], of_weak["id"]):
            assert asked(house, "DELETE", f"/tokens/{token['id']}", weak["token"]).status_code == 403
    assert asked(house, "GET", "/me", strong).status_code == 200
    assert asked(house, "DELETE", f"/tokens/{of_weak['id']}", weak["token"]).status_code == 204
    assert asked(house, "DELETE", f"/tokens/{weak['id']}", weak["token"]).status_code == 204
    assert asked(house, "GET", "/me", weak["token"]).status_code == 401


def test_a_copied_cookie_is_worth_nothing_after_signing_out(any_house: House) -> None:
    browser, csrf, _ = sign_in(any_house)
    cookie = browser.get_cookie("bimt_session")
    assert cookie is not None
    thief = any_house.client()
    thief.set_cookie("bimt_session", cookie.value)
    assert thief.get("/api/v1/me").status_code == 200
    assert browser.post("/logout", data={"csrf_token": csrf}).status_code == 303
    assert thief.get("/api/v1/me").status_code == 401
    assert thief.get("/team").headers["Location"].startswith("/login")


def test_a_session_ends_by_itself_and_with_the_token_it_was_begun_with(house: House) -> None:
    browser, _, _ = sign_in(house, "submitter")
    with house.database.read() as rows:
        who = teams.authenticate(rows, house.tokens["ours", "submitter"], now())
        assert who is not None
        [begun] = teams.descendants(rows, who.token_id)
        assert teams.caller_of_session(rows, begun, now=now() + teams.SESSION + timedelta(seconds=1)) is None
    assert asked(house, "DELETE", f"/tokens/{who.token_id}", house.tokens["ours", "admin"]).status_code == 204
    assert browser.get("/api/v1/me").status_code == 401


def test_the_id_of_an_api_token_is_no_session(house: House) -> None:
    """Cookies of earlier versions held it; they are not accepted, and a signed one cannot be made for it."""
    with house.database.read() as rows:
        who = teams.authenticate(rows, house.tokens["ours", "admin"], now())
        assert who is not None
        assert teams.caller_of_session(rows, who.token_id, now=now()) is None


def test_a_token_made_in_a_browser_outlives_its_session_but_not_its_token(house: House) -> None:
    browser, csrf, _ = sign_in(house, "submitter")
    body = {"name": "script", "scopes": ["read"], "expires_in_days": 30}
    made = browser.post("/api/v1/tokens", json=body, headers={"X-CSRFToken": csrf})
    assert made.status_code == 201, made.json
    browser.post("/logout", data={"csrf_token": csrf})
    assert asked(house, "GET", "/me", made.json["token"]).status_code == 200
    with house.database.read() as rows:
        who = teams.authenticate(rows, house.tokens["ours", "submitter"], now())
        assert who is not None
    asked(house, "DELETE", f"/tokens/{who.token_id}", house.tokens["ours", "admin"])
    assert asked(house, "GET", "/me", made.json["token"]).status_code == 401


def test_no_browser_keeps_a_page_that_only_a_member_may_see(house: House) -> None:
    browser, _, _ = sign_in(house)
    for path in ("/", "/jobs", "/team", "/models", "/data", "/api/v1/me"):
        answer = browser.get(path)
        assert (path, answer.headers.get("Cache-Control")) == (path, "no-store") or answer.status_code == 404
    assert "no-store" not in house.client().get("/login").headers.get("Cache-Control", "")
