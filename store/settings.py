"""Every setting of the service in one table: its environment variable, its default, its meaning.

Only this file reads them from the environment. Tests compare docs/operations.md with `table()` and fail for a setting
that no code reads. Durations carry their unit in their name.
"""

# ruff: noqa: RUF009 - _setting makes a field, which is what a dataclass wants there
from __future__ import annotations

import contextlib
import hashlib
import os
import re
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple

from store import aliases, url_policy

LONGEST_SOCKET_PATH = 100  # bytes; the kernel allows 107 with the final zero, and some clients add a few
TRAINING_QUEUES = ("cpu", "gpu")
OPERATION_QUEUES = ("interactive", "batch")  # while a client waits for the answer; for longer work
QUEUES = TRAINING_QUEUES + OPERATION_QUEUES
NO_LIMIT = "none"  # not the empty text, since an empty variable counts as absent


class SettingsError(ValueError):
    """A setting in the environment cannot be used."""


class Setting(NamedTuple):
    """One line of the table. `default` is for people: a value, or a description if it depends on other settings."""

    name: str
    default: str
    meaning: str


def _setting(name: str, default: Any, meaning: str, *, parse: Callable[[str], Any] = str, shown: str = "") -> Any:
    """A field of Settings that is read from the environment; `shown` is the default in the docs."""
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
        raise ValueError(f"write it like 100/minute, or `{NO_LIMIT}`")
    return text


def _networks(text: str) -> str:
    url_policy.networks(text)
    return text


def _queue(text: str) -> str:
    if text not in QUEUES:
        raise ValueError(f"it must be one of {', '.join(QUEUES)}")
    return text


def _yes_or_no(text: str) -> bool:
    if text.lower() in ("1", "yes", "true", "on"):
        return True
    if text.lower() in ("0", "no", "false", "off"):
        return False
    raise ValueError("it must be yes or no")


