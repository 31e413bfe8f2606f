"""Log records are JSON objects with the fields of the thread, of the call and of the process."""

from __future__ import annotations

import io
import json
import logging

import pytest
import structlog

from store import log


@pytest.fixture
def records():
    """A function that logs and returns the records."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(log.formatter(processors=[lambda _logger, _method, event: event | {"request": "4f1c"}]))
    logger = logging.getLogger("test of the log")
    logger.addHandler(handler)
    logger.propagate = False

    def records(write):
        write(logger)
        return [json.loads(line) for line in stream.getvalue().splitlines()]

    yield records
    logger.removeHandler(handler)


def test_a_record_is_one_line_with_time_level_logger_and_event(records):
    [record] = records(lambda logger: logger.warning("%s of %d\nlines", "one", 2))
    assert record.pop("at").endswith("Z")
    assert record == {
        "level": "warning", "logger": "test of the log", "event": "one of 2\nlines", "request": "4f1c",
    }  # fmt: skip


def test_fields_of_the_thread_and_of_the_call_are_in_the_record(records):
    with structlog.contextvars.bound_contextvars(job="job_1", attempt=2):
        [record] = records(lambda logger: logger.warning("answered", extra={"fields": {"status": 200}}))
    assert (record["job"], record["attempt"], record["status"]) == ("job_1", 2, 200)


def test_a_traceback_stays_on_the_line(records):
    def fail(logger):
        try:
            raise ValueError("wrong")
        except ValueError:
            logger.exception("failed")

    [record] = records(fail)
    assert "ValueError: wrong" in record["exception"]
    assert record["level"] == "error"
