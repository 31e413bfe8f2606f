"""Every setting of the service in one table: its name in the environment, its default, what it means.

Only this file reads the environment. docs/operations.md is tested against `table()`.
"""

# ruff: noqa: RUF009 - _setting makes a field, which is what a dataclass wants there
from __future__ import annotations

import hashlib
import os
import re
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple

from store import outside

LONGEST_SOCKET_PATH = 100  # bytes; the kernel allows 107 with the closing zero, and some clients add a few


NO_LIMIT = "none"  # a word of its own, since an empty variable counts as absent


class SettingsError(ValueError):
    """A setting in the environment cannot be used."""


class Setting(NamedTuple):
    """One line of the table. A default in words is one that depends on BIMT_HOME."""

    name: str
    default: str
    meaning: str


def _setting(name: str, default: Any, meaning: str, *, parse: Callable[[str], Any] = str, shown: str = "") -> Any:
    """A field of Settings that is read from the environment; `shown` is the default as people read it."""
    return field(default=default, metadata={"name": name, "meaning": meaning, "parse": parse, "shown": shown})


def _count(text: str) -> int:
    number = int(text.replace("_", ""))
    if number < 0:
        raise ValueError("it must not be negative")
    return number


def _seconds(text: str) -> float:
    number = float(text)
    if not 0 < number < float("inf"):
        raise ValueError("it must be a positive number of seconds")
    return number


def _limit(text: str) -> str:
    if text != NO_LIMIT and not re.fullmatch(r"[1-9][0-9]*/(second|minute|hour|day)", text):
        raise ValueError(f"say it like 100/minute, or `{NO_LIMIT}`")
    return text


def _networks(text: str) -> str:
    outside.networks(text)
    return text


def _yes_or_no(text: str) -> bool:
    if text.lower() in ("1", "yes", "true", "on"):
        return True
    if text.lower() in ("0", "no", "false", "off"):
        return False
    raise ValueError("say yes or no")


