"""What a stranger may try, at every address there is: bad tokens, lost links, forged forms, odd paths, huge headers."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from datetime import timedelta
from urllib.parse import quote

import pytest

from api.auth import SAFE_METHODS, Access, decisions
from store import models, teams
from store.tables import ModelVersion
from tests.api.makers import House, now, serving
from tests.api.test_auth import ask, sign_in, things


def addresses(house: House) -> list[tuple[str, str, Access]]:
    """Every address of the API and the pages, with its decision."""
    return [(method, rule, access) for method, rule, access in decisions(house.app) if access is not None]


def test_no_address_takes_a_token_that_is_none(house: House) -> None:
    ids, good = things(house), house.tokens["ours", "admin"]
    member = house.members["ours", "admin"]
    with house.database.write() as rows:
        how = {"scopes": list(teams.ROLE_SCOPES["admin"]), "now": now()}
        old, _ = teams.mint_token(rows, member, **how, expires_at=now() - timedelta(seconds=1), name="old")
        gone, row = teams.mint_token(rows, member, **how, expires_at=None, name="gone")
        teams.revoke_token(rows, house.teams["ours"], row.id, now())
    bad = {
        "expired": f"Bearer {old}",
        "revoked": f"Bearer {gone}",
        "one letter changed": f"Bearer {good[:-1]}{'0' if good[-1] != '0' else '1'}",
        "cut": f"Bearer {good[:-8]}",
        "doubled": f"Bearer {good} {good}",
        "of another kind": f"Basic {good}",
        "a link's": f"Bearer {ids['token']}",
        "long": "Bearer bimt_" + "f" * 4000,
        "empty": "",
    }
    for method, rule, access in addresses(house):
        if access is Access.ANYONE:
            continue
        for what, header in bad.items():
            answer = ask(house, method, rule, ids, {"Authorization": header})
            where = f"{what}: {method} {rule} → {answer.status_code}"
            if rule.startswith(("/api/", "/metrics")):
                assert (answer.status_code, answer.json["type"]) == (401, "/problems/no-token"), where
            else:
                assert answer.headers["Location"].startswith("/login"), where
            answer.close()


def links(house: House) -> list[str]:
    """The addresses that a link opens."""
    found = [rule for method, rule, _ in addresses(house) if method == "GET" and "<string:token>" in rule]
    assert len(found) >= 6
    return found


@pytest.mark.parametrize("how", ["revoked", "expired", "never made", "of a model that was deleted"])
def test_no_address_of_a_link_opens_when_the_link_is_lost(house: House, how: str) -> None:
    ids = things(house)
    for rule in links(house):
        assert ask(house, "GET", rule, ids, {}).status_code == 200, rule
    client, headers = house.client(), house.headers()
    if how == "revoked":
        assert client.delete(f"/api/v1/shares/{ids['share_id']}", headers=headers).status_code == 204
    elif how == "expired":
        with house.database.write() as rows:
            version = rows.get(ModelVersion, (ids["model"], 1))
            who = {"team_id": house.teams["ours"], "member_id": house.members["ours", "admin"]}
            past = now() - timedelta(seconds=1)
            ids["token"], _ = models.create_share(rows, version, **who, view={}, expires_at=past, now=now())
    elif how == "never made":
        ids["token"] = ids["token"][:-1] + ("0" if ids["token"][-1] != "0" else "1")
    else:
        assert client.delete(f"/api/v1/models/{ids['model']}", headers=headers).status_code == 204
    for rule in links(house):
        answer = ask(house, "GET", rule, ids, {})
        assert answer.status_code == 404, f"{how}: {rule} → {answer.status_code}"
        assert "independence" not in answer.text


def test_a_link_opens_nothing_but_its_own_addresses(house: House) -> None:
    ids = things(house)
    for method, rule, access in addresses(house):
        if access is Access.ANYONE or not rule.startswith("/api/"):
            continue
        query = ask(house, method, rule, ids, {"Cookie": f"bimt_session={ids['token']}"})
        assert query.status_code == 401, f"{method} {rule}"
        query.close()


def test_no_address_that_changes_something_trusts_a_cookie_alone(house: House) -> None:
    ids = things(house)
    browser, _, _ = sign_in(house, "admin")
    checked = 0
    for method, rule, access in addresses(house):
        if method in SAFE_METHODS or access is Access.ANYONE:
            continue
        path = re.sub(r"<(?:\w+:)?(\w+)>", lambda m: ids[m[1]], rule)
        for forged in ({}, {"X-CSRFToken": "forged"}, {"Origin": "https://evil.example", "X-CSRFToken": ""}):
            answer = browser.open(path, method=method, headers=forged, json={})
            assert answer.status_code == 403, f"{method} {rule} → {answer.status_code}"
            if rule.startswith("/api/"):
                assert answer.json["type"] == "/problems/csrf"
        form = browser.open(path, method=method, data={"csrf_token": "forged"})
        assert form.status_code == 403, f"{method} {rule} → {form.status_code}"
        checked += 1
    assert checked > 25
    for what in ("jobs", "models", "datasets", "webhooks"):
        assert house.client().get(f"/api/v1/{what}", headers=house.headers()).json["items"], "nothing is gone"


ODD = (
    "..", "../../etc/passwd", "..\\..\\etc", "%2e%2e%2f", "\x00", "a\x00b", "' OR '1'='1", "$(id)", "`id`", "{{7*7}}",
    "<script>alert(1)</script>", "\u202e\u0000", "🙂" * 50, "a" * 3000, "-1", ".", "*", "%", ";",
)  # fmt: skip


def odd_paths(rule: str, ids: dict[str, str]) -> Iterator[str]:
    """The address with one of its parts after the other odd, the rest sound."""
    names = re.findall(r"<(?:\w+:)?(\w+)>", rule)
    for odd in ODD:
        for strange in names:
            values = {name: odd if name == strange else ids[name] for name in names}
            yield re.sub(r"<(?:\w+:)?(\w+)>", lambda m, given=values: quote(given[m[1]], safe=""), rule)


def test_no_odd_part_of_any_path_leads_anywhere(house: House) -> None:
    ids = things(house)
    seen = 0
    client, headers = house.client(), house.headers()
    for method, rule, _ in addresses(house):
        if "<" not in rule or rule.startswith("/static/"):
            continue
        for path in odd_paths(rule, ids):
            answer = client.open(path, method=method, headers=headers, **({"json": {}} if method != "GET" else {}))
            # 308: two slashes are one; 405: a shorter address, without this method. Neither does anything.
            harmless = answer.status_code in (308, 400, 404, 405, 409, 413, 415, 422)
            assert harmless, f"{method} {path}: {answer.status_code}"
            assert "html" not in answer.content_type or "<script>alert" not in answer.text
            assert "root:" not in answer.text
            answer.close()
            seen += 1
    assert seen > 1000


def raw(port: int, request: bytes) -> bytes:
    """What a real server says to these bytes."""
    said = b""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as line:
        line.settimeout(20)
        try:
            line.sendall(request)
            while piece := line.recv(65536):
                said += piece
        except (ConnectionResetError, BrokenPipeError):
            pass
    return said


def test_a_real_server_refuses_huge_and_broken_headers_and_goes_on(house: House) -> None:
    token = house.tokens["ours", "admin"].encode()
    head = b"GET /api/v1/me HTTP/1.1\r\nHost: here\r\nConnection: close\r\nAuthorization: Bearer " + token + b"\r\n"
    with serving(house) as port:
        assert b" 200 " in raw(port, head + b"\r\n").split(b"\r\n")[0]
        refused = {
            "one long header": head + b"X-Long: " + b"x" * 200_000 + b"\r\n\r\n",
            "many headers": head + b"".join(b"X-%d: 1\r\n" % i for i in range(2000)) + b"\r\n",
            "a long address": b"GET /api/v1/me?" + b"a" * 200_000 + b" HTTP/1.1\r\nHost: here\r\n\r\n",
            "a long token": b"GET /api/v1/me HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer "
            + b"x" * 100_000
            + b"\r\n\r\n",
            "a header with a line in it": head + b"X-A: 1\n\r: 2\r\n\r\n",
            "a name with a space": head + b"X A: 1\r\n\r\n",
            "two lengths": head + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nab",
            "a length and chunks": head + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "a negative length": head + b"Content-Length: -1\r\n\r\n",
            "no protocol": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 20 + b"\r\n\r\n",
        }
        for what, request in refused.items():
            first = raw(port, request).split(b"\r\n")[0]
            assert not first or re.match(rb"HTTP/1\.[01] 4\d\d ", first), f"{what}: {first!r}"
        assert b" 200 " in raw(port, head + b"\r\n").split(b"\r\n")[0], "it still serves"
