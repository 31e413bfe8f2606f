"""Data sets of a team (uploaded files and generated data) and uploads that arrive in parts."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from functools import cache
from typing import Any

from sqlalchemy import (
    BigInteger,
    BindParameter,
    CheckConstraint,
    ColumnElement,
    ForeignKey,
    Index,
    Select,
    String,
    bindparam,
    func,
    select,
    union_all,
    update,
)
from sqlalchemy import delete as delete_rows
from sqlalchemy.orm import Mapped, Session, mapped_column, undefer

from store import files, teams
from store.columns import Base, CompressedJson, Identifier, Utc, new_id, one_of, small_json
from store.database import Page, matches, newest_first
from store.errors import Conflict, NotFound, QuotaExceeded
from store.files import File, Files, StoredFile
from store.jobs.tables import Job
from store.runs.tables import Run, Snapshot

DATASET_KINDS = ("uploaded", "made")
DATASET_STATES = ("checking", "ready", "refused")
MAX_PARTS = 10_000  # of one upload; a part is a row and a file


class Dataset(Base):
    """Data to train on: an uploaded file with the roles of its columns, or the parameters of a generator (`maker`)."""

    __tablename__ = "dataset"
    __table_args__ = (
        one_of("kind", DATASET_KINDS),
        one_of("state", DATASET_STATES),
        CheckConstraint("(kind = 'uploaded') = (sha256 IS NOT NULL)", name="uploaded_has_a_file"),
        CheckConstraint("(kind = 'made') = (maker IS NOT NULL)", name="made_has_a_maker"),
        Index(None, "team_id", "id"),
        Index(None, "state", "checked_at"),
    )

    id: Mapped[str] = mapped_column(Identifier, primary_key=True)
    team_id: Mapped[str] = mapped_column(ForeignKey("team.id", ondelete="RESTRICT"))
    member_id: Mapped[str] = mapped_column(ForeignKey("member.id", ondelete="RESTRICT"))
    name: Mapped[str] = mapped_column(String(200))
    kind: Mapped[str] = mapped_column(String(16))
    state: Mapped[str] = mapped_column(String(16))
    maker: Mapped[dict[str, Any] | None] = mapped_column(CompressedJson)
    sha256: Mapped[str | None] = mapped_column(ForeignKey("file.sha256", ondelete="RESTRICT"), index=True)
    bytes: Mapped[int] = mapped_column(BigInteger)
    format: Mapped[str | None] = mapped_column(String(16))
    rows: Mapped[int | None] = mapped_column(BigInteger)
    columns: Mapped[int | None]
    task: Mapped[str | None] = mapped_column(String(16))
    roles: Mapped[dict[str, Any] | None] = mapped_column(small_json())
    preview: Mapped[dict[str, Any] | None] = mapped_column(CompressedJson, deferred=True)
    errors: Mapped[list[dict[str, Any]] | None] = mapped_column(CompressedJson, deferred=True)
    created_at: Mapped[datetime] = mapped_column(Utc)
    checked_at: Mapped[datetime | None] = mapped_column(Utc)


class Upload(Base):
    """A file that arrives in parts, so that a broken connection costs one part only.

    roles        what the columns of data are for
    config       which network weights are of
    dataset_id   what it became when it was completed; or network_id
    """

    __tablename__ = "upload"
    __table_args__ = (
        CheckConstraint("bytes >= 0", name="bytes"),
        Index(None, "team_id", "id"),
        Index(None, "expires_at"),
    )

    id: Mapped[str] = mapped_column(Identifier, primary_key=True)
    team_id: Mapped[str] = mapped_column(ForeignKey("team.id", ondelete="RESTRICT"))
    member_id: Mapped[str] = mapped_column(ForeignKey("member.id", ondelete="RESTRICT"))
    name: Mapped[str] = mapped_column(String(200))
    bytes: Mapped[int] = mapped_column(BigInteger)  # declared length of the whole file
    format: Mapped[str | None] = mapped_column(String(16))
    roles: Mapped[dict[str, Any] | None] = mapped_column(small_json())
    dataset_id: Mapped[str | None] = mapped_column(ForeignKey("dataset.id", ondelete="CASCADE"), index=True)
    created_at: Mapped[datetime] = mapped_column(Utc)
    expires_at: Mapped[datetime] = mapped_column(Utc)
    config: Mapped[dict[str, Any] | None] = mapped_column(small_json())
    network_id: Mapped[str | None] = mapped_column(ForeignKey("network.id", ondelete="CASCADE"), index=True)


class UploadPart(Base):
    """One part that has arrived completely."""

    __tablename__ = "upload_part"
    __table_args__ = (CheckConstraint("start >= 0", name="start"), CheckConstraint("bytes > 0", name="bytes"))

    upload_id: Mapped[str] = mapped_column(ForeignKey("upload.id", ondelete="CASCADE"), primary_key=True)
    start: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    bytes: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[str] = mapped_column(ForeignKey("file.sha256", ondelete="RESTRICT"), index=True)
    created_at: Mapped[datetime] = mapped_column(Utc)


def register(
    session: Session,
    *,
    team_id: str,
    member_id: str,
    name: str,
    kind: str,
    now: datetime,
    maker: dict[str, Any] | None = None,
    sha256: str | None = None,
    bytes: int = 0,
    format: str | None = None,
    preview: dict[str, Any] | None = None,
    roles: dict[str, Any] | None = None,
    task: str | None = None,
    rows: int | None = None,
    columns: int | None = None,
    state: str = "ready",
    reserved: int = 0,
) -> Dataset:
    """A new data set of the team: `uploaded` with a stored file, or `made` with a maker.

    state      `checking` while the file is still to be checked: see `set_check_result`.
    reserved   bytes that the team's quota counts for it already, because they were declared by an upload.
    Raises QuotaExceeded.
    """
    if sha256 is not None:
        check_quota(session, team_id, bytes - reserved)
        files.upsert(session, StoredFile(sha256, bytes), now=now)
    dataset = Dataset(
        id=new_id("dataset"),
        team_id=team_id,
        member_id=member_id,
        name=name,
        kind=kind,
        state=state,
        maker=maker,
        sha256=sha256,
        bytes=bytes,
        format=format,
        rows=rows,
        columns=columns,
        task=task,
        roles=roles,
        preview=preview,
        errors=None,
        created_at=now,
        checked_at=None if state == "checking" else now,
    )
    session.add(dataset)
    session.flush()
    return dataset


def set_check_result(
    session: Session,
    dataset_id: str,
    *,
    now: datetime,
    preview: dict[str, Any] | None = None,
    roles: dict[str, Any] | None = None,
    task: str | None = None,
    rows: int | None = None,
    columns: int | None = None,
    errors: list[dict[str, Any]] | None = None,
) -> bool:
    """End the check: `ready`, or `refused` if there are errors. False if the data set no longer waits for a check."""
    result = {
        "state": "refused" if errors else "ready",
        "preview": preview,
        "task": task,
        "rows": rows,
        "columns": columns,
        "errors": errors,
        "checked_at": now,
    }
    if roles is not None:
        result["roles"] = roles
    changed = (
        update(Dataset)
        .where(Dataset.id == dataset_id, Dataset.state == "checking")
        .values(result)
        .returning(Dataset.id)
        .execution_options(synchronize_session=False)
    )
    return session.scalar(changed) is not None


def change(session: Session, dataset: Dataset, **values: Any) -> Dataset:
    """Update these columns of a data set. Raises Conflict if it was changed after it was read."""
    as_read = (Dataset.id == dataset.id, Dataset.state == dataset.state, Dataset.checked_at == dataset.checked_at)
    changed = update(Dataset).where(*as_read).values(values).returning(Dataset.id)
    if session.scalar(changed.execution_options(synchronize_session=False)) is None:
        raise Conflict(f"Data set `{dataset.id}` was changed or deleted meanwhile; look at it and try again.")
    session.expire_all()
    return get(session, dataset.team_id, dataset.id)


def get(session: Session, team_id: str, dataset_id: str) -> Dataset:
    """A data set of the team, with its preview. Raises NotFound."""
    query = select(Dataset).where(Dataset.id == dataset_id, Dataset.team_id == team_id)
    dataset = session.scalar(query.options(undefer(Dataset.preview), undefer(Dataset.errors)))
    if dataset is None:
        raise NotFound("dataset", dataset_id)
    return dataset


def page(
    session: Session,
    team_id: str,
    *,
    state: str | None = None,
    kind: str | None = None,
    q: str | None = None,
    explained: bool = False,
    after: str | None = None,
    limit: int = 50,
) -> Page[Dataset]:
    """The team's data sets, newest first, without previews; `explained`: with why one was refused."""
    query = select(Dataset).where(Dataset.team_id == team_id)
    if explained:
        query = query.options(undefer(Dataset.errors))
    if state is not None:
        query = query.where(Dataset.state == state)
    if kind is not None:
        query = query.where(Dataset.kind == kind)
    if q:
        query = query.where(matches(Dataset.name, q))
    return newest_first(session, query, Dataset.id, after=after, limit=limit)


