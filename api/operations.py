"""Operations: questions about a network that a worker answers."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Literal

from flask import Response
from pydantic import Field

from api.auth import Access, caller
from api.jobs import JobState
from api.problems import Problem, wrong
from api.routing import Resource, answer
from api.runs import RunPath
from api.schemas import Body, InPath, JobId, Query, ResponseModel
from api.services import services
from bimt_engine.analysis.intervention_request import InterventionRequest
from store import operations as operation_rows
from store import runs
from store.operations import Operation
from store.settings import OPERATION_QUEUES
from store.tables import Run

MOST_ROWS = 10_000
LONGEST_WAIT = 30.0  # seconds; a thread of the API is held so long
Cell = bool | float | int | Annotated[str, Field(max_length=200)] | None
Row = (
    Annotated[list[Cell], Field(max_length=100_000)]
    | Annotated[list[list[float]], Field(max_length=10_000)]
    | dict[Annotated[str, Field(max_length=200)], Cell]
)


class WaitQuery(Query):
    """How long to wait for the answer."""

    wait: float = Field(
        default=10.0, ge=0, le=LONGEST_WAIT, description="Seconds to wait for the answer before 202 is answered."
    )


class OperationPath(InPath):
    """Which operation."""

    operation_id: JobId


class OperationOut(ResponseModel):
    """A question that a worker answers."""

    id: JobId
    kind: str = Field(description="predict, intervention, film, verify, check_upload …")
    state: JobState
    progress: float = Field(ge=0, le=1)
    note: str | None = None
    reason: str | None = Field(default=None, description="Why it failed.")
    created_at: datetime
    ended_at: datetime | None = None
    answer: Any = Field(default=None, description="The document, once it has succeeded; null where it is a file.")


class PredictIn(Body):
    """The rows to predict."""

    inputs: list[Row] = Field(
        min_length=1,
        max_length=MOST_ROWS,
        description="Each row a list in the order of the features, or an object by their names, in the units of the "
        "data: for a table numbers, texts, true or false, and null where there is no value; for tokens their numbers "
        "or names; for sequences a list of time steps.",
    )
    network: Literal["pruned", "trained"] = Field(
        default="pruned", description="The pruned, refitted network, or the one that was trained."
    )
    network_inputs: bool = Field(
        default=False, description="Answer with the rows as the network reads them, encoded and scaled, too."
    )


class PredictOut(ResponseModel):
    """What the network predicts: `outputs` for numbers; for classes `probabilities`, and the likeliest as `labels`."""

    features: list[str]
    targets: list[str]
    network: Literal["pruned", "trained"]
    outputs: list[Any] | None = None
    probabilities: list[Any] | None = None
    labels: list[Any] | None = None
    levels: dict[str, list[str]] | None = Field(
        default=None, description="For categories among several targets, by column: the likeliest level of each row."
    )
    network_inputs: list[Any] | None = Field(default=None, description="Where they were asked for.")


class InterventionIn(InterventionRequest, Body):
    """What is to be changed inside the network, trial by trial. Nothing is modified."""


class TrialOut(ResponseModel):
    """What one trial did. Null is a number that cannot be computed, as after setting a neuron to 1e308."""

    changes: list[dict[str, Any]]
    metrics: dict[str, float | None]
    change: dict[str, float | None] = Field(description="Each metric minus what it was.")
    effects: dict[str, float | None] = Field(description="E[(y − y′)²] / Var(y) of each output.")


class InterventionOut(ResponseModel):
    """What the interventions do to every metric and every output."""

    network: Literal["pruned", "trained"]
    before: dict[str, float]
    measure: str
    trials: list[TrialOut]


INTERACTIVE, BATCH = OPERATION_QUEUES
QUEUES = {"film": BATCH, "verify": BATCH}  # all other kinds: INTERACTIVE

# How a 202 is documented.
NOT_YET: dict[str, Any] = {
    "description": "The operation has not ended. Request the address in `Location` again.",
    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/OperationOut"}}},
}


def ask(kind: str, order: Mapping[str, Any], *, about: str, wait: float, once: bool = False) -> Operation:
    """Enqueue an operation, and return its state after at most `wait` seconds.

    about   the id of what the question is about, perhaps with a name of a part
    once    its result is stored, so an equal request meanwhile waits for this operation instead of a second one

    Call it outside of any database session. Raises the problem of a question that cannot be answered.
    """
    here, who = services(), caller()
    with here.database.write() as rows:
        job = operation_rows.submit(
            rows,
            team_id=who.team_id,
            member_id=who.member_id,
            kind=kind,
            about=about,
            request=order,
            queue=QUEUES.get(kind, INTERACTIVE),
            once=once,
            now=here.now(),
        )
        operation_id, queue, priority = job.id, job.queue, job.priority
    here.enqueue(operation_id, queue, priority, marked=True)
    return wait_for(operation_id, seconds=wait)


def wait_for(operation_id: str, *, seconds: float) -> Operation:
    """The operation as soon as it has ended, or after so many seconds. Raises NotFound."""
    here, team_id = services(), caller().team_id
    here.wait_until_ended(operation_id, seconds=seconds)
    with here.database.read() as rows:
        return operation_rows.get(rows, team_id, operation_id)


def unless_failed(outcome: Operation, status: int = 422) -> Operation:
    """The same. Raises the problem of an operation that was refused, has failed or was cancelled.

    status   of a refusal: 422 where fields were sent, 409 where the state of the run or version does not allow it
    """
    if outcome.refusal is not None and status == 422:
        errors = [wrong(pointer, sentence) for pointer, sentence in outcome.refusal["problems"]]
        raise Problem("invalid-fields", outcome.refusal["detail"], errors or [wrong("", outcome.refusal["detail"])])
    if outcome.state in ("failed", "cancelled"):
        raise Problem("conflict", outcome.reason or f"The operation was {outcome.state}; ask again.")
    return outcome


def not_yet(outcome: Operation) -> Response:
    """202: where to ask again."""
    return answer(shown(outcome), 202, Location=f"/api/v1/operations/{outcome.id}", Retry_After="1")


def shown(outcome: Operation) -> OperationOut:
    """The operation as a response."""
    return OperationOut.model_validate(outcome)


def succeeded(run_id: str, can_be: str) -> Run:
    """A run that has succeeded. Raises NotFound, and the problem that it has not; `can_be`: "it can be asked"."""
    with services().database.read() as rows:
        run = runs.get(rows, caller().team_id, run_id)
    if run.state != "succeeded":
        raise Problem("conflict", f"The run is {run.state}; {can_be} when it has succeeded.")
    return run


api = Resource("operations", "Questions to a network of yours, answered by a worker within a second or so.")


@api.route(
    "post",
    "/runs/<string:run_id>/predict",
    requires=Access.READ,
    answers={200: PredictOut, 202: NOT_YET},
    problems=(409,),
    models=(OperationOut,),
)
def predict(path: RunPath, query: WaitQuery, body: PredictIn) -> Response:
    """What the network predicts for some rows, in the units of the data."""
    succeeded(path.run_id, "it can be asked")
    order = {"run_id": path.run_id, **body.model_dump(mode="json")}
    outcome = unless_failed(ask("predict", order, about=path.run_id, wait=query.wait))
    return answer(PredictOut.model_validate(outcome.answer)) if outcome.is_final else not_yet(outcome)


@api.route(
    "post",
    "/runs/<string:run_id>/interventions",
    requires=Access.READ,
    answers={200: InterventionOut, 202: NOT_YET},
    problems=(409,),
    models=(OperationOut,),
)
def intervene(path: RunPath, query: WaitQuery, body: InterventionIn) -> Response:
    """How every metric and output changes when connections, neurons, modules or embedding dimensions are changed.

    Give `trials`, each any number of changes at once, or `each`: one trial for every part of a kind. Nothing is
    modified; the same question gets the same answer.
    """
    succeeded(path.run_id, "it can be asked")
    order = {"run_id": path.run_id, "asked": body.model_dump(mode="json")}
    outcome = unless_failed(ask("intervention", order, about=path.run_id, wait=query.wait))
    return answer(InterventionOut.model_validate(outcome.answer)) if outcome.is_final else not_yet(outcome)


@api.route("get", "/operations/<string:operation_id>", requires=Access.READ, answers={200: OperationOut})
def get_operation(path: OperationPath, query: WaitQuery) -> Response:
    """The state of an operation, and its answer. With `wait`, as soon as there is one."""
    return answer(shown(wait_for(path.operation_id, seconds=query.wait)))
