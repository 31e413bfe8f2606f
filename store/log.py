"""Logging of API, worker and scheduler with structlog: one JSON object a line, or coloured text on a terminal.

    {"at": "2026-01-02T03:04:05.678901Z", "level": "info", "logger": "worker", "event": "saved", "job": "job_01…"}

Modules log with the standard library (`logging.getLogger(__name__)`). Fields come from `structlog.contextvars`, which a
thread binds for a job or a request, from `extra={"fields": {…}}`, and from the processors that `set_up` is given.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, MutableMapping, Sequence
from typing import Any

import structlog

Event = MutableMapping[str, Any]
Processor = Callable[[Any, str, Event], Event]


def set_up(level: str, *, processors: Sequence[Processor] = ()) -> None:
    """Send everything that this process logs to stderr, from this level on.

    processors   add fields to every record, for instance the id of the request: (logger, method, event) -> event
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter(processors=processors, as_text=sys.stderr.isatty()))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.getLogger("alembic").setLevel(logging.WARNING)


def formatter(*, processors: Sequence[Processor] = (), as_text: bool = False) -> logging.Formatter:
    """The formatter of these records, for handlers of other libraries such as an HTTP server's."""
    fields: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="at"),
        _extra_fields,
        *processors,
    ]
    output: list[Any] = [structlog.stdlib.ProcessorFormatter.remove_processors_meta]
    if as_text:
        output.append(structlog.dev.ConsoleRenderer())
    else:
        output += [
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(ensure_ascii=False, default=str),
        ]
    return structlog.stdlib.ProcessorFormatter(foreign_pre_chain=fields, processors=output)


def _extra_fields(_logger: Any, _method: str, event: Event) -> Event:
    """Add the fields of `extra={"fields": {…}}`."""
    record = event.get("_record")
    event.update(getattr(record, "fields", {}))
    return event
