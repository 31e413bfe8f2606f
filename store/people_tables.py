"""Rows about people: teams, members, their tokens, what they did, and whom to tell."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Index, LargeBinary, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from store.columns import Base, CompressedJson, Identifier, Utc, one_of, small_json

ROLES = ("admin", "member", "reader")
SCOPES = ("read", "submit", "share", "admin")
TOKEN_KINDS = ("api", "session")
DELIVERY_STATES = ("waiting", "delivered", "given_up")


class Team(Base):
    """The owner of everything. A quota that is null is no quota."""

    __tablename__ = "team"
    __table_args__ = (
        CheckConstraint("max_queued_jobs >= 0", name="max_queued_jobs"),
        CheckConstraint("max_queued_steps >= 0", name="max_queued_steps"),
        CheckConstraint("max_stored_bytes >= 0", name="max_stored_bytes"),
    )

    id: Mapped[str] = mapped_column(Identifier, primary_key=True)
    name: Mapped[str] = mapped_column(String(120), unique=True)
    created_at: Mapped[datetime] = mapped_column(Utc)
    max_queued_jobs: Mapped[int | None]
    max_queued_steps: Mapped[int | None] = mapped_column(BigInteger)
    max_stored_bytes: Mapped[int | None] = mapped_column(BigInteger)


class Member(Base):
    """One person in one team. Members are disabled, never deleted: their work keeps its author."""

    __tablename__ = "member"
    __table_args__ = (one_of("role", ROLES),)

    id: Mapped[str] = mapped_column(Identifier, primary_key=True)
    team_id: Mapped[str] = mapped_column(ForeignKey("team.id", ondelete="RESTRICT"), index=True)
    name: Mapped[str] = mapped_column(String(120))
    email: Mapped[str | None] = mapped_column(String(254), unique=True)
    role: Mapped[str] = mapped_column(String(16))
    password_hash: Mapped[str | None] = mapped_column(String(200))
    created_at: Mapped[datetime] = mapped_column(Utc)
    disabled_at: Mapped[datetime | None] = mapped_column(Utc)


class Token(Base):
    """What a member shows to be let in. Only a hash of the secret is kept."""

    __tablename__ = "token"
    __table_args__ = (one_of("kind", TOKEN_KINDS),)

    id: Mapped[str] = mapped_column(Identifier, primary_key=True)
    member_id: Mapped[str] = mapped_column(ForeignKey("member.id", ondelete="CASCADE"), index=True)
    kind: Mapped[str] = mapped_column(String(16))
    name: Mapped[str] = mapped_column(String(120))
    ident: Mapped[str] = mapped_column(String(12), unique=True)
    secret_sha256: Mapped[bytes] = mapped_column(LargeBinary(32))
    scopes: Mapped[list[str]] = mapped_column(small_json())
    created_at: Mapped[datetime] = mapped_column(Utc)
    expires_at: Mapped[datetime | None] = mapped_column(Utc)
    revoked_at: Mapped[datetime | None] = mapped_column(Utc)
    last_used_at: Mapped[datetime | None] = mapped_column(Utc)


class AuditEntry(Base):
    """Somebody did something. Rows are only ever added."""

    __tablename__ = "audit_entry"
    __table_args__ = (Index(None, "team_id", "id"), Index(None, "thing_id", "id"))

    id: Mapped[str] = mapped_column(Identifier, primary_key=True)
    team_id: Mapped[str] = mapped_column(ForeignKey("team.id", ondelete="RESTRICT"))
    member_id: Mapped[str | None] = mapped_column(ForeignKey("member.id", ondelete="RESTRICT"))
    at: Mapped[datetime] = mapped_column(Utc)
    action: Mapped[str] = mapped_column(String(64))
    thing_id: Mapped[str | None] = mapped_column(String(200))
    address: Mapped[str | None] = mapped_column(String(64))
    detail: Mapped[dict[str, Any] | None] = mapped_column(CompressedJson)


class IdempotencyKey(Base):
    """A request that a member may send twice, and what came of it."""

    __tablename__ = "idempotency_key"
    __table_args__ = (Index(None, "created_at"),)

    member_id: Mapped[str] = mapped_column(ForeignKey("member.id", ondelete="CASCADE"), primary_key=True)
    key: Mapped[str] = mapped_column(String(200), primary_key=True)
    request_sha256: Mapped[bytes] = mapped_column(LargeBinary(32))
    thing_id: Mapped[str] = mapped_column(Identifier)
    created_at: Mapped[datetime] = mapped_column(Utc)


class Webhook(Base):
    """An address that a team wants told. The secret is kept readable, because every message is signed with it."""

    __tablename__ = "webhook"

    id: Mapped[str] = mapped_column(Identifier, primary_key=True)
    team_id: Mapped[str] = mapped_column(ForeignKey("team.id", ondelete="RESTRICT"), index=True)
    member_id: Mapped[str] = mapped_column(ForeignKey("member.id", ondelete="RESTRICT"))
    url: Mapped[str] = mapped_column(Text)
    secret: Mapped[str] = mapped_column(String(120))
    events: Mapped[list[str]] = mapped_column(small_json())
    created_at: Mapped[datetime] = mapped_column(Utc)
    disabled_at: Mapped[datetime | None] = mapped_column(Utc)
    disabled_reason: Mapped[str | None] = mapped_column(String(500))


class WebhookDelivery(Base):
    """One message to one address, tried until it arrives or is given up."""

    __tablename__ = "webhook_delivery"
    __table_args__ = (
        one_of("state", DELIVERY_STATES),
        Index(None, "state", "due_at"),
        Index(None, "webhook_id", "id"),
    )

    id: Mapped[str] = mapped_column(Identifier, primary_key=True)
    webhook_id: Mapped[str] = mapped_column(ForeignKey("webhook.id", ondelete="CASCADE"))
    event: Mapped[str] = mapped_column(String(64))
    body: Mapped[dict[str, Any]] = mapped_column(CompressedJson)
    state: Mapped[str] = mapped_column(String(16))
    attempts: Mapped[int]
    due_at: Mapped[datetime] = mapped_column(Utc)
    created_at: Mapped[datetime] = mapped_column(Utc)
    ended_at: Mapped[datetime | None] = mapped_column(Utc)
    answer: Mapped[str | None] = mapped_column(String(500))