def with_content(session: Session, team_id: str, sha256: str) -> Dataset | None:
    """The team's newest data set with these bytes, or None."""
    query = select(Dataset).where(Dataset.team_id == team_id, Dataset.sha256 == sha256)
    return session.scalar(query.order_by(Dataset.id.desc()).limit(1))


def sha256_of(session: Session, team_id: str, dataset_id: str) -> str | None:
    """The SHA-256 of the bytes of the team's data set; None where it has none of this id, or one that is made."""
    return session.scalar(select(Dataset.sha256).where(Dataset.team_id == team_id, Dataset.id == dataset_id))


def delete(session: Session, team_id: str, dataset_id: str) -> str | None:
    """Delete a data set; returns the SHA-256 of its file, to be freed afterwards unless others need it: see files.free.

    Raises NotFound, and Conflict while queued or running trainings use it.
    """
    dataset = get(session, team_id, dataset_id)
    raise_if_needed(session, Job.dataset_id == dataset_id, f"data set `{dataset_id}`")
    session.delete(dataset)
    session.flush()
    return dataset.sha256


def raise_if_needed(session: Session, by: ColumnElement[bool], called: str) -> None:
    """Raises Conflict while one of these jobs is a queued or running training; it needs what is `called` so."""
    busy = select(Job.id).where(by, Job.kind == "training", Job.state.in_(("queued", "running")))
    if (job_id := session.scalar(busy.limit(1))) is not None:
        raise Conflict(f"Job `{job_id}` still needs {called}; cancel it or wait until it has ended.")


