"""A backup that is taken while people submit, workers train and models are published, restored elsewhere.

Every model in it verifies there, and the jobs that were under way are finished.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import count

import pytest

from bimt import Client
from standalone.supervisor import Plan, Supervisor
from store import backup
from store.files import Files
from tests.end_to_end.processes import Service, tiny_spec

pytestmark = [pytest.mark.faults, pytest.mark.slow]

MODELS = 4  # published before the last backup is taken
UNFINISHED = ("queued", "running")


@contextmanager
def people_at_work(address: str, token: str) -> Iterator[list[str]]:
    """One client submits job after job, another publishes every run that has succeeded; the names of the models."""
    over, published = threading.Event(), []
    spec = tiny_spec(steps=300).model_dump(mode="json")

    def submit() -> None:
        with Client(address, token) as client:
            for number in count():
                client.jobs.submit(spec=spec, seeds=[number], name=f"job-{number}")
                if over.wait(0.5):
                    return

    def publish() -> None:
        with Client(address, token) as client:
            while not over.wait(0.1):
                for job in client.jobs.search(state="succeeded"):
                    if job.name not in published:
                        client.models.publish(job.runs()[0], job.name)
                        published.append(job.name)

    threads = [threading.Thread(target=work) for work in (submit, publish)]
    for thread in threads:
        thread.start()
    try:
        yield published
    finally:
        over.set()
        for thread in threads:
            thread.join()


def test_every_model_of_a_backup_under_load_verifies_where_it_is_restored(house: Service, tmp_path):
    house.api()
    house.scheduler()
    house.worker()
    house.worker("operations", queue="interactive")
    host, port = house.listener.getsockname()[:2]
    folder = tmp_path / "backup"
    with people_at_work(f"http://{host}:{port}", house.token) as published:
        for goal in (MODELS // 2, MODELS - 1, MODELS):
            house.until(lambda goal=goal: len(published) >= goal, "models are published")
            report = backup.save(house.settings.database_url, house.files, folder, now=datetime.now(UTC))
            assert report.missing == ()
        known = list(published)

    home = tmp_path / "elsewhere"
    home.mkdir()
    backup.restore(folder, f"sqlite:///{home / 'bimt.sqlite'}", Files(f"file://{home / 'files'}"))
    supervisor = Supervisor(Plan(home=home), environ={"PATH": "/usr/bin:/bin"}, say=lambda line: None)
    try:
        supervisor.start()
        with Client(supervisor.address, house.token) as client:
            versions = [model.version(1) for model in client.models.search()]
            assert len(versions) >= MODELS
            assert {version.model for version in versions} <= {*known, *published}
            for version in versions:
                found = version.verify()
                assert found["agrees"], found["reading"]
            interrupted = [job for state in UNFINISHED for job in client.jobs.search(state=state)]
            assert interrupted, "the load was heavier than the worker"
            assert {job.wait().state for job in interrupted} == {"succeeded"}
    finally:
        supervisor.stop()
