"""People on the wire: who I am, and my tokens."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from api.schemas.base import PRINTABLE, Body, InPath, Label, MemberId, Page, Query, Shown, TokenId

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


# --- the team --------------------------------------------------------------------------------------------

Role = Literal["admin", "member", "reader"]
Email = Annotated[str, Field(max_length=254, pattern=r"^[^@\s\x00-\x1f\x7f]+@[^@\s\x00-\x1f\x7f]+$")]


class MemberPath(InPath):
    member_id: MemberId


class MemberIn(Body):
    """Somebody to let in. They get a first token, with which they can mint others."""

    name: Label
    role: Role = Field(default="member", description="What their tokens may do at most.")
    email: Email | None = None
    expires_in_days: int | None = Field(default=90, ge=1, le=3650, description="Of the first token; null: never.")


class MemberChange(Body):
    """What to change of a member; what is left out stays."""

    name: Label | None = None
    role: Role | None = None
    disabled: bool | None = Field(default=None, description="True: all their tokens are refused until it is false.")


class MemberItem(Shown):
    """A member. Members are disabled, never deleted: their work keeps its author."""

    id: MemberId
    name: str
    role: Role
    email: str | None = None
    created_at: datetime
    disabled_at: datetime | None = None


class MemberMade(MemberItem):
    """A new member, or one with a fresh token. This is the only time that its text is shown: hand it to them."""

    token: str


class MemberPage(Page):
    """A part of the list of members, newest first."""

    items: list[MemberItem]


class Quota(Shown):
    """How much of a quota is used; null: there is no limit."""

    used: int
    limit: int | None


class TeamOut(Shown):
    """A team, and how much it has in use."""

    id: str
    name: str
    created_at: datetime
    queued_jobs: Quota
    queued_steps: Quota
    stored_bytes: Quota


class TeamList(Shown):
    """The teams that you belong to."""

    items: list[TeamOut]


class AuditQuery(Query):
    """Which lines."""

    action: Annotated[str, Field(max_length=64, pattern=r"^[a-z]+\.[a-z]+$")] | None = Field(
        default=None, description="noun.verb, such as `job.cancel`."
    )
    member: MemberId | None = None
    thing: Annotated[str, Field(max_length=200, pattern=PRINTABLE)] | None = Field(default=None, description="An id.")
    after: str | None = Field(default=None, max_length=300, description="The `next` of the page before.")
    limit: int = Field(default=50, ge=1, le=200)


class AuditItem(Shown):
    """Somebody did something."""

    id: str
    at: datetime
    member_id: MemberId | None
    action: str
    thing_id: str | None = None
    address: str | None = Field(default=None, description="Where the request came from.")
    detail: dict[str, Any] | None = None


class AuditPage(Page):
    """A part of the log, newest first."""

    items: list[AuditItem]
