"""`bimt doctor` on a real service: well as it is, and each thing that is broken is named with what to do."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest
from click.testing import CliRunner

from bimt import Client
from bimt.command import cli
from bimt.doctor import PARTS, Finding, examine
from tests.end_to_end.test_supervisor import Up


def by_name(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.what: finding for finding in findings}


def test_a_service_that_is_well_is_found_well_to_the_end_and_nothing_is_left(service: Up) -> None:
    ran = CliRunner().invoke(cli, ["doctor", "--json", "--url", service.address, "--token", service.token])
    findings = json.loads(ran.stdout)
    assert [one["what"] for one in findings if not one["well"]] == [], findings
    assert ran.exit_code == 0
    assert findings[-1]["what"] == "a job from end to end"
    with Client(service.address, service.token) as client:
        assert [one for one in client.datasets.search() if one.name == "doctor.csv"] == []
        assert [one for one in client.jobs.search() if one.name == "doctor"] == []


@contextmanager
def broken(service: Up, change: dict[str, Any], date: str | None = None) -> Iterator[str]:
    """A proxy in front of the service that changes what /readyz says, and the clock of every answer."""
    with Client(service.address, service.token) as client:

        class Proxy(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                answer = client.http._http.get(service.address + self.path)
                body = answer.content
                if self.path == "/readyz":
                    document = answer.json()
                    document["damaged_files"] = change.get("damaged_files", 0)
                    for name in change.get("parts", ()):
                        document["parts"][name] = {"ok": False, "detail": f"The {name} is away."}
                    body = json.dumps(document).encode()
                self.send_response_only(503 if change.get("parts") and self.path == "/readyz" else answer.status_code)
                self.send_header("Date", date or self.date_time_string())
                self.send_header("Content-Type", answer.headers["Content-Type"])
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        with ThreadingHTTPServer(("127.0.0.1", 0), Proxy) as server:
            Thread(target=server.serve_forever, daemon=True).start()
            yield f"http://127.0.0.1:{server.server_port}"
            server.shutdown()


@pytest.mark.parametrize("part", PARTS)
def test_a_part_that_is_away_is_named_with_what_to_do(service: Up, part: str) -> None:
    with broken(service, {"parts": [part]}) as url, Client(url, service.token) as client:
        found = by_name(list(examine(client, train=False)))
    assert [name for name, finding in found.items() if not finding.well] == [part]
    assert found[part].detail == f"The {part} is away. {PARTS[part]}"


def test_damaged_files_and_a_wrong_clock_are_told(service: Up) -> None:
    with (
        broken(service, {"damaged_files": 2}, date="Sun, 29 Nov 2020 10:00:00 GMT") as url,
        Client(url, service.token) as client,
    ):
        found = by_name(list(examine(client, train=False)))
    assert {name for name, finding in found.items() if not finding.well} == {"clock", "stored files"}
    assert "2 stored files are damaged or gone" in found["stored files"].detail
    assert "NTP" in found["clock"].detail


def test_without_a_service_there_is_one_finding_and_with_a_wrong_token_the_rest_is_still_told(service: Up) -> None:
    with Client("http://127.0.0.1:9", "bimt_x") as client:
        [only] = examine(client)
    assert (only.what, only.well) == ("address", False)
    with Client(service.address, "bimt_wrong") as client:
        found = by_name(list(examine(client)))
    assert found["worker"].well
    assert not found["token"].well
    assert not found["a job from end to end"].well
