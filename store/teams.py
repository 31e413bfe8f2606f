"""Who may come in: teams, members, tokens.

A token reads `bimt_IDENT_SECRETCHECKSUM`. The secret has 256 random bits, so a fast hash of it is enough; the
checksum lets scanners and typing errors be told from wrong tokens without a question to the database.
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
from typing import NamedTuple

from sqlalchemy import bindparam, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from store.errors import Conflict, NotFound
from store.identifiers import new_id
from store.pages import Page, newest_first
from store.statements import Statement
from store.tables import Member, Team, Token

ROLE_SCOPES = {
    "admin": frozenset(("read", "submit", "share", "admin")),
    "member": frozenset(("read", "submit", "share")),
    "reader": frozenset(("read",)),
}
USE_NOTED_EVERY = timedelta(minutes=10)  # finer would write a row at every request

_TOKEN = re.compile(r"^bimt_([0-9a-f]{12})_([A-Za-z0-9_-]{43})([0-9a-f]{8})\Z")


class _Alive(NamedTuple):
    """What one must know of a token that is not revoked and whose member is not disabled."""

    id: str
    secret_sha256: bytes
    scopes: list[str]
    expires_at: datetime | None
    last_used_at: datetime | None
    team_id: str
    member_id: str
    role: str


_ALIVE = (
    select(
        Token.id,
        Token.secret_sha256,
        Token.scopes,
        Token.expires_at,
        Token.last_used_at,
        Member.team_id,
        Member.id,
        Member.role,
    )
    .join(Member, Member.id == Token.member_id)
    .where(Token.revoked_at.is_(None), Member.disabled_at.is_(None))
)
_BY_IDENT = Statement(_ALIVE.where(Token.ident == bindparam("ident")), _Alive._make)
_BY_ID = Statement(_ALIVE.where(Token.id == bindparam("token_id")), _Alive._make)


@dataclass(frozen=True)
class Caller:
    """Who asks, and what they may do: the scopes of the token that the member's role also grants."""

    team_id: str
    member_id: str
    role: str
    scopes: frozenset[str]
    token_id: str
    use_is_stale: bool = False  # last_used_at is old enough to be worth a write: see note_use


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
    """The admin who is there longest. Raises NotFound."""
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
    password_hash: str | None = None,
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
        password_hash=password_hash,
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
) -> tuple[str, Token]:
    """A new token of a member: its text, which is never seen again, and its row.

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
    ident, text, digest = new_secret("bimt")
    token = Token(
        id=new_id("token"),
        member_id=member_id,
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


def authenticate(session: Session, token_text: str, now: datetime) -> Caller | None:
    """Who shows this token; None where it is unknown, expired, revoked, or its member disabled. Writes nothing."""
    parts = _TOKEN.match(token_text)
    if parts is None:
        return None
    ident, secret, checksum = parts.groups()
    if checksum != _checksum(secret):
        return None
    row = _BY_IDENT.first(session, ident=ident)
    if row is None or not hmac.compare_digest(row.secret_sha256, hashlib.sha256(secret.encode()).digest()):
        return None
    return _caller(row, now)


def caller_of_token(session: Session, token_id: str, *, now: datetime) -> Caller | None:
    """Who signed in with this token; for browser sessions, which remember the id alone."""
    row = _BY_ID.first(session, token_id=token_id)
    return None if row is None else _caller(row, now)


def note_use(session: Session, caller: Caller, now: datetime) -> None:
    """Remember that the token was used just now. Worth calling only where `caller.use_is_stale`."""
    session.execute(update(Token).where(Token.id == caller.token_id).values(last_used_at=now))


def revoke_token(session: Session, team_id: str, token_id: str, now: datetime) -> Token:
    """From now on the token opens nothing. Revoking twice is the same. Raises NotFound."""
    token = get_token(session, team_id, token_id)
    token.revoked_at = token.revoked_at or now
    session.flush()
    return token


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
    """Member id → name, for those that there are."""
    query = select(Member.id, Member.name).where(Member.id.in_(list(member_ids)))
    return {member_id: name for member_id, name in session.execute(query)}


def member_with_email(session: Session, email: str) -> Member | None:
    """The member who signs in with this address, unless disabled."""
    return session.scalar(select(Member).where(Member.email == email.lower(), Member.disabled_at.is_(None)))


def change_member(
    session: Session,
    team_id: str,
    member_id: str,
    now: datetime,
    *,
    role: str | None = None,
    name: str | None = None,
    password_hash: str | None = None,
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
            raise Conflict(f"`{member.name}` is the last admin of the team; make somebody else admin first.")
    member.role = role or member.role
    member.name = name or member.name
    member.password_hash = password_hash or member.password_hash
    if disabled is not None:
        member.disabled_at = now if disabled else None
    session.flush()
    return member


def page_teams(session: Session, *, after: str | None = None, limit: int = 50) -> Page[Team]:
    """All teams, newest first."""
    return newest_first(session, select(Team), Team.id, after=after, limit=limit)


def page_members(session: Session, team_id: str, *, after: str | None = None, limit: int = 50) -> Page[Member]:
    """The members of a team, newest first."""
    query = select(Member).where(Member.team_id == team_id)
    return newest_first(session, query, Member.id, after=after, limit=limit)


def page_tokens(
    session: Session, team_id: str, *, member_id: str | None = None, after: str | None = None, limit: int = 50
) -> Page[Token]:
    """The tokens of a team or of one of its members, newest first, revoked ones too."""
    query = select(Token).join(Member, Member.id == Token.member_id).where(Member.team_id == team_id)
    if member_id is not None:
        query = query.where(Token.member_id == member_id)
    return newest_first(session, query, Token.id, after=after, limit=limit)


def first_admin(session: Session, now: datetime) -> str | None:
    """At the very first start: a team, its admin, and the text of the admin's token. Later: None."""
    if session.scalar(select(Team.id).limit(1)) is not None:
        return None
    team = create_team(session, "team", now=now)
    member = create_member(session, team.id, "admin", role="admin", now=now)
    text, _ = mint_token(session, member.id, scopes=ROLE_SCOPES["admin"], expires_at=None, now=now, name="first token")
    return text


def new_secret(word: str) -> tuple[str, str, bytes]:
    """(ident to look it up by, text to show once, hash to keep) of a fresh secret."""
    ident = secrets.token_hex(6)
    secret = secrets.token_urlsafe(32)
    return ident, f"{word}_{ident}_{secret}{_checksum(secret)}", hashlib.sha256(secret.encode()).digest()


def _checksum(secret: str) -> str:
    return f"{zlib.crc32(secret.encode()) & 0xFFFFFFFF:08x}"


def _caller(row: _Alive, now: datetime) -> Caller | None:
    if row.expires_at is not None and row.expires_at <= now:
        return None
    return Caller(
        team_id=row.team_id,
        member_id=row.member_id,
        role=row.role,
        scopes=frozenset(row.scopes) & ROLE_SCOPES[row.role],
        token_id=row.id,
        use_is_stale=row.last_used_at is None or now - row.last_used_at > USE_NOTED_EVERY,
    )


def _insert(session: Session, row: Team | Member, sentence: str) -> None:
    """Add the row; where a UNIQUE refuses it, say the sentence and leave the transaction usable."""
    try:
        with session.begin_nested():
            session.add(row)
            session.flush()
    except IntegrityError:
        raise Conflict(sentence) from None
