"""The page of a team: who belongs to it, what it has in use, my tokens, whom it tells, and who changed what."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, render_template

from api.auth import Access, caller, decide, may
from api.services import services
from api.web.asking import after
from store import audit, teams, webhooks
from store.usage import usage

pages = Blueprint("team_pages", __name__, template_folder="templates")

MEANINGS = {
    "read": "look at everything of the team",
    "submit": "upload data and train",
    "share": "publish, write notes, make links",
    "admin": "everything, members too",
}
ROLES = {"admin": "everything, members too", "member": "all but members", "reader": "looks, changes nothing"}


@pages.get("/team")
@decide(Access.READ)
def team_page() -> str:
    """The team, and whoever looks at it."""
    who = caller()
    with services().database.read() as rows:
        team, used = teams.get_team(rows, who.team_id), usage(rows, who.team_id)
        members = teams.page_members(rows, who.team_id, after=after("members"), limit=100)
        tokens = teams.page_tokens(rows, who.team_id, member_id=who.member_id, limit=100).rows
        log = audit.page(rows, who.team_id, after=after("log"), limit=30) if may(who, Access.ADMIN) else None
        names = teams.names(rows, {line.member_id for line in log.rows if line.member_id}) if log else {}
        hooks = webhooks.page(rows, who.team_id, limit=100).rows if may(who, Access.SHARE) else []
        sent = {hook.id: webhooks.deliveries(rows, who.team_id, hook.id, limit=5).rows for hook in hooks}
        me = teams.get_member(rows, who.team_id, who.member_id)
        return render_template(
            "team.html",
            team=team,
            me=me,
            my_token=who.token_id,
            quotas=[
                _quota("Jobs that wait or run", used.queued_jobs, team.max_queued_jobs),
                _quota("Steps of training that wait or run", used.queued_steps, team.max_queued_steps),
                _quota("Stored", used.stored_bytes, team.max_stored_bytes, in_bytes=True),
            ],
            members=members.rows,
            more_members=members.after,
            roles=ROLES,
            tokens=tokens,
            scopes={scope: MEANINGS[scope] for scope in MEANINGS if scope in who.scopes or "admin" in who.scopes},
            webhooks=hooks,
            sent=sent,
            events=webhooks.EVENTS,
            log=log,
            names=names,
        )


def _quota(what: str, used: int, limit: int | None, *, in_bytes: bool = False) -> dict[str, Any]:
    share = None if limit is None else min(1.0, used / limit) if limit else 1.0
    return {"what": what, "used": used, "limit": limit, "share": share, "in_bytes": in_bytes}
