"""Rows about data that came in: files, data sets, uploads under way."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Index, String
from sqlalchemy.orm import Mapped, mapped_column

from store.columns import Base, CompressedJson, Identifier, Sha256, Utc, one_of, small_json

DATASET_KINDS = ("uploaded", "made")
DATASET_STATES = ("checking", "ready", "refused")


class File(Base):
    """Bytes in the file store. A file is needed as long as any row refers to it by a foreign key."""

    __tablename__ = "file"
    __table_args__ = (CheckConstraint("bytes >= 0", name="bytes"), Index(None, "seen_at"))

    sha256: Mapped[str] = mapped_column(Sha256, primary_key=True)
    bytes: Mapped[int] = mapped_column(BigInteger)
    created_at: Mapped[datetime] = mapped_column(Utc)
    seen_at: Mapped[datetime] = mapped_column(Utc)  # the last time that the same bytes came in


class Dataset(Base):
    """Data to learn from: an uploaded file with the roles of its columns, or the name of a maker."""

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
    """A file that arrives in parts, so that a cut line costs one part only."""

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
    bytes: Mapped[int] = mapped_column(BigInteger)  # the length that was announced
    format: Mapped[str | None] = mapped_column(String(16))
    roles: Mapped[dict[str, Any] | None] = mapped_column(small_json())
    dataset_id: Mapped[str | None] = mapped_column(ForeignKey("dataset.id", ondelete="CASCADE"), index=True)
    created_at: Mapped[datetime] = mapped_column(Utc)
    expires_at: Mapped[datetime] = mapped_column(Utc)


class UploadPart(Base):
    """One part that has arrived whole."""

    __tablename__ = "upload_part"
    __table_args__ = (CheckConstraint("start >= 0", name="start"), CheckConstraint("bytes > 0", name="bytes"))

    upload_id: Mapped[str] = mapped_column(ForeignKey("upload.id", ondelete="CASCADE"), primary_key=True)
    start: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    bytes: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[str] = mapped_column(ForeignKey("file.sha256", ondelete="RESTRICT"), index=True)
    created_at: Mapped[datetime] = mapped_column(Utc)
