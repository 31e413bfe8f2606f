"""Who may do what: every address × every role × both teams, and everything a stranger may try."""

from __future__ import annotations

import queue
import re
import threading
from collections.abc import Callable
from datetime import timedelta

import pytest
from werkzeug.test import TestResponse

from api.aliases import ADDRESSES
from api.auth import Access, ConcurrencyLimit, decisions
from api.operations import INTERACTIVE
from api.problems import Problem
from store import datasets, models, networks, operations, teams, webhooks
from store.columns import new_id
from store.tables import Model
from tests.api.makers import SCOPES, House, now, publish_runs, submit_job

# Bodies of addresses that refuse an empty one before they look for the thing.
BODIES: dict[str, dict[str, object]] = {
    "/aliases/<string:alias>": {"version": 1},
    "/annotations": {"about": "run", "text": "seen"},
    "/interventions": {"each": {"kind": "module"}},
    "/predict": {"inputs": [[0, 0, 0, 0]]},
    "/versions/<string:version>": {"card": "anew"},
    "/webhooks": {"url": "https://hooks.example.org/bimt"},
}
# Addresses that would wait for a worker; there is none.
WAITING = (
    *(
        "/interventions",
        "/predict",
        "/operations/<string:operation_id>",
        "/embedding",
        "/probe",
        "/film.mp4",
        "/film.gif",
    ),
    *("/runs/<string:run_id>/model.onnx", "/<string:module>/model.onnx", "/<string:module>/weights.safetensors"),
    *("/pareto", "/pareto.<string:suffix>", "/stability"),
    "/verify",
    *ADDRESSES.values(),
)


def things(house: House, team: str = "ours") -> dict[str, str]:
    """One of everything that an address may name, belonging to a team."""
    job_id = submit_job(house, team=team)
    [run_id] = publish_runs(house, job_id)
    who = {"team_id": house.teams[team], "member_id": house.members[team, "admin"]}
    with house.database.write() as rows:
        made = datasets.register(
            rows, **who, name="made", kind="made", maker={"kind": "two_moons"}, state="ready", now=now()
        )
        _, token = teams.mint_token(rows, who["member_id"], scopes=["read"], expires_at=None, now=now(), name="spare")
        version = models.publish(rows, **who, run_id=run_id, name="shown", now=now())
        models.point(rows, rows.get(Model, version.model_id), "stable", 1, member_id=who["member_id"], now=now())
        link, share = models.create_share(rows, version, **who, view={}, expires_at=None, now=now())
        order = {"run_id": run_id}
        asked = operations.submit(rows, **who, kind="predict", about="", request=order, queue=INTERACTIVE, now=now())
        ids = {
            "dataset_id": made.id,
            "operation_id": asked.id,
            "token_id": token.id,
            "share_id": share.id,
            "token": link,
        }
        later = now() + timedelta(days=1)
        sending = datasets.begin_upload(
            rows, **who, name="a.csv", bytes=3, format="csv", roles=None, expires_at=later, now=now()
        )
        hook = webhooks.create(rows, **who, url="https://hooks.example.org/", events=["job.failed"], now=now())
        network = networks.register(
            rows, **who, name="net", format="onnx", file=house.files.put_bytes(b"net"), config=None, now=now()
        )
        networks.set_check_result(rows, network.id, now=now(), header={"parameters": 0})
        ids["network_id"] = network.id
        ids |= {"webhook_id": hook.id, "delivery_id": webhooks.ping(rows, who["team_id"], hook.id, now=now()).id}
        ids |= {"upload_id": sending.id, "start": "0", "member_id": house.members[team, "reader"]}
    words = {
        "module": "A",
        "part": "A",
        "step": "20000",
        "model": version.model_id,
        "version": "1",
        "alias": "stable",
        "word": "stable",
    }
    return ids | words | {"job_id": job_id, "run_id": run_id, "name": "network", "suffix": "svg", "slug": "not-found"}


def ask(house: House, method: str, rule: str, ids: dict[str, str], headers: dict[str, str]) -> TestResponse:
    """Send one request to an address with its ids filled in."""
    path = re.sub(r"<(?:\w+:)?(\w+)>", lambda m: "independence" if "recipes" in rule else ids[m[1]], rule)
    if path.endswith("/static/" + ids["name"]):
        path = "/static/css/text.css"
    sound = next((body for end, body in BODIES.items() if rule.endswith(end)), {})
    body = {"json": sound} if method in ("POST", "PUT", "PATCH") and path.startswith("/api/") else {}
    query = {"query_string": {"wait": 0}} if rule.endswith(WAITING) else {}
    return house.client().open(path, method=method, headers=headers, **body, **query)


