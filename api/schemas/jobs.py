"""Jobs on the wire."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from api.schemas.base import Body, DatasetId, Headers, InPath, JobId, Label, MemberId, Page, Query, Shown, Tag
from api.schemas.datasets import Roles
from bimt_engine.spec import DatasetSpec, Spec
from store.job_now import MOST_COUNTED

JobState = Literal["queued", "running", "succeeded", "failed", "cancelled"]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
CostStrength = Annotated[float, Field(ge=0, le=1e6)]
MAX_RUNS = 256  # networks in one job; a sweep beyond that is several jobs


class JobSpec(Spec):
    """A spec whose data may be named by the job instead."""

    dataset: DatasetSpec | None = None  # type: ignore[assignment]


class JobIn(Body):
    """What to train. Name the data by `dataset` or inside `spec`; say how by `spec` or `recipe`, or leave both out."""

    dataset: DatasetId | None = Field(default=None, description="A data set of your team.")
    roles: Roles | None = Field(default=None, description="Other column roles than the data set's own.")
    spec: JobSpec | None = Field(default=None, description="Everything else; see /api/v1/spec-schema.")
    recipe: Annotated[str, Field(min_length=1, max_length=80)] | None = Field(
        default=None, description="The name of a recipe, whose spec is used."
    )
    seeds: list[Seed] = Field(default=[0], min_length=1, max_length=MAX_RUNS, description="One run for each.")
    cost_strengths: list[CostStrength] = Field(
        default=[],
        max_length=MAX_RUNS,
        description="λ of the first phase that costs anything; the others keep their proportion to it. "
        "One run for each, times the seeds. Empty: as the spec says.",
    )
    priority: int = Field(default=5, ge=0, le=9, description="9 is the most urgent.")
    name: Label | None = None
    tags: list[Tag] = Field(default=[], max_length=20)

    @field_validator("seeds", "cost_strengths", "tags")
    @classmethod
    def _each_once(cls, values: list[Any]) -> list[Any]:
        if len(set(values)) < len(values):
            raise ValueError("Every value must be there only once.")
        return values

    @model_validator(mode="after")
    def _one_way_each(self) -> JobIn:
        if self.spec is not None and self.recipe is not None:
            raise ValueError("Give either `spec` or `recipe`, not both.")
        if self.dataset is not None and self.spec is not None and self.spec.dataset is not None:
            raise ValueError("Name the data either in `dataset` or in `spec/dataset`, not in both.")
        if self.roles is not None and self.dataset is None:
            raise ValueError("`roles` are roles of columns of an uploaded data set; name it in `dataset`.")
        if len(self.seeds) * max(1, len(self.cost_strengths)) > MAX_RUNS:
            raise ValueError(
                f"{len(self.seeds)} seeds × {len(self.cost_strengths)} cost strengths are more than {MAX_RUNS} runs; "
                "split them over several jobs."
            )
        return self


class JobChange(Body):
    """What to change of a job; what is left out stays."""

    name: Label | None = None
    tags: list[Tag] | None = Field(default=None, max_length=20)
    priority: int | None = Field(default=None, ge=0, le=9, description="Of a job that still waits.")
    pinned: bool | None = Field(default=None, description="True: it never expires.")


class JobHeaders(Headers):
    idempotency_key: Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[\x21-\x7e]+$")] | None = Field(
        default=None,
        alias="Idempotency-Key",
        description="Any text of yours; sending the same request with the same key again gives the same job.",
    )


class JobPath(InPath):
    job_id: JobId


class JobsQuery(Query):
    """Which jobs."""

    state: JobState | None = None
    tag: Annotated[str, Field(max_length=40)] | None = None
    q: Annotated[str, Field(max_length=120)] | None = Field(default=None, description="Part of the name.")
    owner: MemberId | None = Field(default=None, description="Who submitted it; see /me for your own id.")
    after: str | None = Field(default=None, max_length=300, description="The `next` of the page before.")
    limit: int = Field(default=50, ge=1, le=200)


class JobItem(Shown):
    """A job in a list."""

    id: JobId
    name: str
    state: JobState
    tags: list[str]
    priority: int
    pinned: bool = Field(description="One that is pinned never expires.")
    queue: str
    dataset_id: DatasetId | None
    member_id: MemberId
    runs: int = Field(description="How many networks it trains.")
    steps: int = Field(description="Optimiser steps of all runs together.")
    progress: float = Field(ge=0, le=1)
    losses: dict[str, Any] | None = None
    note: str | None = None
    reason: str | None = Field(default=None, description="Why it ended as it did.")
    attempts: int
    created_at: datetime
    started_at: datetime | None = None
    ended_at: datetime | None = None


class AttemptOut(Shown):
    """One worker's try at the job."""

    number: int
    worker: str
    started_at: datetime
    ended_at: datetime | None = None
    ended_how: str | None = None
    reason: str | None = None


class JobOut(JobItem):
    """A job."""

    cancel_requested_at: datetime | None = None
    eta_seconds: float | None = Field(
        default=None, description="Seconds to the end, at the pace of the present attempt; null: unknown."
    )
    queue_position: int | None = Field(
        default=None, description=f"0: next. Counted up to {MOST_COUNTED}; null when it no longer waits."
    )
    spec: dict[str, Any]
    tries: list[AttemptOut] = Field(default=[], description="Every attempt: by whom, when, and why it ended.")


class JobPage(Page):
    """A part of the list of jobs, newest first."""

    items: list[JobItem]


class LogLine(Shown):
    """One line of a job's log."""

    at: str
    level: str
    text: str
    run_id: str | None = None


class LogsQuery(Query):
    after: str | None = Field(default=None, max_length=300, description="The `next` of the page before.")
    limit: int = Field(default=200, ge=1, le=1000, description="Pieces of the log, each of some lines.")


class LogPage(Page):
    """A part of a job's log, oldest first."""

    items: list[LogLine]


class EventsQuery(Query):
    wait: float | None = Field(
        default=None,
        ge=0,
        le=60,
        description="Long poll: one JSON answer as soon as something changed, or after so many seconds.",
    )
    since: int | None = Field(default=None, ge=0, description="The revision you know; with `wait`.")


class JobEvent(Shown):
    """A job at one moment. `revision` rises with every change."""

    revision: int
    id: JobId
    state: JobState
    progress: float
    eta_seconds: float | None = None
    queue_position: int | None = None
    losses: dict[str, Any] | None = None
    note: str | None = None
    reason: str | None = None
