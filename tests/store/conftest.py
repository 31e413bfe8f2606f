"""The store is tested on both databases, with time in the hand of the test."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest

from store.database import Database
from tests.servers import (  # noqa: F401 - fixtures are found by name
    broker,
    database,
    database_url,
    empty_postgres_url,
    files,
    postgres_server,
    postgres_url,
    service_url,
    sqlite_template,
    sqlite_url,
)
from tests.store.makers import People, make_people


@dataclass
class Clock:
    """A time that stands still until it is moved."""

    now: datetime = datetime(2026, 1, 2, 3, 4, 5, 678901, UTC)

    def pass_seconds(self, seconds: float) -> datetime:
        self.now += timedelta(seconds=seconds)
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def people(database: Database, clock: Clock) -> People:  # noqa: F811
    """A team with one admin, and another team."""
    with database.write() as session:
        return make_people(session, clock.now)
