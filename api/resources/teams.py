"""Addresses of teams: who belongs to one, how much it has in use, and who did what."""

from __future__ import annotations

from datetime import timedelta

from flask import Response
from sqlalchemy.orm import Session

from api.auditing import note
from api.auth import Access, caller
from api.door import Noun, answer
from api.paging import cursor, key_of
from api.problems import Problem
from api.schemas.base import PageQuery
from api.schemas.people import (
    AuditItem,
    AuditPage,
    AuditQuery,
    MemberChange,
    MemberIn,
    MemberItem,
    MemberMade,
    MemberPage,
    MemberPath,
    Quota,
    TeamList,
    TeamOut,
)
from api.services import services
from store import audit, teams
from store.tables import Member
from store.usage import usage

api = Noun("teams", "Who belongs to a team, what it has in use, and who did what.")

FIRST_TOKEN_DAYS = 90


@api.at("get", "/teams", needs=Access.READ, answers={200: TeamList})
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


@api.at("get", "/members", needs=Access.READ, answers={200: MemberPage})
def list_members(query: PageQuery) -> Response:
    """The members of your team, newest first, disabled ones too."""
    with services().database.read() as rows:
        page = teams.page_members(rows, caller().team_id, after=key_of(query.after), limit=query.limit)
        return answer(MemberPage(items=[MemberItem.model_validate(row) for row in page.rows], next=cursor(page.after)))


@api.at("post", "/members", needs=Access.ADMIN, answers={201: MemberMade}, problems=(409,))
def invite_member(body: MemberIn) -> Response:
    """Let somebody in. The answer holds their first token, shown this once: hand it to them."""
    here, who = services(), caller()
    with here.database.write() as rows:
        member = teams.create_member(rows, who.team_id, body.name, role=body.role, email=body.email, now=here.now())
        note(rows, "member.invite", member.id, name=body.name, role=body.role)
        return answer(_with_token(rows, member, body.expires_in_days), 201, Location=f"/api/v1/members/{member.id}")


@api.at("get", "/members/<string:member_id>", needs=Access.READ, answers={200: MemberItem})
def get_member(path: MemberPath) -> Response:
    """One member."""
    with services().database.read() as rows:
        return answer(MemberItem.model_validate(teams.get_member(rows, caller().team_id, path.member_id)))


@api.at("patch", "/members/<string:member_id>", needs=Access.ADMIN, answers={200: MemberItem}, problems=(409,))
def change_member(path: MemberPath, body: MemberChange) -> Response:
    """Change a name or role, or disable somebody: all their tokens and sessions are refused from then on.

    What a member's tokens may do is cut to their role at once. A team keeps one admin at least.
    """
    here, who = services(), caller()
    with here.database.write() as rows:
        member = teams.change_member(
            rows, who.team_id, path.member_id, here.now(), role=body.role, name=body.name, disabled=body.disabled
        )
        note(rows, "member.change", member.id, **body.model_dump(exclude_none=True))
        return answer(MemberItem.model_validate(member))


@api.at("post", "/members/<string:member_id>/tokens", needs=Access.ADMIN, answers={201: MemberMade}, problems=(409,))
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
    note(rows, "token.mint", token.id, member=member.id)
    return MemberMade(**MemberItem.model_validate(member).model_dump(), token=text)


@api.at("get", "/audit", needs=Access.ADMIN, answers={200: AuditPage})
def list_audit(query: AuditQuery) -> Response:
    """Who changed what, when, and from where, newest first. Lines are only ever added."""
    with services().database.read() as rows:
        page = audit.page(
            rows,
            caller().team_id,
            action=query.action,
            member_id=query.member,
            thing_id=query.thing,
            after=key_of(query.after),
            limit=query.limit,
        )
        return answer(AuditPage(items=[AuditItem.model_validate(row) for row in page.rows], next=cursor(page.after)))