def api_addresses(house: House) -> list[tuple[str, str, Access]]:
    """Addresses whose answers are for programs."""
    rows = [row for row in decisions(house.app) if row[1].startswith("/api/") or row[1] == "/metrics"]
    decided = [(method, rule, access) for method, rule, access in rows if access is not None]
    return sorted(decided, key=lambda row: row[0] == "DELETE")  # what is deleted is not there for the next address


def test_every_address_has_a_decision(house: House) -> None:
    undecided = [(method, rule) for method, rule, access in decisions(house.app) if access is None]
    assert undecided == []
    assert len(decisions(house.app)) > 30


def test_an_address_without_a_decision_is_refused_to_everybody(house: House) -> None:
    house.app.add_url_rule("/api/v1/forgotten", "forgotten", lambda: "secret")
    answer = house.client().get("/api/v1/forgotten", headers=house.headers("admin"))
    assert (answer.status_code, answer.json["type"]) == (403, "/problems/scope")


def test_what_is_open_to_anyone_is_a_short_list(house: House) -> None:
    open_ones = {f"{method} {rule}" for method, rule, access in decisions(house.app) if access is Access.ANYONE}
    assert open_ones == {
        "GET /healthz",
        "GET /readyz",
        "GET /openapi.json",
        "GET /docs",
        "GET /glossary",
        "GET /glossary.json",
        "GET /problems",
        "GET /problems/<string:slug>",
        "GET /static/<path:name>",
        "GET /favicon.ico",
        "GET /login",
        "POST /login",
        "POST /logout",
        "GET /s/<string:token>",
        "GET /client/<string:name>",
        "GET /api/v1/s/<string:token>",
        "GET /api/v1/s/<string:token>/graph",
        "GET /api/v1/s/<string:token>/modules",
        "GET /api/v1/s/<string:token>/interior",
        "GET /api/v1/s/<string:token>/effects",
        "GET /api/v1/s/<string:token>/figures/<string:name>.<string:suffix>",
    }


@pytest.mark.parametrize("role", [*SCOPES, None])
def test_a_scope_opens_its_addresses_and_no_other(house: House, role: str | None) -> None:
    ids = things(house)
    headers = {} if role is None else house.headers(role)
    scopes = () if role is None else SCOPES[role]
    for method, rule, access in api_addresses(house):
        answer = ask(house, method, rule, ids, headers)
        where = f"{role}: {method} {rule} → {answer.status_code}"
        if access is Access.ANYONE:
            assert answer.status_code == 200, where
        elif role is None:
            assert answer.status_code == 401, where
        elif access is Access.MEMBER or access.value in scopes or "admin" in scopes:
            assert answer.status_code not in (401, 403), where
        else:
            assert answer.status_code == 403, where
            assert access.value in answer.json["detail"], where
        if answer.status_code >= 400:
            assert answer.content_type == "application/problem+json", where
        answer.close()


def test_what_belongs_to_another_team_is_not_there(house: House) -> None:
    theirs, nobody_s = things(house, "theirs"), {}
    for name in (
        "dataset_id",
        "network_id",
        "job_id",
        "run_id",
        "token_id",
        "share_id",
        "upload_id",
        "member_id",
        "webhook_id",
        "delivery_id",
        "model",
    ):
        nobody_s[name] = new_id(name.removesuffix("_id"))
    checked = 0
    for method, rule, _ in api_addresses(house):
        if not re.search(r"_id>|:model>", rule):
            continue
        foreign = ask(house, method, rule, theirs, house.headers("admin"))
        absent = ask(house, method, rule, theirs | nobody_s, house.headers("admin"))
        assert foreign.status_code == absent.status_code == 404, f"{method} {rule}: {foreign.status_code}"
        assert foreign.json["title"] == absent.json["title"]
        if method == "DELETE":
            continue  # deleting our own would leave the next address nothing to find
        own = ask(house, method, rule, theirs, house.headers("admin", "theirs"))
        assert own.status_code != 404, f"{method} {rule}"
        own.close()
        checked += 1
    assert checked > 30


