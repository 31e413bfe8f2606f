"""People on the wire: who I am, and my tokens."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import Field, field_validator

from api.schemas.base import Body, InPath, Label, MemberId, Page, Query, Shown, TokenId

Scope = Literal["read", "submit", "share", "admin"]


class MeOut(Shown):
    """Who asks."""

    member_id: MemberId
    name: str
    role: str
    team_id: str
    team: str
    scopes: list[Scope]


class TokenIn(Body):
    """A token to mint. It cannot do more than the one that asks for it."""

    name: Label
    scopes: list[Scope] = Field(min_length=1, max_length=4)
    expires_in_days: int | None = Field(default=90, ge=1, le=3650, description="Null: never.")

    @field_validator("scopes")
    @classmethod
    def _each_once(cls, scopes: list[Scope]) -> list[Scope]:
        if len(set(scopes)) < len(scopes):
            raise ValueError("Every scope must be there only once.")
        return scopes


class TokensQuery(Query):
    """Which part of the list."""

    after: str | None = Field(default=None, max_length=300, description="The `next` of the page before.")
    limit: int = Field(default=50, ge=1, le=200)


class TokenPath(InPath):
    token_id: TokenId


class TokenItem(Shown):
    """A token, without its secret."""

    id: TokenId
    name: str
    scopes: list[Scope]
    created_at: datetime
    expires_at: datetime | None = None
    last_used_at: datetime | None = None
    revoked_at: datetime | None = None


class TokenMinted(TokenItem):
    """A new token. This is the only time that its text is shown."""

    token: str


class TokenList(Page):
    """My tokens."""

    items: list[TokenItem]
