"""A complete service for the tests of the client, as `up` starts it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bimt import Client, Job, RetryPolicy, Run
from tests.client.proxy import Proxy
from tests.end_to_end.test_supervisor import Up, served

TINY = {
    "dataset": {"kind": "formula", "formulas": ["x1*x1", "x2+x3"], "inputs": 3, "train": 40, "test": 40, "seed": 7},
    "network": {"kind": "mlp", "hidden": [6]},
    "training": {
        "steps": 1500,
        "log_every": 100,
        "snapshot_every": 500,
        "checkpoint_every": 500,
        "phases": [{"until": 1.0, "cost_strength": 0.01}],
    },
    "evidence": {"tolerance": 0.02, "refit_steps": 50, "random_groups": 20, "leiden_seeds": 2},
}
LONG = TINY | {"training": TINY["training"] | {"steps": 3_000_000, "log_every": 2000, "snapshot_every": None}}
QUICK = RetryPolicy(initial=0.02, max=0.2)


@pytest.fixture(scope="session")
def service() -> Iterator[Up]:
    """One service for all tests of a session."""
    with served(BIMT_WEBHOOK_NETWORKS="127.0.0.1/32") as up:
        yield up


@pytest.fixture(scope="session")
def client(service: Up) -> Iterator[Client]:
    """The client of that service's first admin."""
    with Client(service.address, service.token, retry=QUICK) as made:
        yield made


@pytest.fixture(scope="session")
def trained(client: Client) -> Job:
    """A job of two runs that has succeeded."""
    return client.jobs.submit(spec=TINY, seeds=[0, 1], name="trained", tags=["tests"]).wait(timeout=120)


@pytest.fixture(scope="session")
def run(trained: Job) -> Run:
    """The first of them."""
    return trained.runs()[0]


@pytest.fixture
def long_job(client: Client) -> Iterator[Callable[..., Job]]:
    """Makes jobs that go on until the test is over."""
    made: list[Job] = []

    def submit(**more: Any) -> Job:
        made.append(client.jobs.submit(spec=LONG, name="long", **more))
        return made[-1]

    yield submit
    for job in made:
        if not job.refresh().ended:
            job.cancel()
    for job in made:
        for _ in job.events(timeout=60):
            pass


@pytest.fixture
def proxy(service: Up) -> Iterator[Proxy]:
    """A connection to the service that a test can cut."""
    with Proxy(service.address) as made:
        yield made


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Forty rows in which the price depends on rooms and age."""
    rows = [f"{i % 6 + 1},{i * 7 % 40},{90 + 31.5 * (i % 6) - i * 7 % 40}" for i in range(40)]
    path = tmp_path / "houses.csv"
    path.write_text("\n".join(["rooms,age,price", *rows]) + "\n")
    return path
