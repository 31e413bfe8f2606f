"""Questions that a worker answers: sent as errands, waited for a little, asked for again where that was too little."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from flask import Response

from api.auth import caller
from api.door import answer
from api.problems import Problem, wrong
from api.schemas.errands import ErrandOut
from api.services import services
from store import errands
from store.errands import Outcome
from store.job_tables import FINAL_STATES

FIRST_LOOK, LONGEST_PAUSE = 0.01, 0.25  # seconds between two looks at the row; grows in between
QUEUES = {"film": "chores", "verify": "chores"}  # all others: errands

# How a 202 is documented.
NOT_YET: dict[str, Any] = {
    "description": "It is being worked out. Ask the address in `Location` again.",
    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/ErrandOut"}}},
}


def ask(kind: str, order: Mapping[str, Any], *, about: str, wait: float, once: bool = False) -> Outcome:
    """What came of an errand, or how far it is after so many seconds of waiting.

    about   the id of the thing that is asked about, and perhaps a word more
    once    what comes of it is kept, so whoever asks for the very same meanwhile waits for that one

    Call it outside of any session. Raises the problem of a question that cannot be answered.
    """
    here, who = services(), caller()
    with here.database.write() as rows:
        job = errands.send(
            rows,
            team_id=who.team_id,
            member_id=who.member_id,
            kind=kind,
            about=about,
            order=order,
            queue=QUEUES.get(kind, "errands"),
            once=once,
            now=here.now(),
        )
        errand_id, queue, priority = job.id, job.queue, job.priority
    here.tell(errand_id, queue, priority, marked=True)
    return wait_for(errand_id, seconds=wait)


def wait_for(errand_id: str, *, seconds: float) -> Outcome:
    """The errand as soon as it has ended, or after so many seconds. Raises NotFound."""
    here, team_id = services(), caller().team_id
    end, pause = time.monotonic() + seconds, FIRST_LOOK
    while time.monotonic() < end:
        with here.database.read() as rows:
            if errands.state_of(rows, errand_id) in (None, *FINAL_STATES):
                break
        time.sleep(min(pause, max(0.0, end - time.monotonic())))
        pause = min(1.4 * pause, LONGEST_PAUSE)
    with here.database.read() as rows:
        return errands.outcome(rows, team_id, errand_id)


def unless_failed(outcome: Outcome, status: int = 422) -> Outcome:
    """The same. Raises the problem of an errand that was refused, has failed or was cancelled.

    status   of a refusal: 422 where fields were sent, 409 where the thing itself does not allow it
    """
    if outcome.refusal is not None and status == 422:
        told = [wrong(pointer, sentence) for pointer, sentence in outcome.refusal["problems"]]
        raise Problem("invalid-fields", outcome.refusal["detail"], told or [wrong("", outcome.refusal["detail"])])
    if outcome.state in ("failed", "cancelled"):
        raise Problem("conflict", outcome.reason or f"The errand was {outcome.state}; ask again.")
    return outcome


def not_yet(outcome: Outcome) -> Response:
    """202: where to ask again."""
    return answer(shown(outcome), 202, Location=f"/api/v1/errands/{outcome.id}", Retry_After="1")


def shown(outcome: Outcome) -> ErrandOut:
    """An errand as it goes over the wire."""
    return ErrandOut.model_validate(outcome)
