"""Each test has a house of its own, and the bits that an undisturbed run of the same spec gave."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from standalone.broker import Broker
from standalone.database import DatabaseError, PostgresServer, install_folder
from store import migrate
from tests.servers import (  # noqa: F401 - fixtures are found by name
    broker,
    short_folder,
    sqlite_template,
    sqlite_url,
)
from tests.whole.house import House


@pytest.fixture
def house(tmp_path: Path, sqlite_url: str, broker: Broker) -> Iterator[House]:  # noqa: F811
    """A house on SQLite, with nothing started but the broker."""
    house = House(tmp_path / "home", sqlite_url, broker)
    yield house
    house.close()


@pytest.fixture
def postgres_away() -> Iterator[PostgresServer]:
    """A migrated PostgreSQL of the test's own, to be killed."""
    try:
        install_folder()
    except DatabaseError as error:
        pytest.skip(str(error))
    with short_folder() as folder, PostgresServer(folder / "server") as server:
        migrate.upgrade(server.url)
        yield server


@pytest.fixture(scope="session")
def undisturbed(sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:  # noqa: F811
    """The SHA-256 of the weights of the tiny job's seeds 0 and 1, trained without any mishap."""
    home = tmp_path_factory.mktemp("undisturbed")
    (home / "bimt.sqlite").write_bytes(sqlite_template.read_bytes())
    with short_folder() as folder, Broker(folder) as running:
        house = House(home, f"sqlite:///{home / 'bimt.sqlite'}", running)
        try:
            house.worker()
            job = house.submit(seeds=(0, 1))
            assert house.until_ended(job).state == "succeeded", house.job(job).reason
            assert len(house.attempts(job)) == 1
            return house.weights(job)
        finally:
            house.close()
