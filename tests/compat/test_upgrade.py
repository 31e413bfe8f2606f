"""A home and a backup of the version before, made with it, work in this one: every row, token, link and model.

before.tar.xz holds `home/` (database, files and session key of a stopped service), `backup/` (what `python -m
store.backup save` wrote) and `facts.json`: tokens, a share link, and what each published run predicted. Its four runs
are of three recipes, one on an uploaded table; all are published, annotated and verified.
"""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from bimt import Client
from standalone.supervisor import Plan, Supervisor
from store import migrate

REPOSITORY = Path(__file__).resolve().parents[2]
RENAMED_TABLES: dict[str, str] = {}  # old name: new name
DROPPED_TABLES = {"alembic_version", "clustering"}  # what clusterings held stands in documents of the run
DROPPED_COLUMNS = {"member": {"password_hash"}}  # never read by any version
REWRITTEN_COLUMNS = {"job": {"kind", "queue"}, "attempt": {"queue"}}  # their words are the field's now


@pytest.fixture(scope="module")
def before(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("before")
    with tarfile.open(Path(__file__).with_name("before.tar.xz")) as archive:
        archive.extractall(folder, filter="data")
    return folder


def rows_of(path: Path) -> dict[str, list[dict[str, object]]]:
    """Every row of every table."""
    with sqlite3.connect(path) as database:
        database.row_factory = sqlite3.Row
        names = [row[0] for row in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return {name: [dict(row) for row in database.execute(f'SELECT * FROM "{name}"')] for name in names}


def assert_every_row_is_there(old: Path, new: Path) -> None:
    found = rows_of(new)
    for name, rows in rows_of(old).items():
        if name in DROPPED_TABLES or not rows:  # workers that ran when the backup was saved are in it alone
            continue
        left_out = DROPPED_COLUMNS.get(name, set()) | REWRITTEN_COLUMNS.get(name, set())
        kept = [column for column in (rows[0] if rows else {}) if column not in left_out]
        wanted = sorted(repr([plain(row[column]) for column in kept]) for row in rows)
        there = sorted(repr([plain(row[column]) for column in kept]) for row in found[RENAMED_TABLES.get(name, name)])
        assert there == wanted, name


def plain(value: object) -> object:
    """A JSON document as what it says, whatever blanks a database puts between its entries."""
    return json.loads(value) if isinstance(value, str) and value[:1] in ("{", "[") else value


def test_every_row_survives_the_upgrade(before, tmp_path):
    database = tmp_path / "bimt.sqlite"
    database.write_bytes((before / "home" / "bimt.sqlite").read_bytes())
    migrate.upgrade(f"sqlite:///{database}")
    assert_every_row_is_there(before / "home" / "bimt.sqlite", database)


def test_a_backup_restores_with_every_row_and_file(before, tmp_path):
    home = tmp_path / "home"
    environ = {"PATH": "/usr/bin:/bin", "BIMT_HOME": str(home)}
    command = [sys.executable, "-m", "store.backup", "restore", str(before / "backup")]
    done = subprocess.run(command, cwd=REPOSITORY, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert_every_row_is_there(before / "home" / "bimt.sqlite", home / "bimt.sqlite")
    stored = {path.name for path in (before / "home" / "files").rglob("*") if path.is_file()}
    assert stored <= {path.name for path in (home / "files").rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def service(before):
    """This version on the old home."""
    supervisor = Supervisor(Plan(home=before / "home"), environ={"PATH": "/usr/bin:/bin"}, say=lambda line: None)
    try:
        assert supervisor.start() is None, "the home has an admin already"
        yield supervisor
    finally:
        supervisor.stop()


@pytest.fixture(scope="module")
def facts(before) -> dict:
    return json.loads((before / "facts.json").read_text())


@pytest.mark.processes
def test_old_tokens_links_and_numbers_are_good(service, facts):
    with Client(service.address, facts["reader_token"]) as reader:
        assert reader.me()["team"]
        inputs = {"independent": [0.1, 0.2, 0.3, 0.4], "moons": [0.1, 0.2], "plane": [0.1, 0.2, 0.3]}
        for run in facts["runs"]:
            now = reader.runs.get(run["id"]).predict([inputs[run["name"]]])
            part = "outputs" if now["outputs"] else "probabilities"
            assert now[part][0] == pytest.approx(run["predict"][part][0], abs=1e-12)
    with Client(service.address, facts["admin"]) as admin:
        shared = admin.http.get(f"/s/{facts['share']['token']}")
        assert shared["model"] == "independent"


@pytest.mark.processes
def test_every_published_model_verifies(service, facts):
    with Client(service.address, facts["admin"]) as admin:
        versions = [model.version(number + 1) for model in admin.models.search() for number in range(model.versions)]
        assert len(versions) == 4
        for version in versions:
            assert version.annotations()[0]["text"] == "a note of the version before"
            found = version.verify()
            assert found["agrees"], found["reading"]
