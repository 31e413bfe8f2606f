"""Models: who sees what, versions in order, words with a history, notes with authors, links that end."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest

from store import jobs, models, runs, teams
from store.errors import Conflict, NotFound
from store.models import Reader
from tests.store.makers import claim, new_runs, result, submit


@pytest.fixture
def run_id(database, people, clock, files):
    """A run that succeeded."""
    with database.write() as session:
        described = [{**run, "method": "bimt", "dataset_kind": "formula"} for run in new_runs(2)]
        got = claim(session, submit(session, people, clock.now, runs=described).id, clock.now)
        runs.publish(session, got, got.runs[0].id, result(files), clock.now)
        jobs.finish(session, got, state="succeeded", now=clock.now)
    return got.runs[0].id


@pytest.fixture
def me(people):
    return Reader(people.team, people.member)


@pytest.fixture
def stranger(people):
    return Reader(people.other_team, people.other_member, is_admin=True)


def publish(session, people, clock, run_id, **wanted):
    given = {"team_id": people.team, "member_id": people.member, "name": "independence", "now": clock.now}
    return models.publish(session, run_id=run_id, **(given | wanted))


def test_versions_count_from_one(database, people, clock, run_id, me):
    with database.write() as session:
        assert [publish(session, people, clock, run_id).number for _ in range(3)] == [1, 2, 3]
    with database.read() as session:
        model = models.get(session, me, "independence")
        assert models.get(session, me, model.id).id == model.id
        assert [one.number for one, _ in models.versions(session, model).rows] == [3, 2, 1]
        assert models.run_of(session, models.version(session, model, 2)).id == run_id
        with pytest.raises(NotFound):
            models.version(session, model, 4)


def test_many_publishers_at_once_get_a_number_each(database, people, clock, run_id):
    def one(_):
        with database.write() as session:
            return publish(session, people, clock, run_id).number

    with ThreadPoolExecutor(6) as pool:
        assert sorted(pool.map(one, range(12))) == list(range(1, 13))


def test_only_a_run_that_succeeded_is_published(database, people, clock, run_id):
    with database.write() as session:
        other = next(run for run in runs.page(session, people.team).rows if run.id != run_id)
        with pytest.raises(Conflict, match="is failed"):
            publish(session, people, clock, other.id)
        with pytest.raises(NotFound):
            publish(session, people, clock, run_id, team_id=people.other_team, member_id=people.other_member)


def test_a_published_run_cannot_be_deleted_and_does_not_expire(database, people, clock, run_id, me):
    with database.write() as session:
        publish(session, people, clock, run_id)
        job_id = runs.get(session, people.team, run_id).job_id
        with pytest.raises(Conflict, match="is published"):
            jobs.delete(session, people.team, job_id)
        assert jobs.delete_drafts(session, ended_before=clock.now + timedelta(days=1)) == []
    with database.write() as session:
        models.delete(session, models.own(session, me, "independence"))
        jobs.delete(session, people.team, job_id)


@pytest.mark.parametrize(
    ("visibility", "author", "colleague", "admin", "stranger"),
    [
        ("private", True, False, True, False),
        ("team", True, True, True, False),
        ("unlisted", True, True, True, True),
        ("public", True, True, True, True),
    ],
)
def test_everybody_sees_what_they_should(
    database, people, clock, run_id, visibility, author, colleague, admin, stranger
):
    with database.write() as session:
        eve = teams.create_member(session, people.team, "Eve", role="member", now=clock.now).id
        model_id = publish(session, people, clock, run_id, visibility=visibility).model_id
    readers = {
        Reader(people.team, people.member): author,
        Reader(people.team, eve): colleague,
        Reader(people.team, eve, is_admin=True): admin,
        Reader(people.other_team, people.other_member, is_admin=True): stranger,
    }
    for reader, sees in readers.items():
        with database.read() as session:
            listed = [one.id for one in models.page(session, reader, everybody=True).rows]
            at_home = reader.team_id == people.team
            assert listed == ([model_id] if sees and (at_home or visibility == "public") else [])
            assert [one.id for one in models.page(session, reader).rows] == ([model_id] if sees and at_home else [])
            if sees:
                assert models.get(session, reader, model_id).id == model_id
            else:
                with pytest.raises(NotFound):
                    models.get(session, reader, model_id)
            if not at_home:
                for ask in (models.own, lambda s, r, _: models.get(s, r, "independence")):
                    with pytest.raises(NotFound):
                        ask(session, reader, model_id)


def test_a_colleague_cannot_publish_over_a_private_name(database, people, clock, run_id):
    with database.write() as session:
        eve = teams.create_member(session, people.team, "Eve", role="member", now=clock.now).id
        publish(session, people, clock, run_id, visibility="private")
        with pytest.raises(Conflict, match="is taken"):
            publish(session, people, clock, run_id, member_id=eve)


def test_models_are_found_by_their_evidence(database, people, clock, run_id, me):
    with database.write() as session:
        publish(session, people, clock, run_id, card="two clean modules")

    def found(**wanted):
        with database.read() as session:
            return len(models.page(session, me, **wanted).rows)

    assert found(q="INDEP") == found(q="clean") == found(q=None) == 1
    assert found(min_modules=2, max_modules=2, max_connections=8, min_modularity=0.5, min_selectivity=1.0) == 1
    assert found(method="bimt", dataset_kind="formula") == 1
    assert found(min_interior_modules=2) == found(reads="x3") == found(moves="y2") == 1
    # One part has to do both: the module that reads x2 moves y2 alone, and no group reads it.
    assert found(reads="x1", moves="y1") == 1
    assert found(reads="x2", moves="y1") == found(reads="x3", moves="y2") == 0
    for wanted in (
        {"min_interior_modules": 3}, {"reads": "x"}, {"reads": "x%"}, {"moves": "x1"},
        {"q": "moons"}, {"min_modules": 3}, {"max_modules": 1}, {"max_connections": 7}, {"min_modularity": 0.6},
        {"method": "l1"}, {"dataset_kind": "digits"}, {"dataset_id": "dataset_none"},
    ):  # fmt: skip
        assert found(**wanted) == 0, wanted


def test_a_word_points_to_a_version_and_remembers_what_it_meant(database, people, clock, run_id, me):
    with database.write() as session:
        publish(session, people, clock, run_id)
        publish(session, people, clock, run_id)
        model = models.own(session, me, "independence")
        for number in (1, 2):
            models.point(session, model, "best", number, member_id=people.member, now=clock.now)
        models.point(session, model, "old", 1, member_id=people.member, now=clock.now)
        models.point(session, model, "old", None, member_id=people.member, now=clock.now)
        with pytest.raises(NotFound):
            models.point(session, model, "best", 9, member_id=people.member, now=clock.now)
    with database.read() as session:
        assert models.aliases(session, model) == {"best": 2}
        assert [one.number for one in models.alias_history(session, model, "best").rows] == [2, 1]
        assert [one.number for one in models.alias_history(session, model, "old").rows] == [None, 1]


def test_a_model_is_renamed_verified_and_gets_a_new_card(database, people, clock, run_id, me):
    with database.write() as session:
        version = publish(session, people, clock, run_id)
        publish(session, people, clock, run_id, name="other")
        model = models.own(session, me, "independence")
        with pytest.raises(Conflict, match="already a model `other`"):
            models.change(session, model, name="other", now=clock.now)
        models.change(session, model, name="moons", visibility="public", now=clock.pass_seconds(1))
        models.change_card(session, version, "# Moons")
        models.record_verification(session, version, verification={"agrees": True}, now=clock.now)
    with database.read() as session:
        model = models.get(session, me, "moons")
        assert (model.visibility, model.updated_at) == ("public", clock.now)
        found = models.version(session, model, 1)
        assert (found.card, found.verification, found.verified_at) == ("# Moons", {"agrees": True}, clock.now)


def test_annotations_keep_their_history_and_are_not_overwritten_unseen(database, people, clock, run_id):
    def note(session, text, **wanted):
        given = {"about": "module", "target": "A", "member_id": people.member, "now": clock.now}
        return models.annotate(session, version, text=text, **(given | wanted))

    with database.write() as session:
        version = publish(session, people, clock, run_id)
        first = note(session, "reads x1")
        assert note(session, "reads x1 and x3", replaces=first.number).number == 2
        for replaces in (None, 1, 3):
            with pytest.raises(Conflict, match="meanwhile"):
                note(session, "no", replaces=replaces)
        note(session, "the hub", about="neuron", target="hidden1:7")
        gone = note(session, "a mistake", target="B")
        note(session, "", target="B", replaces=gone.number)
    with database.read() as session:
        now = [("A", "reads x1 and x3"), ("hidden1:7", "the hub")]
        assert [(one.target, one.text) for one in models.current_annotations(session, version)] == now
        first = models.page_annotations(session, version, limit=1)
        assert [(one.target, one.text) for one in first.rows] == now[1:]
        rest = models.page_annotations(session, version, after=first.after, limit=1)
        assert [(one.target, one.text) for one in rest.rows] == now[:1]
        assert rest.after is None
        old = models.annotation_history(session, version, about="module", target="A", limit=1)
        assert [one.text for one in old.rows] == ["reads x1 and x3"]
        old = models.annotation_history(session, version, about="module", target="A", after=old.after)
        assert [one.text for one in old.rows] == ["reads x1"]


def test_a_link_opens_until_it_expires_or_is_revoked(database, people, clock, run_id):
    with database.write() as session:
        version = publish(session, people, clock, run_id)

        def link(expires_at):
            return models.create_share(
                session, version, team_id=people.team, member_id=people.member, view={"module": "A"},
                expires_at=expires_at, now=clock.now,
            )  # fmt: skip

        lasting, row = link(None)
        short, _ = link(clock.now + timedelta(hours=1))

    def opened(text):
        with database.read() as session:
            return models.open_share(session, text, clock.now)

    assert opened(lasting).view == opened(short).view == {"module": "A"}
    assert opened(lasting + "\n") is opened("") is opened(lasting.replace("share", "bimt")) is None
    clock.pass_seconds(3600)
    assert opened(short) is None
    with database.write() as session:
        with pytest.raises(NotFound):
            models.revoke_share(session, people.other_team, row.id, clock.now)
        models.revoke_share(session, people.team, row.id, clock.now)
    assert opened(lasting) is None
    with database.read() as session:
        assert len(models.page_shares(session, people.team, model_id=version.model_id).rows) == 2
        assert models.page_shares(session, people.other_team).rows == []
