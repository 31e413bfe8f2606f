"""Addresses of questions to a network: what it predicts, and what becomes of it when something inside is changed."""

from __future__ import annotations

from flask import Response

from api.auth import Access, caller
from api.door import Noun, answer
from api.errands import NOT_YET, ask, not_yet, shown, unless_failed, wait_for
from api.problems import Problem
from api.schemas.errands import (
    ErrandOut,
    ErrandPath,
    InterventionIn,
    InterventionOut,
    PredictIn,
    PredictOut,
    WaitQuery,
)
from api.schemas.runs import RunPath
from api.services import services
from store import runs

api = Noun("questions", "Questions to a network of yours, answered by a worker within a second or so.")


@api.at(
    "post",
    "/runs/<string:run_id>/predict",
    needs=Access.READ,
    answers={200: PredictOut, 202: NOT_YET},
    problems=(409,),
    models=(ErrandOut,),
)
def predict(path: RunPath, query: WaitQuery, body: PredictIn) -> Response:
    """What the network says about some rows, in the units of the data."""
    _succeeded(path.run_id)
    order = {"run_id": path.run_id, **body.model_dump(mode="json")}
    outcome = unless_failed(ask("predict", order, about=path.run_id, wait=query.wait))
    return answer(PredictOut.model_validate(outcome.answer)) if outcome.is_final else not_yet(outcome)


@api.at(
    "post",
    "/runs/<string:run_id>/interventions",
    needs=Access.READ,
    answers={200: InterventionOut, 202: NOT_YET},
    problems=(409,),
    models=(ErrandOut,),
)
def intervene(path: RunPath, query: WaitQuery, body: InterventionIn) -> Response:
    """What becomes of every metric and output when connections, neurons, modules or embedding dimensions are changed.

    Give `trials`, each any number of changes at once, or `each`: one trial for every part of a kind. Nothing is
    modified; the same question gets the same answer.
    """
    _succeeded(path.run_id)
    order = {"run_id": path.run_id, "asked": body.model_dump(mode="json")}
    outcome = unless_failed(ask("intervention", order, about=path.run_id, wait=query.wait))
    return answer(InterventionOut.model_validate(outcome.answer)) if outcome.is_final else not_yet(outcome)


@api.at("get", "/errands/<string:errand_id>", needs=Access.READ, answers={200: ErrandOut})
def get_errand(path: ErrandPath, query: WaitQuery) -> Response:
    """How far an errand is, and its answer. With `wait`, as soon as there is one."""
    return answer(shown(wait_for(path.errand_id, seconds=query.wait)))


def _succeeded(run_id: str) -> None:
    """Raises NotFound, and the problem that the run has not come so far."""
    with services().database.read() as rows:
        run = runs.get(rows, caller().team_id, run_id)
    if run.state != "succeeded":
        raise Problem("conflict", f"The run is {run.state}; it can be asked when it has succeeded.")
