"""Content-addressed files: the same bytes are stored once, in a folder or in an S3 bucket, under their SHA-256.

A file becomes visible only when it is complete. Nothing that a user sends becomes part of a path. A process that opens
a file for work gets bytes whose hash was compared with its name: once in ten minutes per process, as long as the file
does not change (size and modification time in a folder, size and ETag in a bucket).
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import io
import itertools
import os
import re
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO, Any
from urllib.parse import parse_qs, unquote, urlsplit

import obstore
from obstore.store import LocalStore, S3Store
from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Index, delete, exists, func, select, update
from sqlalchemy.orm import Mapped, Session, mapped_column

from store.columns import Base, Sha256, Utc
from store.database import insert_into
from store.errors import DamagedFile, NotFound, TooLarge

CHUNK = 1 << 20  # bytes read or written at once
PART = 8 << 20  # bytes of one part of an upload to a bucket
SPOOLED = "file_"  # how the names of incomplete files in the spool begin
# A bucket that is unavailable or full is tried again for this long, then the caller waits or reports it: with obstore's
# own three minutes a request would be answered long after its sender has gone.
RETRIES: Any = {
    "max_retries": 4,
    "backoff": {"init_backoff": timedelta(milliseconds=100), "max_backoff": timedelta(seconds=2), "base": 2},
    "retry_timeout": timedelta(seconds=10),
}
FRESH = timedelta(hours=1)  # in a bucket, a file older than this is uploaded again when it is put again
VERIFIED_SECONDS = 600.0  # then the bytes of a file that is opened are compared with its name again
MAX_VERIFIED = 100_000  # entries of the table of verified files; it is emptied when it is full

_SHA256 = re.compile(r"^[0-9a-f]{64}\Z")


class File(Base):
    """The row of a stored file, which is needed as long as any row refers to it by a foreign key.

    checked_at   when the scheduler last compared its bytes with its name.
    damaged_at   since when they are known to differ, or to be gone.
    """

    __tablename__ = "file"
    __table_args__ = (CheckConstraint("bytes >= 0", name="bytes"), Index(None, "seen_at"))

    sha256: Mapped[str] = mapped_column(Sha256, primary_key=True)
    bytes: Mapped[int] = mapped_column(BigInteger)
    created_at: Mapped[datetime] = mapped_column(Utc)
    seen_at: Mapped[datetime] = mapped_column(Utc)  # the last time that the same bytes were put
    checked_at: Mapped[datetime | None] = mapped_column(Utc, index=True)
    damaged_at: Mapped[datetime | None] = mapped_column(Utc)


@dataclass(frozen=True)
class StoredFile:
    """Name and size of a file that is completely stored."""

    sha256: str
    bytes: int


class Files:
    """The file store at an address: file:///FOLDER or s3://BUCKET/PREFIX?endpoint=URL&region=NAME.

    spool   folder for incomplete files; by default beside the files, or the machine's temporary folder.
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
        self.sweep()
        # SHA-256 -> the state in which the hash was last compared, and when (seconds of a monotonic clock)
        self._verified: dict[str, tuple[tuple[Any, ...], float]] = {}

    def put_stream(self, stream: IO[bytes] | Iterable[bytes], *, limit: int | None = None) -> StoredFile:
        """Store a stream, in constant memory. Raises TooLarge as soon as it is longer than `limit` bytes."""
        with self._spooled() as spooled:
            digest, size = hashlib.sha256(), 0
            for chunk in _chunks(stream):
                size += len(chunk)
                if limit is not None and size > limit:
                    raise TooLarge(limit)
                digest.update(chunk)
                _write(spooled, chunk)
            stored = StoredFile(digest.hexdigest(), size)
            self._keep(stored, Path(spooled.name))
        return stored

    def put_bytes(self, content: bytes) -> StoredFile:
        """Store these bytes."""
        stored = StoredFile(hashlib.sha256(content).hexdigest(), len(content))
        self._keep(stored, content)
        return stored

    def put_path(self, path: Path) -> StoredFile:
        """Store a copy of a local file."""
        with path.open("rb") as stream:
            return self.put_stream(stream)

    def read(self, sha256: str) -> bytes:
        """The whole content, whose hash is compared each time. Raises NotFound, DamagedFile."""
        state = self._state(sha256)
        content = b"".join(self.stream(sha256))
        self._compare(sha256, hashlib.sha256(content).hexdigest(), state)
        return content

    def verify(self, sha256: str, *, again: bool = False) -> int:
        """Size in bytes of a file whose hash is right. Raises NotFound, DamagedFile.

        The hash is computed once per process and state of the file, again after VERIFIED_SECONDS since a disk that
        forgets changes no time, or now with `again`.
        """
        state = self._state(sha256)
        if again or not self._is_verified(sha256, state):
            digest = hashlib.sha256()
            for chunk in self._ranges(sha256, 0, state[0]):
                digest.update(chunk)
            self._compare(sha256, digest.hexdigest(), state)
        return int(state[0])

    def open(self, sha256: str) -> tuple[int, Iterator[bytes]]:
        """(size in bytes, chunks) of a verified file. Raises NotFound, DamagedFile at once, not at the first chunk.

        For answers made of several files: open all of them, then send the status. In a folder the file stays readable
        even if it is deleted meanwhile.
        """
        size = self.verify(sha256)
        if self._folder is None:
            pieces = self._ranges(sha256, 0, size)
            return size, itertools.chain([next(pieces, b"")], pieces)  # the first is here before the status is sent
        try:
            chunks = _closing((self._folder / _key(sha256)).open("rb"))
        except FileNotFoundError:
            raise NotFound("file", sha256) from None
        next(chunks)  # enter its `with`, so that the file is closed even if it is never read
        return size, chunks

    def stream(self, sha256: str, *, start: int = 0, end: int | None = None) -> Iterator[bytes]:
        """The bytes from `start` up to, not including, `end`, in chunks, not verified. Raises NotFound at once."""
        size = self.size(sha256)
        end = size if end is None else min(end, size)
        return self._ranges(sha256, start, end)

    @contextmanager
    def path(self, sha256: str) -> Iterator[Path]:
        """A local path to read the verified content from; never write to it. Raises NotFound, DamagedFile.

        A file in a bucket is downloaded first and deleted at the end.
        """
        if self._folder is not None:
            self.verify(sha256)
            yield self._folder / _key(sha256)
            return
        state = self._state(sha256)
        with self._spooled() as local:
            digest = hashlib.sha256()
            for chunk in self._ranges(sha256, 0, state[0]):
                digest.update(chunk)
                _write(local, chunk)
            self._compare(sha256, digest.hexdigest(), state)
            yield Path(local.name)

    def size(self, sha256: str) -> int:
        """Size in bytes. Raises NotFound."""
        found = self._head(sha256)
        if found is None:
            raise NotFound("file", sha256)
        return int(found["size"])

    def exists(self, sha256: str) -> bool:
        """Whether there is such a file; its content is not looked at."""
        return self._head(sha256) is not None

    def delete(self, sha256: str) -> bool:
        """Delete a file; False if there was none. The caller makes sure that no row refers to it."""
        if not self.exists(sha256):
            return False
        obstore.delete(self._store, _key(sha256))
        return True

    def delete_unused(self, sha256: str, *, since: datetime) -> bool:
        """Delete a file that was last put before `since`; False if it was put later or if there is none.

        In a folder this is atomic. In a bucket a put within a few milliseconds of the deletion can be lost.
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
        if aside.stat().st_mtime >= since.timestamp():  # it was put again after the check above
            aside.replace(path)
            return False
        aside.unlink()
        return True

    def each(self) -> Iterator[tuple[str, int, datetime]]:
        """(sha256, bytes, last modified) of every file."""
        for batch in obstore.list(self._store, prefix="cas"):
            for entry in batch:
                yield entry["path"].rsplit("/", 1)[-1], int(entry["size"]), entry["last_modified"]

    def problem(self) -> str | None:
        """Why the store cannot be written to and read from now, in one line; None where it can."""
        try:
            obstore.put(self._store, "check/alive", b"alive")
            if bytes(obstore.get(self._store, "check/alive").bytes()) != b"alive":
                return "it gives back other bytes than were written"
        except (obstore.exceptions.BaseError, OSError) as error:
            return str(error).partition("\n")[0]
        return None

    def answers(self) -> bool:
        """Whether the store can be written to and read from now."""
        return self.problem() is None

    @contextmanager
    def _spooled(self) -> Iterator[Any]:
        """An empty file of the spool, deleted at the end. A lock on it is held meanwhile: see `sweep`."""
        while True:
            spooled = tempfile.NamedTemporaryFile(dir=self.spool, prefix=SPOOLED, buffering=0)  # noqa: SIM115
            fcntl.flock(spooled, fcntl.LOCK_EX)
            if os.fstat(spooled.fileno()).st_nlink:  # else it was swept between its making and the lock
                break
            with contextlib.suppress(FileNotFoundError):
                spooled.close()
        with spooled:
            yield spooled

    def sweep(self) -> list[str]:
        """Delete incomplete files of the spool whose processes were killed; their names."""
        swept = []
        for path in self.spool.glob(f"{SPOOLED}*"):
            with contextlib.suppress(OSError), path.open() as held:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()
                swept.append(path.name)
        return swept

    def delete_halves(self, *, before: datetime) -> list[str]:
        """Delete what the store wrote, and could not rename before its process was killed; their names.

        Such a file is called `SHA256#1`, and no listing of the store has it.
        """
        deleted = []
        for path in self._folder.glob("cas/*/*#*") if self._folder is not None else ():
            with contextlib.suppress(FileNotFoundError):
                if path.stat().st_mtime < before.timestamp():
                    path.unlink()
                    deleted.append(path.name)
        return deleted

    def _keep(self, stored: StoredFile, content: Path | bytes) -> None:
        """Make the bytes visible under their name. A copy that is there already is kept only if it is undamaged."""
        if not self._is_kept(stored):
            obstore.put(self._store, _key(stored.sha256), content, chunk_size=PART, use_multipart=stored.bytes > PART)

    def _is_kept(self, stored: StoredFile) -> bool:
        """Whether an undamaged copy is there; its modification time is renewed, so that it is not collected."""
        found = self._head(stored.sha256)
        if found is None or found["size"] != stored.bytes:
            return False
        if self._folder is None:  # uploading again costs no more than downloading to compare
            is_fresh = datetime.now(UTC) - found["last_modified"] < FRESH
            return is_fresh and self._is_verified(stored.sha256, self._state(stored.sha256))
        try:
            self.verify(stored.sha256, again=True)
            os.utime(self._folder / _key(stored.sha256))
            # A collector may have moved it after its name was found and before its time was set; then it is put again.
            (self._folder / _key(stored.sha256)).stat()
        except (FileNotFoundError, NotFound, DamagedFile):
            return False
        return True

    def _state(self, sha256: str) -> tuple[Any, ...]:
        """(size, …) of a file; differs after every change that its file system or bucket knows of. Raises NotFound."""
        if self._folder is not None:
            try:
                found = (self._folder / _key(sha256)).stat()
            except FileNotFoundError:
                raise NotFound("file", sha256) from None
            return found.st_size, found.st_mtime_ns, found.st_ino
        head = self._head(sha256)
        if head is None:
            raise NotFound("file", sha256)
        return int(head["size"]), head["e_tag"], head["last_modified"]

    def _compare(self, sha256: str, computed: str, state: tuple[Any, ...]) -> None:
        """Remember that the hash was right in this state. Raises DamagedFile."""
        if computed != sha256:
            self._verified.pop(sha256, None)
            raise DamagedFile(sha256)
        if len(self._verified) >= MAX_VERIFIED:
            self._verified.clear()
        self._verified[sha256] = state, time.monotonic()

    def _is_verified(self, sha256: str, state: tuple[Any, ...]) -> bool:
        """Whether the hash was right, not long ago, in this state."""
        before, at = self._verified.get(sha256, (None, 0.0))
        return before == state and time.monotonic() - at < VERIFIED_SECONDS

    def _head(self, sha256: str) -> Any:
        try:
            return obstore.head(self._store, _key(sha256))
        except FileNotFoundError:
            return None

    def _ranges(self, sha256: str, start: int, end: int) -> Iterator[bytes]:
        while start < end:
            stop = min(start + 4 * CHUNK, end)
            try:
                yield bytes(obstore.get_range(self._store, _key(sha256), start=start, end=stop))
            except FileNotFoundError:
                raise NotFound("file", sha256) from None
            start = stop


def upsert(session: Session, stored: StoredFile, *, now: datetime) -> None:
    """The row of a file, so that other rows can refer to it; if there is one already, its time is renewed."""
    row = insert_into(session, File).values(sha256=stored.sha256, bytes=stored.bytes, created_at=now, seen_at=now)
    anew = {"seen_at": now, "damaged_at": None}  # putting the bytes again has replaced a damaged copy
    session.execute(row.on_conflict_do_update(index_elements=[File.sha256], set_=anew))


def longest_unchecked(session: Session, *, most_bytes: int, limit: int = 1000) -> list[str]:
    """The files that were not compared with their names for longest, of so many bytes together, but at least one."""
    query = select(File.sha256, File.bytes).order_by(File.checked_at.is_not(None), File.checked_at, File.sha256)
    names: list[str] = []
    together = 0
    for name, size in session.execute(query.limit(limit)):
        if names and together + size > most_bytes:
            break
        names.append(name)
        together += size
    return names


def record_checks(session: Session, names: Iterable[str], damaged: Iterable[str], *, now: datetime) -> None:
    """Remember that these files were compared with their names, and which of them are damaged or gone."""
    wrong = set(damaged)
    for name in names:
        since = func.coalesce(File.damaged_at, now) if name in wrong else None
        values = {"checked_at": now, "damaged_at": since}
        session.execute(
            update(File).where(File.sha256 == name).values(values).execution_options(synchronize_session=False)
        )


def damaged_files(session: Session, *, limit: int = 100) -> list[tuple[str, datetime]]:
    """(SHA-256, since when) of files that are known to be damaged or gone, the oldest damage first."""
    query = (
        select(File.sha256, File.damaged_at).where(File.damaged_at.is_not(None)).order_by(File.damaged_at, File.sha256)
    )
    return [(name, since) for name, since in session.execute(query.limit(limit)) if since is not None]


def collect_garbage(session: Session, files: Files, *, now: datetime, grace: timedelta, limit: int = 1000) -> list[str]:
    """Delete files that no row refers to and that were last put before `now - grace`; returns their names.

    Bytes are put before their row is written, so the modification time of the file counts, too. The grace must be
    longer than an upload takes between the two: hours.
    """
    needed = [exists().where(column == File.sha256) for column in _references()]
    candidates = select(File.sha256).where(File.seen_at < now - grace, *(~one for one in needed)).limit(limit)
    unused = list(session.scalars(candidates.with_for_update(skip_locked=True)))
    names = [name for name in unused if files.delete_unused(name, since=now - grace) or not files.exists(name)]
    if names:
        session.execute(delete(File).where(File.sha256.in_(names)))
    return names


def free(session: Session, files: Files, names: Iterable[str]) -> None:
    """Delete at once those of these files that no row refers to, so that a deletion frees the bytes at once.

    A concurrent put of the same bytes has to check afterwards that they are there: see Files.exists.
    """
    needed = [exists().where(column == File.sha256) for column in _references()]
    for name in dict.fromkeys(names):
        unused = delete(File).where(File.sha256 == name, *(~one for one in needed))
        session.execute(unused.execution_options(synchronize_session=False))
        if session.scalar(select(File.sha256).where(File.sha256 == name)) is None:
            files.delete(name)


def collect_orphans(session: Session, files: Files, *, now: datetime, grace: timedelta) -> list[str]:
    """Delete files without a row, left by a process that ended before it wrote one; returns their names.

    Lists the whole store. Files that are not even whole are deleted too.
    """
    files.delete_halves(before=now - grace)
    old = [name for name, _, modified in files.each() if modified < now - grace]
    orphans = []
    for start in range(0, len(old), 500):
        some = old[start : start + 500]
        known = set(session.scalars(select(File.sha256).where(File.sha256.in_(some))))
        orphans += [name for name in some if name not in known and files.delete_unused(name, since=now - grace)]
    return orphans


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
    """Path of a file inside the store. Raises NotFound for anything that is not a SHA-256."""
    if not _SHA256.match(sha256):
        raise NotFound("file", sha256[:80])
    return f"cas/{sha256[:2]}/{sha256}"


def _chunks(stream: IO[bytes] | Iterable[bytes]) -> Iterator[bytes]:
    if isinstance(stream, bytes | bytearray):
        stream = io.BytesIO(stream)
    read = getattr(stream, "read", None)
    if read is None:
        yield from stream
        return
    while chunk := read(CHUNK):
        yield chunk


def _write(file: IO[bytes], chunk: bytes) -> None:
    """Write all of it: an unbuffered file may take less at once, on a disk that is nearly full for instance."""
    rest = memoryview(chunk)
    while rest:
        rest = rest[file.write(rest) :]


def _closing(stream: IO[bytes]) -> Iterator[bytes]:
    with stream:
        yield b""
        yield from _chunks(stream)


def _bucket(name: str, prefix: str, options: dict[str, list[str]]) -> S3Store:
    """A bucket; the credentials are read from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, never from the URL."""
    endpoint = options.get("endpoint", [None])[0]
    region = options.get("region", [os.environ.get("AWS_REGION", "us-east-1")])[0]
    plain = bool(endpoint and endpoint.startswith("http://"))
    given: dict[str, Any] = {"region": region, "client_options": {"allow_http": plain}, "retry_config": RETRIES}
    if endpoint:
        given["endpoint"] = endpoint
    return S3Store(name, prefix=prefix or None, **given)
