"""Teams, their members and tokens, and the audit log of what members did: one file, since every change of a member or a
token is one transaction with its entry in the log.

A token reads `bimt_IDENT_SECRETCHECKSUM`. The secret has 256 random bits, so a fast hash of it is enough; the checksum
distinguishes typing errors from wrong tokens without a query, and lets scanners recognise leaked tokens.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Double,
    ForeignKey,
    Index,
    LargeBinary,
    Row,
    String,
    bindparam,
    delete,
    or_,
    select,
    update,
)
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Mapped, Session, mapped_column

from store.columns import Base, CompressedJson, Identifier, Utc, new_id, one_of, small_json
from store.database import Page, newest_first
from store.errors import Conflict, NotFound

ROLE_SCOPES = {
    "admin": frozenset(("read", "submit", "share", "admin")),
    "member": frozenset(("read", "submit", "share")),
    "reader": frozenset(("read",)),
}
TOKEN_KINDS = ("api", "session")
USE_NOTED_EVERY = timedelta(minutes=10)  # finer would write a row at every request
SESSION = timedelta(days=7)  # a browser session ends then, or with the token that it was begun with

_TOKEN = re.compile(r"^bimt_([0-9a-f]{12})_([A-Za-z0-9_-]{43})([0-9a-f]{8})\Z")


class Team(Base):
    """The owner of all other rows. A quota that is null is no limit.

    weight      how many jobs of it run for each one of a team of weight 1, where workers are scarce.
    served_at   when a job of it was last claimed, so that teams with equally many running jobs take turns.
    """

    __tablename__ = "team"
    __table_args__ = (
        CheckConstraint("max_queued_jobs >= 0", name="max_queued_jobs"),
        CheckConstraint("max_queued_steps >= 0", name="max_queued_steps"),
        CheckConstraint("max_stored_bytes >= 0", name="max_stored_bytes"),
        CheckConstraint("weight > 0", name="weight"),
    )

    id: Mapped[str] = mapped_column(Identifier, primary_key=True)
    name: Mapped[str] = mapped_column(String(120), unique=True)
    created_at: Mapped[datetime] = mapped_column(Utc)
    max_queued_jobs: Mapped[int | None]
    max_queued_steps: Mapped[int | None] = mapped_column(BigInteger)
    max_stored_bytes: Mapped[int | None] = mapped_column(BigInteger)
    weight: Mapped[float] = mapped_column(Double, default=1.0, server_default="1")
    served_at: Mapped[datetime | None] = mapped_column(Utc)


class Member(Base):
    """One person in one team. Members are disabled, never deleted: their jobs and models keep their author."""

    __tablename__ = "member"
    __table_args__ = (one_of("role", tuple(ROLE_SCOPES)),)

    id: Mapped[str] = mapped_column(Identifier, primary_key=True)
    team_id: Mapped[str] = mapped_column(ForeignKey("team.id", ondelete="RESTRICT"), index=True)
    name: Mapped[str] = mapped_column(String(120))
    email: Mapped[str | None] = mapped_column(String(254), unique=True)
    role: Mapped[str] = mapped_column(String(16))
    created_at: Mapped[datetime] = mapped_column(Utc)
    disabled_at: Mapped[datetime | None] = mapped_column(Utc)


class Token(Base):
    """A member's credential: an API token or a browser session. Only a hash of the secret is stored.

    parent_id   the token that it was made with: it can do no more, lives no longer, and is revoked with it.
    """

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
    parent_id: Mapped[str | None] = mapped_column(ForeignKey("token.id", ondelete="CASCADE"), index=True)


class AuditEntry(Base):
    """One action of a member. Rows are only ever added."""

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


@dataclass(frozen=True)
class Caller:
    """The authenticated member of a request; `scopes` are those of the token that the member's role grants too.

    api_token_id   the token of the request, or the one that the browser session was begun with.
    """

    team_id: str
    member_id: str
    role: str
    scopes: frozenset[str]
    token_id: str
    api_token_id: str
    use_is_stale: bool = False  # last_used_at is old enough to be written again: see note_use


# Tokens that are not revoked, with their members who are not disabled. Asked at every request: columns alone, and built
# once, because making the rows' objects and the query takes longer than executing it.
_USABLE = (
    select(
        *(Token.id, Token.kind, Token.parent_id, Token.secret_sha256, Token.scopes),
        *(Token.expires_at, Token.last_used_at),
        *(Member.id.label("member_id"), Member.team_id, Member.role),
    )
    .join(Member, Member.id == Token.member_id)
    .where(Token.revoked_at.is_(None), Member.disabled_at.is_(None))
)
_BY_IDENT = _USABLE.where(Token.ident == bindparam("ident"))
_BY_SESSION = _USABLE.where(Token.id == bindparam("token_id"), Token.kind == "session")

# Of a team that is made on the command line, or at the first start: no mistake of a script fills the machine.
DEFAULT_QUOTAS = {"max_queued_jobs": 5_000, "max_queued_steps": 20_000_000_000, "max_stored_bytes": 50_000_000_000}


def create_team(
    session: Session,
    name: str,
    *,
    now: datetime,
    max_queued_jobs: int | None = None,
    max_queued_steps: int | None = None,
    max_stored_bytes: int | None = None,
) -> Team:
    """A new team. Raises Conflict where the name is taken."""
    team = Team(
        id=new_id("team"),
        name=name,
        created_at=now,
        max_queued_jobs=max_queued_jobs,
        max_queued_steps=max_queued_steps,
        max_stored_bytes=max_stored_bytes,
    )
    _insert(session, team, f"There is already a team `{name}`; choose another name.")
    return team


def named(session: Session, name: str) -> Team:
    """The team of this name. Raises NotFound."""
    team = session.scalar(select(Team).where(Team.name == name))
    if team is None:
        raise NotFound("team", name)
    return team


def first_of_admins(session: Session, team_id: str) -> Member:
    """The enabled admin who was created first. Raises NotFound."""
    admins = select(Member).where(Member.team_id == team_id, Member.role == "admin", Member.disabled_at.is_(None))
    member = session.scalar(admins.order_by(Member.id).limit(1))
    if member is None:
        raise NotFound("admin", team_id)
    return member


def create_member(
    session: Session,
    team_id: str,
    name: str,
    *,
    role: str,
    now: datetime,
    email: str | None = None,
) -> Member:
    """A new member. Raises NotFound for the team, Conflict where the mail address is taken."""
    if role not in ROLE_SCOPES:
        raise ValueError(f"`{role}` is no role; roles are {', '.join(ROLE_SCOPES)}.")
    if session.get(Team, team_id) is None:
        raise NotFound("team", team_id)
    member = Member(
        id=new_id("member"),
        team_id=team_id,
        name=name,
        email=email.lower() if email else None,
        role=role,
        created_at=now,
    )
    _insert(session, member, f"There is already a member with the address `{email}`; use another one.")
    return member


def mint_token(
    session: Session,
    member_id: str,
    *,
    scopes: Iterable[str],
    expires_at: datetime | None,
    now: datetime,
    name: str = "",
    kind: str = "api",
    parent_id: str | None = None,
) -> tuple[str, Token]:
    """A new token of a member: its text, which is not stored, and its row.

    parent_id   the token that it is made with; it ends with that one at the latest. None: of an invitation, or of the
                command line.

    Raises NotFound for the member, Conflict for scopes that the member's role does not grant.
    """
    member = session.get(Member, member_id)
    if member is None or member.disabled_at is not None:
        raise NotFound("member", member_id)
    wanted = sorted(set(scopes))
    if beyond := set(wanted) - ROLE_SCOPES[member.role]:
        raise Conflict(
            f"A {member.role} cannot have a token with the scope {', '.join(sorted(beyond))}; "
            f"ask for {', '.join(sorted(ROLE_SCOPES[member.role]))} at most."
        )
    ends = [expires_at, None if parent_id is None else session.get_one(Token, parent_id).expires_at]
    expires_at = min((end for end in ends if end is not None), default=None)
    ident, text, digest = new_secret("bimt")
    token = Token(
        id=new_id("token"),
        member_id=member_id,
        parent_id=parent_id,
        kind=kind,
        name=name,
        ident=ident,
        secret_sha256=digest,
        scopes=wanted,
        created_at=now,
        expires_at=expires_at,
    )
    session.add(token)
    session.flush()
    return text, token


def begin_session(session: Session, caller: Caller, now: datetime) -> str:
    """A browser session for the owner of this token; its id. It is no secret: the cookie that holds it is signed."""
    _, row = mint_token(
        session,
        caller.member_id,
        scopes=caller.scopes,
        expires_at=now + SESSION,
        now=now,
        name="browser session",
        kind="session",
        parent_id=caller.token_id,
    )
    return row.id


def authenticate(session: Session, token_text: str, now: datetime) -> Caller | None:
    """The owner of this token; None if it is unknown, expired, revoked, or its member disabled. Writes nothing."""
    parts = _TOKEN.match(token_text)
    if parts is None:
        return None
    ident, secret, checksum = parts.groups()
    if checksum != _checksum(secret):
        return None
    found = session.connection().execute(_BY_IDENT, {"ident": ident}).one_or_none()
    if found is None or not hmac.compare_digest(found.secret_sha256, hashlib.sha256(secret.encode()).digest()):
        return None
    return _caller(found, now)


def caller_of_session(session: Session, token_id: str, *, now: datetime) -> Caller | None:
    """The owner of the browser session with this id, which its cookie holds; None where it has ended."""
    found = session.connection().execute(_BY_SESSION, {"token_id": token_id}).one_or_none()
    return None if found is None else _caller(found, now)


def note_use(session: Session, caller: Caller, now: datetime) -> None:
    """Record that the token was used now. Needed only if `caller.use_is_stale`."""
    session.execute(update(Token).where(Token.id == caller.token_id).values(last_used_at=now))


def revoke_token(session: Session, team_id: str, token_id: str, now: datetime) -> Token:
    """Make the token, and all that were made with it, invalid from now on. Raises NotFound."""
    token = get_token(session, team_id, token_id)
    with_descendants = [token_id, *descendants(session, token_id)]
    session.execute(
        update(Token).where(Token.id.in_(with_descendants), Token.revoked_at.is_(None)).values(revoked_at=now)
    )
    session.refresh(token)
    return token


def delete_ended_sessions(session: Session, *, before: datetime) -> None:
    """Delete browser sessions that ended before that time."""
    ended = or_(Token.expires_at < before, Token.revoked_at < before)
    session.execute(
        delete(Token).where(Token.kind == "session", ended), execution_options={"synchronize_session": False}
    )


def descendants(session: Session, token_id: str) -> list[str]:
    """The ids of the tokens and sessions that were made with this token, or with one of those."""
    made = select(Token.id).where(Token.parent_id == token_id).cte("made", recursive=True)
    made = made.union(select(Token.id).join(made, Token.parent_id == made.c.id))
    return list(session.scalars(select(made.c.id)))


def get_token(session: Session, team_id: str, token_id: str) -> Token:
    """A token of the team. Raises NotFound."""
    query = select(Token).join(Member, Member.id == Token.member_id)
    token = session.scalar(query.where(Token.id == token_id, Member.team_id == team_id))
    if token is None:
        raise NotFound("token", token_id)
    return token


def get_team(session: Session, team_id: str) -> Team:
    """The team. Raises NotFound."""
    team = session.get(Team, team_id)
    if team is None:
        raise NotFound("team", team_id)
    return team


def get_member(session: Session, team_id: str, member_id: str) -> Member:
    """A member of the team. Raises NotFound."""
    member = session.scalar(select(Member).where(Member.id == member_id, Member.team_id == team_id))
    if member is None:
        raise NotFound("member", member_id)
    return member


def names(session: Session, member_ids: Iterable[str]) -> dict[str, str]:
    """Member id → name, for those ids that exist."""
    query = select(Member.id, Member.name).where(Member.id.in_(list(member_ids)))
    return {member_id: name for member_id, name in session.execute(query)}


def change_member(
    session: Session,
    team_id: str,
    member_id: str,
    now: datetime,
    *,
    role: str | None = None,
    name: str | None = None,
    disabled: bool | None = None,
) -> Member:
    """Change what is given. Raises NotFound, and Conflict where it would leave the team without an admin."""
    member = get_member(session, team_id, member_id)
    if role is not None and role not in ROLE_SCOPES:
        raise ValueError(f"`{role}` is no role; roles are {', '.join(ROLE_SCOPES)}.")
    if member.role == "admin" and (disabled or role not in (None, "admin")):
        admins = select(Member.id).where(
            Member.team_id == team_id, Member.role == "admin", Member.disabled_at.is_(None)
        )
        if set(session.scalars(admins.with_for_update())) <= {member_id}:
            raise Conflict(f"`{member.name}` is the last admin of the team; make another member admin first.")
    member.role = role or member.role
    member.name = name or member.name
    if disabled is not None:
        member.disabled_at = now if disabled else None
    session.flush()
    return member


def page_members(session: Session, team_id: str, *, after: str | None = None, limit: int = 50) -> Page[Member]:
    """The members of a team, newest first."""
    query = select(Member).where(Member.team_id == team_id)
    return newest_first(session, query, Member.id, after=after, limit=limit)


def page_tokens(
    session: Session, team_id: str, *, member_id: str | None = None, after: str | None = None, limit: int = 50
) -> Page[Token]:
    """The API tokens of a team or of one of its members, newest first, revoked ones too."""
    query = select(Token).join(Member, Member.id == Token.member_id)
    query = query.where(Member.team_id == team_id, Token.kind == "api")
    if member_id is not None:
        query = query.where(Token.member_id == member_id)
    return newest_first(session, query, Token.id, after=after, limit=limit)


def first_admin(session: Session, now: datetime) -> str | None:
    """In an empty database: a team and its admin; returns the text of the admin's token. None if there is a team."""
    if session.scalar(select(Team.id).limit(1)) is not None:
        return None
    team = create_team(session, "team", now=now, **DEFAULT_QUOTAS)
    member = create_member(session, team.id, "admin", role="admin", now=now)
    text, _ = mint_token(session, member.id, scopes=ROLE_SCOPES["admin"], expires_at=None, now=now, name="first token")
    return text


