"""Each test has a service of its own, and the bits that an undisturbed run of the same spec gave."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from bimt_engine.spec import Spec
from standalone.broker import Broker
from standalone.database import DatabaseError, PostgresServer, install_folder
from store import migrate
from tests.end_to_end.processes import Service, service_in, wild_spec
from tests.servers import (  # noqa: F401 - fixtures are found by name
    broker,
    lasting_url,
    postgres_server,
    postgres_url,
    service_url,
    short_folder,
    sqlite_template,
    sqlite_url,
)


@pytest.fixture
def house(tmp_path: Path, service_url: str, broker: Broker) -> Iterator[Service]:  # noqa: F811
    """A service with nothing started but the broker."""
    house = Service(tmp_path / "home", service_url, broker)
    yield house
    house.close()


@contextmanager
def migrated_postgres(folder: Path) -> Iterator[PostgresServer]:
    """A PostgreSQL of one test's own with all tables, everything of it in this folder; skips where there is none."""
    try:
        install_folder()
    except DatabaseError as error:
        pytest.skip(str(error))
    with PostgresServer(folder / "server") as server:
        migrate.upgrade(server.url)
        yield server


@pytest.fixture
def postgres_away() -> Iterator[PostgresServer]:
    """A migrated PostgreSQL, to be killed."""
    with short_folder() as folder, migrated_postgres(folder) as server:
        yield server


@pytest.fixture(scope="session")
def quiet_house(
    lasting_url: Callable[[Path], str],  # noqa: F811
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Service]:
    """A service with one worker, in which nothing goes wrong."""
    with service_in(tmp_path_factory.mktemp("undisturbed"), lasting_url) as house:
        house.worker()
        yield house


@pytest.fixture(scope="session")
def undisturbed(quiet_house: Service) -> list[str]:
    """The SHA-256 of the weights of the tiny job's seeds 0 and 1, trained without interruption."""
    job = quiet_house.submit(seeds=(0, 1))
    assert quiet_house.until_ended(job).state == "succeeded", quiet_house.job(job).reason
    assert len(quiet_house.attempts(job)) == 1
    return quiet_house.weights(job)


@pytest.fixture(scope="session")
def side_by_side_undisturbed(quiet_house: Service) -> tuple[Spec, list[Any]]:
    """A spec whose seed 5 diverges, trained beside 4 and 0 without interruption, and its outcome."""
    spec = wild_spec(steps=60_000, snapshot_every=20_000, checkpoint_every=500)
    job = quiet_house.submit(spec, seeds=(4, 5, 0))
    assert quiet_house.until_ended(job).state == "failed"
    assert [run.state for run in quiet_house.runs(job)] == ["succeeded", "failed", "succeeded"]
    assert [run.replicas for run in quiet_house.runs(job)] == [3, None, 3]
    return spec, quiet_house.outcome(job)
