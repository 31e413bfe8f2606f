"""Uploads in parts: gone on with after a cut or a restart, stored once, refused with a sentence, freed in the end."""

from __future__ import annotations

import hashlib
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from werkzeug.test import TestResponse

from tests.api.makers import House, make_house, serving
from tests.api.test_thread import CSV, upload

RAW = CSV.encode()


def call(house: House, method: str, path: str, team: str = "ours", **more: object) -> TestResponse:
    """One request about uploads."""
    return house.client().open(f"/api/v1/uploads{path}", method=method, headers=house.headers("admin", team), **more)


def begin(house: House, content: bytes = RAW, **more: object) -> str:
    """An announced upload; its id."""
    answer = call(house, "POST", "", json={"name": "table.csv", "bytes": len(content), **more})
    assert answer.status_code == 201, answer.json
    return answer.json["id"]


def put(house: House, upload_id: str, start: int, content: bytes) -> TestResponse:
    """One part."""
    return call(house, "PUT", f"/{upload_id}/parts/{start}", data=content, content_type="application/octet-stream")


def test_parts_become_a_data_set_as_if_sent_at_once(any_house: House) -> None:
    upload_id = begin(any_house, roles={"targets": ["bmi"], "task": "regression"})
    for start in range(0, len(RAW), 100):
        assert put(any_house, upload_id, start, RAW[start : start + 100]).status_code == 200
    assert call(any_house, "GET", f"/{upload_id}").json["received"] == len(RAW)
    done = call(any_house, "POST", f"/{upload_id}/complete")
    assert (done.status_code, done.json["state"], done.json["rows"]) == (201, "ready", 40)
    assert done.json["roles"]["targets"] == ["bmi"]
    assert done.json["sha256"] == hashlib.sha256(RAW).hexdigest()
    again = call(any_house, "POST", f"/{upload_id}/complete")
    assert (again.status_code, again.json["id"]) == (201, done.json["id"])
    assert any_house.stored_files() == [done.json["sha256"]], "no part is left"


def test_an_upload_goes_on_where_it_was_after_a_restart(tmp_path: Path, service_url: str) -> None:
    first = make_house(tmp_path / "home", database_url=service_url)
    upload_id = begin(first)
    put(first, upload_id, 0, RAW[:100])
    first.database.close()
    from api.app import create_app

    app = create_app(first.settings, send_message=lambda *what: second.hear(*what), check_wait_seconds=60)
    again = app.extensions["bimt"]
    second = House(app, first.settings, again.database, again.files, first.tokens, {}, {})
    assert call(second, "GET", f"/{upload_id}").json["received"] == 100
    gap = put(second, upload_id, 200, RAW[200:])
    assert (gap.status_code, "100" in gap.json["detail"]) == (409, True)
    assert put(second, upload_id, 0, RAW[:100]).json["received"] == 100
    assert put(second, upload_id, 0, RAW[1:101]).status_code == 409
    assert put(second, upload_id, 100, RAW[100:]).status_code == 200
    assert call(second, "POST", f"/{upload_id}/complete").status_code == 201
    second.close()


def test_what_cannot_be_is_refused(make: Callable[..., House]) -> None:
    house = make(BIMT_MAX_UPLOAD_BYTES="5000", BIMT_MAX_PART_BYTES="200")
    assert call(house, "POST", "", json={"name": "a.csv", "bytes": 5001}).status_code == 413
    assert call(house, "POST", "", json={"name": "a", "bytes": 50}).json["errors"][0]["pointer"] == "/format"
    upload_id = begin(house)
    assert put(house, upload_id, 0, b"x" * 201).status_code == 413
    assert put(house, upload_id, 0, b"").status_code == 400
    early = call(house, "POST", f"/{upload_id}/complete")
    assert (early.status_code, "0 of" in early.json["detail"]) == (409, True)
    short = begin(house, b"x" * 10)
    assert put(house, short, 0, b"x" * 11).status_code == 409
    assert call(house, "GET", f"/{upload_id}", team="theirs").status_code == 404
    for start in range(0, len(RAW), 200):
        put(house, upload_id, start, RAW[start : start + 200])
    assert call(house, "DELETE", f"/{upload_id}").status_code == 204
    assert call(house, "GET", f"/{upload_id}").status_code == 404


def test_a_bad_file_is_refused_when_it_is_whole_and_frees_its_bytes(house: House) -> None:
    bad = RAW.replace(b"3,9,0\n", b"3,9.9.9,0\n")
    assert bad != RAW
    upload_id = begin(house, bad)
    put(house, upload_id, 0, bad[:200])
    put(house, upload_id, 200, bad[200:])
    refused = call(house, "POST", f"/{upload_id}/complete")
    assert (refused.status_code, refused.json["errors"][0]["row"]) == (422, 4)
    call(house, "DELETE", f"/{upload_id}")
    assert house.stored_files() == []


