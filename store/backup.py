"""Backup and restore of all rows and files: `python -m store.backup save FOLDER`, `… restore FOLDER`.

Rows are written as text that is independent of the database, so a backup of SQLite can be restored into PostgreSQL.
Files are stored under their SHA-256: saving again into the same folder copies only new ones. The service may run during
a backup; all rows are read in one snapshot, and jobs that were running resume from their last checkpoint.
"""

from __future__ import annotations

import argparse
import base64
import gzip
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import (
    JSON,
    Connection,
    DateTime,
    LargeBinary,
    MetaData,
    Table,
    create_engine,
    event,
    insert,
    make_url,
    pool,
    select,
    text,
)
from sqlalchemy.types import TypeEngine

from store import migrate
from store.columns import to_json
from store.errors import NotFound, StoreError
from store.files import Files
from store.settings import Settings

BATCH = 500  # rows written at once
FORMAT = 1


class BackupError(StoreError):
    """The folder holds no complete backup, or the target is not empty."""


@dataclass(frozen=True)
class Report:
    """What was saved or restored."""

    rows: int
    files: int
    bytes: int
    missing: tuple[str, ...]  # files that rows refer to and that are lost or damaged


def save(database_url: str, files: Files, folder: Path, *, now: datetime) -> Report:
    """Write all rows and files into the folder; an earlier backup in it is replaced when this one is complete.

    Raises BackupError if the database has no tables.
    """
    revision = migrate.current(database_url)
    if revision is None:
        raise BackupError(f"The database {_shown(database_url)} has no tables; there is nothing to save.")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    rows_name = f"rows-{now.astimezone(UTC):%Y%m%dT%H%M%S%f}"
    rows_folder = folder / rows_name
    rows_folder.mkdir(mode=0o700)
    with _snapshot(database_url) as connection:
        tables = _reflected(connection)
        counts = {table.name: _write_table(connection, table, rows_folder) for table in tables.sorted_tables}
        names = list(connection.scalars(select(tables.tables["file"].c.sha256)))
    copied = _copy_files(files, folder, names)
    manifest = {
        "format": FORMAT,
        "revision": revision,
        "at": now.astimezone(UTC).isoformat(),
        "rows": rows_name,
        "counts": counts,
        "missing": copied.missing,
    }
    _write_atomically(folder / "manifest.json", json.dumps(manifest, indent=1))
    for old in folder.glob("rows-*"):
        if old.name != rows_name:
            shutil.rmtree(old)
    return Report(sum(counts.values()), copied.files, copied.bytes, copied.missing)


def restore(folder: Path, database_url: str, files: Files) -> Report:
    """Restore a backup into an empty database and a file store, and migrate it to this version.

    Raises BackupError if the folder holds no backup or the database holds a team.
    """
    manifest = _manifest(folder)
    if migrate.current(database_url) is not None:
        _refuse_unless_empty(database_url)
        migrate.downgrade(database_url)
    count, size = 0, 0
    for path in sorted((folder / "files").rglob("*")):
        if path.is_file():
            stored = files.put_path(path)
            if stored.sha256 != path.name:
                raise BackupError(f"{path} is damaged: its SHA-256 is not its name. Restore from another backup.")
            count, size = count + 1, size + stored.bytes
    migrate.upgrade(database_url, manifest["revision"])
    engine = create_engine(database_url, poolclass=pool.NullPool)
    try:
        with engine.begin() as connection:
            for table in _reflected(connection).sorted_tables:
                _read_table(connection, table, folder / manifest["rows"])
    finally:
        engine.dispose()
    migrate.upgrade(database_url)
    return Report(sum(manifest["counts"].values()), count, size, tuple(manifest["missing"]))


def main(arguments: list[str]) -> int:
    """Save or restore the database and file store that the settings name."""
    parser = argparse.ArgumentParser(prog="python -m store.backup", description=__doc__.splitlines()[0])
    parser.add_argument("verb", choices=["save", "restore"])
    parser.add_argument("folder", type=Path)
    args = parser.parse_args(arguments)
    settings = Settings.from_env()
    files = Files(settings.files_url, spool=settings.spool)
    try:
        if args.verb == "save":
            report = save(settings.database_url, files, args.folder, now=datetime.now(UTC))
        else:
            report = restore(args.folder, settings.database_url, files)
    except StoreError as error:
        print(error, file=sys.stderr)
        return 1
    done = "saved" if args.verb == "save" else "restored"
    print(f"{done} {report.rows} rows and {report.files} files ({report.bytes} bytes)")
    for name in report.missing:
        print(f"missing from the file store: {name}", file=sys.stderr)
    return 0


