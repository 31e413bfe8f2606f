"""What was saved comes back whole, from either database into either, and a half backup never replaces a whole one."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import timedelta

import pytest
from sqlalchemy import select, text

from store import backup, datasets, jobs, migrate, models, runs, teams
from store.database import Database
from store.files import Files
from store.models import Reader
from store.tables import Base
from tests.servers import DATABASES, overwrite
from tests.store.makers import SMALL_SVG, claim, make_people, new_runs, result, submit


@pytest.fixture(params=DATABASES)
def goal_url(request, tmp_path):
    """An empty database of either kind to restore into."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'goal' / 'bimt.sqlite'}"
    return request.getfixturevalue("empty_postgres_url")


@pytest.fixture
def lived_in(database, people, clock, files):
    """A service in which something of every kind has happened; ends while a job runs."""
    with database.write() as session:
        file = files.put_bytes(b"a,b\n1,2\n")
        data = datasets.register(
            session, team_id=people.team, member_id=people.member, name="table", kind="uploaded", now=clock.now,
            sha256=file.sha256, bytes=file.bytes, format="csv", roles={"base64": ["b"]}, preview={"rows": 1},
        )  # fmt: skip
        token, _ = teams.mint_token(session, people.member, scopes=["read"], expires_at=None, now=clock.now)
        got = claim(session, submit(session, people, clock.now, dataset_id=data.id, tags=["t"]).id, clock.now)
        runs.publish(session, got, got.runs[0].id, result(files), clock.now)
        jobs.finish(session, got, state="succeeded", now=clock.now)
        models.publish(
            session, team_id=people.team, member_id=people.member, run_id=got.runs[0].id, name="independence",
            now=clock.now, card="# λ",
        )  # fmt: skip
        running = claim(session, submit(session, people, clock.now, runs=new_runs(2)).id, clock.now)
        runs.save_checkpoint(session, running, running.runs[0].id, 40, files.put_bytes(b"half way"), now=clock.now)
    return token, got.runs[0].id, running.job_id


def contents(url):
    with Database(url) as database, database.read() as session:
        found = {}
        for mapper in Base.registry.mappers:
            columns = [getattr(mapper.class_, one.key) for one in mapper.column_attrs]
            found[mapper.class_.__name__] = sorted(map(repr, session.execute(select(*columns))))
        return found


def test_everything_comes_back_in_either_database(database, people, clock, files, lived_in, goal_url, tmp_path):
    token, run_id, running = lived_in
    saved = backup.save(database.url, files, tmp_path / "backup", now=clock.now)
    other = Files(f"file://{tmp_path / 'elsewhere'}")
    restored = backup.restore(tmp_path / "backup", goal_url, other)
    assert (restored.rows, restored.files, restored.bytes, restored.missing) == (
        saved.rows, saved.files, saved.bytes, (),
    )  # fmt: skip
    assert contents(goal_url) == contents(database.url)
    assert migrate.current(goal_url) == migrate.newest()
    migrate.check(goal_url)
    with Database(goal_url) as goal, goal.write() as session:
        assert teams.authenticate(session, token, clock.now).team_id == people.team
        assert [other.read(file.sha256) for file in runs.figures(session, run_id)] == [SMALL_SVG]
        model = models.get(session, Reader(people.team, people.member), "independence")
        assert models.version(session, model, 1).card == "# λ"
        assert jobs.reap(session, now=clock.pass_seconds(3600)) == [running]
        again = claim(session, running, clock.now)
        assert again.runs[0].checkpoint_step == 40
        assert other.read(again.runs[0].checkpoint_sha256) == b"half way"


def test_saving_again_copies_what_is_new_and_drops_what_is_gone(database, people, clock, files, lived_in, tmp_path):
    folder = tmp_path / "backup"
    first = backup.save(database.url, files, folder, now=clock.now)
    kept = {path: path.stat().st_ino for path in (folder / "files").rglob("*") if path.is_file()}
    with database.write() as session:
        got = claim(session, submit(session, people, clock.now).id, clock.now)
        runs.append_snapshot(session, got, got.runs[0].id, 0, files.put_bytes(b"new"), now=clock.now)
        session.execute(text("UPDATE run SET checkpoint_sha256 = NULL, checkpoint_step = NULL"))
        session.execute(text("DELETE FROM file WHERE sha256 = :name"), {"name": files.put_bytes(b"half way").sha256})
    second = backup.save(database.url, files, folder, now=clock.now + timedelta(seconds=1))
    now = {path: path.stat().st_ino for path in (folder / "files").rglob("*") if path.is_file()}
    assert second.files == first.files
    assert len(kept.items() & now.items()) == first.files - 1
    assert len(list(folder.glob("rows-*"))) == 1


