"""Bytes by the name of their content: the same bytes are stored once, in a folder or in a bucket.

A file becomes visible only when it is whole. What a user sends never becomes part of a path: names are SHA-256.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO, Any
from urllib.parse import parse_qs, unquote, urlsplit

import obstore
from obstore.store import LocalStore, S3Store
from sqlalchemy import ForeignKey, delete, exists, select
from sqlalchemy.orm import Session

from store.database import insert_into
from store.errors import DamagedFile, NotFound, TooLarge
from store.tables import Base, File

CHUNK = 1 << 20  # bytes moved at once
PART = 8 << 20  # bytes of one part of an upload to a bucket
FRESH = timedelta(hours=1)  # in a bucket, a file older than this is sent anew when it comes in again

_SHA256 = re.compile(r"^[0-9a-f]{64}\Z")


@dataclass(frozen=True)
class StoredFile:
    """A file that lies whole in the store."""

    sha256: str
    bytes: int


class Files:
    """The file store at an address: file:///FOLDER or s3://BUCKET/PREFIX?endpoint=URL&region=NAME.

    spool   folder for what is on its way; by default beside the files, or the machine's temporary folder.
    """

    def __init__(self, url: str, *, spool: str | os.PathLike[str] | None = None) -> None:
        parts = urlsplit(url)
        self._folder: Path | None = None
        self._store: LocalStore | S3Store
        if parts.scheme == "file":
            self._folder = Path(unquote(parts.path))
            self._folder.mkdir(parents=True, exist_ok=True)
            self._store = LocalStore(self._folder)
        elif parts.scheme == "s3":
            self._store = _bucket(parts.netloc, parts.path.strip("/"), parse_qs(parts.query))
        else:
            raise ValueError(f"Files cannot be kept at `{url}`; use file:///FOLDER or s3://BUCKET/PREFIX.")
        default = self._folder.parent / "spool" if self._folder else Path(tempfile.gettempdir())
        self.spool = Path(spool) if spool is not None else default
        self.spool.mkdir(parents=True, exist_ok=True)

    def put_stream(self, stream: IO[bytes] | Iterable[bytes], *, limit: int | None = None) -> StoredFile:
        """Keep a stream in constant memory, and say its name and size. Raises TooLarge as soon as it is too long."""
        with tempfile.NamedTemporaryFile(dir=self.spool) as spooled:
            digest, size = hashlib.sha256(), 0
            for chunk in _chunks(stream):
                size += len(chunk)
                if limit is not None and size > limit:
                    raise TooLarge(limit)
                digest.update(chunk)
                spooled.write(chunk)
            spooled.flush()
            stored = StoredFile(digest.hexdigest(), size)
            self._keep(stored, Path(spooled.name))
        return stored

    def put_bytes(self, content: bytes) -> StoredFile:
        """Keep some bytes that are at hand."""
        stored = StoredFile(hashlib.sha256(content).hexdigest(), len(content))
        self._keep(stored, content)
        return stored

    def put_path(self, path: Path, *, limit: int | None = None) -> StoredFile:
        """Keep a copy of a file on this machine."""
        with path.open("rb") as stream:
            return self.put_stream(stream, limit=limit)

    def read(self, sha256: str) -> bytes:
        """The whole content, checked. Raises NotFound, DamagedFile."""
        content = b"".join(self.stream(sha256))
        if hashlib.sha256(content).hexdigest() != sha256:
            raise DamagedFile(
                f"File `{sha256}` is damaged: its bytes do not have that SHA-256; restore it from a backup."
            )
        return content

    def stream(self, sha256: str, *, start: int = 0, end: int | None = None) -> Iterator[bytes]:
        """The content from `start` up to, not including, `end`, in chunks. Raises NotFound before the first chunk."""
        size = self.size(sha256)
        end = size if end is None else min(end, size)
        return self._ranges(sha256, start, end)

    @contextmanager
    def path(self, sha256: str) -> Iterator[Path]:
        """A path on this machine to read the content from; in a bucket it is fetched and checked first. Never write."""
        if self._folder is not None:
            path = self._folder / _key(sha256)
            if not path.is_file():
                raise NotFound("file", sha256)
            yield path
            return
        with tempfile.NamedTemporaryFile(dir=self.spool) as local:
            digest = hashlib.sha256()
            for chunk in self.stream(sha256):
                digest.update(chunk)
                local.write(chunk)
            local.flush()
            if digest.hexdigest() != sha256:
                raise DamagedFile(f"File `{sha256}` came damaged from the bucket; try again or restore it.")
            yield Path(local.name)

    def size(self, sha256: str) -> int:
        """Bytes of the content. Raises NotFound."""
        found = self._head(sha256)
        if found is None:
            raise NotFound("file", sha256)
        return int(found["size"])

    def exists(self, sha256: str) -> bool:
        """Whether the store has it."""
        return self._head(sha256) is not None

    def delete(self, sha256: str) -> bool:
        """Free the bytes; False where there were none. Whether anybody needs them is the caller's question."""
        if not self.exists(sha256):
            return False
        obstore.delete(self._store, _key(sha256))
        return True

    def delete_unused(self, sha256: str, *, since: datetime) -> bool:
        """Free bytes that have not come in since then; False where they have, or where there are none.

        In a folder nothing can slip between the look and the deed. In a bucket a few milliseconds remain.
        """
        found = self._head(sha256)
        if found is None or found["last_modified"] >= since:
            return False
        if self._folder is None:
            obstore.delete(self._store, _key(sha256))
            return True
        path = self._folder / _key(sha256)
        aside = self.spool / f"{sha256}.{os.getpid()}.unused"
        try:
            path.rename(aside)
        except FileNotFoundError:
            return False
        if aside.stat().st_mtime >= since.timestamp():  # it came in again while we looked
            aside.replace(path)
            return False
        aside.unlink()
        return True

    def each(self) -> Iterator[tuple[str, int, datetime]]:
        """(sha256, bytes, last modified) of every file."""
        for batch in obstore.list(self._store, prefix="cas"):
            for entry in batch:
                yield entry["path"].rsplit("/", 1)[-1], int(entry["size"]), entry["last_modified"]

    def answers(self) -> bool:
        """Whether the store can be written to and read from just now."""
        try:
            obstore.put(self._store, "check/alive", b"alive")
            return bytes(obstore.get(self._store, "check/alive").bytes()) == b"alive"
        except (obstore.exceptions.BaseError, OSError):
            return False

    def _keep(self, stored: StoredFile, content: Path | bytes) -> None:
        """Make the bytes visible under their name; where they are already, note that they came in again."""
        found = self._head(stored.sha256)
        if found is not None and found["size"] == stored.bytes:
            if self._folder is None and datetime.now(UTC) - found["last_modified"] < FRESH:
                return
            if self._folder is not None and _touch(self._folder / _key(stored.sha256)):
                return
        obstore.put(self._store, _key(stored.sha256), content, chunk_size=PART, use_multipart=stored.bytes > PART)

    def _head(self, sha256: str) -> Any:
        try:
            return obstore.head(self._store, _key(sha256))
        except FileNotFoundError:
            return None

    def _ranges(self, sha256: str, start: int, end: int) -> Iterator[bytes]:
        while start < end:
            stop = min(start + 4 * CHUNK, end)
            chunk = bytes(obstore.get_range(self._store, _key(sha256), start=start, end=stop))
            start = stop
            yield chunk