def new_secret(word: str) -> tuple[str, str, bytes]:
    """(ident to look it up by, text to show once, hash to store) of a new secret."""
    ident = secrets.token_hex(6)
    secret = secrets.token_urlsafe(32)
    return ident, f"{word}_{ident}_{secret}{_checksum(secret)}", hashlib.sha256(secret.encode()).digest()


def _checksum(secret: str) -> str:
    return f"{zlib.crc32(secret.encode()) & 0xFFFFFFFF:08x}"


def _caller(found: Row[*tuple[Any, ...]], now: datetime) -> Caller | None:
    """The member of a row of `_USABLE`; None where the token has expired."""
    if found.expires_at is not None and found.expires_at <= now:
        return None
    return Caller(
        team_id=found.team_id,
        member_id=found.member_id,
        role=found.role,
        scopes=frozenset(found.scopes) & ROLE_SCOPES[found.role],
        token_id=found.id,
        api_token_id=(found.kind == "session" and found.parent_id) or found.id,
        use_is_stale=found.last_used_at is None or now - found.last_used_at > USE_NOTED_EVERY,
    )


def _insert(session: Session, row: Team | Member, sentence: str) -> None:
    """Insert the row; if a UNIQUE constraint refuses it, raise Conflict and leave the transaction usable."""
    try:
        with session.begin_nested():
            session.add(row)
            session.flush()
    except IntegrityError:
        raise Conflict(sentence) from None


