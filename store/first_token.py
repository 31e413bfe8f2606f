"""The first way in, for a service that nothing starts as a whole: `python -m store.first_token`, once.

It makes the first team, its admin and the admin's token, and prints the token: it is kept hashed and never shown again.
"""

from __future__ import annotations

import sys
from datetime import UTC, datetime

from store import teams
from store.database import Database
from store.settings import Settings


def main() -> int:
    """Print the token. Where there is a team already, say so instead and return 1."""
    database = Database(Settings.from_env().database_url)
    try:
        with database.write() as session:
            token = teams.first_admin(session, now=datetime.now(UTC))
    finally:
        database.close()
    if token is None:
        print("There is a team already: its admin makes the tokens, at POST /api/v1/tokens.", file=sys.stderr)
        return 1
    print(token)
    return 0


if __name__ == "__main__":
    sys.exit(main())
