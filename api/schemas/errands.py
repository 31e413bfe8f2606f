"""Questions to networks on the wire, and the errands that answer them."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import Field

from api.schemas.base import Body, InPath, JobId, Query, Shown
from api.schemas.jobs import JobState
from bimt_engine.analysis.asked import InterventionsAsked

MOST_ROWS = 10_000
LONGEST_WAIT = 30.0  # seconds; a thread of the API is held so long
Cell = float | int | Annotated[str, Field(max_length=200)]
Row = (
    Annotated[list[Cell], Field(max_length=100_000)]
    | Annotated[list[list[float]], Field(max_length=10_000)]
    | dict[Annotated[str, Field(max_length=200)], Cell]
)


class WaitQuery(Query):
    wait: float = Field(
        default=10.0, ge=0, le=LONGEST_WAIT, description="Seconds to wait for the answer before 202 is answered."
    )


class ErrandPath(InPath):
    errand_id: JobId


class ErrandOut(Shown):
    """A question that a worker answers."""

    id: JobId
    kind: str = Field(description="predict, intervention, film, verify …")
    state: JobState
    progress: float = Field(ge=0, le=1)
    note: str | None = None
    reason: str | None = Field(default=None, description="Why it failed.")
    created_at: datetime
    ended_at: datetime | None = None
    answer: Any = Field(default=None, description="The document, once it has succeeded; null where it is a file.")


class PredictIn(Body):
    """What the network is to be asked."""

    inputs: list[Row] = Field(
        min_length=1,
        max_length=MOST_ROWS,
        description="Each row a list in the order of the features, or an object by their names, in the units of the "
        "data; of tokens their numbers or names; of sequences a list of time steps.",
    )
    network: Literal["pruned", "trained"] = Field(
        default="pruned", description="The pruned, refitted network, or the one that was trained."
    )


class PredictOut(Shown):
    """What the network says: `outputs` of numbers; of classes `probabilities` and the likeliest as `labels`."""

    features: list[str]
    targets: list[str]
    network: Literal["pruned", "trained"]
    outputs: list[Any] | None = None
    probabilities: list[Any] | None = None
    labels: list[Any] | None = None


class InterventionIn(InterventionsAsked, Body):
    """What is to be changed inside the network, trial by trial. Nothing is modified."""


class TrialOut(Shown):
    """What one trial did. Null is a number that cannot be computed, as after setting a neuron to 1e308."""

    changes: list[dict[str, Any]]
    metrics: dict[str, float | None]
    change: dict[str, float | None] = Field(description="Each metric minus what it was.")
    effects: dict[str, float | None] = Field(description="E[(y − y′)²] / Var(y) of each output.")


class InterventionOut(Shown):
    """What the interventions do to every metric and every output."""

    network: Literal["pruned", "trained"]
    before: dict[str, float]
    measure: str
    trials: list[TrialOut]
