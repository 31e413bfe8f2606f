"""Rows about what is shared: models, their versions, names for versions, notes, links."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import (
    CheckConstraint,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    LargeBinary,
    String,
    Text,
    UniqueConstraint,
)
from sqlalchemy.orm import Mapped, mapped_column

from store.columns import Base, CompressedJson, Identifier, Utc, one_of, small_json

VISIBILITIES = ("private", "team", "unlisted", "public")
ANNOTATED = ("run", "module", "neuron", "connection")


class Model(Base):
    """A name under which a team publishes runs."""

    __tablename__ = "model"
    __table_args__ = (
        UniqueConstraint("team_id", "name"),
        one_of("visibility", VISIBILITIES),
        Index(None, "visibility", "id"),
    )

    id: Mapped[str] = mapped_column(Identifier, primary_key=True)
    team_id: Mapped[str] = mapped_column(ForeignKey("team.id", ondelete="RESTRICT"))
    member_id: Mapped[str] = mapped_column(ForeignKey("member.id", ondelete="RESTRICT"))
    name: Mapped[str] = mapped_column(String(120))
    visibility: Mapped[str] = mapped_column(String(16))
    versions: Mapped[int]  # the number of the newest one
    created_at: Mapped[datetime] = mapped_column(Utc)
    updated_at: Mapped[datetime] = mapped_column(Utc)


class ModelVersion(Base):
    """A run under a model's name. A published run cannot be deleted."""

    __tablename__ = "model_version"
    __table_args__ = (CheckConstraint("number >= 1", name="number"),)

    model_id: Mapped[str] = mapped_column(ForeignKey("model.id", ondelete="CASCADE"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    run_id: Mapped[str] = mapped_column(ForeignKey("run.id", ondelete="RESTRICT"), index=True)
    member_id: Mapped[str] = mapped_column(ForeignKey("member.id", ondelete="RESTRICT"))
    card: Mapped[str] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(Utc)
    verified_at: Mapped[datetime | None] = mapped_column(Utc)
    verification: Mapped[dict[str, Any] | None] = mapped_column(CompressedJson)


class ModelAlias(Base):
    """A word that pointed to a version from this moment on; the newest row of a word counts, null takes it away."""

    __tablename__ = "model_alias"
    __table_args__ = (Index(None, "model_id", "alias", "id"),)

    id: Mapped[str] = mapped_column(Identifier, primary_key=True)
    model_id: Mapped[str] = mapped_column(ForeignKey("model.id", ondelete="CASCADE"))
    alias: Mapped[str] = mapped_column(String(64))
    number: Mapped[int | None]
    member_id: Mapped[str] = mapped_column(ForeignKey("member.id", ondelete="RESTRICT"))
    at: Mapped[datetime] = mapped_column(Utc)


class Annotation(Base):
    """What somebody wrote about a part of a version; the newest number counts, empty text takes it away."""

    __tablename__ = "annotation"
    __table_args__ = (
        ForeignKeyConstraint(
            ["model_id", "version"], ["model_version.model_id", "model_version.number"], ondelete="CASCADE"
        ),
        UniqueConstraint("model_id", "version", "about", "target", "number"),
        one_of("about", ANNOTATED),
    )

    id: Mapped[str] = mapped_column(Identifier, primary_key=True)
    model_id: Mapped[str] = mapped_column(Identifier)
    version: Mapped[int]
    about: Mapped[str] = mapped_column(String(16))
    target: Mapped[str] = mapped_column(String(200))
    number: Mapped[int]
    text: Mapped[str] = mapped_column(Text)
    member_id: Mapped[str] = mapped_column(ForeignKey("member.id", ondelete="RESTRICT"))
    at: Mapped[datetime] = mapped_column(Utc)


class Share(Base):
    """A read-only link to one version and the view it was made in. Only a hash of the secret is kept."""

    __tablename__ = "share"
    __table_args__ = (
        ForeignKeyConstraint(
            ["model_id", "version"], ["model_version.model_id", "model_version.number"], ondelete="CASCADE"
        ),
        Index(None, "model_id", "version"),
    )

    id: Mapped[str] = mapped_column(Identifier, primary_key=True)
    team_id: Mapped[str] = mapped_column(ForeignKey("team.id", ondelete="RESTRICT"), index=True)
    model_id: Mapped[str] = mapped_column(Identifier)
    version: Mapped[int]
    ident: Mapped[str] = mapped_column(String(12), unique=True)
    secret_sha256: Mapped[bytes] = mapped_column(LargeBinary(32))
    view: Mapped[dict[str, Any] | None] = mapped_column(small_json())
    member_id: Mapped[str] = mapped_column(ForeignKey("member.id", ondelete="RESTRICT"))
    created_at: Mapped[datetime] = mapped_column(Utc)
    expires_at: Mapped[datetime | None] = mapped_column(Utc)
    revoked_at: Mapped[datetime | None] = mapped_column(Utc)