@dataclass(frozen=True)
class Settings:
    """The settings of a process, read once at its start and then passed on."""

    home: Path = _setting(
        "BIMT_HOME", Path("~/.bimt"), "Folder for everything that is stored on this machine.", parse=Path
    )
    database_url: str = _setting(
        "BIMT_DATABASE_URL",
        "",
        "The database: sqlite:///FILE or postgresql+psycopg://USER:PASSWORD@HOST/NAME.",
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
        "The file store: file:///FOLDER or s3://BUCKET/PREFIX?endpoint=URL&region=NAME; "
        "the credentials of a bucket are read from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.",
        shown="file://HOME/files",
    )
    spool: str = _setting(
        "BIMT_SPOOL",
        "",
        "Folder for incomplete uploads; it needs room for the largest one.",
        shown="HOME/spool",
    )
    host: str = _setting("BIMT_HOST", "127.0.0.1", "Address that the API listens on.")
    port: int = _setting("BIMT_PORT", 8080, "Port that the API listens on.", parse=_count)
    public_url: str = _setting(
        "BIMT_PUBLIC_URL", "", "URL of the API as users reach it, for links.", shown="http://HOST:PORT"
    )
    api_processes: int = _setting("BIMT_API_PROCESSES", 1, "Processes of the API.", parse=_count)
    api_threads: int = _setting(
        "BIMT_API_THREADS", 272, "Threads of each API process; an event stream holds one.", parse=_count
    )
    workers: int = _setting(
        "BIMT_WORKERS", 1, "Training workers that `make up` starts; each trains one job at a time.", parse=_count
    )
    queue: str = _setting(
        "BIMT_QUEUE",
        "cpu",
        "What a worker does: cpu or gpu for training, interactive for operations (the queues interactive and batch).",
        parse=_queue,
    )
    secret_key: str = _setting(
        "BIMT_SECRET_KEY", "", "Signs browser sessions; the same on every API host.", shown="made once, in HOME/secret"
    )
    waiting_process: bool = _setting(
        "BIMT_WAITING_PROCESS",
        True,
        "Keep a training process waiting with everything imported, about 400 MB; CPU workers only.",
        parse=_yes_or_no,
    )
    secure_cookies: bool = _setting(
        "BIMT_SECURE_COOKIES", False, "Send cookies over HTTPS only; yes behind TLS.", parse=_yes_or_no
    )
    trusted_proxies: int = _setting(
        "BIMT_TRUSTED_PROXIES", 0, "Number of proxies in front whose X-Forwarded-For is trusted.", parse=_count
    )
    database_pool: int = _setting("BIMT_DATABASE_POOL", 10, "Connections that a process keeps open.", parse=_count)
    max_upload_bytes: int = _setting(
        "BIMT_MAX_UPLOAD_BYTES", 2 << 30, "Largest file that may be uploaded, in parts.", parse=_count
    )
    max_part_bytes: int = _setting(
        "BIMT_MAX_PART_BYTES", 64 << 20, "Largest part of an upload, and largest body of any request.", parse=_count
    )
    max_request_bytes: int = _setting(
        "BIMT_MAX_REQUEST_BYTES", 4 << 20, "Largest body of a request that is not an upload.", parse=_count
    )
    check_at_once_bytes: int = _setting(
        "BIMT_CHECK_AT_ONCE_BYTES",
        16 << 20,
        "An upload up to this size is checked before the answer.",
        parse=_count,
    )
    check_memory_bytes: int = _setting(
        "BIMT_CHECK_MEMORY_BYTES", 4 << 30, "Memory that the check of an upload may use.", parse=_count
    )
    check_seconds: float = _setting(
        "BIMT_CHECK_SECONDS", 120.0, "Seconds that the check of an upload may take.", parse=_seconds
    )
    job_memory_bytes: int = _setting(
        "BIMT_JOB_MEMORY_BYTES",
        0,
        "Memory that the engine process of one job or operation may hold, and above which a job is refused; 0: nine "
        "tenths of what the machine or its container has.",
        parse=_count,
    )
    job_days: float = _setting(
        "BIMT_JOB_DAYS",
        30.0,
        "A job is refused that would keep one processor core busy for more days than this, at the least.",
        parse=float,
    )
    max_runs: int = _setting("BIMT_MAX_RUNS", 256, "Most runs (seeds × cost strengths) in one job.", parse=_count)
    rate_limit: str = _setting(
        "BIMT_RATE_LIMIT", "6000/minute", "Requests of one token; `none`: no limit.", parse=_limit
    )
    login_rate_limit: str = _setting(
        "BIMT_LOGIN_RATE_LIMIT", "10/minute", "Attempts to sign in from one address; `none`: no limit.", parse=_limit
    )
    lease_seconds: float = _setting(
        "BIMT_LEASE_SECONDS",
        60.0,
        "Seconds without a renewed lease after which a worker has lost its job.",
        parse=_seconds,
    )
    max_attempts: int = _setting("BIMT_MAX_ATTEMPTS", 5, "Workers that a job may lose before it fails.", parse=_count)
    resend_seconds: float = _setting(
        "BIMT_RESEND_SECONDS", 30.0, "Seconds that a job waits before its message is sent again.", parse=_seconds
    )
    idle_seconds: float = _setting(
        "BIMT_IDLE_SECONDS", 900.0, "Seconds without progress after which a training is ended.", parse=_seconds
    )
    cancel_seconds: float = _setting(
        "BIMT_CANCEL_SECONDS", 5.0, "Seconds that a cancelled training has to stop by itself.", parse=_seconds
    )
    drain_seconds: float = _setting(
        "BIMT_DRAIN_SECONDS",
        20.0,
        "Seconds that a worker has to save and release its job when it shuts down.",
        parse=_seconds,
    )
    draft_days: float = _setting(
        "BIMT_DRAFT_DAYS",
        90.0,
        "Days that ended jobs are kept that are neither published nor pinned.",
        parse=_seconds,
    )
    operation_hours: float = _setting(
        "BIMT_OPERATION_HOURS", 24.0, "Hours that ended operations and their answers are kept.", parse=_seconds
    )
    file_grace_hours: float = _setting(
        "BIMT_FILE_GRACE_HOURS", 24.0, "Hours after which files that no row refers to are deleted.", parse=_seconds
    )
    webhook_networks: str = _setting(
        "BIMT_WEBHOOK_NETWORKS",
        "",
        "Private networks that webhooks may call, also by http: 10.1.0.0/16,fd00::/8.",
        parse=_networks,
    )
    webhook_seconds: float = _setting(
        "BIMT_WEBHOOK_SECONDS", 10.0, "Seconds that a receiver of webhooks has to answer.", parse=_seconds
    )
    webhook_days: float = _setting(
        "BIMT_WEBHOOK_DAYS", 30.0, "Days that sent messages of webhooks are kept.", parse=_seconds
    )
    log_level: str = _setting("BIMT_LOG_LEVEL", "info", "Least level that is logged: debug, info, warning or error.")

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None, home: str | os.PathLike[str] | None = None) -> Settings:
        """Read the settings. An argument `home` overrides BIMT_HOME; an empty variable counts as absent.

        Raises SettingsError, naming the variable, for a value that cannot be used.
        """
        environ = _current_names(os.environ if environ is None else environ)
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
        return cls(**given)._with_derived()

    def _with_derived(self) -> Settings:
        """The same settings with every default filled in that depends on other settings."""
        places = {
            "database_url": self.database_url or f"sqlite:///{self.home / 'bimt.sqlite'}",
            "broker_url": self.broker_url or broker_url(self.home),
            "files_url": self.files_url or f"file://{self.home / 'files'}",
            "spool": self.spool or str(self.home / "spool"),
            "public_url": self.public_url or f"http://{self.host}:{self.port}",
        }
        return type(self)(**{one.name: getattr(self, one.name) for one in fields(self)} | places)

    def environment(self) -> dict[str, str]:
        """The environment variables that give a child process the same settings."""
        texts = {one.metadata["name"]: getattr(self, one.name) for one in fields(self)}
        return {name: str(value) for name, value in texts.items() if str(value)}