def remember(session: Session, stored: StoredFile, *, now: datetime) -> None:
    """The row of a file, so that other rows can refer to it; for bytes that came again, the time is renewed."""
    row = insert_into(session, File).values(sha256=stored.sha256, bytes=stored.bytes, created_at=now, seen_at=now)
    session.execute(row.on_conflict_do_update(index_elements=[File.sha256], set_={"seen_at": now}))


def collect_garbage(session: Session, files: Files, *, now: datetime, grace: timedelta, limit: int = 1000) -> list[str]:
    """Delete files that no row refers to and that have not come in since `now - grace`; their names.

    Bytes come in before their row does, so the bytes are asked, too, when they last came. A grace of hours is what
    an upload needs between the two.
    """
    needed = [exists().where(column == File.sha256) for column in _references()]
    candidates = select(File.sha256).where(File.seen_at < now - grace, *(~one for one in needed)).limit(limit)
    unused = list(session.scalars(candidates.with_for_update(skip_locked=True)))
    names = [name for name in unused if files.delete_unused(name, since=now - grace) or not files.exists(name)]
    if names:
        session.execute(delete(File).where(File.sha256.in_(names)))
    return names


def free(session: Session, files: Files, names: Iterable[str]) -> None:
    """Delete those of these files that no row refers to, at once: whoever deletes a thing has its bytes back.

    Whoever puts the same bytes at this very moment looks afterwards whether they are there: see Files.exists.
    """
    needed = [exists().where(column == File.sha256) for column in _references()]
    for name in dict.fromkeys(names):
        unused = delete(File).where(File.sha256 == name, *(~one for one in needed))
        session.execute(unused.execution_options(synchronize_session=False))
        if session.scalar(select(File.sha256).where(File.sha256 == name)) is None:
            files.delete(name)


def collect_strays(session: Session, files: Files, *, now: datetime, grace: timedelta) -> list[str]:
    """Delete bytes that never got a row, because a process died between the two; their names. Lists the whole store."""
    old = [name for name, _, modified in files.each() if modified < now - grace]
    strays = []
    for start in range(0, len(old), 500):
        some = old[start : start + 500]
        known = set(session.scalars(select(File.sha256).where(File.sha256.in_(some))))
        strays += [name for name in some if name not in known and files.delete_unused(name, since=now - grace)]
    return strays


def _references() -> list[Any]:
    """Every column of every table that refers to a file."""
    columns = []
    for table in Base.metadata.tables.values():
        for key in table.foreign_keys:
            assert isinstance(key, ForeignKey)
            if key.column is File.__table__.c.sha256:
                columns.append(key.parent)
    return columns


def _key(sha256: str) -> str:
    """The place of a file inside the store. Raises NotFound for anything that is not the name of a file."""
    if not _SHA256.match(sha256):
        raise NotFound("file", sha256[:80])
    return f"cas/{sha256[:2]}/{sha256}"


def _touch(path: Path) -> bool:
    """Note that a file came in again; False where it has gone meanwhile."""
    try:
        os.utime(path)
    except FileNotFoundError:
        return False
    return True


def _chunks(stream: IO[bytes] | Iterable[bytes]) -> Iterator[bytes]:
    if isinstance(stream, bytes | bytearray):
        stream = io.BytesIO(stream)
    read = getattr(stream, "read", None)
    if read is None:
        yield from stream
        return
    while chunk := read(CHUNK):
        yield chunk


def _bucket(name: str, prefix: str, options: dict[str, list[str]]) -> S3Store:
    """A bucket; keys come from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, never from the address."""
    endpoint = options.get("endpoint", [None])[0]
    region = options.get("region", [os.environ.get("AWS_REGION", "us-east-1")])[0]
    plain = bool(endpoint and endpoint.startswith("http://"))
    given: dict[str, Any] = {"region": region, "client_options": {"allow_http": plain}}
    if endpoint:
        given["endpoint"] = endpoint
    return S3Store(name, prefix=prefix or None, **given)
