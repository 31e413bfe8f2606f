"""Files: stored once, complete, limited, verified, healed, and deleted when no row refers to them."""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from store import datasets, runs
from store import files as stored_files
from store.errors import DamagedFile, NotFound, TooLarge
from store.files import Files, StoredFile
from store.jobs import leases
from store.runs import RunResult
from store.tables import Base, File
from tests.servers import flip_a_bit, folder_of, overwrite
from tests.store.makers import new_runs, submit

EMPTY_GRAPH = {"neurons": 0, "connections": 0, "body": {}}


def everything_in(files):
    return {name for name, _, _ in files.each()}


@settings(max_examples=50, suppress_health_check=list(HealthCheck), deadline=None)
@given(content=st.binary(max_size=5000), cuts=st.lists(st.integers(1, 999), max_size=9))
def test_what_was_put_comes_back_by_the_name_of_its_content(files, content, cuts):
    pieces, start = [], 0
    for cut in cuts:
        pieces.append(content[start : start + cut])
        start += cut
    pieces.append(content[start:])
    stored = files.put_stream(pieces)
    assert stored == StoredFile(hashlib.sha256(content).hexdigest(), len(content))
    assert files.read(stored.sha256) == content
    assert files.put_bytes(content) == stored
    assert files.size(stored.sha256) == len(content)


def test_large_files_come_in_parts_and_go_out_in_ranges(files):
    content = os.urandom(1 << 16) * 200  # 13 MB: more than one part
    stored = files.put_stream(io.BytesIO(content))
    assert hashlib.sha256(b"".join(files.stream(stored.sha256))).hexdigest() == stored.sha256
    assert b"".join(files.stream(stored.sha256, start=5, end=70_000)) == content[5:70_000]
    assert b"".join(files.stream(stored.sha256, start=len(content) - 3, end=len(content) + 9)) == content[-3:]
    with files.path(stored.sha256) as path:
        assert path.read_bytes() == content


def test_a_stream_is_cut_at_the_limit_and_leaves_nothing(files):
    def endless():
        while True:
            yield b"x" * 1000

    with pytest.raises(TooLarge, match="limit of 4500 bytes"):
        files.put_stream(endless(), limit=4500)
    assert everything_in(files) == set()
    assert list(files.spool.iterdir()) == []
    assert files.put_stream([b"x" * 4500], limit=4500).bytes == 4500


def test_the_same_bytes_lie_there_once(files):
    first = files.put_bytes(b"same")
    assert files.put_stream([b"sa", b"me"]) == first
    assert everything_in(files) == {first.sha256}


def test_a_sender_that_breaks_off_leaves_nothing(files):
    def broken():
        yield b"half"
        raise ConnectionError("gone")

    with pytest.raises(ConnectionError):
        files.put_stream(broken())
    assert everything_in(files) == set()
    assert list(files.spool.iterdir()) == []


@pytest.mark.parametrize("name", ["", "../../etc/passwd", "a" * 63, "A" * 64, "a" * 64 + "\n", "/", "a" * 65])
def test_only_the_name_of_a_file_is_ever_a_path(files, name):
    for ask in (files.read, files.size, files.exists, files.delete, lambda one: files.path(one).__enter__()):
        with pytest.raises(NotFound):
            ask(name)


def test_a_missing_file_is_not_found_before_the_first_byte(files):
    absent = "0" * 64
    for ask in (files.read, files.size, files.stream, lambda one: files.path(one).__enter__()):
        with pytest.raises(NotFound):
            ask(absent)
    assert not files.exists(absent)
    assert not files.delete(absent)


def flip_a_bit_in_no_time(files, name):
    """Damage a stored file as a disk does that forgets: its modification time stays."""
    path = folder_of(files) / "cas" / name[:2] / name
    before = path.stat()
    flip_a_bit(files, name)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def opened(files, name):
    with files.path(name) as path:
        return path.read_bytes()


@pytest.mark.parametrize(
    "work",
    [Files.read, opened, Files.open, Files.verify],
    ids=["read", "path", "open", "verify"],
)
def test_one_flipped_bit_is_never_worked_with_and_the_same_upload_heals_it(files, work):
    name = files.put_bytes(b"weights of a network").sha256
    work(files, name)
    flip_a_bit(files, name)
    with pytest.raises(DamagedFile, match="its bytes no longer have the hash they were stored under"):
        work(files, name)
    files.put_bytes(b"weights of a network")
    work(files, name)
    assert files.read(name) == b"weights of a network"


