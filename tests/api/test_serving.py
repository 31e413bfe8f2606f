"""The app behind the real HTTP server: lines are kept, streams leave room for others, the log is records."""

from __future__ import annotations

import contextlib
import http.client
import json
import logging
import socket
import time

from api.logs import Records, shown
from tests.api.makers import House, serving, submit_job


def test_a_line_is_kept_for_the_next_request(house: House) -> None:
    with serving(house) as port:
        line = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        places = set()
        for _ in range(5):
            line.request("GET", "/api/v1/me", headers=house.headers())
            answer = line.getresponse()
            assert (answer.status, answer.getheader("Connection")) == (200, "keep-alive")
            answer.read()
            places.add(line.sock.getsockname() if line.sock else None)
        assert len(places) == 1
        assert None not in places
        line.close()


def test_streams_leave_threads_to_others_and_those_beyond_come_back(house: House) -> None:
    job_id = submit_job(house)
    with serving(house) as port, contextlib.ExitStack() as held:  # 16 threads, of which streams may hold 12
        ended = []
        for _ in range(20):
            line = held.enter_context(contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=20)))
            line.request("GET", f"/api/v1/jobs/{job_id}/events", headers=house.headers())
            answer = line.getresponse()
            assert answer.status == 200
            first = [answer.readline() for _ in range(5)]
            assert any(piece.startswith(b"data: ") for piece in first), "each hears how it stands"
            line.sock and line.sock.settimeout(1.5)
            if first[0] == b"retry: 1000\n":
                answer.read()  # it ends by itself
                ended.append(line)
            time.sleep(0.05)
        assert 6 <= len(ended) <= 9
        for _ in range(10):
            line = held.enter_context(contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=5)))
            line.request("GET", "/api/v1/me", headers=house.headers())
            assert line.getresponse().status == 200


def test_the_server_s_end_does_not_wait_for_streams(house: House) -> None:
    job_id = submit_job(house)
    with serving(house) as port:
        line = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        line.request("GET", f"/api/v1/jobs/{job_id}/events", headers=house.headers())
        line.getresponse().readline()
        began = time.monotonic()
    assert time.monotonic() - began < 15
    line.close()


def test_a_record_is_one_line_with_the_request_s_id_and_no_secret(house: House, caplog) -> None:
    said: list[str] = []
    records = Records()

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
    assert shown("/api/v1/s/share_secret/graph") == "/api/v1/s/…/graph"


def test_the_server_writes_records_too(house: House, capfd) -> None:
    with serving(house) as port, socket.create_connection(("127.0.0.1", port), timeout=20) as line:
        line.sendall(b"NONSENSE\r\n\r\n")
        while line.recv(4096):
            pass
    for text in capfd.readouterr().err.splitlines():
        assert json.loads(text)["level"] in ("warning", "error", "info"), text
