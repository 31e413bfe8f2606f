"""One team submits as much, and as urgently, as it can: another team's job must not wait for all of it."""

from __future__ import annotations

from typing import Any

import pytest

from store import jobs
from store.jobs import leases
from store.tables import Team
from tests.store.makers import submit


def claimed(database: Any, clock: Any) -> Any:
    with database.write() as session:
        return jobs.claim_next(session, "cpu", worker="w", now=clock.now, lease_seconds=60)


def ended(database: Any, clock: Any, claim: Any) -> None:
    with database.write() as session:
        leases.finish(session, claim, state="failed", reason="for the test", now=clock.pass_seconds(10))


def test_a_single_job_waits_for_one_other_at_most_whatever_the_others_priority(
    database: Any, people: Any, clock: Any
) -> None:
    with database.write() as session:
        for _ in range(150):
            submit(session, people, clock.now, priority=9)
    running = claimed(database, clock)  # the one worker is busy when the other team comes
    with database.write() as session:
        theirs = submit(
            session, people, clock.now, team_id=people.other_team, member_id=people.other_member, priority=0
        ).id
    ended(database, clock, running)
    assert claimed(database, clock).job_id == theirs


def test_two_teams_take_turns_on_one_worker(database: Any, people: Any, clock: Any) -> None:
    other = {"team_id": people.other_team, "member_id": people.other_member}
    with database.write() as session:
        for _ in range(6):
            submit(session, people, clock.now, priority=9)
            submit(session, people, clock.now, priority=1, **other)
    order = []
    for _ in range(8):
        claim = claimed(database, clock)
        order.append(claim.team_id)
        ended(database, clock, claim)
    assert order[::2] == [order[0]] * 4
    assert order[1::2] == [order[1]] * 4
    assert order[0] != order[1]


@pytest.mark.parametrize("weight", [1.0, 2.0, 3.0])
def test_many_workers_are_shared_by_weight(database: Any, people: Any, clock: Any, weight: float) -> None:
    other = {"team_id": people.other_team, "member_id": people.other_member}
    with database.write() as session:
        session.get_one(Team, people.team).weight = weight
        for _ in range(12):
            submit(session, people, clock.now)
            submit(session, people, clock.now, **other)
    taken = [claimed(database, clock).team_id for _ in range(12)]
    assert taken.count(people.team) == round(12 * weight / (weight + 1))
