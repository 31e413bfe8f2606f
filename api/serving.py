"""How gunicorn serves the app, in every set-up: `gunicorn --config python:api.serving api.wsgi:app`."""

from __future__ import annotations

import os
from typing import Any

from api.lines import FairWorker, free
from api.logs import GunicornLogs
from store.settings import Settings

_settings = Settings.from_env(os.environ)

# Lines that rest between two requests. Clients come back on the same line, which saves them the making of a new one.
RESTING = 64

bind = f"{_settings.host}:{_settings.port}"
workers = max(1, _settings.api_processes)
worker_class = "api.lines.FairWorker"
threads = _settings.api_threads
# A process takes few more lines than it has threads, because another process may have a thread free for them. Streams
# of events leave a quarter of the threads to others: see api/watching.py.
worker_connections = threads + RESTING
keepalive = 20  # seconds; longer than clients keep a line that rests, so that none sends into a line that just closes
timeout = 60
graceful_timeout = 5  # seconds that open answers, streams among them, may go on when the service ends
control_socket_disable = True
loglevel = _settings.log_level
logger_class = GunicornLogs


def child_exit(_arbiter: Any, worker: FairWorker) -> None:
    """gunicorn calls this when a process has ended."""
    free(worker)
