"""One query for all listeners."""

from __future__ import annotations

import pytest

from api.sse import RevisionPoller
from tests.api.makers import House, submit_job


class CountingDatabase:
    """The house's database, counting how often it is read."""

    def __init__(self, house: House) -> None:
        self._database = house.database
        self.reads = 0

    def read(self):
        """Count, and read."""
        self.reads += 1
        return self._database.read()


@pytest.fixture
def job_ids(house: House) -> list[str]:
    return [submit_job(house) for _ in range(3)]


def test_many_listeners_cost_one_query(house: House, job_ids: list[str]) -> None:
    database = CountingDatabase(house)
    poller = RevisionPoller(database, poll_seconds=3600.0)
    with poller.watching(job_ids[0]), poller.watching(job_ids[1]), poller.watching(job_ids[2]):
        for _ in range(50):
            assert all(poller.revision(job_id) == 1 for job_id in job_ids)
    assert database.reads == 1


def test_a_change_is_seen_at_the_next_look(house: House, job_ids: list[str]) -> None:
    poller = RevisionPoller(house.database, poll_seconds=0.0)
    with poller.watching(job_ids[0]):
        before = poller.revision(job_ids[0])
        house.client().post(f"/api/v1/jobs/{job_ids[0]}/cancel", headers=house.headers())
        assert poller.revision(job_ids[0]) > before


def test_a_job_without_listeners_is_no_longer_queried(house: House, job_ids: list[str]) -> None:
    poller = RevisionPoller(house.database, poll_seconds=0.0)
    with poller.watching(job_ids[0]):
        with poller.watching(job_ids[1]):
            assert poller.revision(job_ids[1]) == 1
        assert poller.revision(job_ids[0]) == 1
        assert poller.revision(job_ids[1]) is None