@dataclass(frozen=True)
class Settings:
    """What a process must know of its surroundings. Made once at its start, then handed on."""

    home: Path = _setting("BIMT_HOME", Path("~/.bimt"), "Folder for all that is kept on this machine.", parse=Path)
    database_url: str = _setting(
        "BIMT_DATABASE_URL",
        "",
        "Where rows are kept: sqlite:///FILE or postgresql+psycopg://USER:PASSWORD@HOST/NAME.",
        shown="sqlite:///HOME/bimt.sqlite",
    )
    broker_url: str = _setting(
        "BIMT_BROKER_URL",
        "",
        "Valkey or Redis: redis://, rediss:// (TLS) or redis+socket://PATH.",
        shown="redis+socket://HOME/broker.sock?virtual_host=0",
    )
    files_url: str = _setting(
        "BIMT_FILES_URL",
        "",
        "Where files are kept: file:///FOLDER or s3://BUCKET/PREFIX?endpoint=URL&region=NAME; "
        "the keys to a bucket stand in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.",
        shown="file://HOME/files",
    )
    spool: str = _setting(
        "BIMT_SPOOL",
        "",
        "Folder where uploads wait until they are whole; it needs room for the largest one.",
        shown="HOME/spool",
    )
    host: str = _setting("BIMT_HOST", "127.0.0.1", "Address that the API listens on.")
    port: int = _setting("BIMT_PORT", 8080, "Port that the API listens on.", parse=_count)
    public_url: str = _setting("BIMT_PUBLIC_URL", "", "How users reach it, for links.", shown="http://HOST:PORT")
    api_processes: int = _setting("BIMT_API_PROCESSES", 1, "Processes of the API.", parse=_count)
    api_threads: int = _setting("BIMT_API_THREADS", 128, "Threads of each; an event stream holds one.", parse=_count)
    workers: int = _setting("BIMT_WORKERS", 1, "Workers that `make up` starts; each trains one job.", parse=_count)
    queue: str = _setting("BIMT_QUEUE", "cpu", "What a worker does: cpu, gpu or errands.")
    secret_key: str = _setting(
        "BIMT_SECRET_KEY", "", "Signs browser sessions; the same on every API host.", shown="made once, in HOME/secret"
    )
    secure_cookies: bool = _setting(
        "BIMT_SECURE_COOKIES", False, "Send cookies over HTTPS only; say yes behind TLS.", parse=_yes_or_no
    )
    trusted_proxies: int = _setting(
        "BIMT_TRUSTED_PROXIES", 0, "How many proxies in front may name the caller's address.", parse=_count
    )
    database_pool: int = _setting("BIMT_DATABASE_POOL", 10, "Connections that a process keeps open.", parse=_count)
    max_upload_bytes: int = _setting(
        "BIMT_MAX_UPLOAD_BYTES", 2 << 30, "Largest file that may be uploaded.", parse=_count
    )
    max_part_bytes: int = _setting("BIMT_MAX_PART_BYTES", 64 << 20, "Largest part of an upload in parts.", parse=_count)
    max_request_bytes: int = _setting(
        "BIMT_MAX_REQUEST_BYTES", 4 << 20, "Largest body of a request that is not an upload.", parse=_count
    )
    check_at_once_bytes: int = _setting(
        "BIMT_CHECK_AT_ONCE_BYTES",
        16 << 20,
        "An upload up to this is checked before the answer.",
        parse=_count,
    )
    check_memory_bytes: int = _setting(
        "BIMT_CHECK_MEMORY_BYTES", 4 << 30, "Memory that the check of an upload may take.", parse=_count
    )
    check_seconds: float = _setting(
        "BIMT_CHECK_SECONDS", 120.0, "Time that the check of an upload may take.", parse=_seconds
    )
    max_runs: int = _setting("BIMT_MAX_RUNS", 256, "Most runs (seeds × cost strengths) in one job.", parse=_count)
    rate_limit: str = _setting(
        "BIMT_RATE_LIMIT", "6000/minute", "Requests that one token may make; `none`: no limit.", parse=_limit
    )
    login_rate_limit: str = _setting(
        "BIMT_LOGIN_RATE_LIMIT", "10/minute", "Attempts to sign in from one address; `none`: no limit.", parse=_limit
    )
    lease_seconds: float = _setting(
        "BIMT_LEASE_SECONDS", 60.0, "A worker that is silent for so long has lost its job.", parse=_seconds
    )
    max_attempts: int = _setting(
        "BIMT_MAX_ATTEMPTS", 5, "Workers that a job may lose before it is given up.", parse=_count
    )
    resend_seconds: float = _setting(
        "BIMT_RESEND_SECONDS", 30.0, "A job that nobody took for so long is announced again.", parse=_seconds
    )
    silence_seconds: float = _setting(
        "BIMT_SILENCE_SECONDS", 900.0, "A training that makes no progress for so long is ended.", parse=_seconds
    )
    cancel_seconds: float = _setting(
        "BIMT_CANCEL_SECONDS", 5.0, "Time that a training has to end by itself when it is cancelled.", parse=_seconds
    )
    drain_seconds: float = _setting(
        "BIMT_DRAIN_SECONDS",
        20.0,
        "Time that a worker has to hand back its job at the end.",
        parse=_seconds,
    )
    draft_days: float = _setting(
        "BIMT_DRAFT_DAYS",
        90.0,
        "Ended jobs, neither published nor pinned, are kept so long.",
        parse=_seconds,
    )
    errand_hours: float = _setting(
        "BIMT_ERRAND_HOURS", 24.0, "Answers to questions that were asked of networks are kept so long.", parse=_seconds
    )
    file_grace_hours: float = _setting(
        "BIMT_FILE_GRACE_HOURS", 24.0, "Files that nothing refers to are deleted after so long.", parse=_seconds
    )
    webhook_networks: str = _setting(
        "BIMT_WEBHOOK_NETWORKS",
        "",
        "Private networks that webhooks may reach, by http too: 10.1.0.0/16,fd00::/8.",
        parse=_networks,
    )
    webhook_seconds: float = _setting(
        "BIMT_WEBHOOK_SECONDS", 10.0, "Time that a receiver of webhooks has to answer.", parse=_seconds
    )
    webhook_days: float = _setting(
        "BIMT_WEBHOOK_DAYS", 30.0, "What was sent to webhooks is kept so long.", parse=_seconds
    )
    log_level: str = _setting("BIMT_LOG_LEVEL", "info", "How much is logged: debug, info, warning or error.")

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None, home: str | os.PathLike[str] | None = None) -> Settings:
        """Read the settings. An argument `home` counts more than BIMT_HOME; an empty variable counts as absent.

        Raises SettingsError, naming the variable, for a value that cannot be used.
        """
        environ = os.environ if environ is None else environ
        known = {one.metadata["name"]: one for one in fields(cls)}
        given = {}
        for name, one in known.items():
            if text := environ.get(name, ""):
                try:
                    given[one.name] = one.metadata["parse"](text)
                except ValueError as error:
                    raise SettingsError(f"{name}={text!r} cannot be used: {error}. {one.metadata['meaning']}") from None
        if home is not None:
            given["home"] = Path(home)
        given["home"] = Path(given.get("home", cls.home)).expanduser().absolute()
        return cls(**given)._with_places()

    def _with_places(self) -> Settings:
        """The same settings with every place that depends on the home written out."""
        places = {
            "database_url": self.database_url or f"sqlite:///{self.home / 'bimt.sqlite'}",
            "broker_url": self.broker_url or broker_url(self.home),
            "files_url": self.files_url or f"file://{self.home / 'files'}",
            "spool": self.spool or str(self.home / "spool"),
            "public_url": self.public_url or f"http://{self.host}:{self.port}",
        }
        return type(self)(**{one.name: getattr(self, one.name) for one in fields(self)} | places)

    def environment(self) -> dict[str, str]:
        """The variables that give a child process these same settings."""
        texts = {one.metadata["name"]: getattr(self, one.name) for one in fields(self)}
        return {name: str(value) for name, value in texts.items() if str(value)}


def table() -> list[Setting]:
    """All settings in the order of the file, for the documents."""
    lines = []
    for one in fields(Settings):
        default = "" if one.default is MISSING else one.default
        default = ("yes" if default else "no") if isinstance(default, bool) else str(default)
        lines.append(Setting(one.metadata["name"], one.metadata["shown"] or default, one.metadata["meaning"]))
    return lines


def broker_socket(home: Path) -> Path:
    """Where the broker of this home listens: beside the data or, where that path is too long, in a short folder."""
    socket = home / "broker.sock"
    if len(os.fsencode(socket)) <= LONGEST_SOCKET_PATH:
        return socket
    mark = hashlib.sha256(os.fsencode(home)).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"bimt-{os.getuid()}-{mark}" / "broker.sock"


def broker_url(home: Path) -> str:
    """The address of that broker, as Celery reads it."""
    return f"redis+socket://{broker_socket(home)}?virtual_host=0"
