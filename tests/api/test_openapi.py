"""The description of the addresses: it is what the code does, it is complete, and its file is current."""

from __future__ import annotations

import html
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from api import openapi
from api.aliases import READINESS_PARTS
from api.auth import Access, decide, decisions
from api.problems import BY_STATUS, PROBLEM_TYPES
from tests.api.makers import House


def test_the_committed_file_describes_the_addresses_as_they_are() -> None:
    assert openapi.FILE.read_text(encoding="utf-8") == openapi.current(), "run `python -m api.openapi`"


def test_the_check_notices_a_difference(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys) -> None:
    monkeypatch.setattr(openapi, "FILE", tmp_path / "openapi.json")
    assert openapi.main(["--check"]) == 1
    assert "python -m api.openapi" in capsys.readouterr().err
    assert openapi.main([]) == 0
    assert openapi.main(["--check"]) == 0
    (tmp_path / "openapi.json").write_text("{}")
    assert openapi.main(["--check"]) == 1


def test_every_address_for_programs_is_described(house: House) -> None:
    document = house.client().get("/openapi.json").json
    described = {(m.upper(), path) for path, operations in document["paths"].items() for m in operations}
    known = {
        (method, re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule))
        for method, rule, _ in decisions(house.app)
        if rule.startswith(("/api/", "/healthz", "/readyz", "/metrics"))
    }
    assert described == known
    assert document["openapi"].startswith("3.1")


def test_every_operation_says_what_it_needs_and_how_it_may_fail(house: House) -> None:
    document = house.client().get("/openapi.json").json
    names = set()
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            where = f"{method} {path}"
            assert operation["summary"].endswith((".", "?")) or ":" in operation["summary"], where
            assert operation["x-needs"] in {access.value for access in Access}, where
            assert operation["operationId"] not in names, where
            names.add(operation["operationId"])
            if operation["x-needs"] != "anyone":
                assert {"401", "403"} <= set(operation["responses"]), where
                assert operation["security"] == [{"token": []}], where
            for status, answer in operation["responses"].items():
                if int(status) >= 400 and (path, status) != ("/readyz", "503"):
                    shared = document["components"]["responses"][answer["$ref"].rsplit("/", 1)[-1]]
                    assert list(shared["content"]) == ["application/problem+json"], f"{where} {status}"


WHOLE = {  # lists that do not grow with what a team does
    "/api/v1/recipes",
    "/api/v1/teams",
    "/api/v1/models/{model}/aliases",  # one entry for each word
}


def test_every_list_comes_in_pages(house: House) -> None:
    document = house.client().get("/openapi.json").json
    schemas = document["components"]["schemas"]
    for path, operations in document["paths"].items():
        if "get" not in operations or path in WHOLE:
            continue
        content = operations["get"]["responses"].get("200", {}).get("content", {})
        name = content.get("application/json", {}).get("schema", {}).get("$ref", "").rpartition("/")[2]
        fields = schemas.get(name, {}).get("properties", {})
        if "items" in fields:
            asked = {parameter["name"] for parameter in operations["get"].get("parameters", [])}
            assert {"after", "limit"} <= asked, path
            assert "next" in fields, path


def test_every_reference_leads_somewhere(house: House) -> None:
    document = house.client().get("/openapi.json").json
    text = json.dumps(document)
    for name in set(re.findall(r'"#/components/(\w+/[^"]+)"', text)):
        kind, _, key = name.partition("/")
        assert key in document["components"][kind], name
    assert "ValidationErrorModel" not in text


def test_every_kind_of_problem_has_its_page(house: House) -> None:
    client = house.client()
    everything = client.get("/problems").text
    for slug, kind in PROBLEM_TYPES.items():
        page = client.get(f"/problems/{slug}")
        assert page.status_code == 200
        assert html.escape(kind.title, quote=True).replace("&#x27;", "&#39;") in page.text
        assert f"/problems/{slug}" in everything
    assert set(BY_STATUS.values()) <= set(PROBLEM_TYPES)
    assert client.get("/problems/nonsense").status_code == 404


def test_problems_are_named_in_the_document(repository: Path) -> None:
    text = (repository / "docs" / "api.md").read_text(encoding="utf-8")
    for slug in PROBLEM_TYPES:
        assert f"/problems/{slug}" in text, slug


def test_the_web_process_never_loads_torch() -> None:
    code = "import sys, api.app; print(sorted({'torch', 'polars', 'matplotlib'} & set(sys.modules)))"
    said = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=openapi.FILE.parent
    )
    assert said.stdout.strip() == "[]"


def test_a_mistake_of_ours_is_a_problem_without_a_trace(house: House) -> None:
    def broken() -> str:
        raise RuntimeError("secret detail /etc/passwd")

    house.app.add_url_rule("/api/v1/broken", "broken", decide(Access.ANYONE)(broken))
    answer = house.client().get("/api/v1/broken")
    assert (answer.status_code, answer.content_type) == (500, "application/problem+json")
    assert answer.json["retryable"] is True
    assert "secret" not in answer.text


def test_a_database_that_is_away_is_answered_with_when_to_come_back(house: House) -> None:
    from sqlalchemy.exc import OperationalError

    def away() -> None:
        raise OperationalError("SELECT secret", {}, Exception("no"))

    house.app.extensions["bimt"].database.read = away
    answer = house.client().get("/api/v1/me", headers=house.headers())
    assert (answer.status_code, answer.json["type"]) == (503, "/problems/unavailable")
    assert answer.headers["Retry-After"] == "3"
    assert "SELECT" not in answer.text


def test_unknown_addresses_and_methods_are_problems(house: House) -> None:
    client, headers = house.client(), house.headers()
    missing = client.get("/api/v1/nothing", headers=headers)
    assert (missing.status_code, missing.content_type) == (404, "application/problem+json")
    wrong = client.put("/api/v1/jobs", headers=headers, json={})
    assert (wrong.status_code, wrong.headers["Allow"]) == (405, "GET, HEAD, OPTIONS, POST")
    assert client.get("/nothing").content_type.startswith("text/html")


def test_health_is_told_part_by_part(house: House) -> None:
    client = house.client()
    assert client.get("/healthz").json == {"status": "ok"}
    ready = client.get("/readyz")
    assert ready.status_code == 503
    assert {name: part["ok"] for name, part in ready.json["parts"].items()} == {
        "database": True,
        "files": True,
        "broker": False,
        "worker": False,
        "operations": False,
    } | {old: False for old in READINESS_PARTS.values()}
    numbers = client.get("/metrics", headers=house.headers("admin")).text
    assert 'bimt_http_requests_total{address="/healthz",method="GET",status="200"}' in numbers