def test_lists_hold_nothing_of_another_team(house: House) -> None:
    things(house, "theirs")
    for what in ("datasets", "jobs", "runs", "models", "webhooks"):
        assert house.client().get(f"/api/v1/{what}", headers=house.headers()).json["items"] == []
        assert house.client().get(f"/api/v1/{what}", headers=house.headers(team="theirs")).json["items"] != []


@pytest.mark.parametrize(
    "header",
    [
        "",
        "Bearer",
        "Bearer ",
        "Basic YWRtaW46YWRtaW4=",
        "Bearer bimt_",
        "Bearer bimt_000000000000_" + "a" * 51,
        "Bearer " + "x" * 7000,
        "Bearer bimt_\u00e9",
        "Bearer ' OR 1=1 --",
        "Bearer ../../etc/passwd",
    ],
)
def test_a_token_that_is_none_is_refused(house: House, header: str) -> None:
    answer = house.client().get("/api/v1/me", headers={"Authorization": header})
    assert (answer.status_code, answer.json["type"]) == (401, "/problems/no-token")
    assert answer.headers["WWW-Authenticate"].startswith("Bearer")
    assert answer.json["errors"][0]["pointer"] == "/Authorization"


def test_a_changed_expired_or_revoked_token_is_refused(house: House) -> None:
    client, good = house.client(), house.tokens["ours", "submitter"]
    member = house.members["ours", "submitter"]
    with house.database.write() as rows:
        old, _ = teams.mint_token(rows, member, scopes=["read"], expires_at=now() - timedelta(seconds=1), now=now())
        gone, row = teams.mint_token(rows, member, scopes=["read"], expires_at=None, now=now())
        teams.revoke_token(rows, house.teams["ours"], row.id, now())
    for text in (good[:-1] + ("0" if good[-1] != "0" else "1"), old, gone):
        assert client.get("/api/v1/me", headers={"Authorization": f"Bearer {text}"}).status_code == 401
    assert client.get("/api/v1/me", headers={"Authorization": f"Bearer {good}"}).json["role"] == "member"


def test_a_token_is_minted_shown_once_and_revoked(house: House) -> None:
    client, headers = house.client(), house.headers("submitter")
    made = client.post("/api/v1/tokens", headers=headers, json={"name": "laptop", "scopes": ["read"]})
    assert made.status_code == 201
    text = made.json["token"]
    fresh = {"Authorization": f"Bearer {text}"}
    assert client.get("/api/v1/me", headers=fresh).json["scopes"] == ["read"]
    listed = client.get("/api/v1/tokens", headers=headers)
    assert text not in listed.text
    assert "laptop" in [token["name"] for token in listed.json["items"]]
    assert client.delete(f"/api/v1/tokens/{made.json['id']}", headers=headers).status_code == 204
    assert client.get("/api/v1/me", headers=fresh).status_code == 401


def test_a_token_cannot_give_more_than_it_has(house: House) -> None:
    answer = house.client().post(
        "/api/v1/tokens", headers=house.headers("reader"), json={"name": "more", "scopes": ["read", "admin"]}
    )
    assert (answer.status_code, answer.json["errors"][0]["pointer"]) == (403, "/scopes/1")
    colleague = house.client().get("/api/v1/tokens", headers=house.headers("submitter")).json["items"][0]["id"]
    assert house.client().delete(f"/api/v1/tokens/{colleague}", headers=house.headers("reader")).status_code == 404
    assert house.client().delete(f"/api/v1/tokens/{colleague}", headers=house.headers("admin")).status_code == 204


# --- browsers -------------------------------------------------------------------------------------------


def sign_in(house: House, role: str = "admin", target: str = "/"):
    """A browser with a session, and the CSRF token of its page."""
    browser = house.client()
    page = browser.get("/login")
    token = re.search(r'name="csrf-token" content="([^"]+)"', page.text)[1]
    answer = browser.post("/login", data={"token": house.tokens["ours", role], "csrf_token": token, "next": target})
    assert answer.status_code == 303, answer.text
    page = browser.get("/docs")
    return browser, re.search(r'name="csrf-token" content="([^"]+)"', page.text)[1], answer.headers["Location"]


