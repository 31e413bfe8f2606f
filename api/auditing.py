"""Every change leaves a line: who did what, when, from where. A test walks all addresses that change something."""

from __future__ import annotations

from typing import Any

from flask import request
from sqlalchemy.orm import Session

from api.auth import caller
from api.services import services
from store import audit


def note(rows: Session, action: str, thing_id: str | None = None, **detail: Any) -> None:
    """Add a line about what the caller does, in the same transaction as the deed.

    action   noun.verb, such as `job.cancel`
    detail   JSON values that say more; never a secret
    """
    who = caller()
    audit.record(
        rows,
        team_id=who.team_id,
        member_id=who.member_id,
        action=action,
        now=services().now(),
        thing_id=thing_id,
        address=request.remote_addr,
        detail=detail or None,
    )
