"""`python -m api`: serve the app with waitress, one process with many threads.

Several processes share one listening socket when each is started with `--fd N`, the number of an inherited descriptor.
docs/decisions/0022-waitress.md says why it is this server, and with which bounds.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import resource
import signal
import socket
import tempfile
import time
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from waitress import wasyncore  # type: ignore[import-untyped]
from waitress.buffers import OverflowableBuffer  # type: ignore[import-untyped]
from waitress.channel import HTTPChannel  # type: ignore[import-untyped]
from waitress.parser import HTTPRequestParser, ParsingError  # type: ignore[import-untyped]
from waitress.server import create_server  # type: ignore[import-untyped]
from waitress.task import ErrorTask  # type: ignore[import-untyped]
from waitress.utilities import Error  # type: ignore[import-untyped]

from api.multipart import OVERHEAD
from api.problems import BY_STATUS, MEDIA_TYPE, NO_ROOM, Problem
from store.errors import is_disk_full
from store.settings import Settings

log = logging.getLogger("api.server")

MAX_HEADER_BYTES = 16_384  # of a request line and its headers together
CONNECTIONS = 2000  # of one process, silent ones included
CHANNEL_TIMEOUT = 30.0  # seconds; a connection that is silent for longer is closed
REQUEST_SECONDS = 600.0  # a request that has not arrived whole by then is given up, however it trickles in
BUFFERED_PARTS = 16  # bodies that arrive at the same time take at most so many times the largest part, on disk
BUFFER_IN_MEMORY = 64 << 10  # bytes of one body that are kept in memory; the rest goes to a temporary file
DRAIN_SECONDS = 5.0  # that running requests have when the service stops
DESCRIPTORS = 3 * CONNECTIONS  # a connection, its temporary file, and what the app opens


class ProblemTask(ErrorTask):
    """The response to a request that waitress itself refuses: a problem document, as the app would send it."""

    def execute(self) -> None:
        """Write it, and close the connection."""
        error = self.request.error
        problem = Problem(BY_STATUS.get(error.code, "malformed-request"), _sentence(error))
        body = json.dumps(problem.document() | {"status": error.code}).encode()
        self.status = f"{error.code} {error.reason}"
        self.response_headers.append(("Content-Type", MEDIA_TYPE))
        self.set_close_on_finish()
        self.content_length = len(body)
        self.write(body)


class NoRoom(Error):
    """The body of a request found no room on the disk."""

    code = 507
    reason = "Insufficient Storage"


class BodyBuffer(OverflowableBuffer):
    """A body that arrives. On a full disk the rest is read and dropped, since its sender listens after the last byte.

    is_lost   whether bytes of it found no room.
    """

    is_lost = False

    def append(self, piece: bytes) -> None:
        """Add what has come."""
        if self.is_lost:
            return
        try:
            super().append(piece)
        except OSError as error:
            if not is_disk_full(error):
                raise
            self.is_lost = True
            with contextlib.suppress(OSError):  # it would write what is still in memory
                self.close()
            self.buf, self.strbuf = None, b""


class Parser(HTTPRequestParser):
    """Refuses a request that says its length twice: two servers that believe different ones can be made to disagree.

    A body that finds no room on the disk is refused with 507.
    """

    error: Any  # waitress declares no types

    def parse_header(self, header_plus: bytes) -> None:
        """Read the headers. Raises ParsingError, which is answered with 400."""
        super().parse_header(header_plus)
        if self.chunked and "CONTENT_LENGTH" in self.headers:
            raise ParsingError("Content-Length beside Transfer-Encoding")
        if self.body_rcv is not None:
            self.body_rcv.buf = BodyBuffer(self.adj.inbuf_overflow)

    def received(self, data: bytes) -> int:
        """Take bytes of the request; how many were taken."""
        taken: int = super().received(data)
        if self.completed and self.error is None and self.body_rcv is not None and self.body_rcv.buf.is_lost:
            self.error = NoRoom(NO_ROOM)
        return taken


class Channel(HTTPChannel):
    """A connection whose refusals are problem documents, and which frees half a body when it is closed."""

    error_task_class = ProblemTask
    parser_class = Parser
    request: Any  # the request that is arriving; waitress declares no types

    def handle_close(self) -> None:
        """Close the connection, and the temporary file of a body that has not arrived whole."""
        super().handle_close()
        if self.request is not None:
            self.request.close()
            self.request = None


class ArrivalLimits:
    """Closes connections whose requests arrive too slowly, or take too much room before they are whole.

    Bodies are received before the app can ask who sends them, so their sum is bounded here: the largest is given up
    first.

    seconds   from the first byte of a request to its last.
    bytes     of all bodies that are on their way.
    """

    def __init__(self, *, seconds: float, bytes: int) -> None:
        self._seconds, self._bytes = seconds, bytes
        self._began: WeakKeyDictionary[Any, float] = WeakKeyDictionary()

    def enforce(self, channels: list[Any], now: float) -> None:
        """Close what is beyond the limits. Called on the thread of the sockets, about once a second."""
        arriving = []
        for channel in channels:
            request = channel.request
            if request is None:
                continue
            began = self._began.setdefault(request, now)
            if now - began > self._seconds:
                channel.will_close = True
            elif request.body_rcv is not None:
                arriving.append((len(request.body_rcv), id(channel), channel))
        total = sum(size for size, _, _ in arriving)
        for size, _, channel in sorted(arriving, reverse=True):
            if total <= self._bytes:
                break
            log.warning("bodies of %d bytes are arriving; gave up one of %d", total, size)
            channel.will_close = True
            total -= size


class Server:
    """The app behind waitress, on a socket that listens or is about to.

    stop() may be called from a signal handler: accept no more, end event streams, finish running requests, return.
    """

    def __init__(
        self,
        app: Any,
        settings: Settings,
        listener: socket.socket,
        *,
        channel_timeout: float = CHANNEL_TIMEOUT,
        request_seconds: float = REQUEST_SECONDS,
        drain_seconds: float = DRAIN_SECONDS,
    ) -> None:
        self._services = app.extensions["bimt"]
        self._drain_seconds = drain_seconds
        self._limits = ArrivalLimits(seconds=request_seconds, bytes=BUFFERED_PARTS * settings.max_part_bytes)
        self._sockets: dict[int, Any] = {}
        self._stopping = False
        self._server = create_server(
            app,
            map=self._sockets,
            sockets=[listener],
            threads=settings.api_threads,
            connection_limit=CONNECTIONS,
            channel_timeout=channel_timeout,
            cleanup_interval=max(1, round(channel_timeout / 3)),
            channel_request_lookahead=1,  # so that the end of a client is seen while it is answered
            max_request_header_size=MAX_HEADER_BYTES,
            max_request_body_size=max(settings.max_part_bytes, settings.max_request_bytes) + OVERHEAD + 1,
            inbuf_overflow=BUFFER_IN_MEMORY,
            # Behind trusted proxies werkzeug's ProxyFix reads these headers: see create_app.
            clear_untrusted_proxy_headers=not settings.trusted_proxies,
            asyncore_use_poll=True,
            log_socket_errors=False,
            ident=None,
        )
        self._server.channel_class = Channel

    def run(self) -> None:
        """Serve until stop() is called."""
        looked = 0.0
        while not self._stopping:
            wasyncore.loop(timeout=1.0, use_poll=True, map=self._sockets, count=1)
            if (now := time.monotonic()) - looked >= 1.0:  # the loop turns at every packet, and this walks all channels
                looked = now
                self._limits.enforce(list(self._server.active_channels.values()), now)
        self._drain()

    def stop(self) -> None:
        """End run()."""
        self._stopping = True
        self._server.pull_trigger()

    def _drain(self) -> None:
        wasyncore.dispatcher.close(self._server)  # the listening socket alone: others may listen on it
        self._services.stopping.set()
        end = time.monotonic() + self._drain_seconds
        while self._is_busy() and time.monotonic() < end:
            wasyncore.loop(timeout=0.1, use_poll=True, map=self._sockets, count=1)
        self._server.task_dispatcher.shutdown(timeout=1)
        wasyncore.close_all(self._sockets)

    def _is_busy(self) -> bool:
        channels = list(self._server.active_channels.values())
        return any(channel.requests or channel.total_outbufs_len for channel in channels)


def main(arguments: list[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m api", description=__doc__.split("\n")[0])
    parser.add_argument("--fd", type=int, help="serve an inherited listening socket instead of BIMT_HOST:BIMT_PORT")
    parser.add_argument("--channel-timeout", type=float, default=CHANNEL_TIMEOUT, metavar="SECONDS")
    parser.add_argument("--request-seconds", type=float, default=REQUEST_SECONDS, metavar="SECONDS")
    parser.add_argument("--drain-seconds", type=float, default=DRAIN_SECONDS, metavar="SECONDS")
    parser.add_argument("--access-log", action="store_true", help="log each answered request")
    args = parser.parse_args(arguments)

    from api.wsgi import app, settings

    logging.getLogger("api.access").setLevel(logging.INFO if args.access_log else logging.WARNING)
    logging.getLogger("waitress.queue").setLevel(logging.ERROR)  # a line for each request that waits for a thread
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(DESCRIPTORS, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    Path(settings.spool).mkdir(parents=True, exist_ok=True)
    tempfile.tempdir = settings.spool  # bodies that arrive wait where uploads do
    server = Server(
        app,
        settings,
        _listener(settings, args.fd),
        channel_timeout=args.channel_timeout,
        request_seconds=args.request_seconds,
        drain_seconds=args.drain_seconds,
    )
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: server.stop())
    server.run()
    return 0


def _listener(settings: Settings, descriptor: int | None) -> socket.socket:
    if descriptor is not None:
        return socket.socket(fileno=descriptor)
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    return socket.create_server((settings.host, settings.port), family=family, backlog=1024)


def _sentence(error: Any) -> str:
    if error.code == 413:
        return "The body is larger than one request may be; send a file in parts (POST /api/v1/uploads)."
    if error.code == NoRoom.code:
        return NO_ROOM
    return f"{error.body}.".replace("..", ".")


if __name__ == "__main__":
    raise SystemExit(main())