# --- audit ---


def record_audit(
    session: Session,
    *,
    team_id: str,
    member_id: str | None,
    action: str,
    now: datetime,
    thing_id: str | None = None,
    address: str | None = None,
    detail: dict[str, Any] | None = None,
) -> None:
    """Add one entry, in the transaction of the action. `action` reads resource.verb, such as `job.cancel`."""
    entry = AuditEntry(
        id=new_id("audit"),
        team_id=team_id,
        member_id=member_id,
        at=now,
        action=action,
        thing_id=thing_id,
        address=address,
        detail=detail,
    )
    session.add(entry)
    session.flush()


def page_audit(
    session: Session,
    team_id: str,
    *,
    action: str | None = None,
    member_id: str | None = None,
    thing_id: str | None = None,
    after: str | None = None,
    limit: int = 50,
) -> Page[AuditEntry]:
    """The team's entries, newest first."""
    query = select(AuditEntry).where(AuditEntry.team_id == team_id)
    if action is not None:
        query = query.where(AuditEntry.action == action)
    if member_id is not None:
        query = query.where(AuditEntry.member_id == member_id)
    if thing_id is not None:
        query = query.where(AuditEntry.thing_id == thing_id)
    return newest_first(session, query, AuditEntry.id, after=after, limit=limit)
