"""People: the caller, tokens, team, members, and the audit log."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated, Any, Literal

from flask import Response
from pydantic import Field, field_validator
from sqlalchemy.orm import Session

from api.auth import Access, audit, caller
from api.problems import Problem, wrong
from api.routing import Resource, answer, cursor, key_of
from api.schemas import PRINTABLE, Body, InPath, Label, MemberId, Page, PageQuery, Query, ResponseModel, TokenId
from api.services import services
from store import teams
from store import teams as audit_log
from store.errors import NotFound
from store.jobs import usage
from store.tables import Member

Scope = Literal["read", "submit", "share", "admin"]


class MeOut(ResponseModel):
    """The caller: member, team, role and scopes of the token."""

    member_id: MemberId
    name: str
    role: str
    team_id: str
    team: str
    scopes: list[Scope]


class TokenIn(Body):
    """A token to mint. It cannot do more than the token of the request."""

    name: Label
    scopes: list[Scope] = Field(min_length=1, max_length=4)
    expires_in_days: int | None = Field(
        default=90, ge=1, le=3650, description="Null: never. The token of the request is the limit: none lives longer."
    )

    @field_validator("scopes")
    @classmethod
    def _each_once(cls, scopes: list[Scope]) -> list[Scope]:
        if len(set(scopes)) < len(scopes):
            raise ValueError("Every scope must be there only once.")
        return scopes


class TokenPath(InPath):
    """Which token."""

    token_id: TokenId


class TokenItem(ResponseModel):
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
    """Which member."""

    member_id: MemberId


class MemberIn(Body):
    """A new member. The first token is in the answer; with it the member can mint others."""

    name: Label
    role: Role = Field(default="member", description="What their tokens may do at most.")
    email: Email | None = None
    expires_in_days: int | None = Field(
        default=90, ge=1, le=3650, description="Lifetime of the first token; null: it never expires."
    )


class MemberChange(Body):
    """What to change of a member; what is left out stays."""

    name: Label | None = None
    role: Role | None = None
    disabled: bool | None = Field(default=None, description="True: all their tokens are refused until it is false.")


class MemberItem(ResponseModel):
    """A member. Members are disabled, never deleted: their work keeps its author."""

    id: MemberId
    name: str
    role: Role
    email: str | None = None
    created_at: datetime
    disabled_at: datetime | None = None


class MemberMade(MemberItem):
    """A new member, or one with a fresh token. Its text is shown only now: pass it on to them."""

    token: str


class MemberPage(Page):
    """A part of the list of members, newest first."""

    items: list[MemberItem]


class Quota(ResponseModel):
    """How much of a quota is used; null: there is no limit."""

    used: int
    limit: int | None


class TeamOut(ResponseModel):
    """A team, and how much it has in use."""

    id: str
    name: str
    created_at: datetime
    queued_jobs: Quota
    queued_steps: Quota
    stored_bytes: Quota


class TeamList(ResponseModel):
    """The teams that you belong to."""

    items: list[TeamOut]


class AuditQuery(Query):
    """Which lines."""

    action: Annotated[str, Field(max_length=64, pattern=r"^[a-z]+\.[a-z]+$")] | None = Field(
        default=None, description="resource.verb, such as `job.cancel`."
    )
    member: MemberId | None = None
    thing: Annotated[str, Field(max_length=200, pattern=PRINTABLE)] | None = Field(default=None, description="An id.")
    after: str | None = Field(default=None, max_length=300, description="The `next` of the page before.")
    limit: int = Field(default=50, ge=1, le=200)


class AuditItem(ResponseModel):
    """One line of the audit log."""

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


api = Resource("people", "Who asks, and what they show to be let in.")


@api.route("get", "/me", requires=Access.MEMBER, answers={200: MeOut})
def who_am_i() -> Response:
    """Who I am: member, team, and what my token may do."""
    who = caller()
    with services().database.read() as rows:
        member, team = teams.get_member(rows, who.team_id, who.member_id), teams.get_team(rows, who.team_id)
        return answer(
            MeOut(
                member_id=who.member_id,
                name=member.name,
                role=member.role,
                team_id=who.team_id,
                team=team.name,
                scopes=sorted(who.scopes),
            )
        )


@api.route("get", "/tokens", requires=Access.MEMBER, answers={200: TokenList})
def list_tokens(query: PageQuery) -> Response:
    """My tokens, without their secrets."""
    with services().database.read() as rows:
        who = caller()
        page = teams.page_tokens(
            rows, who.team_id, member_id=who.member_id, after=key_of(query.after), limit=query.limit
        )
        return answer(TokenList(items=[TokenItem.model_validate(row) for row in page.rows], next=cursor(page.after)))


@api.route("post", "/tokens", requires=Access.MEMBER, answers={201: TokenMinted})
def mint_token(body: TokenIn) -> Response:
    """A new token of mine. Its text is shown this once; only a hash of it is kept.

    It ends with the token of the request at the latest, and is revoked with it.
    """
    here, who = services(), caller()
    beyond = [
        (i, scope) for i, scope in enumerate(body.scopes) if "admin" not in who.scopes and scope not in who.scopes
    ]
    if beyond:
        errors = [
            wrong(f"/scopes/{i}", f"Your own token lacks `{scope}`, so it cannot give it.") for i, scope in beyond
        ]
        raise Problem("scope", errors[0]["detail"], errors)
    now = here.now()
    with here.database.write() as rows:
        text, row = teams.mint_token(
            rows,
            who.member_id,
            name=body.name,
            scopes=list(body.scopes),
            expires_at=None if body.expires_in_days is None else now + timedelta(days=body.expires_in_days),
            now=now,
            parent_id=who.api_token_id,
        )
        audit(rows, "token.mint", row.id, name=body.name, scopes=list(body.scopes))
        return answer(TokenMinted(**TokenItem.model_validate(row).model_dump(), token=text), 201)


@api.route("delete", "/tokens/<string:token_id>", requires=Access.MEMBER, answers={204: None})
def revoke_token(path: TokenPath) -> Response:
    """Revoke a token of mine, with all that were made with it: they are refused from now on.

    A token that may only read revokes itself and what was made with it, and no other.
    """
    here, who = services(), caller()
    with here.database.write() as rows:
        token = teams.get_token(rows, who.team_id, path.token_id)
        if token.member_id != who.member_id and "admin" not in who.scopes:
            raise NotFound("token", path.token_id)
        mine = (who.api_token_id, *teams.descendants(rows, who.api_token_id))
        if who.scopes <= {"read"} and token.id not in mine:
            raise Problem("scope", "A token that may only read can revoke itself and what was made with it, no other.")
        teams.revoke_token(rows, who.team_id, path.token_id, here.now())
        audit(rows, "token.revoke", path.token_id)
    return Response(status=204)


teams_api = Resource("teams", "Who belongs to a team, what it has in use, and who did what.")

FIRST_TOKEN_DAYS = 90


@teams_api.route("get", "/teams", requires=Access.READ, answers={200: TeamList})
def list_teams() -> Response:
    """Your team, with its quotas and how much of each is used."""
    who = caller()
    with services().database.read() as rows:
        team, used = teams.get_team(rows, who.team_id), usage(rows, who.team_id)
        shown = TeamOut(
            id=team.id,
            name=team.name,
            created_at=team.created_at,
            queued_jobs=Quota(used=used.queued_jobs, limit=team.max_queued_jobs),
            queued_steps=Quota(used=used.queued_steps, limit=team.max_queued_steps),
            stored_bytes=Quota(used=used.stored_bytes, limit=team.max_stored_bytes),
        )
        return answer(TeamList(items=[shown]))


@teams_api.route("get", "/members", requires=Access.READ, answers={200: MemberPage})
def list_members(query: PageQuery) -> Response:
    """The members of your team, newest first, disabled ones too."""
    with services().database.read() as rows:
        page = teams.page_members(rows, caller().team_id, after=key_of(query.after), limit=query.limit)
        return answer(MemberPage(items=[MemberItem.model_validate(row) for row in page.rows], next=cursor(page.after)))


@teams_api.route("post", "/members", requires=Access.ADMIN, answers={201: MemberMade}, problems=(409,))
def invite_member(body: MemberIn) -> Response:
    """Add a member. The answer holds the first token of the member, shown this once."""
    here, who = services(), caller()
    with here.database.write() as rows:
        member = teams.create_member(rows, who.team_id, body.name, role=body.role, email=body.email, now=here.now())
        audit(rows, "member.invite", member.id, name=body.name, role=body.role)
        return answer(_with_token(rows, member, body.expires_in_days), 201, Location=f"/api/v1/members/{member.id}")


@teams_api.route("get", "/members/<string:member_id>", requires=Access.READ, answers={200: MemberItem})
def get_member(path: MemberPath) -> Response:
    """One member."""
    with services().database.read() as rows:
        return answer(MemberItem.model_validate(teams.get_member(rows, caller().team_id, path.member_id)))


@teams_api.route(
    "patch", "/members/<string:member_id>", requires=Access.ADMIN, answers={200: MemberItem}, problems=(409,)
)
def change_member(path: MemberPath, body: MemberChange) -> Response:
    """Change a name or role, or disable a member: all tokens and sessions are refused from then on.

    What a member's tokens may do is cut to their role at once. A team keeps one admin at least.
    """
    here, who = services(), caller()
    with here.database.write() as rows:
        member = teams.change_member(
            rows, who.team_id, path.member_id, here.now(), role=body.role, name=body.name, disabled=body.disabled
        )
        audit(rows, "member.change", member.id, **body.model_dump(exclude_none=True))
        return answer(MemberItem.model_validate(member))


@teams_api.route(
    "post", "/members/<string:member_id>/tokens", requires=Access.ADMIN, answers={201: MemberMade}, problems=(409,)
)
def renew_first_token(path: MemberPath) -> Response:
    """A fresh token for a member who lost theirs, shown this once."""
    here, who = services(), caller()
    with here.database.write() as rows:
        member = teams.get_member(rows, who.team_id, path.member_id)
        if member.disabled_at is not None:
            raise Problem("conflict", f"`{member.name}` is disabled; set `disabled` to false first.")
        return answer(_with_token(rows, member, FIRST_TOKEN_DAYS), 201)


def _with_token(rows: Session, member: Member, days: int | None) -> MemberMade:
    here = services()
    text, token = teams.mint_token(
        rows,
        member.id,
        name="first token",
        scopes=teams.ROLE_SCOPES[member.role],
        expires_at=None if days is None else here.now() + timedelta(days=days),
        now=here.now(),
    )
    audit(rows, "token.mint", token.id, member=member.id)
    return MemberMade(**MemberItem.model_validate(member).model_dump(), token=text)


@teams_api.route("get", "/audit", requires=Access.ADMIN, answers={200: AuditPage})
def list_audit(query: AuditQuery) -> Response:
    """Who changed what, when, and from where, newest first. Lines are only ever added."""
    with services().database.read() as rows:
        page = audit_log.page_audit(
            rows,
            caller().team_id,
            action=query.action,
            member_id=query.member,
            thing_id=query.thing,
            after=key_of(query.after),
            limit=query.limit,
        )
        return answer(AuditPage(items=[AuditItem.model_validate(row) for row in page.rows], next=cursor(page.after)))