def check_quota(session: Session, team_id: str, more: int) -> None:
    """Raises QuotaExceeded if so many more bytes do not fit into the team's quota."""
    limit = teams.get_team(session, team_id).max_stored_bytes
    if limit is not None and (used := stored_bytes(session, team_id)) + more > limit:
        raise QuotaExceeded(
            "stored_bytes",
            f"The team stores {used:,} of its {limit:,} bytes, and {more:,} more do not fit: delete data sets, "
            "networks or jobs, or ask an operator for more.",
        )


def stored_bytes(session: Session, team_id: str) -> int:
    """Bytes of all that the team stores: data, networks, declared uploads, results and checkpoints of runs.

    For runs that succeeded, files, figures, frames and documents count; for others, frames and checkpoints. Content
    that two rows share counts twice, a checkpoint of runs side by side once.
    """
    return int(session.scalar(_stored_bytes(), {"team_id": team_id}) or 0)


@cache
def _stored_bytes() -> Select[Any]:
    """The query of `stored_bytes`, which every submission asks: one, and built once."""
    team_id: BindParameter[str] = bindparam("team_id")
    network = Base.metadata.tables["network"].c  # store/networks.py, which imports this file
    is_open = (Upload.dataset_id.is_(None), Upload.network_id.is_(None))
    checkpoints = select(Run.checkpoint_sha256).where(Run.team_id == team_id, Run.checkpoint_sha256.is_not(None))
    parts = union_all(
        select(func.sum(Dataset.bytes).label("bytes")).where(Dataset.team_id == team_id),
        select(func.sum(Run.bytes)).where(Run.team_id == team_id),
        select(func.sum(network.bytes)).where(network.team_id == team_id),
        select(func.sum(Upload.bytes)).where(Upload.team_id == team_id, *is_open),
        select(func.sum(File.bytes))
        .join(Snapshot, Snapshot.sha256 == File.sha256)
        .join(Run, Run.id == Snapshot.run_id)
        .where(Run.team_id == team_id, Run.state != "succeeded"),
        select(func.sum(File.bytes)).where(File.sha256.in_(checkpoints)),
    ).subquery()
    return select(func.sum(parts.c.bytes))


# --- uploads in parts ---


