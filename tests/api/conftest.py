"""A service on a fresh database for every test that asks for one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from flask.testing import FlaskClient

from tests.answering import (
    SharedProcess,
    operations_on,
    shared_process,  # noqa: F401  (a fixture is found by name)
    untrained_weights,
)
from tests.api.makers import House, independence_spec, make_house, publish_runs, submit_job
from tests.servers import (  # noqa: F401  (fixtures are found by name)
    database_url,
    lasting_url,
    postgres_server,
    postgres_url,
    service_url,
    sqlite_template,
    sqlite_url,
)


@pytest.fixture
def house(tmp_path: Path, service_url: str) -> Iterator[House]:  # noqa: F811
    """A service."""
    made = make_house(tmp_path / "home", database_url=service_url)
    yield made
    made.close()


@pytest.fixture
def any_house(tmp_path: Path, database_url: str) -> Iterator[House]:  # noqa: F811
    """A service on SQLite, then the same on PostgreSQL."""
    made = make_house(tmp_path / "home", database_url=database_url)
    yield made
    made.close()


@pytest.fixture
def client(house: House) -> FlaskClient:
    """A caller of that service, without a token."""
    return house.client()


@pytest.fixture
def make(tmp_path: Path, service_url: str) -> Iterator[Callable[..., House]]:  # noqa: F811
    """Make a service with other settings."""
    made: list[House] = []

    def build(**environ: str) -> House:
        made.append(make_house(tmp_path / f"home{len(made)}", database_url=service_url, environ=environ))
        return made[-1]

    yield build
    for one in made:
        one.close()


@pytest.fixture
def asked(house: House, shared_process: SharedProcess) -> Iterator[str]:  # noqa: F811
    """A run that can be asked, and a worker that answers; the run's id."""
    weights = untrained_weights(independence_spec().model_dump_json())
    [run_id] = publish_runs(house, submit_job(house), weights=weights)
    house.worker = operations_on(house.settings, house.database, house.files, shared_process).serve
    yield run_id
    house.worker = None