def test_a_stranger_is_led_to_the_door_and_back(house: House) -> None:
    answer = house.client().get("/jobs?state=failed")
    assert (answer.status_code, answer.headers["Location"]) == (302, "/login?next=%2Fjobs%3Fstate%3Dfailed")
    browser, _, target = sign_in(house, target="/jobs?state=failed")
    assert target == "/jobs?state=failed"
    assert browser.get(target).status_code == 200


@pytest.mark.parametrize(
    "target", ["https://evil.example/", "//evil.example/", "/\\evil.example", "/login", "javascript:1"]
)
def test_signing_in_never_leads_to_another_site(house: House, target: str) -> None:
    assert sign_in(house, target=target)[2] == "/"


def test_a_session_reads_but_writes_only_with_its_csrf_token(house: House) -> None:
    browser, csrf, _ = sign_in(house, "submitter")
    assert browser.get("/api/v1/me").json["name"] == "submitter of ours"
    body = {"recipe": "independence"}
    for headers in ({}, {"X-CSRFToken": ""}, {"X-CSRFToken": "wrong"}, {"X-CSRFToken": csrf[:-1]}):
        answer = browser.post("/api/v1/jobs", json=body, headers=headers)
        assert (answer.status_code, answer.json["type"]) == (403, "/problems/csrf")
    assert browser.post("/api/v1/jobs", json=body, headers={"X-CSRFToken": csrf}).status_code == 202


def test_a_bearer_header_makes_the_cookie_count_for_nothing(house: House) -> None:
    browser, _, _ = sign_in(house, "admin")
    answer = browser.post("/api/v1/jobs", json={"recipe": "independence"}, headers={"Authorization": "Bearer nonsense"})
    assert answer.status_code == 401


def test_a_session_ends_with_its_token_and_with_signing_out(house: House) -> None:
    browser, csrf, _ = sign_in(house, "submitter")
    assert browser.post("/logout", data={"csrf_token": csrf}).status_code == 303
    assert browser.get("/api/v1/me").status_code == 401
    browser, _, _ = sign_in(house, "submitter")
    with house.database.write() as rows:
        token = teams.page_tokens(rows, house.teams["ours"], member_id=house.members["ours", "submitter"]).rows[0]
        teams.revoke_token(rows, house.teams["ours"], token.id, now())
    assert browser.get("/api/v1/me").status_code == 401


def test_a_wrong_token_and_a_missing_csrf_token_do_not_sign_in(house: House) -> None:
    browser = house.client()
    token = re.search(r'name="csrf-token" content="([^"]+)"', browser.get("/login").text)[1]
    wrong = browser.post("/login", data={"token": "bimt_wrong", "csrf_token": token})
    assert (wrong.status_code, "unknown, expired or revoked" in wrong.text) == (401, True)
    assert browser.post("/login", data={"token": house.tokens["ours", "admin"]}).status_code == 403
    assert browser.get("/api/v1/me").status_code == 401


def test_the_session_cookie_is_out_of_reach_of_scripts_and_holds_no_secret(house: House) -> None:
    browser, _, _ = sign_in(house)
    cookie = browser.get_cookie("bimt_session")
    assert cookie is not None
    assert (cookie.http_only, cookie.same_site) == (True, "Lax")
    secret = house.tokens["ours", "admin"].split("_", 2)[2]  # it may hold the sign itself
    assert secret[:20] not in cookie.value


def test_answers_carry_the_headers_that_keep_browsers_safe(house: House) -> None:
    page = house.client().get("/docs")
    assert "unsafe" not in page.headers["Content-Security-Policy"]
    assert page.headers["X-Content-Type-Options"] == "nosniff"
    assert len(page.headers["X-Request-Id"]) >= 8
    assert "<script>" not in page.text
    assert " style=" not in page.text


@pytest.mark.parametrize(
    "path",
    [
        "/static/../app.py",
        "/static/..%2f..%2fapp.py",
        "/static/%2e%2e/%2e%2e/app.py",
        "/api/v1/runs/..%2f..%2fetc/figures/network.svg",
        "/api/v1/datasets/%00",
        "/runs/%2e%2e%2f%2e%2e",
        "/api/v1/recipes/..%2f..%2fspec",
    ],
)
def test_paths_lead_nowhere_but_to_their_address(house: House, path: str) -> None:
    answer = house.client().get(path, headers=house.headers())
    assert answer.status_code == 404
    assert "import" not in answer.text