def begin_upload(
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
    config: dict[str, Any] | None = None,
) -> Upload:
    """Declare a file of so many bytes, which count against the quota from now on. Raises QuotaExceeded."""
    check_quota(session, team_id, bytes)
    upload = Upload(
        id=new_id("upload"),
        team_id=team_id,
        member_id=member_id,
        name=name,
        bytes=bytes,
        format=format,
        roles=roles,
        config=config,
        created_at=now,
        expires_at=expires_at,
    )
    session.add(upload)
    session.flush()
    return upload


def get_upload(session: Session, team_id: str, upload_id: str, *, lock: bool = False) -> Upload:
    """An upload of the team; with `lock` unclaimed else adds to it until the transaction ends. Raises NotFound."""
    query = select(Upload).where(Upload.id == upload_id, Upload.team_id == team_id)
    upload = session.scalar(query.with_for_update() if lock else query)
    if upload is None:
        raise NotFound("upload", upload_id)
    return upload


def received_bytes(session: Session, upload: Upload) -> int:
    """Bytes that have arrived; the next part starts there."""
    query = select(func.coalesce(func.sum(UploadPart.bytes), 0)).where(UploadPart.upload_id == upload.id)
    return int(session.scalar(query) or 0)


def add_part(session: Session, team_id: str, upload_id: str, *, start: int, file: StoredFile, now: datetime) -> int:
    """Add a part; returns the bytes received so far. Adding the same part twice has no effect.

    Raises NotFound, and Conflict for a gap, an overlap, or bytes beyond the declared end.
    """
    upload = get_upload(session, team_id, upload_id, lock=True)
    so_far = received_bytes(session, upload)
    if start < so_far:
        there = session.get(UploadPart, (upload_id, start))
        if there is not None and there.sha256 == file.sha256:
            return so_far
    if start != so_far:
        raise Conflict(f"Upload `{upload_id}` has {so_far} bytes, so the next part starts there and not at {start}.")
    count = session.scalar(select(func.count()).where(UploadPart.upload_id == upload_id)) or 0
    if count >= MAX_PARTS:
        raise Conflict(f"Upload `{upload_id}` has {count} parts already; start again with larger ones.")
    if so_far + file.bytes > upload.bytes:
        raise Conflict(f"Upload `{upload_id}` was declared with {upload.bytes} bytes; this part goes beyond that.")
    if file.bytes:
        files.upsert(session, file, now=now)
        part = UploadPart(upload_id=upload_id, start=start, bytes=file.bytes, sha256=file.sha256, created_at=now)
        session.add(part)
        session.flush()
    return so_far + file.bytes


def drop_part(session: Session, upload_id: str, start: int) -> None:
    """Delete a part whose bytes were lost; the client sends it again."""
    session.execute(delete_rows(UploadPart).where(UploadPart.upload_id == upload_id, UploadPart.start == start))


def upload_parts(session: Session, upload: Upload) -> list[StoredFile]:
    """The parts that have arrived, in order."""
    query = select(UploadPart.sha256, UploadPart.bytes).where(UploadPart.upload_id == upload.id)
    return [StoredFile(sha256, size) for sha256, size in session.execute(query.order_by(UploadPart.start))]


def upload_content(session: Session, upload: Upload, store: Files) -> Iterator[bytes]:
    """The bytes of all parts, one after another, each compared with its hash first.

    Raises Conflict, before the first byte, if parts are missing; NotFound and DamagedFile on the way.
    """
    so_far = received_bytes(session, upload)
    if so_far != upload.bytes:
        raise Conflict(f"Upload `{upload.id}` has {so_far} of {upload.bytes} bytes; send the rest first.")
    query = select(UploadPart.sha256).where(UploadPart.upload_id == upload.id).order_by(UploadPart.start)
    names = list(session.scalars(query))
    return (chunk for name in names for chunk in store.open(name)[1])


def complete_upload(
    session: Session, upload: Upload, dataset_id: str | None = None, *, network_id: str | None = None
) -> None:
    """Link the upload to the data set or network that was made of it, and delete its parts."""
    session.execute(delete_rows(UploadPart).where(UploadPart.upload_id == upload.id))
    upload.dataset_id, upload.network_id = dataset_id, network_id
    session.flush()


def delete_upload(session: Session, team_id: str, upload_id: str) -> None:
    """Delete an upload. Raises NotFound."""
    session.delete(get_upload(session, team_id, upload_id))
    session.flush()


def delete_expired_uploads(session: Session, *, now: datetime) -> None:
    """Delete uploads that were not completed in time; garbage collection frees their bytes."""
    session.execute(delete_rows(Upload).where(Upload.expires_at < now))