class _snapshot:
    """A connection that reads one snapshot of the database, however long it takes."""

    def __init__(self, url: str) -> None:
        self.sqlite = make_url(url).get_backend_name() == "sqlite"
        level = {} if self.sqlite else {"isolation_level": "REPEATABLE READ"}
        self.engine = create_engine(url, poolclass=pool.NullPool, **level)
        if self.sqlite:  # its driver begins no transaction for reads
            event.listen(self.engine, "connect", lambda connection, _: setattr(connection, "isolation_level", None))
            event.listen(self.engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN DEFERRED"))

    def __enter__(self) -> Connection:
        self.connection = self.engine.connect()
        if not self.sqlite:
            self.connection.execute(text("SET TRANSACTION READ ONLY"))
        return self.connection

    def __exit__(self, *_: object) -> None:
        self.connection.close()
        self.engine.dispose()


def _reflected(connection: Connection) -> MetaData:
    """The tables as the database has them, which may be of another version than the declared ones."""
    tables = MetaData()
    tables.reflect(connection)
    tables.remove(tables.tables["alembic_version"])
    for table in tables.tables.values():
        for column in table.columns:
            if isinstance(column.type, JSON):
                column.type.none_as_null = True
    return tables


def _write_table(connection: Connection, table: Table, folder: Path) -> int:
    count = 0
    with gzip.open(folder / f"{table.name}.jsonl.gz", "wt", encoding="utf-8", compresslevel=1) as out:
        for row in connection.execute(select(table), execution_options={"yield_per": BATCH}).mappings():
            out.write(to_json({name: _to_text(value) for name, value in row.items()}) + "\n")
            count += 1
    return count


def _read_table(connection: Connection, table: Table, folder: Path) -> None:
    types = {column.name: column.type for column in table.columns}
    naive = connection.dialect.name == "sqlite"
    for batch in _batches(folder / f"{table.name}.jsonl.gz"):
        rows = [{name: _from_text(value, types[name], naive) for name, value in row.items()} for row in batch]
        connection.execute(insert(table), rows)


def _batches(path: Path) -> Iterator[list[dict[str, Any]]]:
    batch = []
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            batch.append(json.loads(line))
            if len(batch) == BATCH:
                yield batch
                batch = []
    if batch:
        yield batch


def _to_text(value: Any) -> Any:
    if isinstance(value, datetime):
        value = value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
        return value.isoformat()
    if isinstance(value, bytes | memoryview):
        return base64.b64encode(bytes(value)).decode()
    return value


def _from_text(value: Any, kind: TypeEngine[Any], naive: bool) -> Any:
    if value is None:
        return None
    if isinstance(kind, DateTime):
        time = datetime.fromisoformat(value)
        return time.replace(tzinfo=None) if naive else time
    return base64.b64decode(value) if isinstance(kind, LargeBinary) else value


def _copy_files(files: Files, folder: Path, names: list[str]) -> Report:
    count, size, missing, needed = 0, 0, [], set(names)
    for name in names:
        target = folder / "files" / name[:2] / name
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            if not _copy_file(files, name, target):
                missing.append(name)
                continue
        count, size = count + 1, size + target.stat().st_size
    for path in (folder / "files").rglob("*"):
        if path.is_file() and path.name not in needed:
            path.unlink()  # freed since the last backup
    return Report(0, count, size, tuple(missing))


def _copy_file(files: Files, name: str, target: Path) -> bool:
    """Copy one file; False if it is lost or damaged in the store."""
    unfinished, digest = target.with_suffix(".unfinished"), hashlib.sha256()
    try:
        with unfinished.open("wb") as out:
            for chunk in files.stream(name):
                digest.update(chunk)
                out.write(chunk)
        if digest.hexdigest() != name:
            return False
        unfinished.replace(target)
    except NotFound:
        return False
    finally:
        unfinished.unlink(missing_ok=True)
    return True


def _manifest(folder: Path) -> dict[str, Any]:
    path = folder / "manifest.json"
    if not path.is_file():
        raise BackupError(f"There is no complete backup in {folder}: it has no manifest.json.")
    manifest: dict[str, Any] = json.loads(path.read_text())
    if manifest.get("format") != FORMAT:
        raise BackupError(f"The backup in {folder} has format {manifest.get('format')}; this version reads {FORMAT}.")
    for table in manifest["counts"]:
        if not (path := folder / manifest["rows"] / f"{table}.jsonl.gz").is_file():
            raise BackupError(f"{path} is missing, so this backup is not complete. Restore from another one.")
    return manifest


def _refuse_unless_empty(database_url: str) -> None:
    engine = create_engine(database_url, poolclass=pool.NullPool)
    try:
        with engine.connect() as connection:
            if connection.execute(text("SELECT count(*) FROM team")).scalar():
                raise BackupError(
                    f"The database {_shown(database_url)} holds a team already; restore into an empty one."
                )
    finally:
        engine.dispose()


def _write_atomically(path: Path, content: str) -> None:
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_text(content)
    os.replace(unfinished, path)


def _shown(url: str) -> str:
    return make_url(url).render_as_string(hide_password=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