def test_too_many_requests_are_told_when_to_come_back(make: Callable[..., House]) -> None:
    house = make(BIMT_RATE_LIMIT="5/minute", BIMT_LOGIN_RATE_LIMIT="2/minute")
    client = house.client()
    answers = [client.get("/api/v1/me", headers=house.headers("reader")) for _ in range(7)]
    assert [a.status_code for a in answers] == [200] * 5 + [429] * 2
    assert ["Retry-After" in a.headers for a in answers] == [False] * 5 + [True] * 2
    assert [a.headers["RateLimit-Policy"] for a in answers] == ['"token";q=5;w=60'] * 7
    told = [re.fullmatch(r'"token";r=(\d+);t=(\d+)', a.headers["RateLimit"]) for a in answers]
    assert [int(one[1]) for one in told] == [4, 3, 2, 1, 0, 0, 0]
    assert all(0 < int(one[2]) <= 120 for one in told)
    assert answers[-1].json["type"] == "/problems/rate-limit"
    assert 0 < int(answers[-1].headers["Retry-After"]) <= 120
    assert client.get("/api/v1/me", headers=house.headers("submitter")).status_code == 200
    assert client.get("/healthz").status_code == 200
    tries = [client.post("/login") for _ in range(4)]
    assert [one.status_code for one in tries] == [403, 403, 429, 429]
    assert '"sign-in";q=2;w=60' in tries[-1].headers["RateLimit-Policy"]
    assert int(tries[-1].headers["Retry-After"]) > 0
    assert "RateLimit" not in client.get("/healthz").headers


# --- how many at once --------------------------------------------------------------------------------


def entered(limit: ConcurrencyLimit, name: str, inside: queue.Queue[str], go_on: threading.Event) -> threading.Thread:
    """A request in a thread of its own, once it is worked on or waits for it."""

    def run() -> None:
        mine = limit.enter()
        inside.put(name)
        go_on.wait(60)
        limit.leave(mine)

    thread = threading.Thread(target=run)
    before = len(limit._began) + len(limit._waiting)
    thread.start()
    while len(limit._began) + len(limit._waiting) == before:
        thread.join(0.001)
    return thread


def test_so_many_requests_are_worked_on_at_once_and_the_others_in_the_order_in_which_they_came() -> None:
    limit, inside = ConcurrencyLimit(at_once=2, long_seconds=3600, longest_wait=3600), queue.Queue()
    events = [threading.Event() for _ in range(5)]
    threads = [entered(limit, str(number), inside, event) for number, event in enumerate(events)]
    assert {inside.get(timeout=60), inside.get(timeout=60)} == {"0", "1"}
    for left, follows in ((1, "2"), (0, "3"), (2, "4")):
        assert inside.empty()
        events[left].set()
        assert inside.get(timeout=60) == follows
    for event, thread in zip(events, threads, strict=True):
        event.set()
        thread.join(60)
    assert (limit._began, list(limit._waiting)) == ({}, [])


def test_a_request_that_takes_long_delays_no_other() -> None:
    limit, inside, go_on = (
        ConcurrencyLimit(at_once=1, long_seconds=0.001, longest_wait=3600),
        queue.Queue(),
        threading.Event(),
    )
    threads = []
    for _ in range(3):
        threads.append(threading.Thread(target=lambda: (inside.put(limit.enter()), go_on.wait(60))))
        threads[-1].start()
        inside.get(timeout=60)
    go_on.set()
    for thread in threads:
        thread.join(60)


def test_a_request_that_has_waited_long_enough_is_refused_and_told_when_to_come_again() -> None:
    limit = ConcurrencyLimit(at_once=1, long_seconds=3600, longest_wait=0.001)
    first = limit.enter()
    with pytest.raises(Problem, match="more requests than it can answer") as refused:
        limit.enter()
    assert (refused.value.kind.status, refused.value.headers) == (503, {"Retry-After": "1"})
    limit.leave(first)
    limit.leave(limit.enter())


def test_a_crowd_does_not_keep_a_load_balancer_waiting(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_limit: ConcurrencyLimit) -> threading.Event:
        raise Problem("unavailable", "full")

    monkeypatch.setattr(ConcurrencyLimit, "enter", refuse)
    client = house.app.test_client()
    assert {path: client.get(path).status_code for path in ("/healthz", "/api/v1/me", "/login")} == {
        "/healthz": 200,
        "/api/v1/me": 503,
        "/login": 503,
    }
