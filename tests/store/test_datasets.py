"""Data sets and uploads in parts: nothing twice, nothing beyond the end, nothing of another team."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import func, select
from sqlalchemy.exc import IntegrityError

from store import datasets, jobs, runs, teams
from store import files as stored_files
from store.errors import Conflict, NotFound, QuotaExceeded
from store.files import StoredFile
from store.runs import RunResult
from store.tables import File, UploadPart
from tests.store.makers import new_runs, submit


def register(session, people, clock, **wanted):
    given = {"team_id": people.team, "member_id": people.member, "name": "diabetes", "now": clock.now}
    return datasets.register(session, **(given | wanted))


def uploaded(session, people, clock, files, content=b"a,b\n1,2\n", **wanted):
    stored = files.put_bytes(content)
    return register(
        session, people, clock, kind="uploaded", sha256=stored.sha256, bytes=stored.bytes, format="csv", **wanted
    )


def test_a_data_set_is_read_back_with_its_preview(database, people, clock, files):
    with database.write() as session:
        made = uploaded(session, people, clock, files, preview={"rows": 1}, roles={"targets": ["b"]}, rows=1, columns=2)
    with database.read() as session:
        found = datasets.get(session, people.team, made.id)
        assert (found.preview, found.roles, found.rows, found.state) == ({"rows": 1}, {"targets": ["b"]}, 1, "ready")
        assert [one.id for one in datasets.page(session, people.team, q="DIAB", kind="uploaded").rows] == [made.id]
        assert datasets.page(session, people.team, state="refused").rows == []
        assert datasets.with_content(session, people.team, made.sha256).id == made.id


def test_another_team_sees_none_of_it_not_even_by_its_content(database, people, clock, files):
    with database.write() as session:
        made = uploaded(session, people, clock, files)
        for ask in (datasets.get, datasets.delete):
            with pytest.raises(NotFound):
                ask(session, people.other_team, made.id)
        assert datasets.page(session, people.other_team).rows == []
        assert datasets.with_content(session, people.other_team, made.sha256) is None


def test_a_file_or_a_maker_but_not_both(database, people, clock, files):
    for wanted in (
        {"kind": "made"},
        {"kind": "uploaded", "maker": {"kind": "two_moons"}},
        {"kind": "made", "maker": {"kind": "two_moons"}, "sha256": "e" * 64, "bytes": 1},
        {"kind": "found", "maker": {}},
    ):
        with pytest.raises(IntegrityError), database.write() as session:
            register(session, people, clock, **wanted)


def test_bytes_count_against_the_quota(database, people, clock, files):
    with database.write() as session:
        teams.get_team(session, people.team).max_stored_bytes = 10
    with database.write() as session:
        made = uploaded(session, people, clock, files, b"123456")
        with pytest.raises(QuotaExceeded, match="stores 6 of its 10 bytes"):
            uploaded(session, people, clock, files, b"12345")
        with pytest.raises(QuotaExceeded):
            begin(session, people, clock, 5)
        assert jobs.usage(session, people.team) == jobs.Usage(0, 0, 6)
        datasets.delete(session, people.team, made.id)
        uploaded(session, people, clock, files, b"1234567890")


def begin(session, people, clock, size):
    return datasets.begin_upload(
        session, team_id=people.team, member_id=people.member, name="big.csv", bytes=size, format="csv", roles=None,
        expires_at=clock.now + timedelta(days=1), now=clock.now,
    )  # fmt: skip


def test_parts_in_order_make_the_file(database, people, clock, files):
    content = b"0123456789" * 10
    with database.write() as session:
        upload = begin(session, people, clock, len(content))

    def send(start, end):
        part = files.put_bytes(content[start:end])
        with database.write() as session:
            return datasets.add_part(session, people.team, upload.id, start=start, file=part, now=clock.now)

    assert send(0, 40) == 40
    assert send(0, 40) == 40  # the answer was lost, the part was not
    for start, end in ((50, 60), (30, 60), (0, 30)):
        with pytest.raises(Conflict, match="has 40 bytes"):
            send(start, end)
    with pytest.raises(Conflict, match="40 of 100"), database.read() as session:
        datasets.upload_content(session, upload, files)
    assert send(40, 99) == 99
    with pytest.raises(Conflict, match="beyond"), database.write() as session:
        datasets.add_part(session, people.team, upload.id, start=99, file=files.put_bytes(b"xx"), now=clock.now)
    assert send(99, 100) == 100
    assert send(100, 100) == 100
    with database.write() as session:
        whole = files.put_stream(
            datasets.upload_content(session, datasets.get_upload(session, people.team, upload.id), files)
        )
        assert whole.sha256 == hashlib.sha256(content).hexdigest()
        made = uploaded(session, people, clock, files, content)
        datasets.complete_upload(session, datasets.get_upload(session, people.team, upload.id), made.id)
    clock.now = datetime.now(UTC) + timedelta(hours=2)
    with database.write() as session:
        gone = stored_files.collect_garbage(session, files, now=clock.now, grace=timedelta(hours=1))
        assert list(session.scalars(select(File.sha256))) == [whole.sha256]
    assert len(gone) == 3


def test_uploads_belong_to_their_team_and_end(database, people, clock, files):
    with database.write() as session:
        upload = begin(session, people, clock, 3)
        for ask in (datasets.get_upload, datasets.delete_upload):
            with pytest.raises(NotFound):
                ask(session, people.other_team, upload.id)
        part = files.put_bytes(b"abc")
        with pytest.raises(NotFound):
            datasets.add_part(session, people.other_team, upload.id, start=0, file=part, now=clock.now)
        datasets.add_part(session, people.team, upload.id, start=0, file=part, now=clock.now)
    with database.write() as session:
        datasets.delete_expired_uploads(session, now=clock.now)
        datasets.get_upload(session, people.team, upload.id)
        datasets.delete_expired_uploads(session, now=clock.pass_seconds(2 * 86400))
        with pytest.raises(NotFound):
            datasets.get_upload(session, people.team, upload.id)
        assert session.scalar(select(func.count()).select_from(UploadPart)) == 0


def test_everything_that_a_run_stores_counts(database, people, clock, files):
    """Frames and checkpoint while it trains; frames, documents, files and figures, also later ones, afterwards."""

    def stored() -> int:
        with database.read() as session:
            return datasets.stored_bytes(session, people.team)

    def put(size: int, letter: bytes) -> StoredFile:
        return files.put_bytes(letter * size)

    with database.write() as session:
        job = submit(session, people, clock.now, runs=new_runs(2)).id
    with database.write() as session:
        claim = jobs.claim(session, job, worker="w", now=clock.now, lease_seconds=60)
    assert claim is not None
    first, second = (run.id for run in claim.runs)
    with database.write() as session:
        for run in (first, second):
            runs.start(session, claim, run, clock.now)
            runs.save_checkpoint(session, claim, run, 10, put(1_000, b"c"), now=clock.now)  # of both, side by side
        runs.append_snapshot(session, claim, first, 5, put(200, b"s"), now=clock.now)
    assert stored() == 1_200
    document = {"figures": {"network.svg": put(30, b"f")}, "files": {"weights.safetensors": put(4_000, b"w")}}
    result = RunResult(metrics={}, summary={}, graph={"neurons": 0, "connections": 0, "body": {}}, **document)
    with database.write() as session:
        runs.publish(session, claim, first, result, clock.now)
    published = stored() - 1_000  # the checkpoint that the second still has
    assert published > 200 + 30 + 4_000, "documents and graph have bytes of their own"
    with database.write() as session:
        runs.add_file(session, first, "film.gif", put(500, b"g"), now=clock.now)
        runs.add_file(session, first, "film.gif", put(300, b"g"), now=clock.now)
    assert stored() - 1_000 == published + 300
    with database.write() as session:
        teams.get_team(session, people.team).max_stored_bytes = 2_000
    with pytest.raises(QuotaExceeded, match="of its 2,000 bytes"), database.write() as session:
        submit(session, people, clock.now)