def test_bytes_that_are_there_need_not_be_sent_again(house: House) -> None:
    first = upload(house).json
    digest = hashlib.sha256(RAW).hexdigest()
    upload_id = begin(house, sha256=digest)
    assert call(house, "GET", f"/{upload_id}").json["received"] == len(RAW)
    second = call(house, "POST", f"/{upload_id}/complete").json
    assert (second["sha256"], second["id"] != first["id"]) == (digest, True)
    assert len(house.stored_files()) == 1
    foreign = call(house, "POST", "", "theirs", json={"name": "t.csv", "bytes": len(RAW), "sha256": digest})
    assert foreign.json["received"] == 0, "what another team has is not told"
    client, headers = house.client(), house.headers()
    assert client.delete(f"/api/v1/datasets/{first['id']}", headers=headers).status_code == 204
    assert len(house.stored_files()) == 1, "the second data set still needs them"
    assert client.delete(f"/api/v1/datasets/{second['id']}", headers=headers).status_code == 204
    assert house.stored_files() == []


def test_announced_bytes_count_against_the_quota(house: House) -> None:
    from store.tables import Team

    with house.database.write() as rows:
        rows.get(Team, house.teams["ours"]).max_stored_bytes = len(RAW) + 10
    upload_id = begin(house)
    refused = call(house, "POST", "", json={"name": "b.csv", "bytes": 20})
    assert (refused.status_code, refused.json["type"]) == (429, "/problems/quota")
    put(house, upload_id, 0, RAW)
    assert call(house, "POST", f"/{upload_id}/complete").status_code == 201


# --- a gigabyte ------------------------------------------------------------------------------------------------

LINE = b"0.123456789,1.987654321,2.555555555\n"
GIGABYTE = 1_000_000_000 // len(LINE)  # rows
PART = 32 << 20


def content() -> Iterator[bytes]:
    """A table of a gigabyte in parts of PART bytes."""
    rows = b"a,b,y\n" + LINE * (PART // len(LINE) + 2)
    size, sent = len(b"a,b,y\n") + GIGABYTE * len(LINE), 0
    body = LINE * (PART // len(LINE) + 2)
    while sent < size:
        take = min(PART, size - sent)
        if sent == 0:
            yield rows[:take]
        else:
            shift = (sent - len(b"a,b,y\n")) % len(LINE)
            yield body[shift : shift + take]
        sent += take


def ask(port: int, token: str, method: str, path: str, data: bytes | None = None, kind: str = "") -> dict:
    """One request over the line."""
    request = urllib.request.Request(f"http://127.0.0.1:{port}/api/v1{path}", data=data, method=method)
    request.add_header("Authorization", f"Bearer {token}")
    request.add_header("Content-Type", kind or "application/json")
    with urllib.request.urlopen(request, timeout=300) as answer:
        return json.load(answer)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_gigabyte_passes_in_constant_memory_resumes_after_a_cut_and_is_stored_once(
    tmp_path: Path, service_url: str
) -> None:
    house = make_house(tmp_path / "home", database_url=service_url, environ={"BIMT_CHECK_SECONDS": "300"})
    token, size = house.tokens["ours", "admin"], 6 + GIGABYTE * len(LINE)
    digest, most = hashlib.sha256(), 0

    def memory() -> int:
        return sum(child.memory_info().rss for child in psutil.Process().children(recursive=True) if is_api(child))

    def is_api(child: psutil.Process) -> bool:
        return "-m api " in " ".join(child.cmdline())

    def send(port: int, upload_id: str, until: float) -> None:
        nonlocal most
        received = ask(port, token, "GET", f"/uploads/{upload_id}")["received"]
        for index, part in enumerate(content()):
            start = index * PART
            if start < received or start > until * size:
                continue
            ask(port, token, "PUT", f"/uploads/{upload_id}/parts/{start}", part, "application/octet-stream")
            most = max(most, memory() - idle)

    for part in content():
        digest.update(part)
    began = time.monotonic()
    with serving(house) as port:
        ask(port, token, "GET", "/me")
        idle = memory()
        upload_id = ask(port, token, "POST", "/uploads", json.dumps({"name": "large.csv", "bytes": size}).encode())[
            "id"
        ]
        send(port, upload_id, 0.6)
    with serving(house) as port:  # the service was restarted after the cut
        ask(port, token, "GET", "/me")
        idle = memory()
        received = ask(port, token, "GET", f"/uploads/{upload_id}")["received"]
        assert 0.6 * size <= received < 0.7 * size
        send(port, upload_id, 1.0)
        done = ask(port, token, "POST", f"/uploads/{upload_id}/complete", b"{}")
        most = max(most, memory() - idle)
        assert done["sha256"] == digest.hexdigest()
        sent = time.monotonic() - began
        again = ask(
            port,
            token,
            "POST",
            "/uploads",
            json.dumps({"name": "large.csv", "bytes": size, "sha256": digest.hexdigest()}).encode(),
        )
        assert again["received"] == size
        second = ask(port, token, "POST", f"/uploads/{again['id']}/complete", b"{}")
        assert second["sha256"] == done["sha256"]
        stored = sum(map(house.files.size, house.stored_files()))
        for first in (done["id"], second["id"]):  # both are looked at after the answer; that must end, too
            while ask(port, token, "GET", f"/datasets/{first}")["state"] == "checking":
                time.sleep(1)
        most = max(most, memory() - idle)
    print(f"{size / 1e6:.0f} MB in {sent:.0f} s, {most / 1e6:.0f} MB above idle, {stored / 1e6:.0f} MB on disk")
    assert most < 150e6
    assert stored == size
    house.database.close()
    assert os.path.exists(house.settings.spool)
