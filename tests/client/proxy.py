"""A TCP proxy between client and service that cuts connections when a test says so, in threads of its own."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable
from types import TracebackType
from urllib.parse import urlsplit

PIECE = 64 * 1024


class Proxy:
    """Passes bytes on, until a test sets one of its attributes.

    address        what the client is given
    connections    how many connections were opened so far
    refuse         how many of the next connections are closed at once
    up_limit       bytes from client to service after which all connections are cut, once
    cut_then       is called right before that cut
    down_limit     the same from service to client
    hold           nothing more is passed to the client, and the connections stay open, as behind a proxy that buffers
    """

    def __init__(self, service: str) -> None:
        parts = urlsplit(service)
        self._target = (parts.hostname, parts.port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.connections = 0
        self.refuse = 0
        self.up_limit: int | None = None
        self.cut_then: Callable[[], None] | None = None
        self.down_limit: int | None = None
        self.hold = threading.Event()
        self.sent_up = 0
        self._open: list[socket.socket] = []
        self._lock = threading.Lock()

    def __enter__(self) -> Proxy:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Closing alone would not wake the thread that waits in accept().
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()

    def cut(self) -> int:
        """Break every open connection; returns how many there were."""
        with self._lock:
            open_sockets, self._open = self._open, []
        for each in open_sockets:
            reset(each)
        return len(open_sockets) // 2

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            if self.refuse > 0:
                self.refuse -= 1
                reset(near)
                continue
            far = socket.create_connection(self._target)
            with self._lock:
                self._open += [near, far]
            threading.Thread(target=self._up, args=(near, far), daemon=True).start()
            threading.Thread(target=self._down, args=(far, near), daemon=True).start()

    def _up(self, near: socket.socket, far: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while piece := near.recv(PIECE):
                far.sendall(piece)
                self.sent_up += len(piece)
                if self.up_limit is not None and self.sent_up >= self.up_limit:
                    self.up_limit = None
                    if self.cut_then is not None:
                        self.cut_then()
                    self.cut()
        with contextlib.suppress(OSError):
            far.shutdown(socket.SHUT_WR)

    def _down(self, far: socket.socket, near: socket.socket) -> None:
        sent = 0
        with contextlib.suppress(OSError):
            while piece := far.recv(PIECE):
                if self.hold.is_set():
                    continue
                if self.down_limit is not None and sent + len(piece) > self.down_limit:
                    near.sendall(piece[: self.down_limit - sent])
                    self.down_limit = None
                    self.cut()
                    return
                near.sendall(piece)
                sent += len(piece)
        with contextlib.suppress(OSError):
            near.shutdown(socket.SHUT_WR)


def reset(connection: socket.socket) -> None:
    """Close with RST, so that both ends see a broken connection rather than its end."""
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()
