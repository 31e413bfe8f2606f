"""What the API writes to its log: one JSON record a line, each with the id of the request that it is about.

    {"at": "2026-01-02T03:04:05.678+00:00", "level": "error", "logger": "api", "event": "…", "request": "4f1c…"}

An answer carries the same id in its header X-Request-Id.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from datetime import UTC, datetime, timedelta
from typing import Any

from flask import g, has_request_context, request
from gunicorn.glogging import Logger

SECRET_PART = re.compile(r"/s/[^/?]+")  # the secret of a link stands in its path


class Records(logging.Formatter):
    """A log record as a line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """Its fields; a traceback is one of them, so that it stays on the line."""
        said: dict[str, Any] = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
        }
        if has_request_context():
            said |= {"request": getattr(g, "request_id", None), "method": request.method, "path": shown(request.path)}
        said |= getattr(record, "fields", {})
        if record.exc_info:
            said["exception"] = self.formatException(record.exc_info)
        return json.dumps(said, ensure_ascii=False, default=str)


def shown(path: str) -> str:
    """A path without the secret of a link."""
    return SECRET_PART.sub("/s/…", path)


def log_records(level: str) -> None:
    """Send all that is logged to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Records())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)


class GunicornLogs(Logger):
    """Gunicorn's own records in the same form. The access log, where it is asked for, is one record a request."""

    def setup(self, cfg: Any) -> None:
        """As gunicorn does it, with our lines."""
        super().setup(cfg)
        for log in (self.error_log, self.access_log):
            for handler in log.handlers:
                handler.setFormatter(Records())

    def access(self, resp: Any, req: Any, environ: dict[str, Any], request_time: timedelta) -> None:
        """One answered request."""
        if not self.access_log_enabled:
            return
        ids = [value for name, value in resp.headers if name.lower() == "x-request-id"]
        fields = {
            "request": ids[0] if ids else None,
            "method": environ.get("REQUEST_METHOD"),
            "path": shown(str(environ.get("PATH_INFO", ""))),
            "status": resp.status_code,
            "seconds": round(request_time.total_seconds(), 4),
            "address": environ.get("REMOTE_ADDR"),
        }
        self.access_log.info("answered", extra={"fields": fields})
