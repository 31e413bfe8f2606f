"""Links that show one version to whoever holds them, read-only, in the view they were made in."""

from __future__ import annotations

import hashlib
import hmac
import re
import zlib
from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from store.errors import NotFound
from store.identifiers import new_id
from store.pages import Page, newest_first
from store.tables import ModelVersion, Share
from store.teams import new_secret

_LINK = re.compile(r"^share_([0-9a-f]{12})_([A-Za-z0-9_-]{43})([0-9a-f]{8})\Z")


def create(
    session: Session,
    version: ModelVersion,
    *,
    team_id: str,
    member_id: str,
    view: dict[str, Any] | None,
    expires_at: datetime | None,
    now: datetime,
) -> tuple[str, Share]:
    """A new link: its token, which is never seen again, and its row."""
    ident, text, digest = new_secret("share")
    share = Share(
        id=new_id("share"),
        team_id=team_id,
        model_id=version.model_id,
        version=version.number,
        ident=ident,
        secret_sha256=digest,
        view=view,
        member_id=member_id,
        created_at=now,
        expires_at=expires_at,
    )
    session.add(share)
    session.flush()
    return text, share


def open(session: Session, text: str, now: datetime) -> Share | None:
    """The link behind a token; None where it is unknown, expired or revoked."""
    parts = _LINK.match(text)
    if parts is None:
        return None
    ident, secret, checksum = parts.groups()
    if checksum != f"{zlib.crc32(secret.encode()) & 0xFFFFFFFF:08x}":
        return None
    share = session.scalar(select(Share).where(Share.ident == ident, Share.revoked_at.is_(None)))
    if share is None or (share.expires_at is not None and share.expires_at <= now):
        return None
    right = hmac.compare_digest(share.secret_sha256, hashlib.sha256(secret.encode()).digest())
    return share if right else None


def revoke(session: Session, team_id: str, share_id: str, now: datetime) -> Share:
    """From now on the link shows nothing. Revoking twice is the same. Raises NotFound."""
    share = session.scalar(select(Share).where(Share.id == share_id, Share.team_id == team_id))
    if share is None:
        raise NotFound("share", share_id)
    share.revoked_at = share.revoked_at or now
    session.flush()
    return share


def page(
    session: Session, team_id: str, *, model_id: str | None = None, after: str | None = None, limit: int = 50
) -> Page[Share]:
    """The team's links, newest first."""
    query = select(Share).where(Share.team_id == team_id)
    if model_id is not None:
        query = query.where(Share.model_id == model_id)
    return newest_first(session, query, Share.id, after=after, limit=limit)
