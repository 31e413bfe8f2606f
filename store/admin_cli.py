"""`python -m store.admin_cli`: teams, quotas and first tokens, for the operator of the service.

bootstrap-token                                    the first team and its admin, whose token is printed once
teams                                              every team, its usage and its quotas
new NAME [--admin NAME] [--stored-bytes 50e9] …    a team and its admin, whose token is printed once
quota NAME [--queued-jobs N] [--queued-steps N] [--stored-bytes N]    N may be `none`
token NAME                                         a new token for the team's first admin, if all are lost
"""

from __future__ import annotations

import argparse
import os
import sys
from datetime import UTC, datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from store import jobs, teams
from store.database import Database
from store.errors import Conflict, StoreError
from store.settings import NO_LIMIT, Settings
from store.teams import Member, Team

DESCRIPTION = "Teams, quotas and first tokens, for the operator of the service."
QUOTAS = ("queued_jobs", "queued_steps", "stored_bytes")


def _limit(text: str) -> int | str:
    if text == NO_LIMIT:
        return text
    number = float(text.replace("_", ""))
    if not 0 <= number < 2**63:
        raise ValueError
    return int(number)


def parser() -> argparse.ArgumentParser:
    """The parser of the command line."""
    made = argparse.ArgumentParser(prog="python -m store.admin_cli", description=DESCRIPTION)
    verbs = made.add_subparsers(dest="verb", required=True, metavar="bootstrap-token | teams | new | quota | token")
    verbs.add_parser("bootstrap-token", help="the first team and its admin, whose token is printed once")
    verbs.add_parser("teams", help="every team, its usage and its quotas")
    new = verbs.add_parser("new", help="a team and its admin, whose token is printed once")
    quota = verbs.add_parser("quota", help="change the quotas of a team; those that are not named stay")
    verbs.add_parser("token", help="a new token for its first admin").add_argument("name", help="of the team")
    for verb in (new, quota):
        verb.add_argument("name", help="of the team")
        for each in QUOTAS:
            option = f"--{each.replace('_', '-')}"
            verb.add_argument(option, type=_limit, metavar="N", help=f"most {each.replace('_', ' ')}; `none`: no limit")
    new.add_argument("--admin", default="admin", metavar="NAME", help="of its first member (default: admin)")
    return made


def run(session: Session, options: argparse.Namespace, now: datetime) -> list[str]:
    """Run a command; returns the lines to print. Raises NotFound, and Conflict for a name that is taken."""
    if options.verb == "bootstrap-token":
        text = teams.first_admin(session, now=now)
        if text is None:
            raise Conflict("There is a team already: its admin makes the tokens, at POST /api/v1/tokens.")
        return [text]
    if options.verb == "teams":
        return [_line(session, team) for team in session.scalars(select(Team).order_by(Team.name))]
    if options.verb == "quota":
        team = teams.named(session, options.name)
        _set_quotas(team, options)
        session.flush()
        return [_line(session, team)]
    if options.verb == "token":
        team = teams.named(session, options.name)
        return [_token(session, teams.first_of_admins(session, team.id), now)]
    team = teams.create_team(session, options.name, now=now, **teams.DEFAULT_QUOTAS)
    _set_quotas(team, options)
    admin = teams.create_member(session, team.id, options.admin, role="admin", now=now)
    return [_line(session, team), _token(session, admin, now)]


def main(arguments: list[str] | None = None) -> int:
    """0 if it succeeded, 1 if not, with a sentence on stderr."""
    args = parser().parse_args(arguments)
    with Database(Settings.from_env(os.environ).database_url) as database:
        try:
            with database.write() as session:
                lines = run(session, args, datetime.now(UTC))
        except StoreError as error:
            print(error, file=sys.stderr)
            return 1
    print("\n".join(lines))
    return 0


def _set_quotas(team: Team, options: argparse.Namespace) -> None:
    for each in QUOTAS:
        limit = getattr(options, each)
        if limit is not None:
            setattr(team, f"max_{each}", None if limit == NO_LIMIT else limit)


def _line(session: Session, team: Team) -> str:
    used = jobs.usage(session, team.id)
    parts = []
    for each in QUOTAS:
        limit = getattr(team, f"max_{each}")
        parts.append(f"{each.replace('_', ' ')} {getattr(used, each)} of {NO_LIMIT if limit is None else limit}")
    return f"{team.name}: {', '.join(parts)}"


def _token(session: Session, admin: Member, now: datetime) -> str:
    scopes = teams.ROLE_SCOPES["admin"]
    return teams.mint_token(session, admin.id, scopes=scopes, expires_at=None, now=now, name="by the operator")[0]


if __name__ == "__main__":
    sys.exit(main())