def test_an_upload_heals_damage_that_this_process_has_not_noticed(files):
    name = files.put_bytes(b"weights of a network").sha256
    files.verify(name)
    flip_a_bit_in_no_time(files, name)
    with pytest.raises(DamagedFile):
        files.verify(name, again=True)
    files.put_stream([b"weights of ", b"a network"])
    assert files.read(name) == b"weights of a network"


def test_a_file_that_was_cut_short_is_damaged_and_healed(files):
    name = files.put_bytes(b"precious").sha256
    overwrite(files, name, b"prec")
    with pytest.raises(DamagedFile):
        files.verify(name)
    files.put_bytes(b"precious")
    assert files.read(name) == b"precious"


def test_a_hash_is_computed_once_as_long_as_the_file_does_not_change(files, monkeypatch):
    name = files.put_bytes(b"large").sha256
    folder_of(files)  # of a bucket a local copy is made each time
    files.verify(name)
    monkeypatch.setattr(files, "_ranges", lambda *_: pytest.fail("the file was read again"))
    assert files.verify(name) == 5
    assert opened(files, name) == b"large"


def test_an_opened_file_can_be_read_to_its_end_though_it_is_deleted_meanwhile(files):
    name = files.put_bytes(b"part of a bundle").sha256
    size, chunks = files.open(name)
    files.delete(name)
    assert (size, b"".join(chunks)) == (16, b"part of a bundle")
    with pytest.raises(NotFound):
        files.open(name)


def test_a_file_goes_when_nothing_refers_to_it_any_more(database, people, clock, files):
    with database.write() as session:
        ids = [upload(session, people, clock, files, b"shared") for _ in range(2)]
        other = upload(session, people, clock, files, b"other")
    grace = timedelta(hours=1)

    def collect():
        with database.write() as session:
            return stored_files.collect_garbage(session, files, now=clock.now, grace=grace)

    clock.pass_seconds(7200)
    age(files, clock.now - timedelta(hours=2))
    assert collect() == []
    with database.write() as session:
        datasets.delete(session, people.team, ids[0])
    assert collect() == []
    with database.write() as session:
        datasets.delete(session, people.team, ids[1])
    gone = hashlib.sha256(b"shared").hexdigest()
    assert collect() == [gone]
    assert everything_in(files) == {hashlib.sha256(b"other").hexdigest()}
    with database.read() as session:
        assert datasets.get(session, people.team, other).sha256 in everything_in(files)
        assert session.get(File, gone) is None


def test_a_checkpoint_of_several_runs_stays_as_long_as_one_of_them_may_go_on_from_it(database, people, clock, files):
    """Runs that train side by side have one for all; each goes on without it when it has ended."""

    def collect():
        clock.pass_seconds(7200)
        age(files, clock.now - timedelta(hours=2))
        with database.write() as session:
            return stored_files.collect_garbage(session, files, now=clock.now, grace=timedelta(hours=1))

    with database.write() as session:
        job = submit(session, people, clock.now, runs=new_runs(3))
        claimed = leases.claim(session, job.id, worker="w", now=clock.now, lease_seconds=10**6)
        together = files.put_bytes(b"three of them at step 50")
        for run in claimed.runs:
            runs.save_checkpoint(session, claimed, run.id, 50, together, now=clock.now)
    assert collect() == []
    for run, gone in zip(claimed.runs, ([], [], [together.sha256]), strict=True):
        with database.write() as session:
            runs.publish(session, claimed, run.id, RunResult({}, {}, EMPTY_GRAPH), clock.now)
            stored_files.free(session, files, [together.sha256] if not gone else [])
        assert files.exists(together.sha256)
        assert collect() == gone


def test_a_file_that_just_came_in_is_left_alone(database, people, clock, files):
    with database.write() as session:
        upload(session, people, clock, files, b"young")
        datasets.delete(session, people.team, upload(session, people, clock, files, b"young"))
        stored_files.upsert(session, files.put_bytes(b"fresh"), now=clock.now)
    with database.write() as session:
        assert stored_files.collect_garbage(session, files, now=clock.now, grace=timedelta(hours=1)) == []


def test_bytes_that_never_got_a_row_are_swept(database, people, clock, files):
    stray, kept = files.put_bytes(b"stray"), files.put_bytes(b"kept")
    modified = next(at for name, _, at in files.each() if name == stray.sha256)
    with database.write() as session:
        stored_files.upsert(session, kept, now=clock.now)
        now = modified + timedelta(minutes=30)
        assert stored_files.collect_orphans(session, files, now=now, grace=timedelta(hours=1)) == []
        now += timedelta(hours=1)
        assert stored_files.collect_orphans(session, files, now=now, grace=timedelta(hours=1)) == [stray.sha256]
    assert everything_in(files) == {kept.sha256}


