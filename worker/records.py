"""What the worker and the scheduler write to their log: one JSON record a line, or words where a person looks on."""

from __future__ import annotations

import logging
import sys
from typing import Any

import structlog


def log_records(level: str) -> None:
    """Send all that is logged to standard error. Whatever a thread has bound (job, attempt) stands in its records.

    For instance: {"event": "seed 0 begins", "job": "job_01…", "attempt": 2, "level": "info", "logger": "worker", …}
    """
    every: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="at"),
    ]
    shown: list[Any] = [structlog.stdlib.ProcessorFormatter.remove_processors_meta]
    if sys.stderr.isatty():
        shown.append(structlog.dev.ConsoleRenderer())
    else:
        shown += [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(ensure_ascii=False)]
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(foreign_pre_chain=every, processors=shown))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.getLogger("alembic").setLevel(logging.WARNING)