def test_a_lost_or_damaged_file_is_named(database, clock, files, lived_in, tmp_path):
    lost, damaged = files.put_bytes(SMALL_SVG).sha256, files.put_bytes(b"weights").sha256
    files.delete(lost)
    overwrite(files, damaged, b"weighty")
    report = backup.save(database.url, files, tmp_path / "backup", now=clock.now)
    assert set(report.missing) == {lost, damaged}
    assert not [path for path in (tmp_path / "backup").rglob("*.unfinished")]


def test_a_backup_that_is_not_whole_is_refused(database, clock, files, lived_in, tmp_path):
    goal = f"sqlite:///{tmp_path / 'goal.sqlite'}"
    other = Files(f"file://{tmp_path / 'elsewhere'}")
    with pytest.raises(backup.BackupError, match="no manifest"):
        backup.restore(tmp_path, goal, other)
    backup.save(database.url, files, tmp_path / "backup", now=clock.now)
    next((tmp_path / "backup" / "files").rglob("?" * 64)).write_bytes(b"other")
    with pytest.raises(backup.BackupError, match="is damaged"):
        backup.restore(tmp_path / "backup", goal, other)
    next((tmp_path / "backup").rglob("run.jsonl.gz")).unlink()
    with pytest.raises(backup.BackupError, match=r"run\.jsonl\.gz is missing"):
        backup.restore(tmp_path / "backup", goal, other)
    assert migrate.current(goal) is None


def test_nothing_is_ever_restored_over_a_team(database, clock, files, lived_in, tmp_path):
    backup.save(database.url, files, tmp_path / "backup", now=clock.now)
    with pytest.raises(backup.BackupError, match="holds a team already"):
        backup.restore(tmp_path / "backup", database.url, files)


def test_saving_goes_on_beside_writers(database, people, clock, files, lived_in, tmp_path):
    """The rows are one snapshot: a job submitted meanwhile is in it with all its runs, or not at all."""
    script = (
        "import sys\nfrom datetime import UTC, datetime\nfrom store.database import Database\n"
        "from tests.store.makers import People, new_runs, submit\n"
        "database = Database(sys.argv[1])\npeople = People(sys.argv[2], sys.argv[3], '', '')\n"
        "print('go', flush=True)\n"
        "for _ in range(200):\n"
        "    with database.write() as session:\n"
        "        submit(session, people, datetime.now(UTC), runs=new_runs(3))\n"
    )
    command = [sys.executable, "-c", script, database.url, people.team, people.member]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=os.getcwd()) as writer:
        writer.stdout.readline()
        backup.save(database.url, files, tmp_path / "backup", now=clock.now)
    assert writer.returncode == 0
    goal = f"sqlite:///{tmp_path / 'goal.sqlite'}"
    backup.restore(tmp_path / "backup", goal, Files(f"file://{tmp_path / 'elsewhere'}"))
    with Database(goal) as restored, restored.read() as session:
        torn = "SELECT count(*) FROM job WHERE runs <> (SELECT count(*) FROM run WHERE run.job_id = job.id)"
        assert session.scalar(text(torn)) == 0


def test_the_command_saves_and_restores(database, clock, lived_in, files, tmp_path):
    def run(verb, **changes):
        environment = {**os.environ, "BIMT_HOME": str(tmp_path), **changes}
        command = [sys.executable, "-m", "store.backup", verb, str(tmp_path / "backup")]
        return subprocess.run(command, env=environment, capture_output=True, text=True)

    first = run("save", BIMT_DATABASE_URL=database.url)
    assert first.returncode == 0, first.stderr
    assert first.stdout.startswith("saved ")
    goal = f"sqlite:///{tmp_path / 'goal.sqlite'}"
    assert run("restore", BIMT_DATABASE_URL=goal).stdout.startswith("restored ")
    again = run("restore", BIMT_DATABASE_URL=goal)
    assert (again.returncode, again.stdout) == (1, "")
    assert "holds a team already" in again.stderr


def test_an_empty_database_has_nothing_to_save(tmp_path, files, clock):
    with pytest.raises(backup.BackupError, match="nothing to save"):
        backup.save(f"sqlite:///{tmp_path / 'none.sqlite'}", files, tmp_path / "backup", now=clock.now)


def test_people_can_be_made_in_a_restored_service(goal_url, clock, tmp_path, service_url, files):
    with Database(service_url) as database, database.write() as session:
        make_people(session, clock.now)
    backup.save(service_url, files, tmp_path / "backup", now=clock.now)
    backup.restore(tmp_path / "backup", goal_url, files)
    with Database(goal_url) as goal, goal.write() as session:
        teams.create_team(session, "new", now=clock.now)
        assert teams.first_admin(session, clock.now) is None
