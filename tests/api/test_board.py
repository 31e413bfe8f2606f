"""One question for all who listen."""

from __future__ import annotations

import pytest

from api.board import Board
from tests.api.makers import House, submit_job


class CountingDatabase:
    """The house's database, counting how often it is read."""

    def __init__(self, house: House) -> None:
        self._database = house.database
        self.reads = 0

    def read(self):
        self.reads += 1
        return self._database.read()


@pytest.fixture
def job_ids(house: House) -> list[str]:
    return [submit_job(house) for _ in range(3)]


def test_many_listeners_cost_one_question(house: House, job_ids: list[str]) -> None:
    database = CountingDatabase(house)
    board = Board(database, look_every=3600.0)
    with board.watching(job_ids[0]), board.watching(job_ids[1]), board.watching(job_ids[2]):
        for _ in range(50):
            assert all(board.revision(job_id) == 1 for job_id in job_ids)
    assert database.reads == 1


def test_a_change_is_seen_at_the_next_look(house: House, job_ids: list[str]) -> None:
    board = Board(house.database, look_every=0.0)
    with board.watching(job_ids[0]):
        before = board.revision(job_ids[0])
        house.client().post(f"/api/v1/jobs/{job_ids[0]}/cancel", headers=house.headers())
        assert board.revision(job_ids[0]) > before


def test_what_nobody_watches_any_more_is_not_asked_about(house: House, job_ids: list[str]) -> None:
    board = Board(house.database, look_every=0.0)
    with board.watching(job_ids[0]):
        with board.watching(job_ids[1]):
            assert board.revision(job_ids[1]) == 1
        assert board.revision(job_ids[0]) == 1
        assert board.revision(job_ids[1]) is None
