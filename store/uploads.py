"""Files that arrive in parts, one after another: after a cut the sender asks how far it was and goes on from there."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any

from sqlalchemy import delete as delete_rows
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from store import datasets, files
from store.errors import Conflict, NotFound
from store.files import Files, StoredFile
from store.identifiers import new_id
from store.tables import Upload, UploadPart

MOST_PARTS = 10_000  # of one upload; a part is a row and a file


def begin(
    session: Session,
    *,
    team_id: str,
    member_id: str,
    name: str,
    bytes: int,
    format: str | None,
    roles: dict[str, Any] | None,
    expires_at: datetime,
    now: datetime,
) -> Upload:
    """Announce a file of so many bytes. Raises QuotaExceeded."""
    datasets.check_quota(session, team_id, bytes)
    upload = Upload(
        id=new_id("upload"),
        team_id=team_id,
        member_id=member_id,
        name=name,
        bytes=bytes,
        format=format,
        roles=roles,
        created_at=now,
        expires_at=expires_at,
    )
    session.add(upload)
    session.flush()
    return upload


def get(session: Session, team_id: str, upload_id: str, *, lock: bool = False) -> Upload:
    """An upload of the team; with `lock` nobody else adds to it until the transaction ends. Raises NotFound."""
    query = select(Upload).where(Upload.id == upload_id, Upload.team_id == team_id)
    upload = session.scalar(query.with_for_update() if lock else query)
    if upload is None:
        raise NotFound("upload", upload_id)
    return upload


def received(session: Session, upload: Upload) -> int:
    """Bytes that have arrived; the next part starts there."""
    query = select(func.coalesce(func.sum(UploadPart.bytes), 0)).where(UploadPart.upload_id == upload.id)
    return int(session.scalar(query) or 0)


def add_part(session: Session, team_id: str, upload_id: str, *, start: int, file: StoredFile, now: datetime) -> int:
    """A part has arrived; bytes that have arrived now. The same part twice is the same.

    Raises NotFound, and Conflict for a gap, an overlap, or bytes beyond the announced end.
    """
    upload = get(session, team_id, upload_id, lock=True)
    so_far = received(session, upload)
    if start < so_far:
        there = session.get(UploadPart, (upload_id, start))
        if there is not None and there.sha256 == file.sha256:
            return so_far
    if start != so_far:
        raise Conflict(f"Upload `{upload_id}` has {so_far} bytes, so the next part starts there and not at {start}.")
    count = session.scalar(select(func.count()).where(UploadPart.upload_id == upload_id)) or 0
    if count >= MOST_PARTS:
        raise Conflict(f"Upload `{upload_id}` has {count} parts already; begin anew with larger ones.")
    if so_far + file.bytes > upload.bytes:
        raise Conflict(f"Upload `{upload_id}` was announced with {upload.bytes} bytes; this part goes beyond that.")
    if file.bytes:
        files.remember(session, file, now=now)
        part = UploadPart(upload_id=upload_id, start=start, bytes=file.bytes, sha256=file.sha256, created_at=now)
        session.add(part)
        session.flush()
    return so_far + file.bytes


def drop_part(session: Session, upload_id: str, start: int) -> None:
    """Forget a part whose bytes were lost; it is sent again."""
    session.execute(delete_rows(UploadPart).where(UploadPart.upload_id == upload_id, UploadPart.start == start))


def parts(session: Session, upload: Upload) -> list[StoredFile]:
    """What has arrived, in order."""
    query = select(UploadPart.sha256, UploadPart.bytes).where(UploadPart.upload_id == upload.id)
    return [StoredFile(sha256, size) for sha256, size in session.execute(query.order_by(UploadPart.start))]


def content(session: Session, upload: Upload, store: Files) -> Iterator[bytes]:
    """The whole file from its parts. Raises Conflict where it is not whole, before the first byte."""
    so_far = received(session, upload)
    if so_far != upload.bytes:
        raise Conflict(f"Upload `{upload.id}` has {so_far} of {upload.bytes} bytes; send the rest first.")
    query = select(UploadPart.sha256).where(UploadPart.upload_id == upload.id).order_by(UploadPart.start)
    names = list(session.scalars(query))
    return (chunk for name in names for chunk in store.stream(name))


def complete(session: Session, upload: Upload, dataset_id: str) -> None:
    """The file has become a data set; its parts are no longer needed."""
    session.execute(delete_rows(UploadPart).where(UploadPart.upload_id == upload.id))
    upload.dataset_id = dataset_id
    session.flush()


def delete(session: Session, team_id: str, upload_id: str) -> None:
    """Give an upload up. Raises NotFound."""
    session.delete(get(session, team_id, upload_id))
    session.flush()


def forget_expired(session: Session, *, now: datetime) -> None:
    """Drop uploads that were not completed in time; their bytes go with the next collection."""
    session.execute(delete_rows(Upload).where(Upload.expires_at < now))
