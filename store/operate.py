"""`python -m store.operate`: what only whoever runs the service may do, and no token can: teams and their quotas.

teams                                              every team, what it has in use and may have
new NAME [--admin NAME] [--stored-bytes 50e9] …    a team and its admin, whose token is printed this once
quota NAME [--queued-jobs N] [--queued-steps N] [--stored-bytes N]    N may be `none`
token NAME                                         a fresh token for the team's first admin, where all are lost
"""

from __future__ import annotations

import argparse
import os
import sys
from datetime import UTC, datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from store import teams
from store.database import Database
from store.errors import StoreError
from store.settings import NO_LIMIT, Settings
from store.tables import Member, Team
from store.usage import usage

QUOTAS = ("queued_jobs", "queued_steps", "stored_bytes")


def _limit(text: str) -> int | str:
    if text == NO_LIMIT:
        return text
    number = float(text.replace("_", ""))
    if not 0 <= number < 2**63:
        raise ValueError
    return int(number)


def parser() -> argparse.ArgumentParser:
    """The words of the command line."""
    made = argparse.ArgumentParser(prog="python -m store.operate", description=(__doc__ or "").split("\n")[0])
    verbs = made.add_subparsers(dest="verb", required=True, metavar="teams | new | quota | token")
    verbs.add_parser("teams", help="every team, what it has in use and may have")
    new = verbs.add_parser("new", help="a team and its admin, whose token is printed this once")
    quota = verbs.add_parser("quota", help="what a team may have; what is not named stays")
    verbs.add_parser("token", help="a fresh token for its first admin").add_argument("name", help="of the team")
    for verb in (new, quota):
        verb.add_argument("name", help="of the team")
        for each in QUOTAS:
            option = f"--{each.replace('_', '-')}"
            verb.add_argument(option, type=_limit, metavar="N", help=f"most {each.replace('_', ' ')}; `none`: no limit")
    new.add_argument("--admin", default="admin", metavar="NAME", help="of its first member (default: admin)")
    return made


def set_quotas(team: Team, asked: argparse.Namespace) -> None:
    """Write those that were named."""
    for each in QUOTAS:
        limit = getattr(asked, each)
        if limit is not None:
            setattr(team, f"max_{each}", None if limit == NO_LIMIT else limit)


def line(session: Session, team: Team) -> str:
    """A team in one line."""
    used = usage(session, team.id)
    parts = []
    for each in QUOTAS:
        limit = getattr(team, f"max_{each}")
        parts.append(f"{each.replace('_', ' ')} {getattr(used, each)} of {NO_LIMIT if limit is None else limit}")
    return f"{team.name}: {', '.join(parts)}"


def do(session: Session, asked: argparse.Namespace, now: datetime) -> list[str]:
    """The lines to print. Raises NotFound, and Conflict for a name that is taken."""
    if asked.verb == "teams":
        return [line(session, team) for team in session.scalars(select(Team).order_by(Team.name))]
    if asked.verb == "quota":
        team = teams.named(session, asked.name)
        set_quotas(team, asked)
        session.flush()
        return [line(session, team)]
    if asked.verb == "token":
        team = teams.named(session, asked.name)
        return [_token(session, teams.first_of_admins(session, team.id), now)]
    team = teams.create_team(session, asked.name, now=now)
    set_quotas(team, asked)
    admin = teams.create_member(session, team.id, asked.admin, role="admin", now=now)
    return [line(session, team), _token(session, admin, now)]


def _token(session: Session, admin: Member, now: datetime) -> str:
    scopes = teams.ROLE_SCOPES["admin"]
    return teams.mint_token(session, admin.id, scopes=scopes, expires_at=None, now=now, name="by the operator")[0]


def main(arguments: list[str] | None = None) -> int:
    """0 where it is done, 1 where it cannot be: a sentence says why."""
    asked = parser().parse_args(arguments)
    with Database(Settings.from_env(os.environ).database_url) as database:
        try:
            with database.write() as session:
                lines = do(session, asked, datetime.now(UTC))
        except StoreError as error:
            print(error, file=sys.stderr)
            return 1
    print("\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
