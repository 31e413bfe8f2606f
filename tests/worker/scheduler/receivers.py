"""Receivers of webhooks: small HTTP servers that remember what they heard and answer as they are told."""

from __future__ import annotations

import contextlib
import ssl
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


@dataclass
class Receiver:
    """What came, and what is answered: `statuses` one after the other, then 204 for ever."""

    host: str = "127.0.0.1"
    scheme: str = "http"
    statuses: list[int] = field(default_factory=list)
    location: str = ""
    heard: list[tuple[str, dict[str, str], bytes]] = field(default_factory=list)
    hold: threading.Event | None = None  # no answer before it is set
    drip: bool = False  # a byte of an endless header now and then
    port: int = 0

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.host}:{self.port}/hook?who=bimt"

    def answer(self, request: Any) -> None:
        length = int(request.headers["Content-Length"])
        self.heard.append(
            (request.path, {k.lower(): v for k, v in request.headers.items()}, request.rfile.read(length))
        )
        if self.hold is not None:
            self.hold.wait(60)
        with contextlib.suppress(OSError):
            if self.drip:
                request.wfile.write(b"HTTP/1.1 200 OK\r\nX: ")
                while True:
                    request.wfile.write(b"x")
                    time.sleep(0.05)
            request.send_response(self.statuses.pop(0) if self.statuses else 204)
            if self.location:
                request.send_header("Location", self.location)
            request.end_headers()


@contextlib.contextmanager
def receiving(certificate: Path | None = None, **how: Any) -> Iterator[Receiver]:
    """A receiver that listens as long as this lasts; with a certificate (and its key) it speaks TLS."""
    receiver = Receiver(**how)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            receiver.answer(self)

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: object) -> None:
            pass  # the other side hung up, as it is meant to here

    with Server((receiver.host, 0), Handler) as server:
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            server.socket = context.wrap_socket(server.socket, server_side=True)
            receiver.scheme = "https"
        receiver.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield receiver
        finally:
            if receiver.hold is not None:
                receiver.hold.set()
            server.shutdown()
            thread.join()
