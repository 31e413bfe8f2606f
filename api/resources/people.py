"""Addresses of people: who I am, and my tokens."""

from __future__ import annotations

from datetime import timedelta

from flask import Response

from api.auditing import note
from api.auth import Access, caller
from api.door import Noun, answer
from api.paging import cursor, key_of
from api.problems import Problem, wrong
from api.schemas.base import PageQuery
from api.schemas.people import MeOut, TokenIn, TokenItem, TokenList, TokenMinted, TokenPath
from api.services import services
from store import teams
from store.errors import NotFound

api = Noun("people", "Who asks, and what they show to be let in.")


@api.at("get", "/me", needs=Access.MEMBER, answers={200: MeOut})
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


@api.at("get", "/tokens", needs=Access.MEMBER, answers={200: TokenList})
def list_tokens(query: PageQuery) -> Response:
    """My tokens, without their secrets."""
    with services().database.read() as rows:
        who = caller()
        page = teams.page_tokens(
            rows, who.team_id, member_id=who.member_id, after=key_of(query.after), limit=query.limit
        )
        return answer(TokenList(items=[TokenItem.model_validate(row) for row in page.rows], next=cursor(page.after)))


@api.at("post", "/tokens", needs=Access.MEMBER, answers={201: TokenMinted})
def mint_token(body: TokenIn) -> Response:
    """A new token of mine. Its text is shown this once; only a hash of it is kept."""
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
        )
        note(rows, "token.mint", row.id, name=body.name, scopes=list(body.scopes))
        return answer(TokenMinted(**TokenItem.model_validate(row).model_dump(), token=text), 201)


@api.at("delete", "/tokens/<string:token_id>", needs=Access.MEMBER, answers={204: None})
def revoke_token(path: TokenPath) -> Response:
    """Revoke a token of mine: it is refused from now on."""
    here, who = services(), caller()
    with here.database.write() as rows:
        token = teams.get_token(rows, who.team_id, path.token_id)
        if token.member_id != who.member_id and "admin" not in who.scopes:
            raise NotFound("token", path.token_id)
        teams.revoke_token(rows, who.team_id, path.token_id, here.now())
        note(rows, "token.revoke", path.token_id)
    return Response(status=204)
