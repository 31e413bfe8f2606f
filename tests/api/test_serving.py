"""The app behind the real HTTP server: kept connections, streams, draining, proxies, several processes, log records."""

from __future__ import annotations

import contextlib
import http.client
import json
import logging
import signal
import socket
from collections.abc import Iterator

import pytest

from api.app import request_fields, shown_path
from store.log import formatter
from tests.api.makers import House, serving, serving_process, submit_job

PATIENT = 120  # seconds; a bound for what should be there at once, on a machine that is busy with other things


@contextlib.contextmanager
def connection(port: int) -> Iterator[http.client.HTTPConnection]:
    made = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENT)
    try:
        yield made
    finally:
        made.close()


def first_event(
    connection: http.client.HTTPConnection, job_id: str, headers: dict[str, str]
) -> http.client.HTTPResponse:
    """A stream of a job's events, read up to the end of its first event; its field `retry` as an attribute."""
    connection.request("GET", f"/api/v1/jobs/{job_id}/events", headers=headers)
    response = connection.getresponse()
    assert response.status == 200
    lines = [response.readline() for _ in range(6)]
    assert any(line.startswith(b"data: ") for line in lines)
    response.retry = int(lines[0].removeprefix(b"retry: "))  # type: ignore[attr-defined]
    return response


def test_a_connection_is_kept_for_the_next_request(house: House) -> None:
    with serving(house) as port, connection(port) as kept:
        places = set()
        for _ in range(5):
            kept.request("GET", "/api/v1/me", headers=house.headers())
            answer = kept.getresponse()
            assert (answer.status, answer.will_close) == (200, False)
            answer.read()
            places.add(kept.sock.getsockname() if kept.sock else None)
        assert len(places) == 1
        assert None not in places


def test_two_hundred_streams_are_served_at_once_and_others_are_answered_beside_them(house: House) -> None:
    job_id = submit_job(house)
    with serving(house, threads=270) as port, contextlib.ExitStack() as held:
        for _ in range(200):
            one = held.enter_context(connection(port))
            assert first_event(one, job_id, house.headers()).retry == 2000, "it stays open"
        with connection(port) as other:
            other.request("GET", "/api/v1/me", headers=house.headers())
            assert other.getresponse().status == 200


def test_streams_leave_a_quarter_of_the_threads_to_others_and_those_beyond_come_back(house: House) -> None:
    job_id = submit_job(house)
    with serving(house, threads=8) as port, contextlib.ExitStack() as held:
        retries = []
        for _ in range(8):
            response = first_event(held.enter_context(connection(port)), job_id, house.headers())
            retries.append(response.retry)
            if response.retry == 1000:
                response.read()  # it ends by itself
        assert retries == [2000] * 6 + [1000] * 2
        with connection(port) as other:
            other.request("GET", "/api/v1/me", headers=house.headers())
            assert other.getresponse().status == 200


def test_a_stream_ends_when_its_client_goes(house: House) -> None:
    job_id = submit_job(house)
    with serving(house, threads=8) as port:
        for _ in range(20):  # six may be open at once: a later one stays open only after earlier ones have ended
            for _ in range(1000):
                with connection(port) as client:
                    if first_event(client, job_id, house.headers()).retry == 2000:
                        break
            else:
                pytest.fail("the streams of clients that have gone still hold their threads")


def test_at_the_end_streams_end_and_running_requests_are_answered(house: House) -> None:
    job_id = submit_job(house)
    with serving_process(house, "--drain-seconds", "60") as (port, process):
        with connection(port) as stream, connection(port) as poll:
            response = first_event(stream, job_id, house.headers())
            poll.request("GET", f"/api/v1/jobs/{job_id}/events?wait=3&since=1000000", headers=house.headers())
            with connection(port) as other:  # answered after the poll has been read from its socket
                other.request("GET", "/healthz")
                other.getresponse().read()
            process.send_signal(signal.SIGTERM)
            response.read()  # to its end
            assert poll.getresponse().status == 200
        assert process.wait(PATIENT) == 0
        with pytest.raises(OSError, match="refused"):
            socket.create_connection(("127.0.0.1", port), timeout=PATIENT)