def _current_names(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment with deprecated names and values replaced, a warning for each; a present name wins."""
    given = dict(environ)
    for old, new in aliases.SETTINGS.items():
        if text := given.pop(old, ""):
            print(f"{old} is deprecated and goes with the next version; use {new}.", file=sys.stderr)
            given[new] = given.get(new) or text
    if (queue := given.get("BIMT_QUEUE", "")) in aliases.QUEUES:
        given["BIMT_QUEUE"] = aliases.QUEUES[queue]
        print(f"BIMT_QUEUE={queue} is deprecated; use {aliases.QUEUES[queue]}.", file=sys.stderr)
    return given


def table() -> list[Setting]:
    """All settings in the order of this file, for the docs."""
    lines = []
    for one in fields(Settings):
        default = "" if one.default is MISSING else one.default
        default = ("yes" if default else "no") if isinstance(default, bool) else str(default)
        lines.append(Setting(one.metadata["name"], one.metadata["shown"] or default, one.metadata["meaning"]))
    return lines


def broker_socket(home: Path) -> Path:
    """The broker's Unix socket: in the home or, if that path is too long, in a temporary folder named by a hash."""
    socket = home / "broker.sock"
    if len(os.fsencode(socket)) <= LONGEST_SOCKET_PATH:
        return socket
    digest = hashlib.sha256(os.fsencode(home)).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"bimt-{os.getuid()}-{digest}" / "broker.sock"


def broker_url(home: Path) -> str:
    """The URL of that broker in Celery's form."""
    return f"redis+socket://{broker_socket(home)}?virtual_host=0"


CGROUP_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


def job_memory(asked: int) -> int:
    """The bytes that one job may hold: as asked for; for 0 nine tenths of what the machine, or its container, has."""
    if asked:
        return asked
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for group in CGROUP_LIMITS:
        with contextlib.suppress(OSError, ValueError):  # no such file, or `max`
            there = min(there, int(group.read_text()))
    return there * 9 // 10