def test_bytes_that_come_in_again_are_never_swept_under_the_sender(database, people, clock, files):
    """The sender has put the bytes and is about to write the row; the collector passes by."""
    with database.write() as session:
        stored_files.upsert(session, files.put_bytes(b"old"), now=clock.now)
    clock.pass_seconds(10**6)
    age(files, clock.now - timedelta(days=9))
    again = files.put_bytes(b"old")
    now = datetime.now(UTC) + timedelta(minutes=1)
    with database.write() as session:
        assert stored_files.collect_garbage(session, files, now=now, grace=timedelta(hours=1)) == []
        assert stored_files.collect_orphans(session, files, now=now, grace=timedelta(hours=1)) == []
    assert files.read(again.sha256) == b"old"


def test_a_sender_and_a_collector_at_the_same_moment_lose_nothing(files):
    name = files.put_bytes(b"contested").sha256
    for _ in range(100):
        age(files, datetime.now(UTC) - timedelta(hours=2))
        together = threading.Barrier(3)

        def send(together=together):
            together.wait()
            files.put_bytes(b"contested")

        def collect(together=together):
            together.wait()
            files.delete_unused(name, since=datetime.now(UTC) - timedelta(hours=1))

        crowd = [threading.Thread(target=work) for work in (send, send, collect)]
        for one in crowd:
            one.start()
        for one in crowd:
            one.join()
        assert files.read(name) == b"contested"
    assert list(files.spool.iterdir()) == []


def test_a_file_that_a_collector_moves_while_its_time_is_set_is_put_again(files, monkeypatch):
    name = files.put_bytes(b"contested").sha256

    def collected_meanwhile(path):
        path.unlink()  # what the name meant before is gone; its time was set all the same

    monkeypatch.setattr("store.files.os.utime", collected_meanwhile)
    files.put_bytes(b"contested")
    assert files.read(name) == b"contested"


def test_every_reference_to_a_file_is_counted():
    named = {f"{column.table.name}.{column.name}" for column in stored_files._references()}
    lookalikes = {
        f"{table.name}.{column.name}"
        for table in Base.metadata.tables.values()
        for column in table.columns
        if column.name.endswith("sha256") and column.type.python_type is str and table.name != "file"
    }
    assert named == lookalikes


def test_a_store_says_whether_it_can_be_used(files, tmp_path):
    assert files.answers()
    with pytest.raises(ValueError, match="cannot be kept"):
        Files("http://example.org/x")


def age(files, to):
    """Make all bytes look as if they had last come in then."""
    for path in folder_of(files).rglob("*"):
        if path.is_file():
            os.utime(path, (to.timestamp(), to.timestamp()))


def upload(session, people, clock, files, content):
    stored = files.put_bytes(content)
    return datasets.register(
        session, team_id=people.team, member_id=people.member, name="t", kind="uploaded", now=clock.now,
        sha256=stored.sha256, bytes=stored.bytes, format="csv",
    ).id  # fmt: skip


def test_damage_that_changes_no_time_is_noticed_when_the_comparison_is_old(files, monkeypatch):
    name = files.put_bytes(b"weights of a network").sha256
    files.verify(name)
    flip_a_bit_in_no_time(files, name)
    assert files.verify(name) == len(b"weights of a network"), "nothing says that the bytes are others now"
    monkeypatch.setattr(stored_files, "VERIFIED_SECONDS", 0.0)
    with pytest.raises(DamagedFile):
        files.verify(name)


def test_what_a_killed_process_left_in_the_spool_is_swept_and_what_a_living_one_writes_is_not(files):
    writing = f"""
import sys, time
from store.files import Files
def pieces():
    yield b"some"
    print("begun", flush=True)
    time.sleep(600)
Files("file://{folder_of(files)}", spool="{files.spool}").put_stream(pieces())
"""
    with subprocess.Popen([sys.executable, "-c", writing], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "begun\n"
        [left] = files.spool.iterdir()
        assert files.sweep() == []
        writer.kill()
    assert files.sweep() == [left.name]
    assert list(files.spool.iterdir()) == []
    assert everything_in(files) == set()


def test_halves_of_a_killed_process_are_collected_with_the_orphans(files, database):
    name = files.put_bytes(b"whole").sha256
    half = folder_of(files) / "cas" / name[:2] / f"{name}#1"
    half.write_bytes(b"who")
    now = datetime.now(UTC)
    with database.write() as session:
        stored_files.collect_orphans(session, files, now=now, grace=timedelta(hours=1))
        assert half.exists(), "perhaps it is being written"
        stored_files.collect_orphans(session, files, now=now + timedelta(hours=2), grace=timedelta(hours=1))
    assert not half.exists()