@pytest.mark.parametrize(("proxies", "address"), [("0", "127.0.0.1"), ("1", "192.0.2.7")])
def test_the_caller_s_address_is_what_a_trusted_proxy_says_and_no_one_else(
    house: House, proxies: str, address: str
) -> None:
    with serving(house, BIMT_TRUSTED_PROXIES=proxies) as port, connection(port) as caller:
        headers = house.headers(**{"X-Forwarded-For": "203.0.113.9, 192.0.2.7", "Content-Type": "application/json"})
        caller.request("POST", "/api/v1/tokens", body='{"name": "seen", "scopes": ["read"]}', headers=headers)
        assert caller.getresponse().status == 201
    audit = house.client().get("/api/v1/audit?action=token.mint", headers=house.headers()).json
    assert [line["address"] for line in audit["items"]] == [address]


def test_two_processes_share_a_listening_socket_and_each_may_end_alone(house: House) -> None:
    with (
        socket.create_server(("127.0.0.1", 0), backlog=64) as listener,
        serving_process(house, listener=listener) as (port, first),
        serving_process(house, listener=listener) as (_, second),
    ):
        first.terminate()
        assert first.wait(PATIENT) == 0
        with connection(port) as caller:
            caller.request("GET", "/healthz")
            assert caller.getresponse().status == 200
        second.terminate()
        assert second.wait(PATIENT) == 0


def test_a_body_above_the_limit_is_refused_at_its_header_with_a_problem_document(house: House) -> None:
    with serving(house, BIMT_MAX_PART_BYTES="1000", BIMT_MAX_REQUEST_BYTES="1000") as port, connection(port) as caller:
        caller.putrequest("PUT", "/api/v1/uploads/upload_x/parts/0")
        caller.putheader("Content-Length", str(100_000_000))
        caller.endheaders()  # no byte of the body follows
        answer = caller.getresponse()
        assert (answer.status, answer.getheader("Content-Type")) == (413, "application/problem+json")
        problem = json.loads(answer.read())
        assert (problem["type"], problem["status"]) == ("/problems/too-large", 413)
        assert "in parts" in problem["detail"]


def test_a_record_is_one_line_with_the_request_s_id_and_no_secret(house: House, caplog) -> None:
    said: list[str] = []
    records = formatter(processors=[request_fields])

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append(records.format(record))

    def away() -> None:
        raise RuntimeError("first line\nsecond line")

    house.app.extensions["bimt"].database.read = away
    keep = Keep()
    logging.getLogger("api").addHandler(keep)
    try:
        answer = house.client().get("/api/v1/me", headers=house.headers("admin", **{"X-Request-Id": "abcdef-123"}))
    finally:
        logging.getLogger("api").removeHandler(keep)
    assert (answer.status_code, answer.headers["X-Request-Id"]) == (500, "abcdef-123")
    [line] = said
    assert "\n" not in line
    record = json.loads(line)
    assert (record["request"], record["path"], record["level"]) == ("abcdef-123", "/api/v1/me", "error")
    assert "RuntimeError: first line" in record["exception"]
    assert house.tokens["ours", "admin"] not in line
    assert shown_path("/api/v1/s/share_secret/graph") == "/api/v1/s/…/graph"


def test_the_server_writes_records_too(house: House, capfd) -> None:
    with serving(house, "--access-log", BIMT_LOG_LEVEL="info") as port:
        with socket.create_connection(("127.0.0.1", port), timeout=PATIENT) as raw:
            raw.sendall(b"NONSENSE\r\n\r\n")
            answer = b"".join(iter(lambda: raw.recv(4096), b""))
            assert answer.startswith(b"HTTP/1.0 400 ")
        with connection(port) as caller:
            caller.request("GET", "/api/v1/s/very-secret/graph")
            caller.getresponse().read()
    records = [json.loads(text) for text in capfd.readouterr().err.splitlines()]
    [answered] = [one for one in records if one["logger"] == "api.access" and "graph" in one["path"]]
    assert (answered["status"], answered["path"], answered["method"]) == (404, "/api/v1/s/…/graph", "GET")
