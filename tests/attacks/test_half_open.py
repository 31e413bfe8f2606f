"""Connections that begin a request and never end it must silence nothing, and must not be kept for ever."""

from __future__ import annotations

import contextlib
import http.client
import os
import select
import socket
import stat
import time
from collections.abc import Callable, Iterator

import psutil
import pytest

from tests.api.makers import House, serving, serving_process

MANY = 300
PATIENT = 120.0  # seconds; only a bound for what must happen, on a machine that is busy with other things

HEADER = b"GET /api/v1/me HTTP/1.1\r\nHost: here\r\nX-Unfinished: "
BODY = b"POST /api/v1/jobs HTTP/1.1\r\nHost: here\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n{"
CHUNKED = BODY.replace(b"Content-Length: 1000", b"Transfer-Encoding: chunked").replace(b"\r\n\r\n{", b"\r\n\r\n10\r\n{")


@contextlib.contextmanager
def connected(port: int, number: int) -> Iterator[list[socket.socket]]:
    with contextlib.ExitStack() as held:
        yield [
            held.enter_context(socket.create_connection(("127.0.0.1", port), timeout=PATIENT)) for _ in range(number)
        ]


def answers(port: int, house: House) -> None:
    """The service answers a stranger and a caller with a token."""
    for path, headers in (("/healthz", {}), ("/api/v1/me", house.headers())):
        line = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENT)
        line.request("GET", path, headers=headers)
        assert line.getresponse().status == 200, path
        line.close()


def until(condition: Callable[[], object], what: str) -> None:
    end = time.monotonic() + PATIENT
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.05)


def closed(sockets: list[socket.socket]) -> list[socket.socket]:
    """Those that the server has closed: the end of the stream, or a reset, waits to be read."""
    poll = select.poll()
    by_descriptor = {one.fileno(): one for one in sockets}
    for descriptor in by_descriptor:
        poll.register(descriptor, select.POLLRDHUP)
    return [by_descriptor[descriptor] for descriptor, _ in poll.poll(0)]


def test_beside_unfinished_headers_and_bodies_others_are_answered_and_the_silent_are_closed(house: House) -> None:
    with serving(house, "--channel-timeout", "5") as port, connected(port, 2 * MANY) as silent:
        for index, one in enumerate(silent):
            one.sendall((HEADER, BODY, HEADER, CHUNKED)[index % 4])
        answers(port, house)
        until(lambda: len(closed(silent)) == len(silent), "the server closes what is silent")
        answers(port, house)


def test_connections_that_never_send_a_byte_are_closed(house: House) -> None:
    with serving(house, "--channel-timeout", "3") as port, connected(port, MANY) as silent:
        answers(port, house)
        until(lambda: len(closed(silent)) == len(silent), "the server closes what is silent")


@pytest.mark.parametrize("beginning", [HEADER, BODY, CHUNKED], ids=["header", "body", "chunked body"])
def test_a_request_that_trickles_in_is_given_up_although_it_is_never_silent(house: House, beginning: bytes) -> None:
    with serving(house, "--request-seconds", "3") as port, connected(port, 40) as slow:
        for one in slow:
            one.sendall(beginning)

        def trickle() -> bool:
            gone = closed(slow)
            for one in slow:
                if one not in gone:
                    with contextlib.suppress(OSError):
                        one.sendall(b" ")
            return len(gone) == len(slow)

        until(trickle, "each is given up")
        answers(port, house)


def buffered(process: psutil.Process) -> int:
    """Bytes in the process's temporary files, which have no name any more."""
    total = 0
    for name in set(os.listdir(f"/proc/{process.pid}/fd")) - {"0", "1", "2"}:  # pytest's own files for what is printed
        with contextlib.suppress(OSError):
            found = os.stat(f"/proc/{process.pid}/fd/{name}")
            if stat.S_ISREG(found.st_mode) and found.st_nlink == 0:
                total += found.st_size
    return total


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="reads the open files in /proc")
def test_bodies_of_strangers_take_a_bounded_room_on_disk_and_in_memory(house: House) -> None:
    part, strangers = 1 << 20, 60
    head = BODY.partition(b"Content-Length")[0] + b"Content-Length: %d\r\n\r\n" % part
    with serving_process(house, BIMT_MAX_PART_BYTES=str(part)) as (port, process):
        server = psutil.Process(process.pid)
        before = server.memory_info().rss
        with connected(port, strangers) as sending:
            for one in sending:
                with contextlib.suppress(OSError):
                    one.sendall(head + b" " * (part - 1))  # a byte less than announced
            until(lambda: len(closed(sending)) >= strangers - 16, "what is beyond sixteen parts is given up")
            until(lambda: buffered(server) <= 16 * part, "its room is free")
            assert server.memory_info().rss - before < 48 << 20
            answers(port, house)
        until(lambda: buffered(server) == 0, "nothing is kept of those who have gone")


def test_whole_bodies_without_a_token_are_refused_and_leave_nothing(house: House) -> None:
    boundary = "b"
    form = f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="a.csv"\r\n\r\n'.encode()
    body = form + b"1,2\n" * 200_000 + f"\r\n--{boundary}--\r\n".encode()
    with serving_process(house) as (port, process):
        for _ in range(40):
            line = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENT)
            kind = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
            line.request("POST", "/api/v1/datasets", body=body, headers=kind)
            assert line.getresponse().status == 401
            line.close()
        until(lambda: buffered(psutil.Process(process.pid)) == 0, "nothing is kept")
        answers(port, house)
    assert house.stored_files() == []
